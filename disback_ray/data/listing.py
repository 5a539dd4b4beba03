"""Which images a folder, a zip or a parquet file holds: their order, their labels, and in which parts they are read."""

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from disback_ray.data.labels import LABELS_FILE, folders_of, hugging_face_names, labels_file, labels_of_json, numbered
from disback_ray.data.pixels import CorruptImage
from disback_ray.data.shares import (
    FolderShare,
    ParquetShare,
    Share,
    ZipShare,
    listed,
    one_line,
    open_zip,
    read_member,
    refuse_crowd,
    values,
)
from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder, only, open_parquet

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "jpg", "png", "image.bytes", "bytes"), ("label", "labels")
TOGETHER = 128  # images of a folder or a zip in one share
MOST_JSON, MOST_GROUP = 256 << 20, 4 << 30


@dataclass(frozen=True)
class Listing:
    """labels: int64 [count], or None where there are none; classes: their names; fingerprint: of what was there when it was listed."""

    where: str
    shares: tuple[Share, ...]
    count: int
    labels: np.ndarray | None
    classes: tuple[str, ...]
    fingerprint: str


def listing(where: str, *, labelled: bool) -> Listing:
    """The images at a path or URI, in the order of their names, of a parquet file in that of its rows.

    labelled: with labels: those of dataset.json ({"labels": [[name, label], …]}), else the folders that all images lie in, or a
    column `label`. Folders around all of it, as zips have them, count for nothing. A folder of parquet files and no images is a data
    set in parts. Raises CheckpointError in one line.
    """
    found = _listing_of(where, labelled)
    if labelled and found.labels is None:
        raise CheckpointError(
            f"{where}: has no labels: no {LABELS_FILE}, no folder for each class, no column label; train without, conditional: false"
        )
    return found


def _listing_of(where: str, labelled: bool) -> Listing:
    folder, name = Folder.of_file(where)
    if folder.size(name) is None:
        folder = Folder.at(where)
        if not folder.has(""):
            raise CheckpointError(f"{where}: no such file or folder")
        return _of_folder(where, folder, labelled)
    if name.lower().endswith(".parquet"):
        return _of_parquet(where, folder, [name], labelled)
    if name.lower().endswith(".zip"):
        return _of_zip(where, folder, name, labelled)
    raise CheckpointError(f"{where}: expected a folder of images, a .zip or a .parquet file")


def _of_folder(where: str, folder: Folder, labelled: bool) -> Listing:
    files = folder.files()
    images = [entry for entry in files if _is_image(entry[0])]
    parquet = [name for name, _, _ in files if name.lower().endswith(".parquet")]
    if parquet and not images:
        return _of_parquet(where, folder, parquet, labelled)
    names = tuple(name for name, _, _ in images)
    said = labels_file(names, {name for name, _, _ in files}) if labelled else None
    raw = None
    if said is not None:
        if (folder.size(said) or 0) > MOST_JSON:
            raise CheckpointError(f"{where}/{said}: larger than {MOST_JSON >> 20} MiB")
        raw = folder.read(said)
    shares = (FolderShare(folder, part) for part in _parts(names))
    return _listing(where, shares, names, labelled, said, raw, [where, images, hashlib.sha256(raw or b"").hexdigest()])


def _of_zip(where: str, folder: Folder, file: str, labelled: bool) -> Listing:
    with open_zip(folder, file) as archive:
        members = archive.infolist()
        _refuse_tricks(where, members, size=folder.size(file) or 0)
        names = tuple(sorted(member.filename for member in members if _is_image(member.filename)))
        said = labels_file(names, {member.filename for member in members}) if labelled else None
        raw = None
        if said is not None:
            found = read_member(archive, said, most=MOST_JSON)
            if isinstance(found, CorruptImage):
                raise CheckpointError(f"{where}: its {said}: {found}")
            raw = found
            if len(raw) > MOST_JSON:
                raise CheckpointError(f"{where}: its {said} is larger than {MOST_JSON >> 20} MiB")
    shares = (ZipShare(folder, file, part) for part in _parts(names))
    return _listing(where, shares, names, labelled, said, raw, [where, _stamp(folder, file)])


