"""Assets and a policy server that the simulation's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from vlascope_sim.assets import resolve_assets
from vlascope_sim.rollout.episode import AssetsUsed

from tests.server.serving.live_server import LiveServer, serve


@pytest.fixture(scope="session")
def assets(tmp_path_factory) -> Iterator[AssetsUsed]:
    """What `vlascope-sim` finds where nobody has official assets."""
    before = dict(os.environ)
    os.environ["VLASCOPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    found = resolve_assets()
    yield AssetsUsed(Path(found.path), found.kind, found.hash)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def policy_server(tmp_path_factory) -> Iterator[LiveServer]:
    """The tiny policy, with a store, the same bits for the same request."""
    with serve("--store", str(tmp_path_factory.mktemp("runs")), "--deterministic", "--min-free", "1MB") as live:
        yield live
