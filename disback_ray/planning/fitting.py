"""Refuses a recipe whose roles can't fit the devices that were reserved for them, before any of them starts."""

import math
from collections.abc import Mapping, Sequence

import torch
from rich.filesize import decimal

from disback_ray.actors.bundles import Bundle, Node
from disback_ray.actors.parts import student_spec
from disback_ray.config import Recipe, RoleResources
from disback_ray.errors import ConfigError
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.planning.cards import CARDS, Card

MARGIN = 1.1
"""Estimates are within 10 % of what is measured: what is less above is tried."""
ROUGH_WEIGHTS, ROUGH_ACTIVATIONS, ROUGH_LATENT, ROUGH_SHARE = 20, 16_000, 1_000_000, 0.25
"""Bytes for each parameter and for each number of a sample, of pixels or of latents: more than any network here takes. Below this share
of a device nothing is measured."""

ADVICE = "`disback-ray plan` names the settings with which it does, if there are any"
LARGEST = {"A100": "A100-80G", "H100": "H200"}


def refuse_unfit(
    recipe: Recipe,
    spec: DenoiserSpec,
    asked: Mapping[str, RoleResources],
    bundles: Sequence[Bundle],
    nodes: Sequence[Node],
    host: Card | None = None,
) -> None:
    """nodes: of each bundle. host: the cores that bundles without a GPU share. What has no figures isn't judged. Raises ConfigError."""
    seated = [(bundle, _card(node)) for bundle, node in zip(bundles, nodes, strict=True)]
    known = [(bundle, card, card.memory * min(bundle.gpus, 1)) for bundle, card in seated if card and bundle.gpus]
    on_cores = [role for bundle in bundles if not bundle.gpus for role, _ in bundle.members]
    shares = [memory for *_, memory in known] + ([host.memory / len(on_cores)] if host and on_cores else [])
    if not shares or rough(recipe, spec) < ROUGH_SHARE * min(shares):
        return
    from disback_ray.planning.dry_run import CAST, DryRuns  # torch's fake tensors take a second to import
    from disback_ray.planning.ranked import of_each_rank

    roles = {name: each for name, each in asked.items() if name in CAST}
    needed = of_each_rank(recipe, roles, DryRuns(spec).footprints)
    for bundle, card, memory in known:
        members = [role for role, _ in bundle.members if role in needed]
        needs = sum(card.needs(needed[role].peak) for role in members)
        if needs > MARGIN * memory:
            need, they_have = ("needs", "it has") if len(members) == 1 else ("need", "they have")
            raise ConfigError(
                f"{recipe.name} doesn't fit: {' and '.join(members)} {need} {decimal(int(needs))} of the {decimal(int(memory))} "
                f"that {they_have} on a {card.name}: {ADVICE}"
            )
    if host:
        members = [role for role in on_cores if role in needed]
        needs = sum(host.needs(needed[role].on_cores) for role in members)
        if needs > MARGIN * host.memory:
            raise ConfigError(
                f"{recipe.name} doesn't fit: without a GPU {', '.join(members)} need {decimal(int(needs))} of this machine's "
                f"{decimal(int(host.memory))} of memory: {ADVICE}"
            )


def _card(node: Node) -> Card | None:
    """The largest that has the name: what Ray calls A100 has 40 or 80 GiB."""
    return CARDS.get(LARGEST.get(node.accelerator or "", node.accelerator or ""))


def rough(recipe: Recipe, spec: DenoiserSpec) -> float:
    """Bytes that the largest role can't exceed."""
    with torch.device("meta"):
        networks = [spec.build()] + ([] if recipe.student.network == "teacher" else [student_spec(recipe, spec).build()])
        weights = max(sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    of_number = ROUGH_LATENT if isinstance(spec.network, TextUNetSpec) else ROUGH_ACTIVATIONS
    return float(ROUGH_WEIGHTS * weights + of_number * recipe.batch * math.prod(spec.shape))
