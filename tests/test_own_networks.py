"""Networks of one's own over whole runs: a module as teacher and as student, and students smaller than their teachers."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import disback_ray
from disback_ray.errors import CheckpointError, ConfigError

NETS = '''
import torch
from torch import nn

IMPORTED = True


class Net(nn.Module):
    """A convolution or two; x_0 from the noisy image, its noise and its class."""

    def __init__(self, width, classes=10):
        super().__init__()
        self.embed = nn.Embedding(classes + 1, width)
        self.first, self.last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, sigma, condition):
        scale = (sigma.square() + 0.25).rsqrt().view(-1, 1, 1, 1)
        hidden = self.first(scale * x) + self.embed(condition + 1)[:, :, None, None]
        return 0.25 * scale**2 * x + self.last(torch.relu(hidden))


def teacher(width=12):
    return Net(width)


def student(width):
    """A part of it is not trained, and is to be kept all the same."""
    net = Net(width)
    net.embed.requires_grad_(False)
    return net
'''

RECIPE: dict[str, Any] = {
    "name": "own", "summary": "a module as teacher, a smaller one as student", "data": {"kind": "none"},
    "teacher": {"module": "own_nets:teacher", "weights": "net.safetensors", "shape": [1, 8, 8], "classes": 10, "sampling_steps": 2},
    "student": {"network": {"module": "own_nets:student", "kwargs": {"width": 4}}, "sigma_init": 2.5, "ema": 0.9},
    "batch": 4,
    "recording": {"steps": 2, "every": 1, "optimiser": {"lr": 1.0e-3}},
    "backtracking": {"steps": 4, "steps_per_node": 1, "generator": {"lr": 1.0e-3}, "fake_score": {"lr": 1.0e-3}},
    "evaluation": {"pictures": 10},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, in which they work: own_nets.py, its weights and a recipe."""
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import own_nets  # type: ignore[import-not-found]

    torch.manual_seed(3)
    safetensors.torch.save_file(own_nets.teacher().state_dict(), tmp_path / "net.safetensors")
    yield tmp_path / "own.yaml"
    sys.modules.pop("own_nets", None)


def run(recipe: Path, out: str, *settings: str, **options: Any) -> Any:
    storage = [f"cluster.storage={recipe.parent / 'storage'}"]
    return disback_ray.run(recipe, out=recipe.parent / out, overrides=[*storage, *settings], **options)


def test_modules_in_a_run(recipe: Path, ray_cluster: str, command: Callable[..., Any]) -> None:
    """Over actors what it is in one process; the file travels to the machines; loading it again wants somebody's word for it."""
    here = run(recipe, "here", in_process=True)
    there = run(recipe, "there", f"cluster.address={ray_cluster}")
    assert here.digest == there.digest
    x = there.generate(4, seed=1)
    assert x.shape == (4, 1, 8, 8)
    assert torch.equal(x, here.generate(4, seed=1))
    settings = json.loads((recipe.parent / "there" / "generator" / "generator.json").read_text())
    assert settings["network"]["network"] == {
        "module": "own_nets:student", "kwargs": {"width": 4}, "prediction": "x0", "kind": "own",
    }  # fmt: skip

    sys.modules.pop("own_nets")
    with pytest.raises(CheckpointError, match=r"its network is the module own_nets:student, .*trust_modules=True") as refused:
        disback_ray.load_run(recipe.parent / "there").generate(4)
    assert "\n" not in str(refused.value)
    (teacher,) = (recipe.parent / "storage" / "teachers").iterdir()
    for arguments in (["sample", "there"], ["inspect", "there"], ["inspect", str(teacher)], ["sample", str(teacher)]):
        said = command(*arguments)
        assert (said.status, "the module own_nets:" in said.complaint) == (2, True)
    assert "own_nets" not in sys.modules, "a refused module isn't even imported"
    assert torch.equal(disback_ray.load_run(recipe.parent / "there", trust_modules=True).generate(4, seed=1), x)
    assert "the module own_nets:student, which gives x_0" in command("inspect", "there", "--trust-modules").out
    assert command("sample", str(teacher), "--trust-modules", "--n", "2", "--steps", "2").status == 0


def test_a_module_that_the_recipe_does_not_name_is_no_teacher_of_its_cache(recipe: Path) -> None:
    """Whoever can put a folder into the cache can't have code run by it."""
    run(recipe, "first", "backtracking.steps=2", "recording.steps=0", "recording.every=null", in_process=True)
    (teacher,) = (recipe.parent / "storage" / "teachers").glob("own-*/denoiser.json")
    settings = json.loads(teacher.read_text())
    settings["network"]["module"] = "os:system"
    teacher.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="its network is the module os:system"):
        run(recipe, "second", in_process=True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("teacher.module=own_net:teacher", "teacher: module: own_net:teacher: no module is named 'own_net'; did you mean 'own_nets'?"),
        ("teacher.classes=3", "teacher: module: own_nets:teacher: forward(x [2, 1, 8, 8], sigma [2], condition [2]) "),
        ("teacher.shape=[3, 8, 8]", "teacher: module: own_nets:teacher: forward(x [2, 3, 8, 8]"),
        ("teacher.weights=nothing.safetensors", "nothing.safetensors: no such file"),
        ("teacher.weights=own.yaml", "own.yaml: not safetensors, or damaged: "),
        ("teacher.kwargs={width: 5}", "net.safetensors: the weights don't fit the network: size mismatch for embed.weight"),
        ("student.network.module=own_nets:pupil", "student.network: module: own_nets:pupil: own_nets has no 'pupil'"),
        ("student.network={kind: ddpmpp, multipliers: [1,1,1,1,1]}", "student.network: can't be built for samples of shape (1, 8, 8)"),
        ("student.checkpointing=true", "student: checkpointing: true: the network has no blocks"),
        ("fake_score.checkpointing=true", "fake_score: checkpointing: true: the network has no blocks"),
        ("fake_score.checkpointing=selective", "fake_score: checkpointing: selective: the network has no blocks"),
        ("fake_score.lora={rank: 2, targets: [to_q]}", "fake_score: lora.targets: no layer's name ends with 'to_q'"),
        ("data={kind: digits, conditional: false}", "teacher.shape, teacher.classes: [1, 8, 8], 10; data of kind digits have [1, 8, 8], 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_written(recipe: Path, setting: str, said: str) -> None:
    if setting == "teacher.classes=3":
        (recipe.parent / "own_nets.py").write_text(NETS.replace("Net(width)", "Net(width, 1)"))
        sys.modules.pop("own_nets")
        setting = "teacher={module: 'own_nets:teacher', shape: [1, 8, 8], classes: 10}"
    with pytest.raises((ConfigError, CheckpointError)) as refused:
        run(recipe, "out", setting, in_process=True)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (recipe.parent / "out").exists()


def test_a_ddpmpp_smaller_than_its_teacher(tiny: Any, tmp_path: Path) -> None:
    """Random weights of its own; measured."""
    smaller = ["student.network={kind: ddpmpp, channels: 4, multipliers: [1]}", "backtracking.steps=9"]
    here = tiny.run("digits", tmp_path / "here", *smaller)
    sizes = {
        name: sum(t.numel() for t in safetensors.torch.load_file(tmp_path / "here" / name).values())
        for name in ("generator/model.safetensors", "path/node-1.safetensors")
    }
    assert sizes["generator/model.safetensors"] < sizes["path/node-1.safetensors"] / 2
    assert here.generate(3, labels=[1, 2, 3]).shape == (3, 1, 8, 8)
    assert here.metrics["generator"]["frechet"] != here.metrics["untrained"]["frechet"]
