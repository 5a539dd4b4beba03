"""Whole runs: the folder that they leave, whose folder it is, and Ray as users start it."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import matplotlib.image
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import yaml

import disback_ray
from disback_ray import pictures, running, theatre
from disback_ray.actors import evaluator
from disback_ray.actors.generator import draw
from disback_ray.algorithms.records import Drawn
from disback_ray.config import ClusterConfig, load_cluster, load_recipe
from disback_ray.data.sources import RingData
from disback_ray.errors import RunFolderError
from disback_ray.evaluation.point_measures import PointMeasures
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.progress import Silent
from disback_ray.rehearsal.pictures import Pictures
from disback_ray.run_folder import recipe_of
from disback_ray.storage import Folder, digest

Command = Callable[..., Any]
DISBACK_RAY = str(Path(sys.executable).with_name("disback-ray"))
RAY = str(Path(sys.executable).with_name("ray"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- the folder --


@pytest.mark.parametrize("name", ["ring8", "digits"])
def test_the_summary(name: str, tiny: Any, request: pytest.FixtureRequest) -> None:
    found = tiny.summary(request.getfixturevalue(name))
    measured = ["frechet", "accuracy"] if name == "digits" else ["sliced_wasserstein", "energy_distance", "modes", "in_modes"]
    assert (found["recipe"], found["seed"], found["status"], found["error"]) == (name, 0, "complete", None)
    assert list(found["stages"]) == ["teacher", "casting", "measuring", "recording", "backtracking", "evaluation"]
    assert all(seconds >= 0 for seconds in found["stages"].values())
    assert set(found["metrics"]) == {"teacher", "untrained", "real_halves", "generator", "nodes"}
    for whose in ("teacher", "untrained", "generator"):
        assert list(found["metrics"][whose]) == measured
        assert all(isinstance(value, float) for value in found["metrics"][whose].values())
    halves = found["metrics"]["real_halves"]
    if name == "digits":
        assert set(halves) == {"frechet", "frechet_mean", "frechet_least"}
        assert 1 < halves["frechet_least"] < halves["frechet_mean"]
        assert halves["frechet"] >= halves["frechet_least"]
    else:
        assert set(halves) == set(measured)
    assert list(found["metrics"]["nodes"]) == ["2", "1"]
    assert found["switches"] == [{"step": 0, "node": 2}, {"step": 4, "node": 1}, {"step": 8, "node": 0}]
    assert set(found["roles"]) == {"teacher", "path_node", "fake_score", "generator", "evaluator"}
    for seat in found["roles"].values():
        assert (seat["pid"], seat["node"], seat["devices"]) == (os.getpid(), socket.gethostname(), [])
    assert re.fullmatch("[0-9a-f]{64}", found["digest"])
    weights = tiny.storage / "teachers" / found["teacher"] / "model.safetensors"
    assert found["teacher_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert {"python", "torch", "ray", "disback-ray"} <= set(found["versions"])


def test_the_metrics(tiny: Any, ring8: Path) -> None:
    table = pq.read_table(ring8 / "metrics.parquet")
    rows = table.to_pylist()
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("recording", step) for step in range(1, 9)), *(("backtracking", step) for step in range(1, 13)),
    ]  # fmt: skip
    assert [row["node"] for row in rows] == [0, 1, 1, 1, 2, 2, 2, 3, *[2] * 4, *[1] * 4, *[0] * 4]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert all(row["fake_loss"] > 0 and row["fake_grad_norm"] > 0 for row in rows)
    for row in rows:
        trains = row["stage"] == "backtracking"
        assert ((row["field_norm"] or 0) > 0) == ((row["generator_grad_norm"] or 0) > 0) == trains
        measured = trains and row["step"] in (4, 5, 8, 10, 12)
        assert (row["sliced_wasserstein"] is not None) == (row["modes"] is not None) == measured
        assert row["frechet"] is None
    nodes = {row["node"]: row["sliced_wasserstein"] for row in rows if row["step"] in (4, 8) and row["stage"] == "backtracking"}
    kept = tiny.summary(ring8)["metrics"]
    assert nodes == {int(node): numbers["sliced_wasserstein"] for node, numbers in kept["nodes"].items()}
    assert rows[-1]["sliced_wasserstein"] == kept["generator"]["sliced_wasserstein"]


@pytest.mark.parametrize("name", ["ring8", "digits"])
def test_the_settings_are_a_recipe_and_a_cluster_file_to_go_from(
    name: str, tiny: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    resolved = yaml.safe_load((request.getfixturevalue(name) / "config.yaml").read_text())
    assert resolved["seed"] == 0
    for part in ("recipe", "cluster"):
        (tmp_path / f"{part}.yaml").write_text(yaml.safe_dump(resolved[part]))
    settings = [s for s in tiny.settings(name) if not s.startswith("cluster.")]
    assert load_recipe(str(tmp_path / "recipe.yaml")) == load_recipe(name, overrides=settings)
    assert load_cluster(tmp_path / "cluster.yaml").storage == str(tiny.storage)


@pytest.mark.parametrize("name", ["ring8", "digits"])
def test_the_weights_and_pictures(name: str, tiny: Any, request: pytest.FixtureRequest) -> None:
    out: Path = request.getfixturevalue(name)
    teacher = tiny.storage / "teachers" / tiny.summary(out)["teacher"] / "model.safetensors"
    shapes = {key: value.shape for key, value in safetensors.torch.load_file(teacher).items()}
    nodes = [safetensors.torch.load_file(out / "path" / f"node-{node}.safetensors") for node in (1, 2, 3)]
    assert all({key: value.shape for key, value in node.items()} == shapes for node in nodes)
    spec = GeneratorSpec.from_json(json.loads((out / "generator" / "generator.json").read_text()))
    averaged, raw = (safetensors.torch.load_file(out / "generator" / f"{kind}.safetensors") for kind in ("model", "raw"))
    for weights in (averaged, raw):
        spec.build().load_state_dict(weights)
    assert any(not averaged[key].equal(raw[key]) for key in raw), "the average is not the last"
    expected = {"teacher", "untrained", "node-2", "node-1", "generator"}
    if name == "ring8":
        expected |= {"figure-8", "figure-9-start", "figure-9-end"}
    assert {file.stem for file in (out / "samples").glob("*.png")} == expected
    assert {picture["file"] for picture in tiny.summary(out)["pictures"]} == {f"samples/{stem}.png" for stem in expected}
    for file in (out / "samples").glob("*.png"):
        pixels = matplotlib.image.imread(io.BytesIO(file.read_bytes()))
        assert min(pixels.shape[:2]) > 50
        assert np.ptp(pixels[..., :3]) > 0.5, "something is on it"
    assert not list(out.rglob("*.partial"))


def test_the_figures_are_of_whom_they_say(tiny: Any, ring8: Path) -> None:
    """Each of them again: the teacher by Heun's method, G with its first weights and with the averaged last ones, data against data."""
    recipe, summary = recipe_of(Folder.at(ring8)), tiny.summary(ring8)
    assert isinstance(recipe.data, RingData)
    measures = PointMeasures(recipe.data, samples=recipe.evaluation.samples, seed=0)
    spec = GeneratorSpec.from_json(json.loads((ring8 / "generator" / "generator.json").read_text()))
    first, steps = spec.build(seed=0), recipe.teacher.sampling_steps
    teacher = disback_ray.load_teacher(tiny.storage / "teachers" / summary["teacher"], steps=steps)
    n = measures.count
    samples = {
        "teacher": teacher.generate(n, seed=0),
        "untrained": draw(first, dict(first.state_dict()), measures.wanted(), seed=0, device=torch.device("cpu")),
        "generator": disback_ray.load_run(ring8).generate(n, seed=0),
    }
    again = {name: measures.measure(Drawn(x, None)) for name, x in samples.items()} | {"real_halves": measures.real_halves()}
    for name, figures in again.items():
        assert summary["metrics"][name] == pytest.approx(figures, rel=1e-3, abs=0.011), name
    assert len({round(figures["energy_distance"], 2) for figures in again.values()}) == 4, "they can be told apart"


