"""The command line of the server: quick to help, and the same options as the code runs on."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vlascope_base.command import parse_command
from vlascope_latents import CaptureSpec
from vlascope_server.commands import SUBCOMMANDS, Serve, Train, main, serve, train
from vlascope_server.training.options import TrainingError
from vlascope_server.training.run_folder import RunFolder

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
    "--like": "None",
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
    "--config": "None",
    "--log-level": "info",
}
INSPECT = {
    "--output-dir": "None",
    "--trust": "False",
    "--log-level": "info",
    "--like": "None",
    "--preset": "None",
    "--json": "False",
}
CACHE = {
    "--log-level": "info",
    "--clear": "",
    "--json": "False",
}
CONVERT = {
    "--log-level": "info",
    "--like": "None",
    "--preset": "None",
    "--asset-id": "None",
    "--action-horizon": "None",
    "--max-token-len": "None",
    "--to": "",
    "--dtype": "None",
    "--delta-actions": "None",
}
DIFF = {
    "--log-level": "info",
    "--merge-lora": "False",
    "--common-only": "False",
    "--spectral": "False",
    "--output-dir": "model_difference",
    "--like": "None",
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
    "--like": "None",
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
    "--config": "None",
    "--log-level": "info",
}
DUMP = {
    "--dataset": "",
    "--output": "",
    "--checkpoint": "",
    "--frames": "512",
    "--validation-share": "0.5",
    "--overwrite": "False",
    **{
        name: TRAIN[name]
        for name in (
            "--norm-stats", "--episodes", "--tasks", "--pad", "--columns", "--robot", "--preset", "--like", "--asset-id",
            "--action-horizon", "--max-token-len", "--delta-actions", "--tolerance-s", "--seed", "--log-level",
        )
    },
}  # fmt: skip
CAPTURE = {
    "--checkpoint": "",
    "--store": "",
    "--dataset": "None",
    "--observations": "None",
    "--stride": "None",
    "--prompt": "None",
    "--noise-seed": "None",
    "--batch-size": "None",
    "--label": "''",
    "--resume": "None",
    "--dry-run": "False",
    **{
        name: SERVE[name]
        for name in (
            "--readable-by", "--robot", "--num-steps", "--dtype", "--default-prompt", "--preset", "--like", "--asset-id",
            "--action-horizon", "--max-token-len", "--tokenizer", "--capture", "--queue-bytes", "--min-free", "--writers",
            "--log-level",
        )
    },
    **{name: TRAIN[name] for name in ("--episodes", "--tasks", "--columns", "--tolerance-s")},
}  # fmt: skip
"""Option -> default; empty where the option has to be given, or is a list."""

HELP = """
import sys
from vlascope_server.commands import main

try:
    main({args})
except SystemExit as done:
    assert done.code == 0
