"""Ways to seat the cast on so many cards, for `disback-ray plan --auto`."""

import math
from collections.abc import Iterator
from itertools import combinations, product

from disback_ray.config import ClusterConfig, RoleResources
from disback_ray.errors import ConfigError

MOST_CARDS, CARDS_UNLESS_SAID = 64, 4


def cards_of(cluster: ClusterConfig, *, kind: str | None) -> tuple[int, str | None]:
    """How many cards the cluster file's roles reserve, and of which kind. kind: those alone, where it names several.

    Raises ConfigError where it names several and kind is none of them.
    """
    seats = [asked for asked in cluster.roles.by_name().values() if not asked.share and asked.gpus]
    kinds = sorted({asked.accelerator for asked in seats if asked.accelerator})
    if len(kinds) > 1 and kind not in kinds:
        raise ConfigError(
            f"--auto: it chooses among cards of one kind, and the cluster file names {', '.join(kinds)}: name one of them with --card"
        )
    chosen = kinds[0] if len(kinds) == 1 else kind
    reserved = sum((asked.gpus or 0) * asked.actors for asked in seats if asked.accelerator in (chosen, None))
    return math.ceil(reserved) or CARDS_UNLESS_SAID, chosen


def layouts(cluster: ClusterConfig, cards: int, accelerator: str | None, *, batch: int) -> Iterator[ClusterConfig]:
    """The cluster file with its roles on that many cards: each seat alone, or seats that share.

    More cards are the target's replicas and the ranks of those that train, as many as share the batch evenly. The teacher and a path node
    are hardly ever asked in the same step: where cards are few, they share one.

    Raises ConfigError for less than one card, or more than MOST_CARDS.
    """
    if not 1 <= cards <= MOST_CARDS:
        raise ConfigError(f"--cards {cards}: expected 1 to {MOST_CARDS}")
    one = RoleResources(gpus=1, accelerator=accelerator)
    if cards >= 4:
        extra = one.model_copy(update={"replicas": cards - 3})
        yield _seated(cluster, {"teacher": extra, "path_node": one, "fake_score": one, "generator": one})
        even = [ranks for ranks in range(1, cards - 1) if batch % ranks == 0]
        for fake_score, generator in product(even, even):
            if (left := cards - fake_score - generator) >= 1 and batch % math.lcm(fake_score, generator) == 0:
                targets = {"teacher": one.model_copy(update={"replicas": left}), "path_node": _with("teacher", left)}
                trained = {"fake_score": _ranks(one, fake_score), "generator": _ranks(one, generator)}
                yield _seated(cluster, targets | trained)
        return
    seats = ("teacher", "fake_score", "generator")
    for hosts in combinations(seats, cards):
        for joined in _choices([seat for seat in seats if seat not in hosts], hosts):
            roles = dict.fromkeys(hosts, one) | {seat: _with(host) for seat, host in joined.items()}
            yield _seated(cluster, roles | {"path_node": _with(joined.get("teacher", "teacher"))})


def _choices(seats: list[str], hosts: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Each seat with one of the hosts."""
    if not seats:
        yield {}
        return
    for host in hosts:
        for rest in _choices(seats[1:], hosts):
            yield {seats[0]: host} | rest


def _with(host: str, replicas: int = 1) -> RoleResources:
    return RoleResources.model_validate({"with": host, "replicas": replicas})


def _ranks(one: RoleResources, ranks: int) -> RoleResources:
    return one.model_copy(update={"ranks": ranks})


def _seated(cluster: ClusterConfig, roles: dict[str, RoleResources]) -> ClusterConfig:
    return cluster.model_copy(update={"roles": cluster.roles.model_copy(update=roles)})
