"""Recipes and cluster files by name or file; a run's config.yaml is both, with the seed."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from disback_ray import limited_yaml
from disback_ray.config.cluster import ClusterConfig
from disback_ray.config.complaints import nearest
from disback_ray.config.parsing import Model, parse
from disback_ray.config.recipe import Recipe
from disback_ray.errors import ConfigError
from disback_ray.limited_yaml import NotYaml

RESOLVED = frozenset({"recipe", "seed", "cluster"})
"""What a run's config.yaml holds."""
SHIPPED = resources.files("disback_ray") / "configs"


def shipped(folder: Literal["recipes", "clusters"]) -> list[str]:
    """Names of the recipes or cluster files that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in (SHIPPED / folder).iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe's name, a YAML file or a run's config.yaml, with `key=value` overrides. Raises ConfigError."""
    recipe = _load(name, folder="recipes", model=Recipe, overrides=overrides)
    assert recipe.switches  # checks the nodes against the steps
    return recipe


def load_cluster(name: str | Path | ClusterConfig | None, *, overrides: Sequence[str] = ()) -> ClusterConfig:
    """A shipped cluster file's name, a YAML file, a run's config.yaml or settings (None: `local`), with `key=value` overrides.

    Raises ConfigError.
    """
    if isinstance(name, ClusterConfig):
        text = yaml.safe_dump(name.model_dump(mode="json", by_alias=True))
        return parse(text, model=ClusterConfig, where="cluster", overrides=overrides)
    return _load(str(name or "local"), folder="clusters", model=ClusterConfig, overrides=overrides)


def recipe_text(name: str) -> str:
    """A shipped recipe, or a YAML file, as it is written. Raises ConfigError."""
    return _text(name, folder="recipes")


def resolved(name: str, *, folder: Literal["recipes", "clusters"] = "recipes") -> dict[str, Any] | None:
    """What a run's config.yaml holds, where `name` is one: recipe, seed and cluster. Raises ConfigError where it is no file."""
    found = _found(_text(name, folder=folder))
    return found if is_resolved(found) else None


def is_resolved(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == RESOLVED


def _load(name: str, *, folder: Literal["recipes", "clusters"], model: type[Model], overrides: Sequence[str]) -> Model:
    beside = Path.cwd() if name in shipped(folder) else Path(name).expanduser().absolute().parent
    text = _text(name, folder=folder)
    found = _found(text)
    if is_resolved(found):
        text = yaml.safe_dump(found[folder[:-1]])
    else:
        _refuse_the_other_kind(found, name=name, folder=folder)
    return parse(text, model=model, where=name, overrides=overrides, beside=beside)


def _found(text: str) -> Any:
    """The values in a text; None where it is no YAML: parse() says what is wrong."""
    try:
        return limited_yaml.load(text)
    except NotYaml:
        return None


def _refuse_the_other_kind(found: Any, *, name: str, folder: Literal["recipes", "clusters"]) -> None:
    """Raises ConfigError for a cluster file in a recipe's place, or a recipe in a cluster file's."""
    keys = found.keys() if isinstance(found, dict) else set()
    of_recipe, of_cluster = keys & {"teacher", "recording", "backtracking"}, keys & {"address", "storage", "roles", "placement"}
    if folder == "recipes" and of_cluster and not of_recipe:
        raise ConfigError(f"{name}: a cluster file, and no recipe: give it with --cluster")
    if folder == "clusters" and of_recipe and not of_cluster:
        raise ConfigError(f"{name}: a recipe, and no cluster file: name it without --cluster")


def _text(name: str, *, folder: Literal["recipes", "clusters"]) -> str:
    known = shipped(folder)
    if name in known:
        return (SHIPPED / folder / f"{name}.yaml").read_text("utf-8")
    if not name.endswith((".yaml", ".yml")) and "/" not in name:
        raise ConfigError(
            f"unknown {folder[:-1]} {name!r}{nearest(name, known)}; shipped: {', '.join(known)}; or name a .yaml file"
        )
    try:
        with Path(name).expanduser().open(encoding="utf-8") as file:
            return file.read(limited_yaml.MOST_BYTES + 1)  # one more than is allowed, which tells
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{name}: {reason}") from None
