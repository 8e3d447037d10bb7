"""The command line of the server: quick to help, and the same options as the code runs on."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

SERVE = {
    "--checkpoint": "tiny",
    "--store": "None",
    "--readable-by": "owner",
    "--host": "127.0.0.1",
    "--port": "8000",
    "--robot": "None",
    "--num-steps": "10",
    "--dtype": "auto",
    "--default-prompt": "None",
    "--preset": "None",
    "--asset-id": "None",
    "--action-horizon": "None",
    "--max-token-len": "None",
    "--tokenizer": "None",
    "--capture": "None",
    "--max-batch": "None",
    "--max-wait-ms": "5.0",
    "--deterministic": "False",
    "--seed": "None",
    "--queue-bytes": "1GB",
    "--on-full": "block",
    "--min-free": "1GB",
    "--writers": "4",
    "--api-key-file": "None",
    "--tls-cert": "None",
    "--tls-key": "None",
    "--insecure": "False",
    "--allow-host": "",
    "--allow-origin": "",
    "--max-clients": "64",
    "--max-in-flight": "64",
    "--max-connecting": "128",
    "--max-episodes": "None",
    "--max-message-bytes": "32MB",
    "--warm-up": "single",
    "--log-level": "info",
}
INSPECT = {
    "--log-level": "info",
    "--preset": "None",
    "--json": "False",
}
CACHE = {
    "--log-level": "info",
    "--clear": "",
}
CONVERT = {
    "--log-level": "info",
    "--preset": "None",
    "--asset-id": "None",
    "--action-horizon": "None",
    "--max-token-len": "None",
    "--to": "",
    "--dtype": "None",
    "--delta-actions": "None",
}
TRAIN = {
    "--dataset": "",
    "--output": "",
    "--init": "tiny-drawn",
    "--steps": "None",
    "--minutes": "None",
    "--batch-size": "64",
    "--flow-samples": "4",
    "--grounding": "0.0",
    "--accumulate": "1",
    "--learning-rate": "None",
    "--warmup": "100",
    "--final-share": "0.02",
    "--weight-decay": "0.001",
    "--clip": "1.0",
    "--ema": "0.995",
    "--lora": "None",
    "--lora-alpha": "None",
    "--norm-stats": "auto",
    "--episodes": "all",
    "--tasks": "None",
    "--first-steps": "0",
    "--first-repeats": "1",
    "--validation": "0.05",
    "--pad": "mask",
    "--columns": "",
    "--robot": "None",
    "--preset": "None",
    "--asset-id": "None",
    "--action-horizon": "None",
    "--max-token-len": "None",
    "--delta-actions": "None",
    "--trained-on": "",
    "--dtype": "auto",
    "--remat": "None",
    "--augment": "True",
    "--shift": "0.05",
    "--state-noise": "0.03",
    "--cache-images": "True",
    "--tolerance-s": "0.0001",
    "--seed": "0",
    "--save-every": "1000",
    "--save-minutes": "15.0",
    "--keep": "2",
    "--log-every": "10",
    "--validate-every": "200",
    "--workers": "2",
    "--prefetch": "4",
    "--resume": "False",
    "--log-level": "info",
}
"""Option -> default; empty where the option has to be given, or is a list."""

HELP = """
import sys
from vlascope_server.commands import main

try:
    main({args})
except SystemExit as done:
    assert done.code == 0
loaded = {{"jax", "zarr", "orbax", "optax", "vlascope_client"}} & set(sys.modules)
assert not loaded, loaded
"""


def help_of(*args: str) -> str:
    program = HELP.format(args=[*args, "--help"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("args", [(), ("serve",), ("inspect",), ("convert",), ("train",), ("cache",)])
def test_help_is_quick(args):
    """Nothing that takes seconds to import, and nothing of the optional `serve` and `train`."""
    text = help_of(*args)
    assert text.startswith("usage: vlascope-server")
    assert ("--log-level" in text) == bool(args)


@pytest.mark.parametrize(
    ("command", "expected"),
    [("serve", SERVE), ("inspect", INSPECT), ("convert", CONVERT), ("train", TRAIN), ("cache", CACHE)],
)
def test_a_command_has_these_options(command, expected):
    text = help_of(command).partition("─ options ─")[2].replace("│", " ")
    options = re.split(r"\n {1,3}--", re.sub(r", --no-[a-z-]+", "", text))[1:]
    told = {f"--{option.split()[0]}": " ".join(option.split()) for option in options}
    found = {
        name: "" if "(required)" in t else t.rpartition("(default: ")[2].partition(")")[0] for name, t in told.items()
    }
    assert found == expected | {"--print-config": "False"}
