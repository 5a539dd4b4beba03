"""Which network a recipe's teacher has: read from its file where that is there, else the published one that the recipe expects."""

from typing import Any

from disback_ray.actors.company import denoiser_spec
from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.config import Recipe, Teacher, TeacherFile, TeacherModule
from disback_ray.errors import CheckpointError
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.spec import DenoiserSpec, NetworkSpec
from disback_ray.teachers.checkpoint import SIGMA_DATA, read_file, read_teacher, read_teacher_folder
from disback_ray.teachers.hub import diffusers_folder


def teacher_spec(recipe: Recipe) -> tuple[DenoiserSpec, str]:
    """The spec, and where it is from. Raises CheckpointError where the file is refused, ConfigError where nothing tells the network."""
    teacher = recipe.teacher
    if isinstance(teacher, Teacher):
        return denoiser_spec(recipe), "the recipe"
    if isinstance(teacher, TeacherModule):
        return teacher.spec, "the module"
    try:
        return _of_file(teacher), teacher.checkpoint
    except CheckpointError as error:
        published = _published(teacher)
        if published is None or "no such file" not in str(error):
            raise CheckpointError(f"teacher.checkpoint: {error}") from None
        return published, "the published network that the recipe expects; its file is not here"


def _of_file(teacher: TeacherFile) -> DenoiserSpec:
    if teacher.format == "diffusers":
        with diffusers_folder(teacher.checkpoint) as path:
            return read_teacher_folder(path, name=teacher.checkpoint, expected=teacher.expects).spec
    data = read_file(teacher.checkpoint)
    found = read_teacher(
        data, name=teacher.checkpoint, format=teacher.format, scalings=teacher.scalings, expected=teacher.expects
    )
    return found.spec


def _published(teacher: TeacherFile) -> DenoiserSpec | None:
    side, classes = teacher.expects.resolution, teacher.expects.classes or 0
    network: NetworkSpec | None = None
    if teacher.format == "edm":
        network = _edm(teacher.expects.network or "ddpmpp", side, classes)
    elif teacher.format == "consistency":
        network = _consistency(teacher, side, classes)
    elif (side, classes) == (32, 0):
        network = DDPMSpec(DDPM_CIFAR, VPSchedule(), "epsilon", DDIMSettings())
    if network is None or side is None:
        return None
    sigma_data = None if isinstance(network, DDPMSpec) else SIGMA_DATA
    return DenoiserSpec(network, (3, side, side), classes, sigma_data)


def _edm(network: str, side: int | None, classes: int) -> EDMSpec | None:
    """Karras et al. 2022, Table 7, and Dhariwal and Nichol 2021 for ImageNet."""
    common: dict[str, Any] = {"img_resolution": side, "img_channels": 3, "label_dim": classes}
    if (network, side) == ("adm", 64):
        adm = {"model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3}
        return EDMSpec("EDMPrecond", common | adm | {"attn_resolutions": [32, 16, 8]})
    multipliers = {32: [2, 2, 2], 64: [1, 2, 2, 2]}.get(side or 0)
    if network != "ddpmpp" or multipliers is None:
        return None
    song = {"model_type": "SongUNet", "model_channels": 128, "channel_mult": multipliers, "num_blocks": 4}
    return EDMSpec("EDMPrecond", common | song | {"attn_resolutions": [16], "augment_dim": 9})


def _consistency(teacher: TeacherFile, side: int | None, classes: int) -> ConsistencySpec | None:
    """openai's settings for ImageNet 64 and LSUN 256; those of 64 × 64 without classes are ImageNet's."""
    if side == 64:
        return ConsistencySpec(teacher.scalings, {
            "model_channels": 192, "num_res_blocks": 3, "channel_mult": (1, 2, 3, 4), "attention_factors": (2, 4, 8),
            "head_channels": 64, "num_classes": classes, "scale_shift": True,
        })  # fmt: skip
    if side == 256:
        return ConsistencySpec(teacher.scalings, {
            "model_channels": 256, "num_res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4), "attention_factors": (8, 16, 32),
            "head_channels": 64, "num_classes": classes, "scale_shift": False,
        })  # fmt: skip
    return None


DDPM_CIFAR: dict[str, Any] = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""google/ddpm-cifar10-32's unet/config.json, where it differs from diffusers' defaults."""
