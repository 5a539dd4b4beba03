"""Teachers from files: what the official code computes, bit for bit through the import, and one line for what is no teacher."""

import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import disback_ray
from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly, draw_in_chunks, heun
from disback_ray.any_model import load_model
from disback_ray.cli import main
from disback_ray.config import ClusterConfig, Recipe, load_recipe, parse
from disback_ray.errors import CheckpointError, ConfigError, DisbackError, RunFolderError
from disback_ray.inspection import inspect
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.storage import Folder
from disback_ray.teacher_model import load_teacher
from disback_ray.teachers.checkpoint import Expected, import_teacher, read_teacher
from disback_ray.teachers.consistency import read_consistency_checkpoint
from disback_ray.teachers.drawing import draw_from_teacher
from disback_ray.teachers.edm_pickle import read_edm_pickle
from disback_ray.teachers.edm_writer import edm_pickle
from disback_ray.teachers.saved import load_denoiser, load_spec
from disback_ray.tiny import write_ddpm

HERE = Path(__file__).parent
_found = importlib.util.spec_from_file_location("written_edm_pickles", HERE / "teachers" / "test_edm_pickle.py")
assert _found is not None
assert _found.loader is not None
pickles = importlib.util.module_from_spec(_found)
_found.loader.exec_module(pickles)
importable = pickles.importable  # the owners' modules, with a canary that no test here may set off

EDM: list[str] = pickles.NAMES
CONSISTENCY = ["cm_cond", "cm_uncond_lsun_style"]
ANY = Expected()


def edm_file(folder: Path, name: str) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    arguments, precond, weights, vectors = pickles.parity(name)
    file = folder / f"{name}.pkl"
    file.write_bytes(pickles.write(weights, precond, arguments))
    return file, weights, vectors


def consistency_file(folder: Path, name: str) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(HERE / "parity" / f"{name}.safetensors", "pt") as opened:
        vectors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    weights = {key.removeprefix("state."): value for key, value in vectors.items() if key.startswith("state.")}
    file = folder / f"{name}.pt"
    torch.save(weights, file)
    return file, weights, vectors


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key].float()) for key in theirs)


# ---- the numbers of the official code


@pytest.mark.parametrize("name", EDM)
@torch.no_grad()
def test_an_imported_edm_teacher_computes_and_samples_as_its_owners(tmp_path: Path, name: str) -> None:
    file, weights, vectors = edm_file(tmp_path, name)
    folder = import_teacher(Folder.at(tmp_path / "cache"), str(file), format="edm", expected=ANY)
    denoiser, spec = load_denoiser(folder), load_spec(folder)
    assert same(denoiser.state_dict(), weights)
    labels = vectors.get("labels")
    ids = None if labels is None else labels.argmax(dim=1)
    assert (spec.shape, spec.classes) == ((3, 16, 16), 0 if labels is None else labels.shape[1])
    assert difference(denoiser(vectors["x"], vectors["sigma"], ids), vectors["denoised"]) < 1e-4
    assert difference(draw_from_teacher(denoiser, vectors["latents"], ids, steps=6), vectors["heun6"]) < 1e-4


@pytest.mark.parametrize("name", CONSISTENCY)
@torch.no_grad()
def test_an_imported_consistency_teacher_computes_and_samples_as_its_owners(tmp_path: Path, name: str) -> None:
    """Their heads have 16 channels, where all that were published have 64: so by the reader, not through a recipe."""
    file, weights, vectors = consistency_file(tmp_path, name)
    for scalings, expected in (("boundary", "consistency"), ("standard", "edm_denoised")):
        found = read_teacher(
            file.read_bytes(), name="cd.pt", format="consistency", scalings=scalings, head_channels=16, expected=ANY  # type: ignore[arg-type]
        )  # fmt: skip
        again = found.spec.build()
        again.load_state_dict(found.denoiser.state_dict())
        assert same(again.get_submodule("model").state_dict(), weights)
        assert difference(again(vectors["x"], vectors["sigma"], vectors.get("y")), vectors[expected]) < 1e-4
        assert found.spec.shape == (3, 16, 16), "attention at 8 pixels"
        if scalings == "boundary":
            drawn = draw_from_teacher(again, vectors["latents"], vectors.get("y"), steps=7)
            assert difference(drawn, vectors["one_step"].clamp(-1, 1)) < 1e-4


