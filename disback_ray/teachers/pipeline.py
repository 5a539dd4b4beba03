"""Pipelines of Stable Diffusion (1.5, 2, XL) as diffusers saves them: a folder, or a repository of the Hugging Face hub.

Only JSON, tokenizers and safetensors are read: nothing in a pipeline is executed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.hugging_face import diffusers
from disback_ray.networks.predictions import Prediction
from disback_ray.storage import Folder
from disback_ray.teachers.diffusers_scheduler import ddim_of, prediction_of, schedule_of
from disback_ray.teachers.hub import INDEX

Family = Literal["sd", "sdxl"]
FAMILIES: dict[str, Family] = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
NAMES: dict[Family, str] = {"sd": "Stable Diffusion", "sdxl": "SDXL"}
FACTS = "pipeline.json"
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"} | dict.fromkeys(
    ("text_encoder", "text_encoder_2"), "model"
)
HALF = "fp16"
"""In the names of weights that were published in half precision beside, or in place of, float32."""
LARGEST_JSON = 64 << 20


@dataclass(frozen=True)
class Pipeline:
    """A pipeline's folder on this machine, looked at. unet: that part's configuration; files: all that are needed, by name."""

    where: str
    path: Path
    family: Family
    unet: dict[str, Any]
    schedule: VPSchedule
    prediction: Prediction
    ddim: DDIMSettings
    files: tuple[str, ...]

    @property
    def latents(self) -> tuple[int, int, int]:
        """One latent's shape."""
        side = self.unet["sample_size"]
        return self.unet["in_channels"], side, side

    @property
    def pixels(self) -> int:
        """An image's side: the VAE halves it once less often than it has levels."""
        levels = _json(self.path, "vae/config.json").get("block_out_channels")
        if not isinstance(levels, list) or not levels:
            raise CheckpointError(f"{self.where}: vae/config.json: block_out_channels {levels!r:.40} are no list of levels")
        return int(self.unet["sample_size"]) << (len(levels) - 1)

    @property
    def precision(self) -> str:
        """Of the U-Net's weights, by their first file's first."""
        first = next(name for name in self.files if name.startswith("unet/") and name.endswith(".safetensors"))
        with safe_open(self.path / first, framework="pt") as file:
            return str(file.get_slice(next(iter(file.keys()))).get_dtype())


def family_of(folder: Folder) -> Family:
    """Of a pipeline's folder that open_pipeline has taken. Raises CheckpointError where its index is gone."""
    return FAMILIES[folder.read_json(INDEX)["_class_name"]]


def is_pipeline(path: Path) -> bool:
    """Whether a folder of diffusers' is a pipeline that takes prompts, and not a single U-Net with its scheduler."""
    try:
        return _json(path, INDEX).get("_class_name") in FAMILIES or (path / "text_encoder").is_dir()
    except CheckpointError:
        return False


def open_pipeline(path: Path, *, name: str) -> Pipeline:
    """A folder's pipeline. name: what errors call it. Raises CheckpointError where it is not whole, refused, or not supported."""
    try:
        return _open(name, path)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None


def _open(where: str, path: Path) -> Pipeline:
    index = _json(path, INDEX)
    family = FAMILIES.get(str(index.get("_class_name")))
    if family is None:
        raise CheckpointError(f"{INDEX}: a {index.get('_class_name')!r:.60}; those of {' and '.join(FAMILIES)} are supported")
    unet, scheduler = _json(path, "unet/config.json"), _json(path, "scheduler/scheduler_config.json")
    _check_unet(unet, family)
    noise = schedule_of(scheduler), prediction_of(scheduler), ddim_of(scheduler)
    encoders = ("", "_2") if family == "sdxl" else ("",)
    parts = ["unet", "vae", *(f"{part}{name}" for name in encoders for part in ("text_encoder", "tokenizer"))]
    files = [INDEX, "scheduler/scheduler_config.json"]
    for part in parts:
        files += _weights(path, part, WEIGHTS[part]) if part in WEIGHTS else []
        files += _small_files(path, part)
    return Pipeline(where, path, family, unet, *noise, tuple(sorted(files)))


def _check_unet(unet: dict[str, Any], family: Family) -> None:
    """Raises CheckpointError for U-Nets that take more than latents, a time and a prompt."""
    if unet.get("_class_name") != "UNet2DConditionModel":
        raise CheckpointError(f"unet/config.json: a {unet.get('_class_name')!r:.60}, not a UNet2DConditionModel")
    channels = unet.get("in_channels"), unet.get("out_channels")
    if channels[0] != channels[1]:
        raise CheckpointError(
            f"unet/config.json: in_channels {channels[0]}, out_channels {channels[1]}: it takes more than latents"
        )
    added = unet.get("addition_embed_type")
    if added != ("text_time" if family == "sdxl" else None):
        raise CheckpointError(f"unet/config.json: addition_embed_type {added!r:.40} is not that of {NAMES[family]}")
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if unet.get(key) is not None:
            raise CheckpointError(f"unet/config.json: {key} {unet[key]!r:.40}: it takes more than latents, a time and a prompt")
    try:
        with torch.device("meta"):
            diffusers().UNet2DConditionModel.from_config(unet)
    except ConfigError:
        raise
    except Exception as error:  # whatever a setting that nobody meant leads to
        raise CheckpointError(f"unet/config.json: diffusers can't build it: {' '.join(str(error).split())[:160]}") from None
    if type(unet.get("sample_size")) is not int:
        raise CheckpointError(
            f"unet/config.json: sample_size {unet.get('sample_size')!r:.40} is not one whole number: square images only"
        )


