"""YAML and `key=value` overrides → a model. Unknown keys are refused, with the nearest known one named."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from disback_ray import limited_yaml
from disback_ray.config.complaints import explain
from disback_ray.errors import ConfigError
from disback_ray.limited_yaml import NotYaml
from disback_ray.teachers.hub import is_hub_id

Model = TypeVar("Model", bound=BaseModel)
ON_HUB = (("teacher", "checkpoint"), ("student", "lora"))
FILES = (
    *ON_HUB,
    ("teacher", "weights"),
    ("data", "file"),
    ("data", "path"),
    ("evaluation", "reference"),
    ("evaluation", "weights"),
)
HUB_FORMATS = ("diffusers", "stable-diffusion")


def parse(text: str, *, model: type[Model], where: str, overrides: Sequence[str] = (), beside: Path | None = None) -> Model:
    """YAML → model. where: what to call it in errors; beside: the folder that a file named in it is relative to.

    In an override, a file is relative to the working directory. Raises ConfigError, one line that names the key.
    """
    try:
        data = limited_yaml.load(text)
    except NotYaml as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: holds {type(data).__name__}, not keys and values")
    _anchor(data, beside or Path.cwd())
    for override in overrides:
        _override(data, override)
    _anchor(data, Path.cwd())
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, data, model)}") from None
    _refuse_truth_as_number(data, made.model_dump(mode="json", by_alias=True), where=where)
    return made


def _refuse_truth_as_number(written: Any, read: Any, *, where: str, key: str = "") -> None:
    """To Python, true is 1: pydantic would take `batch: true`. Raises ConfigError."""
    if isinstance(written, bool) and not isinstance(read, bool):
        raise ConfigError(f"{where}: {key}: {str(written).lower()}: expected a {type(read).__name__}")
    if isinstance(written, dict) and isinstance(read, dict):
        for name in written:
            _refuse_truth_as_number(written[name], read.get(name), where=where, key=f"{key}.{name}".lstrip("."))
    elif isinstance(written, list) and isinstance(read, list):
        for index, (old, new) in enumerate(zip(written, read, strict=True)):
            _refuse_truth_as_number(old, new, where=where, key=f"{key}.{index}")


def _anchor(data: dict[str, Any], folder: Path) -> None:
    """Makes the files that a recipe names absolute; but for ids of the Hugging Face Hub."""
    teacher = data.get("teacher")
    from_hub = isinstance(teacher, dict) and teacher.get("format") in HUB_FORMATS
    for part, key in FILES:
        holder = data.get(part)
        named = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or not isinstance(named, str) or "://" in named:
            continue
        if (part, key) not in ON_HUB or not from_hub or not is_hub_id(named, beside=folder):
            holder[key] = os.path.abspath(folder / Path(named).expanduser())


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last or not all(parents):
        raise ConfigError(f"--set {text}: expected key=value, such as backtracking.steps=100")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {text}: {parent} holds a value, not keys")
    try:
        data[last] = limited_yaml.load(value)
    except NotYaml:
        raise ConfigError(f"--set {text}: the value is not YAML") from None
