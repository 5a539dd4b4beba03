"""Where a run is played: on Ray, or all in this process. Both train the teacher and put the cast on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from disback_ray.actors.bundles import check
from disback_ray.actors.company import Company, in_process, on_ray, stand_by
from disback_ray.actors.on_ray import OnRay as Process
from disback_ray.actors.parts import Part
from disback_ray.actors.placement import Placement, place
from disback_ray.actors.prompt_encoder import PromptEncoder, encode_all
from disback_ray.actors.recovery import Recovery
from disback_ray.actors.session import attach
from disback_ray.config import ClusterConfig, Recipe, RoleResources
from disback_ray.data.prepared import PreparedImages, decode_here, prepare
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import ImagesData
from disback_ray.interruption import Stop
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.production import Production, Stopped
from disback_ray.progress import Watcher
from disback_ray.run_folder import CONFIG
from disback_ray.storage import Folder
from disback_ray.teachers.training import Looks, TeacherPlan, train_teacher

BEFORE_THE_CAST = ("teacher_trainer", "prompt_encoder")
LOCAL_PLACEMENT_SECONDS = 10.0
"""A private cluster doesn't grow: what can't be placed at once never will be."""


class Theatre(Protocol):
    """See OnRay and InProcess."""

    def check(self, *, first: str | None) -> None: ...

    def refuse_unfit(self, recipe: Recipe, spec: DenoiserSpec) -> None: ...

    def prepare(self, data: ImagesData, cache: Folder) -> PreparedImages: ...

    def train_teacher(self, plan: TeacherPlan, folder: Folder, *, stop: Stop, looks: Looks | None = None) -> None: ...

    def encode_prompts(self, production: Production, network: TextUNetSpec) -> None: ...

    def cast(self, production: Production) -> Company: ...


class InProcess:
    """Everything here, without Ray."""

    def __init__(self, cluster: ClusterConfig, watch: Watcher) -> None:
        self.watch = watch
        self.roles = cluster.roles.by_name()

    def check(self, *, first: str | None) -> None:
        """There is nothing to be placed."""

    def refuse_unfit(self, recipe: Recipe, spec: DenoiserSpec) -> None:
        """There is one device, whatever it is."""

    def prepare(self, data: ImagesData, cache: Folder) -> PreparedImages:
        """Reads the images into the cache, unless they are there. Raises CheckpointError."""
        return prepare(data, cache, decode=decode_here, report=_reading(self.watch))

    def train_teacher(self, plan: TeacherPlan, folder: Folder, *, stop: Stop, looks: Looks | None = None) -> None:
        """Raises Stopped, NonFiniteError, CheckpointError."""

        def report(step: int, loss: float) -> None:
            self.watch.step(step, node=None, numbers={"loss": loss})
            if stop.is_set():
                raise Stopped

        torch.set_num_threads(self.roles["teacher_trainer"].threads)
        train_teacher(plan, folder, report=report, looks=looks)

    def encode_prompts(self, production: Production, network: TextUNetSpec) -> None:
        """The text encoders are gone before the cast is built. Raises Stopped, CheckpointError."""
        torch.set_num_threads(self.roles["prompt_encoder"].threads)
        made, arguments = encoder_part(production, network)
        encode_all(made(**arguments), wait=lambda value: value, report=_reporter(production))

    def cast(self, production: Production) -> Company:
        production.watch.stage("building the cast")
        return in_process(production.recipe, production.places, self.roles, seed=production.seed, trace=production.trace)


class OnRay:
    """Actors on a Ray cluster."""

    def __init__(self, cluster: ClusterConfig, watch: Watcher, *, private: bool) -> None:
        self.watch = watch
        self.roles = cluster.roles.by_name()
        self.limits = cluster.recovery
        self.timeout = min(cluster.placement_timeout, LOCAL_PLACEMENT_SECONDS) if private else cluster.placement_timeout
        self.private = private
        self.placement: Placement | None = None
        self.standing: dict[str, Any] = {}

    def check(self, *, first: str | None) -> None:
        """Reserves the cast's devices, so that what can't be placed is said before anything is written. Raises PlacementError.

        first: a role that is needed before the cast.
        """
        self.watch.stage("placing the cast")
        if first:
            place({first: self.roles[first]}, timeout=self.timeout).remove()
        self.placement = place(cast_of(self.roles), timeout=self.timeout)

    def refuse_unfit(self, recipe: Recipe, spec: DenoiserSpec) -> None:
        """Before any role starts. spec: the teacher's. Raises ConfigError where one can't fit the device that is reserved for it."""
        assert self.placement is not None
        from disback_ray.planning.cards import host
        from disback_ray.planning.fitting import refuse_unfit

        refuse_unfit(
            recipe, spec, self.roles, self.placement.bundles, self.placement.nodes, host=host() if self.private else None
        )

    def prepare(self, data: ImagesData, cache: Folder) -> PreparedImages:
        """Reads the images into the cache, unless they are there, on all machines. Raises CheckpointError, ClusterError."""
        # Ray Data takes over a second to import: only who needs it waits.
        from disback_ray.actors.image_decoder import decode_on_ray

        return prepare(data, cache, decode=decode_on_ray, report=_reading(self.watch))

    def train_teacher(self, plan: TeacherPlan, folder: Folder, *, stop: Stop, looks: Looks | None = None) -> None:
        """Raises Stopped, ClusterError, NonFiniteError, CheckpointError."""
        from disback_ray.actors.teacher_trainer import train_on_ray  # Ray Train too

        trainer = self.roles["teacher_trainer"]
        beside = self.placement if self.placement and self._leaves_room(self.placement, trainer) else None
        if beside is None:
            self._release()  # the trainer may need the very devices that the cast will have
        reserved = place({"teacher_trainer": trainer}, timeout=self.timeout)
        gpus = reserved.options("teacher_trainer")["num_gpus"]
        reserved.remove()

        def look(step: int, loss: float) -> bool:
            if step:  # the workers have begun
                self.watch.step(step, node=None, numbers={"loss": loss})
                if beside and not self.standing:
                    self.standing = stand_by(cast_of(self.roles), beside)
            return not stop.is_set()

        if not train_on_ray(plan, folder, trainer, gpus=gpus, watch=look, looks=looks):
            raise Stopped

    def encode_prompts(self, production: Production, network: TextUNetSpec) -> None:
        """In a process that ends with the work. Raises Stopped, PlacementError, ClusterError, CheckpointError."""
        self._release()  # the text encoders may need the very device that a role of the cast will have
        name, part, run = "prompt_encoder", encoder_part(production, network), production.places.run
        asked = self.roles[name]
        placement = place({name: asked}, timeout=self.timeout)

        def process() -> Process:
            return Process(name, part, options=placement.options(name), threads=asked.threads, shared=run, proof=CONFIG)

        try:
            recovery = Recovery(self.limits, production, missing=placement.missing)
            encoder = recovery.seat({name: (part[0], process)})[name]
            encode_all(encoder, wait=recovery.wait, report=_reporter(production))
        finally:
            placement.remove()  # its process ends too

    def cast(self, production: Production) -> Company:
        """Raises PlacementError, ClusterError, and what building a role raises."""
        self.watch.stage("placing the cast")
        if self.placement is None:
            self.placement = place(cast_of(self.roles), timeout=self.timeout)
        company = on_ray(
            production.recipe, production.places, self.roles, self.placement,
            seed=production.seed, limits=self.limits, audience=production, trace=production.trace, standing=self.standing,
        )  # fmt: skip
        for line in self.placement.describe():
            self.watch.say(line)
        return company

    def _leaves_room(self, placement: Placement, trainer: RoleResources) -> bool:
        """Whether the cast's processes can begin before the teacher is trained: on processors alone, that nobody else waits for."""
        machine, taken = placement.nodes[0], sum(bundle.cpus for bundle in placement.bundles)
        return self.private and not machine.gpus and taken + trainer.cpus * trainer.replicas <= machine.cpus

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        if self.placement is not None:
            self.placement.remove()
            self.placement = None
            self.standing.clear()  # those processes end with it