def test_the_digest_is_that_of_the_files(ring8: Path) -> None:
    """Of the generator's raw and averaged weights, and of s_φ's."""
    raw, averaged = (safetensors.torch.load_file(ring8 / "generator" / f"{kind}.safetensors") for kind in ("raw", "model"))
    last = max((ring8 / "checkpoints").glob("backtracking-*")) / "fake_score.safetensors"
    fake = {name[8:]: tensor for name, tensor in safetensors.torch.load_file(last).items() if name.startswith("weights.")}
    both = digest(raw, averaged) + digest(fake)
    assert disback_ray.load_run(ring8).digest == hashlib.sha256(both.encode()).hexdigest()


def test_figure_9_has_each_player_s_own_field_and_figure_8_each_step_s_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    for name in ("score_fields", "snapshots"):
        monkeypatch.setattr(evaluator, name, lambda *given: shown.append(given) or b"")
    recipe = load_recipe("ring8")
    looks = evaluator.Evaluator(
        recipe.data, shape=(2,), classes=0, run=Folder.at(tmp_path), cache=Folder.at(tmp_path), samples=9, pictures=1, sigmas=[1.0], seed=0
    )  # fmt: skip
    company = MagicMock(evaluator=looks)
    company.teacher.field.return_value, company.fake_score.field.return_value = torch.zeros(441, 2), torch.ones(441, 2)
    samples = MagicMock(**{"of_generator.return_value": Drawn(torch.full((9, 2), 5.0), None)})
    Pictures(MagicMock(recipe=recipe), company, MagicMock(), samples).before_backtracking()
    ((_, at, of_teacher, real), (_, there, of_fake, generated)) = shown[0][0]
    assert torch.equal(at, looks.grid())
    assert torch.equal(there, at)
    assert (of_teacher.unique().tolist(), of_fake.unique().tolist(), generated.unique().tolist()) == ([0.0], [1.0], [5.0])
    assert torch.equal(real, looks.real().x)
    for field in (company.teacher.field, company.fake_score.field):
        assert field.call_args.kwargs == {"sigma": 5 * 0.1}
    for step in range(0, 200, 10):
        looks.keep_frame(Drawn(torch.full((9, 2), float(step)), None), step)
    looks.figure_8("8.png")
    frames, under = shown[1]
    assert [(title, part.unique().tolist()) for title, part in frames] == [
        (f"step {step}", [float(step)]) for step in (0, 30, 50, 80, 110, 140, 160, 190)
    ]
    assert torch.equal(under, looks.real().x)


