"""What `disback-ray plan` does: a recipe and a cluster file → a plan; with --auto the cheapest settings and seats that fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import yaml

from disback_ray.config import ClusterConfig, Recipe, check_agreement, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning.cards import REFERENCE, Card, card, cores
from disback_ray.planning.dry_run import CAST, DryRuns
from disback_ray.planning.layouts import cards_of, layouts
from disback_ray.planning.measured import earlier
from disback_ray.planning.plan import Plan, make
from disback_ray.planning.published import teacher_spec
from disback_ray.planning.ranked import of_each_rank
from disback_ray.planning.remedies import remedy, unfit

Choice = tuple[ClusterConfig, list[str], Plan]


@dataclass
class Planner:
    """One recipe with its overrides. named: a card for the roles whose cluster file names none; storage: where runs may have been timed."""

    name: str
    overrides: Sequence[str] = ()
    named: str | None = None
    storage: str | None = None
    network: str = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError and CheckpointError where recipe or teacher are wrong."""
        self.spec, self.network = teacher_spec(load_recipe(self.name, overrides=self.overrides))
        self._cores = cache(cores)
        self._dry_runs = DryRuns(self.spec)

    def plan(self, cluster: ClusterConfig, recipe: Recipe | None = None) -> Plan:
        """Raises ConfigError where the roles contradict one another, or their cards are not known."""
        recipe = recipe or load_recipe(self.name, overrides=self.overrides)
        check_agreement(recipe, cluster)
        roles = {name: asked for name, asked in cluster.roles.by_name().items() if name in CAST}
        card_of = {name: self._card(cluster, name) for name in CAST}
        needed = of_each_rank(recipe, roles, self._dry_runs.footprints)
        run = earlier(self.storage, recipe, cluster) if self.storage else None
        return make(recipe, self.spec, cluster, card_of=card_of, needed=needed, run=run)

    def fitting(self, cluster: ClusterConfig) -> list[str]:
        """The settings with which it fits; [] where it does already, or where nothing helps."""
        return remedy(self.name, self.overrides, self.plan(cluster), lambda recipe: self.plan(cluster, recipe))

    def choose(self, cluster: ClusterConfig, cards: int | None = None) -> Choice:
        """Seats, settings and plan with the shortest step of those that fit with the fewest settings. Raises ConfigError if none does.

        cards: how many there are; None: as many as the cluster file reserves.
        """
        reserved, accelerator = cards_of(cluster, kind=self.named)
        cards = reserved if cards is None else cards
        batch = load_recipe(self.name, overrides=self.overrides).batch
        seatings = list(layouts(cluster, cards, accelerator, batch=batch))
        if accelerator is None and cluster.address == "local" and not torch.cuda.is_available():
            raise ConfigError(f"--auto: there is no GPU here to choose seats on: name the cards with --card, such as {REFERENCE}")
        tried = [(seated, shares) for seated in seatings if (shares := self._shares(seated)) is not None]
        plain: list[Choice] = [(seated, shares, self._planned(seated, shares)) for seated, shares in tried]
        if found := [choice for choice in plain if not unfit(choice[2])]:
            return min(found, key=lambda choice: choice[2].seconds)
        for seated, shares in tried:
            if not shares and (settings := self.fitting(seated)):
                found.append((seated, settings, self._planned(seated, settings)))
        if not found:
            raise ConfigError(
                f"{self.name} doesn't fit {cards} × {accelerator or REFERENCE}, whatever is set: larger cards, or more of them"
            )
        fewest = min(len(settings) for _, settings, _ in found)
        return min((choice for choice in found if len(choice[1]) == fewest), key=lambda choice: choice[2].seconds)

    def _planned(self, cluster: ClusterConfig, settings: Sequence[str]) -> Plan:
        return self.plan(cluster, load_recipe(self.name, overrides=[*self.overrides, *settings]))

    def _shares(self, cluster: ClusterConfig) -> list[str] | None:
        """What `--set` takes so that each rank has as many micro-batches; None where the batch can't be cut like that."""
        recipe = load_recipe(self.name, overrides=self.overrides)
        ranks = math.lcm(cluster.roles.fake_score.ranks, cluster.roles.generator.ranks)
        if recipe.micro_batches % ranks == 0:
            return []
        cuts = (parts for parts in range(ranks, recipe.batch + 1, ranks) if recipe.batch % parts == 0)
        return next(([f"micro_batches={parts}"] for parts in cuts if parts >= recipe.micro_batches), None)

    def _card(self, cluster: ClusterConfig, name: str) -> Card:
        asked = cluster.roles.by_name()[name]
        host = cluster.roles.by_name()[asked.share] if asked.share else asked
        if host.gpus == 0:
            return self._cores()
        if accelerator := host.accelerator or self.named:
            return card(accelerator)
        if cluster.address == "local" and not torch.cuda.is_available():
            return self._cores()
        return card(REFERENCE)


def roles_yaml(cluster: ClusterConfig) -> str:
    """The cast's seats, to be put into a cluster file."""
    roles = {name: getattr(cluster.roles, name).model_dump(mode="json", by_alias=True, exclude_defaults=True) for name in CAST}
    return str(yaml.safe_dump({"roles": roles}, sort_keys=False, default_flow_style=None, width=120))
