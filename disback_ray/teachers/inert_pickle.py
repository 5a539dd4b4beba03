"""Reads a pickle without executing it.

An interpreter of the pickle opcodes that imports nothing and calls nothing but the functions that it is given. A symbol
is a name on its stack, good for looking up one of those functions; any other symbol or opcode ends the reading.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from disback_ray.errors import CheckpointError

MAX_OPERATIONS = 2_000_000  # the largest of the known checkpoints need about 100,000

Constructor = Callable[..., object]


@dataclass(frozen=True)
class Symbol:
    """A name that the file wants imported: inert."""

    name: str


class Built:
    """An instance that the file may give a state, once; what `constructors` return may derive from it."""

    def __init__(self) -> None:
        self.state: Any = None

    def build(self, state: Any) -> None:
        if self.state is not None:
            raise ValueError("an object's state is set twice")
        self.state = state


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TEXTS_AND_BYTES = {f"{size}BIN{kind}" for kind in ("UNICODE", "BYTES") for size in ("SHORT_", "")} | {"BINUNICODE8", "BINBYTES8"}
_LITERALS = _TEXTS_AND_BYTES | {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(
    data: bytes | BinaryIO,
    constructors: Mapping[str, Constructor],
    *,
    persistent: Callable[[Any], object] | None = None,
    most: int | None = None,
) -> Any:
    """The object in a pickle of protocol 4 (Python's own since 3.8) or 5; of 2 and 3 where it holds no sets and no bytes.

    data: bytes, which hold nothing else, or a stream, which is left behind the pickle's end.
    constructors: 'module.name' → what stands in for it. They may raise TypeError or ValueError for arguments that they don't take.
    persistent: what a persistent id stands for (a Symbol in it is a name); it may raise the same. Without it there are none.
    most: operations, each of which takes some microseconds; by default more than any known checkpoint needs.
    Raises CheckpointError for a symbol without a constructor, which it names, and for a damaged or unusual pickle.
    """
    machine, limit = _Machine(constructors, persistent), most or MAX_OPERATIONS
    operations = pickletools.genops(data)
    try:
        for count, (opcode, argument, position) in enumerate(operations):
            if opcode.name == "STOP":
                if isinstance(data, bytes) and (position is None or position + 1 != len(data)):
                    raise ValueError("something follows the end of the pickle")
                return machine.result()
            if count >= limit:
                raise ValueError(f"more than {limit} operations")
            machine.step(opcode.name, argument)
    except (TypeError, ValueError, LookupError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"not a pickle that can be read safely, or damaged ({reason:.200})") from None
    raise CheckpointError("the pickle has no end: it is cut off")


class _Machine:
    """The stack, its marks and the memo."""

    def __init__(self, constructors: Mapping[str, Constructor], persistent: Callable[[Any], object] | None) -> None:
        self.constructors, self.persistent = constructors, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, operation: str, argument: Any) -> None:
        stack = self.stack
        if operation in _LITERALS:
            stack.append(argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in _EMPTY:
            stack.append(_EMPTY[operation]())
        elif operation in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[operation])))
        elif operation == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif operation == "MARK":
            self.marks.append(len(stack))
        elif operation == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif operation in ("APPEND", "APPENDS"):
            values = self._pop(1) if operation == "APPEND" else self._pop_to_mark()
            self._top(list).extend(values)
        elif operation in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if operation == "SETITEM" else self._pop_to_mark())
        elif operation == "GLOBAL":
            self._push_symbol(*argument.split(" ", 1))
        elif operation == "STACK_GLOBAL":
            self._push_symbol(*self._pop(2))
        elif operation in ("REDUCE", "NEWOBJ"):
            self._construct(*self._pop(2))
        elif operation == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(*self._pop(1)))
        elif operation == "BUILD":
            self._build(*self._pop(1))
        elif operation not in ("PROTO", "FRAME"):
            raise ValueError(f"the opcode {operation} has no place in a checkpoint")

    def result(self) -> Any:
        if self.marks or len(self.stack) != 1:
            raise ValueError("it ends with something left over, or nothing")
        return self.stack[0]

    def _pop(self, count: int) -> list[Any]:
        floor = len(self.stack) - count
        if floor < (self.marks[-1] if self.marks else 0):
            raise ValueError("an operation without its operands")
        values = self.stack[floor:]
        del self.stack[floor:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError("an operation on a value that doesn't take it")
        return self.stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        keys = values[::2]
        # Text and numbers only: hashing a tuple nested a million deep would overflow the C stack.
        if not all(isinstance(key, str | int) for key in keys):
            raise TypeError("a dictionary key that is not text or a number")
        self._top(dict).update(zip(keys, values[1::2], strict=True))

    def _build(self, state: Any) -> None:
        if isinstance(stack_top := self.stack[-1], dict) and state == {}:
            return  # what some versions of Python write after a subclass of dict
        if not isinstance(stack_top, Built):
            raise TypeError("a state for a value that takes none")
        stack_top.build(state)

    def _push_symbol(self, module: Any, name: Any) -> None:
        symbol = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "not text"
        if symbol not in self.constructors:
            raise CheckpointError(f"it asks for {ascii(symbol)[1:-1]:.120}, which is refused: nothing in it was executed")
        self.stack.append(Symbol(symbol))

    def _construct(self, symbol: Any, arguments: Any) -> None:
        if not isinstance(symbol, Symbol) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a symbol")
        self.stack.append(self.constructors[symbol.name](*arguments))
