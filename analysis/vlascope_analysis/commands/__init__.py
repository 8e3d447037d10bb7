"""The command `vlascope-analysis`: what a user runs on captured latents.

A subcommand is a dataclass of its options with a `run` method, in a file of its own. It imports what computes only when it
runs, so that `--help` loads neither JAX nor pandas.
"""

from __future__ import annotations

from vlascope_base.command import run_command

from vlascope_analysis.commands.compare import Compare
from vlascope_analysis.commands.probe import Probe
from vlascope_analysis.commands.sweep import Sweep

SUBCOMMANDS = {"probe": Probe, "sweep": Sweep, "compare": Compare}


def main(args: list[str] | None = None) -> int:
    """Runs the command; see `run_command`."""
    description = "Probe captured latents."
    return run_command("vlascope-analysis", description, SUBCOMMANDS, args, quiet=("jax", "matplotlib"))
