"""A teacher from a file or folder of its owners': read without executing anything in it, and kept as our own denoiser."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from disback_ray.errors import CheckpointError
from disback_ray.networks.imported import ConsistencySpec, EDMNetwork, EDMSpec, Scalings
from disback_ray.networks.preconditioning import Preconditioning
from disback_ray.networks.spec import Count, DenoiserSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.consistency import read_consistency_checkpoint
from disback_ray.teachers.ddpm_folder import fingerprint, read_ddpm_folder
from disback_ray.teachers.edm_pickle import read_edm_pickle
from disback_ray.teachers.hub import diffusers_folder
from disback_ray.teachers.saved import SETTINGS, is_saved, load_denoiser, load_spec, refuse_modules, save_denoiser

FileFormat = Literal["edm", "consistency"]
Format = FileFormat | Literal["diffusers", "denoiser"]  # these are folders, the last one of our own

MAX_BYTES = 8 << 30  # the largest published ones have about 2 GB
ZIP, LEGACY, PICKLE = b"PK", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"\x80"
SIGMA_DATA = 0.5  # of images in [-1, 1]; VP and VE networks have none of their own
ATTENDS_DOWN_TO = 8  # pixels: the coarsest level with attention of all of openai's consistency models


@dataclass(frozen=True)
class Expected:
    """What a recipe's file has to be; None: anything. network: of an EDM file; resolution: pixels a side; classes: 0 for none.

    A consistency file doesn't tell its resolution, so there this one is believed.
    """

    network: EDMNetwork | None = None
    resolution: Count | None = None
    classes: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True)
class TeacherCheckpoint:
    """A file's denoiser, in float32 and `eval` mode, with the spec that builds it again. precision: of the weights in the file."""

    denoiser: Preconditioning
    spec: DenoiserSpec
    precision: str
    float16: bool = False  # its owners run it in float16


def read_file(file: str) -> bytes:
    """The bytes at a path or URI. Raises CheckpointError where there is no file, or one that no teacher has the size of."""
    folder, name = Folder.of_file(file)
    size = folder.size(name)
    if size is None:
        found = "a folder, not a file" if folder.has(name) else "no such file"
        raise CheckpointError(f"{file}: {found}; name another with --set teacher.checkpoint=FILE")
    if size > MAX_BYTES:
        raise CheckpointError(f"{file}: larger than {MAX_BYTES >> 30} GiB, which no teacher's file is")
    return folder.read(name)


def format_of(data: bytes, *, name: str) -> FileFormat:
    """Which format a file's first bytes are of. Raises CheckpointError where they are of none."""
    if data.startswith((ZIP, LEGACY)):
        return "consistency"
    if data.startswith(PICKLE):
        return "edm"
    if data[8:9] == b"{":
        raise CheckpointError(
            f"{name}: safetensors, which don't tell their network: name the folder that diffusers saved them in, or for a LoRA student.lora"
        )
    raise CheckpointError(f"{name}: neither an EDM pickle nor a torch file, or damaged from its start")


def read_teacher(
    data: bytes, *, name: str, format: FileFormat, scalings: Scalings = "boundary", head_channels: int = 64, expected: Expected
) -> TeacherCheckpoint:
    """The teacher in a file's bytes. name: what errors call it; scalings, head_channels: of a consistency file, which tells neither.

    Raises CheckpointError where the file is damaged, refused, of the other format, or not what is expected.
    """
    if (really := format_of(data, name=name)) != format:
        raise CheckpointError(f"{name}: its format is {really}, not {format}")
    is_edm = format == "edm"
    found = _edm(data, name) if is_edm else _consistency(data, name, scalings, head_channels, expected.resolution)
    _check(found.spec, expected, name)
    return found


def read_teacher_folder(path: Path, *, name: str, expected: Expected) -> TeacherCheckpoint:
    """The teacher in a folder of diffusers'. name: what errors call it.

    Raises CheckpointError where something is missing, damaged, refused, or not what is expected; ConfigError without diffusers.
    """
    found = read_ddpm_folder(path, resolution=expected.resolution, name=name)
    _check(found.spec, expected, name)
    return TeacherCheckpoint(found.denoiser, found.spec, found.precision)


