"""The command `vlascope-sim`: what a user runs beside a simulator. Knows nothing of what the subcommands do.

A subcommand is a dataclass of its options with a `run` method, in a file of its own, and joins `Subcommand`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Annotated

import tyro

from vlascope_sim.commands.assets import Assets
from vlascope_sim.commands.demonstrate import Demonstrate
from vlascope_sim.commands.rollout import Rollout

Subcommand = (
    Annotated[Rollout, tyro.conf.subcommand("rollout")]
    | Annotated[Demonstrate, tyro.conf.subcommand("demonstrate")]
    | Annotated[Assets, tyro.conf.subcommand("assets")]
)

_SECRETS = ("api_key",)


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: of the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: what the subcommand says, or 0; 2 after an error in what was asked, which is one line on stderr; 130
        after Ctrl-C.
    """
    from vlascope_client import PolicyClientError

    from vlascope_sim.environment.errors import SimulationError
    from vlascope_sim.rollout.errors import RolloutError

    command = tyro.cli(
        Subcommand,
        prog="vlascope-sim",
        description="LIBERO rollouts against a policy server, demonstrations, and the assets they need.",
        args=args,
    )
    logging.basicConfig(level=command.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    shown = {
        name: "(given)" if name in _SECRETS and value else value for name, value in dataclasses.asdict(command).items()
    }
    print(json.dumps({type(command).__name__.lower(): shown}, default=str), file=sys.stderr)
    try:
        return command.run() or 0
    except (SimulationError, RolloutError, PolicyClientError) as error:
        print(f"vlascope-sim: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made, a full disk
        print(f"vlascope-sim: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlascope-sim: interrupted", file=sys.stderr)
        return 130
