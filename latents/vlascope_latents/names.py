"""What may be a name: of an expert, a component, a run, an episode or a value, each of which becomes a folder of a store."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9._-]{1,96}")


def why_no_name(name: object) -> str | None:
    """Why `name` cannot be a folder of a store, in the words that follow it in a message; None where it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "is no name: expected 1 to 96 of the characters A-Z a-z 0-9 . _ -"
    if not name.strip(".") or name.startswith("__") or name.endswith(".partial") or name == "zarr.json":
        return "is reserved: use a name that is not dots, __…, ….partial or zarr.json"
    return None
