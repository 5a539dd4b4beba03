"""An .npz that others made: its arrays by their names, as numbers and texts, and never as pickles."""

import io
import zipfile
from collections.abc import Collection
from tokenize import TokenError

import numpy as np

from disback_ray.data.shares import DAMAGED
from disback_ray.errors import CheckpointError

MOST_BYTES = 16 << 30
"""Unpacked; 50,000 pictures of 256 × 256 pixels have 10 GB."""
DRAWN = "drawn"
"""In an .npz of samples: the seed. A model drew them, and they are what it gave, also outside of [-1, 1]."""


def read_arrays(data: bytes, names: Collection[str], *, where: str, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Those of the names that are there. most: bytes, unpacked. Raises CheckpointError where it is damaged, or has more."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > most:
                raise CheckpointError(f"{where}: unpacked it would be larger than {most >> 30} GiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in names}
    except (*DAMAGED, SyntaxError, TokenError, TypeError) as error:  # the last three of numpy, for a header that is none
        raise CheckpointError(f"{where}: no .npz, or damaged: {' '.join(str(error).split())[:160]}") from None
    if other := next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None):
        raise CheckpointError(f"{where}: {other} is no array")
    return found
