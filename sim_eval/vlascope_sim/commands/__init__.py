"""The command `vlascope-sim`: what a user runs beside a simulator."""

from __future__ import annotations

from collections.abc import Sequence

from vlascope_base.command import run_command
from vlascope_client import PolicyClientError

from vlascope_sim.commands.assets import Assets
from vlascope_sim.commands.demonstrate import Demonstrate
from vlascope_sim.commands.results import Results
from vlascope_sim.commands.rollout import Rollout

SUBCOMMANDS = {"rollout": Rollout, "results": Results, "demonstrate": Demonstrate, "assets": Assets}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; see `run_command` for the arguments and exit codes."""
    return run_command(
        "vlascope-sim",
        "LIBERO rollouts against a policy server, comparisons of them, demonstrations, and the assets they need.",
        SUBCOMMANDS,
        args,
        errors=(PolicyClientError,),
    )