def import_teacher(
    cache: Folder,
    file: str,
    *,
    format: Format,
    scalings: Scalings = "boundary",
    expected: Expected,
    trust_modules: bool = False,
) -> Folder:
    """Keeps a teacher as a denoiser's folder, named by the SHA-256 of its file or files, and returns that; once for the same bytes.

    file: a path or URI, and for a folder of diffusers' also an id of the Hugging Face Hub.
    trust_modules: a folder of our own may name a module, whose code is then run.
    Raises what read_file and read_teacher, or diffusers_folder and read_teacher_folder, raise; then nothing is written.
    """
    if format == "diffusers":
        return _import_folder(cache, file, expected)
    if format == "denoiser":
        return _import_denoiser(cache, file, expected, trust_modules)
    data = read_file(file)
    kind = format if format == "edm" else f"{format}-{scalings}-{expected.resolution or 'any'}"
    folder = cache / f"{kind}-{hashlib.sha256(data).hexdigest()}"
    if is_saved(folder):
        _check(load_spec(folder), expected, file)
        return folder
    checkpoint = read_teacher(data, name=file, format=format, scalings=scalings, expected=expected)
    save_denoiser(folder, checkpoint.spec, checkpoint.denoiser.state_dict())
    return folder


def _import_folder(cache: Folder, where: str, expected: Expected) -> Folder:
    with diffusers_folder(where) as path:
        folder = cache / f"diffusers-{expected.resolution or 'any'}-{fingerprint(path, name=where)}"
        if is_saved(folder):
            _check(load_spec(folder), expected, where)
            return folder
        checkpoint = read_teacher_folder(path, name=where, expected=expected)
        save_denoiser(folder, checkpoint.spec, checkpoint.denoiser.state_dict())
    return folder


def _import_denoiser(cache: Folder, where: str, expected: Expected, trust_modules: bool) -> Folder:
    source = Folder.at(where)
    if not is_saved(source):
        raise CheckpointError(
            f"{where}: no finished teacher is there (it has no {SETTINGS}); `disback-ray teacher train` makes them"
        )
    spec = load_spec(source)
    refuse_modules(spec, where=where, trust=trust_modules)
    _check(spec, expected, where)
    weights = load_denoiser(source).state_dict()
    key = json.dumps(spec.to_json(), sort_keys=True) + digest(weights)
    folder = cache / f"denoiser-{hashlib.sha256(key.encode()).hexdigest()}"
    if not is_saved(folder):
        save_denoiser(folder, spec, weights)
    return folder


def _edm(data: bytes, name: str) -> TeacherCheckpoint:
    found = read_edm_pickle(data, name=name)
    shape = (found.channels, found.resolution, found.resolution)
    sigma_data = float(getattr(found.denoiser, "sigma_data", SIGMA_DATA))
    spec = DenoiserSpec(EDMSpec(found.kind, _plain(found.arguments)), shape, found.label_dim, sigma_data)
    return TeacherCheckpoint(found.denoiser, spec, found.precision, found.use_fp16)


def _consistency(data: bytes, name: str, scalings: Scalings, head_channels: int, resolution: int | None) -> TeacherCheckpoint:
    found = read_consistency_checkpoint(io.BytesIO(data), kind=scalings, head_channels=head_channels, name=name)
    factors = found.arguments["attention_factors"]
    if resolution is None and not factors:
        raise CheckpointError(f"{name}: it doesn't tell its resolution: give teacher.expects.resolution")
    side = resolution or ATTENDS_DOWN_TO * max(factors)
    halvings = len(found.arguments["channel_mult"]) - 1
    if side % 2**halvings:
        raise CheckpointError(f"{name}: its network halves the side {halvings} times, and {side} pixels can't be")
    classes = found.arguments["num_classes"]
    shape = (found.arguments["in_channels"], side, side)
    spec = DenoiserSpec(ConsistencySpec(scalings, _plain(found.arguments)), shape, classes, found.denoiser.sigma_data)
    return TeacherCheckpoint(found.denoiser, spec, found.precision)


def _plain(arguments: Any) -> dict[str, Any]:
    """As they come back from JSON, so that a spec equals the one that is read from its folder."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(arguments)))
    return plain


def _check(spec: DenoiserSpec, expected: Expected, name: str) -> None:
    found = {
        "network": spec.network.network if isinstance(spec.network, EDMSpec) else None,
        "resolution": spec.shape[-1],
        "classes": spec.classes,
    }
    for key, value in found.items():
        wanted = getattr(expected, key)
        if wanted is not None and value != wanted:
            shown = "none of EDM's" if value is None else value
            raise CheckpointError(f"{name}: its {key} is {shown}, and the recipe is for {wanted} (teacher.expects.{key})")
