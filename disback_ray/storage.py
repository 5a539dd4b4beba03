"""A folder at any pyarrow.fs URI, with files that are either whole or not there; tensors as safetensors with their SHA-256."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
import safetensors.torch
import torch
from pyarrow import ArrowException, ArrowInvalid
from safetensors import SafetensorError
from torch import Tensor

from disback_ray.errors import CheckpointError, ConfigError

ASIDE = ".partial"
"""Ends the name of a file while it is written; what a killed process left of one is no file of the folder's."""

DAMAGED_ARROW = (ArrowException, OSError, UnicodeDecodeError)
"""What Arrow raises for a damaged file; the last one where names or texts in it aren't UTF-8."""
NO_ROOM = (
    ": make room there, or choose another --out or storage; of a run, checkpoints.keep in the cluster file says how many stay"
)
CLIENTS = ("httpx", "httpcore", "requests")
"""What hf:// goes through; their errors have no base in common with the others'."""


def open_parquet(source: Any, *, repeated: Sequence[str]) -> pq.ParquetFile:
    """A parquet file whose page checksums, if there are any, are verified. source: open, or a buffer's reader.

    repeated: columns that come as dictionaries where they hold text: a text takes its room once, whatever number of rows has it.
    Raises what DAMAGED_ARROW says.
    """
    about = pq.read_metadata(source)
    there = {about.schema.column(index).path for index in range(len(about.schema))}
    texts = [name for name in repeated if name in there]
    return pq.ParquetFile(source, metadata=about, read_dictionary=texts, page_checksum_verification=True)


def only(names: Sequence[str], name: str) -> str:
    """A column's name. Raises ArrowInvalid where two columns have it."""
    if names.count(name) > 1:
        raise pa.ArrowInvalid(f"{names.count(name)} columns are named {name!r:.100}")
    return name


