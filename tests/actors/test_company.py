"""A recipe's roles: each is built from its own settings and starts from the right weights; and a whole run walks the path."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import disback_ray
from disback_ray.actors.company import Company, in_process
from disback_ray.actors.fake_score import FakeScore
from disback_ray.actors.frozen_score import FrozenScore
from disback_ray.actors.parts import Places, denoiser_spec, parts
from disback_ray.algorithms.noise import Batch, KarrasNoise
from disback_ray.config import ClusterConfig, Recipe, RoleResources, load_recipe
from disback_ray.data.sources import RingData
from disback_ray.storage import Folder, digest
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.node_storage import NodeStorage
from disback_ray.teachers.path_nodes import load_node
from disback_ray.teachers.saved import load_denoiser, save_denoiser

SMALL = ["teacher.network.width=16", "teacher.network.blocks=1", "batch=4", "evaluation.samples=16"]
ROLES = ClusterConfig().roles.by_name()
Stage = Callable[[Recipe], Places]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """The recipe's folders, with an untrained teacher in its place."""

    def prepare(recipe: Recipe) -> Places:
        places = Places(*(Folder.at(tmp_path / name) for name in ("teacher", "run", "cache")))
        spec = denoiser_spec(recipe)
        weights = {name: tensor + 0.1 for name, tensor in spec.build(seed=7).state_dict().items()}
        save_denoiser(places.teacher, spec, weights)
        return places

    return prepare


def built(recipe: Recipe, places: Places, role: str, *, seed: int = 0) -> Any:
    kind, arguments = parts(recipe, places, seed=seed)[role]
    return kind(**arguments)


def test_each_role_has_its_own_settings(stage: Stage) -> None:
    recipe = load_recipe("ring8", overrides=[
        *SMALL, "recording.optimiser.lr=0.1", "backtracking.fake_score.lr=0.2", "backtracking.generator.lr=0.3",
        "backtracking.fake_updates=3", "backtracking.weighting=score_difference", "student.ema=0.5", "student.ema_ramp=7",
        "backtracking.noise={kind: karras, sigma_min: 0.4}", "fit_noise={kind: karras, sigma_min: 0.5}", "backtracking.steps=900",
        "recording.store=low_rank", "recording.store_rank=5", "backtracking.blend=6",
    ])  # fmt: skip
    places = stage(recipe)
    fake, generator = (built(recipe, places, role, seed=11) for role in ("fake_score", "generator"))
    recording, backtracking = (fake.settings.stages[name] for name in ("recording", "backtracking"))
    assert (recording.optimiser.lr, recording.batch, recording.steps, recording.updates) == (0.1, 4, recipe.recording.steps, 1)
    assert (backtracking.optimiser.lr, backtracking.batch, backtracking.steps, backtracking.updates) == (0.2, 4, 900, 3)
    assert (generator.settings.optimiser.lr, generator.settings.batch, generator.settings.steps) == (0.3, 4, 900)
    assert (generator.settings.ema, generator.settings.ema_ramp, generator.settings.seed) == (0.5, 7, 11)
    assert (fake.settings.weighting, fake.settings.sigma_data) == ("score_difference", recipe.teacher.sigma_data)
    assert fake.settings.fit_noise == KarrasNoise(sigma_min=0.5)
    laws = [fake.settings.score_noise, *(built(recipe, places, role).noise for role in ("teacher", "path_node"))]
    assert fake.copies.storage == NodeStorage("low_rank", 5)
    one = load_recipe("ring8", overrides=[*SMALL, "recording.at=[9,50]", "backtracking.blend=6"])
    assert [built(each, places, "path_node").left is not None for each in (recipe, one)] == [True, False]
    assert laws == [KarrasNoise(sigma_min=0.4)] * 3, "both scores of Eq. (8) are taken at one σ"


