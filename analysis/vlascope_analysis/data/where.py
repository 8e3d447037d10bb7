"""A condition on what is known of an episode, such as `prompt_mode == 'other' and success`.

It is parsed as a Python expression and evaluated here, node by node: comparisons of names and literals, `and`, `or` and `not`.
Nothing else is let in, and no code is ever run.
"""

from __future__ import annotations

import ast
import dataclasses
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vlascope_base.text import listed, printable

from vlascope_analysis.errors import AnalysisError

_LONGEST = 1000
"""Characters of a condition."""

_COUNTED = 8
"""Values of a name that are counted where nothing is selected."""

_ORDERS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = MappingProxyType(
    {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
)
_ALLOWED = (
    "comparisons (==, !=, <, <=, >, >=, in, not in, is None) of names with texts, numbers, True, False and None, joined by "
    "and, or and not"
)


@dataclasses.dataclass(frozen=True)
class Where:
    """A condition.

    Attributes:
        text: as it was given.
        names: what it asks of an episode, in the order of the text.
    """

    text: str
    names: tuple[str, ...]
    _tree: ast.expr = dataclasses.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Where:
        """Reads a condition.

        Raises:
            AnalysisError: it is none, or asks for more than a comparison.
        """
        if len(text) > _LONGEST:
            raise AnalysisError(f"--where: {len(text)} characters; expected at most {_LONGEST}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise _refused(text, f"cannot be read ({error.msg})") from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise _refused(text, "cannot be read") from error
        names: dict[str, None] = {}
        _check(tree, text, names)
        return cls(text, tuple(names), tree)

    def holds(self, facts: Mapping[str, object]) -> bool:
        """Whether the condition holds of an episode, of which `facts` has every name.

        A value that is not known equals None alone, and is neither greater nor less than anything.

        Raises:
            AnalysisError: values cannot be compared, or a name that stands alone is no truth value.
        """
        return _truth(self._tree, facts, self.text)

    def chosen(self, facts: Sequence[Mapping[str, object]]) -> list[bool]:
        """Whether it holds of each of several episodes.

        Raises:
            AnalysisError: no episode knows one of the names, or it holds of none.
        """
        known = dict.fromkeys(name for own in facts for name in own)
        if unknown := [name for name in self.names if name not in known]:
            raise AnalysisError(
                f"--where {_quoted(self.text)}: no episode has {listed(unknown)}; known are {listed(sorted(known))}"
            )
        found = [self.holds(dict.fromkeys(known) | dict(own)) for own in facts]
        if not any(found):
            counts = "; ".join(f"{name}: {_counts(own.get(name) for own in facts)}" for name in self.names)
            raise AnalysisError(
                f"--where {_quoted(self.text)}: holds of none of {len(facts)} episodes; there are {counts}"
            )
        return found


def _check(node: ast.expr, text: str, names: dict[str, None]) -> None:
    """Raises AnalysisError where a node is none that `_truth` evaluates; adds the names that it has."""
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(part, text, names)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _check(part, text, names)
        case ast.Compare(left=left, ops=ops, comparators=right):
            for side in (left, *right):
                _check_value(side, text, names)
            for op, side in zip(ops, right, strict=True):
                if isinstance(op, ast.In | ast.NotIn) != isinstance(side, ast.List | ast.Tuple | ast.Set):
                    raise _refused(text, "in and not in stand before a list, such as ['a', 'b'], and nothing else does")
                if isinstance(op, ast.Is | ast.IsNot) and not (isinstance(side, ast.Constant) and side.value is None):
                    raise _refused(text, "is stands before None alone: use ==")
            if isinstance(left, ast.List | ast.Tuple | ast.Set):
                raise _refused(text, "a list stands behind in alone")
        case ast.Name(id=name):
            names[name] = None
        case ast.Constant(value=bool()):
            pass
        case _:
            raise _refused(text, f"{_part(node)} is no condition")


def _check_value(node: ast.expr, text: str, names: dict[str, None]) -> None:
    match node:
        case ast.Name(id=name):
            names[name] = None
        case ast.Constant(value=str() | bool() | int() | float() | None):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            pass
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                if isinstance(part, ast.List | ast.Tuple | ast.Set | ast.Name):
                    raise _refused(text, "a list holds texts and numbers alone")
                _check_value(part, text, names)
        case _:
            raise _refused(text, f"{_part(node)} cannot be compared")


def _truth(node: ast.expr, facts: Mapping[str, object], text: str) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(part, facts, text) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(part, facts, text) for part in parts)
        case ast.UnaryOp(operand=part):
            return not _truth(part, facts, text)
        case ast.Compare(left=left, ops=ops, comparators=right):
            sides = [_value(side, facts) for side in (left, *right)]
            return all(_compared(op, a, b, text) for op, a, b in zip(ops, sides[:-1], sides[1:], strict=True))
    value = _value(node, facts)
    if value is not None and not isinstance(value, bool):
        raise _refused(text, f"{_part(node)} is {printable(repr(value))} in an episode, and no truth value: compare it")
    return bool(value)


def _value(node: ast.expr, facts: Mapping[str, object]) -> Any:
    match node:
        case ast.Name(id=name):
            return facts[name]
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return [_value(part, facts) for part in parts]
    raise ValueError(f"{_part(node)}: was not checked")


def _compared(op: ast.cmpop, a: Any, b: Any, text: str) -> bool:
    if isinstance(op, ast.In | ast.NotIn):
        return any(_same(a, value) for value in b) == isinstance(op, ast.In)
    if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
        return _same(a, b) == isinstance(op, ast.Eq | ast.Is)
    if a is None or b is None:
        return False
    try:
        return _ORDERS[type(op)](a, b)
    except TypeError as error:
        raise _refused(
            text, f"{printable(repr(a))} and {printable(repr(b))} have no order: one is a text, the other a number"
        ) from error


def _same(a: Any, b: Any) -> bool:
    """Equal and of one kind: True is not 1 here."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _refused(text: str, why: str) -> AnalysisError:
    return AnalysisError(f"--where {_quoted(text)}: {why}; expected {_ALLOWED}")


def _part(node: ast.expr) -> str:
    return f"`{printable(ast.unparse(node))[:60]}`"


def _quoted(text: str) -> str:
    return f'"{printable(text)[:200]}"'


def _counts(values: Any) -> str:
    counts = Counter("None" if value is None else repr(value) for value in values).most_common()
    more = f" and {len(counts) - _COUNTED} other values" if len(counts) > _COUNTED else ""
    return ", ".join(f"{printable(value)[:40]} {count}" for value, count in counts[:_COUNTED]) + more
