"""A campaign and rows of results to build tests on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vlascope_sim.rollout.campaign import Campaign, EpisodeKey
from vlascope_sim.rollout.episode import AssetsUsed, blank_result
from vlascope_sim.rollout.results import EpisodeResult

ASSETS = AssetsUsed(Path("assets"), "stand-in", "0123456789abcdef")


def campaign(**changed: Any) -> Campaign:
    fields: dict[str, Any] = {
        "id": "ours", "servers": ("ws://localhost:1",), "suite": "libero_object", "tasks": (0,), "episodes": (0, 1), **changed,
    }  # fmt: skip
    return Campaign(**fields)


def row(of: Campaign, key: EpisodeKey, attempt: int = 1, **changed: Any) -> EpisodeResult:
    fields = {"status": "done", "success": True, "steps": 10, "latency_ms": (1.0, 2.0), **changed}
    return dataclasses.replace(blank_result(of, ASSETS, key, attempt), **fields)
