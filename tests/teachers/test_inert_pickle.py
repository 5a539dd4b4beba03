"""The pickle interpreter, fed opcode by opcode: it builds plain values, and calls nothing but what it is given."""

import copyreg
import pickle
import tracemalloc
from typing import Any

import pytest

from disback_ray.errors import CheckpointError
from disback_ray.teachers.inert_pickle import Built, read_pickle

calls: list[tuple[object, ...]] = []


def allowed(*arguments: object) -> Built:
    calls.append(arguments)
    return Built()


def dictionary() -> dict[str, Any]:
    return {}


CONSTRUCTORS = {"package.module.allowed": allowed, "collections.OrderedDict": dictionary}
ALLOWED = b"cpackage.module\nallowed\n"

PLAIN = [
    None, True, False, 0, 255, 65535, -1, 1 << 31, -(1 << 80), 1.5, "text", "ünï", "x" * 300, b"bytes", b"b" * 300,
    [], {}, (), set(), [1, [2, [3]]], (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": {"b": [1]}, 3: 4}, [{}] * 2,
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: ascii(value)[:20])
def test_plain_values_come_back(value: object) -> None:
    # Protocol 2 writes bytes and sets as calls, which are not allowed here.
    for protocol in (4, 5) if isinstance(value, bytes | set) else (2, 3, 4, 5):
        assert read_pickle(pickle.dumps(value, protocol=protocol), {}) == value


def test_an_empty_state_of_a_dictionary_is_nothing() -> None:
    assert read_pickle(b"ccollections\nOrderedDict\n)\x81K\x01K\x02s}b.", CONSTRUCTORS) == {1: 2}


def test_shared_values_stay_shared() -> None:
    inner = [1]
    first, second = read_pickle(pickle.dumps([inner, inner]), {})
    assert first is second


def test_only_what_is_allowed_is_called() -> None:
    calls.clear()
    built = read_pickle(b"\x80\x02" + ALLOWED + b"K\x01K\x02\x86RK\x07b.", CONSTRUCTORS)
    assert calls == [(1, 2)]
    assert built.state == 7


HUGE = (1 << 62).to_bytes(8, "little")
NEST = 100_000
OPCODES: dict[str, bytes] = {
    "a symbol": b"cos\nsystem\n.",
    "a symbol in two texts": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a symbol from the memo": b"\x80\x04\x8c\x08builtins\x94\x8c\x04eval\x94h\x00h\x01\x93.",
    "a memo slot written twice": b"\x80\x04\x8c\x0epackage.moduleq\x00\x8c\x08builtinsq\x00\x8c\x04evalq\x01h\x00h\x01\x93.",
    "a symbol of numbers": b"\x80\x04K\x01K\x02\x93.",
    "an attribute of a symbol": b"cpackage.module\nallowed.__globals__\n.",
    "a symbol without a module": b"c\nallowed\n.",
    "INST": b"(S'touch executed'\nios\nsystem\n.",
    "INST of an allowed symbol": b"(ipackage.module\nallowed\n.",
    "OBJ": b"(" + ALLOWED + b"o.",
    "EXT1": b"\x82\xf0.",
    "EXT4": b"\x84\xf0\x00\x00\x00.",
    "PERSID": b"Pname\n.",
    "BINPERSID": b"K\x01Q.",
    "NEWOBJ_EX": b"\x80\x04" + ALLOWED + b")}\x92.",
    "DUP": b"K\x012.",
    "POP": b"K\x01K\x010.",
    "POP_MARK": b"K\x01(K\x011.",
    "ADDITEMS": b"\x80\x04\x8f(K\x01\x90.",
    "FROZENSET": b"\x80\x04(K\x01\x91.",
    "BYTEARRAY8": b"\x80\x05\x96" + bytes(8) + b".",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "STRING": b"S'text'\n.",
    "a call of text": b"X\x02\x00\x00\x00os)R.",
    "a call of what a call made": ALLOWED + b")R)R.",
    "a call with a list": ALLOWED + b"]R.",
    "a call without arguments": ALLOWED + b"R.",
    "a call with too many arguments": b"ccollections\nOrderedDict\nK\x01\x85R.",
    "a state for a symbol": ALLOWED + b"}b.",
    "a state for a dictionary": b"}}K\x01K\x02sb.",
    "a state for a list": b"]}b.",
    "a state of a symbol's attributes": ALLOWED + b"N}X\x0b\x00\x00\x00__globals__}s\x86b.",
    "two states": ALLOWED + b")RK\x01bK\x02b.",
    "an item of a symbol": ALLOWED + b"K\x01K\x02s.",
    "an item of an object": ALLOWED + b")RK\x01K\x02s.",
    "an append to a symbol": ALLOWED + b"K\x01a.",
    "an append to a tuple": b")K\x01a.",
    "a tuple as a key": b"})K\x01s.",
    "a symbol as a key": b"}" + ALLOWED + b"K\x01s.",
    "a key without a value": b"}(K\x01u.",
    "nothing on the stack": b"R.",
    "nothing but a mark": b"((t\x85.",
    "operands below a mark": b"]K\x01(a.",
    "a mark that isn't there": b"K\x01t.",
    "a memo slot that isn't there": b"h\x07.",
    "two values": b"K\x01K\x01.",
    "no value": b".",
    "no end": b"K\x01",
    "more after the end": b"K\x01.K\x01.",
    "an unknown opcode": b"\xff.",
    "a protocol to come": b"\x80\x09\xfe.",
    "invalid text": b"X\x02\x00\x00\x00\xff\xfe.",
    "a symbol cut off": b"cos\nsys",
    "nothing": b"",
    "huge bytes": b"\x80\x04\x8e" + HUGE + b"x.",
    "huge text": b"\x80\x04\x8d" + HUGE + b"x.",
    "huge 4-byte text": b"X\xff\xff\xff\xffx.",
    "a huge bytearray": b"\x80\x05\x96" + HUGE + b"x.",
    "a huge number": b"\x8b\xff\xff\xff\x7fx.",
    "a huge decimal": b"I" + b"9" * 100_000 + b"\n.",
    "a negative length": b"\x8b\xff\xff\xff\xffx.",
    "a huge frame": b"\x80\x04\x95" + HUGE + b"x.",
    "a deep key": b"}" + b")" + b"\x85" * NEST + b"K\x01s.",
}


@pytest.mark.parametrize("kind", OPCODES)
def test_anything_else_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_pickle(OPCODES[kind], CONSTRUCTORS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_refused_symbol_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read_pickle(OPCODES["a symbol"], CONSTRUCTORS)


def test_a_far_memo_slot_costs_nothing() -> None:
    """The stock unpickler's memo is a list that would grow to 32 GB here."""
    assert read_pickle(b"K\x01r\xff\xff\xff\x7f.", {}) == 1


def test_deep_values_can_be_read_and_dropped() -> None:
    for data in (b")" + b"\x85" * NEST + b".", b"]" * NEST + b"a" * (NEST - 1) + b"."):
        value = read_pickle(data, {})
        assert len(value) == 1
        del value


def test_endless_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disback_ray.teachers.inert_pickle.MAX_OPERATIONS", 1000)
    with pytest.raises(CheckpointError, match="1000 operations"):
        read_pickle(b"]" + b"K\x01a" * 600 + b".", {})
