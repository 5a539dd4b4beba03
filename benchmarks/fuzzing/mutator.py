"""Damages bytes: a few random changes to one of some honest files, fast, and the same ones for the same random numbers."""

import random
from collections.abc import Sequence

NUMBERS = [(n & (1 << 8 * size) - 1).to_bytes(size, order) for size in (1, 2, 4, 8) for n in (0, 1, -1, 1 << 8 * size - 1, (1 << 31) - 1)
           for order in ("little", "big")]  # fmt: skip
WORDS = (
    *NUMBERS, b"\x00", b"\n", b"\xff" * 4, b"..", b"/", b"../../x", b"\\", b"{", b"[" * 200, b"[" * 100_000,
    b'"', b"null", b"NaN", b"1e999", b"-1",
    b"cos\nsystem\n(X\x0e\x00\x00\x00touch executedtR", b"cbuiltins\neval\n", 
    b"\x8c\x02os\x8c\x06system\x93", b"R", b".", b"(", b"}", b"\x80\x04",
    b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"PAR1", b"\x89PNG\r\n\x1a\n", b"IDAT", b"!!python/object/apply:os.system", b"&a", b"*a",
)  # fmt: skip
"""What formats are made of, and what is tried on them."""


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with one to eight changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 + int(8 * rng.random() ** 3)):
        _change(rng, data, seeds)
    return bytes(data)


def _change(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    size = len(data)
    at = rng.randrange(size) if size else 0
    # Where a format says what follows is mostly at its ends.
    if size > 400 and rng.random() < 0.5:
        at = rng.choice((at % 200, size - 1 - at % 200))
    match rng.randrange(8):
        case 0 if size:
            data[at] ^= 1 << rng.randrange(8)
        case 1 if size:
            data[at] = rng.randrange(256)
        case 2:
            data[at:at] = rng.choice(WORDS)
        case 3:
            word = rng.choice(WORDS)
            data[at : at + len(word)] = word
        case 4:
            del data[at : at + rng.randint(1, 64)]
        case 5:
            del data[at:]
        case 6:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        case _:
            other = rng.choice(seeds)
            start = rng.randrange(len(other)) if other else 0
            data[at : at + 64] = other[start : start + 64]
