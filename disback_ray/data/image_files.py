"""Images for evaluation: what listing.py finds, or arrays, one image after the other, whole and in the order of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from disback_ray.data.arrays import DRAWN, read_arrays
from disback_ray.data.listing import listing
from disback_ray.data.pixels import CorruptImage, complaint, note, whole
from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder

STEP = 1 / 127.5
"""Of a pixel: floats may be so far outside of [-1, 1], which rounding to bfloat16 does to them."""


@dataclass
class ImageFiles:
    """A source of images. skip_corrupt: pass over what can't be read, and count it in `skipped`, instead of refusing the source.

    given: the names of the images in the last part; looked: at so many so far. sha256: of all names and bytes that were read so far;
    whole once all parts were taken. odd: the first image so far that is of another size than those before it, with both sizes; empty
    where there is none.
    """

    where: str
    skip_corrupt: bool = False
    skipped: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    looked: int = 0
    odd: str = ""

    def __post_init__(self) -> None:
        self._sha = hashlib.sha256()
        self._images = self._read()

    @property
    def name(self) -> str:
        return self.where.rstrip("/").rpartition("/")[2]

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def parts(self, size: int, *, most: int | None = None) -> Iterator[list[np.ndarray]]:
        """Decoded images in parts of `size`: uint8 [H, W, 1 or 3] each. most: end after so many; the next call goes on from there.

        Raises CheckpointError where the source is missing or holds no image; and where images are corrupt, once as many were looked at
        as were asked for.
        """
        part: list[np.ndarray] = []
        names: list[str] = []
        corrupt: list[tuple[str, str]] = []
        count = 0
        for name, image in self._images:
            self.looked += 1
            if isinstance(image, CorruptImage) and self.skip_corrupt:
                self.skipped.append(name)
                continue
            count += 1
            if isinstance(image, CorruptImage):
                corrupt.append((name, str(image)))
            elif not corrupt:
                part.append(image)
                names.append(name)
            if len(part) == size and not corrupt:
                self.given = names
                yield part
                part, names = [], []
            if count == most:
                break
        if corrupt:
            raise CheckpointError(complaint(self.where, corrupt, of=self.looked))
        if part:
            self.given = names
            yield part
        if self.looked == len(self.skipped):
            raise CheckpointError(f"{self.where}: holds no image{f' that can be read, of {self.looked}' if self.looked else ''}")

    def _read(self) -> Iterator[tuple[str, np.ndarray | CorruptImage]]:
        """Each image's name and pixels, or what is wrong with it."""
        if self.where.endswith(".npz"):
            yield from ((f"row {row}", image) for row, image in enumerate(self._arrays()))
            return
        size: tuple[int, ...] = ()
        for share in listing(self.where, labelled=False).shares:
            for name, data in share.read():
                try:
                    image = whole(data)
                except CorruptImage as error:
                    yield name, error
                    continue
                assert isinstance(data, bytes)  # what can't be had, whole() has raised
                self._sha.update(f"{name} {len(data)}\n".encode() + data)
                high, wide = image.shape[:2]
                size = size or (high, wide)
                if not self.odd and size != (high, wide):
                    self.odd = f"{name} has {high} × {wide} pixels, those before it {size[0]} × {size[1]}"
                yield name, image

    def _arrays(self) -> Iterator[np.ndarray]:
        """`x` or `arr_0`: floats [N, C, H, W] in [-1, 1], or uint8, also [N, H, W, C]. C: 1 or 3.

        With `drawn`, as `disback-ray sample` writes it, they are a model's, and what lies outside is cut off, as everywhere with those.
        """
        folder, name = Folder.of_file(self.where)
        if folder.size(name) is None:
            raise CheckpointError(f"{self.where}: no such file")
        data = folder.read(name)
        self._sha.update(data)
        arrays = read_arrays(data, ("x", "arr_0", DRAWN), where=self.where)
        key = next((key for key in ("x", "arr_0") if key in arrays), None)
        if key is None:
            raise CheckpointError(f"{self.where}: has neither x nor arr_0: no images")
        x = arrays[key]
        last = x.ndim == 4 and x.dtype == np.uint8 and x.shape[3] in (1, 3)
        if x.ndim != 4 or not (last or x.shape[1] in (1, 3)):
            raise CheckpointError(
                f"{self.where}: {key} has shape {x.shape}: no images, which are [N, C, H, W] with 1 or 3 channels"
            )
        if x.dtype == np.uint8:
            yield from (x if last else x.transpose(0, 2, 3, 1))
            return
        expected = "expected uint8, 0 … 255, or floats in [-1, 1]"
        if not np.issubdtype(x.dtype, np.floating):
            raise CheckpointError(f"{self.where}: {key} is of {x.dtype}: {expected}")
        if not np.isfinite(x).all():
            raise CheckpointError(
                f"{self.where}: {key} has NaN or Inf{': the generator may have diverged' if DRAWN in arrays else ''}"
            )
        if x.size and DRAWN not in arrays and max(-x.min(), x.max()) > 1 + STEP:
            raise CheckpointError(f"{self.where}: {key} goes from {x.min():.4g} to {x.max():.4g}: {expected}")
        for image in x.astype(np.float32, copy=False):
            yield np.rint(image.transpose(1, 2, 0) * 127.5 + 127.5).clip(0, 255).astype(np.uint8)

    def note(self) -> str:
        """What was passed over, in a line; empty where nothing was."""
        return note(self.where, self.skipped)