@pytest.mark.parametrize("name", ["edm_ddpmpp_uncond", "edm_adm_cond"])
def test_a_run_s_roles_hold_the_file_s_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """θ, θ' and G_stu of a whole run compute what the official code does before the first update."""
    from disback_ray.actors import company

    file, _, vectors = edm_file(tmp_path, name)
    labels = vectors.get("labels")
    ids = None if labels is None else labels.argmax(dim=1)
    outputs: dict[str, Tensor] = {}
    make = company._company

    def noted(made: Any, seats: Any, **waiting: Any) -> Any:
        for role in ("teacher", "path_node", "fake_score"):
            with torch.no_grad():
                outputs[role] = made[role]._role.denoiser(vectors["x"], vectors["sigma"], ids)
        with torch.no_grad():
            outputs["generator"] = made["generator"]._role.network.denoiser(vectors["x"], vectors["sigma"], ids)
        return make(made, seats, **waiting)

    monkeypatch.setattr(company, "_company", noted)
    result = distilled(tmp_path, file)
    assert all(difference(output, vectors["denoised"]) < 1e-4 for output in outputs.values())
    assert len(outputs) == 4
    assert result.metrics == {}
    assert result.classes == (0 if labels is None else 10)
    pictures = {picture["file"] for picture in result.summary["pictures"]}
    assert pictures >= {f"samples/{picture}.png" for picture in ("teacher", "untrained", "node-1", "generator")}
    assert "has not been measured" in result.folder.read("report.html").decode()
    assert result.generate(2).shape == (2, 3, 16, 16)


def recipe_file(folder: Path, checkpoint: str, **changes: Any) -> Path:
    recipe = {
        "name": "mine", "summary": "of a test", "data": {"kind": "none"}, "batch": 2,
        "teacher": {"checkpoint": checkpoint, "format": "edm", "sampling_steps": 2},
        "recording": {"steps": 2, "every": 1, "optimiser": {"lr": 1e-3}},
        "backtracking": {"steps": 3, "steps_per_node": 1, "generator": {"lr": 1e-3}, "fake_score": {"lr": 1e-3}},
        "evaluation": {"pictures": 2}, "checkpoint_every": 1,
    }  # fmt: skip
    file = folder / "mine.yaml"
    file.write_text(json.dumps(recipe | changes))
    return file


def distilled(folder: Path, checkpoint: Path, *, out: str = "run", overrides: tuple[str, ...] = ()) -> disback_ray.RunResult:
    cluster = ClusterConfig(storage=str(folder / "storage"))
    recipe = recipe_file(folder, str(checkpoint))
    return disback_ray.run(recipe, cluster=cluster, out=folder / out, overrides=overrides, in_process=True)


# ---- the import


def test_the_folder_is_named_by_the_file_s_bytes_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from disback_ray.teachers import checkpoint

    file, _, _ = edm_file(tmp_path, "edm_ddpmpp_uncond")
    cache = Folder.at(tmp_path / "cache")
    first = import_teacher(cache, str(file), format="edm", expected=ANY)
    copy = tmp_path / "copy.pkl"
    copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(checkpoint, "read_edm_pickle", None)  # not read again
    assert import_teacher(cache, str(copy), format="edm", expected=ANY) == first
    with pytest.raises(CheckpointError, match=r"resolution is 16.*for 64"):
        import_teacher(cache, str(copy), format="edm", expected=Expected(resolution=64))
    assert cache.names() == [first.name]


@pytest.mark.parametrize("network", ["SongUNet", "DhariwalUNet"])
def test_our_own_pickles_come_back_bit_for_bit(network: str) -> None:
    arguments = {"img_resolution": 8, "img_channels": 2, "model_type": network, "model_channels": 8, "channel_mult": [1, 2]}
    arguments |= {"num_blocks": 1, "attn_resolutions": [4], "label_dim": 3, "augment_dim": 9}
    denoiser = build_edm("EDMPrecond", arguments)
    found = read_edm_pickle(edm_pickle(denoiser, arguments))
    assert same(found.denoiser.state_dict(), denoiser.state_dict())
    assert (dict(found.arguments), found.kind) == (arguments, "EDMPrecond")


def small_consistency() -> bytes:
    file = io.BytesIO()
    network = ConsistencyUNet(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_factors=(2,), num_classes=3)
    torch.save(network.state_dict(), file)
    return file.getvalue()


