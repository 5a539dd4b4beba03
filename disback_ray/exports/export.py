"""`disback-ray export`: a run's generator as a folder that the reader's own tool loads.

To add a kind of network to `--to diffusers`, put its spec's class and a writer into PIPELINES. A writer gets the Student (the settings,
and G with the averaged weights, on the CPU) and an empty folder, fills that, and raises ConfigError, in one line, for what its target
can't hold. That the folder appears whole or not at all is done here.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from disback_ray.errors import ConfigError
from disback_ray.exports.consistency_pipeline import write_consistency_pipeline
from disback_ray.exports.ddpm_pipeline import write_ddpm_pipeline
from disback_ray.exports.files import write_safetensors, write_state_dict
from disback_ray.exports.student import Student, student_of
from disback_ray.exports.text_pipeline import write_text_pipeline
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.result import load_run

Target = Literal["diffusers", "safetensors", "state-dict"]
Writer = Callable[[Student, Path], None]

PIPELINES: dict[type, Writer] = {
    DDPMSpec: write_ddpm_pipeline,
    ConsistencySpec: write_consistency_pipeline,
    TextUNetSpec: write_text_pipeline,
}


def export(run: str | Path, folder: str | Path, *, to: Target, trust_modules: bool = False) -> Path:
    """Writes the generator of a run, with its averaged weights, and returns the folder, which is new or was empty.

    Raises CheckpointError where the run has no generator, ConfigError where the folder is not empty or can't be written, or the
    target can't hold the generator; then nothing is left of it.
    """
    place = _place(str(folder))
    student = student_of(load_run(run, trust_modules=trust_modules))
    write = {"safetensors": write_safetensors, "state-dict": write_state_dict}.get(to) or _pipeline(student)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as holder:
            aside = Path(holder, place.name)
            aside.mkdir()
            write(student, aside)
            if place.exists():
                place.rmdir()  # it is empty: were it not by now, this fails
            aside.rename(place)
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written: {error.strerror or error}") from None
    return place


def _place(folder: str) -> Path:
    if "://" in folder:
        raise ConfigError(f"{folder}: name a folder of this machine; copy it from there")
    place = Path(folder).expanduser().absolute()
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise ConfigError(f"{folder}: {'is a file' if place.is_file() else 'not empty'}: name a new folder")
    return place


def _pipeline(student: Student) -> Writer:
    network = student.spec.network
    kind = type(network.network) if isinstance(network, DenoiserSpec) else type(network)
    if kind not in PIPELINES:
        known = "--to state-dict has its owners' layout, and --to safetensors too"
        raise ConfigError(
            f"--to diffusers: no class of diffusers' computes this network ({kind.__name__.removesuffix('Spec')}): {known}"
        )
    return PIPELINES[kind]
