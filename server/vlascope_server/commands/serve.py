"""`vlascope-server serve`: a policy on a websocket."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import TYPE_CHECKING

from vlascope_base import VlascopeError
from vlascope_base.command import say_configuration
from vlascope_base.options import CommandOptions, ConfigFile
from vlascope_base.text import readable_bytes

from vlascope_server.policies.options import WhichPolicy
from vlascope_server.serving.options import ServeOptions

if TYPE_CHECKING:
    from vlascope_server.serving.application import Started

INSTALL = 'pip install ./base ./client ./latents "./server[serve]"'
"""Members of the house are on no index, so that pip finds what an extra needs in a clone alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve(ServeOptions, WhichPolicy, ConfigFile, CommandOptions):
    """Serves a policy over openpi's websocket protocol, and keeps its hidden states where a client asks for them."""

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        try:
            from vlascope_server.serving.application import serve
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"serve needs {package}: run this in a clone of vlascope: {INSTALL}") from error
        from vlascope_server.policies.loading import load_policy

        serve(
            lambda: load_policy(self.checkpoint, self.policy),
            self,
            _print_started,
            lambda: print("ready", flush=True),
        )


def _print_started(started: Started) -> None:
    policy, spec = started.policy, started.policy.robot
    print(f"serving   {policy.name} ({policy.description}, {started.fingerprint})")
    chunk = f"{policy.action_horizon} actions of {spec.action_dim}"
    print(f"robot     {spec.name}: cameras {', '.join(spec.cameras.values()) or 'none'}; {chunk}")
    print(f"storing   {started.run or 'nothing: no --store was given'}")
    seed = "" if started.seed is None else f"; noise seed {started.seed}"
    print(f"a frame   {readable_bytes(started.plan.nbytes)} with the default capture{seed}")
    print(f"listening {started.url}")
    sys.stdout.flush()
    if started.run is not None:
        from vlascope_latents.store.run_folder import RUN_FILE

        say_configuration(started.run / RUN_FILE)
    logging.getLogger(__name__).info("compiling; requests that come now wait")
