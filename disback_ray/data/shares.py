"""Parts of a folder, a zip or a parquet file: what one process reads at once. They travel; open files don't."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from disback_ray.data.pixels import MOST_BYTES, CorruptImage
from disback_ray.errors import CheckpointError
from disback_ray.storage import DAMAGED_ARROW, Folder

MOST_ROWS = 10_000_000
"""Of a parquet file, unless it has as many bytes as rows."""

Encoded = tuple[str, bytes | CorruptImage]
"""An image's name, for errors, and its file's bytes, or why they can't be had."""


@dataclass(frozen=True)
class FolderShare:
    """Some files of a folder."""

    folder: Folder
    names: tuple[str, ...]

    def read(self) -> Iterator[Encoded]:
        """Raises CheckpointError where a file is not there (any more)."""
        for name in self.names:
            yield name, self.folder.read(name)


@dataclass(frozen=True)
class ZipShare:
    """Some members of a zip."""

    folder: Folder
    file: str
    names: tuple[str, ...]

    def read(self) -> Iterator[Encoded]:
        """Raises CheckpointError where the zip is not there (any more) or damaged as a whole."""
        with open_zip(self.folder, self.file) as archive:
            for name in self.names:
                yield name, read_member(archive, name)


@dataclass(frozen=True)
class ParquetShare:
    """A row group of a parquet file. column: of the images."""

    folder: Folder
    file: str
    group: int
    column: str

    def read(self) -> Iterator[Encoded]:
        """Raises CheckpointError where the file is not there (any more) or damaged."""
        with self.folder.open_file(self.file) as opened, one_line(f"{self.folder.uri}/{self.file}"):
            table = pq.ParquetFile(opened)
            row = sum(table.metadata.row_group(group).num_rows for group in range(self.group))
            for batch in table.iter_batches(batch_size=64, row_groups=[self.group], columns=[self.column]):
                for value in batch.column(0).to_pylist():
                    yield f"{self.file} row {row}", _bytes_of(value)
                    row += 1


Share = FolderShare | ZipShare | ParquetShare


DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError, ValueError, RuntimeError, MemoryError)
"""What zipfile raises for a zip that is damaged, encrypted or packed in a way that it doesn't know."""


def open_zip(folder: Folder, file: str) -> zipfile.ZipFile:
    """Raises CheckpointError where it is missing or no zip."""
    try:
        return zipfile.ZipFile(folder.open_file(file))
    except DAMAGED as error:
        raise CheckpointError(f"{folder.uri}/{file}: not a zip, or damaged: {' '.join(str(error).split())[:120]}") from None


def read_member(archive: zipfile.ZipFile, name: str, *, most: int = MOST_BYTES) -> bytes | CorruptImage:
    """A member's bytes, `most` + 1 at most, whatever the zip says of it; where it is damaged, what zipfile says of that."""
    try:
        with archive.open(name) as member:
            return member.read(most + 1)  # one more than is allowed, which tells
    except DAMAGED as error:
        return CorruptImage(f"damaged in the zip: {' '.join(str(error).split())[:120] or type(error).__name__}")


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Arrow's own errors as CheckpointError."""
    try:
        yield
    except DAMAGED_ARROW as error:
        raise CheckpointError(f"{where}: not parquet, or damaged: {(str(error).splitlines() or [''])[0][:160]}") from None


def refuse_crowd(about: pq.FileMetaData, *, size: int) -> None:
    """size: of the file, in bytes. A repeated row takes none of them. Raises ArrowInvalid, which one_line() knows."""
    if about.num_rows > max(MOST_ROWS, size):
        raise pa.ArrowInvalid(f"{about.num_rows:,} rows in {size:,} bytes; at most {MOST_ROWS:,} are read of so small a file")


def values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; where it is a dictionary, as read_dictionary makes one of text, all rows of a value share one object."""
    found: list[Any] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            known = [*chunk.dictionary.to_pylist(), None]
            found += [known[index] for index in chunk.indices.fill_null(len(known) - 1).to_numpy().tolist()]
        else:
            found += chunk.to_pylist()
    return found


def listed(columns: Iterable[str]) -> str:
    """The names of a file's columns, for a message of one line, whatever they have in them."""
    return " ".join(", ".join(columns).split())[:200]


def _bytes_of(value: Any) -> bytes | CorruptImage:
    """Of a column of bytes, or of Hugging Face's {bytes, path}."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else CorruptImage("no bytes are there")
