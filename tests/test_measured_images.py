"""Images measured while a run trains: by the evaluator, from a copy of the weights, against a reference's statistics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from disback_ray import run
from disback_ray.config import ClusterConfig, load_recipe
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluating import evaluate
from disback_ray.evaluation.extractors import ExtractorSpec
from disback_ray.image_statistics import Source, make_statistics
from disback_ray.networks.imported import EDMSpec
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.production import check_reference
from disback_ray.tiny import EDM

SAMPLES = 8 * 8 * 3 + 40
PIXELS = ExtractorSpec("pixels")


@pytest.fixture(scope="module")
def reference(
    pictures: Callable[..., list[np.ndarray]], folder_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> str:
    file = str(tmp_path_factory.mktemp("statistics") / "pictures.npz")
    make_statistics(str(folder_of(pictures(SAMPLES, side=8))), file, PIXELS.build(cache=None), Source(), keep=0)
    return file


def test_each_look_is_the_distance_that_evaluate_finds(reference: str, tmp_path: Path) -> None:
    """And the run is the very one that is made without measuring."""
    measured = [f"evaluation.reference={reference}", "evaluation.extractor=pixels", f"evaluation.samples={SAMPLES}"]

    def play(name: str, *settings: str) -> Any:
        cluster = ClusterConfig(storage=str(tmp_path))
        quick = ["evaluation.pictures=0", "student.ema=0.5", *settings]
        return run("cifar10-edm", cluster=cluster, out=tmp_path / name, in_process=True, tiny=True, overrides=quick)

    found, plain = play("measured", *measured), play("plain")
    assert found.summary["digest"] == plain.summary["digest"]
    rows = pq.read_table(tmp_path / "measured" / "metrics.parquet").to_pylist()
    distances = [row["frechet"] for row in rows if row["stage"] == "backtracking"]
    assert all(distance > 0 for distance in distances)
    assert len(distances) == 2
    assert found.metrics["generator"]["frechet"] == distances[-1] != found.metrics["untrained"]["frechet"]
    told = evaluate(str(tmp_path / "measured"), reference, PIXELS, source=Source(n=SAMPLES), say=lambda _: None)
    assert told.figures["frechet"] == pytest.approx(distances[-1], rel=1e-6)
    assert found.summary["measured_by"] == {"features": str(told.kind), "reference": str(told.reference), "samples": str(SAMPLES)}


@pytest.mark.parametrize(
    ("recipe", "setting", "complaint"),
    [
        ("digits", "evaluation.reference=x.npz", "data of kind digits have measures of their own"),
        ("cifar10-edm", "evaluation.extractor=pixels", "give evaluation.reference as well"),
        ("cifar10-edm", "evaluation.samples=10", "nothing is measured"),
    ],
)
def test_measures_that_cant_be_taken_are_refused(recipe: str, setting: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_recipe(recipe, overrides=[setting])


@pytest.fixture(scope="module")
def grey(folder_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("statistics") / "grey.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    make_statistics(str(folder_of(list(pixels))), file, PIXELS.build(cache=None), Source(), keep=0)
    return file


def test_files_of_another_machine_are_not_missed_here(reference: str, tmp_path: Path) -> None:
    """Where roles run elsewhere the evaluator finds them, or says so; what is here and wrong is said here all the same."""
    spec = DenoiserSpec(EDMSpec("EDMPrecond", EDM["ddpmpp"]), (3, 8, 8), 0, 0.5)
    asked = ["evaluation.extractor=pixels", f"evaluation.samples={SAMPLES}"]
    elsewhere = load_recipe("cifar10-edm", overrides=[*asked, f"evaluation.reference={tmp_path}/missing.npz"])
    check_reference(elsewhere, spec, here=False)
    with pytest.raises(CheckpointError, match=r"missing\.npz"):
        check_reference(elsewhere, spec, here=True)
    other = ["evaluation.extractor=digits", "evaluation.samples=300"]
    wrong = load_recipe("cifar10-edm", overrides=[f"evaluation.reference={reference}", *other])
    with pytest.raises(ConfigError, match="its extractor is pixels, here digits"):
        check_reference(wrong, spec, here=False)


@pytest.mark.parametrize(
    ("which", "settings", "complaint"),
    [
        ("reference", ["evaluation.samples=20"], "20"),
        ("reference", ["evaluation.extractor=digits"], "of another kind: its extractor is pixels, here digits"),
        ("grey", [], r"its dimensions is 64, here 192 \(images of another size, or grey ones against colour: data.grey\)"),
        ("missing", [], "missing.npz"),
    ],
)
def test_what_the_reference_lacks_is_said_before_anything_is_trained(
    which: str, settings: list[str], complaint: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = str(tmp_path / "missing.npz") if which == "missing" else request.getfixturevalue(which)
    asked = [f"evaluation.reference={file}", "evaluation.extractor=pixels", f"evaluation.samples={SAMPLES}", *settings]
    with pytest.raises((ConfigError, CheckpointError), match=complaint):
        run(
            "cifar10-edm", cluster=ClusterConfig(storage=str(tmp_path)), out=tmp_path / "run", in_process=True, tiny=True,
            overrides=asked,
        )  # fmt: skip
    assert not (tmp_path / "run" / "config.yaml").exists()
