"""One Ray cluster for the whole session, with GPUs that are only pretended. No test can meet a Ray that somebody else runs."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

LONGEST = ("test_recipes.py", "test_recovery.py", "test_running.py")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or the first private cluster writes a token into the home folder
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # or a stray call of ray's connects to whatever Ray this machine saw last
    os.environ["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:9"  # no dashboard: as in session.py, nobody waits for it
    os.environ["OMP_NUM_THREADS"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs have it, and all that they begin
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 (a dozen processes a driver, unused)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: begun last, one of them would keep one of the two processors waiting for the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


class Processes:
    """What runs, by `ps`."""

    def started_by(self, pid: int) -> set[int]:
        """The processes that `pid` started, and those that they did."""
        parents = {int(p): int(parent) for p, parent, _ in self._running()}
        found = {pid}
        while more := {p for p, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {pid}

    def left_of(self, pids: set[int], *, within: float = 15.0) -> set[int]:
        """Those that still run after a while."""
        end = time.monotonic() + within
        while (alive := pids & {int(p) for p, _, _ in self._running()}) and time.monotonic() < end:
            time.sleep(0.05)
        return alive

    def _running(self) -> list[list[str]]:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        return [row for row in map(str.split, listed.stdout.splitlines()) if not row[2].startswith("Z")]


@pytest.fixture(scope="session")
def processes() -> Processes:
    return Processes()


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[str]:
    """Where Ray keeps logs, sockets and the address that `auto` reads. A short path: that of a socket has 107 letters at most."""
    folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="disback-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(ray_folder: str, processes: Processes) -> Iterator[str]:
    """host:port of a cluster: a head with 4 CPUs, and two machines of 2 GPUs and 4 CPUs, 'GeForce-RTX-3090' and 'A10G'."""
    from ray.cluster_utils import Cluster

    before = processes.started_by(os.getpid())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    for accelerator in ("GeForce-RTX-3090", "A10G"):
        cluster.add_node(num_cpus=4, num_gpus=2, labels={"ray.io/accelerator-type": accelerator})
    yield cluster.address
    started = processes.started_by(os.getpid()) - before
    cluster.shutdown()
    assert not processes.left_of(started), "the cluster left processes"


@pytest.fixture
def attached(ray_cluster: str) -> Iterator[str]:
    """The test's driver is connected to the cluster. The same address."""
    from disback_ray.actors.session import attach

    with attach(ray_cluster) as session:
        yield session.address


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    """No test inherits a driver's connection from another."""
    yield
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        ray.shutdown()


TINY = {
    "ring8": """
        teacher.network.width=16 teacher.network.blocks=1 teacher.training.steps=250 teacher.training.batch=32 teacher.sampling_steps=3
        student.network.width=16 student.network.hidden_layers=1 student.ema=0.9
        batch=32 recording.steps=8 recording.at=[2,5,8] backtracking.steps=12 backtracking.steps_per_node=4
        evaluation.every=5 evaluation.samples=100 evaluation.pictures=10 checkpoint_every=5""",
    "digits": """
        teacher.network.channels=8 teacher.network.multipliers=[1] teacher.training.steps=10 teacher.training.batch=16
        teacher.sampling_steps=2 student.ema=0.9
        batch=8 recording.steps=8 recording.at=[2,5,8] backtracking.steps=12 backtracking.steps_per_node=4
        evaluation.every=10 evaluation.samples=100 evaluation.pictures=10 checkpoint_every=5""",
}
"""20 steps of the two algorithms, over three nodes, with checkpoints that fall beside the switches."""


