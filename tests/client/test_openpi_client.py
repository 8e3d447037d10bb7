"""Unmodified openpi-client, in an environment of its own (it needs numpy 1), against a live vlascope server."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlascope_client import PolicyClient, PolicyConnectionError
from vlascope_client.codec import pack, unpack
from vlascope_latents.store import LatentStore

from tests.server.serving.live_server import LiveServer, serve

PINNED = ("openpi-client==0.1.2", "numpy<2", "typing_extensions")  # it imports the last and does not declare it
KEY = "a-key-of-thirty-two-characters-xx"
SCRIPT = Path(__file__).with_name("openpi_script.py")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def openpi_python() -> Path:
    """The interpreter of an environment that has openpi-client and nothing of ours; made once, and kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vlascope/test-envs"
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"openpi-client-0.1.2-py{sys.version_info.major}.{sys.version_info.minor}"
    python, done = home / "bin/python", home / "complete"
    with (cache / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != " ".join(PINNED):
            shutil.rmtree(home, ignore_errors=True)
            own = REPOSITORY / ".tools/bin/uv"
            uv = str(own) if own.exists() else shutil.which("uv")
            if uv:
                make = [uv, "venv", "--quiet", "--python", sys.executable, str(home)]
                install = [uv, "pip", "install", "--quiet", "--python", str(python), *PINNED]
            else:
                make = [sys.executable, "-m", "venv", str(home)]
                install = [str(python), "-m", "pip", "install", "--quiet", *PINNED]
            for command in (make, install):
                made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
                if made.returncode:
                    reason = made.stderr.strip().splitlines()[-1:] or ["no reason given"]
                    pytest.skip(f"openpi-client cannot be installed here: {' '.join(command[:3])}: {reason[0]}")
            done.write_text(" ".join(PINNED))
    return python


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("openpi")
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    with serve("--store", str(folder / "runs"), "--api-key-file", str(key)) as server:
        yield server


@pytest.fixture(scope="module")
def found(openpi_python: Path, live: LiveServer) -> dict[str, Any]:
    """What the script saw."""
    # as openpi's users do who know nothing of this repository: its folders are not on the path
    done = subprocess.run(
        [str(openpi_python), "-I", str(SCRIPT), live.url, KEY], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_infers(found: dict[str, Any]) -> None:
    assert found["numpy"].startswith("1.")
    assert found["metadata"] == {"protocol": 1, "robot": "libero", "action_horizon": 10}
    assert (found["shape"], found["dtype"], found["finite"]) == ([10, 7], "float32", True)
    assert found["same"]


def test_error_is_a_text_frame_and_the_connection_lives(found: dict[str, Any]) -> None:
    head, body = found["error"].split("\n", 1)
    assert head == "Error in inference server:"
    assert json.loads(body)["code"] == "invalid_observation"
    assert found["after_error"] == [10, 7]


def test_captures_into_the_store(found: dict[str, Any], live: LiveServer) -> None:
    assert found["tickets"] == [0, 1]
    assert (found["end"]["status"], found["end"]["frames"]) == ("sealed", 2)
    store = LatentStore(live.run.parent)
    episode = store.episode("from-openpi", run=found["end"]["run"])
    assert (episode.status, episode.success) == ("sealed", True)
    assert [line.timestep for line in episode.lines()] == [0, 5]


def test_action_chunk_broker(found: dict[str, Any]) -> None:
    assert found["broker"] == [[7]] * 7


def test_bytes_are_the_same(found: dict[str, Any]) -> None:
    theirs = base64.b64decode(found["packed"])
    message = unpack(theirs)
    assert (message["count"], message["scale"], message["count"].dtype) == (3, np.float32(0.5), np.int64)
    assert pack(message) == theirs


def test_key(live: LiveServer, found: dict[str, Any]) -> None:
    with pytest.raises(PolicyConnectionError, match="HTTP 401") as caught:
        PolicyClient(live.url, api_key="another")
    assert caught.value.code == "unauthorized"
    with PolicyClient(live.url, api_key=KEY) as client:
        assert client.status().committed == 2
