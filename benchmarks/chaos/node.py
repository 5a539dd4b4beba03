"""Machines that go, with what was on them, that come back, and that say before that they are to go."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray as typed_ray
from ray._private import state as typed_state
from ray._private import worker as typed_worker
from ray.cluster_utils import Cluster as TypedCluster
from ray.core.generated import autoscaler_pb2 as typed_pb2

from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import Once
from disback_ray.run_folder import CHECKPOINTS

ray: Any = typed_ray
state: Any = typed_state
worker: Any = typed_worker
Cluster: Any = TypedCluster
autoscaler_pb2: Any = typed_pb2

SEATS = {"fake_score": "A10G", "path_node": "A10G"}
"""The roles that want the machine that goes."""


class Machines:
    """A head, and machines with pretended GPUs: one that stays, and those that can go and come back, one more with `spare`."""

    def __init__(self, *, spare: bool) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        self.cluster.add_node(num_cpus=4, num_gpus=4, labels={"ray.io/accelerator-type": "GeForce-RTX-3090"})
        self.folder = Path()
        for _ in range(2 if spare else 1):
            self.come()

    def come(self) -> None:
        self.cluster.add_node(num_cpus=4, num_gpus=4, labels={"ray.io/accelerator-type": "A10G"})

    @property
    def node(self) -> Any:
        """The machine of the fake score, by the run's summary."""
        seat = json.loads((self.folder / "summary.json").read_text("utf-8"))["roles"]["fake_score"]
        return next(node for node in self.cluster.worker_nodes if node.node_id == seat["node_id"])

    def go(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)

    def give_notice(self) -> None:
        """As a provider does that wants its machine back."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        gcs = worker.global_worker.gcs_client
        gcs.drain_node(self.node.node_id, reason, "the provider wants it back", int(2e12))


@contextmanager
def machines(*, spare: bool = False) -> Iterator[Machines]:
    found = Machines(spare=spare)
    try:
        yield found
    finally:
        ray.shutdown()
        found.cluster.shutdown()


class Returning(Once):
    """Brings the machine back once the run says that it waits: it is said in the main thread, and only there can Ray begin a machine."""

    def __init__(self, step: int, there: Machines) -> None:
        super().__init__("backtracking", step, there.go)
        self.there, self.back = there, False

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("waiting: ") and not self.back:
            self.back = True
            self.there.come()


BOUND = [f"cluster.roles.{name}={{gpus: 1, accelerator: {card}}}" for name, card in SEATS.items()]


def node(stage: Stage) -> Iterator[Outcome]:
    """A machine is removed with its objects: none has room, and it comes back; or another one like it has room."""
    yield from _away(stage)
    if not stage.short:
        yield from _elsewhere(stage)
        yield from _noticed(stage)


def _elsewhere(stage: Stage) -> Iterator[Outcome]:
    with machines(spare=True) as there:
        found, there.folder = Outcome("a machine dies with its objects; another has room"), stage.new_folder()
        watch = Once("backtracking", 13, there.go)
        summary = stage.play(found, f"cluster.address={there.cluster.address}", *BOUND, watch=watch, folder=there.folder)
        found.injected = watch.done
        found.expect(summary.get("losses"), "no role was lost")
        yield found


def _away(stage: Stage) -> Iterator[Outcome]:
    with machines() as there:
        found, there.folder = Outcome("a machine dies, no other has room, it comes back"), stage.new_folder()
        back = Returning(13, there)
        stage.play(found, f"cluster.address={there.cluster.address}", *BOUND, watch=back, folder=there.folder)
        found.injected = back.done
        found.said += [told for told in back.told if told.startswith("waiting: ")]
        found.expect(found.said, "nothing was said of waiting")
        yield found


def _noticed(stage: Stage) -> Iterator[Outcome]:
    """A machine says that it is to go: there is a checkpoint at once, though none is due."""
    long = ("checkpoint_every=1000", "backtracking.steps=2000", "evaluation.every=2000", "cluster.checkpoints.keep=9")
    truth = stage.truth_of(*long)
    with machines() as there:
        found, there.folder = Outcome("a drain notice"), stage.new_folder()
        watch, address = Once("backtracking", 5, there.give_notice), f"cluster.address={there.cluster.address}"
        stage.play(found, address, *long, *BOUND, watch=watch, folder=there.folder, truth=truth)
        kept = [path.name for path in (there.folder / CHECKPOINTS).glob("backtracking-*")]
        found.injected = watch.done
        found.said += [told for told in watch.told if "is to go" in told]
        found.expect(any(not name.endswith(("1000", "2000")) for name in kept), f"no checkpoint but {kept}")
        found.expect(found.said, "nothing was said of it")
        yield found
