"""How the driver gets to a Ray cluster: a private one, the one on this machine, one by address, or the one already in use."""

import importlib.util
import logging
import os
import socket
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import _raylet as typed_raylet
from ray._private import ray_constants, services, worker
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.utils import read_ray_address
from ray.util.client import ray as ray_client

from disback_ray.errors import ClusterError

raylet: Any = typed_raylet
PACKAGE = Path(__file__).resolve().parents[1]
LOCAL_CPUS = 4  # Ray counts these, it doesn't pin them: the cast and Ray Train have room on a laptop of two cores as well
ON_THE_CLUSTER = "run the driver on a machine of the cluster (`ray job submit` does)"
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4: preface, empty SETTINGS
HTTP2_SETTINGS = 4
CONNECT_TRIES = "RAY_gcs_server_port_wait_time_s"  # Ray reads this name; its default is 20, each with a warning on the terminal
API_SERVER = "RAY_API_SERVER_ADDRESS"
NOBODY = "http://127.0.0.1:9"  # the port of RFC 863, "discard": whoever asks there hears at once that nobody answers
PRIVATE = {
    API_SERVER: NOBODY,
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
}
"""What Ray's processes of a private cluster read. Whatever of Ray's asks for the dashboard, as Ray Train's end does, would wait for
twelve seconds. The others are what Ray notes of each call, for lists and metrics that nobody sees there: docs/scaling.md, "Where a
call's millisecond goes"."""


@dataclass(frozen=True)
class Session:
    """address: host:port of the cluster; owned: it is private to this process, and ends with it."""

    address: str
    owned: bool


@contextmanager
def attach(address: str, *, connect_timeout: float = 10.0, modules: Sequence[str] = ()) -> Iterator[Session]:
    """Connects to `local` (a private cluster), `auto` (the one that `ray start` runs here) or `host:port`, until the block ends.

    A connection that this process already has is used instead, and stays; it has to know the modules already.
    connect_timeout: seconds for the address to answer. modules: the user's own, which travel to the cluster's machines unless they
    are installed here as packages are.
    Raises ClusterError where the address is wrong, silent, of another Ray or Python version, or another than the one in use.
    """
    if "://" in address:
        raise ClusterError(f"address: {address}: {ON_THE_CLUSTER}, with address: auto")
    if ray.is_initialized() or ray_client.is_connected():  # type: ignore[no-untyped-call]
        yield Session(_in_use(address), owned=False)
        return
    with _quiet():
        try:
            if address == "local":
                _start_private(modules)
            else:
                _connect(_resolve(address), timeout=connect_timeout, modules=modules)
            yield Session(ray.get_runtime_context().gcs_address, owned=address == "local")
        finally:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray prints a paragraph for each process that is lost, on stdout; the run says it in a line."""
    before = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


def _start_private(modules: Sequence[str]) -> None:
    try:
        begin_private(
            num_cpus=max(LOCAL_CPUS, os.cpu_count() or 1), runtime_env={"py_modules": _files_of(modules)} if modules else None
        )
    except Exception as error:
        raise ClusterError(f"address: local: a private Ray didn't start: {_one_line(error)}") from error


def begin_private(**options: Any) -> None:
    """A cluster of this process's own, without Ray's dashboard. options: more of ray.init's."""
    _make_token()
    with _loopback(), _set(PRIVATE):
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)


def _make_token() -> None:
    """The user's first token, where Ray would make one for a cluster of its own: that others on this machine can't read it either."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=token.parent, delete=False) as file:  # which its owner alone may read
        file.write(generate_new_authentication_token())
    os.replace(file.name, token)


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray turns 127.0.0.1 into the machine's outer address, except where clusters are switched off, as they are on macOS.

    A private cluster on it listens to nobody else, and outlives a change of network.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _set(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, for processes that begin in the block; what the user has set stays."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: before[name] or value for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _resolve(address: str) -> str:
    """`auto` → host:port. Ray's own `auto` would also take any private cluster that it finds among the processes."""
    if address != "auto":
        return address
    named = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not named:
        raise ClusterError("address: auto: no Ray runs on this machine: start it (`ray start --head`), or name host:port")
    if "://" in named:
        raise ClusterError(f"address: auto: RAY_ADDRESS is {named}: {ON_THE_CLUSTER}, or set it to host:port")
    return str(named)


def _connect(address: str, *, timeout: float, modules: Sequence[str]) -> None:
    host, port = _split(address)
    _check_answers(host, port, timeout=timeout)
    if not services.find_node_ids():  # type: ignore[no-untyped-call]  # without one on this machine, Ray would look for it for a minute
        raise ClusterError(f"address: {address}: this machine is not part of that cluster: {ON_THE_CLUSTER}")
    if _is_loopback(host):
        with _loopback():
            _join(address, modules)
    else:
        _join(address, modules)


def _join(address: str, modules: Sequence[str]) -> None:
    try:
        with _set({CONNECT_TRIES: "1"}):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_shipped(modules))
    except Exception as error:
        cause = str(error.__cause__ or error)
        if "InvalidAuthToken" in cause:
            raise ClusterError(
                f"address: {address}: the cluster wants a token: set RAY_AUTH_MODE=token, and put its token in ~/.ray/auth_token"
            ) from None
        raise ClusterError(f"address: {address}: Ray refused: {_one_line(error)}") from error


def _shipped(modules: Sequence[str]) -> dict[str, list[str]] | None:
    """Machines of the cluster get this very package, installed there or not. A job that Ray started carries what it needs."""
    return None if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else {"py_modules": [str(PACKAGE), *_files_of(modules)]}


def _files_of(modules: Sequence[str]) -> list[str]:
    """The folders of packages and the .py files in which the modules are, but for what is installed: that is everywhere already."""
    found = [importlib.util.find_spec(name.partition(".")[0]) for name in modules]
    places = [spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin for spec in found if spec]
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
    files = dict.fromkeys(str(Path(place).resolve()) for place in places if place and Path(place).exists())  # not `built-in`
    return [file for file in files if not any(Path(file).is_relative_to(folder) for folder in installed)]


def _check_answers(host: str, port: int, *, timeout: float) -> None:
    """Ray's head speaks HTTP/2 (gRPC). At an address that takes calls and says nothing, ray.init would try for minutes."""
    address = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        reason = f"no answer in {timeout:g} s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ClusterError(f"address: {address}: unreachable ({reason}): is Ray's head running there? (`ray status`)") from error
    if len(answer) < 4 or answer[3] != HTTP2_SETTINGS:
        raise ClusterError(f"address: {address}: what answers there is not Ray's head (its port is 6379 by default)")


def _in_use(address: str) -> str:
    """The connection that this process has. Raises ClusterError where `address` is another cluster's."""
    if ray_client.is_connected():  # type: ignore[no-untyped-call]
        raise ClusterError(f"this process uses Ray through ray://: {ON_THE_CLUSTER}")
    current = str(ray.get_runtime_context().gcs_address)
    if address in ("local", "auto"):
        return current
    (host, port), (current_host, current_port) = _split(address), _split(current)
    if port != current_port or not (_is_loopback(host) or _numbers(host) & _numbers(current_host)):
        raise ClusterError(f"address: {address}: this process already uses Ray at {current}: name that, or ray.shutdown() first")
    return current


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(f"address: {address}: expected local, auto or host:port, such as 10.0.0.1:6379")
    return host, int(port)


def _numbers(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return {host}


def _is_loopback(host: str) -> bool:
    return any(number == "::1" or number.startswith("127.") for number in _numbers(host))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
