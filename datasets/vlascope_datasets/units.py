"""Numbers as people read them. Knows nothing of what is counted."""

from __future__ import annotations


def readable_bytes(count: float, digits: int = 4) -> str:
    """Bytes in decimal units: 1500 is `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.{digits}g} {unit}"
        count /= 1000
    return f"{count:.{digits}g} TB"
