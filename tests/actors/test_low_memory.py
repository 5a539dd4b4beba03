"""What saves memory changes nothing that it shouldn't: the three starts of s_φ, LoRA, the graph made again, the node read ahead."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from disback_ray.actors.frozen_score import PathNode
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.path import switches
from disback_ray.algorithms.records import Field
from disback_ray.config.precision import Precision
from disback_ray.errors import CheckpointError, VersionError
from disback_ray.networks.checkpointing import _Checkpointed, _Selective
from disback_ray.networks.imported import EDMSpec
from disback_ray.networks.lora import MARK, LoRA
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.networks.unet import UNetBlock
from disback_ray.storage import Folder, digest
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.path_nodes import load_node, save_node
from disback_ray.teachers.prefetch import Prefetch
from disback_ray.teachers.saved import load_denoiser, load_spec, save_denoiser
from disback_ray.tiny import EDM

RANK_2 = LoRA(rank=2)
PLAN = switches(3, (2, 1), total=8)


def base(role: Any) -> str:
    """Digest of the weights that are not an adapter's, by the names that they had before."""
    weights = role.denoiser.state_dict().items()
    return digest({name.replace(".base_layer.", "."): tensor for name, tensor in weights if MARK not in name})


def ends(troupe: Any) -> tuple[str, str]:
    """Both players' weights after all of both algorithms."""
    cast = troupe.cast()
    troupe.record(cast)
    cast.fake_score.begin(backtracking.STAGE, node=3)
    troupe.backtrack(cast, PLAN)
    return cast.fake_score.digest(), cast.generator.digest()


# -- where s_φ starts --


def test_the_three_starts(troupe: Any) -> None:
    """θ'_N, θ, or weights that neither is: of the same network, keyed by the run's seed."""
    cast = troupe.cast()
    troupe.record(cast)
    found = {}
    for start, node in (("path_end", 3), ("teacher", 0), ("random", None), ("again", None)):
        cast.fake_score.begin(backtracking.STAGE, node=node)
        found[start] = cast.fake_score.digest()
    assert found["path_end"] == digest(load_node(troupe.path, 3))
    assert found["teacher"] == digest(load_denoiser(troupe.teacher).state_dict())
    assert found["random"] == found["again"]
    assert len(set(found.values())) == 3
    untrained = load_spec(troupe.teacher).build(seed=0).state_dict()
    assert found["random"] != digest(untrained), "nor what the teacher's training began with"
    sample = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[0])
    cast.fake_score.score(sample)
    random = cast.fake_score.taken[sample.batch].score
    teacher = cast.teacher.score(sample).score
    assert (random - teacher).norm() > 0.1 * teacher.norm()


def test_another_seed_is_another_random_start(troupe: Any) -> None:
    digests = set()
    for seed in (4, 5):
        fake = troupe.cast().fake_score
        fake.settings = replace(fake.settings, seed=seed)
        fake.begin(backtracking.STAGE, node=None)
        digests.add(fake.digest())
    assert len(digests) == 2


# -- LoRA --


def test_with_lora_only_adapters_move_and_are_kept(troupe: Any) -> None:
    troupe = troupe.but(lora=RANK_2)
    cast = troupe.cast()
    teacher = digest(load_denoiser(troupe.teacher).state_dict())
    troupe.record(cast)
    assert base(cast.fake_score) == base(cast.path_node) == teacher
    nodes = [load_node(troupe.path, node, adapter=PathCopies(troupe.teacher, troupe.path, RANK_2).adapter) for node in (1, 2, 3)]
    assert all(MARK in name for node in nodes for name in node)
    assert len({digest(node) for node in nodes}) == 3
    assert (troupe.path.size("node-1.safetensors") or 0) < (troupe.teacher.size("model.safetensors") or 0)

    sample = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[0])
    scores = [cast.teacher.score(sample).score]
    for node in (1, 2, 3):
        cast.path_node.load(node)
        scores.append(cast.path_node.score(sample).score)
    assert all(not torch.allclose(one, other, rtol=1e-3) for i, one in enumerate(scores) for other in scores[:i])

    cast.fake_score.begin(backtracking.STAGE, node=3)
    assert cast.fake_score.digest() == digest(nodes[2])
    cast.fake_score.score(sample)
    assert torch.equal(cast.fake_score.taken[sample.batch].score, scores[3]), "φ ← θ'_N"
    cast.fake_score.begin(backtracking.STAGE, node=0)
    cast.fake_score.score(sample)
    assert torch.equal(cast.fake_score.taken[sample.batch].score, scores[0]), "φ ← θ, a new adapter"
    troupe.backtrack(cast, PLAN)
    assert base(cast.fake_score) == base(cast.path_node) == teacher


