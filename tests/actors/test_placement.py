"""On pretended GPUs: two of a GeForce-RTX-3090, two of an A10G."""

import os
import signal
import threading
import time
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from disback_ray.actors.placement import Placement, Whereabouts, place, where
from disback_ray.config import RoleResources
from disback_ray.errors import PlacementError


@pytest.fixture(autouse=True)
def whole_cluster(attached: str) -> None:
    """What a test before held is free again."""
    wait_until_free()


def wait_until_free() -> None:
    end = time.monotonic() + 10
    total = {key: ray.cluster_resources()[key] for key in ("CPU", "GPU")}
    while {key: ray.available_resources().get(key, 0) for key in total} != total:
        assert time.monotonic() < end, f"still held: {ray.available_resources()} of {total}"
        time.sleep(0.02)


def cast(**given: dict[str, Any]) -> dict[str, RoleResources]:
    return {name: RoleResources(**asked) for name, asked in given.items()}


def probe(placement: Placement, *roles: tuple[str, int]) -> dict[tuple[str, int], tuple[Whereabouts, str | None]]:
    """An actor in each of the roles' places: where it is, and the GPUs that CUDA would see there."""

    class Probe:  # in here, it travels by value: the workers can't import this file
        def look(self) -> tuple[Whereabouts, str | None]:
            return where(), os.environ.get("CUDA_VISIBLE_DEVICES")

    actors = {role: ray.remote(Probe).options(**placement.options(*role)).remote() for role in roles}
    return dict(zip(actors, ray.get([actor.look.remote() for actor in actors.values()], timeout=60), strict=True))


def accelerator_of(node_id: str) -> str | None:
    return next(node["Labels"].get("ray.io/accelerator-type") for node in ray.nodes() if node["NodeID"] == node_id)


def test_parts_that_do_not_fill_a_device_find_the_machine_that_has_one_for_each() -> None:
    placement = place(cast(**{role: {"gpus": 0.6} for role in ("teacher", "fake_score", "generator")}), timeout=10)
    seen = probe(placement, ("teacher", 0), ("fake_score", 0), ("generator", 0))
    assert len({(place.node_id, *place.devices) for place, _ in seen.values()}) == 3
    placement.remove()


def test_each_role_is_on_the_gpu_it_was_promised_and_alone_unless_it_said_with() -> None:
    wanted = {"teacher": "A10G", "path_node": "A10G", "fake_score": "GeForce-RTX-3090", "generator": "GeForce-RTX-3090"}
    roles = cast(**{role: {"accelerator": name} for role, name in wanted.items()}, evaluator={"share": "generator"})
    placement = place(roles, timeout=10)
    seen = {role: place for (role, _), (place, _) in probe(placement, *((role, 0) for role in roles)).items()}
    assert {role: accelerator_of(seen[role].node_id) for role in wanted} == wanted
    devices = {role: (place.node_id, *place.devices) for role, place in seen.items()}
    assert all(len(device) == 2 for device in devices.values()), "each sees exactly one device"
    assert len({devices[role] for role in wanted}) == 4, "two roles are on one device"
    assert devices["evaluator"] == devices["generator"]
    assert len({place.pid for place in seen.values()}) == 5
    assert {role: placement.options(role)["num_gpus"] for role in roles} == dict.fromkeys(wanted, 1) | {
        "generator": 0.5,
        "evaluator": 0.5,
    }
    machine = seen["teacher"].node
    assert placement.describe() == [
        f"on {machine} (A10G): teacher: 1 GPU, path_node: 1 GPU",
        f"on {machine} (GeForce-RTX-3090): fake_score: 1 GPU, generator: 0.5 GPU, evaluator: 0.5 GPU",
    ]
    placement.remove()
    wait_until_free()


def test_replicas_are_on_distinct_devices_and_their_sharers_beside_them() -> None:
    roles = cast(teacher={"replicas": 2}, path_node={"share": "teacher", "replicas": 2})
    placement = place(roles, timeout=10)
    seen = probe(placement, ("teacher", 0), ("teacher", 1), ("path_node", 0), ("path_node", 1))
    devices = {role: (place.node_id, place.devices) for role, (place, _) in seen.items()}
    assert devices["teacher", 0] != devices["teacher", 1]
    assert [devices["path_node", i] for i in (0, 1)] == [devices["teacher", i] for i in (0, 1)]


