"""`doctor` on a real cluster of three machines, two of which promise GPUs that no torch sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_cluster_whose_gpus_are_pretended(
    command: Callable[..., Any], ray_cluster: str, left_over: Callable[[str], set[str]], tmp_path: Path
) -> None:
    cluster, storage = tmp_path / "cluster.yaml", tmp_path / "storage"
    cluster.write_text(
        f"address: {ray_cluster}\nstorage: {storage}\nroles: {{generator: {{gpus: 1, accelerator: H100}}}}\nplacement_timeout: 1\n"
    )
    said = command("doctor", "--cluster", str(cluster))
    assert said.status == 2
    states = {line[6:].partition(":")[0]: line[:4] for line in said.out.splitlines() if not line.startswith(" ")}
    by_kind: dict[str, list[str]] = {}
    for name, state in states.items():
        by_kind.setdefault(name.partition(" of ")[0].partition(" 1")[0], []).append(state)
    assert sorted(by_kind["GPUs"]) == ["fail", "fail", "pass"], "the head has none"
    assert by_kind["versions"] == by_kind["storage"] == ["pass"]
    assert by_kind["clock"] == ["pass"] * 3
    assert len(by_kind["network"]) == 3
    assert by_kind["placement"] == ["fail"]
    assert "Ray counts 2, torch sees 0" in said.out
    assert "can't place generator" in said.out
    failed = said.complaint
    assert failed.startswith("failed: ")
    assert failed.count("GPUs of") == 2
    assert "placement" in failed
    assert not list(storage.iterdir()), "nothing of it stays"
    assert not left_over(ray_cluster)


def test_a_storage_that_not_every_machine_can_write_to(command: Callable[..., Any], ray_cluster: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"address: {ray_cluster}\nstorage: {tmp_path}/file\n")
    said = command("doctor", "--cluster", str(cluster))
    assert said.status == 2
    assert f"fail  storage: {tmp_path}/file: " in said.out
    assert "storage" in said.complaint
