"""The command `vlascope-datasets`: what a user runs on datasets. Knows nothing of what the subcommands do.

A subcommand is a dataclass of its options with a `run` method, in a file of its own, and joins `Subcommand`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Annotated

import tyro

from vlascope_datasets.commands.convert import Convert
from vlascope_datasets.commands.drop import Drop
from vlascope_datasets.commands.split import Split
from vlascope_datasets.commands.stats import Stats
from vlascope_datasets.errors import DatasetError

Subcommand = (
    Annotated[Split, tyro.conf.subcommand("split")]
    | Annotated[Stats, tyro.conf.subcommand("stats")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Drop, tyro.conf.subcommand("drop")]
)


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: of the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 130 after Ctrl-C, or 2 after an error in what was asked, which is one line on stderr.
    """
    command = tyro.cli(
        Subcommand, prog="vlascope-datasets", description="Split, survey, convert and shorten robot datasets.", args=args
    )  # fmt: skip
    logging.basicConfig(level=command.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    print(json.dumps({type(command).__name__.lower(): dataclasses.asdict(command)}, default=str), file=sys.stderr)
    try:
        return command.run()
    except DatasetError as error:
        print(f"vlascope-datasets: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("vlascope-datasets: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"vlascope-datasets: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
    return 2