def test_too_few_gpus_are_shared_out_in_equal_parts() -> None:
    roles = cast(teacher={"accelerator": "A10G"}, fake_score={"accelerator": "A10G"}, generator={"accelerator": "A10G"})
    placement = place(roles, timeout=10)
    assert {placement.options(role)["num_gpus"] for role in roles} == {0.5}
    places = [place for place, _ in probe(placement, *((role, 0) for role in roles)).values()]
    assert {accelerator_of(place.node_id) for place in places} == {"A10G"}
    assert sorted([place.devices for place in places].count((device,)) for device in ("0", "1")) == [1, 2]


def test_a_role_without_a_gpu_sees_none_of_the_machine_s() -> None:
    placement = place(cast(evaluator={"gpus": 0, "accelerator": "A10G"}), timeout=10)
    ((place_, visible),) = probe(placement, ("evaluator", 0)).values()
    assert accelerator_of(place_.node_id) == "A10G"
    assert (place_.devices, visible) == ((), "")


def test_an_impossible_ask_is_named_and_leaves_nothing_reserved() -> None:
    roles = cast(teacher={}, generator={"gpus": 1, "accelerator": "H100"}, fake_score={})
    began = time.monotonic()
    with pytest.raises(PlacementError) as refused:
        place(roles, timeout=1)
    assert time.monotonic() - began < 3
    line, address = str(refused.value), ray.util.get_node_ip_address()
    assert line.startswith("can't place generator (1 GPU H100, 0.25 CPU): asked teacher 1 GPU, 0.25 CPU; ")
    assert f"{address} 0/0 GPU, 4/4 CPU" in line
    assert f"{address} 2/2 GPU GeForce-RTX-3090, 4/4 CPU" in line
    assert f"{address} 2/2 GPU A10G, 4/4 CPU" in line
    assert line.endswith("ask for less under roles: in the cluster file")
    assert "\n" not in line
    wait_until_free()
    place(cast(teacher={"gpus": 1, "replicas": 4}), timeout=5)


def test_four_gpus_on_two_machines_are_not_three_on_one() -> None:
    with pytest.raises(PlacementError, match=r"^can't place generator \(3 GPU, "):
        place(cast(teacher={"gpus": 1}, generator={"gpus": 3}), timeout=0.5)


def test_devices_that_another_job_holds_are_told_from_missing_ones() -> None:
    other = placement_group([{"GPU": 2}], bundle_label_selector=[{"ray.io/accelerator-type": "A10G"}])
    assert other.wait(10)
    with pytest.raises(PlacementError, match=r"^can't place teacher \(1 GPU A10G, .* 0/2 GPU A10G, 4/4 CPU"):
        place(cast(teacher={"accelerator": "A10G"}), timeout=1)
    remove_placement_group(other)


def test_devices_that_come_free_in_time_are_taken() -> None:
    other = placement_group([{"GPU": 2}], bundle_label_selector=[{"ray.io/accelerator-type": "A10G"}])
    assert other.wait(10)
    later = threading.Timer(0.7, remove_placement_group, [other])
    later.start()
    assert "(A10G): teacher: 1 GPU" in "\n".join(place(cast(teacher={"accelerator": "A10G"}), timeout=20).describe())
    later.join()


def test_ctrl_c_while_waiting_leaves_nothing_reserved() -> None:
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        place(cast(teacher={"gpus": 3}), timeout=30)
    assert time.monotonic() - began < 3
    states = [entry["state"] for entry in ray.util.placement_group_table().values()]
    assert set(states) <= {"REMOVED"}


def test_two_casts_do_not_collide_and_removal_frees_the_devices() -> None:
    halves = [place(cast(teacher={"gpus": 2}), timeout=10) for _ in range(2)]
    halves[0].remove()
    place(cast(teacher={"gpus": 2}), timeout=10)
