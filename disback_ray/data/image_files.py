"""Images for evaluation from a folder, a zip, a parquet file or arrays: one after the other, in the order of their names.

Only what measuring needs, decoded pixels and where they came from; the readers for training are beside this file.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
COLUMNS = ("image", "img", "jpg", "png", "bytes")  # of a parquet file, the first that is there
NAMED = 3  # corrupt images in a message

Encoded = tuple[str, bytes]


@dataclass
class ImageFiles:
    """A source of images. skip_corrupt: pass over what can't be read, and count it in `skipped`, instead of ending there.

    sha256: of all names and bytes that were read so far; whole once all parts were taken.
    """

    where: str
    skip_corrupt: bool = False
    skipped: list[str] = field(default_factory=list)

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
        for name, data in self._encoded():
            try:
                image = decode(data)
            except CheckpointError as error:
                if not self.skip_corrupt:
                    raise CheckpointError(
                        f"{self.where}: {name}: {error}; mend or remove it, or pass over such with --skip-corrupt"
                    ) from None
                self.skipped.append(name)
                continue
            self._sha.update(f"{name} {len(data)}\n".encode() + data)
            yield image

    def _encoded(self) -> Iterator[Encoded]:
        folder, name = Folder.of_file(self.where)
        if folder.size(name) is None:
            yield from _of_folder(Folder.at(self.where))
        elif name.endswith(".zip"):
            yield from _of_zip(folder, name)
        elif name.endswith(".parquet"):
            yield from _of_parquet(folder, name)
        else:
            raise CheckpointError(f"{self.where}: expected a folder of images, a .zip, a .parquet or an .npz")

    def _arrays(self) -> Iterator[np.ndarray]:
        """`x`: [N, C, H, W] in [-1, 1], as `disback-ray sample` writes them, or `arr_0`: uint8 [N, H, W, C]."""
        folder, name = Folder.of_file(self.where)
        data = folder.read(name)
        self._sha.update(data)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                key = next((key for key in ("x", "arr_0") if key in arrays.files), None)
                if key is None:
                    raise CheckpointError(f"{self.where}: has neither x nor arr_0, but {', '.join(arrays.files)}: no images")
                x = arrays[key]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.where}: damaged: {' '.join(str(error).split())[:160]}") from None
        if x.ndim != 4:
            raise CheckpointError(f"{self.where}: {key} has shape {x.shape}: no images")
        if x.dtype == np.uint8:
            yield from (x if x.shape[3] in (1, 3) else x.transpose(0, 2, 3, 1))
            return
        if not np.isfinite(x).all():
            raise CheckpointError(f"{self.where}: {key} has NaN or Inf: the generator may have diverged")
        for image in x:
            yield np.rint(image.transpose(1, 2, 0) * 127.5 + 127.5).clip(0, 255).astype(np.uint8)

    def note(self) -> str:
        """What was passed over, in a line; empty where nothing was."""
        if not self.skipped:
            return ""
        more = f" and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
        return f"{self.where}: {len(self.skipped)} corrupt images skipped: {', '.join(self.skipped[:NAMED])}{more}"


def decode(data: bytes) -> np.ndarray:
    """An image file's pixels: uint8 [H, W, 1] where it is grey, else [H, W, 3]. Raises CheckpointError where it is corrupt."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened if opened.mode == "L" else opened.convert("RGB")
            pixels = np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise CheckpointError(f"corrupt, or no image ({type(error).__name__})") from None
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _of_folder(folder: Folder) -> Iterator[Encoded]:
    if not folder.has(""):
        raise CheckpointError(f"{folder.uri}: no such file or folder")
    for name in folder.walk():
        if name.lower().endswith(ENDINGS):
            yield name, folder.read(name)


def _of_zip(folder: Folder, name: str) -> Iterator[Encoded]:
    where = f"{folder.uri}/{name}"
    try:
        with folder.open_file(name) as file, zipfile.ZipFile(file) as archive:
            for inside in sorted(n for n in archive.namelist() if n.lower().endswith(ENDINGS)):
                try:
                    yield inside, archive.read(inside)
                except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
                    yield inside, b""  # corrupt: decoding says so
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{where}: no zip, or a damaged one: {error}") from None


def _of_parquet(folder: Folder, name: str) -> Iterator[Encoded]:
    """A column of encoded images, or of {bytes, path} as Hugging Face's data sets have."""
    where = f"{folder.uri}/{name}"
    try:
        with folder.open_file(name) as file:
            table = pq.ParquetFile(file)
            column = next((c for c in COLUMNS if c in table.schema_arrow.names), None)
            if column is None:
                raise CheckpointError(f"{where}: no column {', '.join(COLUMNS)}; it has {', '.join(table.schema_arrow.names)}")
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield f"row {row}", _bytes_of(value)
                    row += 1
    except pa.ArrowException as error:
        raise CheckpointError(f"{where}: damaged, or no parquet: {str(error).splitlines()[0]}") from None


def _bytes_of(value: Any) -> bytes:
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else b""
