"""The command `vlascope-server`: what a user runs beside a policy.

A subcommand is a dataclass of its options with a `run` method, in a file of its own; what it needs is imported when it runs.
"""

from __future__ import annotations

from vlascope_base.command import run_command

from vlascope_server.commands.cache import Cache
from vlascope_server.commands.capture import Capture
from vlascope_server.commands.convert import Convert
from vlascope_server.commands.diff import Diff
from vlascope_server.commands.dump_data import DumpData
from vlascope_server.commands.inspect import Inspect
from vlascope_server.commands.mix import Mix
from vlascope_server.commands.serve import Serve
from vlascope_server.commands.train import Train

SUBCOMMANDS = {
    "serve": Serve,
    "capture": Capture,
    "inspect": Inspect,
    "convert": Convert,
    "diff": Diff,
    "mix": Mix,
    "train": Train,
    "dump-data": DumpData,
    "cache": Cache,
}


def main(args: list[str] | None = None) -> int:
    """Runs the command; see `run_command` for its exit codes."""
    return run_command(
        "vlascope-server",
        "Serve, inspect, convert, compare, mix and train Pi0 policies; capture without a robot; look after the cache.",
        SUBCOMMANDS,
        args,
        quiet=("absl", "jax"),
    )
