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
    """A source of images. skip_corrupt: pass over what can't be read, and count it in `skipped`, instead of ending there.

    sha256: of all names and bytes that were read so far; whole once all parts were taken. odd: the first image so far that is of another
    size than those before it, with both sizes; empty where there is none.
    """

    where: str
    skip_corrupt: bool = False
    skipped: list[str] = field(default_factory=list)
    odd: str = ""

    def __post_init__(self) -> None:
        self._sha = hashlib.sha256()

    @property
    def name(self) -> str:
        return self.where.rstrip("/").rpartition("/")[2]

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def parts(self, size: int, *, most: int | None = None) -> Iterator[list[np.ndarray]]:
        """Decoded images in parts of `size`: uint8 [H, W, 1 or 3] each. most: end after so many.

        Raises CheckpointError where the source is missing, holds no image, or an image is corrupt.
        """
        part: list[np.ndarray] = []
        count = 0
        for image in self._decoded():
            part.append(image)
            count += 1
            if len(part) == size or count == most:
                yield part
                part = []
            if count == most:
                break
        if part:
            yield part
        if not count:
            raise CheckpointError(
                f"{self.where}: holds no image{f' that can be read, of {len(self.skipped)}' if self.skipped else ''}"
            )

    def _decoded(self) -> Iterator[np.ndarray]:
        if self.where.endswith(".npz"):
            yield from self._arrays()
            return
        size: tuple[int, ...] = ()
        for share in listing(self.where, labelled=False).shares:
            for name, data in share.read():
                try:
                    image = whole(data)
                except CorruptImage as error:
                    if not self.skip_corrupt:
                        raise CheckpointError(complaint(self.where, [(name, str(error))])) from None
                    self.skipped.append(name)
                    continue
                assert isinstance(data, bytes)  # what can't be had, whole() has raised
                self._sha.update(f"{name} {len(data)}\n".encode() + data)
                high, wide = image.shape[:2]
                size = size or (high, wide)
                if not self.odd and size != (high, wide):
                    self.odd = f"{name} has {high} × {wide} pixels, those before it {size[0]} × {size[1]}"
                yield image

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
            raise CheckpointError(f"{self.where}: {key} has NaN or Inf: the generator may have diverged")
        if x.size and DRAWN not in arrays and max(-x.min(), x.max()) > 1 + STEP:
            raise CheckpointError(f"{self.where}: {key} goes from {x.min():.4g} to {x.max():.4g}: {expected}")
        for image in x.astype(np.float32, copy=False):
            yield np.rint(image.transpose(1, 2, 0) * 127.5 + 127.5).clip(0, 255).astype(np.uint8)

    def note(self) -> str:
        """What was passed over, in a line; empty where nothing was."""
        return note(self.where, self.skipped)
