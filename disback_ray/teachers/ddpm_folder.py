"""A DDPM or DDIM in diffusers' layout (google/ddpm-cifar10-32): a UNet2DModel and its scheduler's settings, in one folder or two."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.hugging_face import accelerate, diffusers
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.predictions import VPTablePrecond, own_sigma_data
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.teachers.diffusers_scheduler import ddim_of, prediction_of, schedule_of
from disback_ray.teachers.foreign_weights import precision_of
from disback_ray.teachers.hub import CONFIG, SCHEDULER
from disback_ray.teachers.torch_file import read_state_dict

CLASS = "UNet2DModel"
SAFE, PICKLED = "*.safetensors", "*.bin"


@dataclass(frozen=True)
class DDPMCheckpoint:
    """What a folder holds: the network as our denoiser, float32 and in eval mode, and the spec that builds it again."""

    denoiser: VPTablePrecond
    spec: DenoiserSpec
    precision: str  # of the weights in the file


def read_ddpm_folder(folder: Path, *, resolution: int | None, name: str) -> DDPMCheckpoint:
    """diffusers' network, with the weights of its safetensors or, by our own reader, its .bin. No code of the folder's is executed.

    resolution: believed where the folder doesn't tell; name: what errors call it. Raises CheckpointError where something is missing,
    damaged, or of a kind that is no DDPM; ConfigError without diffusers.
    """
    try:
        return _read(folder, resolution)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None


def fingerprint(folder: Path, *, name: str) -> str:
    """SHA-256 of everything that decides what read_ddpm_folder gives. Raises CheckpointError."""
    sha, unet = hashlib.sha256(), _part(folder, "unet")
    for file in sorted({unet / CONFIG, _part(folder, "scheduler") / SCHEDULER, *unet.glob(SAFE), *unet.glob(PICKLED)}):
        if not file.is_file():
            raise CheckpointError(f"{name}: has no {file.name}")
        sha.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


def _read(folder: Path, resolution: int | None) -> DDPMCheckpoint:
    unet = _part(folder, "unet")
    config = _json(unet / CONFIG)
    settings = _json(_part(folder, "scheduler") / SCHEDULER)
    if config.get("_class_name") != CLASS:
        raise CheckpointError(f"its network is {config.get('_class_name')!r:.60}, not {CLASS}")
    schedule, ddim, prediction = schedule_of(settings), ddim_of(settings), prediction_of(settings)
    network, precision = _loaded(unet)
    arguments = _plain(network.config)
    _refuse(arguments)
    channels, side = arguments["in_channels"], _side(arguments["sample_size"], resolution)
    shape, classes = (channels, *side), arguments["num_class_embeds"] or 0
    _try(arguments, shape, classes)
    spec = DenoiserSpec(DDPMSpec(arguments, schedule, prediction, ddim), shape, classes, own_sigma_data(prediction))
    with torch.device("meta"):
        denoiser = spec.build()
    assert isinstance(denoiser, VPTablePrecond)
    denoiser.model.unet = network
    return DDPMCheckpoint(denoiser.eval(), spec, precision)


def _part(folder: Path, name: str) -> Path:
    """The component's folder; older ones keep all their files side by side."""
    return folder / name if (folder / name).is_dir() else folder


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"has no {file.name}")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} is damaged ({_first(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name} is damaged (it holds no names and values)")
    return content


def _loaded(folder: Path) -> tuple[Any, str]:
    """The network, float32, and the types of the weights in the files."""
    weights = _weights(folder)
    precision = precision_of(weights.values())
    weights = {key: tensor.float() for key, tensor in weights.items()}
    model = diffusers().UNet2DModel
    try:
        with torch.random.fork_rng(devices=[]), accelerate().init_empty_weights():
            network = model.from_config(model.load_config(folder, local_files_only=True))
        network._fix_state_dict_keys_on_load(weights)  # attention's names from before 2023
        found = network.load_state_dict(weights, strict=False, assign=True)
    except Exception as error:  # diffusers and torch raise a dozen kinds for settings and shapes that don't fit
        raise CheckpointError(f"its weights are damaged, or not those of its {CONFIG} ({_first(error)})") from None
    for kind, keys in found._asdict().items():
        if keys:
            raise CheckpointError(
                f"its weights don't fit its {CONFIG}: {kind.replace('_', ' ')}: {len(keys)}, the first is {keys[0]!r:.120}"
            )
    if broken := next((key for key, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()), None):
        raise CheckpointError(f"weight {broken} has NaN or Inf")
    return network, precision


def _weights(folder: Path) -> dict[str, Tensor]:
    """Of one file, or of all its shards; of the float16 ones where there are no others, as some are published alone."""
    files = sorted(folder.glob(SAFE)) or sorted(folder.glob(PICKLED))
    files = [file for file in files if ".fp16." not in file.name] or files
    if not files:
        raise CheckpointError(f"has no weights ({SAFE} or {PICKLED})")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            part = load_file(file) if file.match(SAFE) else read_state_dict(file)
        except CheckpointError as error:
            raise CheckpointError(f"{file.name}: {error}") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file.name} is damaged ({_first(error)})") from None
        if twice := weights.keys() & part.keys():
            raise CheckpointError(f"{file.name}: weight {min(twice)!r:.120} is in another file too")
        weights |= part
    return weights


def _refuse(arguments: Mapping[str, Any]) -> None:
    if arguments["in_channels"] != arguments["out_channels"]:
        raise CheckpointError(
            f"its network gives {arguments['out_channels']} channels for {arguments['in_channels']}: with a learned variance?"
        )
    if arguments["time_embedding_type"] == "fourier":
        raise CheckpointError("its network is told σ (time_embedding_type: fourier), not a time of the schedule")
    if arguments["class_embed_type"] is not None:
        raise CheckpointError(f"its classes are not numbers (class_embed_type: {arguments['class_embed_type']!r:.60})")


def _side(told: Any, resolution: int | None) -> tuple[int, int]:
    side = told if told is not None else resolution
    if side is None:
        raise CheckpointError("it doesn't tell its resolution: give teacher.expects.resolution")
    pair = [side, side] if isinstance(side, int) else side
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(each) is int and each > 0 for each in pair):
        raise CheckpointError(f"its sample_size is {side!r:.60}, and no number of pixels")
    return pair[0], pair[1]


def _try(arguments: dict[str, Any], shape: tuple[int, ...], classes: int) -> None:
    """Lets the network compute without numbers."""
    with torch.device("meta"):
        labels = torch.zeros(1, dtype=torch.int64) if classes else None
        try:
            network = diffusers().UNet2DModel(**arguments)
            out = network(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64), class_labels=labels).sample
        except Exception as error:  # of arguments that it doesn't know, or that don't fit one another: a dozen kinds
            raise CheckpointError(
                f"its network can't take images of {shape[-2]} × {shape[-1]} pixels ({_first(error)})"
            ) from None
    assert out.shape[1:] == shape, out.shape


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments, as they come back from JSON. What this version's doesn't know is left out, as diffusers does."""
    known = inspect.signature(diffusers().UNet2DModel.__init__).parameters
    plain: dict[str, Any] = json.loads(json.dumps({key: value for key, value in config.items() if key in known}))
    return plain


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