loaded = {{"jax", "matplotlib", "pyarrow", "zarr", "orbax", "optax", "vlascope_client", "vlascope_datasets"}} & set(sys.modules)
assert not loaded, loaded
"""


def help_of(*args: str) -> str:
    program = HELP.format(args=[*args, "--help"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "args",
    [(), ("serve",), ("capture",), ("inspect",), ("convert",), ("diff",), ("train",), ("dump-data",), ("cache",)],
)
def test_help_is_quick(args):
    """Nothing that takes seconds to import, and nothing of the optional `serve` and `train`."""
    text = help_of(*args)
    assert text.startswith("usage: vlascope-server")
    assert ("--log-level" in text) == bool(args)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("serve", SERVE),
        ("capture", CAPTURE),
        ("inspect", INSPECT),
        ("convert", CONVERT),
        ("diff", DIFF),
        ("train", TRAIN),
        ("dump-data", DUMP),
        ("cache", CACHE),
    ],
)
def test_a_command_has_these_options(command, expected):
    text = help_of(command).partition("─ options ─")[2].replace("│", " ")
    options = re.split(r"\n {1,3}--", re.sub(r", --no-[a-z-]+", "", text))[1:]
    told = {f"--{option.split()[0]}": " ".join(option.split()) for option in options}
    found = {
        name: "" if "(required)" in t else t.rpartition("(default: ")[2].partition(")")[0] for name, t in told.items()
    }
    assert found == expected | {"--print-config": "False"}


def parsed(*args: object) -> Serve | Train:
    return parse_command("vlascope-server", "", SUBCOMMANDS, [str(arg) for arg in args])


def test_a_file_may_say_how_to_serve(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(
        "port: 0\nmax-clients: 8\nnum_steps: 5\nqueue_bytes: 2GB\nmin_free: 5\nstore: runs\nallow_host: [a, b]\n"
        "capture: {layers: [5], experts: [vlm]}\ndeterministic: true\n"
    )
    found = parsed("serve", "--config", file, "--port", "1", "--no-deterministic", "--max-in-flight", "9")
    assert isinstance(found, Serve)
    assert (found.port, found.queue_bytes, found.min_free, found.store) == (1, 2 * 10**9, 5, Path("runs"))
    assert (found.limits.max_clients, found.limits.max_in_flight, found.policy.num_steps) == (8, 9, 5)
    assert (found.allow_host, found.deterministic) == (("a", "b"), False)
    assert found.capture == CaptureSpec(layers=(5,), experts=("vlm",))
    assert dataclasses.replace(found.limits, max_clients=64, max_in_flight=64) == Serve().limits


def test_a_trainings_own_record_trains_again(tmp_path):
    first = parsed(
        "train", "--dataset", tmp_path / "data", "--output", tmp_path / "first", "--steps", "5", "--learning-rate", "1e-5",
        "--episodes", "0-3", "--tasks", "a b", "c", "--columns", "image", "x", "--no-augment", "--robot", "libero",
    )  # fmt: skip
    assert isinstance(first, Train)
    RunFolder(tmp_path).describe(first, {"step": 5})
    assert "config" not in json.loads((tmp_path / "train.json").read_text())["options"]
    again = parsed("train", "--config", tmp_path / "train.json")
    assert again == dataclasses.replace(first, config=tmp_path / "train.json")
    other = parsed("train", "--config", tmp_path / "train.json", "--output", "second", "--augment")
    assert other == dataclasses.replace(again, output=Path("second"), augment=True)


def test_what_a_training_needs_may_be_in_the_file_or_not(tmp_path, capsys):
    file = tmp_path / "train.yaml"
    file.write_text("dataset: data\nlearning_rate: 1e-4\nbatch-size: 8\n")
    found = parsed("train", "--config", file, "--output", "out", "--minutes", "1")
    assert isinstance(found, Train)
    assert (found.dataset, found.learning_rate, found.batch_size) == (Path("data"), 1e-4, 8)
    with pytest.raises(SystemExit) as end:
        parsed("train", "--config", file, "--minutes", "1")
    assert end.value.code == 2
    assert "--output" in "".join(capsys.readouterr())
    with pytest.raises(TrainingError, match="steps and minutes: neither was given"):
        parsed("train", "--config", file, "--output", "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("max_clientz: 8", "field 'max_clientz' is unknown; the fields are log_level, checkpoint, preset, "),
        ("max_clients: many", "max_clients: expected int, found 'many'"),
        ("queue_bytes: many", "queue_bytes: expected bytes such as 500MB or 2GB, found 'many'"),
        ("on_full: wait", "on_full: expected block, drop, found 'wait'"),
        ("capture: {layer: [5]}", "capture: capture spec, layer: unknown field; allowed: experts, "),
        ("limits: {max_clientz: 8}", "field 'max_clientz' is unknown; the fields are max_clients, "),
    ],
)
def test_a_file_that_is_wrong_is_one_line_that_names_it(tmp_path, capsys, content, said):
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    assert main(["serve", "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vlascope-server: {file}: {said}")


@pytest.mark.parametrize(
    ("missing", "args"),
    [
        ("prometheus_client", ["serve"]),
        ("vlascope_client", ["serve"]),
        ("vlascope_datasets", ["train", "--dataset", "d", "--output", "o", "--steps", "1"]),
        ("vlascope_datasets", ["capture", "--checkpoint", "tiny", "--store", "s", "--dataset", "d"]),
        ("zarr", ["dump-data", "--dataset", "d", "--output", "o.zarr.zip", "--checkpoint", "tiny"]),
    ],
)
def test_a_missing_extra_is_one_line(missing, args):
    program = f"import sys; sys.modules[{missing!r}] = None; from vlascope_server.commands import main; sys.exit(main({args}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    install = serve.INSTALL if args[0] == "serve" else train.INSTALL
    assert error == f"vlascope-server: {args[0]} needs {missing}: run this in a clone of vlascope: {install}"
