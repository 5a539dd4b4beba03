"""Bundles worked out by hand, no Ray."""

import pytest

from disback_ray.actors.bundles import Node, bundles_for, check, check_ranks, first_unmet, refusal
from disback_ray.config import RoleResources
from disback_ray.errors import ConfigError, PlacementError


def node(gpus: float, *, cpus: float = 8, accelerator: str | None = None, free: float | None = None) -> Node:
    return Node("10.0.0.1", accelerator, gpus, cpus, gpus if free is None else free, cpus)


def cast(**given: dict[str, object]) -> dict[str, RoleResources]:
    return {name: RoleResources(**asked) for name, asked in given.items()}


FOUR = cast(teacher={}, path_node={}, fake_score={}, generator={})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(0), node(0)], 0),
        ([node(2), node(2)], 1),
        ([node(8)], 1),
        ([node(3)], 0.5),
        ([node(2)], 0.5),
        ([node(1), node(0)], 0.25),
        ([node(1, accelerator="A10G")], 0.25),
    ],
)
def test_automatic_is_one_gpu_each_or_an_equal_part_or_none(nodes: list[Node], expected: float) -> None:
    assert {bundle.gpus for bundle in bundles_for(FOUR, nodes)} == {expected}


def test_an_equal_part_is_rounded_down_to_what_ray_counts() -> None:
    three = cast(teacher={}, fake_score={}, generator={})
    assert {bundle.gpus for bundle in bundles_for(three, [node(1)])} == {0.3333}


def test_automatic_leaves_what_others_ask_for_by_number() -> None:
    roles = cast(teacher={"gpus": 1}, fake_score={}, generator={}, evaluator={"gpus": 0})
    assert [bundle.gpus for bundle in bundles_for(roles, [node(2)])] == [1, 0.5, 0.5, 0]


def test_automatic_counts_only_the_devices_that_a_role_accepts() -> None:
    roles = cast(teacher={"accelerator": "A10G"}, generator={"accelerator": "A10G"})
    nodes = [node(1, accelerator="A10G"), node(8, accelerator="GeForce-RTX-3090")]
    assert {bundle.gpus for bundle in bundles_for(roles, nodes)} == {0.5}


def test_automatic_fits_node_by_node_not_in_sum() -> None:
    roles = cast(teacher={"gpus": 2}, generator={"gpus": 2}, fake_score={})
    assert bundles_for(roles, [node(3), node(2)])[2].gpus == 1
    assert first_unmet(bundles_for(cast(teacher={"gpus": 3}), [node(2), node(2)]), [node(2), node(2)], free=False)


def test_processors_count_as_well() -> None:
    assert first_unmet(bundles_for(FOUR, [node(4, cpus=0.5)]), [node(4, cpus=0.5)], free=False) is not None


def test_a_shared_device_is_parted_equally_and_the_processors_add_up() -> None:
    roles = cast(generator={"cpus": 1}, evaluator={"share": "generator", "cpus": 0.5}, teacher={"share": "generator"})
    (bundle,) = bundles_for(roles, [node(1)])
    assert bundle.members == (("generator", 0), ("evaluator", 0), ("teacher", 0))
    assert (bundle.gpus, bundle.portion, bundle.cpus) == (1, 0.3333, 1.75)


def test_replicas_have_a_bundle_each_and_sharers_go_round() -> None:
    roles = cast(teacher={"replicas": 2}, path_node={"share": "teacher", "replicas": 3})
    first, second = bundles_for(roles, [node(2)])
    assert first.members == (("teacher", 0), ("path_node", 0), ("path_node", 2))
    assert second.members == (("teacher", 1), ("path_node", 1))
    assert (first.portion, second.portion) == (0.3333, 0.5)


def test_the_choosy_go_first() -> None:
    roles = cast(teacher={"gpus": 1}, generator={"gpus": 1, "accelerator": "A10G"})
    nodes = [node(1, accelerator="A10G"), node(1)]
    assert first_unmet(bundles_for(roles, nodes), nodes, free=False) is None