BAD: dict[str, tuple[str, Any, Expected, str]] = {
    "truncated": ("edm", lambda: pickles.tiny()[:-100], ANY, "cut off|damaged"),
    "truncated torch file": ("consistency", lambda: small_consistency()[:-100], ANY, "damaged"),
    "text": ("edm", lambda: b"hello", ANY, "neither an EDM pickle nor a torch file"),
    "empty": ("consistency", lambda: b"", ANY, "neither"),
    "of the other format": ("edm", small_consistency, ANY, "format is consistency, not edm"),
    "of the other format too": ("consistency", lambda: pickles.tiny(), ANY, "format is edm, not consistency"),
    "hostile": ("edm", lambda: pickles.dumps({"ema": pickles.Call(os.getcwd)}), ANY, "refused"),
    "another network": ("edm", lambda: pickles.tiny(), Expected(network="adm"), "network is ddpmpp.*for adm"),
    "another size": ("edm", lambda: pickles.tiny(), Expected(resolution=64), "resolution is 4.*for 64"),
    "classes": ("consistency", small_consistency, Expected(classes=0), "classes is 3.*for 0"),
    "a size that can't be": ("consistency", small_consistency, Expected(resolution=9), "9 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    format, make, expected, says = BAD[kind]
    file = tmp_path / "bad.bin"
    file.write_bytes(make())
    expects = {key: value for key, value in vars(expected).items() if value is not None}
    recipe = recipe_file(tmp_path, "bad.bin", teacher={"checkpoint": "bad.bin", "format": format, "expects": expects})
    refuse(tmp_path, recipe, says)


def refuse(folder: Path, recipe: Path, says: str) -> None:
    before = set(folder.iterdir())
    cluster = ClusterConfig(storage=str(folder / "storage"))
    with pytest.raises(DisbackError, match=says) as caught:
        disback_ray.run(recipe, cluster=cluster, out=folder / "run", in_process=True)
    message = str(caught.value)
    assert message.startswith("teacher.checkpoint: ")
    assert message.isprintable()
    assert set(folder.iterdir()) == before


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    refuse(tmp_path, recipe_file(tmp_path, "nowhere.pkl"), rf"{tmp_path}/nowhere\.pkl: no such file.*--set teacher\.checkpoint=")
    (tmp_path / "folder.pkl").mkdir()
    refuse(tmp_path, recipe_file(tmp_path, "folder.pkl"), rf"{tmp_path}/folder\.pkl: a folder, not a file")


def test_a_run_does_not_go_on_with_another_file_at_the_same_path(tmp_path: Path) -> None:
    file, _, _ = edm_file(tmp_path, "edm_ddpmpp_uncond")
    distilled(tmp_path, file)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    assert distilled(tmp_path, file).digest == summary["digest"], "it goes on with the same"
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    file.write_bytes(edm_file(tmp_path, "vp_ddpmpp_uncond")[0].read_bytes())
    with pytest.raises(RunFolderError, match="another teacher"):
        distilled(tmp_path, file)


# ---- the recipe


def test_files_are_relative_to_the_recipe_and_in_options_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    file = recipe_file(tmp_path / "recipes", "x.pkl")

    def named(*overrides: str, recipe: str = str(file)) -> str:
        return load_recipe(recipe, overrides=overrides).teacher.checkpoint  # type: ignore[union-attr]

    assert named() == named(recipe="recipes/mine.yaml") == f"{tmp_path}/recipes/x.pkl"
    assert named("teacher.checkpoint=x.pkl") == f"{tmp_path}/x.pkl"
    assert named("teacher.checkpoint=/x.pkl") == "/x.pkl"
    assert named("teacher.checkpoint=../x.pkl") == str(tmp_path.parent / "x.pkl")
    assert named("teacher.checkpoint=s3://bucket/x.pkl") == "s3://bucket/x.pkl"
    assert named(recipe="ffhq64-edm") == f"{tmp_path}/edm-ffhq-64x64-uncond-vp.pkl"
    assert named(recipe="cifar10-ddim") == "google/ddpm-cifar10-32", "the Hub's"
    (tmp_path / "google" / "ddpm-cifar10-32").mkdir(parents=True)
    assert named(recipe="cifar10-ddim") == f"{tmp_path}/google/ddpm-cifar10-32", "a folder here goes first"


REFUSED = {
    "format": ("teacher.format=pickle", r"teacher\.format.*'edm' or 'consistency'"),
    "no format": ("teacher={checkpoint: x.pkl}", r"teacher\.format: missing"),
    "no file": ("teacher={format: edm}", r"teacher\.checkpoint: missing"),
    "training": ("teacher.training={steps: 3}", r"unknown key teacher\.training"),
    "expectation": ("teacher.expects.resolutoin=64", r"unknown key teacher\.expects\.resolutoin; did you mean 'resolution'"),
    "scalings": ("teacher.scalings=standard", "an EDM file brings its own"),
    "scalings of a folder": (
        "teacher={checkpoint: x, format: diffusers, scalings: standard}",
        "a folder of diffusers' brings its own",
    ),
    "a network of EDM's": ("teacher={checkpoint: x, format: diffusers, expects: {network: adm}}", "none of EDM's networks"),
    "data": ("data={kind: digits}", r"data: \{kind: none\}"),
    "points": ("student.network={kind: mlp}", "mlp is for points"),
    "samples": ("evaluation.samples=100", "nothing is measured"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, kind: str) -> None:
    override, says = REFUSED[kind]
    with pytest.raises(ConfigError, match=says) as caught:
        load_recipe(str(recipe_file(tmp_path, "x.pkl")), overrides=[override])
    assert str(caught.value).isprintable()


def test_a_trained_teacher_needs_data() -> None:
    with pytest.raises(ConfigError, match="none is for a teacher from a file"):
        load_recipe("digits", overrides=["data={kind: none}"])


def test_a_recipe_comes_back_from_what_a_run_keeps_of_it(tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file(tmp_path, "x.pkl")))
    assert parse(recipe.model_dump_json(), model=Recipe, where="config.yaml") == recipe


NOISE_OF_OTHERS = {
    "fit_noise={kind: lognormal}": r"fit_noise: σ of 0 … inf, and the teacher knows 0\.01 … 157\.4; \{kind: timesteps\}",
    "backtracking.noise={kind: karras}": r"backtracking\.noise: σ of 0\.00\d+ … 7\d\.\d+, and the teacher knows 0\.01",
    "student.sigma_init=160": r"student\.sigma_init: σ = 160, and the teacher knows 0\.01 … 157\.4$",
    "teacher.sampling_steps=1001": r"teacher\.sampling_steps: 1001: the teacher knows 1000 times",
}


@pytest.mark.parametrize("override", NOISE_OF_OTHERS)
def test_noise_that_the_teacher_does_not_know_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=NOISE_OF_OTHERS[override]):
        disback_ray.run(
            "cifar10-ddim", cluster=ClusterConfig(storage=str(tmp_path)), in_process=True, tiny=True, overrides=[override]
        )
    assert not (tmp_path / "cifar10-ddim-tiny").exists()


def test_samples_of_a_ddpm_by_either_sampler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ddpm(tmp_path / "ddpm")
    ddim, heun = load_model(tmp_path / "ddpm", steps=3), load_model(tmp_path / "ddpm", steps=3, sampler="heun")
    assert ddim.generate(2).shape == (2, 3, 8, 8)
    assert not torch.allclose(ddim.generate(2), heun.generate(2))
    assert torch.equal(load_model(tmp_path / "ddpm", steps=3, sampler="ddim").generate(2), ddim.generate(2)), "its owners'"
    for options, says in ((["--steps", "1001"], "knows 1000 times of noise"), (["--sampler", "euler"], "heun")):
        with pytest.raises(SystemExit) as ended:
            main(["sample", str(tmp_path / "ddpm"), *options])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
    facts = inspect(tmp_path / "ddpm")
    assert facts["kind"] == "diffusers' folder: teacher.format: diffusers"
    assert facts["network"] == "diffusers' UNet2DModel, predicts ε, 1000 times, linear β"
    assert (facts["images"], facts["σ"]) == ("3 × 8 × 8 (channels, height, width), in [-1, 1]", "0.01 … 157.4, of its times")


def test_a_ddpm_with_classes_and_v_is_distilled_and_drawn_from_with_its_classes(tmp_path: Path) -> None:
    write_ddpm(tmp_path / "ddpm", classes=4, prediction="v_prediction")
    noise = {"kind": "timesteps", "low": 20, "high": 980}
    teacher = {"checkpoint": str(tmp_path / "ddpm"), "format": "diffusers", "sampling_steps": 2}
    recipe = json.loads(recipe_file(tmp_path, "").read_text()) | {"teacher": teacher, "fit_noise": noise}
    recipe["backtracking"] |= {"noise": noise}
    recipe["student"] = {"sigma_init": 150.0}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    cluster = ClusterConfig(storage=str(tmp_path / "storage"))
    result = disback_ray.run(tmp_path / "mine.yaml", cluster=cluster, out=tmp_path / "run", in_process=True)
    assert result.classes == 4
    assert torch.isfinite(result.generate(4)).all()
    assert not torch.allclose(result.generate(2, labels=[1, 1])[0], result.generate(2, labels=[3, 1])[0])
    for options, says in (
        ({"expects": {"classes": 0}}, "classes is 4, and the recipe is for 0"),
        ({"expects": {"resolution": 32}}, "resolution is 8, and the recipe is for 32"),
    ):
        (tmp_path / "mine.yaml").write_text(json.dumps(recipe | {"teacher": teacher | options}))
        with pytest.raises(CheckpointError, match=rf"^teacher\.checkpoint: {tmp_path}/ddpm: its {says}"):
            disback_ray.run(tmp_path / "mine.yaml", cluster=cluster, out=tmp_path / "other", in_process=True)
    assert not (tmp_path / "other").exists()


# ---- samples


def test_samples_of_a_teacher_are_drawn_by_its_own_sampler_from_keyed_latents(tmp_path: Path) -> None:
    """The same samples from the file, from its folder, and in the same order as a run draws them."""
    file, _, _ = edm_file(tmp_path, "edm_adm_cond")
    folder = import_teacher(Folder.at(tmp_path / "cache"), str(file), format="edm", expected=ANY)
    drawn = load_model(file, steps=3).generate(4, seed=5)
    assert torch.equal(drawn, load_teacher(folder.uri, steps=3).generate(4, seed=5))
    assert not torch.equal(drawn, load_teacher(folder.uri, steps=4).generate(4, seed=5))

    wanted, denoiser, device = (
        Drawn(torch.empty(4, 3, 16, 16), torch.tensor([0, 2, 5, 7])),
        load_denoiser(folder),
        torch.device("cpu"),
    )
    latents = draw_in_chunks(lambda z, condition: z, wanted, seed=5, device=device)
    assert torch.equal(drawn, draw_from_teacher(denoiser, latents, wanted.condition, steps=3))


def test_steps_are_for_those_that_take_several(tmp_path: Path) -> None:
    file = tmp_path / "cd.pt"
    file.write_bytes(small_consistency())
    teacher = load_model(file)
    assert teacher.generate(3).shape == (3, 3, 16, 16)
    assert teacher.generate(3).abs().max() <= 1
    for options in ({"steps": 2}, {"sampler": "ddim"}):
        with pytest.raises(ConfigError, match="draws in one step"):
            load_model(file, **options)  # type: ignore[arg-type]
    options = ["--n", "2", "--steps", "3", "--scalings", "standard", "--out", str(tmp_path / "x.npz")]
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(file), *options])
    assert ended.value.code == 0
    wanted, cpu = Drawn(torch.empty(2, 3, 16, 16), None), torch.device("cpu")
    theirs = read_consistency_checkpoint(file, kind="standard").denoiser  # openai's diffusion models have EDM's factors
    drawn = draw_in_chunks(lambda z, _: heun(theirs, z, steps=3), wanted, seed=0, device=cpu)
    assert np.allclose(np.load(tmp_path / "x.npz")["x"], drawn.numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match=r"--scalings standard: only openai's \.pt files don't tell theirs"):
        load_model(edm_file(tmp_path, "edm_ddpmpp_uncond")[0], scalings="standard")
    with pytest.raises(ConfigError, match="at least one"):
        load_model(edm_file(tmp_path, "edm_ddpmpp_uncond")[0], steps=0)
    with pytest.raises(CheckpointError, match="no run"):
        load_model(tmp_path)


@pytest.mark.parametrize(("count", "classes"), [(100, 1000), (64, 10), (10, 10), (3, 7), (7, 3), (1, 5), (600, 1000)])
def test_classes_are_drawn_evenly(count: int, classes: int) -> None:
    chosen = classes_evenly(count, classes)
    numbers = torch.bincount(chosen, minlength=classes)
    assert len(chosen) == count
    assert int(numbers.max() - numbers.min()) <= 1
    apart = torch.cat([chosen, torch.tensor([classes])]).diff() if classes > count else torch.ones(1)
    assert apart.min() >= 1
    assert apart.max() <= -(-classes // count)
