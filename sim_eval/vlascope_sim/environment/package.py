"""The installed LIBERO package: where its files lie, and how it is imported without a question or a download."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
import tempfile
from pathlib import Path

from vlascope_sim.errors import SimulationError

DECIDING_PACKAGES = ("vlascope-sim", "vlascope-client", "hf-libero", "robosuite", "mujoco", "numpy")
"""Packages whose versions decide what a simulation does; they are written beside every result."""

INSTALL = "pip install --no-deps hf-libero==0.1.4 bddl==1.0.1 robosuite==1.4.0"
"""The command that brings LIBERO without torch, which it declares; what it truly needs comes with vlascope-sim."""


@functools.cache
def libero_folder() -> Path:
    """The package `libero.libero` on disk, found without importing it.

    Raises:
        SimulationError: LIBERO, or a package that it builds on, is not installed.
    """
    for package in ("bddl", "robosuite"):
        _folder(package)
    return _folder("libero") / "libero"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SimulationError(f"{package}: not installed; run {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def use_assets(folder: Path) -> None:
    """Imports LIBERO if it is not yet, and makes every environment built from now on take its models from `folder`.

    LIBERO asks on stdin for its folders where it finds no configuration, and downloads assets where its own folder lacks
    them: it gets a configuration that vanishes again, and the answer to the second question beforehand.
    """
    if "MUJOCO_GL" not in os.environ:
        if "mujoco" in sys.modules:
            raise SimulationError("MUJOCO_GL: unset when mujoco was imported; set it to egl or osmesa before")
        os.environ["MUJOCO_GL"] = "cgl" if sys.platform == "darwin" else "egl"
    if "libero.libero" not in sys.modules:
        _silence_robosuite()
        _import_libero()
    import libero.libero

    libero.libero._assets_path_cache = str(folder)


def _import_libero() -> None:
    before = os.environ.get("LIBERO_CONFIG_PATH")
    root = libero_folder()
    with tempfile.TemporaryDirectory() as folder:
        paths = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files", "datasets": "datasets"}
        lines = [f"{key}: {root / name}\n" for key, name in {**paths, "assets": "assets"}.items()]
        (Path(folder) / "config.yaml").write_text("".join(lines))
        os.environ["LIBERO_CONFIG_PATH"] = folder
        try:
            import libero.libero.envs  # noqa: F401  (it reads the configuration while it is imported)
        finally:
            if before is None:
                del os.environ["LIBERO_CONFIG_PATH"]
            else:
                os.environ["LIBERO_CONFIG_PATH"] = before


def _silence_robosuite() -> None:
    """Keeps it from logging to /tmp/robosuite.log, which another user may own, and from asking for private macros."""
    macros_spec = importlib.util.spec_from_file_location("robosuite.macros", _folder("robosuite") / "macros.py")
    assert macros_spec is not None  # noqa: S101  (a file's name always gives one)
    assert macros_spec.loader is not None  # noqa: S101
    macros = importlib.util.module_from_spec(macros_spec)
    macros_spec.loader.exec_module(macros)
    vars(macros).update(FILE_LOGGING_LEVEL=None, CONSOLE_LOGGING_LEVEL="ERROR")
    sys.modules["robosuite.macros"] = macros
    for name in ("robosuite_logs", "OpenGL"):
        logging.getLogger(name).setLevel(logging.ERROR)