@dataclass(frozen=True)
class Folder:
    """A folder of any storage that pyarrow reaches (a path, file://, s3://, gs://, hdfs://); it need not exist yet."""

    uri: str

    @staticmethod
    def at(uri: str | Path) -> "Folder":
        """The folder at a path or URI; relative paths are made absolute here, for the roles run elsewhere.

        Raises ConfigError where no storage is known for the URI.
        """
        text = _text(uri)
        folder = Folder(text if "://" in text else str(Path(text).expanduser().resolve()))
        folder._open()
        return folder

    @staticmethod
    def of_file(uri: str | Path) -> "tuple[Folder, str]":
        """The folder that a file lies in, and its name there. Raises ConfigError where no storage is known for the URI."""
        text = _text(uri)
        if "://" not in text:
            path = Path(text).expanduser().absolute()
            return Folder.at(path.parent), path.name
        where, mark, options = text.partition("?")
        parent, _, name = where.rpartition("/")
        return Folder.at(f"{parent}{mark}{options}"), name

    def __truediv__(self, name: str) -> "Folder":
        where, options = self._split()
        return Folder(f"{where.rstrip('/')}/{name}{options}")

    @property
    def name(self) -> str:
        return self._split()[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Folder":
        where, options = self._split()
        return Folder(where.rstrip("/").rpartition("/")[0] + options)

    def _split(self) -> tuple[str, str]:
        """The place and the options of a URI such as s3://bucket/runs?region=…"""
        where, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return where, mark + options

    @property
    def is_local(self) -> bool:
        return isinstance(self._open()[0], fs.LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """Where it lies on this machine; only for local storage."""
        assert self.is_local, self.uri
        return Path(self._open()[1])

    def _open(self) -> tuple[fs.FileSystem, str]:
        try:
            filesystem, path = fs.FileSystem.from_uri(self.uri)
        except (ArrowInvalid, OSError, ValueError) as error:
            raise ConfigError(f"storage {self.uri}: {_first_line(error)}") from None
        return filesystem, path

    def write(self, name: str, data: bytes) -> None:
        """Writes a file aside and renames it, so that a reader never meets half of one, also after a loss of power.

        Raises CheckpointError.
        """
        filesystem, path = self._open()
        target = f"{path}/{name}"
        with _one_line(f"write {self.uri}/{name}"):
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with _aside(filesystem, target) as aside:
                with filesystem.open_output_stream(aside) as stream:
                    stream.write(data)
                if isinstance(filesystem, fs.LocalFileSystem):  # others keep what they have said to have
                    _to_disk(aside)
                filesystem.move(aside, target)
            if isinstance(filesystem, fs.LocalFileSystem):
                _to_disk(os.path.dirname(target))

    def put(self, name: str, file: Path) -> None:
        """Takes a file of this machine's in, without a second copy of it where both are on one disk. Raises CheckpointError."""
        filesystem, path = self._open()
        target = f"{path}/{name}"
        source = file.resolve()
        with _one_line(f"copy {file} to {self.uri}/{name}"):
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with _aside(filesystem, target) as aside:
                if not self.is_local:
                    fs.copy_files(str(source), aside, fs.LocalFileSystem(), filesystem)
                    filesystem.move(aside, target)
                    return
                try:
                    os.link(source, aside)
                except OSError:
                    shutil.copyfile(source, aside)
                    _to_disk(aside)
                os.replace(aside, target)
            _to_disk(os.path.dirname(target))

    @contextmanager
    def here(self) -> Iterator[Path]:
        """The folder on this machine, to be read: itself, or a copy of it that goes with the block. Raises CheckpointError."""
        if self.is_local:
            yield self.local_path
            return
        filesystem, path = self._open()
        with tempfile.TemporaryDirectory() as copy:
            with _one_line(f"read {self.uri}"):
                fs.copy_files(path, copy, filesystem, fs.LocalFileSystem())
            yield Path(copy)

    def read(self, name: str) -> bytes:
        """Raises CheckpointError where the file is missing or can't be read."""
        filesystem, path = self._open()
        with _one_line(f"read {self.uri}/{name}"), filesystem.open_input_stream(f"{path}/{name}") as stream:
            return bytes(stream.read())

    def has(self, name: str) -> bool:
        """Raises CheckpointError where that can't be known."""
        filesystem, path = self._open()
        with _one_line(f"look at {self.uri}/{name}"):
            return bool(filesystem.get_file_info(f"{path}/{name}").type != fs.FileType.NotFound)

    def size(self, name: str) -> int | None:
        """A file's bytes; None where there is none, or it is a folder. Raises CheckpointError where that can't be known."""
        filesystem, path = self._open()
        with _one_line(f"look at {self.uri}/{name}"):
            found = filesystem.get_file_info(f"{path}/{name}")
        return int(found.size) if found.type == fs.FileType.File else None

    def names(self) -> list[str]:
        """Names of the files and folders in it, sorted; none where it doesn't exist. Raises CheckpointError where it is no folder."""
        filesystem, path = self._open()
        with _one_line(f"list {self.uri}"):
            if filesystem.get_file_info(path).type == fs.FileType.File:
                raise CheckpointError(f"{self.uri}: a file, not a folder")
            found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.endswith(ASIDE))

    def walk(self) -> list[str]:
        """Paths of all files in it and in its folders, sorted. Raises CheckpointError where it is missing or no folder."""
        filesystem, path = self._open()
        with _one_line(f"list {self.uri}"):
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        files = (info.path for info in found if info.type == fs.FileType.File and not info.path.endswith(ASIDE))
        return sorted(file[len(path) :].lstrip("/") for file in files)

    def files(self, name: str | None = None) -> list[tuple[str, int, int]]:
        """Path, size and time of change (ns) of all files in it and in its folders, by path, or of one.

        Raises CheckpointError where it is missing, no folder, or has a symbolic link back to a folder that the link lies in.
        """
        filesystem, path = self._open()
        with _one_line(f"list {self.uri}"):
            if name is None and isinstance(filesystem, fs.LocalFileSystem):
                _refuse_loops(path, ())
            found = filesystem.get_file_info([f"{path}/{name}"] if name else fs.FileSelector(path, recursive=True))
        files = (info for info in found if info.type == fs.FileType.File and not info.path.endswith(ASIDE))
        return sorted((info.path[len(path) :].lstrip("/"), int(info.size), int(info.mtime_ns or 0)) for info in files)

    def open_file(self, name: str) -> pa.NativeFile:
        """A file to read here and there in. Raises CheckpointError where it is missing."""
        filesystem, path = self._open()
        with _one_line(f"read {self.uri}/{name}"):
            return filesystem.open_input_file(f"{path}/{name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to write bit by bit: it is there once the block has ended, and not if it failed. Raises CheckpointError."""
        filesystem, path = self._open()
        target = f"{path}/{name}"
        with _one_line(f"write {self.uri}/{name}"):
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with _aside(filesystem, target) as aside:
                with filesystem.open_output_stream(aside) as stream:
                    yield stream
                filesystem.move(aside, target)

    def remove(self, name: str) -> None:
        """Deletes a folder in it, or a file of that name. Raises CheckpointError."""
        filesystem, path = self._open()
        with _one_line(f"delete {self.uri}/{name}"):
            is_file = filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File
            (filesystem.delete_file if is_file else filesystem.delete_dir)(f"{path}/{name}")

    def delete(self, name: str) -> None:
        """Deletes a file in it. Raises CheckpointError."""
        filesystem, path = self._open()
        with _one_line(f"delete {self.uri}/{name}"):
            filesystem.delete_file(f"{path}/{name}")

    def tidy(self) -> None:
        """Deletes what killed processes left half written in it, where nobody else writes. Raises CheckpointError."""
        filesystem, path = self._open()
        with _one_line(f"tidy {self.uri}"):
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            for info in found:
                if info.type == fs.FileType.File and info.path.endswith(ASIDE):
                    filesystem.delete_file(info.path)

    def clear(self) -> None:
        """Deletes what is in it. Raises CheckpointError."""
        filesystem, path = self._open()
        with _one_line(f"empty {self.uri}"):
            filesystem.delete_dir_contents(path, missing_dir_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Raises CheckpointError where it is missing or no JSON."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.uri}/{name} is damaged: {error}") from None

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Writes safetensors; returns what proves them whole: {file, bytes, sha256}."""
        kept: dict[str, Tensor] = {}
        seen: set[int] = set()
        for key, value in tensors.items():
            tensor = value.detach().cpu().contiguous()
            place = tensor.untyped_storage().data_ptr()
            kept[key] = (
                tensor.clone() if place in seen else tensor
            )  # safetensors refuses memory that two names share (8-bit Adam's maps)
            seen.add(place)
        data = safetensors.torch.save(kept)
        self.write(name, data)
        return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def verify(self, proof: Mapping[str, Any]) -> None:
        """Raises CheckpointError unless the file that the proof {file, bytes, sha256} names is there as it was written."""
        if "bytes" in proof and (found := self.size(proof["file"])) not in (None, proof["bytes"]):
            raise CheckpointError(f"{self.uri}/{proof['file']} has {found:,} bytes: {proof['bytes']:,} were written")
        if self._sha256(proof["file"]) != proof["sha256"]:
            raise CheckpointError(f"{self.uri}/{proof['file']} is not what was written: its SHA-256 differs from the manifest's")

    def _sha256(self, name: str) -> str:
        filesystem, path = self._open()
        with _one_line(f"read {self.uri}/{name}"), filesystem.open_input_stream(f"{path}/{name}") as stream:
            sha = hashlib.sha256()
            while part := stream.read(1 << 22):
                sha.update(part)
        return sha.hexdigest()

    def read_tensors(self, name: str, *, sha256: str | None = None) -> dict[str, Tensor]:
        """Reads safetensors; on this machine it maps them, and no second copy is in memory.

        Raises CheckpointError where the file is missing, damaged, or not the one that was written.
        """
        if sha256 is not None:
            self.verify({"file": name, "sha256": sha256})
        try:
            if self.is_local and self.has(name):
                return safetensors.torch.load_file(self.local_path / name)
            return safetensors.torch.load(self.read(name))
        except SafetensorError as error:
            raise CheckpointError(f"{self.uri}/{name} is damaged: {_first_line(error)}") from None


@contextmanager
def _aside(filesystem: fs.FileSystem, target: str) -> Iterator[str]:
    """A name to write a file under until it is whole, gone if that fails. Two that write at once each have their own: the last stays."""
    aside = f"{target}.{uuid.uuid4().hex}{ASIDE}"
    try:
        yield aside
    except BaseException:
        if filesystem.get_file_info(aside).type == fs.FileType.File:
            filesystem.delete_file(aside)
        raise


def _refuse_loops(path: str, above: tuple[str, ...]) -> None:
    """Listed, a link back to a folder around it would give each file again and again, until the kernel's limit of 40 links.

    above: the real paths of the folders that led here. Raises CheckpointError, OSError.
    """
    real = os.path.realpath(path)
    if real in above:
        raise CheckpointError(f"{path}: a symbolic link back to {real}, which it lies in: remove it, or name another folder")
    with os.scandir(path) as entries:
        folders = [entry.path for entry in entries if entry.is_dir()]
    for folder in folders:
        _refuse_loops(folder, (*above, real))


def _text(uri: str | Path) -> str:
    """Raises ConfigError where no storage could have a file of that name."""
    if "\0" in str(uri):
        raise ConfigError(f"storage {str(uri)!r}: a path has no NUL in it")
    return str(uri)


def _to_disk(path: str) -> None:
    """fsync of a file, or of a folder's names. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _one_line(doing: str) -> Iterator[None]:
    """The storage's own errors as CheckpointError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (OSError, ArrowException)) or type(error).__module__.partition(".")[0] in CLIENTS:
            advice = NO_ROOM if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) else ""
            raise CheckpointError(f"can't {doing}: {_first_line(error)}{advice}") from None
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def digest(*states: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, shapes, types and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            tensor = state[name].detach().cpu().contiguous()
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
