"""What a run leaves, as Python has it: its figures, its files, and samples of its generator."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import disback_ray
from disback_ray import RunResult, load_run, result, storage
from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import draw_in_chunks
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.model import save_samples
from disback_ray.networks.spec import GeneratorSpec


def test_a_run_s_figures_and_files(tiny: Any, ring8: Path) -> None:
    run = load_run(ring8)
    assert isinstance(run, RunResult)
    assert run.summary == tiny.summary(ring8)
    assert run.metrics == tiny.summary(ring8)["metrics"]
    assert run.digest == tiny.summary(ring8)["digest"]
    assert run.paths == {
        "report": f"{ring8}/report.html", "summary": f"{ring8}/summary.json", "metrics": f"{ring8}/metrics.parquet",
        "config": f"{ring8}/config.yaml", "generator": f"{ring8}/generator", "path": f"{ring8}/path", "samples": f"{ring8}/samples",
    }  # fmt: skip
    assert all(Path(path).exists() for path in run.paths.values())
    assert load_run(ring8.as_uri()).paths["report"] == (ring8 / "report.html").as_uri()


def test_what_the_package_offers() -> None:
    assert {"run", "load_run", "RunResult"} <= set(disback_ray.__all__)
    for name in disback_ray.__all__:
        assert getattr(disback_ray, name) is not None
    with pytest.raises(AttributeError, match="module 'disback_ray' has no attribute 'rnu'"):
        disback_ray.rnu  # noqa: B018


@pytest.mark.parametrize(("name", "shape"), [("ring8", (2,)), ("digits", (1, 8, 8))])
def test_samples_are_the_averaged_generator_s_in_one_evaluation(
    name: str, shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    out: Path = request.getfixturevalue(name)
    run = load_run(out)
    x = run.generate(25, seed=3)
    assert (x.shape, x.dtype) == ((25, *shape), torch.float32)
    network = GeneratorSpec.from_json(json.loads((out / "generator" / "generator.json").read_text())).build()
    network.load_state_dict(safetensors.torch.load_file(out / "generator" / "model.safetensors"))
    calls = []

    def once(z: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        calls.append(len(z))
        with torch.no_grad():
            made: torch.Tensor = network(z, condition)
        return made

    labels = torch.arange(25) % 10 if name == "digits" else None
    expected = draw_in_chunks(once, Drawn(torch.empty(25, *shape), labels), seed=3, device=torch.device("cpu"))
    torch.testing.assert_close(x, expected)
    assert sum(calls) == 25


def test_the_same_seed_gives_the_same_samples_however_many(ring8: Path) -> None:
    run = load_run(ring8)
    torch.testing.assert_close(run.generate(3, seed=5), run.generate(40, seed=5)[:3])
    assert not torch.isclose(run.generate(3, seed=5), run.generate(3, seed=6)).any()


def test_a_generator_is_read_once_for_many_parts(ring8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty thousand samples are drawn some hundred at a time."""
    read: list[Any] = []
    load = result.load_generator

    def counted(*given: Any, **options: Any) -> Any:
        read.append(given)
        return load(*given, **options)

    monkeypatch.setattr(result, "load_generator", counted)
    run = load_run(ring8)
    parts = [run.generate(5, seed=3, first=first) for first in (0, 5, 10)]
    assert len(read) == 1
    assert torch.equal(torch.cat(parts), load_run(ring8).generate(15, seed=3))
    for weight in run.generator()[1].parameters():
        torch.nn.init.zeros_(weight)  # it is the caller's own
    assert torch.equal(run.generate(5, seed=3), parts[0])


def test_labels_decide_what_is_drawn(digits: Path) -> None:
    run = load_run(digits)
    assert run.classes == 10
    fours = run.generate(6, seed=1, labels=[4] * 6)
    torch.testing.assert_close(fours, run.generate(6, seed=1, labels=torch.full((6,), 4)))
    assert not torch.equal(fours, run.generate(6, seed=1, labels=[5] * 6))
    for labels in ([4] * 5, [4] * 5 + [10], [4] * 5 + [-1], torch.zeros(6, 1)):
        with pytest.raises(ConfigError, match=r"^labels: expected 6 class ids of 0 … 9$"):
            run.generate(6, labels=labels)


def test_what_can_t_be_drawn(ring8: Path) -> None:
    run = load_run(ring8)
    assert run.classes == 0
    with pytest.raises(ConfigError, match="unconditional"):
        run.generate(2, labels=[0, 1])
    for n in (0, -1):
        with pytest.raises(ConfigError, match=f"^n: {n}: ask for at least one sample$"):
            run.generate(n)
    for n in (2**24 + 1, 10**11, 10**30):
        with pytest.raises(ConfigError, match=f"^n: {n}: at most 16,777,216 at once"):
            run.generate(n)


def test_where_there_is_no_run(tmp_path: Path, ring8: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: no run of disback-ray is there"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="no run of disback-ray is there"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="s4://bucket/run"):
        load_run("s4://bucket/run")
    whole = json.loads((ring8 / "summary.json").read_text())
    for damage in ("{", "[]", "3", '{"status": "complete"}', *(json.dumps(whole | {key: 5}) for key in ("metrics", "status"))):
        (tmp_path / "summary.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"summary.json is damaged"):
            load_run(tmp_path)
    shutil.copy(ring8 / "summary.json", tmp_path)
    unfinished = load_run(tmp_path)
    assert unfinished.metrics
    for ask in (lambda: unfinished.generate(1), lambda: unfinished.classes):
        with pytest.raises(CheckpointError, match="has no generator yet: finish the run"):
            ask()


def test_a_damaged_generator_draws_nothing(tmp_path: Path, ring8: Path) -> None:
    shutil.copytree(ring8, tmp_path / "run")
    run, weights = load_run(tmp_path / "run"), tmp_path / "run" / "generator" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        run.generate(1)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"can't read .*model\.safetensors"):
        run.generate(1)


def test_a_picture_or_arrays_and_never_half_of_one(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(digits)
    save_samples(run, 20, seed=2, out=tmp_path / "deep" / "x.npz")
    with np.load(tmp_path / "deep" / "x.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["x"], run.generate(20, seed=2).numpy())
        assert arrays["labels"].tolist() == [*range(10)] * 2
        assert arrays["drawn"] == 2
    kept = (tmp_path / "deep" / "x.npz").read_bytes()

    def full(path: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_to_disk", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            save_samples(run, 20, seed=3, out=tmp_path / "deep" / "x.npz")
    assert (tmp_path / "deep" / "x.npz").read_bytes() == kept
    (tmp_path / "deep" / "taken.png").mkdir()
    with pytest.raises(ConfigError, match=r"^--out .*taken\.png: "):
        save_samples(run, 2, seed=3, out=tmp_path / "deep" / "taken.png")
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"x.npz", "taken.png"}, "nothing half written"


def test_samples_go_to_a_uri_as_well(tmp_path: Path, ring8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_samples(load_run(ring8), 3, seed=2, out=(tmp_path / "x.npz").as_uri())
    with pytest.raises(ConfigError, match="s4://bucket"):
        save_samples(load_run(ring8), 3, seed=2, out="s4://bucket/x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"], "no folder of the name of a scheme"
