"""What every benchmark shares, without JAX: its options, the JSON line at its end, memory, the published layout."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlascope_base.files import make_folders, replace_file
from vlascope_base.provenance import git_revision, versions
from vlascope_latents import Blocks, ModelLayout, Span, flow_components, transformer

Results = dict[str, Any]
"""Metrics by name, nested as they are written to JSON."""

_PACKAGES = ("jax", "numpy", "orbax-checkpoint", "tensorstore", "zarr")
_IMAGES = tuple(Span(f"image/{name}", 256 * k, 256 * (k + 1)) for k, name in enumerate(("base", "left", "right")))
_ATTENTION = (8, 1, 256)
_VLM = transformer("vlm", Blocks(18, 2048, 16384, *_ATTENTION), (*_IMAGES, Span("text", 768, 816)))
_ACTION = transformer(
    "action", Blocks(18, 1024, 4096, *_ATTENTION), (Span("state", 0, 1), Span("action", 1, 51)), loop="denoise", steps=10,
    sees=(_VLM,), outputs=("action",), extra=flow_components(50, 32),
)  # fmt: skip
LAYOUT = ModelLayout((_VLM, _ACTION))
"""That of the published Pi0 with a prompt of 48 tokens."""


def options_of(about: str | None) -> argparse.ArgumentParser:
    """A command line with `--out`.

    Args:
        about: the benchmark's docstring, shown as it is written.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    return parser


def report(
    name: str, config: Mapping[str, object], results: Mapping[str, object], out: Path | None, device: str = "cpu"
) -> None:
    """Prints results, configuration, device, versions and revision as one line; writes them to `out` too, if given."""
    line = {
        "benchmark": name,
        "results": results,
        "config": config,
        "device": device,
        # no name of the machine: such lines are published
        "machine": {"cores": len(os.sched_getaffinity(0)), "cpu": platform.machine()},
        "versions": versions(*_PACKAGES),
        "revision": git_revision(),
    }
    print(json.dumps(line, default=str))
    if out:
        make_folders(out.absolute().parent)
        replace_file(out, json.dumps(line, indent=1, default=str) + "\n")


def verdict(held: bool) -> str:
    """What a table says of a bound."""
    return "held" if held else "MISSED"


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process (Linux): proportional set size, resident set size, and how much of the latter is no file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return {"pss": sizes["Pss"], "rss": sizes["Rss"], "anonymous": sizes["Anonymous"]}
