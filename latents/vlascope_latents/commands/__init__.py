"""The command `vlascope-latents`: what a user runs on stores.

A subcommand is a dataclass of its options with a `run` method, in a file of its own.
"""

from __future__ import annotations

from vlascope_base.command import run_command

from vlascope_latents.commands.export import Export
from vlascope_latents.commands.import_ import Import
from vlascope_latents.commands.ls import Ls
from vlascope_latents.commands.repack import Repack
from vlascope_latents.commands.verify import Verify

SUBCOMMANDS = {"ls": Ls, "verify": Verify, "repack": Repack, "export": Export, "import": Import}


def main(args: list[str] | None = None) -> int:
    """Runs the command; see `run_command`. `verify` ends with exit code 1 where it found damage."""
    description = "List, verify, repack, export and import latent stores."
    return run_command("vlascope-latents", description, SUBCOMMANDS, args)