@dataclass(frozen=True)
class Tiny:
    """Shipped recipes, cut down to a second. Their teachers are trained once, into a storage that all tests share."""

    storage: Path

    def settings(self, recipe: str) -> list[str]:
        """What `--set` takes. The cluster's GPUs are pretended, and Ray Train would look for them."""
        return [*TINY[recipe].split(), f"cluster.storage={self.storage}", "cluster.roles.teacher_trainer={cpus: 1, gpus: 0}"]

    def arguments(self, recipe: str, out: Path, *more: str) -> list[str]:
        """Of the command line. more: the last one wins."""
        sets = [word for setting in self.settings(recipe) for word in ("--set", setting)]
        return ["run", recipe, "--out", str(out), *sets, *more]

    def run(self, recipe: str, out: Path, *more: str, in_process: bool = True, **options: Any) -> Any:
        """A RunResult. more: settings over the tiny ones."""
        from disback_ray import run

        return run(recipe, out=out, overrides=[*self.settings(recipe), *more], in_process=in_process, **options)

    def rows(self, out: Path) -> list[dict[str, Any]]:
        """metrics.parquet, without how long each step took."""
        found: list[dict[str, Any]] = pq.read_table(out / "metrics.parquet").drop_columns("seconds").to_pylist()
        return found

    def summary(self, out: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((out / "summary.json").read_text())
        return found

    def assert_progress(self, lines: list[str]) -> None:
        """What a run over Ray shows without a terminal: its stages, where the cast is, and a line now and then."""
        counted, waits = "training the teacher|recording|backtracking", "starting Ray|connecting to Ray at .+|placing the cast"
        shown = re.compile(
            rf"({counted}|{waits}|measuring the \w+) …|({counted}).*: \d+/\d+( .*)?|on \S+( \(\S+\))?: \w+.*|going on from \w+ step \d+"
        )
        assert lines
        assert all(shown.fullmatch(line) for line in lines), lines

    def assert_equal(self, out: Path, other: Path, *, pictures: bool = True) -> None:
        """Weights, nodes, figures and pictures of two whole runs, bit for bit: all but where they ran and how long."""
        ours, theirs = self.summary(out), self.summary(other)
        assert (ours["status"], ours["error"]) == ("complete", None)
        assert self.rows(out) == self.rows(other)
        for key in ("metrics", "switches", "pictures", "digest"):
            assert ours[key] == theirs[key], key
        last = max((other / "checkpoints").iterdir())
        files = [*other.glob("path/*"), *other.glob("generator/*"), *last.glob("*.safetensors")]
        assert {"node-3.safetensors", "model.safetensors", "raw.safetensors", "fake_score.safetensors"} <= {f.name for f in files}
        for file in files:
            assert (out / file.relative_to(other)).read_bytes() == file.read_bytes(), file
        for picture in theirs["pictures"]:
            drawn = (out / picture["file"]).read_bytes()
            assert drawn == (other / picture["file"]).read_bytes() if pictures else drawn, picture


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def ring8(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tiny run of ring8, in one process and never interrupted. Not to be written to."""
    return Path(tiny.run("ring8", tmp_path_factory.mktemp("runs") / "ring8").folder.uri)


@pytest.fixture(scope="session")
def digits(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of digits."""
    return Path(tiny.run("digits", tmp_path_factory.mktemp("runs") / "digits").folder.uri)


@pytest.fixture
def left_over() -> Callable[[str], set[str]]:
    """What of ours still lives or is still reserved on a cluster, once it has had the time to go."""

    def look(address: str) -> set[str]:
        import ray
        from ray._private import state

        ray.init(address, log_to_driver=False, logging_level="ERROR")
        end = time.monotonic() + 15
        while True:
            actors = {a["ActorClassName"] for a in state.actors().values() if a["State"] != "DEAD"}
            # Ray Train's own and Ray Data's: one for a cluster, for good.
            actors -= {"_AutoscalingCoordinatorActor", "_StatsActor", "_UsageCollectionActor"}
            groups = {key for key, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"}
            if not actors | groups or time.monotonic() > end:
                ray.shutdown()
                return actors | groups
            time.sleep(0.1)

    return look


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr; there is no other."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("disback-ray: "), self.err
        return self.err.removeprefix("disback-ray: ").rstrip()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line in this process."""
    from disback_ray.cli import main

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Said(ended.value.code or 0, captured.out, captured.err)  # type: ignore[arg-type]

    return run


class Layers(nn.Module):
    """Of the interface of NVIDIA's Inception file, with random weights. [B, 3, 299, 299] in about [-1, 1] → [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 7, stride=13)
        self.out = nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.convolution(x)).mean([2, 3]))


class LikeInception(nn.Module):
    """`layers` takes what was resized and scaled; the whole resizes and scales by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = Layers(width)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        x = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return self.layers((x - 128) / 128) if return_features else x


def torchscript(width: int, file: Path) -> Path:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated TorchScript; NVIDIA's file is one
        torch.manual_seed(width)
        torch.jit.script(LikeInception(width).eval()).save(str(file))
    return file


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("inception")

    def make(width: int) -> Path:
        file = folder / str(width) / "inception-2015-12-05.pt"
        if not file.exists():
            file.parent.mkdir()
            torchscript(width, file)
        return file

    return make


@pytest.fixture(scope="session")
def inception_weights(inception_file: Callable[[int], Path]) -> Callable[[int], Any]:
    from disback_ray.fetching import fetch

    return lambda width: fetch(str(inception_file(width)))


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


@pytest.fixture(scope="session")
def pictures() -> Callable[..., list[np.ndarray]]:
    """n smooth random pictures: uint8 [side, side, 3]. tint: added to red."""

    def make(n: int, *, side: int = 24, seed: int = 0, tint: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 256, size=(n, 4, 4, 3)).astype(np.uint8)
        made = [np.array(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse]
        return [np.clip(x.astype(int) + np.array([tint, 0, 0]), 0, 255).astype(np.uint8) for x in made]

    return make


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[np.ndarray]], Path]:
    def write(images: list[np.ndarray]) -> Path:
        folder = tmp_path_factory.mktemp("images")
        for index, image in enumerate(images):
            (folder / f"{index // 50}").mkdir(exist_ok=True)
            (folder / f"{index // 50}" / f"{index:05d}.png").write_bytes(png(image))
        return folder

    return write


@dataclass(frozen=True)
class Kept:
    """Real digits as people keep images, three times the same PNGs. files: [(name, PNG, class)], in the order of the names."""

    root: Path
    files: list[tuple[str, bytes, int]]

    @property
    def folder(self) -> Path:
        return self.root / "folder"

    @property
    def zip(self) -> Path:
        return self.root / "digits.zip"

    @property
    def parquet(self) -> Path:
        return self.root / "digits.parquet"

    @property
    def all(self) -> tuple[Path, Path, Path]:
        return self.folder, self.zip, self.parquet


@pytest.fixture(scope="session")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Kept]:
    """So many digits, class by class."""

    def make(count: int) -> Kept:
        from disback_ray.data.digits import load_digits

        digits = load_digits()
        ink = ((digits.images[:count, 0] + 1) * 127.5).round().byte().numpy()
        order = digits.labels[:count].argsort(stable=True).tolist()
        files = []
        for place, index in enumerate(order):
            file = io.BytesIO()
            Image.fromarray(ink[index]).save(file, "png")
            files.append((f"{digits.labels[index]}/{place:05d}.png", file.getvalue(), int(digits.labels[index])))
        kept = Kept(tmp_path_factory.mktemp("images"), files)
        for name, data, _ in files:
            (kept.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (kept.folder / name).write_bytes(data)
        with zipfile.ZipFile(kept.zip, "w") as archive:
            for name, data, _ in reversed(files):
                archive.writestr(f"in/{name}", data)
            archive.writestr("dataset.json", json.dumps({"labels": [[f"in/{name}", label] for name, _, label in files]}))
        images = [{"bytes": data, "path": name} for name, data, _ in files]
        table = pa.table({"image": images, "label": [label for *_, label in files]})
        pq.write_table(table, kept.parquet, row_group_size=max(1, count // 3))
        return kept

    return make


@pytest.fixture(scope="session")
def digits_kept(keep: Callable[[int], Kept]) -> Kept:
    return keep(150)
