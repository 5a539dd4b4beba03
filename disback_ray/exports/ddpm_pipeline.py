"""`--to diffusers` of a DDPM student: a stock pipeline that gives G(z) in its one step."""

from pathlib import Path

import torch

from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.errors import ConfigError
from disback_ray.exports.card import write_card
from disback_ray.exports.student import Student
from disback_ray.hugging_face import diffusers
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.spec import DenoiserSpec

CALL = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")  # this folder
images = pipeline(batch_size=4, latents=latents(0, 4){labels}).images  # latents: below; without them, diffusers' own noise
```

`disback-ray sample RUN --seed 0 --n 4` draws the same four."""

WHY = """The pipeline is diffusers' `ConsistencyModelPipeline`, which takes latents and classes and does one step by default. The
scheduler is its `EulerDiscreteScheduler`, whose table of β ends at the time that the generator starts from, t = {time}: {scale:.6g} z
goes in, with σ = {sigma:.6g}, and the step to σ = 0 is the network's estimate of x_0."""


def call_of(student: Student) -> str:
    """For the README.md: the lines that open the pipeline and draw."""
    classes = student.spec.classes
    return CALL.format(labels=f", class_labels={classes_evenly(4, classes).tolist()}" if classes else "")


def write_ddpm_pipeline(student: Student, folder: Path) -> None:
    """Raises ConfigError where diffusers' pipeline can't hold the network, or diffusers is not installed."""
    denoiser = student.spec.network
    assert isinstance(denoiser, DenoiserSpec)
    spec = denoiser.network
    assert isinstance(spec, DDPMSpec)
    channels, high, wide = student.spec.shape
    if channels != 3 or high != wide:
        raise ConfigError(
            f"--to diffusers: its pipeline takes square images of 3 channels, and these are {channels} × {high} × {wide}"
        )
    if spec.arguments.get("time_embedding_type") == "learned":
        raise ConfigError(
            "--to diffusers: its scheduler's times are no whole numbers, and this network has an entry for each time"
        )
    unet = diffusers().UNet2DModel(**spec.arguments | {"sample_size": high})
    unet.load_state_dict(student.weights("denoiser.model.unet."), strict=True)
    sigma = float(student.network.sigma_init)  # type: ignore[arg-type]
    time = int(spec.schedule.time(torch.tensor(sigma, dtype=torch.float64)))
    bars = spec.schedule.alphas_cumprod[: time + 1]
    betas = 1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    scheduler = diffusers().EulerDiscreteScheduler(
        num_train_timesteps=time + 1,
        trained_betas=betas.tolist(),
        prediction_type=spec.prediction,
        # One step begins at the table's end with either; noise is scaled by √(1 + σ²) with the one, by σ with the other.
        timestep_spacing="leading" if student.spec.unit_noise else "trailing",
        steps_offset=time if student.spec.unit_noise else 0,
    )
    diffusers().ConsistencyModelPipeline(unet=unet.eval(), scheduler=scheduler).save_pretrained(folder)
    write_card(student, folder, f"{call_of(student)} {WHY.format(time=time, sigma=sigma, scale=float(student.network.scale))}")  # type: ignore[arg-type]
