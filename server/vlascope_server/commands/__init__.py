"""The command `vlascope-server`: what a user runs beside a policy. Knows nothing of what the subcommands do.

A subcommand is a dataclass of its options with a `run` method, in a file of its own, and joins `Subcommand`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Annotated

import tyro

from vlascope_server.commands.convert import Convert
from vlascope_server.commands.inspect import Inspect
from vlascope_server.commands.serve import Serve
from vlascope_server.commands.train import Train

Subcommand = (
    Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Train, tyro.conf.subcommand("train")]
)


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: of the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 after an error in what was asked, which is one line on stderr, or 130 after Ctrl-C.
    """
    command = tyro.cli(
        Subcommand, prog="vlascope-server", description="Serve, inspect, convert and train Pi0 policies.", args=args
    )
    from vlascope_base import VlascopeError as CommandError
    from vlascope_latents.store.errors import StoreError

    from vlascope_server.checkpoints.errors import CheckpointError
    from vlascope_server.serving.errors import ServeError

    logging.basicConfig(level=command.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
    print(json.dumps({type(command).__name__.lower(): dataclasses.asdict(command)}, default=str), file=sys.stderr)
    try:
        command.run()
    except CheckpointError as error:
        print(f"vlascope-server: {error.for_command()}", file=sys.stderr)
        return 2
    except (CommandError, ServeError, StoreError) as error:
        print(f"vlascope-server: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made, a full disk
        print(f"vlascope-server: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlascope-server: interrupted", file=sys.stderr)
        return 130
    return 0