@pytest.mark.parametrize("name", ["ring8", "digits"])
def test_the_report_needs_no_other_file(name: str, tiny: Any, request: pytest.FixtureRequest) -> None:
    out: Path = request.getfixturevalue(name)
    page = (out / "report.html").read_text()
    links = re.findall(r"""\b(?:src|href)\s*=\s*["']?(.{5})""", page) + re.findall(r"""url\(["']?(.{5})""", page)
    assert len(links) >= len(tiny.summary(out)["pictures"])
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in page
    found = tiny.summary(out)
    assert page.count("data:image/png;base64,") == len(found["pictures"])
    assert found["digest"][:12] in page
    assert str(os.getpid()) in page
    assert socket.gethostname() in page
    assert all(picture["title"] in page for picture in found["pictures"])


@pytest.mark.usefixtures("not_drawn")
def test_the_metrics_can_be_read_while_it_runs(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    class Reader(Silent):
        def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
            if (tmp_path / "run" / "metrics.parquet").exists():
                lengths.append(pq.read_table(tmp_path / "run" / "metrics.parquet").num_rows)

    monkeypatch.setattr(running, "Silent", Reader)
    tiny.run("ring8", tmp_path / "run")
    assert lengths == sorted(lengths)
    assert {5, 8, 13, 18} <= set(lengths), "at each checkpoint and stage at least"


# -- whose folder it is --


def test_a_complete_run_is_given_at_once(tiny: Any, ring8: Path, command: Command) -> None:
    before = contents(ring8)
    nowhere = ["cluster.address=127.0.0.1:1", "cluster.roles.teacher.accelerator=H100"]
    began = time.monotonic()
    again = tiny.run("ring8", ring8, *nowhere, in_process=False)
    assert time.monotonic() - began < 1
    assert (again.folder.uri, again.summary) == (str(ring8), tiny.summary(ring8))
    said = command(*tiny.arguments("ring8", ring8))
    assert said.status == 0
    assert said.err == f"{ring8} holds this run, complete: nothing to do (--fresh runs it anew, --out elsewhere)\n"
    assert said.out.endswith(f"report: {ring8}/report.html\n")
    assert contents(ring8) == before


def test_a_complete_run_whose_generator_is_gone_is_no_run_to_go_on_with(tiny: Any, ring8: Path, tmp_path: Path) -> None:
    for file in ("config.yaml", "summary.json"):
        shutil.copy(ring8 / file, tmp_path)
    with pytest.raises(RunFolderError, match=r"the run is complete, and its generator/ is gone: --fresh runs it anew"):
        tiny.run("ring8", tmp_path)


def test_a_run_s_settings_are_recipe_seed_and_cluster_in_one(tiny: Any, ring8: Path, command: Command, tmp_path: Path) -> None:
    said = command("run", str(ring8 / "config.yaml"), "--out", str(ring8))
    assert (said.status, said.err.count("complete: nothing to do")) == (0, 1)
    for more, found in {("--seed", "1"): "seed: 0 there, 1 here", ("--set", "batch=16"): "batch: 32 there, 16 here"}.items():
        assert found in command("run", str(ring8 / "config.yaml"), "--out", str(ring8), *more).complaint
    settings = yaml.safe_load((ring8 / "config.yaml").read_text())
    copy = tmp_path / "again.yaml"
    copy.write_text(yaml.safe_dump(settings | {"seed": 7}))
    assert "seed: 0 there, 7 here" in command("run", str(copy), "--out", str(ring8)).complaint
    copy.write_text(yaml.safe_dump(settings | {"seed": True}))
    assert command("run", str(copy), "--out", str(ring8)).complaint.startswith("seed: True: expected a whole number")
    copy.write_text(yaml.safe_dump(settings | {"cluster": settings["cluster"] | {"storage": "s4://bucket"}}))
    assert command("run", str(copy)).complaint.startswith("storage s4://bucket: ")
    assert "complete: nothing to do" in command("run", str(copy), "--cluster", "local", "--out", str(ring8)).err
    assert load_cluster(ring8 / "config.yaml").storage == str(tiny.storage)


def test_another_run_s_folder_is_refused(tiny: Any, ring8: Path, command: Command) -> None:
    before = contents(ring8)
    for more, said in {
        ("--set", "batch=16"): "(batch: 32 there, 16 here)",
        ("--set", "teacher.training.optimiser.lr=0.5"): "(teacher.training.optimiser.lr: 0.005 there, 0.5 here)",
        ("--set", "student.network.hidden_layers=2"): "(student.network.hidden_layers: 1 there, 2 here)",
        ("--set", "data.std=0.2"): "(data.std: 0.1 there, 0.2 here)",
        ("--seed", "1"): "(seed: 0 there, 1 here)",
    }.items():
        answer = command(*tiny.arguments("ring8", ring8, "--in-process", *more))
        assert answer.status == 2
        assert answer.complaint == f"{ring8} belongs to another run {said}: choose another --out, or --fresh"
    answer = command(*tiny.arguments("digits", ring8, "--in-process"))
    assert f"{ring8} belongs to another run (name: 'ring8' there, 'digits' here)" in answer.complaint
    assert contents(ring8) == before


def test_a_run_does_not_go_on_with_other_weights_of_its_teacher(tiny: Any, ring8: Path, tmp_path: Path, command: Command) -> None:
    begun = Path(shutil.copytree(ring8, tmp_path / "run"))
    summary = tiny.summary(begun) | {"status": "interrupted", "teacher_sha256": "0123" * 16}
    (begun / "summary.json").write_text(json.dumps(summary))
    answer = command(*tiny.arguments("ring8", begun, "--in-process"))
    assert answer.status == 2
    assert answer.complaint.startswith(f"{begun} was begun with another teacher (012301230123012301230123… there, ")


@pytest.mark.parametrize("damage", ["[]", '{"status": "complete"}', '{"status": "running", "metrics": 5}'])
def test_a_summary_of_something_else_is_told_in_a_line(
    tiny: Any, ring8: Path, tmp_path: Path, command: Command, damage: str
) -> None:
    begun = Path(shutil.copytree(ring8, tmp_path / "run"))
    shutil.rmtree(begun / "checkpoints")  # from which it would be written again
    (begun / "summary.json").write_text(damage)
    answer = command(*tiny.arguments("ring8", begun, "--in-process"))
    assert answer.status == 2
    assert answer.complaint.startswith(f"{begun}/summary.json is damaged: ")


@pytest.mark.parametrize("name", ["photo.jpg", "config.yaml", "summary.json"])
@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_somebody_else_s_folder_is_refused_and_left(
    tiny: Any, command: Command, tmp_path: Path, name: str, fresh: list[str]
) -> None:
    out = tmp_path / "theirs"
    out.mkdir()
    (out / name).write_text("theirs: 1\n")
    answer = command(*tiny.arguments("ring8", out, "--in-process", *fresh))
    assert answer.status == 2
    assert answer.complaint.startswith(f"{out}: not empty, and no run of disback-ray: ")
    assert contents(out) == {name: b"theirs: 1\n"}


@pytest.mark.usefixtures("not_drawn")
def test_an_empty_folder_will_do_and_fresh_deletes_only_a_run(tiny: Any, command: Command, ring8: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ring8, out)
    (out / "samples" / "old.png").write_bytes(b"old")
    words = tiny.arguments("ring8", out, "--seed", "1", "--fresh", "--set", "evaluation.pictures=1")
    answer = command(*words, "--set", "cluster.address=127.0.0.1:1")
    assert "127.0.0.1:1: unreachable" in answer.complaint
    assert contents(out).keys() > contents(ring8).keys(), "nothing was deleted for a run that can't begin"
    assert command(*words, "--in-process").status == 0
    assert tiny.summary(out)["seed"] == 1
    assert not (out / "samples" / "old.png").exists()
    (tmp_path / "empty").mkdir()
    tiny.run("ring8", tmp_path / "empty", "evaluation.pictures=1", seed=1)
    tiny.assert_equal(tmp_path / "empty", out)


# -- what decides the numbers --


@pytest.fixture
def not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are not drawn: that takes more time than all else."""
    monkeypatch.setattr(pictures, "_png", lambda figure: b"\x89PNG")


@pytest.mark.usefixtures("not_drawn")
def test_the_teacher_is_trained_once_for_all_runs_of_the_same_settings(
    tiny: Any, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained(Exception):
        pass

    def train(*_: object, **__: object) -> None:
        raise Trained

    monkeypatch.setattr(theatre, "train_teacher", train)
    quick = ["evaluation.pictures=1", "backtracking.steps=9", "evaluation.every=100", "recording.optimiser.lr=0.1"]
    found = tiny.run("ring8", tmp_path / "other", *quick, seed=5)
    assert found.summary["status"] == "complete"
    for setting in ("teacher.training.steps=251", "teacher.training.seed=1", "teacher.network.width=17", "data.std=0.11",
                    "teacher.training.optimiser.lr=0.1", "teacher.sigma_data=1.0"):  # fmt: skip
        with pytest.raises(Trained):
            tiny.run("ring8", tmp_path / setting.replace("=", "-"), setting)


@pytest.mark.usefixtures("not_drawn")
def test_the_seed_and_the_settings_decide_the_digest(tiny: Any, ring8: Path, tmp_path: Path) -> None:
    quick = ["evaluation.pictures=1", "evaluation.every=100"]
    digests = {tiny.summary(ring8)["digest"]}
    assert tiny.run("ring8", tmp_path / "same", *quick).digest in digests, "what is looked at decides nothing"
    for index, (seed, setting) in enumerate([(1, "batch=32"), (0, "batch=16"), (0, "backtracking.generator.lr=0.01"),
                                             (0, "backtracking.fake_updates=2"), (0, "recording.optimiser.lr=0.1")]):  # fmt: skip
        digests.add(tiny.run("ring8", tmp_path / str(index), *quick, setting, seed=seed).digest)
    assert len(digests) == 6


@pytest.mark.usefixtures("not_drawn")
def test_without_a_path_the_teacher_is_the_only_target(tiny: Any, tmp_path: Path) -> None:
    found = tiny.run("ring8", tmp_path / "run", "recording.steps=0", "recording.at=null", "backtracking.steps_per_node=1")
    assert found.summary["switches"] == [{"step": 0, "node": 0}]
    assert {row["stage"] for row in tiny.rows(tmp_path / "run")} == {"backtracking"}
    assert not (tmp_path / "run" / "path").exists()


@pytest.mark.usefixtures("not_drawn")
def test_from_python_with_settings_in_another_thread_and_a_uri(tiny: Any, ring8: Path, tmp_path: Path) -> None:
    """Signals can't be had outside of the main thread; a notebook may well run there."""
    results: list[Any] = []
    settings = [s for s in tiny.settings("ring8") if not s.startswith("cluster.storage=")]
    cluster = ClusterConfig(storage=tiny.storage.as_uri(), recipe="ring8")

    def run() -> None:
        results.append(disback_ray.run(cluster=cluster, out=(tmp_path / "run").as_uri(), overrides=settings, in_process=True))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (found,) = results
    assert found.folder.uri == (tmp_path / "run").as_uri()
    tiny.assert_equal(tmp_path / "run", ring8, pictures=False)


def test_settings_of_the_cluster_win_over_those_that_python_gave(tiny: Any, ring8: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="belongs to another run"):
        disback_ray.run("ring8", cluster=ClusterConfig(storage=str(tmp_path)), overrides=[f"cluster.storage={ring8.parent}"])


# -- Ray as users start it --


@dataclass(frozen=True)
class Head:
    """A Ray that somebody else started. environment: of a shell on its machine."""

    address: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def head(processes: Any) -> Iterator[Head]:
    """`ray start --head`, with files of its own, so that `auto` there is this one."""
    folder = tempfile.mkdtemp(prefix="head-")
    environment = {**os.environ, "RAY_TMPDIR": folder}
    port = free_port()
    options = f"--port={port} --num-cpus=4 --num-gpus=0 --include-dashboard=false --dashboard-agent-listen-port={free_port()}"
    options += " --node-ip-address=127.0.0.1 --object-store-memory=200000000"
    with open(f"{folder}/ray-start.log", "w+") as log:
        ray = subprocess.Popen([RAY, "start", "--head", "--block", *options.split()], stdout=log, stderr=log, env=environment)
        try:
            end = time.monotonic() + 60
            while "--block" not in (text := Path(log.name).read_text()):  # printed once it runs
                assert ray.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.1)
            yield Head(f"127.0.0.1:{port}", environment)
            assert ray.poll() is None, "it runs as before"
        finally:
            started = processes.started_by(ray.pid) | {ray.pid}
            for pid in started:  # `ray stop` would stop those of others as well, and SIGTERM waits half a minute for actors
                os.kill(pid, signal.SIGKILL)
            ray.wait(30)
    assert not processes.left_of(started)
    shutil.rmtree(folder, ignore_errors=True)


