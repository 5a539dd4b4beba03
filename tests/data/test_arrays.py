"""Arrays that others made."""

import io
import struct
import zipfile

import pytest

from disback_ray.data.arrays import read_arrays
from disback_ray.errors import CheckpointError


@pytest.mark.parametrize("header", ["{", "{'descr': (", "no dictionary", "{'descr': '<f8'}"])
def test_a_header_that_is_none_is_refused(header: str) -> None:
    """numpy meets these with four kinds of errors."""
    text = header.encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mu.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    with pytest.raises(CheckpointError, match=r"no statistics: no \.npz, or damaged") as refused:
        read_arrays(file.getvalue(), ("mu",), where="no statistics")
    assert "\n" not in str(refused.value)
