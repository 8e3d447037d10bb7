"""Policies whose weights are drawn, as checkpoints like any other. Knows nothing of their architecture."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vlascope_server.checkpoints.load import load_checkpoint
from vlascope_server.checkpoints.save import save_checkpoint
from vlascope_server.checkpoints.source import Source, open_source
from vlascope_server.presets import SEEDED


@contextlib.contextmanager
def opened(location: str, preset: str | None = None) -> Iterator[Source]:
    """`open_source`, which also takes the seeded policies: one of these is written to a temporary folder first.

    Raises:
        CheckpointError: as `open_source`.
    """
    if location not in SEEDED or Path(location).exists():
        yield open_source(location, preset)
        return
    drawn = load_checkpoint(location, dtype="float32", preset=preset)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder) / location,
            drawn.params,
            drawn.config,
            norm_stats=drawn.norm_stats,
            asset_id=drawn.asset_id,
            record=drawn.record,
            tokenizer=drawn.tokenizer,
        )
        yield open_source(Path(folder) / location)
