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
"""Option -> default."""

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


@pytest.mark.parametrize("args", [(), ("serve",)])
def test_help_is_quick(args):
    """Nothing that takes seconds to import, and nothing of the optional `serve`."""
    assert help_of(*args).startswith("usage: vlascope-server")


def test_serve_has_these_options():
    text = " ".join(help_of("serve").replace("│", " ").split())
    options = re.sub(r", --no-[a-z-]+", "", text).split(" --")[2:]  # after the usage and --help
    found = {f"--{option.split()[0]}": option.rpartition("(default: ")[2].partition(")")[0] for option in options}
    assert found == SERVE
