"""Real Ray, and sockets that are not Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from disback_ray.actors import session
from disback_ray.actors.session import attach
from disback_ray.errors import ClusterError


def refusal(address: str, **timeout: float) -> tuple[str, float]:
    """What attach() says, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(ClusterError) as refused, attach(address, **timeout):
        pass
    assert "\n" not in str(refused.value)
    assert not ray.is_initialized()
    return str(refused.value), time.monotonic() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


PRIVATE = """
import os, signal, time
import ray
from ray.util.state import get_actor
from ray.util.state.exception import RayStateApiException
from disback_ray.actors.placement import place, where
from disback_ray.actors import session
from disback_ray.actors.session import attach
from disback_ray.config import RoleResources

class Probe:
    def look(self):
        began = time.monotonic()
        try:
            get_actor("ab" * 16)  # Ray Train's end asks such a thing, and would wait for a dashboard
        except RayStateApiException:
            return where(), os.environ["RAY_AUTH_MODE"], time.monotonic() - began < 10

with attach("local") as session:
    role = place({"teacher": RoleResources()}, timeout=10)
    actor = ray.remote(Probe).options(**role.options("teacher")).remote()
    place_, mode, at_once = ray.get(actor.look.remote())
    try:
        print(session.owned, session.address, ray.cluster_resources()["CPU"] >= 4, place_.devices, mode, at_once, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        assert ray.get(actor.look.remote(), timeout=10)[0] == place_
        print("the actor still answers", flush=True)
assert not ray.is_initialized()
"""


def test_a_private_cluster_is_quiet_outlives_ctrl_c_and_leaves_nothing(tmp_path: Path, processes: Any) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    for name in ("RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS"):  # as a user has it: Ray makes a token, and looks for a dashboard
        del environment[name]
    command, pipe = [sys.executable, "-c", PRIVATE], subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe, start_new_session=True) as driver:
        try:
            assert driver.stdout is not None
            owned, address, cpus, devices, mode, at_once = driver.stdout.readline().split()
            assert (owned, cpus, devices, mode, at_once) == ("True", "True", "()", "token", "True")
            assert address.startswith("127.0.0.1:")
            started = processes.started_by(driver.pid)
            assert len(started) >= 3, "a head, a raylet and a worker at least"
            os.killpg(driver.pid, signal.SIGINT)  # what a terminal does
            said, complained = driver.communicate(timeout=30)
        finally:
            driver.kill()
    assert (said, complained, driver.returncode) == ("the actor still answers\n", "", 0)
    assert not processes.left_of(started)


@pytest.fixture
def started_by_hand(ray_folder: str, processes: Any) -> Iterator[int]:
    """The port of a Ray that `ray start` runs on this machine."""
    port = free_port()
    command = (
        f"start --head --block --port={port} --num-cpus=1 --num-gpus=0 --object-store-memory=100000000 --include-dashboard=false"
    )
    command += f" --node-ip-address=127.0.0.1 --dashboard-agent-listen-port={free_port()}"
    with open(f"{ray_folder}/ray-start.log", "w+") as log:
        head = subprocess.Popen([str(Path(sys.executable).with_name("ray")), *command.split()], stdout=log, stderr=log)
        try:
            end = time.monotonic() + 60
            while "--block" not in (text := Path(log.name).read_text()):  # printed once it runs
                assert head.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.1)
            yield port
        finally:
            started = processes.started_by(head.pid) | {head.pid}
            head.terminate()  # `ray stop` would stop those of others as well
            head.wait(30)
        assert not processes.left_of(started)


