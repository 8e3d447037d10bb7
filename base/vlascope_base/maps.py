"""Maps that people write as JSON or YAML: a key that stands there twice is refused, where the readers let the last one win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlascope_base.errors import OptionError
from vlascope_base.text import short


def read_map(path: Path) -> dict[Any, Any]:
    """The map that a YAML or JSON file holds.

    Raises:
        OptionError: the file is missing or empty, is neither, holds something else than a map, or has a key twice; the message
            does not name the file.
    """
    import yaml  # not wanted by those who give no file

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json" and text.strip():
            found = json.loads(text, object_pairs_hook=each_once)
        else:
            _check_each_once(yaml.compose(text, yaml.SafeLoader))
            found = yaml.safe_load(text)
    except OSError as error:
        raise OptionError(error.strerror or str(error)) from error
    except OptionError:
        raise
    except (ValueError, yaml.YAMLError) as error:
        raise OptionError(f"expected YAML or JSON ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        kinds = {"NoneType": "nothing", "list": "a list", "str": "text", "int": "a number", "float": "a number"}
        kind = type(found).__name__
        raise OptionError(f"expected a map such as `name: value`, found {kinds.get(kind, kind)}")
    return found


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The map of these pairs, for `json.loads(…, object_pairs_hook=each_once)`, which would let the last of two equal keys win.

    Raises:
        OptionError: a key is there twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise OptionError(f"{short(name)[1:-1]}: is given twice")
        found[name] = value
    return found


def _check_each_once(node: Any, inside: tuple[Any, ...] = (), seen: set[Any] | None = None) -> None:
    """With a node of YAML, whose own reader would let the last of two equal keys win without a word.

    Args:
        node: and all that it holds.
        inside: what the node stands in.
        seen: nodes that were checked; an alias gives one of them another place.
    """
    seen = set() if seen is None else seen
    if any(node is outer for outer in inside):
        raise OptionError("a list or a map holds itself: expected values that come to an end")
    if node in seen or not isinstance(node.value if node else None, list):
        return
    seen.add(node)
    pairs = [entry for entry in node.value if isinstance(entry, tuple)]
    each_once([(key.value, None) for key, _ in pairs if isinstance(key.value, str)])
    for entry in node.value:
        for inner in entry if isinstance(entry, tuple) else (entry,):
            _check_each_once(inner, (*inside, node), seen)
