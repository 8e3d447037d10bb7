"""Makes a dataset of another version of the format, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlascope_base.files import PARTIAL
from vlascope_base.progress import Progress, silent
from vlascope_base.provenance import provenance

from vlascope_datasets.copying import PACKAGES, copy_episodes
from vlascope_datasets.errors import DatasetError
from vlascope_datasets.files import folder_bytes, move, must_be_new, must_be_outside, must_fit, write_json
from vlascope_datasets.reader import LeRobotDataset
from vlascope_datasets.splitting import describe, identity

RECORD = "convert.json"


def convert_dataset(
    source: LeRobotDataset,
    out: Path,
    version: str,
    progress: Progress = silent,
    episodes: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Writes episodes of a dataset in a version of the format, and `meta/convert.json`, which says of what.

    It is put together in a hidden folder beside `out`, and appears there when all of it was read again and compared.

    Args:
        source: the dataset.
        out: a folder that is absent or empty, and outside of the source.
        version: `v2.1` or `v3.0`.
        progress: called after each.
        episodes: which, in the order of the copy; all of them unless given.

    Returns:
        What `meta/convert.json` holds.

    Raises:
        DatasetError: a missing file, a folder that holds something, or no space.
        DamagedError: a file of the source is not what it should be.
    """
    target = out.resolve()
    # of one name: what a killed conversion left there is found and removed
    partial = target.with_name(f".{target.name}{PARTIAL}")
    must_be_new(out, "destination")
    must_be_outside(target, source.root)
    if source.root.resolve().is_relative_to(partial):
        raise DatasetError(f"{out}: {partial} would be written over, and holds the source; choose another destination")
    shutil.rmtree(partial, ignore_errors=True)
    must_fit(target, folder_bytes(source.root))
    try:
        chosen = range(len(source.episodes)) if episodes is None else episodes
        copied = copy_episodes(source, chosen, partial, version, progress)
        record = {
            "configuration": {"source": str(source.root), "out": str(out), "version": version},
            "source": identity(source),
            "copy": describe(copied),
            **provenance(*PACKAGES),
        }
        write_json(partial / "meta" / RECORD, record)
        move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record
