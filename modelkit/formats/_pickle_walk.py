"""Follow a pickle without running it: which callables it names, and which data it would build.

A pickle is a program for a small stack machine. The standard library's `pickletools` cuts it into instructions;
this machine carries them out on descriptions: a callable becomes its name, a call becomes a Call. Everything
that is not on the list of harmless callables is reported, called or only named. A stream that breaks is never
clean, and what follows STOP is followed too.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

from modelkit.formats._pickle_values import Call, Global, Persistent, Table, harmless

MOST_STEPS = 2_000_000  # instructions of one file, all its streams together; some seconds
LARGEST = 64 * 2**20  # bytes of one stream
DEEPEST = 1_000_000  # entries of stack and memo


@dataclass(slots=True)
class Walk:
    """One stream. `calls` are callables that are not harmless, with their place; `broken` says why it ended early.

    `ran`: one of them would be called. `storages` are the keys of those that lie outside the pickle.
    """

    calls: list[tuple[str, int]] = field(default_factory=list)
    ran: bool = False
    storages: set[str] = field(default_factory=set)
    value: Any = None
    end: int = 0  # position behind STOP
    broken: str = ""
    at: int = 0  # of the last instruction
    steps: int = 0
    exhausted: bool = False


class _Bad(Exception):
    """The stream cannot be followed."""


def walk(data: bytes, steps: int = MOST_STEPS) -> Walk:
    """Follow one stream from the beginning of `data`; never raises for what it holds."""
    found = Walk()
    machine = _Machine(found)
    try:
        for code, argument, at in pickletools.genops(data[:LARGEST]):
            found.at, found.steps = at or 0, found.steps + 1
            if found.steps > steps:
                found.exhausted = True
                found.broken = f"it has more than {steps:,} instructions"
                return found
            if code.name == "STOP":
                found.value = machine.pop()
                found.end = (at or 0) + 1
                return found
            machine.step(code.name, argument)
        found.broken = "it ends without STOP"
    except _Bad as error:
        found.broken = str(error)
    except (ValueError, IndexError, OverflowError, RecursionError, MemoryError, UnicodeError, TypeError) as error:
        found.broken = f"it cannot be cut into instructions ({type(error).__name__})"
    return found


_MARK = object()


class _Machine:
    """The stack machine, on descriptions."""

    def __init__(self, found: Walk) -> None:
        self.found = found
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME"):
            if name == "PROTO" and argument > 5:
                raise _Bad(f"protocol {argument} does not exist")
        elif name == "MARK":
            self.push(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.remember(len(self.memo) if name == "MEMOIZE" else int(argument))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            if int(argument) not in self.memo:
                raise _Bad(f"it recalls entry {argument}, which was never kept")
            self.push(self.memo[int(argument)])
        elif name in _BUILDERS:
            _BUILDERS[name](self)
        else:
            self.call(name, argument)

    def call(self, name: str, argument: Any) -> None:
        """Everything that names or calls something."""
        if name == "GLOBAL":
            self.push(self.named(str(argument).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            word, module = self.pop(), self.pop()
            known = isinstance(word, str) and isinstance(module, str)
            self.push(self.named(f"{module}.{word}" if known else "a computed name"))
        elif name in ("INST", "OBJ"):
            items = self.marked()
            function = self.named(str(argument).replace(" ", ".", 1)) if name == "INST" else items.pop(0)
            self.push(self.called(function, tuple(items)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
            self.push(self.called(function, arguments))
        elif name == "NEWOBJ_EX":
            _, arguments, function = self.pop(), self.pop(), self.pop()
            self.push(self.called(function, arguments))
        elif name in ("EXT1", "EXT2", "EXT4"):
            self.push(self.named(f"extension {argument} of copyreg"))
        elif name == "PERSID":
            self.push(Persistent(argument))
        elif name == "BINPERSID":
            value = self.pop()
            if isinstance(value, tuple) and len(value) > 2 and value[0] == "storage" and isinstance(value[2], str):
                self.found.storages.add(value[2])
            self.push(Persistent(value))
        else:
            raise _Bad(f"instruction {name} is not understood")

    def named(self, name: str) -> Global:
        if not harmless(name):
            self.found.calls.append((name, self.found.at))
        return Global(name)

    def called(self, function: Any, arguments: Any) -> Call:
        """The function is a name, or something computed: then nobody can say what it is."""
        if not isinstance(function, Global):
            self.found.calls.append(("a computed callable", self.found.at))
            self.found.ran = True
            return Call("", arguments)
        self.found.ran = self.found.ran or not harmless(function.name)
        return Call(function.name, arguments)

    def push(self, value: Any) -> None:
        if len(self.stack) >= DEEPEST:
            raise _Bad("its stack grows without end")
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Bad("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Bad("it takes from an empty stack")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise _Bad("it goes back to a mark that was never set")

    def remember(self, place: int) -> None:
        if len(self.memo) >= DEEPEST:
            raise _Bad("its memory grows without end")
        self.memo[place] = self.top()

    def put(self, pairs: list[tuple[Any, Any]]) -> None:
        into = self.top()
        if isinstance(into, (Table, Call)):
            into.items += pairs

    def extend(self, items: list[Any]) -> None:
        into = self.top()
        if isinstance(into, list):
            into += items
        elif isinstance(into, Call):
            into.items += [(None, item) for item in items]

    def build(self) -> None:
        state, into = self.pop(), self.top()
        if isinstance(into, Call):
            into.state = state

    def put_marked(self) -> None:
        items = self.marked()
        self.put(list(zip(items[::2], items[1::2], strict=False)))

    def put_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.put([(key, value)])

    def tuple_of(self, count: int) -> None:
        items = tuple(self.pop() for _ in range(count))[::-1]
        self.push(items)

    def dict_marked(self) -> None:
        items = self.marked()
        self.push(Table(list(zip(items[::2], items[1::2], strict=False))))

    def drop(self) -> None:
        if not self.stack:
            raise _Bad("it takes from an empty stack")
        self.stack.pop()  # a mark may be dropped too


_PUSHED = frozenset((
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "FLOAT", "BINFLOAT",
))  # fmt: skip
_CONSTANTS: dict[str, Any] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_DICT": Table, "EMPTY_SET": list,
}  # fmt: skip
_BUILDERS: dict[str, Any] = {
    "APPEND": lambda machine: machine.extend([machine.pop()]),
    "APPENDS": lambda machine: machine.extend(machine.marked()),
    "ADDITEMS": lambda machine: machine.extend(machine.marked()),
    "LIST": lambda machine: machine.push(machine.marked()),
    "TUPLE": lambda machine: machine.push(tuple(machine.marked())),
    "FROZENSET": lambda machine: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "DICT": _Machine.dict_marked,
    "SETITEM": _Machine.put_one,
    "SETITEMS": _Machine.put_marked,
    "BUILD": _Machine.build,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.marked,
    "DUP": lambda machine: machine.push(machine.top()),
}
