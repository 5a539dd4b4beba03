"""Trains an EDM teacher on the recipe's data (Karras et al. 2022, Eq. 8), as one of any number of equal workers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disback_ray.algorithms.average import MovingAverage
from disback_ray.algorithms.learner import Learner
from disback_ray.algorithms.losses import denoising_loss
from disback_ray.algorithms.noise import Batch, NoiseLaw, add_noise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly, draw_in_chunks
from disback_ray.data.prepared import DataSpec
from disback_ray.device import best_device
from disback_ray.errors import NonFiniteError
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.pictures import image_grid
from disback_ray.storage import Folder
from disback_ray.teachers.drawing import draw_from_teacher
from disback_ray.teachers.saved import restore, save_denoiser

UNFINISHED = "unfinished.safetensors"
MOST_UNSAVED = 1000
"""Steps that the death of the process may cost; a stop costs none."""


@dataclass(frozen=True)
class Looks:
    """Pictures of what the averaged weights draw, into samples/ of the teacher's folder. every: steps; steps: of the sampler."""

    every: int
    pictures: int
    steps: int


@dataclass(frozen=True)
class TeacherPlan:
    """All that decides a teacher's weights. label_dropout: how often a sample's class is hidden; ema: the average's decay."""

    spec: DenoiserSpec
    data: DataSpec
    steps: int
    batch: int
    optimiser: OptimiserSettings
    ema: float
    label_dropout: float
    noise: NoiseLaw
    seed: int


def train_teacher(
    plan: TeacherPlan,
    folder: Folder,
    *,
    report: Callable[[int, float], None],
    rank: int = 0,
    workers: int = 1,
    looks: Looks | None = None,
    distribute: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> None:
    """Trains from where `folder` stands and saves the averaged weights there.

    Each worker takes its share of every batch; what is drawn doesn't depend on their number. distribute: wraps the denoiser so that the
    workers' gradients are averaged (DDP). report(step, loss) is called after each step of rank 0, and may raise to stop: what is
    done up to it is kept. looks: pictures on the way, and at the end. Raises NonFiniteError, CheckpointError.
    """
    device = best_device()
    denoiser = plan.spec.build(seed=plan.seed).to(device)
    learner = Learner(denoiser, plan.optimiser, updates=plan.steps, name="teacher")
    average = MovingAverage(denoiser, decay=plan.ema)
    if folder.has(UNFINISHED):
        restore(learner, average, folder=folder, name=UNFINISHED)
    parallel = distribute(denoiser)
    first, last = plan.batch * rank // workers, plan.batch * (rank + 1) // workers
    for step in range(learner.version, plan.steps):
        batch = Batch(plan.seed, "teacher", step, first, last - first)
        loss = _loss(plan, parallel, batch, device) * workers  # DDP averages over the workers
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the teacher's loss is {loss.item()} at step {step}: lower teacher.training.optimiser.lr")
        loss.backward()
        learner.gather(plan.batch)
        learner.update(step, samples=plan.batch)
        average.update(step)
        if rank == 0:
            if (step + 1) % saved_every(plan.steps) == 0:
                folder.write_tensors(UNFINISHED, learner.state() | average.state())
            if looks and ((step + 1) % looks.every == 0 or step + 1 == plan.steps):
                _draw(plan, denoiser, average.weights, looks, folder, step + 1)
            try:
                report(step + 1, loss.item())
            except BaseException:
                folder.write_tensors(UNFINISHED, learner.state() | average.state())
                raise
    if rank == 0:
        save_denoiser(folder, plan.spec, average.weights)


def saved_every(steps: int) -> int:
    """So many steps lie between what is written on the way: a tenth of them, within bounds."""
    return min(max(steps // 10, 100), MOST_UNSAVED)


def _draw(plan: TeacherPlan, denoiser: nn.Module, weights: dict[str, Tensor], looks: Looks, folder: Folder, step: int) -> None:
    """The same noise each time, so that the pictures can be compared; it has keys of its own, and changes nothing that is trained."""
    device = next(denoiser.parameters()).device
    trained = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    denoiser.load_state_dict(weights)

    def sample(z: Tensor, condition: Tensor | None) -> Tensor:
        return draw_from_teacher(denoiser, z, condition, steps=looks.steps)

    classes = classes_evenly(looks.pictures, plan.spec.classes) if plan.spec.classes else None
    wanted = Drawn(torch.empty(looks.pictures, *plan.spec.shape), classes)
    drawn = draw_in_chunks(sample, wanted, seed=plan.seed, device=device)
    denoiser.load_state_dict(trained)
    (folder / "samples").write(f"step-{step:07d}.png", image_grid(drawn.cpu()))


def _loss(plan: TeacherPlan, denoiser: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    drawn = plan.data.draw(batch)
    x0, condition = drawn.x.to(device), drawn.condition
    if condition is not None:
        hidden = batch.uniform("label_dropout") < plan.label_dropout
        condition = condition.masked_fill(hidden, -1).to(device)
    noisy = add_noise(x0, batch, law=plan.noise, tag="teacher")
    denoised = denoiser(noisy.x_t, noisy.sigma, condition)
    return denoising_loss(denoised, x0, noisy.sigma, sigma_data=plan.spec.sigma_data).sum() / plan.batch
