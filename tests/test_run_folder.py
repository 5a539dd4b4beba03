"""Whose a folder is, where its run stands, and what it has measured."""

import io
import json
import shutil
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from disback_ray.config import ClusterConfig, load_recipe, shipped
from disback_ray.errors import CheckpointError, RunFolderError
from disback_ray.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    SUMMARY,
    Metrics,
    Summary,
    checkpoint_name,
    claim,
    drop_checkpoints,
    is_run,
    mend,
    newest_checkpoint,
    read_summary,
    roles_of,
    save_checkpoint,
    write_config,
)
from disback_ray.run_folder import metrics as metrics_file
from disback_ray.run_folder.metrics import DAMAGED_METRICS
from disback_ray.run_folder.summary import versions
from disback_ray.run_lock import LOCK, locked
from disback_ray.storage import Folder

RING = load_recipe("ring8")
THEIRS = {"stage": ["recording"], "step": [1], "seconds": [1.0]}
ORDER = ("recording", "backtracking")


def others() -> list[bytes]:
    """Parquet files that are whole, and no run's; one has a million rows that take next to no bytes, and would take a GB."""
    changes: list[dict[str, Any]] = [
        {"stage": ["x"]}, {"step": ["x"]}, {"step": [None]}, {"seconds": [{"a": 1}]}, {"stage": [1]},
        {"fake_loss": ["x"]}, {name: value * 10**6 for name, value in THEIRS.items()},
    ]  # fmt: skip
    tables = [pa.table(THEIRS | change) for change in changes]
    tables.append(pa.Table.from_arrays([*pa.table(THEIRS).columns, pa.array([2])], names=[*THEIRS, "step"]))
    tables.append(pa.table({"step": [1], "seconds": [1.0]}))
    files = []
    for table in tables:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        files.append(sink.getvalue())
    return files


