"""One server for all tests that do not need one of their own."""

from __future__ import annotations

import pytest

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serve("--store", str(tmp_path_factory.mktemp("runs")), "--max-message-bytes", "1MB", "--seed", "7") as live:
        yield live


@pytest.fixture
def wire(server):
    with connect(server.url) as connection:
        yield connection
