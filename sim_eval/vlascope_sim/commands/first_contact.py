"""Which policy servers of a campaign answer, before it begins."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text
from vlascope_base.text import counted
from vlascope_client import Backoff, PolicyClient, PolicyConnectionError

from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign

_log = logging.getLogger(__name__)

_LONGEST_TRY, _SHORTEST_TRY = 10.0, 1.0
"""Seconds that one server may take to let us in."""
_BESIDE = 3
"""Characters of the line beside its text."""
_PASSING = (429, 502, 503, 504)
"""HTTP statuses of a server that may let us in later."""


def answering_servers(campaign: Campaign, api_key: str | None) -> tuple[str, ...]:
    """The servers of a campaign that answer within its `connect_seconds`, in its order; a log line names those that do not.

    Args:
        campaign: whose servers.
        api_key: for all of them.

    Raises:
        RolloutError: one is no address.
        vlascope_client.PolicyConnectionError: none answered, or one refused.
    """
    seconds, begun = campaign.connect_seconds, time.monotonic()
    delays, tries = Backoff(cap=5.0).delays(), 0
    silent: dict[str, str] = {}
    waiting = list(campaign.servers)
    with _counter() as count:
        while True:
            tries += 1
            for server in tuple(waiting):
                left = seconds - (time.monotonic() - begun)
                reason = _try(server, api_key, min(_LONGEST_TRY, max(_SHORTEST_TRY, left)))
                if reason is None:
                    waiting.remove(server)
                else:
                    silent[server] = reason
            gone = time.monotonic() - begun
            if not waiting or gone >= seconds:
                break
            count(tries, gone, seconds, waiting)
            time.sleep(max(0.0, min(next(delays), seconds - gone)))
    answered = tuple(server for server in campaign.servers if server not in waiting)
    reasons = "; ".join(silent[server] for server in waiting)
    within = f"within {seconds:g} s ({counted(tries, 'try', 'tries')})"
    if not answered:
        raise PolicyConnectionError(f"no server answered {within}: {reasons}")
    if waiting:
        _log.warning("no answer %s: %s; going on with %s", within, reasons, ", ".join(answered))
    return answered


def _try(server: str, api_key: str | None, seconds: float) -> str | None:
    """Why a server does not answer; None where it does."""
    try:
        with PolicyClient(server, api_key=api_key, retries=0, connect_timeout=seconds):
            return None
    except PolicyConnectionError as error:
        if error.status not in (None, *_PASSING):
            raise
        return str(error).removeprefix("no server answered: ")
    except ValueError as error:  # no address
        raise RolloutError(str(error)) from None


_Count = Callable[[int, float, float, list[str]], None]


@contextlib.contextmanager
def _counter() -> Iterator[_Count]:
    """Shows tries and seconds while servers are waited for: one line that changes, or in a file the tries 1, 2, 4, 8, ….

    What it yields is called with tries, seconds gone, seconds at most, and the servers that have not answered.
    """
    console = Console(file=sys.stderr)

    def said(tries: int, gone: float, seconds: float, servers: list[str]) -> str:
        return f"no answer after {counted(tries, 'try', 'tries')}, {gone:.1f} of {seconds:g} s: {', '.join(servers)}"

    def log(tries: int, gone: float, seconds: float, servers: list[str]) -> None:
        if tries & (tries - 1) == 0:
            _log.info("%s", said(tries, gone, seconds, servers))

    if not console.is_terminal:
        yield log
        return
    with console.status("") as line:

        def show(tries: int, gone: float, seconds: float, servers: list[str]) -> None:
            text = Text(said(tries, gone, seconds, servers))
            text.truncate(console.width - _BESIDE, overflow="ellipsis")
            line.update(text)

        yield show
