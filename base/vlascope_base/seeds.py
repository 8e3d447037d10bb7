"""Seeds that follow from others: the same numbers on every machine, whatever is drawn before."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: str | int, bits: int = 63) -> int:
    """A number below 2^bits that depends on all parts: the first 8 bytes of BLAKE2b over them as JSON."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - bits)
