"""Reads a pickle without running it: plain values and containers are built, classes and functions are never imported or called.

A pickle is a program for a small stack machine. `pickletools` of Python decodes its instructions; here each of them moves
values on a stack. Where Python's own reader would call something, a name is looked up in `classes.py`: plain containers are
built, tensors are built by whoever reads the file (`Rebuild`), and everything else becomes a `Placeholder`, an inert value that
keeps the name, the arguments and the state.

Bounds: a pickle of at most 64 MiB, five million instructions and 50,000 placeholders; keys of maps are plain values. Nested
values are built without recursion, so depth costs nothing here; they may hold themselves, which those who walk through them
have to expect.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable, Mapping, Sized
from typing import Any

from vlascope_server.torch_checkpoints.classes import CONTAINERS, REBUILDS, judge, spelt
from vlascope_server.torch_checkpoints.errors import TorchCheckpointError
from vlascope_server.torch_checkpoints.values import Global, Placeholder, bounded, container, key_of_map, shown

LARGEST_PICKLE = 64 << 20
"""Bytes; that of a checkpoint with 10,000 tensors is 2 MB."""
MOST_INSTRUCTIONS = 5_000_000
MOST_PLACEHOLDERS = 50_000

Rebuild = Callable[[str, tuple[Any, ...]], Any]
"""Full name of one of `REBUILDS` and its arguments -> a tensor."""


@dataclasses.dataclass
class Read:
    """A pickle that was read.

    Attributes:
        value: what it stands for.
        end: bytes of it, so that what follows can be read.
        names: every name in it -> the verdict.
        calls: refused name -> the call as a person reads it; empty text where the name was not called.
    """

    value: Any
    end: int
    names: dict[str, str]
    calls: dict[str, str]


def read_pickle(data: bytes, persistent: Callable[[Any], Any], rebuild: Rebuild) -> Read:
    """Reads one pickle.

    Args:
        data: begins with the pickle; more may follow.
        persistent: what a persistent id (torch: a tuple that names a storage) stands for.
        rebuild: builds tensors.

    Raises:
        TorchCheckpointError: the pickle is damaged, cut short, or beyond the bounds; the message has no path.
    """
    return _Machine(persistent, rebuild).run(data)


def with_calls(what: str, calls: Mapping[str, str]) -> str:
    """A message that also tells what was refused before: Python's own reader would have called it by then."""
    said = [f"{name}{call}" for name, call in calls.items()][:3]
    return f"{what}; before that it calls or names {', '.join(said)}" if said else what