def test_an_adapter_learns_the_generator_s_samples(troupe: Any) -> None:
    troupe = troupe.but(lora=LoRA(rank=4), marks=(10, 80), batch=64, optimiser=OptimiserSettings(lr=5e-3))
    cast = troupe.cast()
    cast.fake_score.begin(degradation.STAGE, node=0)
    losses = []
    for step in degradation.degradation_recording(cast, troupe.marks, batches_of=troupe.batches):
        losses += [result["fake_loss"] for result in step.results if "fake_loss" in result]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora": LoRA(rank=3)}, "its rank is 2, not 3"),
        ({"lora": LoRA(rank=2, targets=("enter",))}, "its targets is auto, not "),
        ({"lora": None}, "it is LoRA's adapter, not a whole network"),
    ],
)
def test_a_node_of_another_rank_or_kind_is_refused(troupe: Any, change: dict[str, Any], said: str) -> None:
    lora = troupe.but(lora=RANK_2)
    lora.record(lora.cast())
    for load in (troupe.but(**change).cast().path_node.load, lambda node: other_fake(troupe, change, node)):
        with pytest.raises(CheckpointError, match=f"node-2.json: recorded with other settings: {said}") as refused:
            load(2)
        assert "\n" not in str(refused.value)


def other_fake(troupe: Any, change: dict[str, Any], node: int) -> None:
    troupe.but(**change).cast().fake_score.begin(backtracking.STAGE, node=node)


