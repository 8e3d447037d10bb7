"""Bounds of a message, checked on its bytes before anything is made of them.

One byte of msgpack can stand for an object of a hundred bytes, and five bytes for a list of four thousand million. A
message within these bounds takes its own bytes and a few megabytes at most.
"""

from __future__ import annotations

DEPTH = 32
"""Maps and lists inside one another."""

ITEMS = 16_384
"""Values of a message in all, keys included. Arrays count as a handful, whatever their size."""

TEXT_BYTES = 65_536
"""Of one text."""

KEY_BYTES = 256
"""Of one key of a map."""

_FIXED = {
    0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9
}  # fmt: skip
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_SIZES = {**_TEXT, **_BYTES, **_LISTS, **_MAPS}
_EXTENSIONS = {0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8}


def excess(data: bytes | bytearray | memoryview) -> str | None:
    """What is too much about the msgpack value that `data` begins with; None where it is within bounds.

    Bytes that are no msgpack, or end too early, are within bounds as far as they go: unpacking says what is wrong with them.
    """
    position, end, items = 0, len(data), 1
    left: list[int] = [1]
    """Of each map and list that is open, the values that are still to come; two for each entry of a map."""
    in_map: list[bool] = [False]
    while left:
        if not left[-1]:
            left.pop()
            in_map.pop()
            continue
        if position >= end:
            return None
        is_key = in_map[-1] and left[-1] % 2 == 0
        left[-1] -= 1
        first = data[position]
        if first < 0x80 or first >= 0xE0:  # small integers
            position += 1
            continue
        if (fixed := _FIXED.get(first)) is not None:
            position += fixed
            continue
        if first in _EXTENSIONS:
            return "msgpack extension: expected maps, lists, text, numbers, booleans and arrays"
        width = _SIZES.get(first, 0)
        size = first & (0x1F if first >= 0xA0 else 0x0F)
        if width:
            size = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        position += 1 + width
        if first < 0xA0 or first in _LISTS or first in _MAPS:
            is_map = first < 0x90 or first in _MAPS
            entries = 2 * size if is_map else size
            items += entries
            if items > ITEMS:
                return f"more than {ITEMS} values: expected at most that, and long rows of numbers as arrays"
            if len(left) > DEPTH:
                return f"maps and lists nested deeper than {DEPTH}: expected at most that"
            left.append(entries)
            in_map.append(is_map)
            continue
        if first == 0xC1:  # never used: unpacking refuses it
            return None
        if is_key and size > KEY_BYTES:
            return f"a key of {size} bytes; expected at most {KEY_BYTES}"
        if size > TEXT_BYTES and first not in _BYTES:
            return f"a text of {size} bytes; expected at most {TEXT_BYTES}"
        position += size
    return None
