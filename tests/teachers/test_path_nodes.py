"""The path on disk: what comes back is what was kept, or nothing does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder, digest
from disback_ray.teachers.path_nodes import load_node, save_node

WEIGHTS = {
    node: {"a.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(node)), "a.steps": torch.tensor(node)}
    for node in (1, 2)
}


@pytest.fixture
def path(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path / "path")
    for node, weights in WEIGHTS.items():
        save_node(folder, node, weights, step=50 * node)
    return folder


def test_each_node_comes_back_as_it_was(path: Folder) -> None:
    assert path.names() == ["node-1.json", "node-1.safetensors", "node-2.json", "node-2.safetensors"]
    assert [digest(load_node(path, node)) for node in (1, 2)] == [digest(WEIGHTS[node]) for node in (1, 2)]
    assert [path.read_json(f"node-{node}.json")["step"] for node in (1, 2)] == [50, 100]


def swap(folder: Path) -> None:
    (folder / "node-2.safetensors").replace(folder / "node-1.safetensors")


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "node-1.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "node-1.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (swap, "node-1.safetensors is not what was written"),
        (flip_a_bit, "node-1.safetensors is not what was written"),
        (lambda folder: (folder / "node-1.safetensors").unlink(), "can't read .*node-1.safetensors"),
        (lambda folder: (folder / "node-1.json").unlink(), "can't read .*node-1.json"),
        (lambda folder: (folder / "node-1.json").write_text('{"node": 1'), "node-1.json is damaged"),
        (lambda folder: (folder / "node-1.json").write_text('{"node": 1}'), "node-1.json is damaged"),
        (lambda folder: (folder / "node-1.json").write_text("[]"), "node-1.json is damaged"),
    ],
)
def test_a_harmed_node_is_refused_in_one_line(path: Folder, harm: Callable[[Path], None], said: str) -> None:
    harm(path.local_path)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_node(path, 1)
    assert "\n" not in str(refused.value)


def test_a_node_that_was_not_finished_does_not_look_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON, whose presence says that the node is there, comes after the weights."""

    def fail(*_: object) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(Folder, "write_tensors", fail)
    with pytest.raises(CheckpointError, match="full"):
        save_node(Folder.at(tmp_path), 1, WEIGHTS[1], step=50)
    assert Folder.at(tmp_path).names() == []
