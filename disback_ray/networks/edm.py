"""EDM's constructor arguments, as its pickles hold them, to our networks. Nothing in them is trusted."""

import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from disback_ray.errors import CheckpointError
from disback_ray.networks.adm import DhariwalUNet
from disback_ray.networks.preconditioning import EDMPrecond, Preconditioning, VEPrecond, VPPrecond
from disback_ray.networks.song_unet import SongUNet

Check = Callable[[Any], Any]  # a raw value → the value to build with; raises TypeError or ValueError


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        number = operator.index(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError
        return float(value)

    return check


def _several(check: Check, *, most: int) -> Check:
    def check_all(values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list | tuple) or len(values) > most:
            raise ValueError
        return tuple(check(value) for value in values)

    return check_all


def _one_of(*names: str) -> Check:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return check


def _filter(values: Any) -> tuple[float, ...]:
    """Of an even number of taps: with an odd one a side would not be doubled, nor halved. Their sum divides them."""
    taps: tuple[float, ...] = _several(_number(-1e3, 1e3), most=16)(values)
    if len(taps) % 2 or not sum(taps):
        raise ValueError
    return taps


_multiplier = _integer(1, 64)
_U_NET: dict[str, Check] = {
    "img_resolution": _integer(1, 4096),
    "label_dim": _integer(0, 1_000_000),
    "augment_dim": _integer(0, 1024),
    "model_channels": _integer(4, 8192),
    "channel_mult": _several(_multiplier, most=12),
    "channel_mult_emb": _multiplier,
    "num_blocks": _multiplier,
    "attn_resolutions": _several(_integer(1, 4096), most=12),
    "dropout": _number(0, 0.99),
}
_SONG: dict[str, Check] = {
    "embedding_type": _one_of("positional", "fourier"),
    "encoder_type": _one_of("standard", "residual"),
    "decoder_type": _one_of("standard"),
    "channel_mult_noise": _multiplier,
    "resample_filter": _filter,
}
_U_NETS: dict[str, tuple[Callable[..., SongUNet | DhariwalUNet], dict[str, Check]]] = {
    "SongUNet": (SongUNet, _U_NET | _SONG),
    "DhariwalUNet": (DhariwalUNet, _U_NET),
}

_sigma = {"sigma_min": _number(0, math.inf), "sigma_max": _number(0, math.inf)}
# Of each preconditioning: our class, its usual network, and the arguments that are its own.
_PRECONDITIONINGS: dict[str, tuple[Callable[..., Preconditioning], str, dict[str, Check]]] = {
    "EDMPrecond": (EDMPrecond, "DhariwalUNet", _sigma | {"sigma_data": _number(1e-6, 1e6)}),
    "VEPrecond": (VEPrecond, "SongUNet", _sigma),
    "VPPrecond": (VPPrecond, "SongUNet", dict.fromkeys(("beta_d", "beta_min", "M", "epsilon_t"), _number(1e-9, 1e6))),
}
# Without a part in D(x, σ): label dropout belongs to training, and the precision is the caller's choice.
IGNORED = ("use_fp16", "label_dropout")


class _Short(reprlib.Repr):
    """A hostile value may be nested without end, or have a million entries; of a tensor and the like only the kind is told."""

    def repr_instance(self, value: Any, level: int) -> str:
        return repr(value) if value is None or isinstance(value, (bool, float)) else f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    return " ".join(_Short().repr(value).split())[:80]


def build_edm(precond: str, arguments: Mapping[str, Any]) -> Preconditioning:
    """The denoiser that EDM's class `precond` makes of `arguments`, with fresh weights and EDM's defaults.

    Raises CheckpointError where the class, an argument's name or its value is not one of EDM's networks.
    """
    if precond not in _PRECONDITIONINGS:
        raise CheckpointError(f"preconditioning {_shown(precond)}: only {', '.join(_PRECONDITIONINGS)} are supported")
    make_denoiser, usual, own_checks = _PRECONDITIONINGS[precond]
    model_type = arguments.get("model_type", usual)
    if not isinstance(model_type, str) or model_type not in _U_NETS:
        raise CheckpointError(f"network {_shown(model_type)}: only {', '.join(_U_NETS)} are supported")
    make_network, network_checks = _U_NETS[model_type]

    checks = {"img_channels": _integer(1, 1024)} | own_checks | network_checks
    checked: dict[str, Any] = {}
    for name, value in arguments.items():
        if name == "model_type" or name in IGNORED:
            continue
        if name not in checks:
            raise CheckpointError(f"argument {_shown(name)} of {model_type}: not one that this version knows")
        try:
            checked[name] = checks[name](value)
        except (TypeError, ValueError, OverflowError):  # the last: a whole number that no float holds
            raise CheckpointError(f"argument {name} of {model_type}: can't be {_shown(value)}") from None
    own = {name: checked.pop(name) for name in own_checks if name in checked}
    if "M" in own:
        own["steps"] = own.pop("M")
    if not {"img_resolution", "img_channels"} <= checked.keys():
        raise CheckpointError(f"arguments of {model_type}: img_resolution or img_channels is missing")

    channels, levels = checked.pop("img_channels"), len(checked.get("channel_mult", (1, 2, 2, 2)))
    if not levels or checked["img_resolution"] % 2 ** (levels - 1):
        resolution = checked["img_resolution"]
        raise CheckpointError(f"argument channel_mult of {model_type}: {resolution} pixels can't have {levels} levels")
    try:
        network = make_network(in_channels=channels, out_channels=channels, **checked)
    except ValueError as error:
        raise CheckpointError(f"arguments of {model_type}: {error}") from None
    try:
        denoiser = make_denoiser(network, label_dim=checked.get("label_dim", 0), **own)
    except OverflowError:
        raise CheckpointError(f"arguments of {precond}: {_shown(own)} give a σ that no float holds") from None
    low, high = denoiser.sigma_min, denoiser.sigma_max
    if not low < high:
        raise CheckpointError(f"arguments of {precond}: sigma_min {low:g} is not below sigma_max {high:g}")
    return denoiser
