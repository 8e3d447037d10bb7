"""Linear maps from features to label embeddings: trained, and in closed form.

Training needs JAX and Optax, which the extra `train` brings; `linear.py`, which trains, is imported when the first map is
trained. Nothing else here imports them.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
from vlascope_base.progress import Progress, silent

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import TrainingConfig
from vlascope_analysis.probes.ridge import ridge_cells
from vlascope_analysis.probes.standardise import Standardiser

if TYPE_CHECKING:
    from vlascope_analysis.probes import linear


def require_training() -> None:
    """Says that a map cannot be trained here, before anything is read for it. Imports neither JAX nor Optax.

    Raises:
        AnalysisError: JAX or Optax is not installed.
    """
    for package in ("jax", "optax"):
        if importlib.util.find_spec(package) is None:
            raise AnalysisError(
                f"the trained probe needs {package}, which is not installed: install vlascope-analysis[train], or use "
                "vlascope-analysis sweep, which needs no JAX"
            )


def train_probes(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    embeddings: np.ndarray,
    config: TrainingConfig,
    seed: int,
    progress: Progress = silent,
) -> linear.TrainedProbes:
    """As `linear.train_probes`, which is imported here.

    Raises:
        AnalysisError: `config` cannot be used, or JAX or Optax is not installed.
    """
    require_training()
    from vlascope_analysis.probes import linear

    return linear.train_probes(train, validation, embeddings, config, seed, progress)


__all__ = ["Standardiser", "require_training", "ridge_cells", "train_probes"]
