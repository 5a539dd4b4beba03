"""Statistics as files: what is written comes back, EDM's are read, and what doesn't fit is refused."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disback_ray.errors import CheckpointError, ConfigError, NonFiniteError
from disback_ray.evaluation.extractors import Pixels
from disback_ray.evaluation.image_figures import ImageFigures, differences, drawn_otherwise, measure
from disback_ray.evaluation.kinds import FeatureKind, Origin
from disback_ray.evaluation.moments import Gaussian, gaussian_of
from disback_ray.evaluation.statistics import Statistics, Tally, assume_kind, read_statistics, save_statistics, tally
from disback_ray.fetching import Fetched, fetch
from disback_ray.storage import Folder

KIND = FeatureKind("pixels", "none", "none", 4)


def statistics(seed: int = 0, *, kind: FeatureKind | None = KIND, n: int = 50, shift: float = 0.0, side: int = 8) -> Statistics:
    features = np.random.default_rng(seed).normal(size=(n, 4)) + shift
    origin = Origin(f"folder-{seed}", f"{seed:064d}", n, (side, side))
    return Statistics(gaussian_of(features), kind, origin, features.astype(np.float32))


def npz(**arrays: Any) -> Fetched:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return Fetched("stats.npz", sink.getvalue(), "f" * 64)


def test_a_round_trip(tmp_path: Path) -> None:
    made = statistics()
    save_statistics(Folder.at(tmp_path), "stats.npz", made)
    found = read_statistics(fetch(str(tmp_path / "stats.npz")))
    assert np.array_equal(found.gaussian.mean, made.gaussian.mean)
    assert np.array_equal(found.gaussian.covariance, made.gaussian.covariance)
    assert (found.gaussian.samples, found.kind, found.origin.resolution, found.origin.images) == (50, KIND, (8, 8), 50)
    assert found.origin.name == "stats.npz of folder-0"
    assert found.features is not None
    assert np.array_equal(found.features, made.features)
    first = (tmp_path / "stats.npz").read_bytes()
    save_statistics(Folder.at(tmp_path), "stats.npz", made)
    assert (tmp_path / "stats.npz").read_bytes() == first, "its SHA-256 names what is in it, not when it was made"


def test_edm_s_references_are_read_and_their_kind_has_to_be_said() -> None:
    gaussian = statistics().gaussian
    found = read_statistics(npz(mu=gaussian.mean, sigma=gaussian.covariance))
    assert found.kind is None
    said = assume_kind(found, KIND)
    assert said.kind == KIND
    assert "assumed" in str(said.origin)
    with pytest.raises(ConfigError, match="has 4 dimensions, and the extractor here 2048"):
        assume_kind(found, FeatureKind("inception", "a" * 64, "clean", 2048))
    figures = measure([statistics()], said)
    assert figures.figures.keys() == {"frechet"}
    assert figures.figures["frechet"] == pytest.approx(0, abs=1e-6)
    assert "keeps no features" in figures.notes[0]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(3)}, "no statistics of features: it has no 'sigma'"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"sigma \(4, 4\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN or Inf"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "no covariance"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "no covariance"),
        ({"mu": np.array([{}]), "sigma": np.eye(3)}, "no statistics of features"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) + 0j}, "mu or sigma is complex"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "about": np.array("{}")}, "no 'kind'"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "about": np.array("{")}, "no statistics of features"),
        (
            {"mu": np.zeros(3), "sigma": np.eye(3), "about": np.array('{"kind": null, "origin": null}')},
            "no statistics of features",
        ),
        ({"mu": np.zeros(3), "sigma": 1e308 * np.eye(3)}, "has numbers over 1e"),
        ({"mu": np.full(3, -1e200), "sigma": np.eye(3)}, "has numbers over 1e"),
    ],
)
def test_other_files_are_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_statistics(npz(**arrays))


def test_damaged_bytes_are_refused() -> None:
    whole = npz(mu=np.zeros(3), sigma=np.eye(3)).data
    for data in (b"", b"\x80\x04pickle", whole[:60], whole[:-40]):
        with pytest.raises(CheckpointError, match=r"stats.npz"):
            read_statistics(Fetched("stats.npz", data, ""))


def test_figures_and_their_kinds() -> None:
    near, far = (measure([statistics(1, n=400, shift=shift)], statistics(2, n=400)) for shift in (0, 2))
    assert near.figures.keys() == {"frechet", "kernel_distance", "precision", "recall"}
    assert near.figures["frechet"] < 0.1 < 10 < far.figures["frechet"]
    assert near.figures["kernel_distance"] < far.figures["kernel_distance"]
    assert near.figures["precision"] > 0.8 > 0.4 > far.figures["precision"]
    said = "\n".join(near.lines())
    for part in (
        "pixels (none), resizer none, 4 features",
        "folder-1 (000000000000), 400 images of 8 × 8",
        "reference: folder-2",
    ):
        assert part in said
    assert ImageFigures.from_json(near.to_json(), name="x") == near


def test_the_least_of_several_blocks_counts() -> None:
    blocks = [statistics(seed, shift=shift) for seed, shift in ((1, 1.0), (2, 0.1), (3, 2.0))]
    found = measure(blocks, statistics(9))
    assert len(found.blocks) == 3
    assert found.figures["frechet"] == min(found.blocks) == found.blocks[1]
    assert found.samples.name == "folder-2"
    assert "the least of 3 blocks" in "\n".join(found.lines())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (FeatureKind("digits", "none", "none", 4), "its extractor is digits, here pixels"),
        (FeatureKind("pixels", "a" * 64, "none", 4), "its extractor's SHA-256 is aaaaaaaaaaaa, here none"),
        (FeatureKind("pixels", "none", "clean", 4), "its resizer is clean, here none"),
    ],
)
def test_features_of_other_kinds_are_not_compared(other: FeatureKind, said: str) -> None:
    with pytest.raises(ConfigError, match=f"folder-2: of another kind: {said}"):
        measure([statistics(1)], statistics(2, kind=other))


def test_another_resolution_is_refused() -> None:
    with pytest.raises(ConfigError, match="folder-2: statistics of 16 × 16 pixels, and the samples have 8 × 8"):
        measure([statistics(1)], statistics(2, side=16))


def test_what_samples_were_drawn_in_is_kept_said_and_no_reason_to_refuse(tmp_path: Path) -> None:
    """Two numbers of steps are what one may want to compare."""
    figures = {}
    for steps in (18, 40):
        drawn = f"{steps} steps of Heun's method, guidance 8"
        found = statistics(0)
        save_statistics(Folder.at(tmp_path), "x.npz", replace(found, origin=replace(found.origin, drawn=drawn)))
        samples = read_statistics(fetch(str(tmp_path / "x.npz")))
        assert samples.origin.drawn == drawn
        measured = measure([samples], statistics(1))
        assert f", drawn in {drawn}" in "\n".join(measured.lines())
        figures[steps] = ImageFigures.from_json(json.loads(json.dumps(measured.to_json())), name="x")
        assert figures[steps] == measured
    assert set(differences(figures[18], figures[40], name="x").values()) == {0.0}
    assert drawn_otherwise(figures[18], figures[40]) == ", drawn in 40 steps of Heun's method, guidance 8"
    folder = measure([statistics(0)], statistics(1))
    assert {drawn_otherwise(figures[18], other) for other in (figures[18], folder)} == {""}
    old = statistics(0).origin
    assert "drawn" not in str(old)
    assert Origin.from_json({name: value for name, value in asdict(old).items() if name != "drawn"}) == old


def test_figures_of_different_things_are_not_compared() -> None:
    ours = measure([statistics(1)], statistics(2))
    assert differences(ours, ours, name="old.json")["frechet"] == 0
    better = measure([statistics(3)], statistics(2))
    assert differences(ours, better, name="old.json")["frechet"] == ours.figures["frechet"] - better.figures["frechet"]
    with pytest.raises(ConfigError, match=r"old.json: figures against another reference, folder-4"):
        differences(ours, measure([statistics(1)], statistics(4)), name="old.json")
    with pytest.raises(ConfigError, match="figures of 40 samples, here of 50"):
        differences(ours, measure([statistics(1, n=40)], statistics(2)), name="old.json")
    with pytest.raises(ConfigError, match="figures of 2 blocks, here of 1"):
        differences(ours, measure([statistics(1), statistics(1)], statistics(2)), name="old.json")
    other = FeatureKind("digits", "none", "none", 4)
    with pytest.raises(ConfigError, match=r"old.json: of another kind: its extractor is digits"):
        differences(ours, measure([statistics(1, kind=other)], statistics(2, kind=other)), name="old.json")
    with pytest.raises(CheckpointError, match=r"x.json: no figures"):
        ImageFigures.from_json([1], name="x.json")


def test_clip_scores_and_what_is_no_distance_are_told_apart() -> None:
    samples = Origin("run", "0" * 64, 50)
    ours = ImageFigures({"clip_score": 0.3}, samples, of={"prompts": "a" * 64, "CLIP": "b" * 64})
    assert ImageFigures.from_json(ours.to_json(), name="x") == ours
    assert "prompts: aaaaaaaaaaaa" in ours.lines()
    assert differences(ours, replace(ours, figures={"clip_score": 0.1}), name="old.json") == {"clip_score": pytest.approx(0.2)}
    for what, sha256 in (("CLIP", "c" * 64), ("prompts", "d" * 64), ("CLIP", "")):
        with pytest.raises(ConfigError, match=rf"old.json: .*SHA-256 of its {what} is {sha256[:12] or 'not told'}, here"):
            differences(ours, replace(ours, of={**ours.of, what: sha256}), name="old.json")
    points = ImageFigures({"sliced_wasserstein": 0.3, "modes": 8.0}, samples, reference=Origin("ring", "e" * 64, 50))
    mismatch = ImageFigures({"mismatch": 0.3, "modes": 8.0}, samples)
    near = measure([statistics(1)], statistics(2))
    for found, other, said in (
        (points, mismatch, "of the mismatch degree, here of points"),
        (near, mismatch, "of the mismatch degree, here of features"),
        (points, ours, "of a CLIP score alone, here of points"),
    ):
        with pytest.raises(ConfigError, match=f"old.json: figures of another kind: {said}"):
            differences(found, other, name="old.json")
    prompted = replace(near, of={"prompts": "a" * 64})
    assert differences(prompted, near, name="old.json")["frechet"] == 0, "a folder's distance and a model's, to one reference"
    with pytest.raises(ConfigError, match="of its prompts"):
        differences(prompted, replace(near, of={"prompts": "b" * 64}), name="old.json")
    with pytest.raises(ConfigError, match="has other, here frechet"):
        differences(near, replace(near, figures={"other": 0.0}), name="old.json")


def test_memory_is_that_of_a_part_and_what_is_kept(pictures: Callable[..., list[np.ndarray]]) -> None:
    images = pictures(60, side=2)
    found = tally((images[i : i + 7] for i in range(0, 60, 7)), Pixels(), keep=20).statistics("x", "0" * 64)
    assert found.features is not None
    assert found.features.shape == (20, 12)
    assert found.origin.images == 60
    assert found.origin.resolution == (2, 2)
    whole = np.stack([image.transpose(2, 0, 1).reshape(-1) / 127.5 - 1 for image in images])
    assert np.allclose(found.gaussian.covariance, np.cov(whole, rowvar=False), atol=1e-6)
    mixed = Tally(KIND)
    mixed.add(np.zeros((2, 4)), [(8, 8), (9, 8)])
    assert mixed.resolution is None
    with pytest.raises(NonFiniteError):
        mixed.add(np.full((1, 4), np.nan), [(8, 8)])
    assert isinstance(found.gaussian, Gaussian)


def test_the_features_that_are_kept_are_of_all_samples() -> None:
    """Of a folder in the order of its classes the first ones would be of one class, and the kernel distance to itself far from 0."""
    features = np.repeat(np.arange(10.0), 300)[:, None] + np.random.default_rng(0).normal(size=(3000, 4)) / 10
    made = []
    for size in (64, 1000):
        found = Tally(KIND, 500)
        for start in range(0, 3000, size):
            found.add(features[start : start + size], [(8, 8)])
        made.append(found.statistics("x", "0" * 64).features)
    assert made[0] is not None
    assert np.array_equal(made[0], np.asarray(made[1])), "whatever the parts"
    assert len(np.unique(made[0], axis=0)) == 500
    shares = np.bincount(made[0][:, 0].round().clip(0, 9).astype(int), minlength=10)
    assert 25 < shares.min() <= shares.max() < 75, "50 are due, with a standard deviation of 6"


def test_a_file_that_unpacks_to_more_than_statistics_have_is_refused_unread(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w") as member,
    ):
        for _ in range((1 << 30 >> 24) + 1):
            member.write(bytes(1 << 24))
    with pytest.raises(CheckpointError, match="unpacked it would be larger than 1 GiB"):
        read_statistics(fetch(str(tmp_path / "bomb.npz")))
