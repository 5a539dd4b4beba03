"""What both models are asked to show, pair by pair: prompts of a file, those that they were trained with, or the classes in turn."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.data.prompts import Prompts, PromptsData, read_prompts
from disback_ray.errors import ConfigError
from disback_ray.model import Model
from disback_ray.model_images import drawn_by_parts
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.prompting import check_heard, texts_of

PAIRS, LEAST = 50, 2


@dataclass(frozen=True)
class Asked:
    """captions: what each pair's two pictures are to show, '' for nothing; prompted: they are prompts."""

    captions: tuple[str, ...]
    prompted: bool = False

    def draw(self, model: Model, *, seed: int) -> Tensor:
        """One picture each, [n, C, H, W]; a pair's noise is keyed by the seed and the pair's number, whichever the model."""
        if not self.prompted:
            return model.generate(len(self.captions), seed=seed)
        return torch.cat([drawn for _, drawn in drawn_by_parts(model, self.captions, seed=seed)])


def ask(models: Mapping[str, Model], *, pairs: int | None, prompts: str | None) -> Asked:
    """What these two models can both be asked. pairs: None for one a prompt of the file, else 50; prompts: a file.

    Raises ConfigError where there is no common thing to ask of both, or a prompt or the number of pairs doesn't fit.
    """
    if pairs is not None and pairs < LEAST:
        raise ConfigError(f"--n {pairs}: at least {LEAST} pairs")
    networks = {name: network for name, model in models.items() if (network := model.text_network) is not None}
    deaf = [name for name in models if name not in networks]
    if deaf and prompts is not None:
        raise ConfigError(f"--prompts {prompts}: {deaf[0]} takes no prompts")
    if not networks:
        return _classes(models, pairs or PAIRS)
    if deaf:
        raise ConfigError(
            f"{next(iter(networks))} takes prompts and {deaf[0]} takes none: there is no common thing to ask of both"
        )
    _same_size(networks)
    asked = _own(models, networks, pairs or PAIRS) if prompts is None else _of_file(prompts, pairs)
    for network in networks.values():
        check_heard(network, asked)
    return Asked(asked.texts, prompted=True)


def _classes(models: Mapping[str, Model], pairs: int) -> Asked:
    (name_a, a), (name_b, b) = ((name, model.classes) for name, model in models.items())
    if a != b:
        raise ConfigError(f"{name_a} knows {a} classes and {name_b} {b}: there is no common thing to ask of both")
    return Asked(tuple(f"class {label}" for label in classes_evenly(pairs, a)) if a else ("",) * pairs)


def _of_file(file: str, pairs: int | None) -> Prompts:
    """Its first ones, or all."""
    found = read_prompts(PromptsData(file), key="--prompts")
    if len(found) < (pairs or LEAST):
        raise ConfigError(f"--n {pairs or LEAST}: {file} holds {len(found)} prompts, and each makes one pair")
    return Prompts(found.texts[:pairs], found.where, found.unit)


def _own(models: Mapping[str, Model], networks: Mapping[str, TextUNetSpec], pairs: int) -> Prompts:
    """Those that the two were trained with, as `sample` takes them; of a pipeline, which has none, the other's."""
    names = " and ".join(models)
    told = {}
    for name, model in models.items():
        if not model.classes:
            continue
        texts = texts_of(networks[name], model.classes)
        if texts is None:
            raise ConfigError(f"{name}: the texts of its prompts aren't kept in {networks[name].prompts}: give --prompts FILE")
        told[texts] = networks[name].prompts
    if not told:
        raise ConfigError(f"{names} draw what a prompt says: give --prompts FILE")
    if len(told) > 1:
        raise ConfigError(f"{names} were trained with different prompts: give --prompts FILE, which both are asked")
    ((texts, where),) = told.items()
    return Prompts(tuple(texts[number] for number in classes_evenly(pairs, len(texts))), where, "number")


def _same_size(networks: Mapping[str, TextUNetSpec]) -> None:
    """Before anything is drawn, which takes long."""
    (name_a, a), (name_b, b) = ((name, network.pixels) for name, network in networks.items())
    if a != b:
        raise ConfigError(f"{name_a} makes pictures of {a} × {a}, {name_b} of {b} × {b}: the size would tell them apart")
