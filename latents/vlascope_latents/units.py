"""Numbers as people read them. Knows nothing of what is counted."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def readable_bytes(count: float) -> str:
    """Bytes in decimal units, four digits: 1500 is `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def parse_bytes(text: str) -> int:
    """The inverse, for options: `1500`, `1.5kB`, `2 GB`, `1GiB`.

    Raises:
        ValueError: it is no number of bytes.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"expected bytes such as 500MB or 2GB, found {text!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])