def begin(command: list[str], environment: dict[str, str], folder: Path) -> "subprocess.Popen[str]":
    """In a process group of its own, as a shell does it."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=folder, text=True, stdout=pipe, stderr=pipe, start_new_session=True)


def listened_at(pid: int) -> set[str]:
    """Addresses at which a process waits for others; none where it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {each.laddr.ip for each in psutil.Process(pid).net_connections("inet") if each.status == psutil.CONN_LISTEN}
    return set()


def complete(running: "subprocess.Popen[str]", tiny: Any) -> str:
    """What a finished run printed; on stderr only its stages, and a line now and then."""
    out, err = running.communicate(timeout=180)
    assert running.returncode == 0, err
    tiny.assert_progress(err.splitlines())
    return out


def test_a_ray_that_somebody_started_from_the_command_line(
    tiny: Any, ring8: Path, head: Head, left_over: Callable[[str], set[str]], tmp_path: Path
) -> None:
    """With a recipe and a cluster file, as the manual has it."""
    recipe = yaml.safe_load((ring8 / "config.yaml").read_text())["recipe"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "cluster.yaml").write_text(f"address: auto\nstorage: {tiny.storage}\nroles: {{path_node: {{with: teacher}}}}\n")
    command = [DISBACK_RAY, "run", "recipe.yaml", "--cluster", "cluster.yaml", "--out", "run", "--seed", "0"]
    said = complete(begin(command, head.environment, tmp_path), tiny)
    out = tmp_path / "run"
    tiny.assert_equal(out, ring8)
    assert f"digest {tiny.summary(ring8)['digest'][:16]}\nreport: {out}/report.html\n" in said
    assert len({seat["pid"] for seat in tiny.summary(out)["roles"].values()}) == 5, "each in a process of its own"
    assert not left_over(head.address)


