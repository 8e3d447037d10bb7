"""Small seamless textures drawn from integers, as PNG files equal to the byte on every machine.

No noise is drawn from a library and nothing is compressed: another version of either would change the assets' hash.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIZE = 64


def grain(strength: int, seed: int, stretch: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Integer noise in [-strength, strength], int [SIZE, SIZE]; `stretch` smears it along y and x."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.uint32)
    value = (
        (y // stretch[0]) * np.uint32(374761393)
        + (x // stretch[1]) * np.uint32(668265263)
        + np.uint32(seed * 2246822519 % 2**32)
    )
    value = (value ^ (value >> np.uint32(13))) * np.uint32(1274126177)
    value ^= value >> np.uint32(16)
    return (value % np.uint32(2 * strength + 1)).astype(np.int64) - strength


def plaster(color: str, strength: int = 4) -> np.ndarray:
    """An even wall, uint8 [SIZE, SIZE, 3]."""
    return _paint(color, grain(strength, 1) + grain(strength, 2, (4, 4)))


def linen(color: str) -> np.ndarray:
    """Woven cloth."""
    return _paint(color, grain(4, 3, (1, 16)) + grain(4, 4, (16, 1)))


def tiles(color: str, joint: int, pitch: int = 32) -> np.ndarray:
    """Square tiles; their joints are darker by `joint`."""
    shade = grain(3, 5, (2, 2))
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return _paint(
        color, np.where((y % pitch == 0) | (x % pitch == 0), -joint, shade + 5 * ((y // pitch + x // pitch) % 2))
    )


def wood(color: str, planks: int = 1) -> np.ndarray:
    """Boards along x, each with its own shade."""
    pitch = SIZE // planks
    y = np.mgrid[0:SIZE, 0:SIZE][0]
    board = 7 * ((y // pitch * 5) % 3 - 1) if planks > 1 else 0
    shade = grain(7, 6, (1, 32)) + grain(4, 7, (2, 16)) + board
    return _paint(color, np.where(y % pitch == 0, -26, shade) if planks > 1 else shade)


def png(pixels: np.ndarray) -> bytes:
    """An RGB picture as a PNG whose data is stored, not compressed (RFC 1951 section 3.2.4)."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    blocks = [rows[start : start + 65535] for start in range(0, len(rows), 65535)]
    stored = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block for block in blocks
    )
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _paint(color: str, shade: np.ndarray | int) -> np.ndarray:
    base = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return np.clip(base + np.broadcast_to(shade, (SIZE, SIZE))[..., None], 0, 255).astype(np.uint8)