class _Machine:
    """The stack machine. A mark is a stack that was put aside."""

    def __init__(self, persistent: Callable[[Any], Any], rebuild: Rebuild):
        self._persistent, self._rebuild = persistent, rebuild
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._names: dict[str, str] = {}
        self._calls: dict[str, str] = {}
        self._copied = self._placeholders = 0

    def run(self, data: bytes) -> Read:
        """Reads the pickle at the start of `data`."""
        count = end = 0
        try:
            for opcode, arg, position in pickletools.genops(io.BytesIO(data[:LARGEST_PICKLE])):
                count += 1
                if count > MOST_INSTRUCTIONS:
                    raise TorchCheckpointError(
                        f"a pickle of more than {MOST_INSTRUCTIONS:,} instructions: no checkpoint needs as many"
                    )
                if opcode.name == "STOP":
                    end = (position or 0) + 1
                elif opcode.name in _PUSHED:
                    self._stack.append(bounded(arg))
                else:
                    _INSTRUCTIONS[opcode.name](self, arg)
            if len(self._stack) != 1 or self._marks:
                raise TorchCheckpointError("a damaged pickle: values are left over at its end")
        except TorchCheckpointError as error:
            raise self._damaged(str(error)) from None
        except KeyError as error:  # of the memo
            raise self._damaged(f"a damaged pickle: it refers to {error}, which is not there") from None
        except (ValueError, IndexError, TypeError, ArithmeticError, MemoryError) as error:
            # pickletools raises ValueError at what is no instruction, or is cut short; an empty stack is an IndexError
            said = " ".join(str(error).split())[:80] or type(error).__name__
            raise self._damaged(f"a damaged pickle, or one that is cut short ({said})") from None
        return Read(self._stack[0], end, self._names, self._calls)

    def _damaged(self, what: str) -> TorchCheckpointError:
        return TorchCheckpointError(with_calls(what, self._calls))

    def name(self, module: str, name: str) -> Global:
        """A name that the pickle holds; it is looked up and remembered."""
        full = spelt(module, name)
        if len(full) > 500:
            raise TorchCheckpointError(f"a damaged pickle: the name of a class has {len(full):,} characters")
        if full not in self._names:
            self._names[full] = judge(full)
            if self._names[full] == "refused":
                self._calls[full] = ""
        return Global(full)

    def _object_called(self, called: Placeholder) -> Global:
        """An object that is called itself, such as `functools.partial(print, 'x')()`: refused, under the text of its making."""
        made = f"{called.name}({', '.join(shown(arg) for arg in called.args[:3])})"
        if made not in self._names:
            self._names[made], self._calls[made] = "refused", ""
        return Global(made)

    def call(self, called: Any, args: Any) -> None:
        """Puts on the stack what a call stands for; nothing is called."""
        if isinstance(called, Placeholder):
            called = self._object_called(called)
        if not isinstance(called, Global):
            raise TorchCheckpointError(f"a damaged pickle: it calls {shown(called)}, which is no class")
        if not isinstance(args, tuple):
            raise TorchCheckpointError(f"a damaged pickle: it calls {called.name} with {shown(args)}")
        if called.name in REBUILDS:
            value = self._rebuild(called.name, args)
        elif called.name in CONTAINERS:
            # one long list may be copied many times over, by five bytes of the pickle each
            self._copied += len(args[0]) if args and isinstance(args[0], Sized) else 0
            if self._copied > MOST_INSTRUCTIONS:
                raise TorchCheckpointError(f"a pickle that makes containers of more than {MOST_INSTRUCTIONS:,} values")
            value = container(called.name, args)
        else:
            self._placeholders += 1
            if self._placeholders > MOST_PLACEHOLDERS:
                raise TorchCheckpointError(f"a pickle of more than {MOST_PLACEHOLDERS:,} objects of other classes")
            value = Placeholder(called.name, args)
        if called.name in self._calls and not self._calls[called.name]:
            self._calls[called.name] = f"({', '.join(shown(arg) for arg in args[:3])})"
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        above, self._stack = self._stack, self._marks.pop()
        return above

    # instructions, by what they do; each takes its argument

    def mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def pop_one(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_mark()

    def pop_to_mark(self, _: Any) -> None:
        self.pop_mark()

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def remember_next(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def global_(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._stack.append(self.name(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TorchCheckpointError("a damaged pickle: the name of a class is no text")
        self._stack.append(self.name(module, name))

    def persistent(self, _: Any) -> None:
        self._stack.append(self._persistent(self.pop()))

    def reduce(self, _: Any) -> None:
        args, called = self.pop(), self.pop()
        self.call(called, args)

    def new_with_keywords(self, _: Any) -> None:
        keywords, args, called = self.pop(), self.pop(), self.pop()
        self.call(called, args)
        if isinstance(made := self._stack[-1], Placeholder):
            made.state = keywords

    def instance(self, text: str) -> None:
        module, _, name = text.partition(" ")
        args = tuple(self.pop_mark())
        self.call(self.name(module, name), args)

    def object(self, _: Any) -> None:
        called, *args = self.pop_mark()
        self.call(called, tuple(args))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, Placeholder):
            target.state = state
        # attributes of containers and tensors (`_metadata` of a state dict) say nothing that is asked for here

    def append(self, _: Any) -> None:
        value = self.pop()
        self._extend([value])

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Placeholder):
            target.items.extend(values)
        elif isinstance(target, list | bytearray):
            target.extend(values)
        else:
            raise TorchCheckpointError(f"a damaged pickle: it appends to {shown(target)}")

    def add_items(self, _: Any) -> None:
        values, target = self.pop_mark(), self._stack[-1]
        if isinstance(target, Placeholder):
            target.items.extend(values)
        elif isinstance(target, set):
            target.update(key_of_map(value) for value in values)
        else:
            raise TorchCheckpointError(f"a damaged pickle: it adds to {shown(target)}")

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self.pop_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        fields = target.fields if isinstance(target, Placeholder) else target
        if not isinstance(fields, dict) or len(values) % 2:
            raise TorchCheckpointError(f"a damaged pickle: it sets items of {shown(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            fields[key_of_map(key)] = value

    def dict_to_mark(self, _: Any) -> None:
        values = self.pop_mark()
        self._stack.append({})
        self._set(values)

    def list_to_mark(self, _: Any) -> None:
        values = self.pop_mark()
        self._stack.append(values)

    def tuple_to_mark(self, _: Any) -> None:
        values = self.pop_mark()
        self._stack.append(tuple(values))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def frozen_set(self, _: Any) -> None:
        values = self.pop_mark()
        self._stack.append(frozenset(key_of_map(value) for value in values))

    def nothing(self, _: Any) -> None:
        """PROTO and FRAME: lengths and versions, which `pickletools` has read."""

    def refused(self, _: Any) -> None:
        raise TorchCheckpointError("a pickle with instructions that no checkpoint has (text ids, extensions, buffers)")


_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
"""Instructions whose argument is the value."""

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda m, _: m._stack.append(None),
    "NEWTRUE": lambda m, _: m._stack.append(True),
    "NEWFALSE": lambda m, _: m._stack.append(False),
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "EMPTY_TUPLE": lambda m, _: m._stack.append(()),
    "EMPTY_SET": lambda m, _: m._stack.append(set()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "TUPLE": _Machine.tuple_to_mark,
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "FROZENSET": _Machine.frozen_set,
    "MARK": _Machine.mark,
    "POP": _Machine.pop_one,
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": _Machine.remember_next,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object,
    "BUILD": _Machine.build,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPERSID": _Machine.persistent,
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.nothing),
    **dict.fromkeys(("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"), _Machine.refused),
}
