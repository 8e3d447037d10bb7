"""Official LIBERO assets from the Hugging Face hub, to where hf-libero looks for them. Knows nothing of stand-ins."""

from __future__ import annotations

from pathlib import Path

from vlascope_sim.assets.resolve import official_places
from vlascope_sim.environment.errors import SimulationError

REPOSITORY = "lerobot/libero-assets"
"""The dataset that hf-libero 0.1.4 downloads (`download_utils.HF_ASSETS_REPO_ID`)."""


def download_assets() -> Path:
    """Downloads the official set, or what is missing of it.

    Returns:
        Its folder.

    Raises:
        SimulationError: huggingface_hub cannot be imported, or the hub did not give the files.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise SimulationError(
            "--download: needs huggingface_hub, which cannot be imported; run: pip install 'vlascope-sim[download]'"
        ) from error
    folder = official_places()[1]
    try:
        snapshot_download(repo_id=REPOSITORY, repo_type="dataset", local_dir=folder)
    except Exception as error:  # the hub's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SimulationError(f"--download: {REPOSITORY} did not come from the Hugging Face hub: {reason}") from error
    return folder
