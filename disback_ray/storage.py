"""A folder at any pyarrow.fs URI, with files that are either whole or not there; tensors as safetensors with their SHA-256."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import safetensors.torch
import torch
from pyarrow import ArrowInvalid
from safetensors import SafetensorError
from torch import Tensor

from disback_ray.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Folder:
    """A folder of any storage that pyarrow reaches (a path, file://, s3://, gs://, hdfs://); it need not exist yet."""

    uri: str

    @staticmethod
    def at(uri: str | Path) -> "Folder":
        """The folder at a path or URI; relative paths are made absolute here, for the roles run elsewhere.

        Raises ConfigError where no storage is known for the URI.
        """
        text = str(uri)
        folder = Folder(text if "://" in text else str(Path(text).expanduser().resolve()))
        folder._open()
        return folder

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.uri.rstrip("/").rpartition("/")[2]

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
        """Writes a file aside and renames it, so that a reader never meets half of one. Raises CheckpointError."""
        filesystem, path = self._open()
        target = f"{path}/{name}"
        try:
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with filesystem.open_output_stream(f"{target}.partial") as stream:
                stream.write(data)
            filesystem.move(f"{target}.partial", target)
        except OSError as error:
            raise CheckpointError(f"can't write {self.uri}/{name}: {_first_line(error)}") from None

    def read(self, name: str) -> bytes:
        """Raises CheckpointError where the file is missing or can't be read."""
        filesystem, path = self._open()
        try:
            with filesystem.open_input_stream(f"{path}/{name}") as stream:
                return bytes(stream.read())
        except OSError as error:
            raise CheckpointError(f"can't read {self.uri}/{name}: {_first_line(error)}") from None

    def has(self, name: str) -> bool:
        filesystem, path = self._open()
        return bool(filesystem.get_file_info(f"{path}/{name}").type != fs.FileType.NotFound)

    def names(self) -> list[str]:
        """Names of the files and folders in it, sorted; none where it doesn't exist."""
        filesystem, path = self._open()
        return sorted(info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)))

    def remove(self, name: str) -> None:
        """Deletes a folder in it."""
        filesystem, path = self._open()
        filesystem.delete_dir(f"{path}/{name}")

    def clear(self) -> None:
        """Deletes what is in it."""
        filesystem, path = self._open()
        filesystem.delete_dir_contents(path)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Raises CheckpointError where it is missing or no JSON."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise CheckpointError(f"{self.uri}/{name} is damaged: {error}") from None

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Writes safetensors; returns what proves them whole: {file, bytes, sha256}."""
        data = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        self.write(name, data)
        return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def verify(self, proof: Mapping[str, Any]) -> None:
        """Raises CheckpointError unless the file that the proof {file, bytes, sha256} names is there as it was written."""
        if hashlib.sha256(self.read(proof["file"])).hexdigest() != proof["sha256"]:
            raise CheckpointError(f"{self.uri}/{proof['file']} is not what was written: its SHA-256 differs from the manifest's")

    def read_tensors(self, name: str, *, sha256: str | None = None) -> dict[str, Tensor]:
        """Reads safetensors. Raises CheckpointError where the file is missing, damaged, or not the one that was written."""
        data = self.read(name)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(f"{self.uri}/{name} is not what was written: its SHA-256 differs from the manifest's")
        try:
            return safetensors.torch.load(data)
        except SafetensorError as error:
            raise CheckpointError(f"{self.uri}/{name} is damaged: {_first_line(error)}") from None


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
