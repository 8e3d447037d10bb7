"""Numbers as people read them. Knows nothing of what is counted."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """Bytes in decimal units, four digits: 1500 is `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
