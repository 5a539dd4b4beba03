"""The roles in this process, around a small teacher that was trained on the ring."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from disback_ray.actors.fake_score import FakeScore, FakeScoreSettings, StageSettings
from disback_ray.actors.frozen_score import FrozenTeacher, PathNode
from disback_ray.actors.generator import Generator, GeneratorSettings
from disback_ray.actors.on_ray import OnRay, Replicas
from disback_ray.actors.players import Recovered
from disback_ray.actors.rank_group import RankGroup
from disback_ray.actors.recovery import Recovery
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Cast, Step
from disback_ray.algorithms.noise import Batch, KarrasNoise, LogNormalNoise, micro_batches
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config import RecoveryLimits
from disback_ray.config.precision import Precision
from disback_ray.data.sources import RingData
from disback_ray.networks.lora import LoRA
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec, MLPSpec, ResNetMLPSpec
from disback_ray.storage import Folder
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import save_denoiser
from disback_ray.teachers.training import TeacherPlan, train_teacher

OPTIMISER = OptimiserSettings(lr=2e-3, clip=10.0)
STUDENT = GeneratorSpec(MLPSpec(width=16, hidden_layers=2), (2,), 0, 1.0)
NOISE = KarrasNoise(0.05, 10.0)
PRECISION = Precision()


@dataclass(frozen=True)
class Troupe:
    """What the roles are built from; each cast() is a new one, over the same files."""

    teacher: Folder
    path: Folder
    optimiser: OptimiserSettings = OPTIMISER
    batch: int = 12
    steps: int = 8
    micro_batches: int = 1
    fake_updates: int = 1
    staleness: int = 0
    blend: int = 0
    fused: bool = False
    wire: Any = "fp32"
    generator: GeneratorSpec = STUDENT
    start: Folder | None = None
    score_noise: KarrasNoise = NOISE
    weighting: Any = "dmd"
    marks: tuple[int, ...] = (2, 4, 8)
    precision: Precision = PRECISION
    lora: LoRA | None = None
    checkpointing: Any = False
    graph: Any = "keep"

    def but(self, **changes: Any) -> "Troupe":
        return replace(self, **changes)

    def parts(self) -> dict[str, Any]:
        """Each role's class, and the arguments that build it."""
        stages = {
            degradation.STAGE: StageSettings(max(self.marks, default=1), self.batch, self.optimiser),
            backtracking.STAGE: StageSettings(
                self.steps, self.batch, self.optimiser, self.fake_updates, self.staleness, self.fused
            ),
        }
        fit_noise = KarrasNoise(0.05, 10.0, low=0.0, high=1.0)
        fake = FakeScoreSettings(
            stages,
            1.42,
            self.score_noise,
            fit_noise,
            self.weighting,
            self.wire,
            precision=self.precision.fake_score,
            checkpointing=self.checkpointing,
            seed=4,
        )
        student = GeneratorSettings(
            self.generator,
            self.steps,
            self.batch,
            self.optimiser,
            0.9,
            4,
            self.wire,
            precision=self.precision.generator,
            checkpointing=self.start is not None and self.checkpointing,
            graph=self.graph,
        )
        copies = PathCopies(self.teacher, self.path, self.lora)
        return {
            "teacher": (
                FrozenTeacher,
                {"folder": self.teacher, "noise": self.score_noise, "wire": self.wire, "precision": self.precision.teacher},
            ),
            "path_node": (
                PathNode,
                {
                    "copies": copies,
                    "noise": self.score_noise,
                    "wire": self.wire,
                    "precision": self.precision.path_node,
                    "two": self.blend > 0,
                },
            ),
            "fake_score": (FakeScore, {"settings": fake, "copies": copies}),
            "generator": (Generator, {"settings": student, "start": self.start}),
        }

    def cast(self) -> Cast:
        return Cast(**{name: role(**arguments) for name, (role, arguments) in self.parts().items()})

    def batches(self, stage: str, step: int) -> list[Batch]:
        return micro_batches(Batch(6, stage, step, 0, self.batch), self.micro_batches)

    def record(self, cast: Any) -> None:
        """Algorithm 1, all of it."""
        cast.fake_score.begin(degradation.STAGE, node=0)
        list(degradation.degradation_recording(cast, self.marks, batches_of=self.batches))

    def play(self, cast: Any, plan: Any, *, start: int = 0, upto: int | None = None) -> Iterator[Step]:
        """Algorithm 2 with s_φ as it is, step by step."""
        return backtracking.distribution_backtracking(
            cast, plan, steps=upto or self.steps, batches_of=self.batches, fake_updates=self.fake_updates,
            staleness=self.staleness, blend=self.blend, start=start,
        )  # fmt: skip

    def backtrack(self, cast: Any, plan: Any, *, start: int = 0, upto: int | None = None) -> None:
        """All of it."""
        for _ in self.play(cast, plan, start=start, upto=upto):
            pass


