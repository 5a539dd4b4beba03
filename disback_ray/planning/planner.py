"""What `disback-ray plan` does: a recipe and a cluster file → a plan; with --auto the cheapest settings and seats that fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import yaml

from disback_ray.config import ClusterConfig, Recipe, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning.cards import REFERENCE, Card, card, cores
from disback_ray.planning.dry_run import CAST, Footprint, footprints
from disback_ray.planning.layouts import layouts
from disback_ray.planning.plan import Plan, make
from disback_ray.planning.published import teacher_spec
from disback_ray.planning.remedies import remedy, unfit

Choice = tuple[ClusterConfig, list[str], Plan]


@dataclass
class Planner:
    """One recipe with its overrides. named: a card for the roles whose cluster file names none."""

    name: str
    overrides: Sequence[str] = ()
    named: str | None = None
    network: str = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError and CheckpointError where recipe or teacher are wrong."""
        self.spec, self.network = teacher_spec(load_recipe(self.name, overrides=self.overrides))
        self._cores = cache(cores)
        self._needed: dict[str, dict[str, Footprint]] = {}

    def plan(self, cluster: ClusterConfig, recipe: Recipe | None = None) -> Plan:
        """Raises ConfigError where the roles contradict one another, or their cards are not known."""
        recipe = recipe or load_recipe(self.name, overrides=self.overrides)
        key = recipe.model_dump_json()
        if key not in self._needed:
            self._needed[key] = footprints(recipe, self.spec)
        card_of = {name: self._card(cluster, name) for name in CAST}
        return make(recipe, self.spec, cluster, card_of=card_of, needed=self._needed[key])

    def fitting(self, cluster: ClusterConfig) -> list[str]:
        """The settings with which it fits; [] where it does already, or where nothing helps."""
        return remedy(self.name, self.overrides, self.plan(cluster), lambda recipe: self.plan(cluster, recipe))

    def choose(self, cluster: ClusterConfig, cards: int) -> Choice:
        """Seats, settings and plan with the shortest step of those that fit with the fewest settings. Raises ConfigError if none does."""
        accelerator = next((asked.accelerator for asked in cluster.roles.by_name().values() if asked.accelerator), self.named)
        tried = list(layouts(cluster, cards, accelerator))
        plain: list[Choice] = [(seated, [], self.plan(seated)) for seated in tried]
        found = [choice for choice in plain if not unfit(choice[2])]
        if not found:
            for seated in tried:
                if settings := self.fitting(seated):
                    found.append(
                        (seated, settings, self.plan(seated, load_recipe(self.name, overrides=[*self.overrides, *settings])))
                    )
        if not found:
            raise ConfigError(
                f"{self.name} doesn't fit {cards} × {accelerator or REFERENCE}, whatever is set: larger cards, or more of them"
            )
        fewest = min(len(settings) for _, settings, _ in found)
        return min((choice for choice in found if len(choice[1]) == fewest), key=lambda choice: choice[2].seconds)

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
