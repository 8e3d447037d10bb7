"""Assets and a policy server that the simulation's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from vlascope_sim.assets import resolve_assets
from vlascope_sim.rollout.episode import AssetsUsed

from tests.server.serving.live_server import LiveServer, serve


@pytest.fixture(scope="session")
def assets() -> AssetsUsed:
    """What `vlascope-sim` finds where nobody has official assets."""
    found = resolve_assets()
    return AssetsUsed(Path(found.path), found.kind, found.hash)


@pytest.fixture(scope="session")
def policy_server(tmp_path_factory) -> Iterator[LiveServer]:
    """The tiny policy, with a store, the same bits for the same request."""
    with serve("--store", str(tmp_path_factory.mktemp("runs")), "--deterministic", "--min-free", "1MB") as live:
        yield live
