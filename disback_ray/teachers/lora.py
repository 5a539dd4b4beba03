"""LCM-LoRA (Luo et al. 2023) as diffusers publishes it: pytorch_lora_weights.safetensors, in kohya's names or in diffusers' own."""

import importlib
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.hugging_face import diffusers
from disback_ray.networks.text_unet import LORA_MARK, UNET
from disback_ray.storage import Folder
from disback_ray.teachers.foreign_weights import FLOATS
from disback_ray.teachers.hub import is_hub_id

FILE = "pytorch_lora_weights.safetensors"
PEFTS = "base_model.model."
TEXT_ENCODERS = ("text_encoder", "lora_te")
"""Before the names of one's layers, in diffusers' names and in kohya's."""
ATTENTION = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.down\.weight")


def read_lora(where: str, unet: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """LoraConfig's arguments, and the weights in float32 by their names in our denoiser. unet: the configuration of the U-Net it is for.

    where: a file, a folder with FILE, or an id of the Hugging Face Hub. Raises CheckpointError where it is missing, damaged, or
    for another base.
    """
    try:
        tensors = load(_content(where))
    except SafetensorError as error:
        raise CheckpointError(f"{where}: no safetensors, or damaged: {str(error).splitlines()[0]}") from None
    check_weights(tensors, where=where)
    named, alphas = diffusers().StableDiffusionPipeline.lora_state_dict(tensors)
    if not named:
        raise CheckpointError(f"{where}: holds no weights of a LoRA")
    if others := sorted(name for name in named if not name.startswith("unet.")):
        peft = "it is named as PEFT does, which keeps α elsewhere: save it by diffusers' save_lora_weights"
        why = peft if others[0].startswith(PEFTS) else f"name a {FILE}"
        raise CheckpointError(f"{where}: {others[0]!r:.80} is not of a U-Net's LoRA: {why}")
    with torch.device("meta"):
        network = diffusers().UNet2DConditionModel.from_config(unet)
    network = network.to_empty(device="cpu")  # memory that nobody writes to: PEFT would put LoRA's own weights on `meta` as well
    try:
        alphas = {_layer_of(name): alpha for name, alpha in (alphas or {}).items()}
        network.load_lora_adapter(named, prefix="unet", network_alphas=alphas, adapter_name="default")
        config = network.peft_config["default"].to_dict()
    except Exception as error:  # PEFT and torch have no common error for a LoRA that doesn't fit
        misfit = re.search(r"size mismatch for (.+?)\.lora_", str(error))
        reason = f"{misfit[1]} has another size there" if misfit else " ".join(str(error).split())[:160]
        raise CheckpointError(f"{where}: a LoRA for another base: {reason}") from None
    found = {name: tensor for name, tensor in network.state_dict().items() if LORA_MARK in name}
    if config["use_dora"] or config["lora_bias"] or not found:
        raise CheckpointError(f"{where}: not a plain LoRA: DoRA and biases are not supported")
    if len(found) != len(named):
        raise CheckpointError(
            f"{where}: a LoRA for another base: it has {len(named)} weights, and this U-Net a place for {len(found)}"
        )
    return _settings(network) | {"target_modules": sorted(config["target_modules"])}, {
        f"{UNET}{name}": tensor.detach().float() for name, tensor in found.items()
    }


def check_weights(tensors: dict[str, Tensor], *, where: str) -> None:
    """Raises CheckpointError for what no base could take: numbers of other types, NaN or Inf, layers of a text encoder."""
    if other := next((name for name in tensors if name.startswith(TEXT_ENCODERS)), None):
        raise CheckpointError(f"{where}: {other!r:.80} is not of a U-Net's LoRA: one of the text encoder isn't supported")
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS and not name.endswith(".alpha"):
            raise CheckpointError(f"{where}: weight {name} is of the type {str(tensor.dtype).removeprefix('torch.')}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: weight {name} has NaN or Inf")


def _layer_of(alpha: str) -> str:
    """The name of an α as PEFT finds its layer by it. That of attention's layers is an old one in diffusers, and their α would be lost."""
    return ATTENTION.sub(lambda found: f".to_{found[1]}{'.0' if found[1] == 'out' else ''}", alpha)


def _settings(network: Any) -> dict[str, Any]:
    """The layers' rank and α as LoraConfig takes them: what most have, and the others'. The same for the same file in every process."""
    layers = {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}
    ranks = {name: layer.r["default"] for name, layer in layers.items()}
    alphas = {name: layer.lora_alpha["default"] for name, layer in layers.items()}
    (rank, other_ranks), (alpha, other_alphas) = _parted(ranks), _parted(alphas)
    return {"r": rank, "lora_alpha": alpha, "rank_pattern": other_ranks, "alpha_pattern": other_alphas}


def _parted(values: dict[str, float]) -> tuple[float, dict[str, float]]:
    """What most have, and those that have another."""
    every = list(values.values())
    usual = max(sorted(set(every)), key=every.count)
    return usual, {name: value for name, value in values.items() if value != usual}


def _content(where: str) -> bytes:
    """Raises CheckpointError where there is none."""
    if is_hub_id(where):
        return _downloaded(where).read_bytes()
    folder, name = (Folder.at(where), FILE) if Folder.at(where).has(FILE) else Folder.of_file(where)
    if folder.size(name) is None:
        raise CheckpointError(f"{where}: no such file; name a {FILE}, its folder, or OWNER/NAME of the Hugging Face Hub")
    return folder.read(name)


def _downloaded(name: str) -> Path:
    hub: Any = importlib.import_module("huggingface_hub")
    hub.utils.logging.set_verbosity(logging.CRITICAL)  # it logs each of its tries, and raises the last one's error
    try:
        return Path(hub.hf_hub_download(name, FILE))
    except Exception as error:  # the Hub's client and its transport raise kinds of their own
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name}: no such file here, and the Hugging Face Hub doesn't give it ({reason})") from None
