"""The teacher's training: its loss, workers that share a batch, and going on where it was left."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from disback_ray.algorithms.noise import Batch, LogNormalNoise, add_noise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.data.sources import DigitsData, RingData
from disback_ray.errors import CheckpointError, NonFiniteError
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder
from disback_ray.teachers import training
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.saved import load_denoiser
from disback_ray.teachers.training import UNFINISHED, TeacherPlan, train_teacher

RING = TeacherPlan(
    spec=DenoiserSpec(ResNetMLPSpec(width=32, blocks=2), (2,), 0, 1.42), data=RingData(std=0.3), steps=1, batch=12,
    optimiser=OptimiserSettings(lr=0.1, kind="sgd"), ema=0.0, label_dropout=0.0, noise=LogNormalNoise(), seed=0,
)  # fmt: skip
DIGITS = replace(
    RING, spec=DenoiserSpec(DDPMppSpec(channels=8, multipliers=(1,)), (1, 8, 8), 10, 0.5), data=DigitsData(), label_dropout=0.4
)


def train(plan: TeacherPlan, folder: Folder, *, upto: int | None = None, **options: int) -> tuple[list[float], nn.Module]:
    """The losses reported, and the network as it ends; stopped after `upto` steps, where given."""
    losses: list[float] = []
    kept: list[nn.Module] = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step == upto:
            raise InterruptedError

    def keep(module: nn.Module) -> nn.Module:
        kept.append(module)
        return module

    try:
        train_teacher(plan, folder, report=report, distribute=keep, **options)
    except InterruptedError:
        assert upto is not None
    return losses, kept[0]


def test_the_loss_is_edm_s(tmp_path: Path) -> None:
    """Karras et al. 2022, Eq. 8: the mean of λ(σ) ‖D(y + σ ε; σ) - y‖², λ = (σ² + σ_d²) / (σ σ_d)², a sample's part by its dimensions."""
    losses, _ = train(RING, Folder.at(tmp_path))
    batch = Batch(0, "teacher", 0, 0, 12)
    y = RING.data.draw(batch).x
    noisy = add_noise(y, batch, law=RING.noise, tag="teacher")
    with torch.no_grad():
        error = (RING.spec.build(seed=0)(noisy.x_t, noisy.sigma) - y).square().mean(1)
    weight = (noisy.sigma**2 + 1.42**2) / (noisy.sigma * 1.42) ** 2
    assert losses == [pytest.approx(float((weight * error).mean()), rel=1e-5)]


def test_it_learns_the_mixture_s_own_denoiser(tmp_path: Path) -> None:
    plan = replace(RING, steps=500, batch=128, optimiser=OptimiserSettings(lr=3e-3, decay_after=0.0), ema=0.9)
    train(plan, Folder.at(tmp_path))
    batch = Batch(99, "teacher", 0, 0, 1000)
    noisy = add_noise(plan.data.draw(batch).x, batch, law=plan.noise, tag="teacher")
    exact = ExactMixture(RingData().centres, std=0.3)(noisy.x_t, noisy.sigma)

    @torch.no_grad()
    def distance(denoiser: nn.Module) -> float:
        off: Tensor = (denoiser(noisy.x_t, noisy.sigma) - exact).square().sum(1) / noisy.sigma**2
        return float(off.mean())

    assert distance(load_denoiser(Folder.at(tmp_path))) < 0.25 * distance(plan.spec.build(seed=0))


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("plan", [RING, DIGITS], ids=["ring", "digits"])
def test_workers_shares_make_the_same_gradient(tmp_path: Path, plan: TeacherPlan, workers: int) -> None:
    """One step of SGD is linear in the gradient: the mean of the workers' weights is what averaged gradients (DDP) would give."""
    _, alone = train(plan, Folder.at(tmp_path / "alone"))
    shares = [train(plan, Folder.at(tmp_path / "shared"), rank=rank, workers=workers)[1] for rank in range(workers)]
    start = dict(plan.spec.build(seed=0).named_parameters())
    for name, whole in alone.named_parameters():
        mean = torch.stack([dict(share.named_parameters())[name] for share in shares]).mean(0)
        torch.testing.assert_close(mean, whole, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(start[name], whole) for name, whole in alone.named_parameters())


def test_the_averaged_weights_are_kept(tmp_path: Path) -> None:
    """After one step of a long average, 1/10 of the first weights and 9/10 of the trained ones."""
    _, trained = train(replace(RING, ema=0.999), Folder.at(tmp_path))
    first, kept = RING.spec.build(seed=0).state_dict(), load_denoiser(Folder.at(tmp_path)).state_dict()
    for name, weights in trained.state_dict().items():
        torch.testing.assert_close(kept[name], 0.1 * first[name] + 0.9 * weights)
    assert any(not torch.allclose(kept[name], weights) for name, weights in trained.state_dict().items())


def test_only_the_first_worker_reports_and_writes(tmp_path: Path) -> None:
    assert train(RING, Folder.at(tmp_path), rank=1, workers=2)[0] == []
    assert Folder.at(tmp_path).names() == []


LONG = replace(RING, steps=130, ema=0.9, optimiser=OptimiserSettings(lr=1e-3, decay_after=0.0))


@pytest.mark.parametrize(("how", "kept"), [("asked to stop", 117), ("killed", 100)])
def test_going_on_from_an_unfinished_training_is_going_straight_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kept: int
) -> None:
    straight, broken = Folder.at(tmp_path / "straight"), Folder.at(tmp_path / "broken")
    losses, _ = train(LONG, straight)
    if how == "killed":
        loss = training._loss

        def dies(plan: TeacherPlan, denoiser: nn.Module, batch: Batch, device: torch.device) -> Tensor:
            if batch.step == 117:
                raise InterruptedError
            return loss(plan, denoiser, batch, device)

        with monkeypatch.context() as patch:
            patch.setattr(training, "_loss", dies)
            train(LONG, broken, upto=118)
    else:
        train(LONG, broken, upto=117)
    assert broken.names() == [UNFINISHED], "and nothing that looks finished"
    again, _ = train(LONG, broken)
    assert again == losses[kept:]
    assert broken.read("model.safetensors") == straight.read("model.safetensors")


@pytest.mark.parametrize("data", [b"torn", b""])
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / UNFINISHED).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{UNFINISHED} is damaged"):
        train(LONG, Folder.at(tmp_path))


def test_another_network_s_file_is_refused_in_one_line(tmp_path: Path) -> None:
    train(replace(LONG, spec=replace(LONG.spec, network=ResNetMLPSpec(width=16))), Folder.at(tmp_path), upto=101)
    with pytest.raises(CheckpointError, match=f"{UNFINISHED} doesn't fit .*delete it") as refused:
        train(LONG, Folder.at(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    wild = replace(RING, steps=50, optimiser=OptimiserSettings(lr=1e30, kind="sgd"))
    with pytest.raises(NonFiniteError, match=r"the teacher's loss is (nan|inf) at step \d+: lower teacher.training.optimiser.lr"):
        train(wild, Folder.at(tmp_path))
    assert Folder.at(tmp_path).names() == []


def test_so_many_labels_are_hidden_and_the_others_are_the_images_own() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            seen.append(condition)
            return x

    batch = Batch(0, "teacher", 0, 0, 1000)
    training._loss(DIGITS, Watching(), batch, torch.device("cpu"))
    own = DIGITS.data.draw(batch).condition
    assert own is not None
    hidden = seen[0] == -1
    assert hidden.float().mean().item() == pytest.approx(DIGITS.label_dropout, abs=0.08)  # five standard deviations
    assert torch.equal(seen[0][~hidden], own[~hidden])
