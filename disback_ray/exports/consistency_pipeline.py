"""`--to diffusers` of a consistency model: openai's U-Net under diffusers' names, in diffusers' own pipeline for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from disback_ray.errors import ConfigError
from disback_ray.exports.card import write_card
from disback_ray.exports.ddpm_pipeline import call_of
from disback_ray.exports.student import Student
from disback_ray.hugging_face import diffusers
from disback_ray.networks.imported import ConsistencySpec
from disback_ray.networks.spec import DenoiserSpec

RESIDUAL = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2", "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
REST = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2", "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip


def write_consistency_pipeline(student: Student, folder: Path) -> None:
    """Raises ConfigError where diffusers' classes can't hold the network, or diffusers is not installed."""
    denoiser = student.spec.network
    assert isinstance(denoiser, DenoiserSpec)
    spec = denoiser.network
    assert isinstance(spec, ConsistencySpec)
    if spec.scalings != "boundary":
        raise ConfigError(f"--to diffusers: its scheduler has a consistency model's scalings, and these are '{spec.scalings}'")
    channels, high, wide = student.spec.shape
    if channels != 3 or high != wide or spec.arguments["channel_mult"][0] != 1:
        raise ConfigError(
            "--to diffusers: its pipeline takes square images of 3 channels, and networks whose first width is the least"
        )
    unet = diffusers().UNet2DModel(**_arguments(spec.arguments, side=high))
    unet.load_state_dict(_weights(student.weights("denoiser.model."), spec.arguments), strict=True)
    sigma = float(student.network.sigma_init)  # type: ignore[arg-type]
    scheduler = diffusers().CMStochasticIterativeScheduler(sigma_max=sigma, sigma_data=denoiser.sigma_data)
    diffusers().ConsistencyModelPipeline(unet=unet.eval(), scheduler=scheduler).save_pretrained(folder)
    why = f"The pipeline is diffusers' own for openai's consistency models; its one step starts from σ z with σ = {sigma:.6g}."
    write_card(student, folder, f"{call_of(student)}\n\n{why}")


def _arguments(ours: dict[str, Any], *, side: int) -> dict[str, Any]:
    """UNet2DModel's."""
    attends = [2**level in ours["attention_factors"] for level in range(len(ours["channel_mult"]))]
    return {
        "sample_size": side, "block_out_channels": [ours["model_channels"] * factor for factor in ours["channel_mult"]],
        "layers_per_block": ours["num_res_blocks"], "num_class_embeds": ours["num_classes"] or None,
        "down_block_types": ["AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in reversed(attends)],
        "attention_head_dim": ours["head_channels"], "attn_norm_num_groups": 32, "downsample_type": "resnet",
        "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift" if ours["scale_shift"] else "default",
    }  # fmt: skip


def _weights(theirs: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """By diffusers' names. Both list a level's blocks in the same order."""
    places, made = dict(_places(arguments)), {}
    for name, tensor in theirs.items():
        module, _, kind = name.rpartition(".")
        if module in REST:
            made[f"{REST[module]}.{kind}"] = tensor
            continue
        block = ".".join(module.split(".")[: 2 if module.startswith("middle_block") else 3])
        inside, place = module.removeprefix(f"{block}."), places[block]
        if inside == "qkv":  # three, heads, dim
            for letter, part in zip("qkv", tensor.reshape(len(tensor), -1).squeeze(-1).chunk(3), strict=True):
                made[f"{place}.to_{letter}.{kind}"] = part.contiguous()
        elif inside == "proj_out":
            made[f"{place}.to_out.0.{kind}"] = tensor.reshape(len(tensor), -1).squeeze(-1)
        else:
            made[f"{place}.{'group_norm' if inside == 'norm' else RESIDUAL[inside]}.{kind}"] = tensor
    return made


def _places(arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each block's name with openai, and its name with diffusers."""
    levels, blocks = len(arguments["channel_mult"]), arguments["num_res_blocks"]
    for index, place in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{index}", f"mid_block.{place}"
    stage = 1
    for level in range(levels):
        for index in range(blocks):
            yield f"input_blocks.{stage}.0", f"down_blocks.{level}.resnets.{index}"
            yield f"input_blocks.{stage}.1", f"down_blocks.{level}.attentions.{index}"
            stage += 1
        yield f"input_blocks.{stage}.0", f"down_blocks.{level}.downsamplers.0"
        stage += level < levels - 1
    for level in range(levels):
        attends = 2 ** (levels - 1 - level) in arguments["attention_factors"]
        for index in range(blocks + 1):
            stage = level * (blocks + 1) + index
            yield f"output_blocks.{stage}.0", f"up_blocks.{level}.resnets.{index}"
            up = f"up_blocks.{level}.upsamplers.0"
            yield f"output_blocks.{stage}.1", f"up_blocks.{level}.attentions.{index}" if attends else up
            yield f"output_blocks.{stage}.2", up