def _refuse_tricks(where: str, members: Sequence[zipfile.ZipInfo], *, size: int) -> None:
    """Nothing is unpacked to a disk, and each image's size is bounded; but who builds such a zip means no good."""
    seen = set()
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or member.filename[1:2] == ":":
            raise CheckpointError(f"{where}: refused: a member would lie outside of it: {member.filename!r:.100}")
        if member.filename in seen:
            raise CheckpointError(f"{where}: refused: two members are named {member.filename!r:.100}")
        seen.add(member.filename)
    if sum(member.compress_size for member in members) > size:
        raise CheckpointError(f"{where}: refused: its members overlap one another (a zip bomb)")


def _of_parquet(where: str, folder: Folder, files: Sequence[str], labelled: bool) -> Listing:
    shares: list[Share] = []
    labels: list[Any] = []
    stamps, named, count = [], None, 0
    for file in files:
        path = f"{folder.uri}/{file}"
        with folder.open_file(file) as opened, one_line(path):
            table = open_parquet(opened, repeated=LABEL_COLUMNS)
            refuse_crowd(table.metadata, size=folder.size(file) or 0)
            column = _image_column(path, table.schema_arrow)
            for group in range(table.metadata.num_row_groups):
                if table.metadata.row_group(group).total_byte_size > MOST_GROUP:
                    raise CheckpointError(f"{path}: row group {group} is larger than {MOST_GROUP >> 30} GiB: write smaller ones")
                shares.append(ParquetShare(folder, file, group, column))
            count += table.metadata.num_rows
            of_labels = next((name for name in LABEL_COLUMNS if name in table.schema_arrow.names), None)
            labelled = labelled and of_labels is not None
            if labelled and of_labels is not None:
                labels += values(table.read(columns=[only(table.schema_arrow.names, of_labels)]).column(0))
            named = named or hugging_face_names(table.schema_arrow, of_labels)
        stamps.append(_stamp(folder, file))
    ids, classes = numbered(where, labels, named) if labelled and count else (None, ())
    return _whole(where, shares, count, ids, classes, [where, list(files), stamps])


def _image_column(where: str, schema: pa.Schema) -> str:
    found = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if found is None:
        raise CheckpointError(
            f"{where}: no column {', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]} of images; its columns are {listed(schema.names)}"
        )
    kind = schema.field(only(schema.names, found)).type
    inside = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inside) or pa.types.is_large_binary(inside)):
        raise CheckpointError(f"{where}: column {found} is {kind}: expected encoded images, as bytes or as {{bytes, path}}")
    return found


def _listing(
    where: str,
    shares: Iterable[Share],
    names: tuple[str, ...],
    labelled: bool,
    said: str | None,
    raw: bytes | None,
    stamp: Any,
) -> Listing:
    """Of a folder or a zip, whose labels are in its dataset.json (said; raw: its bytes), or its images' folders."""
    labels: list[Any] | None = None
    if said is not None and raw is not None:
        around = said.removesuffix(LABELS_FILE)
        labels = labels_of_json(f"{where}/{said}", raw, [name.removeprefix(around) for name in names])
    elif labelled and names and all("/" in name for name in names):
        labels = folders_of(names)
    ids, classes = (None, ()) if labels is None else numbered(where, labels, None)
    return _whole(where, shares, len(names), ids, classes, stamp)


def _whole(
    where: str, shares: Iterable[Share], count: int, labels: np.ndarray | None, classes: tuple[str, ...], stamp: Any
) -> Listing:
    if not count:
        raise CheckpointError(f"{where}: holds no images ({', '.join(ENDINGS)}, or a parquet column of them)")
    return Listing(where, tuple(shares), count, labels, classes, hashlib.sha256(repr(stamp).encode()).hexdigest())


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not PurePosixPath(name).name.startswith(".") and "__MACOSX" not in name


def _parts(names: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER))


def _stamp(folder: Folder, file: str) -> tuple[str, int, int]:
    return next(entry for entry in folder.files(file))
