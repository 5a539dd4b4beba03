"""openai's consistency-model checkpoints (Song et al. 2023): plain state dicts, whose shapes tell the architecture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.consistency_unet import GROUPS, ConsistencyUNet
from disback_ray.networks.preconditioning import ConsistencyPrecond
from disback_ray.teachers.foreign_weights import FLOATS, denoiser_with, precision_of
from disback_ray.teachers.torch_file import read_state_dict

MAX_STAGES = 200  # those published have 16 and 18


@dataclass(frozen=True)
class ConsistencyCheckpoint:
    """What a consistency file holds: the network as our denoiser, and its architecture."""

    denoiser: ConsistencyPrecond  # float32, in eval mode
    arguments: Mapping[str, Any]  # ConsistencyUNet(**arguments) makes the same network, with fresh weights
    precision: str  # of the weights in the file, such as 'float16'


def read_consistency_checkpoint(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    kind: Literal["boundary", "standard"] = "boundary",
    head_channels: int = 64,
    name: str | None = None,
) -> ConsistencyCheckpoint:
    """The denoiser in one of openai's `.pt` files; `name` is what errors call the file.

    kind: 'boundary' for consistency models (cd_*.pt, ct_*.pt), 'standard' for their diffusion models (edm_*.pt).
    head_channels: the width of an attention head, which the weights don't tell; 64 in all that were published.
    Raises CheckpointError where the file is missing, damaged, asks for more than tensors, or is another network's.
    """
    assert head_channels > 0
    where = name or (str(source) if isinstance(source, str | os.PathLike) else "consistency checkpoint")
    try:
        weights = _state_dict(source)
        arguments = _architecture(weights, head_channels=head_channels)
        classes = arguments["num_classes"]
        denoiser = denoiser_with(
            lambda: ConsistencyPrecond(ConsistencyUNet(**arguments), kind=kind, label_dim=classes),
            {f"model.{key}": tensor for key, tensor in weights.items()},
        )
        return ConsistencyCheckpoint(denoiser, arguments, precision_of(weights.values()))
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _state_dict(source: str | os.PathLike[str] | BinaryIO) -> dict[str, Tensor]:
    weights = read_state_dict(source)
    if not all(tensor.dtype in FLOATS for tensor in weights.values()):
        raise CheckpointError("not a state dict of names and floating-point tensors")
    return weights


def _architecture(weights: Mapping[str, Tensor], *, head_channels: int) -> dict[str, Any]:
    """ConsistencyUNet's arguments. One level has n residual blocks going down, and n + 1 coming up.

    Raises CheckpointError where the names are not those of openai's U-Net.
    """
    try:
        emb_channels, model_channels = weights["time_embed.0.weight"].shape
        stages = len({name.split(".")[1] for name in weights if name.startswith("input_blocks.")})
        # All but the last level end, on the way up, with a residual block that doubles the resolution: the level's only
        # stage with two of them. Going down, the block that halves looks like any other.
        ups = [index for index in range(stages) if _has_second_block(weights, index)]
        per_level = ups[0] + 1 if ups else stages
        widths = [weights[f"input_blocks.{level * per_level + 1}.0.in_layers.2.weight"].shape[0] for level in range(len(ups) + 1)]
        attending = [f"input_blocks.{level * per_level + 1}.1.qkv.weight" in weights for level in range(len(widths))]
        first = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0]
        classes = weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0
        in_channels = weights["input_blocks.0.0.weight"].shape[1]
        out_channels = weights["out.2.weight"].shape[0]
    except (KeyError, IndexError, ValueError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else "shapes don't fit"
        raise CheckpointError(f"not a U-Net of openai's consistency models ({reason})") from None
    if model_channels < 1 or model_channels % GROUPS or emb_channels != 4 * model_channels or in_channels != out_channels:
        raise CheckpointError("not a U-Net of openai's consistency models (its widths don't fit)")
    attended = [width for width, attends in zip(widths, attending, strict=True) if attends] + widths[-1:]
    if any(width < 1 or width % model_channels for width in widths) or any(width % head_channels for width in attended):
        text = f"widths {widths} are not multiples of {model_channels}, or those that attend not of the heads' {head_channels}"
        raise CheckpointError(text)
    if stages > MAX_STAGES or per_level < 2:
        raise CheckpointError("not a U-Net of openai's consistency models (its levels can't be told)")
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "model_channels": model_channels,
        "num_res_blocks": per_level - 1,
        "channel_mult": tuple(width // model_channels for width in widths),
        "attention_factors": tuple(2**level for level, attends in enumerate(attending) if attends),
        "head_channels": head_channels,
        "num_classes": classes,
        "scale_shift": first == 2 * widths[0],
    }


def _has_second_block(weights: Mapping[str, Tensor], stage: int) -> bool:
    return any(f"output_blocks.{stage}.{place}.in_layers.2.weight" in weights for place in (1, 2))
