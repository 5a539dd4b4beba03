"""Anybody's module: found by its name, built, tried out, and refused in one line; ε, v and x_0 give one denoiser."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from disback_ray.errors import ConfigError
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec

NETS = """
import torch
from torch import nn

S = 0.7  # of x_0 ~ N(0, S²), whose denoiser is S² / (S² + σ²) x


class Gaussian(nn.Module):
    def __init__(self, gives="x0"):
        super().__init__()
        self.gives, self.one = gives, nn.Parameter(torch.ones(()))

    def forward(self, x, sigma, condition):
        assert condition is None
        sigma = sigma.view(-1, 1, 1, 1)
        x0 = self.one * S**2 / (S**2 + sigma**2) * x
        epsilon = (x - x0) / sigma
        return {"x0": x0, "epsilon": epsilon, "v": (epsilon - sigma * x0) / (1 + sigma**2).sqrt()}[self.gives]


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 1)

    def forward(self, x, sigma, condition):
        self.seen = condition
        return x + self.embed(condition + 1)[:, :, None, None]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = self.a


class Flat(nn.Linear):
    def forward(self, x, sigma, condition):
        return x.mean((1, 2, 3), keepdim=True) * self.weight.sum()


class Pair(nn.Linear):
    def forward(self, x, sigma, condition):
        return x, x


def empty():
    return nn.Identity()


class Odd(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.layer = nn.LazyLinear(4) if how == "lazy" else nn.Linear(4, 4)
        if how == "frozen":
            self.requires_grad_(False)
        if how == "half":
            self.half()
        if how == "leaves":
            raise SystemExit(3)

    def forward(self, x, sigma, condition):
        if self.how == "changes":
            x.add_(1)
        if self.how == "late" and len(x) > 2:
            raise ValueError("two at\\nmost")
        out = self.layer(x)
        return {"wide": out.double(), "cut": out.detach(), "nan": out * float("nan")}.get(self.how, out)


def number():
    return 3


def breaks(why="it was asked to"):
    raise RuntimeError(why + "\\nand more")


constant = 5
"""


@pytest.fixture(autouse=True)
def _nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's package and a file of theirs, in the working directory."""
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(NETS)
    (tmp_path / "their_broken_nets.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def spec(factory: str, *, classes: int = 0, **settings: object) -> DenoiserSpec:
    return DenoiserSpec(ModuleSpec(f"their_package.nets:{factory}", **settings), (1, 4, 4), classes, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("gives", ["x0", "epsilon", "v"])
def test_what_it_gives_becomes_the_same_denoiser(gives: str) -> None:
    """Eqs. (18)-(20): the denoiser of a Gaussian in closed form."""
    denoiser = spec("Gaussian", kwargs={"gives": gives}, prediction=gives).build()
    x, sigma = (
        torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.01, 0.1, 0.7, 2.0, 10.0, 80.0]),
    )
    level = sigma.view(-1, 1, 1, 1)
    exact = (0.49 / (0.49 + level.double() ** 2) * (x * level).double()).float()
    torch.testing.assert_close(denoiser(x * level, sigma, None), exact, rtol=1e-4, atol=3e-5)


def test_classes_come_as_ids_and_none_as_minus_one() -> None:
    denoiser = spec("Labelled", classes=3).build()
    x, sigma = torch.zeros(2, 1, 4, 4), torch.ones(2)
    assert torch.equal(denoiser(x, sigma, None), denoiser(x, sigma, torch.tensor([-1, -1])))
    denoiser(x, sigma, torch.tensor([2, 0]))
    assert denoiser.model.seen.tolist() == [2, 0]  # type: ignore[union-attr,operator]
    spec("Labelled", classes=3).check()


def test_it_is_built_by_its_seed_and_read_back_from_json() -> None:
    made = spec("Labelled", classes=3)
    assert DenoiserSpec.from_json(made.to_json()) == made
    student = GeneratorSpec(made, (1, 4, 4), 3, 2.5)
    assert GeneratorSpec.from_json(student.to_json()) == student
    assert made.module == student.module == "their_package.nets:Labelled"
    one, same, other = (made.build(seed=seed).state_dict()["model.embed.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("their_package.nets", "expected module:factory, such as my_package.nets:make_teacher"),
        ("their_package/nets.py:Flat", "expected module:factory"),
        ("their_package.nets:", "expected module:factory"),
        ("their_packag.nets:Flat", "no module is named 'their_packag'; did you mean 'their_package'?"),
        ("their_package.net:Flat", "no module is named 'their_package.net'; did you mean 'their_package.nets'?"),
        (
            "their_broken_nets:Flat",
            "importing their_broken_nets failed: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("their_package.nets:Labeled", "their_package.nets has no 'Labeled'; did you mean 'Labelled'?"),
        ("their_package.nets:constant", "constant is a int, which can't be called"),
        ("their_package.nets:breaks", "calling it with {} failed: RuntimeError: it was asked to and more"),
        ("their_package.nets:number", "gave a int, not a torch.nn.Module"),
        ("their_package.nets:empty", "gave a module without parameters"),
        ("their_package.nets:Tied", "a.weight and b.weight share their memory"),
        ("their_package.nets:Labelled", "condition None) failed: TypeError"),
    ],
)
def test_what_is_refused_in_one_line(named: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DenoiserSpec(ModuleSpec(named), (1, 4, 4), 0, 0.5).check()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("Flat", "forward(x [2, 1, 4, 4], sigma [2], condition None) gave the shape [2, 1, 1, 1], not that of x"),
        ("Pair", "gave a tuple, not a tensor of the shape of x"),
    ],
)
def test_another_shape_is_refused(factory: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spec(factory, kwargs={"in_features": 2, "out_features": 2}).check()
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("wide", "gave float64, not float32 as x is"),
        ("cut", "gave a tensor without a graph"),
        ("nan", "gave NaN or Inf for zeros"),
        ("changes", "changed x itself"),
        ("lazy", "layer.weight has no shape yet"),
        ("frozen", "without parameters that require gradients"),
        ("half", "layer.weight is float16: give float32, which is what is trained"),
        ("leaves", "failed: SystemExit: 3"),
    ],
)
def test_what_could_not_be_trained_is_refused_before_it_is(how: str, said: str) -> None:
    spec("Odd", kwargs={"how": "well"}).check()
    with pytest.raises(ConfigError) as refused:
        spec("Odd", kwargs={"how": how}).check()
    assert said in str(refused.value)


def test_what_fails_only_later_is_told_as_the_module_s_own_fault() -> None:
    odd = spec("Odd", kwargs={"how": "late"})
    odd.check()
    with pytest.raises(ConfigError) as refused:
        odd.build()(torch.zeros(3, 1, 4, 4), torch.ones(3))
    assert str(refused.value) == (
        "module: their_package.nets:Odd: forward(x [3, 1, 4, 4], sigma [3], …) failed: ValueError: two at most"
    )
