"""Which network a recipe's teacher has: read from its file where that is there, else the published one that the recipe expects."""

from typing import Any

from disback_ray.actors.parts import denoiser_spec
from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.config import Recipe, Teacher, TeacherFile, TeacherModule, TextTeacher
from disback_ray.errors import CheckpointError
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.predictions import own_sigma_data
from disback_ray.networks.spec import DenoiserSpec, NetworkSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import SIGMA_DATA, read_file, read_teacher, read_teacher_folder
from disback_ray.teachers.hub import diffusers_folder
from disback_ray.teachers.pipeline import open_pipeline
from disback_ray.teachers.saved import load_spec
from disback_ray.teachers.text_teacher import check_pipeline

NOT_HERE = ("no such f", "can't be reached", "Hugging Face Hub")
"""What is said of a file or folder that is not on this machine; any other complaint is the file's own."""


def teacher_spec(recipe: Recipe) -> tuple[DenoiserSpec, str]:
    """The spec, and where it is from. Raises CheckpointError where the file is refused, ConfigError where nothing tells the network."""
    teacher = recipe.teacher
    if isinstance(teacher, Teacher):
        return denoiser_spec(recipe), "the recipe"
    if isinstance(teacher, TeacherModule):
        return teacher.spec, "the module"
    try:
        return (_of_pipeline(teacher) if isinstance(teacher, TextTeacher) else _of_file(teacher)), teacher.checkpoint
    except CheckpointError as error:
        published = _published_pipeline(teacher) if isinstance(teacher, TextTeacher) else _published(teacher)
        if published is None or not any(mark in str(error) for mark in NOT_HERE):
            raise CheckpointError(f"teacher.checkpoint: {error}") from None
        return published, "the published network that the recipe expects; its file is not here"


def _of_pipeline(teacher: TextTeacher) -> DenoiserSpec:
    with diffusers_folder(teacher.checkpoint) as path:
        pipeline = open_pipeline(path, name=teacher.checkpoint)
        check_pipeline(pipeline, teacher.expects)
        network = TextUNetSpec(
            pipeline.unet, pipeline.schedule, pipeline.prediction, pipeline.ddim, pipeline.pixels, teacher.checkpoint, ""
        )
        return DenoiserSpec(network, pipeline.latents, 1, own_sigma_data(pipeline.prediction))


def _published_pipeline(teacher: TextTeacher) -> DenoiserSpec | None:
    config = {"sd": SD, "sdxl": SDXL}.get(teacher.expects.family or "")
    if config is None or teacher.expects.pixels is None:
        return None
    schedule = VPSchedule(0.00085, 0.012, kind="scaled_linear")
    network = TextUNetSpec(config, schedule, "epsilon", DDIMSettings(), teacher.expects.pixels, teacher.checkpoint, "")
    side = teacher.expects.pixels // 8  # of latents
    return DenoiserSpec(network, (4, side, side), 1, own_sigma_data("epsilon"))


def _of_file(teacher: TeacherFile) -> DenoiserSpec:
    if teacher.format == "denoiser":
        return load_spec(Folder.at(teacher.checkpoint))
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

SD: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
"""Stable Diffusion 1.5's unet/config.json, where it differs from diffusers' defaults."""

SDXL: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
"""SDXL 1.0's, the same."""