def encoder_part(production: Production, network: TextUNetSpec) -> Part:
    """The prompt encoder's class and arguments."""
    data = production.recipe.data
    assert isinstance(data, PromptsData)
    return PromptEncoder, {"table": Folder(network.prompts), "pipeline": Folder(network.pipeline), "embeddings": data.embeddings}


def _reporter(production: Production) -> Callable[[int, int], None]:
    def report(done: int, shards: int) -> None:
        if done == 1:
            production.watch.stage("encoding the prompts", steps=shards)
        production.watch.step(done, node=None, numbers={})
        if production.stop.is_set():
            raise Stopped

    return report


def _reading(watch: Watcher) -> Callable[[int, int], None]:
    """Tells of images as they are read."""
    begun = False

    def report(done: int, count: int) -> None:
        nonlocal begun
        if not begun:
            watch.stage("reading the images", steps=count)
            begun = True
        watch.step(done, node=None, numbers={})

    return report


def cast_of(roles: dict[str, RoleResources]) -> dict[str, RoleResources]:
    """Without those that are gone before it is placed."""
    return {name: asked for name, asked in roles.items() if name not in BEFORE_THE_CAST}


@contextmanager
def theatre(cluster: ClusterConfig, *, in_process: bool, watch: Watcher, modules: Sequence[str] = ()) -> Iterator[Theatre]:
    """The place for a run, until the block ends. modules: each module:factory that the roles will import.

    Raises ConfigError where the roles contradict one another, ClusterError without Ray.
    """
    check(cast_of(cluster.roles.by_name()))
    if in_process:
        yield InProcess(cluster, watch)
        return
    watch.stage("starting Ray" if cluster.address == "local" else f"connecting to Ray at {cluster.address}")
    with attach(cluster.address, modules=[name.partition(":")[0] for name in modules]) as session:
        stage = OnRay(cluster, watch, private=session.owned)
        try:
            yield stage
        finally:
            stage.close()
