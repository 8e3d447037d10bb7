"""Keys of an observation that nobody reads and that look like one that somebody would: a client is told of them.

Observations may hold keys of other robots and programs, so an unknown key is no error. `collect_latent` is no accident,
though: without a word, nothing would be captured.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlascope_client.protocol import OWN_FIELDS
from vlascope_client.wording import short

from vlascope_server.robots import RobotInputError, RobotIO

_log = logging.getLogger(__name__)

_NEAR = 0.85
"""`difflib`'s ratio: one letter in seven may be missing, wrong or too many."""
_KEYS = 64
"""Observations with more are looked at no further."""
_REMEMBERED = 256
"""Sets of keys."""


class Typos:
    """What a server with this robot finds. May be used from any thread."""

    def __init__(self, robot: RobotIO):
        self._robot = robot
        self._known: dict[frozenset[str], tuple[str, ...]] = {}

    def warnings(self, observation: Mapping[str, Any]) -> list[str]:
        """A line for each key that is probably meant to be another one. Each is logged the first time.

        Args:
            observation: that the robot can read; a message without the fields that are ours.
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

    def _read(self, observation: Mapping[str, Any]) -> set[str]:
        """The keys that the robot reads."""
        asked = _Asked(observation)
        with contextlib.suppress(RobotInputError):  # the prompt may be the server's
            self._robot.read(asked)
        return asked.keys_asked


class _Asked(Mapping[str, Any]):
    """A mapping that remembers which keys were asked for."""

    def __init__(self, content: Mapping[str, Any]):
        self._content = content
        self.keys_asked: set[str] = {"prompt"}

    def __getitem__(self, key: str) -> Any:
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
        near = max(missing, key=lambda other: _likeness(key, other), default=None)
        if near is not None and _likeness(key, near) >= _NEAR:
            lines.append(f"{short(key)[1:-1]}: is no field and was not read; did you mean {near}?")
    return tuple(lines)


def _likeness(key: str, other: str) -> float:
    """From 0 to 1, whatever the case and the separators; 0 where the numbers differ, as those of two cameras do."""
    key, other = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (key, other))
    if re.sub(r"[^0-9]", "", key) != re.sub(r"[^0-9]", "", other):
        return 0.0
    return difflib.SequenceMatcher(None, key, other, autojunk=False).ratio()