@pytest.mark.parametrize("before", [None, "", "the user's"])
def test_the_private_cluster_s_variables_are_the_driver_s_own_again(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in session.PRIVATE:
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    began: list[dict[str, str]] = []
    monkeypatch.setattr(ray, "init", lambda **_: began.append({name: os.environ[name] for name in session.PRIVATE}))
    session._start_private([])
    assert began == [{name: before or value for name, value in session.PRIVATE.items()}]
    assert [os.environ.get(name) for name in session.PRIVATE] == [before] * len(session.PRIVATE)


def test_auto_and_the_port_find_what_ray_start_runs(started_by_hand: int) -> None:
    for address in ("auto", f"127.0.0.1:{started_by_hand}", f"localhost:{started_by_hand}"):
        with attach(address) as session:
            assert not session.owned
            assert session.address.endswith(f":{started_by_hand}")
            assert ray.cluster_resources()["CPU"] == 1
        assert not ray.is_initialized()


def test_the_cluster_s_machines_get_this_package(attached: str) -> None:
    def shipped() -> list[str]:
        folders = [Path(entry) for entry in sys.path if "py_modules" in entry]
        return [str(file.relative_to(folder)) for folder in folders for file in folder.rglob("actors/session.py")]

    assert ray.get(ray.remote(shipped).remote(), timeout=60) == ["disback_ray/actors/session.py"]


def test_a_job_s_own_environment_is_left_to_it(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = {"runtime_env": {"py_modules": ["gcs://_ray_pkg_of_the_job.zip"]}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(carried))
    with attach(ray_cluster) as session:
        assert session.address == ray_cluster


def test_a_connection_in_use_is_used_and_stays(ray_cluster: str) -> None:
    ray.init(ray_cluster, log_to_driver=False, logging_level="ERROR")
    port = ray_cluster.rpartition(":")[2]
    for address in ("local", "auto", ray_cluster, f"localhost:{port}"):
        with attach(address) as session:
            assert (session.address, session.owned) == (ray_cluster, False)
        assert ray.is_initialized()
    with pytest.raises(ClusterError, match=f"this process already uses Ray at {ray_cluster}"), attach("10.0.0.1:6379"):
        pass
    assert ray.is_initialized()


def test_the_connection_ends_with_the_block_in_an_error_too(ray_cluster: str) -> None:
    with pytest.raises(RuntimeError, match="ours"), attach(ray_cluster):
        raise RuntimeError("ours")
    assert not ray.is_initialized()


def test_another_version_is_refused(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.utils.compute_version_info", lambda: ("1.0.0", "3.11.0"))
    said, _ = refusal(ray_cluster)
    assert said.startswith(f"address: {ray_cluster}: Ray refused: Version mismatch: ")
    assert "Ray: 1.0.0" in said


def test_a_closed_port_is_unreachable_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    said, seconds = refusal(address)
    assert said.startswith(f"address: {address}: unreachable (Connection refused)")
    assert seconds < 2


def test_a_name_that_is_not_known_is_unreachable() -> None:
    assert "unreachable" in refusal("no-such-machine.invalid:6379")[0]


def test_a_port_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        said, seconds = refusal(f"127.0.0.1:{server.getsockname()[1]}", connect_timeout=0.5)
    assert "unreachable (no answer in 0.5 s)" in said
    assert seconds < 3


def test_a_port_that_is_not_ray_s_is_said_to_be_another() -> None:
    class Silent(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said, seconds = refusal(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is not Ray's head" in said
    assert seconds < 3


def test_auto_with_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert refusal("auto")[0].startswith("address: auto: no Ray runs on this machine: start it")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")  # as one leaves that was killed
    assert "unreachable (Connection refused)" in refusal("auto")[0]


def test_auto_takes_ray_address_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    assert "RAY_ADDRESS is http://10.0.0.1:8265" in refusal("auto")[0]
    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{free_port()}")
    assert f"address: {address}: unreachable" in refusal("auto")[0]


def test_a_machine_outside_the_cluster_is_told_so(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.find_node_ids", set)
    said, seconds = refusal(ray_cluster)
    assert "this machine is not part of that cluster: run the driver on a machine of the cluster" in said
    assert seconds < 3


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "10.0.0.1:", ":6379", "10.0.0.1:99999", ""])
def test_what_is_no_address_is_refused_by_its_form(address: str) -> None:
    said, seconds = refusal(address)
    assert said.startswith(f"address: {address}: ")
    assert ("run the driver on a machine of the cluster" if "//" in address else "expected local, auto or host:port") in said
    assert seconds < 1
