"""Keys of an observation that nobody reads and that look like one that somebody would: a client is told of them.

Observations may hold keys of other robots and programs, so an unknown key is no error. `collect_latent` is no accident,
though: without a word, nothing would be captured.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vlascope_client.protocol import OWN_FIELDS
from vlascope_client.wording import short

from vlascope_server.robots import RobotInputError

_log = logging.getLogger(__name__)

_LETTERS = 6
"""A shorter field is only found in another case or with other separators; from here on, one letter may be missing or wrong."""
_LETTERS_ADDED = 7
"""From here on, one may be too many."""
_LETTERS_TWICE = 12
"""From here on, two of these may be."""
_KEYS = 64
"""Observations with more are looked at no further."""
_REMEMBERED = 256
"""Sets of keys."""


class Typos:
    """What a server finds. May be used from any thread."""

    def __init__(self, prepare: Callable[[Mapping[str, Any]], object]):
        """`prepare` is the policy's: it is called once for each set of keys, to see which of them it reads."""
        self._prepare = prepare
        self._known: dict[frozenset[str], tuple[str, ...]] = {}

    def warnings(self, observation: Mapping[str, object]) -> list[str]:
        """A line for each key that is probably meant to be another one. Each is logged the first time.

        Args:
            observation: that the policy can read; a message without the fields that are ours.
        """
        if len(observation) > _KEYS:
            return []
        keys = frozenset(observation)
        found = self._known.get(keys)
        if found is None:
            found = _near(keys, self._read(observation))
            logged = {line for lines in self._known.values() for line in lines}
            if len(self._known) < _REMEMBERED:
                self._known[keys] = found
                for line in found:
                    if line not in logged:
                        _log.warning("a client sent %s", line)
        return list(found)

    def _read(self, observation: Mapping[str, object]) -> set[str]:
        """The keys that the policy reads."""
        asked = _Asked(observation)
        with contextlib.suppress(RobotInputError):  # what is wrong with it is said elsewhere
            self._prepare(asked)
        return asked.keys_asked


class _Asked(Mapping[str, object]):
    """A mapping that remembers which keys were asked for."""

    def __init__(self, content: Mapping[str, object]):
        self._content = content
        self.keys_asked: set[str] = {"prompt"}

    def __getitem__(self, key: str) -> object:
        self.keys_asked.add(key)
        return self._content[key]

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def _near(sent: frozenset[str], read: set[str]) -> tuple[str, ...]:
    missing = sorted({*read, *OWN_FIELDS, "request"} - sent)
    lines = []
    for key in sorted(key for key in sent if isinstance(key, str) and key not in read):
        near = min(missing, key=lambda other: _mistakes(key, other), default=None)
        if near is not None and _is_typo(key, near):
            lines.append(f"{short(key)[1:-1]}: is no field and was not read; did you mean {near}?")
    return tuple(lines)


def _is_typo(key: str, field: str) -> bool:
    """Whether a key is probably the field with a letter or two missing, wrong, swapped or too many, and no word of its own."""
    if re.match(rf"{re.escape(field)}[^a-z0-9]+[a-z0-9]", key.lower()):
        return False  # the field and another word: `episode_id`
    length, mistakes = len(_letters(field)), _mistakes(key, field)
    if mistakes == 1 and len(_letters(key)) > length:
        return length >= _LETTERS_ADDED
    return mistakes <= (length >= _LETTERS) + (length >= _LETTERS_TWICE)


def _mistakes(key: str, field: str) -> int:
    """Letters that are missing, wrong, swapped or too many, whatever the case and the separators.

    Many where the numbers differ, as those of two cameras do, and where the lengths say it already.
    """
    key, field = _letters(key), _letters(field)
    if re.sub(r"[^0-9]", "", key) != re.sub(r"[^0-9]", "", field) or abs(len(key) - len(field)) > 2:
        return max(len(key), len(field), 3)
    before, row = [0] * (len(field) + 1), list(range(len(field) + 1))
    for i, letter in enumerate(key, 1):
        last, before, row = before, row, [i]
        for j, other in enumerate(field, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == field[j - 2] and key[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _letters(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())