def test_parts_of_a_gpu_do_not_add_up_across_devices() -> None:
    roles = cast(teacher={"gpus": 0.6}, generator={"gpus": 0.6}, fake_score={"gpus": 0.6})
    unmet = first_unmet(bundles_for(roles, [node(2)]), [node(2)], free=False)
    assert str(unmet) == "fake_score"


def test_the_refusal_tells_what_is_held_from_what_is_not_there() -> None:
    roles = cast(teacher={"gpus": 1}, generator={"gpus": 1, "accelerator": "A10G"}, evaluator={"share": "generator"})
    nodes = [node(1, accelerator="A10G", free=0), node(1)]
    assert refusal(roles, bundles_for(roles, nodes), nodes) == (
        "can't place generator with evaluator (1 GPU A10G, 0.5 CPU): "
        "asked teacher 1 GPU, 0.25 CPU; generator 1 GPU A10G, 0.25 CPU; evaluator 0.25 CPU with generator; "
        "available: 10.0.0.1 0/1 GPU A10G, 8/8 CPU; 10.0.0.1 1/1 GPU, 8/8 CPU — "
        "free devices, or ask for less under roles: in the cluster file"
    )


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (cast(teacher={"share": "teacher"}), "roles.teacher.with: teacher"),
        (cast(teacher={"share": "evaluator"}, generator={}), "with: evaluator: name another role of the cast: generator"),
        (cast(teacher={"share": "generator"}, generator={"share": "teacher"}), "that one is itself with teacher"),
        (cast(teacher={}, generator={"share": "teacher"}, evaluator={"share": "generator"}), "name teacher in both"),
        (cast(teacher={}, generator={"share": "teacher", "gpus": 0.5}), "leave out gpus"),
        (cast(teacher={}, generator={"share": "teacher", "accelerator": "A10G"}), "leave out gpus and accelerator"),
        (cast(teacher={"gpus": 2}, generator={"share": "teacher"}), "only one can be shared"),
        (cast(generator={"ranks": 2, "gpus": 0.5}), "roles.generator.ranks: 2: each needs a device of its own"),
        (
            cast(teacher={}, generator={"ranks": 2, "share": "teacher"}),
            "roles.generator.ranks: 2: each needs a device of its own",
        ),
        (cast(teacher={"gpus": 1.5}), "roles.teacher.gpus: 1.5: whole GPUs"),
    ],
)
def test_contradictions_are_refused_by_key(roles: dict[str, RoleResources], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(roles)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


RANKED = cast(teacher={}, path_node={"share": "teacher"}, fake_score={"ranks": 2}, generator={"ranks": 2}, evaluator={"gpus": 0})


def test_ranks_have_a_device_each() -> None:
    nodes = [node(4), node(1)]
    bundles = bundles_for(RANKED, nodes)
    check_ranks(RANKED, bundles, nodes)
    assert [bundle.members[0] for bundle in bundles if bundle.members[0][0] == "generator"] == [
        ("generator", 0),
        ("generator", 1),
    ]
    assert [bundle.gpus for bundle in bundles] == [1, 1, 1, 1, 1, 0]
    alone = [node(0, cpus=4)]
    check_ranks(RANKED, bundles_for(RANKED, alone), alone)


@pytest.mark.parametrize(
    ("nodes", "roles", "said"),
    [
        ([node(2)], RANKED, "roles.fake_score.ranks: 2: more ranks than devices: 2 GPUs for all roles"),
        ([node(0, cpus=2)], cast(generator={"ranks": 3}), "roles.generator.ranks: 3: more ranks than devices: 2 processors"),
        (
            [node(4)],
            cast(generator={"ranks": 2}, teacher={"share": "generator"}),
            "roles.teacher.with: generator: that one has ranks, and each needs a device of its own",
        ),
        ([node(4)], cast(generator={"ranks": 5, "gpus": 1}), "roles.generator.ranks: 5: more ranks than devices: 4 GPUs"),
    ],
)
def test_more_ranks_than_devices_are_refused(nodes: list[Node], roles: dict[str, RoleResources], said: str) -> None:
    with pytest.raises(PlacementError) as refused:
        check_ranks(roles, bundles_for(roles, nodes), nodes)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
