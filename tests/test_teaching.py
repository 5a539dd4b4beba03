"""`disback-ray teacher train`: from images to a teacher that can be looked at and distilled."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import disback_ray
from disback_ray import teaching
from disback_ray.any_model import load_model
from disback_ray.config.teacher_job import multipliers_for
from disback_ray.errors import CheckpointError, ConfigError, DisbackError, RunFolderError
from disback_ray.progress import Silent
from disback_ray.storage import Folder
from disback_ray.teachers.training import saved_every
from disback_ray.teaching import TrainedTeacher, train_teacher

Train = Callable[..., TrainedTeacher]
SMALL = {"steps": 12, "batch": 8, "channels": 4, "blocks": 1, "lr": 1e-3, "grey": True, "pictures": 4, "pictures_every": 6}


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(data: Path, out: str, *overrides: str, **options: Any) -> TrainedTeacher:
        settings = [f"cluster.storage={tmp_path / 'storage'}", "teacher.sampling_steps=2", "teacher.network.multipliers=[1]"]
        settings += ["cluster.roles.teacher_trainer={cpus: 1, gpus: 0}", *overrides]
        return train_teacher(
            data,
            resolution=8,
            out=tmp_path / out,
            overrides=settings,
            **({"in_process": True, "conditional": True} | SMALL | options),
        )

    return run


def weights(done: TrainedTeacher) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(done.folder.local_path / "model.safetensors")


def test_three_forms_make_one_teacher(train: Train, digits_kept: Any, command: Callable[..., Any]) -> None:
    done = [train(where, f"out-{where.suffix}") for where in digits_kept.all]
    first = (done[0].folder.local_path / "model.safetensors").read_bytes()
    assert all((each.folder.local_path / "model.safetensors").read_bytes() == first for each in done)
    folder = done[0].folder
    assert folder.names() == ["denoiser.json", "model.safetensors", "samples", "teacher.json"]
    assert (folder / "samples").names() == ["data.png", "step-0000006.png", "step-0000012.png"]
    kept = folder.read_json("teacher.json")
    assert (kept["status"], kept["data"]["count"], kept["data"]["classes"]) == ("complete", 150, list("0123456789"))
    assert [step for step, _ in kept["losses"]] == list(range(1, 13))
    assert disback_ray.load_teacher(folder.uri, steps=2).generate(3, labels=[1, 2, 3]).shape == (3, 1, 8, 8)
    said = command("inspect", folder.uri).out
    assert "teacher.format: denoiser" in said
    assert "10 classes" in said
    assert command("sample", folder.uri, "--n", "2", "--steps", "2", "--out", str(folder.local_path / "x.png")).status == 0


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def noticed(self: Silent, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        if done == step and "loss" in numbers:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Silent, "step", noticed)


def test_ctrl_c_keeps_and_the_same_command_goes_on(train: Train, digits_kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train(digits_kept.zip, "straight")
    with monkeypatch.context() as patch:
        interrupted_at(7, patch)
        with pytest.raises(KeyboardInterrupt):
            train(digits_kept.zip, "broken")
    broken = Folder.at(straight.folder.local_path.parent / "broken")
    assert broken.read_json("teacher.json")["status"] == "interrupted"
    assert broken.has("unfinished.safetensors")
    with pytest.raises(CheckpointError, match="a teacher in training: finish it with the same"):
        disback_ray.inspection.inspect(broken.uri)
    with pytest.raises(CheckpointError, match="a teacher in training"):
        load_model(broken.uri)
    told: list[int] = []
    monkeypatch.setattr(Silent, "step", lambda self, done, *, node, numbers: told.append(done) if "loss" in numbers else None)
    train(digits_kept.zip, "broken")
    assert told == list(range(8, 13)), "no step is made twice"
    assert (broken.local_path / "model.safetensors").read_bytes() == (
        straight.folder.local_path / "model.safetensors"
    ).read_bytes()
    assert not broken.has("unfinished.safetensors")
    told.clear()
    assert train(digits_kept.zip, "broken").summary["status"] == "complete"
    assert told == [], "what is complete is not trained again"


@pytest.mark.parametrize(("steps", "between"), [(500, 100), (2400, 240), (100_000, 1000)])
def test_a_death_costs_no_more_than_a_thousand_steps(steps: int, between: int) -> None:
    assert saved_every(steps) == between


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train's own, at every start
@pytest.mark.long
def test_two_workers_over_ray(train: Train, digits_kept: Any, ray_cluster: str) -> None:
    """Ray Data reads what one process reads, to the bit; Ray Train trains what one process trains, to the rounding of a sum."""
    here = train(digits_kept.parquet, "here")
    there = train(digits_kept.folder, "there", f"cluster.address={ray_cluster}", in_process=False, workers=2)
    assert there.summary["data"]["sha256"] == here.summary["data"]["sha256"]
    ours, theirs = weights(there), weights(here)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert (there.folder / "samples").names() == (here.folder / "samples").names()


def test_it_can_be_distilled_and_so_can_the_images_themselves(train: Train, digits_kept: Any, tmp_path: Path) -> None:
    done = train(digits_kept.zip, "teacher")
    stages: dict[str, Any] = {
        "student": {"network": {"kind": "ddpmpp", "channels": 4, "multipliers": [1]}, "sigma_init": 2.5}, "batch": 4,
        "recording": {"steps": 2, "every": 1, "optimiser": {"lr": 1e-3}},
        "backtracking": {"steps": 2, "steps_per_node": 1, "generator": {"lr": 1e-3}, "fake_score": {"lr": 1e-3}},
        "evaluation": {"pictures": 4}, "summary": "of one's own",
    }  # fmt: skip
    images = {"kind": "images", "path": "digits.zip", "resolution": 8, "grey": True, "conditional": True}
    network = {"kind": "ddpmpp", "channels": 4, "multipliers": [1]}
    training = {"steps": 3, "batch": 4, "optimiser": {"lr": 1e-3}}
    recipes = {
        "given": {"teacher": {"checkpoint": "teacher", "format": "denoiser", "sampling_steps": 2}, "data": {"kind": "none"}},
        "seen": {"teacher": {"checkpoint": "teacher", "format": "denoiser", "sampling_steps": 2}, "data": images},
        "trained": {"teacher": {"network": network, "training": training, "sampling_steps": 2}, "data": images},
    }
    (tmp_path / "digits.zip").symlink_to(digits_kept.zip)
    digests = {}
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **stages, **recipe}))
        storage = f"cluster.storage={tmp_path / 'storage'}"
        result = disback_ray.run(tmp_path / f"{name}.yaml", out=tmp_path / name, overrides=[storage], in_process=True)
        assert result.generate(2).shape == (2, 1, 8, 8)
        assert (tmp_path / name / "samples" / "generator.png").exists()
        digests[name] = result.digest
    assert digests["given"] == digests["seen"] != digests["trained"]
    (kept,) = (tmp_path / "storage" / "teachers").glob("denoiser-*/model.safetensors")
    assert kept.read_bytes() == (done.folder.local_path / "model.safetensors").read_bytes()
    with pytest.raises(
        ConfigError, match=r"data: its images are of shape \[1, 8, 8\], with 0 classes; the teacher makes \[1, 8, 8\], with 10"
    ):
        disback_ray.run(
            tmp_path / "seen.yaml", out=tmp_path / "no", overrides=[storage, "data.conditional=false"], in_process=True
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "overrides", "said"),
    [
        (
            {"label_dropout": 0.5, "conditional": False},
            [],
            "label_dropout: 0.5: without labels (--uncond) there are none to drop",
        ),
        ({}, ["teacher.network.multipliers=[1,1,1,1,1]"], "teacher.network: can't be built for samples of shape (1, 8, 8)"),
        ({}, ["teacher.network.chanels=3"], "unknown key teacher.network.chanels; did you mean 'channels'?"),
        ({}, ["teacher.network={kind: resnet-mlp}"], "resnet-mlp and exact_score are for points"),
        ({"workers": 9}, [], "9 workers for teacher.training.batch: 8"),
        ({"steps": 0}, [], "teacher.training.steps: 0: input should be greater than or equal to 1"),
        ({}, ["data.path=nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_is_refused(train: Train, digits_kept: Any, tmp_path: Path, options: Any, overrides: list[str], said: str) -> None:
    with pytest.raises(DisbackError) as refused:
        train(digits_kept.zip, "out", *overrides, **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["data", "out", "cluster"])
def test_an_empty_name_is_no_name(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path would be the working directory, and all images below it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{key}: empty, maybe a variable that isn't set"):
        train_teacher(**{"data": "nowhere", "resolution": 8, key: ""})


def test_whose_folder_it_is(train: Train, digits_kept: Any, tmp_path: Path) -> None:
    train(digits_kept.zip, "out", steps=1)
    with pytest.raises(RunFolderError, match=r"holds another teacher \(teacher.training.steps: 1 there, 2 here\)"):
        train(digits_kept.zip, "out", steps=2)
    assert train(digits_kept.zip, "out", steps=2, fresh=True).summary["settings"]["teacher"]["training"]["steps"] == 2
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    for fresh in (True, False):
        with pytest.raises(RunFolderError, match="not empty, and no teacher's"):
            train(digits_kept.zip, "else", fresh=fresh)


def test_the_command_line(digits_kept: Any, command: Callable[..., Any], tmp_path: Path) -> None:
    said = command(
        "teacher", "train", "--data", str(digits_kept.folder), "--resolution", "8", "--grey", "--steps", "2", "--batch", "4",
        "--channels", "4", "--blocks", "1", "--cond", "--label-dropout", "0.5", "--seed", "3", "--in-process", "--lr", "1e-3",
        "--set", "teacher.sampling_steps=2", "--set", "pictures=2", "--out", str(tmp_path / "out"), "--ema", "0.5",
        "--set", f"cluster.storage={tmp_path}",
    )  # fmt: skip
    assert said.status == 0, said.err
    assert re.match(r"complete in \d+ s, on 150 images of 10 classes\n", said.out)
    kept = Folder.at(tmp_path / "out").read_json("teacher.json")["settings"]
    training = kept["teacher"]["training"]
    assert (training["seed"], training["label_dropout"], training["ema"], training["optimiser"]["lr"]) == (3, 0.5, 0.5, 1e-3)
    refused = command(
        "teacher", "train", "--data", str(tmp_path / "no"), "--resolution", "8", "--in-process", "--out", str(tmp_path / "o")
    )
    assert refused.status == 2
    assert "no such file or folder" in refused.err


def test_the_network_grows_with_the_images() -> None:
    assert [multipliers_for(side) for side in (8, 16, 28, 32, 64)] == [[2], [2, 2], [2, 2], [2, 2, 2], [1, 2, 2, 2]]
    made = teaching.settings_for("x", 64)["teacher"]
    assert made["network"] == {"kind": "ddpmpp", "channels": 128, "multipliers": [1, 2, 2, 2], "blocks": 4, "attention": [16]}
