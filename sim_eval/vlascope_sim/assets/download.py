"""Official LIBERO assets from the Hugging Face hub, at one revision, to where hf-libero looks for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlascope_sim.assets.resolve import official_places
from vlascope_sim.errors import SimulationError

REPOSITORY = "lerobot/libero-assets"
"""The dataset that hf-libero 0.1.4 downloads (`download_utils.HF_ASSETS_REPO_ID`)."""
REVISION = "0b3ea86be5fe169d0fd036ae63d1070ec09e90f6"
"""The commit of it that is taken: hf-libero takes whatever is there on the day."""


def download_assets(revision: str | None = None) -> Path:
    """Downloads the official set, or what is missing of it, and compares every file with what the hub says of it.

    Args:
        revision: a commit; `REVISION` unless given.

    Returns:
        Its folder.

    Raises:
        SimulationError: the revision is no commit, huggingface_hub cannot be imported, the hub did not give the files, or they
            are not what it says.
    """
    revision = REVISION if revision is None else revision
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise SimulationError(
            f"--revision {revision}: expected a commit of {REPOSITORY}, 40 hexadecimal digits: a branch is another set tomorrow"
        )
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise SimulationError(
            "--download: needs huggingface_hub, which cannot be imported; run: pip install 'vlascope-sim[download]'"
        ) from error
    folder = official_places()[1]
    try:
        snapshot_download(repo_id=REPOSITORY, repo_type="dataset", revision=revision, local_dir=folder)
        said = list(HfApi().list_repo_tree(REPOSITORY, repo_type="dataset", revision=revision, recursive=True))
    except Exception as error:  # the hub's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SimulationError(
            f"--download: {REPOSITORY} at {revision} did not come from the Hugging Face hub: {reason}"
        ) from error
    if wrong := sorted(_wrong(folder, (file for file in said if hasattr(file, "blob_id")))):
        for name in wrong:  # so that it comes anew
            (folder / name).unlink(missing_ok=True)
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SimulationError(
            f"--download: {', '.join(wrong[:5])}{more}: not what {REPOSITORY} says it is at {revision}: damaged on the way; "
            "deleted, run it again"
        )
    return folder


def _wrong(folder: Path, files: Iterable[Any]) -> Iterable[str]:
    """Names of the hub's files whose content here is another, or missing."""
    for file in files:
        content = (folder / file.path).read_bytes() if (folder / file.path).is_file() else None
        if content is None:
            yield file.path
        elif file.lfs:
            if hashlib.sha256(content).hexdigest() != file.lfs["sha256"]:
                yield file.path
        elif hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != file.blob_id:
            yield file.path