def test_a_node_on_another_base_and_a_whole_one_are_refused(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    lora = troupe.but(lora=RANK_2)
    lora.record(lora.cast())
    with pytest.raises(CheckpointError, match=r"its base is [0-9a-f]{12}, not [0-9a-f]{12}"):
        by_class(lora).cast().path_node.load(1)
    save_node(troupe.path, 4, load_denoiser(troupe.teacher).state_dict(), step=4)
    with pytest.raises(CheckpointError, match="it is a whole network, not LoRA's adapter"):
        lora.cast().path_node.load(4)


def test_with_lora_going_on_from_its_file_is_going_straight_on(troupe: Any) -> None:
    troupe = troupe.but(lora=RANK_2)
    straight = troupe.cast()
    straight.fake_score.begin(backtracking.STAGE, node=0)
    troupe.backtrack(straight, switches(0, 1, total=8))
    left = troupe.cast()
    left.fake_score.begin(backtracking.STAGE, node=0)
    troupe.backtrack(left, switches(0, 1, total=8), upto=3)
    proofs = [role.write(role.snapshot(), troupe.path / "checkpoint")["sha256"] for role in (left.fake_score, left.generator)]
    assert all(MARK in name for name in (troupe.path / "checkpoint").read_tensors("fake_score.safetensors") if "weights." in name)
    again = troupe.cast()
    again.fake_score.load(troupe.path / "checkpoint", stage=backtracking.STAGE, sha256=proofs[0])
    again.generator.load(troupe.path / "checkpoint", sha256=proofs[1])
    troupe.backtrack(again, switches(0, 1, total=8), start=3)
    assert again.fake_score.digest() == straight.fake_score.digest()
    assert again.generator.digest() == straight.generator.digest()


# -- what must not change a bit --


def test_a_graph_that_is_made_again_is_the_same(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    troupe = by_class(troupe).but(micro_batches=3)
    kept = ends(troupe)
    assert ends(troupe.but(graph="recompute", path=troupe.path / "again")) == kept


def test_between_propose_and_descend_no_graph_is_held(troupe: Any) -> None:
    generator = troupe.but(graph="recompute").cast().generator
    (batch,) = troupe.batches(backtracking.STAGE, 0)
    sample = generator.propose(batch)
    assert not sample.x0.requires_grad
    assert generator.graphs == {batch: None}
    with pytest.raises(VersionError, match="doesn't hold"):
        generator.descend(Field(replace(batch, first=12), sample.x0, 1.0))
    generator.learner.version = 1
    with pytest.raises(VersionError, match="holds version 1 of its weights, asked for 0"):
        generator.descend(Field(batch, sample.x0, 1.0))


def test_checkpointed_gradients_are_the_same_in_all_roles(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    troupe = by_class(troupe)
    plain, lean = ends(troupe), troupe.but(checkpointing=True, path=troupe.path / "again")
    cast = lean.cast()
    for network in (cast.fake_score.denoiser, cast.generator.network):
        assert any(isinstance(module, _Checkpointed) for module in network.modules())
    assert ends(lean) == plain


@pytest.mark.parametrize(("how", "kind"), [(True, _Checkpointed), ("selective", _Selective)])
def test_both_trained_roles_checkpoint_as_they_are_told(troupe: Any, tmp_path: Path, how: Any, kind: type) -> None:
    spec = DenoiserSpec(EDMSpec("EDMPrecond", EDM["ddpmpp"]), (3, 8, 8), 0, 0.5)
    teacher = Folder.at(tmp_path / "u-net")
    save_denoiser(teacher, spec, spec.build().state_dict())
    student = GeneratorSpec(spec, spec.shape, 0, 2.5)
    cast = troupe.but(teacher=teacher, start=teacher, generator=student, checkpointing=how).cast()
    for network in (cast.fake_score.denoiser, cast.generator.network):
        assert {type(module).__mro__[1] for module in network.modules() if isinstance(module, UNetBlock)} == {kind}


def test_the_average_can_lie_in_host_memory(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    troupe = by_class(troupe)
    cast = troupe.cast()
    settings = replace(cast.generator.settings, ema_on="host")
    other = type(cast.generator)(settings, start=troupe.start)
    assert digest(other.average.weights) == digest(cast.generator.average.weights)
    assert {tensor.device.type for tensor in other.average.weights.values()} == {"cpu"}


# -- precision --


@pytest.mark.parametrize("trained", ["bf16", "bf16_stochastic"])
def test_in_bfloat16_both_algorithms_end_near_where_they_do_in_float32(troupe: Any, trained: Any, by_class: Any) -> None:
    troupe = by_class(troupe).but(optimiser=OptimiserSettings(lr=1e-3))
    precision = Precision(teacher="bf16", path_node="bf16", fake_score=trained, generator=trained)
    finals = []
    for it in (troupe, troupe.but(precision=precision, path=troupe.path / "bf16")):
        cast = it.cast()
        start = weights(cast.generator.network)
        it.record(cast)
        cast.fake_score.begin(backtracking.STAGE, node=3)
        it.backtrack(cast, PLAN)
        finals.append(weights(cast.generator.network) - start)
    full, half = finals
    assert torch.cosine_similarity(full, half, dim=0) > 0.8
    assert half.norm() / full.norm() == pytest.approx(1, abs=0.2)
    again = ends(troupe.but(precision=precision, path=troupe.path / "again"))
    assert again == (cast.fake_score.digest(), cast.generator.digest()), "rounding is keyed"
    average = cast.generator.average.weights.values()
    assert {tensor.dtype for tensor in average if tensor.is_floating_point()} == {torch.float32}


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.float().flatten() for tensor in module.state_dict().values()])


# -- the next node, read ahead --


@pytest.fixture
def recorded(troupe: Any) -> Any:
    troupe.record(troupe.cast())
    return troupe


def test_a_node_that_was_read_ahead_is_only_copied(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    role = recorded.cast().path_node
    role.load(2)
    role.prefetch(1)
    read_ahead = role.next.ahead.weights.result()[1]
    reads = []
    monkeypatch.setattr(Folder, "read_tensors", lambda *args, **named: reads.append(args))
    memory = [parameter.data_ptr() for parameter in role.denoiser.parameters()]
    role.load(1)
    assert reads == []
    assert role.node == 1
    assert role.digest() == digest(read_ahead)
    assert [parameter.data_ptr() for parameter in role.denoiser.parameters()] == memory, "into the memory of the node before"
    assert role.next.ahead is None, "and none is kept beside it"


def test_while_a_node_is_read_the_one_before_goes_on_scoring(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = recorded.cast()
    role, sample = cast.path_node, cast.generator.propose(recorded.batches(degradation.STAGE, 0)[0])
    role.load(2)
    expected = role.score(sample).score
    gate, read = threading.Event(), PathCopies.read

    def slowly(self: PathCopies, node: int) -> Any:
        assert gate.wait(30)
        return read(self, node)

    monkeypatch.setattr(PathCopies, "read", slowly)
    role.prefetch(1)
    found = role.score(sample)
    gate.set()
    assert torch.equal(found.score, expected)
    assert found.node == 2
    role.load(1)
    assert not torch.equal(role.score(sample).score, expected)


def test_what_was_read_ahead_and_is_no_longer_on_disk_is_not_used(recorded: Any) -> None:
    role = recorded.cast().path_node
    role.prefetch(1)
    role.next.ahead.weights.result()
    newer = {name: tensor + 1 for name, tensor in load_node(recorded.path, 1).items()}
    save_node(recorded.path, 1, newer, step=2)
    role.load(1)
    assert role.digest() == digest(newer)


def test_another_node_than_the_one_read_ahead_is_read_itself(recorded: Any) -> None:
    role = recorded.cast().path_node
    role.prefetch(1)
    role.load(3)
    assert role.digest() == digest(load_node(recorded.path, 3))
    assert role.next.ahead.node == 1, "which is still to come"
    role.prefetch(2)
    assert role.next.ahead.node == 2, "one at a time"


def test_reading_ahead_says_nothing_and_loading_says_what_is_wrong(recorded: Any) -> None:
    role = recorded.cast().path_node
    assert role.prefetch(7) == {}
    with pytest.raises(CheckpointError, match=r"can't read .*node-7.json"):
        role.load(7)
    with pytest.raises(VersionError):
        role.score(recorded.cast().generator.propose(recorded.batches(degradation.STAGE, 0)[0]))
    role.prefetch(7)
    role.next.ahead.weights.exception()
    save_node(recorded.path, 7, load_node(recorded.path, 1), step=9)
    role.load(7)
    assert role.digest() == digest(load_node(recorded.path, 1)), "it came in the meantime"


def test_with_lora_an_adapter_is_read_ahead(troupe: Any) -> None:
    troupe = troupe.but(lora=RANK_2)
    troupe.record(troupe.cast())
    copies = PathCopies(troupe.teacher, troupe.path, RANK_2)
    role = PathNode(copies, noise=troupe.score_noise)
    role.prefetch(2)
    assert all(MARK in name for name in role.next.ahead.weights.result()[1])
    role.load(2)
    assert isinstance(role.next, Prefetch)
    assert role.node == 2


def test_a_student_of_another_kind_is_no_denoiser(troupe: Any) -> None:
    assert isinstance(troupe.generator, GeneratorSpec)
    with pytest.raises(Exception, match="only denoisers can"):
        troupe.but(precision=Precision(generator="bf16")).cast()