def not_utf_8() -> bytes:
    """A parquet file with a text that is none."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"stage": pa.array([b"\xff"]).cast(pa.string(), safe=False), "step": [1], "seconds": [1.0]}), sink)
    return sink.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "run")


class TestClaim:
    @pytest.mark.parametrize("name", shipped("recipes"))
    def test_a_run_knows_its_own_folder(self, folder: Folder, name: str) -> None:
        recipe = load_recipe(name)
        assert claim(folder, recipe, seed=3) is None
        write_config(folder, recipe, ClusterConfig(), seed=3)
        assert claim(folder, recipe, seed=3) == {}
        summary = asdict(Summary(name, 3, status="interrupted"))
        folder.write_json(SUMMARY, summary)
        assert claim(folder, recipe, seed=3) == summary
        assert folder.names() == [CONFIG, SUMMARY]
        assert is_run(folder)

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("batch=32", r"\(batch: 256 there, 32 here\)"),
            ("backtracking.generator.lr=0.25", r"\(backtracking.generator.lr: 0\.\d+ there, 0.25 here\)"),
            ("recording.at=[50]", r"\(recording.at: \[5, .*50\] there, \[50\] here\)"),
            ("data.modes=9", r"\(data.modes: 8 there, 9 here\)"),
        ],
    )
    def test_another_setting_is_named(self, folder: Folder, override: str, said: str) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        with pytest.raises(RunFolderError, match=said):
            claim(folder, load_recipe("ring8", overrides=[override]), seed=0)

    def test_another_seed_or_recipe(self, folder: Folder) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        with pytest.raises(RunFolderError, match=r"another run \(seed: 0 there, 1 here\)"):
            claim(folder, RING, seed=1)
        with pytest.raises(RunFolderError, match=r"another run \(name: 'ring8' there, 'grid25' here\)"):
            claim(folder, load_recipe("grid25"), seed=0)

    def test_a_key_that_an_older_version_didn_t_have_is_at_its_default(self, folder: Folder) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        before = yaml.safe_load(folder.read(CONFIG))
        del before["recipe"]["backtracking"]["blend"]
        folder.write(CONFIG, yaml.safe_dump(before).encode())
        assert claim(folder, RING, seed=0) == {}
        with pytest.raises(RunFolderError, match=r"\(backtracking.blend: 0 there, 5 here\)"):
            claim(folder, load_recipe("ring8", overrides=["backtracking.blend=5"]), seed=0)

    def test_another_cluster_may_go_on(self, folder: Folder) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        write_config(folder, RING, ClusterConfig(address="auto"), seed=0)
        assert claim(folder, RING, seed=0) == {}

    def test_nothing_is_mended_under_a_driver_that_has_the_folder(self, folder: Folder) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        save_checkpoint(
            folder,
            "recording",
            5,
            {"fake_score": (folder / "checkpoints" / "recording-00000005").write_tensors("f.safetensors", {})},
        )
        folder.remove(CONFIG)
        heard: list[str] = []
        with locked(folder), pytest.raises(RunFolderError, match="in use by another run"):
            mend(folder, say=heard.append)
        mend(folder, say=heard.append)
        assert [line.split(" was ")[1] for line in heard] == ["gone: it is again as of checkpoint recording-00000005"]
        assert claim(folder, RING, seed=0) == {}

    @pytest.mark.parametrize(("old", "new"), [(b"batch: 256", b"batch: 257"), (b"batch:", b"bauch:"), (b"seed: 3", b"seed: 2")])
    def test_a_config_that_a_changed_bit_left_readable_is_mended(self, folder: Folder, old: bytes, new: bytes) -> None:
        """The checkpoint says whose run it is; a command for another run finds the file as it is, and is refused."""
        write_config(folder, RING, ClusterConfig(), seed=3)
        whole = folder.read(CONFIG)
        checkpoint = folder / "checkpoints" / "recording-00000005"
        save_checkpoint(folder, "recording", 5, {"fake_score": checkpoint.write_tensors("f.safetensors", {})})
        damaged = whole.replace(old, new, 1)
        assert damaged != whole
        folder.write(CONFIG, damaged)
        heard: list[str] = []
        other = load_recipe("ring8", overrides=["batch=32"])
        mend(folder, say=heard.append, asked=(other, 3))
        assert (heard, folder.read(CONFIG)) == ([], damaged)
        with pytest.raises(RunFolderError, match="belongs to another run"):
            claim(folder, other, seed=3)
        mend(folder, say=heard.append, asked=(RING, 3))
        assert [line.split(" was ")[1] for line in heard] == ["damaged: it is again as of checkpoint recording-00000005"]
        assert folder.read(CONFIG) == whole
        assert claim(folder, RING, seed=3) == {}

    @pytest.mark.parametrize(
        "change",
        [
            {"alarms": [{"kind": "lag", "step": 3, "txt": ""}]},
            {"skipped": [{"stage": "recording"}]},
            {"pictures": [{"file": "samples/../../../etc/x.png", "title": ""}]},
            {"pictures": [{"title": ""}]},
            {"metrics": {"teacher": {"frechet": "3"}}},
            {"metrics": {"nodes": {"1": []}}},
            {"metrics": {"nodes": {"<b>": {"frechet": 3.0}}}},
            {"bounds": {"spread": []}},
            {"switches": [{"step": 3}]},
            {"devices": {"steps": 3}},
            {"trial": {"path": 3}},
            {"trial": {"apart": [[0]]}},
            {"trial": {"warm": {"apart": [[0, "a"]]}}},
            {"roles": {"teacher": {"devices": 3}}},
            {"recipe": None},
        ],
    )
    def test_a_summary_that_no_run_writes_is_damaged(self, folder: Folder, change: dict[str, Any]) -> None:
        """All of it goes on into the report, the verdict or the next steps."""
        whole = asdict(Summary("ring8", 0)) | {"later": "a version's"}
        folder.write_json(SUMMARY, whole)
        assert read_summary(folder) == whole
        folder.write_json(SUMMARY, whole | change)
        with pytest.raises(CheckpointError, match=rf"summary\.json is damaged: {next(iter(change))}.*: not a run's"):
            read_summary(folder)

    def test_a_torn_summary_is_refused_with_a_way_out(self, folder: Folder) -> None:
        write_config(folder, RING, ClusterConfig(), seed=0)
        folder.write(SUMMARY, b'{"recipe": "ri')
        with pytest.raises(CheckpointError, match=r"summary\.json.*delete it, to go on from the newest checkpoint"):
            claim(folder, RING, seed=0)
        folder.remove(SUMMARY)
        assert claim(folder, RING, seed=0) == {}

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("thesis.tex", "mine"),
            (CONFIG, "model: llama\nseed: 0"),
            (CONFIG, "- a list"),
            (CONFIG, "a: [torn"),
            (CONFIG, ""),
            (CONFIG, "\x00\x01"),
        ],
    )
    def test_somebody_else_s_folder_is_refused_and_left_alone(self, folder: Folder, name: str, text: str) -> None:
        folder.write(name, text.encode())
        with pytest.raises(RunFolderError, match="not empty, and no run of disback-ray: choose another folder") as refused:
            claim(folder, RING, seed=0)
        assert "\n" not in str(refused.value)
        assert (folder.names(), folder.read(name)) == ([name], text.encode())
        assert not is_run(folder), "nor would --fresh empty it"


class TestCheckpoints:
    @staticmethod
    def save(folder: Folder, stage: str, step: int) -> Path:
        at = folder / CHECKPOINTS / checkpoint_name(stage, step)
        roles = {role: at.write_tensors(f"{role}.safetensors", {"w": torch.full((4,), step)}) for role in roles_of(stage)}
        save_checkpoint(folder, stage, step, roles)
        drop_checkpoints(folder, stage, step, keep=2)
        return at.local_path

    def test_the_newest_of_a_stage_and_two_are_kept(self, folder: Folder) -> None:
        assert newest_checkpoint(folder, "recording") is None
        for step in (9, 99, 100, 1000):  # by number, not by letter
            self.save(folder, "backtracking", step)
        self.save(folder, "recording", 50)
        found = newest_checkpoint(folder, "backtracking")
        assert found is not None
        assert (found.stage, found.step) == ("backtracking", 1000)
        assert found.folder.read_tensors("generator.safetensors", sha256=found.files["generator"]["sha256"])["w"][0] == 1000
        assert (folder / CHECKPOINTS).names() == ["backtracking-00000100", "backtracking-00001000", "recording-00000050"]

    @pytest.mark.parametrize("name", ["manifest.json", "fake_score.safetensors", "generator.safetensors"])
    @pytest.mark.parametrize("harm", ["missing", "cut", "changed", "emptied"])
    def test_a_damaged_one_is_passed_over(self, folder: Folder, name: str, harm: str) -> None:
        self.save(folder, "backtracking", 100)
        file = self.save(folder, "backtracking", 200) / name
        data = file.read_bytes()
        if harm == "missing":
            file.unlink()
        else:
            file.write_bytes({"cut": data[:-3], "changed": data[:-2] + b"??", "emptied": b""}[harm])
        heard: list[str] = []
        found = newest_checkpoint(folder, "backtracking", refuse=heard.append)
        assert found is not None
        assert found.step == 100
        (line,) = heard
        assert line.startswith("checkpoint backtracking-00000200 is refused: ")
        assert name in line
        assert "\n" not in line

    def test_what_was_refused_never_costs_a_whole_one(self, folder: Folder) -> None:
        """The run went on from 100, with a damaged 300 left from before: that one doesn't count among those that are kept."""
        for step in (100, 300):
            self.save(folder, "backtracking", step)
        ((folder / CHECKPOINTS).local_path / "backtracking-00000300" / "generator.safetensors").unlink()
        self.save(folder, "backtracking", 200)
        assert (folder / CHECKPOINTS).names() == [f"backtracking-00000{step}" for step in (100, 200, 300)]
        found = newest_checkpoint(folder, "backtracking")
        assert found is not None
        assert found.step == 200
        drop_checkpoints(folder, "backtracking", 200, keep=1)
        assert (folder / CHECKPOINTS).names() == [f"backtracking-00000{step}" for step in (200, 300)]

    @pytest.mark.parametrize(
        "manifest", ["[]", "{}", '{"step": 3}', '{"files": {}}', '{"step": 3, "files": []}', '{"step": 3, "files": "a"}', "null"]
    )
    def test_a_manifest_that_is_none_is_passed_over(self, folder: Folder, manifest: str) -> None:
        (self.save(folder, "recording", 3) / "manifest.json").write_text(manifest)
        heard: list[str] = []
        assert newest_checkpoint(folder, "recording", refuse=heard.append) is None
        assert len(heard) == 1
        assert "manifest.json" in heard[0]

    def test_any_flipped_bit_of_a_manifest_is_found(self, folder: Folder) -> None:
        manifest = self.save(folder, "backtracking", 331) / "manifest.json"
        honest = manifest.read_bytes()
        said = json.loads(honest)
        passed = []
        for bit in range(8 * len(honest)):
            data = bytearray(honest)
            data[bit // 8] ^= 1 << bit % 8
            manifest.write_bytes(data)
            found = newest_checkpoint(folder, "backtracking")
            if found is not None:
                assert json.loads(data) == said, "white space says nothing"
                passed.append(bit)
        assert len(passed) < len(honest) / 2

    def test_a_checkpoint_under_another_s_name_is_none(self, folder: Folder) -> None:
        self.save(folder, "backtracking", 100)
        there = (folder / CHECKPOINTS).local_path
        shutil.copytree(self.save(folder, "recording", 7), there / "backtracking-00000200")
        shutil.copytree(there / "backtracking-00000100", there / "backtracking-00000300")
        heard: list[str] = []
        found = newest_checkpoint(folder, "backtracking", refuse=heard.append)
        assert found is not None
        assert found.step == 100
        assert ["is of another checkpoint, backtracking step 100" in heard[0], "recording step 7" in heard[1]] == [True, True]

    def test_a_file_where_a_checkpoint_was_is_passed_over_and_goes_in_its_turn(self, folder: Folder) -> None:
        self.save(folder, "backtracking", 100)
        ((folder / CHECKPOINTS).local_path / "backtracking-00000200").write_text("")
        found = newest_checkpoint(folder, "backtracking")
        assert found is not None
        assert found.step == 100
        for step in (300, 400):
            self.save(folder, "backtracking", step)
        assert (folder / CHECKPOINTS).names() == ["backtracking-00000300", "backtracking-00000400"]

    def test_what_decides_a_switch_is_in_the_manifest(self, folder: Folder) -> None:
        gaps = [(5, 0.1), (10, 1 / 3)]
        proof = (folder / CHECKPOINTS / checkpoint_name("backtracking", 10)).write_tensors("w.safetensors", {"w": torch.ones(1)})
        save_checkpoint(folder, "backtracking", 10, {"fake_score": proof, "generator": proof}, gaps=gaps)
        found = newest_checkpoint(folder, "backtracking")
        assert found is not None
        assert found.gaps == tuple(gaps)

    @pytest.mark.parametrize("roles", [("generator",), ("fake_score", "nobody"), ("fake_score", "generator", "wait"), ()])
    def test_a_manifest_of_other_roles_is_refused_though_its_sum_is_right(self, folder: Folder, roles: tuple[str, ...]) -> None:
        self.save(folder, "backtracking", 100)
        proof = (folder / CHECKPOINTS / checkpoint_name("backtracking", 200)).write_tensors("w.safetensors", {"w": torch.ones(1)})
        save_checkpoint(folder, "backtracking", 200, dict.fromkeys(roles, proof))
        refused: list[str] = []
        found = newest_checkpoint(folder, "backtracking", refuse=refused.append)
        assert found is not None
        assert found.step == 100
        assert "names files of other roles than fake_score and generator" in refused[0]

    def test_a_run_without_its_settings_isn_t_anybody_s(self, folder: Folder) -> None:
        self.save(folder, "backtracking", 100)
        with pytest.raises(RunFolderError, match=r"config\.yaml, which says whose run this is, is gone: bring it back"):
            claim(folder, RING, seed=0)
        folder.write(CONFIG, b"recipe: {na")
        with pytest.raises(RunFolderError, match="is damaged: bring it back"):
            claim(folder, RING, seed=0)

    def test_a_driver_that_died_at_once_left_a_free_folder(self, folder: Folder) -> None:
        folder.write_json(LOCK, {})
        assert claim(folder, RING, seed=0) is None


def row(stage: str, step: int, **numbers: float) -> dict[str, Any]:
    return {"stage": stage, "step": step, "node": 0, "seconds": float(step), **numbers}


class TestMetrics:
    def test_whoever_has_lost_the_folder_writes_nothing_there(self, folder: Folder) -> None:
        """A driver that was stopped for long may write before its lock's thread has looked: by then another one is complete."""
        with locked(folder) as lock:
            metrics = Metrics(folder, may_write=lock.require)
            metrics.flush()
            folder.write_json(LOCK, folder.read_json(LOCK) | {"key": "another's"})
            folder.write(METRICS, b"another's")
            with pytest.raises(RunFolderError, match="taken over"):
                metrics.flush()
            assert folder.read(METRICS) == b"another's"

    def test_round_trip(self, folder: Folder) -> None:
        metrics = Metrics(folder)
        assert metrics.seconds == 0
        metrics.add(row("recording", 1, fake_loss=0.5))
        metrics.add(row("backtracking", 1, fake_loss=0.25, field_norm=2.0))
        metrics.flush()
        again = Metrics(folder)
        assert again.table().equals(metrics.table())
        assert again.seconds == 1
        table = again.table().to_pydict()
        assert (table["stage"], table["fake_loss"], table["field_norm"]) == (
            ["recording", "backtracking"],
            [0.5, 0.25],
            [None, 2.0],
        )
        again.add(row("backtracking", 2))
        again.flush()
        assert Metrics(folder).table().num_rows == 3

    def test_what_will_be_made_again_is_forgotten(self, folder: Folder) -> None:
        metrics = Metrics(folder)
        for stage in ORDER:
            for step in (1, 2, 3):
                metrics.add(row(stage, step))
        metrics.forget_after("backtracking", 2, order=ORDER)
        assert [(r["stage"], r["step"]) for r in metrics.rows[3:]] == [("backtracking", 1), ("backtracking", 2)]
        metrics.forget_after("recording", 1, order=ORDER)
        assert [(r["stage"], r["step"]) for r in metrics.rows] == [("recording", 1)], "with all of the later stage"

    def test_a_measurement_meets_its_row_before_and_after(self, folder: Folder) -> None:
        metrics = Metrics(folder)
        metrics.add(row("backtracking", 1))
        metrics.amend("backtracking", 1, {"frechet": 9.0})
        metrics.amend("backtracking", 2, {"frechet": 4.0})
        metrics.amend("backtracking", 2, {"accuracy": 0.5})
        metrics.add(row("recording", 2))
        metrics.add(row("backtracking", 2, fake_loss=1.0))
        table = metrics.table().to_pydict()
        assert table["frechet"] == [9.0, None, 4.0]
        assert table["accuracy"] == [None, None, 0.5]
        assert table["fake_loss"] == [None, None, 1.0]

    def test_it_is_written_as_it_goes_but_not_each_step(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = 0.0
        monkeypatch.setattr(metrics_file.time, "monotonic", lambda: clock)
        metrics = Metrics(folder)
        metrics.add(row("recording", 1))
        assert not folder.has(METRICS)
        clock = 2 * metrics_file.FLUSH_SECONDS
        metrics.add(row("recording", 2))
        assert Metrics(folder).table().num_rows == 2
        metrics.add(row("recording", 3))
        assert Metrics(folder).table().num_rows == 2

    def test_a_bit_of_a_row_that_is_another_is_found(self, folder: Folder) -> None:
        metrics = Metrics(folder)
        metrics.add({"stage": "recording", "step": 1, "node": 0, "seconds": 1.0, "fake_loss": 0.7254901960784313})
        metrics.flush()
        whole = folder.read(METRICS)
        at = whole.index(struct.pack("<d", 0.7254901960784313))  # the first: of the page; the statistics have it as well
        folder.write(METRICS, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            Metrics(folder)
        heard: list[str] = []
        assert Metrics.of_run(folder, say=heard.append).rows == []
        assert folder.names() == [DAMAGED_METRICS]
        assert len(heard) == 1

    @pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all", not_utf_8(), *others()])
    def test_a_damaged_file_is_refused_in_one_line(self, folder: Folder, data: bytes) -> None:
        folder.write(METRICS, data)
        with pytest.raises(CheckpointError, match=f"{METRICS} is damaged: ") as refused:
            Metrics(folder)
        assert "\n" not in str(refused.value)


def test_a_picture_is_noted_once_in_the_order_of_the_first_time() -> None:
    summary = Summary("ring8", 0)
    for file in ("teacher.png", "untrained.png", "teacher.png"):
        summary.picture(file, file.upper())
    assert [picture["file"] for picture in summary.pictures] == ["teacher.png", "untrained.png"]


def test_versions_are_those_of_what_computes() -> None:
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "disback-ray", "ray", "numpy"} <= versions().keys()
