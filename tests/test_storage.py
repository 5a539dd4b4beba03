"""Files that are either whole or not there, on this machine's disk and on a storage that is none."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from disback_ray import storage
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.storage import Folder, digest

TENSORS = {
    "weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "columns": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
    "half": torch.tensor([1.0, -3e38], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 4),
}


@pytest.fixture(params=["path", "file://", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    uris = {"path": tmp_path / "run", "file://": f"file://{tmp_path}/run", "memory": f"fsspec+memory://{tmp_path}/run"}
    return Folder.at(uris[request.param])


def test_where_there_is_no_room_it_is_said_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "_to_disk", full)
    said = refusal(lambda: Folder.at(tmp_path).write("x", b""))
    assert re.fullmatch(
        r"can't write .*/x: .*No space left on device: make room there, or choose another .*checkpoints\.keep.*", said
    )
    assert not list(tmp_path.iterdir())


def refusal(call: Callable[[], Any], *, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_round_trips(folder: Folder) -> None:
    assert (folder.names(), folder.has("a.json")) == ([], False)
    folder.write_json("a.json", {"σ": [1, 2.5, None]})
    (folder / "deep" / "er").write("b.bin", b"\x00\xff")
    proof = folder.write_tensors("c.safetensors", TENSORS)
    assert folder.names() == ["a.json", "c.safetensors", "deep"]
    assert folder.read_json("a.json") == {"σ": [1, 2.5, None]}
    assert (folder / "deep/er").read("b.bin") == b"\x00\xff"
    assert digest(folder.read_tensors("c.safetensors", sha256=proof["sha256"])) == digest(TENSORS)
    assert (proof["file"], proof["bytes"]) == ("c.safetensors", len(folder.read("c.safetensors")))
    folder.verify(proof)
    folder.write_json("a.json", 2)
    assert folder.read_json("a.json") == 2, "a file is replaced"
    folder.remove("deep")
    assert folder.names() == ["a.json", "c.safetensors"]
    folder.clear()
    assert folder.names() == []


def test_names_and_places(folder: Folder) -> None:
    assert (folder / "path" / "node-1").name == "node-1"
    assert Folder(folder.uri + "/") / "x" == folder / "x"
    assert folder.is_local == (not folder.uri.startswith("fsspec"))


def test_a_uri_keeps_its_options_at_its_end() -> None:
    bucket = Folder.at("s3://bucket/runs?region=us-east-1&endpoint_override=localhost:9000")
    assert (bucket / "digits").uri == "s3://bucket/runs/digits?region=us-east-1&endpoint_override=localhost:9000"
    assert ((bucket / "digits").name, bucket.is_local) == ("digits", False)
    assert (Folder("/tmp/what?") / "digits").uri == "/tmp/what?/digits", "a path has none"


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role runs in another folder than the driver."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (folder := Folder.at("runs/digits")).write("a", b"1")
    monkeypatch.chdir("/")
    assert folder.read("a") == b"1"
    assert folder.local_path == tmp_path / "runs/digits"
    assert Folder.at("~/runs").local_path == tmp_path / "home/runs"
    assert Folder.at(tmp_path / "a b?c%20d:e").uri == str(tmp_path / "a b?c%20d:e")


@pytest.mark.parametrize("uri", ["gopher://a/b", "s4://bucket", "file:///tmp/a b", "s3://a\0b"])
def test_a_storage_that_nobody_knows_is_refused(uri: str) -> None:
    said = f"storage {uri if chr(0) not in uri else repr(uri)}: "
    assert refusal(lambda: Folder.at(uri), kind=ConfigError).startswith(said)
    assert refusal(lambda: Folder.of_file(f"{uri}/x.png"), kind=ConfigError).startswith("storage ")


def test_a_place_that_only_the_storage_can_refuse() -> None:
    """pyarrow takes a store without a bucket for one, until a file of it is wanted."""
    assert refusal(lambda: Folder.at("s3://").has("summary.json")).startswith("can't look at s3:///summary.json: ")


class Torn:
    """A file system on which an operation fails, as where a process is killed or a disk is full."""

    def __init__(self, filesystem: Any, *, fails: str) -> None:
        self._filesystem, self._fails = filesystem, fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def move(self, source: str, target: str) -> None:
        if self._fails == "move":
            raise OSError("killed before the rename\nwith details")
        self._filesystem.move(source, target)

    def open_output_stream(self, path: str) -> Any:
        stream = self._filesystem.open_output_stream(path)
        if self._fails == "write":
            stream.write(b"hal")
            stream.close()
            raise OSError("no space left")
        return stream


def test_two_that_write_one_file_at_once_each_write_their_own(folder: Folder) -> None:
    with folder.writing("a.bin") as one, folder.writing("a.bin") as other:
        one.write(b"one")
        folder.write("a.bin", b"whole")
        other.write(b"other")
    assert folder.read("a.bin") == b"one", "the last to end"
    assert folder.walk() == ["a.bin"]


def test_tidying_deletes_what_was_half_written_and_nothing_else(folder: Folder) -> None:
    folder.write("a.bin", b"whole")
    (folder / "in").write("b.bin.0123.partial", b"half")
    (folder / "in").write("b.bin", b"whole")
    folder.tidy()
    found = {file.name for file in folder.local_path.rglob("*") if file.is_file()} if folder.is_local else set(folder.walk())
    assert found == {"a.bin", "b.bin"} if folder.is_local else {"a.bin", "in/b.bin"}
    (folder / "nowhere").tidy()


def test_a_file_is_on_the_disk_before_its_name_is_and_its_name_before_anyone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, synced = Folder.at(tmp_path), list[tuple[str, list[str]]]()
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{handle}"), folder.names()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    folder.write("a.bin", b"whole")
    (file, before), (where, after) = synced
    assert file.startswith(f"{tmp_path}/a.bin.")
    assert (before, where, after) == ([], str(tmp_path), ["a.bin"])


@pytest.mark.parametrize("fails", ["move", "write"])
def test_a_write_that_fails_leaves_the_old_file(folder: Folder, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    folder.write("a.bin", b"old")
    really = Folder._open
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_open", lambda self: (Torn(really(self)[0], fails=fails), really(self)[1]))
        said = refusal(lambda: folder.write("a.bin", b"half of the new"))
    assert said.startswith(f"can't write {folder.uri}/a.bin: ")
    assert folder.read("a.bin") == b"old"
    assert folder.names() == ["a.bin"], "what is left of the other is no file of the folder's"
    folder.write("a.bin", b"new")
    assert folder.read("a.bin") == b"new"


def test_missing_and_damaged_files_are_refused_by_name(folder: Folder) -> None:
    proof = folder.write_tensors("a.safetensors", TENSORS)
    good = folder.read("a.safetensors")
    assert f"can't read {folder.uri}/b.json: " in refusal(lambda: folder.read_json("b.json"))
    for data in (b'{"a": 1', b"", b"\xff\xfe\x00"):
        folder.write("c.json", data)
        assert f"{folder.uri}/c.json is damaged: " in refusal(lambda: folder.read_json("c.json"))
    for data in (good[:-1], good[:20], b"", b"\x00" * len(good)):
        folder.write("a.safetensors", data)
        assert f"{folder.uri}/a.safetensors is damaged: " in refusal(lambda: folder.read_tensors("a.safetensors"))
    folder.write("a.safetensors", good[:-1] + bytes([good[-1] ^ 1]))  # one bit: safetensors doesn't see it
    folder.read_tensors("a.safetensors")
    for look in (lambda: folder.read_tensors("a.safetensors", sha256=proof["sha256"]), lambda: folder.verify(proof)):
        assert f"{folder.uri}/a.safetensors is not what was written: " in refusal(look)


def test_arrow_s_own_complaint_is_one_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of s3://, which names no bucket, Arrow says ArrowInvalid, and that is no OSError."""

    class Strict:
        def get_file_info(self, path: str) -> Any:
            raise pa.ArrowInvalid(f"Path cannot start with a separator ({path!r})\nand more")

    monkeypatch.setattr(Folder, "_open", lambda self: (Strict(), ""))
    assert refusal(lambda: folder.size("a")).endswith("Path cannot start with a separator ('/a')")


