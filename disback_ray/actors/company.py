"""Brings the roles of a recipe on stage: each in a Ray actor on its promised device, or all in this process."""

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from disback_ray.actors.mishaps import told
from disback_ray.actors.on_ray import OnRay, Replicas, begin
from disback_ray.actors.parts import CLASSES, Part, Places, parts
from disback_ray.actors.placement import Placement
from disback_ray.actors.players import Audience
from disback_ray.actors.rank_group import RankGroup
from disback_ray.actors.recovery import Recovery
from disback_ray.actors.timesheet import Account, Timesheet
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.records import CROSSINGS, WIRE_BYTES
from disback_ray.config import Recipe, RecoveryLimits, RoleResources
from disback_ray.run_folder import CONFIG
from disback_ray.storage import Folder
from disback_ray.teachers.saved import load_spec

RANK_SECONDS = 300.0
"""So long a rank waits for the others. Their death it learns at once; while they are still to meet, the driver does, and ends them all."""


@dataclass(frozen=True)
class Company:
    """The cast as the algorithms see it, the roles for all else, and how to wait for what they give. seats: where each runs.

    kept([(what snapshot() gave, what load() takes)]): the roles can go on from there, and need nothing that came before. log_steps:
    after so many steps there has to be a checkpoint, None where nothing is logged.
    renew(): every role is as it was when it was built. leaving(): machines of theirs that have just said that they are to go.
    accounts(): each seat's calls since the last time, and what to add to its clock to have this process's.
    """

    cast: Cast
    teacher: Any
    fake_score: Any
    generator: Any
    evaluator: Any
    wait: Callable[[Any], Any]
    is_ready: Callable[[Any], bool]
    kept: Callable[..., None]
    log_steps: int | None
    renew: Callable[[], None]
    leaving: Callable[[], list[str]]
    accounts: Callable[[], tuple[dict[str, Account], dict[str, float]]]
    seats: dict[str, dict[str, Any]]


class Here:
    """A role in this process, with the number of threads that it would have in its own."""

    def __init__(self, name: str, part: Part, *, threads: int, sheet: Timesheet) -> None:
        self._name = name
        self._part = part
        self._threads = threads
        self._sheet = sheet
        self._renew()

    def _renew(self) -> None:
        """A new role in place of the one that there is, which goes first."""
        role, arguments = self._part
        self._role: Any = None
        self._role = role(**arguments)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._role, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            with told(self._name, method, args), self._sheet.call(method, args) as gave:
                gave.append(call(*args, **kwargs))
            return gave[0]

        return run


def in_process(recipe: Recipe, places: Places, roles: Mapping[str, RoleResources], *, seed: int, trace: bool = False) -> Company:
    """All roles in this process, one after the other: the same lines, the same numbers. trace: whether each call is noted."""
    needed = parts(recipe, places, seed=seed)
    sheets = {name: Timesheet(trace) for name in needed}
    made = {name: Here(name, part, threads=roles[name].threads, sheet=sheets[name]) for name, part in needed.items()}

    def renew() -> None:
        for role in made.values():
            role._renew()

    here = {"pid": os.getpid(), "node": socket.gethostname(), "devices": []}
    return _company(
        made,
        dict.fromkeys(made, here),
        wait=lambda value: value,
        is_ready=lambda value: True,
        kept=lambda *points: None,
        log_steps=None,
        renew=renew,
        leaving=lambda: [],
        accounts=lambda: ({name: sheet.account() for name, sheet in sheets.items()}, {}),
    )


def on_ray(
    recipe: Recipe, places: Places, roles: Mapping[str, RoleResources], placement: Placement,
    *, seed: int, limits: RecoveryLimits, audience: Audience, trace: bool = False, standing: dict[str, Any] | None = None,
) -> Company:  # fmt: skip
    """Each role in an actor on its promised device, and in another one where that is lost. Raises what building a role raises.

    trace: whether each call is noted. standing: what stand_by() gave.
    """
    made, recovery = hosted(
        parts(recipe, places, seed=seed), roles, placement,
        shared=places.run, proof=CONFIG, limits=limits, audience=audience, trace=trace, standing=standing,
    )  # fmt: skip
    most = log_steps(recipe, load_spec(places.teacher).shape, limits)
    return _company(
        made, recovery.seats, wait=recovery.wait, is_ready=recovery.is_ready, kept=recovery.kept, log_steps=most,
        accounts=recovery.accounts, renew=recovery.renew, leaving=recovery.leaving,
    )  # fmt: skip


def hosted(
    needed: Mapping[str, Part], roles: Mapping[str, RoleResources], placement: Placement,
    *, shared: Folder, proof: str, limits: RecoveryLimits, audience: Audience, trace: bool, standing: dict[str, Any] | None = None,
) -> tuple[dict[str, Replicas], Recovery]:  # fmt: skip
    """Any parts, each in its actors. shared, proof: a folder that all of them must see, and a file in it."""
    labels = {name: _labels(name, roles[name]) for name in needed}
    spare = standing or {}

    def process(name: str, replica: int) -> OnRay | RankGroup:
        asked = roles[name]
        common: dict[str, Any] = {"threads": asked.threads, "shared": shared, "proof": proof, "trace": trace}
        if asked.ranks == 1:
            label = labels[name][replica]
            begun = spare.pop(label, None)  # but for the first time there is none
            return OnRay(label, needed[name], options=placement.options(name, replica), begun=begun, **common)
        options = [placement.options(name, rank) for rank in range(asked.ranks)]
        return RankGroup(name, needed[name], sharding=asked.sharding, options=options, timeout=RANK_SECONDS, **common)

    recovery = Recovery(limits, audience, missing=placement.missing)
    proxies = recovery.seat(
        {
            label: (needed[name][0], partial(process, name, replica))
            for name in needed
            for replica, label in enumerate(labels[name])
        }
    )
    return {name: Replicas([proxies[label] for label in labels[name]], ranks=roles[name].ranks) for name in needed}, recovery


def stand_by(roles: Mapping[str, RoleResources], placement: Placement) -> dict[str, Any]:
    """Begins the processes of roles that are to be cast later: they read their code meanwhile. Ranks have none: they begin together."""
    return {
        label: begin(label, CLASSES[name], options=placement.options(name, replica), threads=asked.threads)
        for name, asked in roles.items()
        if asked.ranks == 1
        for replica, label in enumerate(_labels(name, asked))
    }


def _labels(name: str, asked: RoleResources) -> list[str]:
    return [name] if asked.replicas == 1 else [f"{name}/{replica}" for replica in range(asked.replicas)]


def log_steps(recipe: Recipe, shape: tuple[int, ...], limits: RecoveryLimits) -> int:
    """Steps between two checkpoints, so that what the log holds keeps to its budget: all that crosses between the roles."""
    numbers = (CROSSINGS + bool(recipe.backtracking.blend)) * recipe.batch * math.prod(shape)
    return max(1, limits.log_mb * 2**20 // (numbers * WIRE_BYTES[recipe.wire_dtype]))


def _company(made: Mapping[str, Any], seats: dict[str, dict[str, Any]], **driving: Any) -> Company:
    cast = Cast(made["teacher"], made["path_node"], made["fake_score"], made["generator"])
    roles = {name: made[name] for name in ("teacher", "fake_score", "generator", "evaluator")}
    return Company(cast=cast, seats=seats, **roles, **driving)
