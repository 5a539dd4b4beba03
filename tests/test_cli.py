"""The command line, in this process: what it prints, and the one line that it says where something is wrong."""

import importlib.metadata
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from disback_ray.config import shipped

Command = Callable[..., Any]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# -- help and recipes --


def test_the_command_that_is_installed() -> None:
    installed = Path(sys.executable).with_name("disback-ray")
    asked = subprocess.run([installed, "recipes"], capture_output=True, text=True, check=True, env=os.environ)
    assert [line.split()[0] for line in asked.stdout.splitlines()] == shipped("recipes")
    assert asked.stderr == ""


def test_help_says_what_to_do_first(command: Command) -> None:
    for arguments in (["--help"], []):
        said = command(*arguments)
        assert said.status == 0
        assert "runs/digits/report.html" in said.out
        assert all(name in said.out for name in ("run", "sample", "recipes"))
    options = command("run", "--help").out
    assert all(name in options for name in ("--cluster", "--out", "--seed", "--set", "--in-process", "--fresh", "--debug"))


def test_the_version(command: Command) -> None:
    said = command("--version")
    assert (said.status, said.out, said.err) == (0, f"{importlib.metadata.version('disback-ray')}\n", "")


def test_recipes_are_listed_with_a_line_each(command: Command) -> None:
    lines = command("recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == shipped("recipes")
    assert all(len(line.split()) > 4 for line in lines)


def test_a_recipe_is_shown_to_be_saved_and_changed(command: Command, tmp_path: Path) -> None:
    shown = command("recipes", "show", "ring8").out
    assert yaml.safe_load(shown)["name"] == "ring8"
    assert shown.startswith("#"), "with its comments"
    assert command("recipes", "show", "rign8").complaint.startswith("unknown recipe 'rign8'; did you mean 'ring8'?")


# -- bad input: one line on stderr, exit 2, nothing written --


@pytest.fixture
def refused(command: Command, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `disback-ray run` with tiny settings and what is given; what it complains of, having written nothing."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str, recipe: str = "ring8") -> str:
        before = {file: file.read_bytes() if file.is_file() else None for file in tmp_path.rglob("*")}
        said = command(*tiny.arguments(recipe, tmp_path / "out", f"--set=cluster.storage={tmp_path}/storage", *more))
        assert (said.status, said.out) == (2, "")
        assert {file: file.read_bytes() if file.is_file() else None for file in tmp_path.rglob("*")} == before
        return str(said.complaint)

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "teacher.trainin.steps=3"], "ring8: unknown key teacher.trainin; did you mean 'training'?"),
        (["--set", "cluster.adress=auto"], "local: unknown key adress; did you mean 'address'?"),
        (["--set", "batch=many"], "ring8: batch: 'many': input should be a valid integer"),
        (["--set", "teacher.sigma_data=.nan"], "ring8: teacher.sigma_data: nan: "),
        (["--set", "backtracking.generator.lr=-1"], "ring8: backtracking.generator.lr: -1: "),
        (["--set", "steps"], "--set steps: expected key=value"),
        (["--set", "batch=["], "--set batch=[: the value is not YAML"),
        (["--set", "recording.at=[2, 9]"], "recording: the last node is kept after step 9, not at the end, 8"),
        (["--set", "backtracking.steps=8"], "backtracking.steps: 8 leave none for the teacher after 8 on 2 nodes"),
        (["--set", "micro_batches=5"], "ring8: micro_batches: 5 don't divide batch, 32"),
        (["--set", "teacher.network={kind: ddpmpp}"], "ring8: teacher.network.kind: ddpmpp is not for data of kind ring"),
        (
            ["--set", "cluster.roles.teacher.with=teacher"],
            "roles.teacher.with: teacher: name another role of the cast: path_node, ",
        ),
        (["--set", "cluster.roles.path_node={with: teacher, gpus: 1}"], "roles.path_node.with: teacher: leave out gpus"),
        (["--set", "cluster.roles.generator.replicas=2"], "generator.replicas: 2; this role holds the weights: 1"),
        (["--set", "cluster.roles.teacher.gpus=1.5"], "roles.teacher.gpus: 1.5: whole GPUs, or a part of one"),
        (["--set", "cluster.storage=s4://bucket"], "storage s4://bucket: "),
        (["--set", "cluster.address=ray://10.0.0.1:10001"], "address: ray://10.0.0.1:10001: run the driver on a machine of the"),
        (["--set", "cluster.address=somewhere"], "address: somewhere: expected local, auto or host:port"),
        (["--out", "s4://bucket/run"], "storage s4://bucket/run: "),
        (["--out", ""], "out: empty, maybe a variable that isn't set"),
        (["--cluster", ""], "cluster: empty, maybe a variable that isn't set"),
        (["--out", "/proc/no/run", "--in-process"], "can't write /proc/no/run/"),
        (["--seed", "one"], "Invalid value for '--seed'"),
        (["--seed", "-1"], "seed: -1: "),
        (["--cluster", "no.yaml"], "no.yaml: No such file or directory"),
        (["--cluster", "locl"], "unknown cluster 'locl'; did you mean 'local'?"),
        (["--nodes", "3"], "No such option: --nodes"),
        (["more"], "Got unexpected extra argument"),
    ],
)
def test_what_a_run_refuses(refused: Callable[..., str], arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("ring9", "unknown recipe 'ring9'; did you mean 'ring8'?"),
        ("no.yaml", "no.yaml: No such file or directory"),
        ("folder.yaml", "folder.yaml: Is a directory"),
        ("binary.yaml", "binary.yaml: not a text file"),
        ("broken.yaml", "broken.yaml: not YAML: "),
        ("list.yaml", "list.yaml: holds list, not keys and values"),
        ("cluster.yaml", "cluster.yaml: a cluster file, and no recipe: give it with --cluster"),
        ("empty.yaml", "empty.yaml: name, data, teacher, batch, recording, backtracking: missing"),
    ],
)
def test_what_a_run_refuses_as_a_recipe(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    for name, content in {
        "binary": bytes(range(256)),
        "broken": b"a: [",
        "list": b"- 1",
        "empty": b"",
        "cluster": b"address: local",
    }.items():
        (tmp_path / f"{name}.yaml").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    answer = command("run", recipe)
    assert answer.status == 2
    assert said in answer.complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_an_address_where_nothing_answers(refused: Callable[..., str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert refused("--set", f"cluster.address={address}").startswith(f"address: {address}: unreachable (Connection refused)")


def test_a_cluster_without_what_is_asked_for(refused: Callable[..., str], ray_cluster: str) -> None:
    said = refused(
        "--set", f"cluster.address={ray_cluster}", "--set", "cluster.placement_timeout=0.5",
        "--set", "cluster.roles.generator.accelerator=H100",
    )  # fmt: skip
    assert said.startswith("can't place generator (")
    assert "asked teacher " in said
    assert "2/2 GPU GeForce-RTX-3090" in said
    assert "2/2 GPU A10G" in said


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_file_in_the_place_of_the_folder(refused: Callable[..., str], tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    said = refused("--out", out, "--in-process")
    assert f"{tmp_path}/{out}" in said
    assert ("a file, not a folder" if out == "file" else "Not a directory") in said


def test_the_recipe_that_a_cluster_file_names(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text("recipe: ring9")
    assert command("run", "--cluster", "cluster.yaml").complaint.startswith("unknown recipe 'ring9'; did you mean 'ring8'?")


def test_debug_shows_the_traceback(command: Command) -> None:
    said = command("run", "ring9", "--debug")
    assert said.status == 2
    assert said.err.startswith("Traceback (most recent call last):")
    assert "disback_ray/running.py" in said.err
    assert said.err.splitlines()[-1].startswith("disback-ray: unknown recipe 'ring9'")


def test_what_a_file_calls_itself_is_not_for_the_terminal_to_obey(command: Command, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a\x1b[2J\u202e\n.png", b"no image")
    said = command("evaluate", str(tmp_path / "x.zip"), "--reference", str(tmp_path / "x.zip"), "--extractor", "pixels")
    assert r"corrupt: a\x1b[2J\u202e .png: no image" in said.complaint


def test_a_bug_of_ours_is_said_to_be_one(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x\ny")

    monkeypatch.setattr("disback_ray.running.run", broken)
    said = command("run")
    assert said.status == 1
    assert said.complaint == r"internal error, please report it: KeyError: 'x\ny'"


# -- runs that fail on the way --


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("teacher.training.optimiser.lr=1.0e+25", "the teacher's loss is "),
        ("recording.optimiser.lr=1.0e+25", "recording step "),
        ("backtracking.fake_score.lr=1.0e+25", "the fake score"),
        ("backtracking.generator.lr=1.0e+30", "the generator's samples have NaN or Inf at step "),
    ],
)
def test_a_run_that_diverges_fails_and_says_so(command: Command, tiny: Any, tmp_path: Path, setting: str, said: str) -> None:
    answer = command(*tiny.arguments("ring8", tmp_path / "out", "--in-process", "--set", setting))
    complaints = [line for line in answer.err.splitlines() if line.startswith("disback-ray: ")]
    assert answer.status == 2
    assert len(complaints) == 1
    assert said in complaints[0]
    assert "lower " in complaints[0], "what to do"
    assert "Traceback" not in answer.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert complaints[0] == f"disback-ray: {summary['error']}"
    assert summary["error"] in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")


# -- sample --


def test_samples_as_a_picture_and_as_arrays(command: Command, digits: Path, ring8: Path, tmp_path: Path) -> None:
    for run, shape in ((digits, (12, 1, 8, 8)), (ring8, (12, 2))):
        said = command("sample", str(run), "--n", "12", "--seed", "3", "--out", str(tmp_path / "new" / "x.npz"))
        assert (said.status, said.out, said.err) == (0, f"{tmp_path / 'new' / 'x.npz'}\n", "")
        with np.load(tmp_path / "new" / "x.npz", allow_pickle=False) as arrays:
            assert arrays["x"].shape == shape
            assert arrays["x"].dtype == np.float32
            assert ("labels" in arrays) == (run == digits)
            if run == digits:
                assert arrays["labels"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        command("sample", str(run), "--n", "12", "--out", str(tmp_path / "x.png"))
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_seed_decides_the_samples(command: Command, ring8: Path, tmp_path: Path) -> None:
    def drawn(seed: int) -> Any:
        command("sample", str(ring8), "--seed", str(seed), "--out", str(tmp_path / "x.npz"))
        return np.load(io.BytesIO((tmp_path / "x.npz").read_bytes()))["x"]

    assert len(drawn(0)) == 64
    assert np.array_equal(drawn(0), drawn(0))
    assert not np.isclose(drawn(0), drawn(1)).any()


def test_what_sample_refuses(command: Command, ring8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for arguments, said in {
        (str(tmp_path),): f"{tmp_path}: no run of disback-ray is there",
        ("none",): "none: no run of disback-ray is there",
        ("file",): "file: ",
        (str(ring8), "--n", "0"): "n: 0: ask for at least one sample",
        (str(ring8), "--n", "-3"): "n: -3: ask for at least one sample",
        (str(ring8), "--n", "x"): "Invalid value for '--n'",
        (str(ring8), "--out", "x.jpg"): "--out x.jpg: name a .png or an .npz file",
        (str(ring8), "--out", "x"): "--out x: name a .png or an .npz file",
        (str(ring8), "--out", "file/x.npz"): "--out file/x.npz: ",
        (): "Missing argument",
    }.items():
        answer = command("sample", *arguments)
        assert answer.status == 2
        assert answer.complaint.startswith(said)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# -- what a run prints at its end --


def test_a_finished_run_is_told_in_a_few_lines(command: Command, tiny: Any, ring8: Path) -> None:
    said = command(*tiny.arguments("ring8", ring8, "--in-process"))
    lines = said.out.splitlines()
    summary = json.loads((ring8 / "summary.json").read_text())
    assert said.status == 0
    assert lines[0].split() == ["sliced", "wasserstein", "energy", "distance", "modes", "in", "modes"]
    for line, name in zip(lines[1:5], ["teacher", "untrained", "generator", "real_halves"], strict=True):
        assert line.startswith(name.partition("_")[0])
        figures = [
            f"{summary['metrics'][name][key]:.4g}" for key in ("sliced_wasserstein", "energy_distance", "modes", "in_modes")
        ]
        assert line.split()[-4:] == figures
    assert lines[-2].startswith("complete in ")
    assert lines[-2].endswith(f"digest {summary['digest'][:16]}")
    assert lines[-1] == f"report: {ring8 / 'report.html'}"