def test_a_file_in_a_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = Folder.at(tmp_path / "file")
    for call in (folder.names, folder.clear, lambda: folder.write("a", b"1"), lambda: folder.remove("a")):
        assert str(tmp_path / "file") in refusal(call)


WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.int32)}
OTHERS = {
    "a value": WEIGHTS | {"a": WEIGHTS["a"].clone().index_fill_(1, torch.tensor([2]), -1.0)},
    "the sign of zero": WEIGHTS | {"a": WEIGHTS["a"] * torch.tensor([-1.0, 1, 1])},
    "a name": {"c": WEIGHTS["a"], "b": WEIGHTS["b"]},
    "a shape": WEIGHTS | {"a": WEIGHTS["a"].reshape(3, 2)},
    "a type": WEIGHTS | {"b": torch.tensor(1.4e-45)},  # the same bits as 1
    "one less": {"a": WEIGHTS["a"]},
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_digest_tells_weights_apart(other: str) -> None:
    assert digest(OTHERS[other]) != digest(WEIGHTS)


def test_the_digest_of_equal_weights_is_equal() -> None:
    turned = {"b": WEIGHTS["b"].clone(), "a": WEIGHTS["a"].T.contiguous().T.requires_grad_()}
    assert digest(turned) == digest(WEIGHTS)
    assert digest(WEIGHTS, turned) != digest(WEIGHTS)
    assert len({digest({name: tensor}) for name, tensor in TENSORS.items()}) == len(TENSORS)


def test_what_an_http_client_raises_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """hf:// without a network: its client's errors are no OSErrors."""
    lost = type("ConnectError", (Exception,), {"__module__": "httpx"})

    class Unreachable:
        def get_file_info(self, path: str) -> None:
            raise lost("no way\nto it")

    monkeypatch.setattr(Folder, "_open", lambda folder: (Unreachable(), "owner/name"))
    assert refusal(lambda: Folder("hf://owner/name").has("x")) == "can't look at hf://owner/name/x: no way"
