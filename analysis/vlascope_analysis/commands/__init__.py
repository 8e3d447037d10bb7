"""The command `vlascope-analysis`: what a user runs on captured latents. Knows nothing of what the subcommands do.

A subcommand is a dataclass of its options with a `run` method, in a file of its own, and joins `Subcommand`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Annotated

import tyro
from vlascope_base.text import printable
from vlascope_latents.store.errors import StoreError

from vlascope_analysis.commands.probe import Probe
from vlascope_analysis.commands.sweep import Sweep
from vlascope_analysis.errors import AnalysisError

Subcommand = Annotated[Probe, tyro.conf.subcommand("probe")] | Annotated[Sweep, tyro.conf.subcommand("sweep")]


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: of the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 130 after Ctrl-C, or 2 after an error in what was asked, which is one line on stderr.
    """
    command = tyro.cli(Subcommand, prog="vlascope-analysis", description="Probe captured latents.", args=args)
    logging.basicConfig(level=command.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
    print(json.dumps({type(command).__name__.lower(): dataclasses.asdict(command)}, default=str), file=sys.stderr)
    try:
        command.run()
    except (AnalysisError, StoreError) as error:
        print(f"vlascope-analysis: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlascope-analysis: stopped", file=sys.stderr)
        return 130
    except OSError as error:  # a folder that cannot be made, a full disk
        print(f"vlascope-analysis: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0
