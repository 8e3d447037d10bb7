"""What a result was made with: versions, git revision, machine, time. It is written beside every result."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path


def provenance(*packages: str) -> dict[str, object]:
    """`versions` of Python and `packages`, and the `git_revision`."""
    return {"versions": versions(*packages), "git_revision": git_revision()}


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions(*packages: str) -> dict[str, str]:
    """The version of Python and of each package; `not installed` where there is none."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


@functools.cache
def git_revision() -> str | None:
    """The 40 digits of the commit that this code was checked out from, with `+changes` where tracked files differ from it.

    Returns:
        None where this code is no part of a checkout: installed from a wheel, even where the environment itself lies in some
        other repository.
    """
    git, here = shutil.which("git"), Path(__file__).resolve()
    if git is None:
        return None

    def ask(*words: str) -> str:
        command = [git, "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        ask("ls-files", "--error-unmatch", here.name)
        return ask("rev-parse", "HEAD") + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, str | int | None]:
    """`host`, `system` and `cores` of the machine that this runs on."""
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}


def now() -> str:
    """The time in UTC to the second, as ISO 8601 writes it: `2026-01-31T12:00:00+00:00`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def now_for_names() -> str:
    """The time in UTC to the second, for the name of a file or a run: `20260131T120000`; names sort by time."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