@pytest.fixture(scope="session")
def small_teacher(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A ResNet MLP that has seen the ring for a second."""
    folder = Folder.at(tmp_path_factory.mktemp("teacher"))
    plan = TeacherPlan(
        spec=DenoiserSpec(ResNetMLPSpec(width=16, blocks=1), (2,), 0, 1.42), data=RingData(std=0.3), steps=400, batch=64,
        optimiser=OptimiserSettings(lr=5e-3, decay_after=0.0), ema=0.9, label_dropout=0.0, noise=LogNormalNoise(), seed=0,
    )  # fmt: skip
    train_teacher(plan, folder, report=lambda step, loss: None)
    return folder


@pytest.fixture
def troupe(small_teacher: Folder, tmp_path: Path) -> Troupe:
    return Troupe(small_teacher, Folder.at(tmp_path / "path"))


@pytest.fixture
def by_class(tmp_path: Path) -> Callable[[Troupe], Troupe]:
    """The same with three classes: an untrained denoiser for both the teacher and the generator."""
    spec = DenoiserSpec(ResNetMLPSpec(width=16, blocks=1), (2,), 3, 1.42)
    weights = {name: tensor + 0.1 for name, tensor in spec.build(seed=1).state_dict().items()}
    folder = Folder.at(tmp_path / "conditional")
    save_denoiser(folder, spec, weights)
    return lambda troupe: troupe.but(teacher=folder, start=folder, generator=GeneratorSpec(spec, (2,), 3, 2.5))


@dataclass
class Audience:
    """Hears of losses."""

    events: list[Recovered]

    def recovered(self, event: Recovered) -> None:
        self.events.append(event)

    def say(self, text: str) -> None:
        pass

    def gives_up(self) -> bool:
        return False


@pytest.fixture
def stage_of(tmp_path: Path) -> Callable[..., tuple[Cast, Recovery]]:
    """(parts, how many actors of a role) → its cast over actors, the same for the next cast of a test: starting one takes seconds."""
    (tmp_path / "proof").write_text("seen")
    process: dict[str, Any] = {"options": {"num_cpus": 0}, "threads": 1, "shared": Folder.at(tmp_path), "proof": "proof"}
    started: dict[str, OnRay] = {}

    def stage(parts: dict[str, Any], *, groups: dict[str, str] | None = None, **replicas: int) -> tuple[Cast, Recovery]:
        """groups: the sharding of roles that have two ranks; they are new ones each time."""

        def spawn(name: str, label: str) -> OnRay | RankGroup:
            if groups and name in groups:
                options = {key: value for key, value in process.items() if key != "options"}
                return RankGroup(name, parts[name], sharding=groups[name], options=[{"num_cpus": 0}] * 2, timeout=60.0, **options)
            started.setdefault(label, OnRay(label, (object, {}), **process))._part = parts[name]
            return started[label]

        labels = {name: [f"{name}/{i}" for i in range(replicas.get(name, 1))] for name in parts}
        recovery = Recovery(RecoveryLimits(), Audience([]), missing=lambda: "")
        proxies = recovery.seat(
            {label: (parts[name][0], partial(spawn, name, label)) for name, mine in labels.items() for label in mine}
        )
        ranks = {name: 2 if groups and name in groups else 1 for name in labels}
        made = {name: Replicas([proxies[label] for label in mine], ranks=ranks[name]) for name, mine in labels.items()}
        return Cast(**made), recovery

    return stage
