"""Files that would run code where a stock loader reads them: ours refuse each in a line, and nothing is executed or written."""

import builtins
import codecs
import functools
import importlib
import io
import json
import operator
import os
import pickle
import runpy
import shutil
import socket
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from benchmarks.fuzzing.guard import guarded
from disback_ray.errors import CheckpointError, DisbackError
from disback_ray.evaluation.statistics import read_statistics
from disback_ray.fetching import Fetched
from disback_ray.inspection import inspect
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, import_teacher
from disback_ray.teachers.saved import save_denoiser

fired: list[str] = []


class Call:
    """What a stock unpickler would call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


CODE = "import builtins; builtins.hostile_canary('executed')"
CALLS = {
    "system": Call(os.system, "touch executed"),
    "popen": Call(subprocess.Popen, ["touch", "executed"]),
    "check_output": Call(subprocess.check_output, ["touch", "executed"]),
    "eval": Call(eval, "hostile_canary('executed')"),
    "exec": Call(exec, CODE),
    "compile": Call(compile, CODE, "x", "exec"),
    "import": Call(__import__, "hostile"),
    "import_module": Call(importlib.import_module, "hostile"),
    "run_path": Call(runpy.run_path, "hostile.py"),
    "open": Call(open, "executed", "w"),
    "remove": Call(os.remove, "hostile.py"),
    "rmtree": Call(shutil.rmtree, "."),
    "getattr": Call(getattr, "", "format"),
    "setattr": Call(setattr, types.SimpleNamespace, "x", 1),
    "partial": Call(functools.partial, eval, "hostile_canary('executed')"),
    "methodcaller": Call(operator.methodcaller, "upper"),
    "decode": Call(codecs.decode, b"x", "unicode_escape"),
    "nested": Call(pickle.loads, pickle.dumps(Call(eval, "hostile_canary('executed')"))),
    "torch.load": Call(torch.load, "hostile.pt"),
    "hub": Call(torch.hub.load, "a/b", "c"),
    "numpy": Call(np.load, "hostile.npz"),
    "connect": Call(socket.create_connection, ("127.0.0.1", 9)),
}


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save({"time_embed.0.weight": content}, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save({"time_embed.0.weight": content}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def by_hand(content: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/../../executed", "x")
    return file.getvalue()


MADE: dict[str, tuple[str, Any, Callable[[Any], bytes]]] = {
    "edm": ("x.pkl", "edm", lambda call: pickle.dumps({"ema": call})),
    "edm of another protocol": ("x.pkl", "edm", lambda call: pickle.dumps({"ema": [call]}, protocol=2)),
    "state dict": ("x.pt", "consistency", zipped),
    "state dict of before": ("x.pt", "consistency", legacy),
    "a zip by hand": ("x.pt", "consistency", by_hand),
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with code that can be imported and that tells when it runs."""
    (tmp_path / "hostile.py").write_text(f"{CODE}\ndef factory(): builtins.hostile_canary('built')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(builtins, "hostile_canary", fired.append, raising=False)
    fired.clear()
    return tmp_path


def refused(read: Callable[[], object], there: Path) -> str:
    before = sorted(path.relative_to(there) for path in there.rglob("*"))
    with guarded() as done, pytest.raises(DisbackError) as caught:
        read()
    assert not done
    assert not fired
    assert "hostile" not in sys.modules
    assert sorted(path.relative_to(there) for path in there.rglob("*")) == before
    assert "\n" not in str(caught.value)
    assert 0 < len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("made", MADE)
def test_a_teacher_s_file_executes_nothing(there: Path, made: str) -> None:
    name, kind, write = MADE[made]
    for call in CALLS.values():
        (there / name).write_bytes(write(call))
        refused(lambda: import_teacher(Folder.at(there / "cache"), str(there / name), format=kind, expected=Expected()), there)
        refused(lambda: inspect(there / name), there)


def test_the_trap_works(there: Path) -> None:
    """Or the tests above would prove nothing."""
    with guarded() as done:
        pickle.loads(pickle.dumps(CALLS["eval"]))
        pickle.loads(pickle.dumps(CALLS["open"])).close()
        pickle.loads(pickle.dumps(CALLS["system"]))
    assert fired == ["executed"]
    assert [line.partition("(")[0] for line in done] == ["compile", "open", "os.system"]


def test_arrays_of_objects_are_refused(there: Path) -> None:
    file = io.BytesIO()
    np.savez(file, mu=np.array([CALLS["eval"]], dtype=object), sigma=np.eye(2))
    fired.clear()
    refused(lambda: read_statistics(Fetched("x.npz", file.getvalue(), "0" * 64)), there)


def test_safetensors_with_anything_else_in_them_are_refused(there: Path) -> None:
    tensors = safetensors.torch.save({"a": torch.ones(2)})
    header = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    for data in (pickle.dumps(CALLS["eval"]), tensors + b"x", b"\xff" * 8 + b"{}", tensors[:-1], _headed(json.dumps(header))):
        (there / "x.safetensors").write_bytes(data)
        refused(lambda: Folder.at(there).read_tensors("x.safetensors"), there)


def _headed(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + bytes(16)


def test_a_module_that_a_folder_names_is_not_imported(there: Path) -> None:
    spec = DenoiserSpec(ModuleSpec("hostile:factory"), (2,), 0, 1.0)
    save_denoiser(Folder.at(there / "teacher"), spec, {"a": torch.ones(2)})
    proof = Folder.at(there / "generator").write_tensors("model.safetensors", {"a": torch.ones(2)})
    settings = GeneratorSpec(spec, (2,), 0, 1.0).to_json() | {"weights": proof}
    Folder.at(there / "generator").write_json("generator.json", settings)
    for where in ("teacher", "generator"):
        assert "hostile:factory" in refused(lambda where=where: inspect(there / where), there)
    with pytest.raises(CheckpointError, match="hostile:factory"):
        import_teacher(Folder.at(there / "cache"), str(there / "teacher"), format="denoiser", expected=Expected())
    assert not fired
