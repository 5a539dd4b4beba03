"""Images at one resolution, ready to be drawn from: one array of bytes in the cache, which every worker maps into its memory.

Each draw is keyed by (seed, step, sample), as all are, so the array is indexed anywhere at any time. A stream (Ray Data's, which gives
blocks in the order in which they come) couldn't do that: it is what the array is made with, once, see actors/image_decoder.py.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Drawn
from disback_ray.data.listing import Listing, listing
from disback_ray.data.pixels import CorruptImage, complaint, note, square
from disback_ray.data.shares import Share
from disback_ray.data.sources import DigitsData, GridData, ImagesData, RingData
from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder

PIXELS, LABELS, SETTINGS = "pixels.uint8", "labels.int64", "images.json"


@dataclass(frozen=True)
class Decoded:
    """A share's images. pixels: uint8 [n, C, H, W]; kept: their places in the share, rising; corrupt: name and reason of the others."""

    pixels: np.ndarray
    kept: tuple[int, ...]
    corrupt: tuple[tuple[str, str], ...]


Decode = Callable[[Sequence[Share], ImagesData], Iterable[Decoded]]
"""Decodes shares, and gives them in their order: here, or all over a cluster."""


@dataclass(frozen=True, kw_only=True)
class PreparedImages(ImagesData):
    """What ImagesData names, in the cache. sha256: of pixels and labels, which is all that a teacher's weights depend on."""

    folder: Folder
    sha256: str
    count: int
    classes: int

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what is drawn: not where it lies, nor what it was read from."""
        return {"kind": self.kind, "sha256": self.sha256, "shape": self.shape, "classes": self.classes}

    def draw(self, batch: Batch) -> Drawn:
        """Images drawn with replacement, keyed by the batch: x [B, C, H, W] in [-1, 1], condition [B] or None."""
        chosen = batch.integers("data", self.count).numpy()
        pixels, labels = _opened(self.folder, self.count, self.shape)
        x = torch.from_numpy(pixels[chosen]).float() / 127.5 - 1
        return Drawn(x, torch.from_numpy(labels[chosen]) if self.classes else None)

    def pixels(self) -> np.ndarray:
        """All of them, for measures: uint8 [count, C, H, W], mapped. Raises CheckpointError."""
        return _opened(self.folder, self.count, self.shape)[0]


DataSpec = DigitsData | RingData | GridData | PreparedImages


def decode_here(shares: Sequence[Share], data: ImagesData) -> Iterator[Decoded]:
    """One after the other in this process. Raises CheckpointError where a share can't be read."""
    return (decoded(share, data) for share in shares)


def decoded(share: Share, data: ImagesData) -> Decoded:
    """Raises CheckpointError where the share can't be read as a whole."""
    pixels, kept, corrupt = [], [], []
    for place, (name, encoded) in enumerate(share.read()):
        try:
            pixels.append(square(encoded, resolution=data.resolution, grey=data.grey))
            kept.append(place)
        except CorruptImage as error:
            corrupt.append((name, str(error)))
    shape = (len(pixels), *data.shape)
    return Decoded(np.stack(pixels) if pixels else np.empty(shape, np.uint8), tuple(kept), tuple(corrupt))


def prepare(data: ImagesData, cache: Folder, *, decode: Decode, report: Callable[[int, int], None]) -> PreparedImages:
    """Reads the images into the cache, once for the same names, sizes and times; report(done, count) is called as they come.

    Raises CheckpointError where there are none, or no labels that are asked for, or corrupt ones that may not be skipped; then nothing
    is left behind.
    """
    found = listing(data.path, labelled=data.conditional)
    asked = [found.fingerprint, data.resolution, data.grey, data.conditional, data.skip_corrupt]
    folder = cache / f"images-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]}"
    if not folder.has(SETTINGS):
        _write(folder, found, data, decode, report)
    kept = folder.read_json(SETTINGS)
    return PreparedImages(
        data.path, data.resolution, data.conditional, data.grey, data.skip_corrupt,
        folder=folder, sha256=kept["sha256"], count=kept["count"], classes=len(kept["classes"]),
    )  # fmt: skip


def skipped(data: PreparedImages) -> list[list[str]]:
    """Name and reason of each corrupt image that was left out. Raises CheckpointError."""
    return list(data.folder.read_json(SETTINGS)["corrupt"])


def left_out(data: PreparedImages) -> str:
    """What was left out, in a line; empty where nothing was. All names and reasons are in images.json. Raises CheckpointError."""
    return note(data.path, [name for name, _ in skipped(data)])


def class_names(data: PreparedImages) -> list[str]:
    """Raises CheckpointError."""
    return list(data.folder.read_json(SETTINGS)["classes"])


def _write(folder: Folder, found: Listing, data: ImagesData, decode: Decode, report: Callable[[int, int], None]) -> None:
    kept: list[int] = []
    corrupt: list[tuple[str, str]] = []
    sha, done = hashlib.sha256(), 0
    with folder.writing(PIXELS) as file:
        for part in decode(found.shares, data):
            if part.corrupt and not data.skip_corrupt:
                raise CheckpointError(complaint(found.where, part.corrupt))
            bytes_ = part.pixels.tobytes()
            file.write(bytes_)
            sha.update(bytes_)
            kept += [done + place for place in part.kept]
            corrupt += part.corrupt
            done += len(part.kept) + len(part.corrupt)
            report(done, found.count)
        if not kept:
            raise CheckpointError(
                f"{found.where}: none of its {found.count} images can be read; {complaint(found.where, corrupt)}"
            )
    if done != found.count:
        raise CheckpointError(f"{found.where}: changed while it was read: {found.count} images were listed, and {done} read")
    labels = np.zeros(0, np.int64) if found.labels is None else found.labels[kept]
    sha.update(labels.tobytes())
    with folder.writing(LABELS) as file:
        file.write(labels.tobytes())
    settings = {
        "where": found.where, "count": len(kept), "shape": list(data.shape), "classes": list(found.classes) if data.conditional else [],
        "corrupt": [list(each) for each in corrupt], "sha256": sha.hexdigest(),
    }  # fmt: skip
    folder.write_json(SETTINGS, settings)


@lru_cache(maxsize=2)
def _opened(folder: Folder, count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The arrays, mapped. Storage that can't be mapped is copied once, to a file that goes with the process."""
    size = count * int(np.prod(shape))
    if folder.size(PIXELS) != size:
        raise CheckpointError(f"{folder.uri}/{PIXELS} is missing or cut short: delete that folder, and it is made again")
    labels = np.frombuffer(folder.read(LABELS), np.int64)
    if folder.is_local:
        return np.memmap(folder.local_path / PIXELS, np.uint8, "r", shape=(count, *shape)), labels
    with tempfile.TemporaryFile() as copy, folder.open_file(PIXELS) as stream:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        return np.memmap(copy, np.uint8, "r", shape=(count, *shape)), labels
