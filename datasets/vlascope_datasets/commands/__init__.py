"""The command `vlascope-datasets`: what a user runs on datasets.

A subcommand is a dataclass of its options with a `run` method, in a file of its own.
"""

from __future__ import annotations

from vlascope_base.command import run_command

from vlascope_datasets.commands.convert import Convert
from vlascope_datasets.commands.drop import Drop
from vlascope_datasets.commands.sample import Sample
from vlascope_datasets.commands.split import Split
from vlascope_datasets.commands.stats import Stats

SUBCOMMANDS = {"split": Split, "stats": Stats, "sample": Sample, "convert": Convert, "drop": Drop}


def main(args: list[str] | None = None) -> int:
    """Runs the command; see `run_command`."""
    return run_command(
        "vlascope-datasets", "Split, survey, sample, convert and shorten robot datasets.", SUBCOMMANDS, args
    )