def test_a_ray_that_somebody_started_from_python(
    tiny: Any, digits: Path, head: Head, left_over: Callable[[str], set[str]], tmp_path: Path, command: Command
) -> None:
    """The recipe is named in the cluster file alone."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"recipe: digits\naddress: {head.address}\nstorage: {tiny.storage}\n")
    settings = [s for s in tiny.settings("digits") if not s.startswith("cluster.")]
    found = disback_ray.run(cluster=cluster, out=tmp_path / "run", seed=0, overrides=settings)
    tiny.assert_equal(tmp_path / "run", digits)
    assert found.digest == tiny.summary(digits)["digest"]
    assert found.metrics == tiny.summary(digits)["metrics"]
    assert set(found.paths) == {"report", "summary", "metrics", "config", "generator", "path", "samples"}
    assert all(Path(path).exists() for path in found.paths.values())
    assert command("sample", str(tmp_path / "run"), "--n", "9", "--seed", "4", "--out", str(tmp_path / "x.npz")).status == 0
    assert np.array_equal(np.load(tmp_path / "x.npz")["x"], found.generate(9, seed=4).numpy())
    seats = tiny.summary(tmp_path / "run")["roles"]
    assert len({seat["pid"] for seat in seats.values()} | {os.getpid()}) == 6
    assert len({seat["node_id"] for seat in seats.values()}) == 1  # its address may be the machine's or loopback's
    assert not any(seat["devices"] for seat in seats.values())
    assert not left_over(head.address)


def test_a_private_ray(tiny: Any, ring8: Path, tmp_path: Path, processes: Any) -> None:
    """Nothing but the command, as a user has it. It listens on loopback only, nobody is told its token, and nothing is left of it."""
    short = tempfile.mkdtemp(prefix="disback-")
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_TMPDIR": short}
    del environment["RAY_AUTH_MODE"]
    out = tmp_path / "run"
    running = begin([DISBACK_RAY, *tiny.arguments("ring8", out)], environment, tmp_path)
    end = time.monotonic() + 120
    while not (out / "summary.json").exists() or not tiny.summary(out)["metrics"]:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    started = processes.started_by(running.pid)
    assert {seat["pid"] for seat in tiny.summary(out)["roles"].values()} < started
    listening = {address.removeprefix("::ffff:") for pid in started for address in listened_at(pid)}
    assert listening == {"127.0.0.1"}
    printed = complete(running, tiny)
    tiny.assert_equal(out, ring8)
    assert not processes.left_of(started)
    assert stat.filemode((tmp_path / ".ray/auth_token").stat().st_mode) == "-rw-------"
    token = (tmp_path / ".ray/auth_token").read_bytes().strip()
    written = [file for folder in (out, Path(short)) for file in folder.rglob("*") if file.is_file()]
    assert len(token) > 20
    assert any(file.suffix == ".log" for file in written)
    assert token.decode() not in printed
    assert not [file for file in written if token in file.read_bytes()]
    shutil.rmtree(short)
