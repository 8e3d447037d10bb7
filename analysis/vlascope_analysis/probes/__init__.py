"""Linear maps from features to label embeddings: trained, and in closed form.

Training needs JAX and Optax, which the extra `train` brings; `linear.py`, which trains, is imported when the first map is
trained. Nothing else here imports them.
"""

from __future__ import annotations

import importlib.util

from vlascope_analysis.errors import AnalysisError


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