@pytest.mark.parametrize("exact", [True, False])
def test_only_the_last_target_may_be_the_exact_score(stage: Stage, exact: bool) -> None:
    recipe = load_recipe("ring8", overrides=[*SMALL, f"teacher.exact_score={str(exact).lower()}"])
    places = stage(recipe)
    teacher, path_node, fake = (built(recipe, places, role) for role in ("teacher", "path_node", "fake_score"))
    network = digest(load_denoiser(places.teacher).state_dict())
    mixture = digest(ExactMixture(RingData().centres, std=RingData().std).state_dict())
    assert teacher.digest() == (mixture if exact else network)
    assert path_node.digest() == fake.digest() == network


def test_the_student_is_the_teacher_s_copy_or_random_by_the_seed(stage: Stage) -> None:
    digits = load_recipe("digits", overrides=["teacher.network.channels=8", "student.sigma_init=3.0", "student.network=teacher"])
    places = stage(digits)
    sample = built(digits, places, "generator").propose(Batch(0, "backtracking", 0, 0, 4))
    with torch.no_grad():
        z = 3.0 * sample.batch.normal("z", (1, 8, 8))
        assert torch.equal(sample.x0, load_denoiser(places.teacher)(z, torch.full((4,), 3.0), sample.condition))
    ring = load_recipe("ring8", overrides=SMALL)
    places = stage(ring)
    digests = [built(ring, places, "generator", seed=seed).digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("one_thread")
def test_in_one_process(stage: Stage) -> None:
    """All roles here, with the threads that each would have in a process of its own; what they give is there at once."""
    recipe = load_recipe("ring8", overrides=SMALL)
    company: Company = in_process(recipe, stage(recipe), ROLES | {"generator": RoleResources(cpus=2)}, seed=0)
    assert set(company.seats) == {"teacher", "path_node", "fake_score", "generator", "evaluator"}
    assert {seat["pid"] for seat in company.seats.values()} == {os.getpid()}
    threads = []
    for role in (company.teacher, company.generator, company.cast.fake_score, company.cast.generator):
        given = role.digest()
        threads.append(torch.get_num_threads())
        assert company.wait(given) is given
        assert company.is_ready(given)
    assert threads == [1, 2, 1, 2]


@pytest.mark.usefixtures("one_thread")
def test_a_run_walks_from_node_n_back_to_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """θ' starts at θ and φ at θ'_N; the targets are θ'_(N-1) … θ'_1 and then θ, each with the weights of its file."""
    began: list[tuple[str, str]] = []
    wanted: list[tuple[int, str]] = []
    begin, score = FakeScore.begin, FrozenScore.score

    def noted_begin(self: FakeScore, stage: str, *, node: int) -> Any:
        given = begin(self, stage, node=node)
        began.append((stage, self.digest()))
        return given

    def noted_score(self: FrozenScore, sample: Any) -> Any:
        given = score(self, sample)
        wanted.append((given.node or 0, self.digest()))
        return given

    monkeypatch.setattr(FakeScore, "begin", noted_begin)
    monkeypatch.setattr(FrozenScore, "score", noted_score)
    settings = [*SMALL, "teacher.training.steps=20", "recording.steps=6", "recording.at=[1, 3, 6]", "backtracking.steps=5"]
    cluster = ClusterConfig(storage=str(tmp_path))
    run = disback_ray.run(
        "ring8",
        cluster=cluster,
        out=tmp_path / "run",
        overrides=[*settings, "backtracking.steps_per_node=[2, 1]"],
        in_process=True,
    )
    (saved,) = [name for name in (Folder.at(tmp_path) / "teachers").names() if name.startswith("ring-")]
    teacher = digest(load_denoiser(Folder.at(tmp_path) / "teachers" / saved).state_dict())
    nodes = [teacher, *(digest(load_node(run.folder / "path", node)) for node in (1, 2, 3))]
    assert len(set(nodes)) == 4
    assert began == [("recording", nodes[0]), ("backtracking", nodes[3])]
    assert wanted == [(node, nodes[node]) for node in (2, 2, 1, 0, 0)]
    assert run.summary["switches"] == [{"step": 0, "node": 2}, {"step": 2, "node": 1}, {"step": 3, "node": 0}]
