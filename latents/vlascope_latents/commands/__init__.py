"""The command `vlascope-latents`: what a user runs on stores. Knows nothing of what the subcommands do.

A subcommand is a dataclass of its options with a `run` method, in a file of its own, and joins `Subcommand`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Annotated

import tyro

from vlascope_latents.commands.export import Export
from vlascope_latents.commands.import_ import Import
from vlascope_latents.commands.ls import Ls
from vlascope_latents.commands.repack import Repack
from vlascope_latents.commands.verify import Verify
from vlascope_latents.printable import printable
from vlascope_latents.spec import CaptureSpecError
from vlascope_latents.store.errors import StoreError

Subcommand = (
    Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Repack, tyro.conf.subcommand("repack")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: of the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: 0; 1 where `verify` found damage; 2 after an error in what was asked, which is one line on stderr.
    """
    command = tyro.cli(
        Subcommand, prog="vlascope-latents", description="List, verify, repack, export and import latent stores.", args=args
    )  # fmt: skip
    logging.basicConfig(level=command.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    print(json.dumps({type(command).__name__.lower(): dataclasses.asdict(command)}, default=str), file=sys.stderr)
    try:
        return command.run()
    except (StoreError, CaptureSpecError) as error:
        print(f"vlascope-latents: {printable(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("vlascope-latents: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"vlascope-latents: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
    return 2
