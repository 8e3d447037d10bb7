"""Text that people read and write: safe for a terminal, bytes with units, times, counts, lists of numbers."""

from __future__ import annotations

import re
import reprlib
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, TextIO

from vlascope_base.errors import OptionError

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


_UNKEPT = re.compile("[\0\ud800-\udfff]")


def printable(text: object) -> str:
    r"""One line of `text` that a terminal only shows, and never obeys.

    Whatever is no visible character or space, such as an escape, a line's end or a change of the reading direction, becomes
    its escape in Python (`\x1b`).
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(text))


def why_unkept(text: str) -> str | None:
    """What keeps text from being kept: NUL, which ends it in many formats, or what UTF-8 cannot write; None where nothing does.

    Bytes of a command line that are no text come as lone surrogates.
    """
    found = _UNKEPT.search(text)
    return f"found {found[0]!r} at character {found.start() + 1}" if found else None


class _Short(reprlib.Repr):
    """The standard library's short `repr`, which looks at the beginning of a value only, for arrays and great numbers too."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = _SHORT

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write thousands of digits."""
        return repr(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"

    def repr_ndarray(self, value: Any, level: int) -> str:
        """Never its numbers."""
        return f"an array of {value.dtype} {list(value.shape)}"


_SHORT = 80
_short = _Short()


def short(value: object) -> str:
    """`repr(value)` for a message: at most 80 characters of one line, whatever the value is."""
    text = printable(" ".join(_short.repr(value).split()))
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def wrapped(text: str, stream: TextIO) -> str:
    """`text` with lines that fit the terminal that `stream` is, no word of them cut; as it is where that is no terminal."""
    return filled(text) if stream.isatty() else text


def filled(text: str) -> str:
    """`text` with lines as wide as the terminal at most (`COLUMNS`, or what it says), and wider only where a word is."""
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = (wrapper.wrap(line) if len(line) > width else [line] for line in text.split("\n"))
    return "\n".join("\n".join(line) for line in lines)


def counted(count: int, thing: str, things: str | None = None) -> str:
    """A number of things in words: `no episodes`, `1 episode`, `2 episodes`.

    Args:
        count: how many.
        thing: one of them.
        things: several; `thing` with an s unless given.
    """
    return f"{count or 'no'} {thing if count == 1 else things or f'{thing}s'}"


def readable_bytes(count: float, digits: int = 4) -> str:
    """A number of bytes in decimal units: 1500 is `1.5 kB`.

    Args:
        count: bytes.
        digits: significant digits.
    """
    for unit in ("B", "kB", "MB", "GB"):
        # what rounds up to 1000 is 1 of the next unit
        if float(f"{count:.{digits}g}") < 1000:
            return f"{count:.{digits}g} {unit}"
        count /= 1000
    return f"{count:.{digits}g} TB"


def readable_binary_bytes(count: float) -> str:
    """A number of bytes in binary units, as memory is sold: 2^30 bytes are `1.00 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        # what rounds up to 1024.00 is 1 of the next unit
        if round(count, 2) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def readable_duration(seconds: float) -> str:
    """A time as people say it: `less than a minute`, `1 minute`, `9 minutes`, `2.5 hours`.

    Args:
        seconds: of any number; below 100 minutes they are rounded to whole minutes, above to tenths of hours.
    """
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes >= 100:
        return f"{seconds / 3600:.1f} hours"
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def parse_bytes(text: str) -> int:
    """The inverse of `readable_bytes`, for options: `1500`, `1.5kB`, `2 GB`, `1GiB`.

    Raises:
        OptionError: the text is no number of bytes.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise OptionError(f"expected bytes such as 500MB or 2GB, found {text!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers as people list them: `0-9` (inclusive), `0,3,5`, `0-2,7`; in the order written, each once.

    Raises:
        OptionError: the text is no such list.
    """
    numbers: list[int] = []
    for part in text.replace(" ", "").split(","):
        found = re.fullmatch(r"([0-9]{1,12})(?:-([0-9]{1,12}))?", part)
        if not found:
            raise OptionError(f"{text!r}: expected numbers such as 0-9 (inclusive) or 0,3,5")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise OptionError(f"{text!r}: {part} runs backwards; write {last}-{first}")
        if last - first >= 10**7:
            raise OptionError(f"{text!r}: {part} is more than ten million numbers")
        numbers += range(first, last + 1)
    return tuple(dict.fromkeys(numbers))


def listed(values: Iterable[object], limit: int = 20) -> str:
    """Values for a message: runs of whole numbers as `0-9`, at most `limit` entries, `none` where there are none."""
    values = list(dict.fromkeys(values))
    numbers = sorted(value for value in values if isinstance(value, int))
    if len(numbers) == len(values):
        texts = [str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a}, {b}" for a, b in _runs(numbers)]
    else:
        texts = [printable(value) for value in values]
    more = f", … ({len(texts)})" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more if texts else "none"


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers; `numbers` are sorted."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
