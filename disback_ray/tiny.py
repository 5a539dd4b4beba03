"""`--tiny`: a recipe at the size of a test. The same kinds of networks and optimisers, two steps a stage, from a file made here."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from disback_ray.config import Recipe, Teacher, TeacherModule, TextTeacher
from disback_ray.config.loading import SHIPPED
from disback_ray.evaluation.digit_judge import FEATURES
from disback_ray.hugging_face import diffusers
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.imported import EDMNetwork
from disback_ray.storage import Folder
from disback_ray.teachers.edm_writer import edm_pickle
from disback_ray.teachers.hub import INDEX
from disback_ray.teachers.lora import FILE as LORA
from disback_ray.tiny_pipelines import LATENT, write_lora, write_pipeline

SIDE = 8
STEPS = (
    "batch=2", "micro_batches=1",
    "recording.steps=2", "recording.every=1", "recording.at=null", "backtracking.steps=2", "backtracking.steps_per_node=1",
    "evaluation.every=1", "evaluation.pictures=4", "checkpoint_every=1", "teacher.sampling_steps=2",
)  # fmt: skip
TRAINING = ("teacher.training.steps=2", "teacher.training.batch=2", f"evaluation.samples={FEATURES + 1}")
WIDTHS = {"ddpmpp": "teacher.network.channels=8", "resnet-mlp": "teacher.network.width=8"}

_U_NET = {"img_resolution": SIDE, "img_channels": 3, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
_U_NET |= {"attn_resolutions": [4]}
_SONG = _U_NET | {"model_type": "SongUNet", "augment_dim": 9}
_FOURIER = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
EDM = {"ddpmpp": _SONG, "ncsnpp": _SONG | _FOURIER, "adm": _U_NET | {"model_type": "DhariwalUNet"}}


def tiny_overrides(recipe: Recipe, cache: Folder) -> list[str]:
    """What makes the recipe tiny. A teacher's file of the kind that it expects, with random weights, is put into the cache."""
    common = [f"name={recipe.name}-tiny", *STEPS, *(["backtracking.blend=1"] if recipe.backtracking.blend else [])]
    if isinstance(recipe.teacher, Teacher):
        width = WIDTHS.get(recipe.teacher.network.kind)
        return [*common, *TRAINING, *([width] if width else [])]
    if isinstance(recipe.teacher, TeacherModule):
        return common
    if isinstance(recipe.teacher, TextTeacher):
        return [*common, *_text(recipe.teacher, cache / "tiny", lora=recipe.student.lora is not None)]
    expected = recipe.teacher.expects
    classes, network = expected.classes or 0, expected.network or "ddpmpp"
    is_edm = recipe.teacher.format == "edm"
    folder = cache / "tiny"
    if recipe.teacher.format == "diffusers":
        name = f"ddpm-{classes}"
        if not (folder / name).has(INDEX):
            _ddpm_folder(folder / name, classes)
    else:
        name = f"edm-{network}-{classes}.pkl" if is_edm else f"consistency-{classes}.pt"
        if not folder.has(name):  # once: torch writes the same weights with other names each time
            folder.write(name, _edm_file(network, classes) if is_edm else _consistency_file(classes))
    return [*common, f"teacher.checkpoint={json.dumps((folder / name).uri)}", f"teacher.expects.resolution={SIDE}"]


def tiny_change(change: str) -> str:
    """A change that the user asks for as well: of `path: auto`, whose trial is longer than two steps, one step is left."""
    return "path={trial: 1}" if change == "path=auto" else change


def _edm_file(network: EDMNetwork, classes: int) -> bytes:
    arguments = EDM[network] | {"label_dim": classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return edm_pickle(build_edm("EDMPrecond", arguments), arguments)


def _consistency_file(classes: int) -> bytes:
    file = io.BytesIO()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConsistencyUNet(
            model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_factors=(2,), head_channels=64,
            num_classes=classes, scale_shift=classes > 0,
        )  # fmt: skip
    torch.save(network.state_dict(), file)
    return file.getvalue()


def write_ddpm(folder: Path, *, classes: int = 0, prediction: str = "epsilon", seed: int = 0, **unet: Any) -> None:
    """Saves a small DDPM with random weights as diffusers does, in the layout of google/ddpm-cifar10-32. unet: other arguments of it."""
    arguments: dict[str, Any] = {
        "sample_size": SIDE, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0,  # as there, for weights that were once TensorFlow's
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = diffusers().UNet2DModel(**arguments | {"num_class_embeds": classes or None} | unet)
    diffusers().DDPMPipeline(network, diffusers().DDPMScheduler(prediction_type=prediction)).save_pretrained(folder)


def _text(teacher: TextTeacher, folder: Folder, *, lora: bool) -> list[str]:
    """A pipeline and, for a student that wants one, a LoRA; and the prompts that are shipped for this."""
    family = teacher.expects.family or "sd"
    if not (folder / family).has(INDEX):
        _saved(folder / family, lambda path: write_pipeline(path, family))
    if lora and not (folder / "lora").has(LORA):
        _saved(folder / "lora", write_lora)
    files = {"teacher.checkpoint": (folder / family).uri, "data.file": str(SHIPPED / "prompts" / "few.txt")}
    files |= {"student.lora": (folder / "lora").uri} if lora else {}
    return [*(f"{key}={json.dumps(file)}" for key, file in files.items()), f"teacher.expects.pixels={2 * LATENT}"]


def _ddpm_folder(folder: Folder, classes: int) -> None:
    _saved(folder, lambda path: write_ddpm(path, classes=classes))


def _saved(folder: Folder, write: Callable[[Path], None]) -> None:
    """The index is written last: a folder that has it is whole."""
    with tempfile.TemporaryDirectory() as aside:
        write(Path(aside))
        for file in sorted(Path(aside).rglob("*.*"), key=lambda file: file.name == INDEX):
            folder.write(file.relative_to(aside).as_posix(), file.read_bytes())
