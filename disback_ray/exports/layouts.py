"""Under which names the owners of a network keep its weights, and what builds that network with their code."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from disback_ray.exports.student import Student
from disback_ray.exports.text_pipeline import lora_weights, whole_weights
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, MLPSpec
from disback_ray.networks.text_unet import TextUNetSpec


@dataclass(frozen=True)
class Layout:
    """weights: by the owners' names; network: whose class they are of, and its constructor's arguments; how: to call it, in a line.

    load: the line that gives that network the weights.
    """

    weights: dict[str, Tensor]
    network: dict[str, Any]
    how: str
    load: str = 'network = {name}(**facts["network"]["arguments"]); network.load_state_dict(weights)'


def owners_layout(student: Student) -> Layout:
    """Every kind of generator has one: where there is no other owner, it is ours."""
    if isinstance(student.spec.network, MLPSpec):
        arguments = {"dimension": student.spec.shape[0], "width": student.spec.network.width}
        arguments |= {"hidden_layers": student.spec.network.hidden_layers}
        return Layout(student.weights("network."), _network("disback_ray.networks.mlp", "MLP", arguments), "x_0 = F(z)")
    sigma = float(student.network.sigma_init)  # type: ignore[arg-type]
    return _of_denoiser(student, student.spec.network, f"{sigma:.8g}")


def _of_denoiser(student: Student, spec: DenoiserSpec, sigma: str) -> Layout:
    network = spec.network
    if isinstance(network, EDMSpec | DDPMppSpec):
        precond, arguments = (network.precond, network.arguments) if isinstance(network, EDMSpec) else _as_edm(spec, network)
        how = f"x_0 = D({sigma} z, {sigma}, {'one-hot labels' if spec.classes else 'None'})"
        return Layout(student.weights("denoiser."), _network("NVlabs/edm: training.networks", precond, arguments), how)
    if isinstance(network, ConsistencySpec):
        how = f"x_0 = D({sigma} z, {sigma}, class ids), with the scalings '{network.scalings}' around the U-Net"
        theirs = _network("openai/consistency_models: cm.unet", "UNetModel", _as_openai(spec, network))
        return Layout(student.weights("denoiser.model."), theirs, how)
    if isinstance(network, DDPMSpec):
        scaled = f"{float(student.network.scale):.8g} z"  # type: ignore[arg-type]
        how = f"x_0 = D({scaled}, {sigma}): the U-Net predicts {network.prediction} from {scaled} / √(1 + {sigma}²) at its time"
        return Layout(student.weights("denoiser.model.unet."), _network("diffusers", "UNet2DModel", network.arguments), how)
    if isinstance(network, TextUNetSpec):
        how = (
            f"x_0 = D({float(student.network.scale):.8g} z, {sigma}, prompt): the U-Net predicts {network.prediction} at its time"  # type: ignore[arg-type]
        )
        if network.lora is not None:
            ranks = {
                "lora_alpha": network.lora["r"],
                "alpha_pattern": network.lora["rank_pattern"],
            }  # the weights have α / rank in them
            theirs = _network("peft", "LoraConfig", network.lora | ranks)
            return Layout(lora_weights(student), theirs, how, "pipeline.load_lora_weights(weights)")
        return Layout(whole_weights(student), _network("diffusers", "UNet2DConditionModel", network.config), how)
    if isinstance(network, ModuleSpec):
        how = f"x_0 = D({sigma} z, {sigma}, class ids) of what it predicts, {network.prediction}"
        return Layout(student.weights("denoiser.model."), _network("your own", network.module, network.kwargs), how)
    how = f"x_0 = D({sigma} z, {sigma}) by EDM's preconditioning, σ_data {spec.sigma_data}"
    arguments = {"dimension": spec.shape[0], "width": network.width, "blocks": network.blocks}
    arguments |= {"octaves": network.octaves, "label_dim": spec.classes}
    return Layout(student.weights("denoiser.model."), _network("disback_ray.networks.mlp", "ResNetMLP", arguments), how)


def _network(library: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"library": library, "class": name, "arguments": arguments}


def _as_edm(spec: DenoiserSpec, network: DDPMppSpec) -> tuple[str, dict[str, Any]]:
    """Our DDPM++ is EDM's SongUNet, with other numbers."""
    return "EDMPrecond", {
        "img_resolution": spec.shape[-1], "img_channels": spec.shape[0], "label_dim": spec.classes, "sigma_data": spec.sigma_data,
        "model_type": "SongUNet", "model_channels": network.channels, "channel_mult": list(network.multipliers),
        "num_blocks": network.blocks, "attn_resolutions": list(network.attention), "dropout": network.dropout,
    }  # fmt: skip


def _as_openai(spec: DenoiserSpec, network: ConsistencySpec) -> dict[str, Any]:
    """By the names of their UNetModel."""
    ours = network.arguments
    return {
        "image_size": spec.shape[-1], "in_channels": ours["in_channels"], "out_channels": ours["out_channels"],
        "model_channels": ours["model_channels"], "num_res_blocks": ours["num_res_blocks"], "channel_mult": ours["channel_mult"],
        "attention_resolutions": ours["attention_factors"], "num_head_channels": ours["head_channels"],
        "num_classes": ours["num_classes"] or None, "use_scale_shift_norm": ours["scale_shift"], "resblock_updown": True,
    }  # fmt: skip
