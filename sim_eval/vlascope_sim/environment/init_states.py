"""LIBERO's initial states without torch and without running a pickle's code.

The files are what `torch.save` makes of one NumPy array: a zip with one pickle, which may name four harmless things here
and nothing else.
"""

from __future__ import annotations

import _codecs
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vlascope_sim.errors import SimulationError

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs") from None


def read_init_states(path: Path) -> np.ndarray:
    """Flattened MuJoCo states, float64 [states, 1 + nq + nv]: time (seconds), positions, velocities.

    Raises:
        SimulationError: the file is missing, or is no array saved by `torch.save`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise SimulationError(f"{path}: expected initial states as LIBERO ships them ({error})") from error
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype != np.float64:
        raise SimulationError(f"{path}: expected float64 [states, numbers], found {type(states).__name__}")
    return states