def _weights(path: Path, part: str, stem: str) -> list[str]:
    """The names of a part's safetensors: in full precision where both are there, in one file or in several."""
    for half in ("", f".{HALF}"):
        one, several = f"{stem}{half}.safetensors", f"{stem}.safetensors.index{half}.json"
        if (path / part / one).is_file():
            _check_tensors(path / part / one, f"{part}/{one}")
            return [f"{part}/{one}"]
        if (path / part / several).is_file():
            named = _json(path, f"{part}/{several}").get("weight_map")
            found = list(named.values()) if isinstance(named, dict) else []
            if not found or not all(isinstance(shard, str) and Path(shard).name == shard for shard in found):
                raise CheckpointError(f"{part}/{several}: names no files beside it")
            shards = sorted(set(found))
            for shard in shards:
                _check_tensors(path / part / shard, f"{part}/{shard}")
            return [f"{part}/{several}", *(f"{part}/{shard}" for shard in shards)]
    pickles = sorted(file.name for file in (path / part).glob("*.bin"))
    if pickles:
        raise CheckpointError(f"{part}/{pickles[0]}: a pickle, which is not read: save the pipeline again as safetensors")
    raise CheckpointError(f"{part}: has no {stem}.safetensors")


def variant_of(part: Path) -> str | None:
    """What the owners' loaders have to be told: that a part's weights are there in half precision alone."""
    stem = WEIGHTS[part.name]
    whole = any((part / f"{stem}.{ending}").is_file() for ending in ("safetensors", "safetensors.index.json"))
    return None if whole else HALF


def _check_tensors(file: Path, name: str) -> None:
    if not file.is_file():
        raise CheckpointError(f"{name}: no such file")
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{name}: damaged: {str(error).splitlines()[0]}") from None


def _small_files(path: Path, part: str) -> list[str]:
    """The configuration of a part, and a tokenizer's vocabulary: what is damaged is said before anything is kept of it."""
    found = [file for file in sorted((path / part).glob("*")) if file.suffix in (".json", ".txt") and ".index." not in file.name]
    if not found:
        raise CheckpointError(f"{part}: has no configuration")
    if large := [file.name for file in found if file.stat().st_size > LARGEST_JSON]:
        raise CheckpointError(f"{part}/{large[0]}: larger than {LARGEST_JSON >> 20} MiB")
    for file in found:
        if file.suffix == ".json":
            _json(path, f"{part}/{file.name}")
    return [f"{part}/{file.name}" for file in found]


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        if (path / name).stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{name}: larger than {LARGEST_JSON >> 20} MiB")
        found = json.loads((path / name).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{name}: damaged: no JSON") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{name}: damaged: holds no keys")
    return found


def import_pipeline(cache: Folder, pipeline: Pipeline) -> Folder:
    """Keeps a pipeline's files in the cache, under the SHA-256 of all of them, and returns that folder; once for the same files.

    On one disk nothing is copied. Raises CheckpointError; then the folder has no FACTS and counts as not there.
    """
    digests = {name: _sha256(pipeline.path / name) for name in pipeline.files}
    folder = cache / f"{pipeline.family}-{_digest(digests)[:16]}"
    if not folder.has(FACTS):
        for name in pipeline.files:
            folder.put(name, pipeline.path / name)
        proofs = [
            {"file": name, "bytes": (pipeline.path / name).stat().st_size, "sha256": digests[name]} for name in pipeline.files
        ]
        folder.write_json(FACTS, {"family": pipeline.family, "where": pipeline.where, "files": proofs})
    return folder


def unet_files(folder: Folder) -> list[dict[str, Any]]:
    """Name and SHA-256 of each file of an imported pipeline's U-Net. Raises CheckpointError where it is not whole."""
    mine = (file for file in folder.read_json(FACTS)["files"] if file["file"].startswith("unet/"))
    return [{key: file[key] for key in ("file", "sha256")} for file in mine if file["file"].endswith(".safetensors")]


def encoders_digest(folder: Folder) -> str:
    """SHA-256 of an imported pipeline's tokenizers and text encoders. Raises CheckpointError where it is not whole."""
    proofs = folder.read_json(FACTS)["files"]
    mine = {proof["file"]: proof["sha256"] for proof in proofs if proof["file"].startswith(("text_encoder", "tokenizer"))}
    return _digest(mine)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
