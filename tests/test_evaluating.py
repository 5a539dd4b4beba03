"""`disback-ray evaluate` and `statistics` from the command line: sources, figures, and what is refused."""

import json
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disback_ray import evaluating
from disback_ray.data.image_files import ImageFiles
from disback_ray.errors import CheckpointError, ConfigError, NonFiniteError
from disback_ray.evaluation.image_figures import measure
from disback_ray.evaluation.kinds import FeatureKind, Origin
from disback_ray.evaluation.statistics import read_statistics, save_statistics
from disback_ray.fetching import fetch
from disback_ray.image_statistics import Source, statistics_of
from disback_ray.result import RunResult
from disback_ray.storage import Folder

Command = Callable[..., Any]
Images = Callable[..., list[np.ndarray]]


def figure(said: Any, name: str = "Fréchet distance") -> float:
    assert said.status == 0, said.err
    return next(float(line.split()[-1]) for line in said.out.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def photos(pictures: Images, folder_of: Callable[..., Path]) -> dict[str, Path]:
    """Two sets of 60 pictures of 4 × 4 pixels as folders; the first as a zip and a parquet file too."""
    folders = {name: folder_of(pictures(60, side=4, seed=seed, tint=40 * seed)) for seed, name in enumerate(("a", "b"))}
    files = sorted(folders["a"].rglob("*.png"))
    with zipfile.ZipFile(folders["a"] / "a.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folders["a"]))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": rows, "label": list(range(60))}), folders["a"] / "a.parquet")
    return folders | {"zip": folders["a"] / "a.zip", "parquet": folders["a"] / "a.parquet"}


PIXELS = ("--extractor", "pixels")


def test_a_folder_a_zip_and_a_parquet_file_are_the_same_images(command: Command, photos: dict[str, Path], tmp_path: Path) -> None:
    made = command("statistics", str(photos["b"]), "--out", str(tmp_path / "b.npz"), *PIXELS)
    assert (made.status, "60 images of 4 × 4 pixels" in made.out) == (0, True)
    found = [
        command("evaluate", str(photos[kind]), "--reference", str(tmp_path / "b.npz"), *PIXELS)
        for kind in ("a", "zip", "parquet")
    ]
    assert len({figure(said) for said in found}) == 1
    assert figure(found[0]) > 0.1
    assert figure(command("evaluate", str(photos["a"]), "--reference", str(photos["b"]), *PIXELS)) == figure(found[0])
    assert "features: pixels (none), resizer none, 48 features" in found[0].out
    assert f"reference: b.npz of {photos['b'].name}" in found[0].out
    assert figure(command("evaluate", str(photos["b"]), "--reference", str(tmp_path / "b.npz"), *PIXELS)) == pytest.approx(
        0, abs=1e-5
    )


def test_figures_are_kept_and_compared(command: Command, photos: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    first = command("evaluate", str(photos["a"]), "--reference", str(photos["b"]), *PIXELS, "--json", str(file))
    kept = json.loads(file.read_text())
    assert kept["figures"]["frechet"] == pytest.approx(figure(first), rel=1e-5)
    assert kept["kind"] == {"extractor": "pixels", "sha256": "none", "resizer": "none", "dimensions": 48}
    assert set(kept["figures"]) == {"frechet", "kernel_distance", "precision", "recall"}
    again = command("evaluate", str(photos["a"]), "--reference", str(photos["b"]), *PIXELS, "--against", str(file))
    assert f"+0 frechet, against {file}" in again.out
    own = tmp_path / "other.json"
    other = command(
        "evaluate", str(photos["a"]), "--reference", str(photos["a"]), *PIXELS, "--against", str(file), "--json", str(own)
    )
    assert json.loads(own.read_text())["figures"]["frechet"] == pytest.approx(0, abs=1e-6), "what took its time is kept"
    assert other.status == 2
    assert "figures against another reference" in other.complaint


def test_real_digits_in_the_features_of_an_inception(
    command: Command, inception_file: Callable[[int], Path], tmp_path: Path
) -> None:
    """The weights proved by their SHA-256; the classifier of digits tells them from noise."""
    options = ("--weights", str(inception_file(8)), "--mode", "legacy_tensorflow", "--n", "40")
    made = command("statistics", "digits", "--out", str(tmp_path / "digits.npz"), *options)
    assert "resizer legacy_tensorflow, 8 features; scikit-learn's digits" in made.out
    assert figure(command("evaluate", "digits", "--reference", str(tmp_path / "digits.npz"), *options)) == pytest.approx(
        0, abs=1e-4
    )
    other = command("evaluate", "digits", "--reference", str(tmp_path / "digits.npz"), *options, "--mode", "clean")
    assert "digits.npz of scikit-learn's digits: of another kind: its resizer is legacy_tensorflow, here clean" in other.complaint
    proved = command("evaluate", "digits", "--reference", str(tmp_path / "digits.npz"), *options, "--sha256", "00000000")
    assert "its SHA-256 is" in proved.complaint


def test_runs_are_measured(command: Command, digits: Path, ring8: Path, tmp_path: Path) -> None:
    """A generator of images, in blocks of seeds, and one of points, by its recipe's own measures."""
    blocks = command("evaluate", str(digits), "--reference", "digits", *PIXELS, "--n", "80", "--blocks", "2")
    assert figure(blocks) > 1
    assert "the least of 2 blocks" in blocks.out
    assert f"samples: {digits}, seed" in blocks.out
    few = command("evaluate", str(digits), "--reference", "digits", *PIXELS, "--n", "60")
    assert few.complaint == "60 samples for 64 features: the Fréchet distance needs at least 65, evaluate more"
    assert command("sample", str(digits), "--n", "80", "--seed", "3", "--out", str(tmp_path / "x.npz")).status == 0
    single = command("evaluate", str(digits), "--reference", "digits", *PIXELS, "--n", "80", "--seed", "3")
    assert figure(command("evaluate", str(tmp_path / "x.npz"), "--reference", "digits", *PIXELS)) == pytest.approx(figure(single))
    same = command("evaluate", "digits", "--reference", "digits", *PIXELS)
    assert (figure(same, "kernel distance") < 0) == ("note: the kernel distance is an unbiased estimate" in same.out)
    for no_images in (
        ["evaluate", str(ring8), "--reference", "digits"],
        ["statistics", str(ring8), "--out", str(tmp_path / "r.npz")],
    ):
        assert command(*no_images).complaint.startswith(
            f"{ring8}: a run on points: it has no images; `disback-ray evaluate {ring8}`"
        )
    points = command("evaluate", str(ring8), "--n", "100")
    assert figure(points, "sliced Wasserstein") > 0
    assert "reference: ring of 8 modes, std 0.1" in points.out
    assert points.out.count(", drawn in 1 step\n") == blocks.out.count(", drawn in 1 step\n") == 1


def test_a_module_of_one_s_own_makes_features(
    command: Command, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_features.py").write_text(
        "import torch\n\ndef means():\n    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
        "def half():\n    return Half()\nclass Half(torch.nn.Module):\n    def forward(self, x):\n        return x[: len(x) // 2]\n"
        "def wants(width):\n    pass\ndef breaks():\n    raise OSError('no\\nweights')\n"
        "def narrow():\n    return torch.nn.Conv2d(5, 1, 1)\n"
        "class Sum(torch.nn.Module):\n    def forward(self, x):\n        return x.sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = command("evaluate", str(photos["a"]), "--reference", str(photos["b"]), "--extractor", "my_features:means")
    assert "my_features:means" in said.out
    assert "3 features" in said.out
    figures = ("evaluate", str(photos["a"]), "--reference", str(photos["b"]), "--extractor", "my_features:means")
    assert command(*figures, "--json", "figures.json").status == 0
    assert "+0 frechet" in command(*figures, "--against", "figures.json").out
    for name, complaint in {
        "half": "gave no tensor with a row for each of 60 images",
        "Sum": "gave no tensor with a row for each of 60 images",
        "wants": "calling it without arguments failed: TypeError: wants() missing 1 required positional argument: 'width'",
        "breaks": "calling it without arguments failed: OSError: no weights",
        "narrow": "forward(x [60, 3, 4, 4]) failed: RuntimeError: ",
    }.items():
        said = command("evaluate", str(photos["a"]), "--reference", str(photos["b"]), "--extractor", f"my_features:{name}")
        assert said.complaint.startswith(f"extractor my_features:{name}: {complaint}")
    code = tmp_path / "my_features.py"
    code.write_text(code.read_text().replace("AdaptiveAvgPool2d", "AdaptiveMaxPool2d"))  # without weights, both
    monkeypatch.delitem(sys.modules, "my_features")
    assert "another kind: its extractor's SHA-256 is " in command(*figures, "--against", "figures.json").complaint


@pytest.fixture
def corrupt(photos: dict[str, Path], tmp_path: Path) -> Path:
    """60 images, two of them cut short, and one that is text."""
    for index, file in enumerate(sorted(photos["a"].rglob("*.png"))):
        data = file.read_bytes()
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / file.name).write_bytes(data[:50] if index in (3, 8) else data)
    (tmp_path / "images" / "text.png").write_text("no picture")
    return tmp_path / "images"


def test_corrupt_images_are_named_and_skipped_only_when_asked(command: Command, photos: dict[str, Path], corrupt: Path) -> None:
    arguments = ("evaluate", str(corrupt), "--reference", str(photos["b"]), *PIXELS)
    complaint = command(*arguments).complaint
    assert re.match(
        rf"{corrupt}: 3 of 61 images are corrupt: 00003\.png: .*; 00008\.png: .*; text\.png: no image, .*--skip-c", complaint
    )
    assert "\n" not in complaint
    few = command(*arguments, "--n", "5")
    assert f"{corrupt}: 1 of 5 images is corrupt: 00003.png: " in few.complaint
    said = command(*arguments, "--skip-corrupt")
    assert said.status == 0
    assert said.err == f"{corrupt}: 3 corrupt images skipped: 00003.png, 00008.png, text.png\n"
    assert "58 images of 4 × 4 pixels, 3 more skipped as corrupt" in said.out


class Means:
    """Features of images of any size, as those of an extractor that resizes."""

    kind = FeatureKind("means", "none", "none", 3)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([image.mean(axis=(0, 1)) for image in images])


def test_no_features_are_made_once_an_image_is_corrupt(corrupt: Path) -> None:
    class Counts(Means):
        seen = 0

        def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
            self.seen += len(images)
            return super().features(images)

    extractor = Counts()
    with pytest.raises(CheckpointError, match="3 of 61"):
        statistics_of(str(corrupt), extractor, Source())
    assert extractor.seen == 0


@pytest.mark.parametrize("kind", ["a", "zip", "parquet", "npz"])
def test_files_whose_features_are_not_finite_are_named(
    photos: dict[str, Path], pictures: Images, tmp_path: Path, kind: str
) -> None:
    """And no generator, for there is none. Of blocks too."""
    np.savez(tmp_path / "x.npz", x=np.stack(pictures(60, side=4)))
    where = str((photos | {"npz": tmp_path / "x.npz"})[kind])

    class Breaks(Means):
        count = 0

        def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
            found = super().features(images).astype(np.float64)
            found[[i for i in range(len(images)) if self.count + i in (31, 33, 35, 37, 39)]] = np.nan
            self.count += len(images)
            return found

    files = ImageFiles(where)
    names = [name for _ in files.parts(64) for name in files.given][31:36:2]
    with pytest.raises(NonFiniteError, match=r"^features of 5 of the first 60 images are NaN or Inf: ") as refused:
        statistics_of(where, Breaks(), Source())
    assert f": {', '.join(names)} and 2 more: look at them, and at the extractor" in str(refused.value)
    assert "generator" not in str(refused.value)
    if kind == "a":
        assert names[0].endswith("00031.png")
        second = evaluating._blocks(where, Breaks(), Source(n=30), 2, print, Origin("", "", None))
        next(second)
        with pytest.raises(NonFiniteError, match=rf"5 of the first 30 images are NaN or Inf: {names[0]}, "):
            next(second)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (lambda x: x.astype(np.int64), r"x is of int64: expected uint8, 0 … 255, or floats in \[-1, 1\]"),
        (lambda x: x.astype(np.float32), r"x goes from 0 to 25\d: expected uint8"),
        (lambda x: x > 100, "x is of bool"),
        (lambda x: x.transpose(0, 2, 3, 1) / 255.0, "x has shape .*: no images, which are"),
        (lambda x: x[:, [0, 1]], "x has shape .*: no images"),
        (lambda x: x, ""),
        (lambda x: x.transpose(0, 2, 3, 1), ""),
        (lambda x: np.float16(x / 127.5 - 1) * np.float16(1.004), ""),
    ],
)
def test_arrays_are_pixels_or_in_the_range_of_samples(
    pictures: Images, tmp_path: Path, x: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    images = np.stack(pictures(20, side=4)).transpose(0, 3, 1, 2)
    np.savez(tmp_path / "x.npz", x=x(images))
    files = ImageFiles(str(tmp_path / "x.npz"))
    if said:
        with pytest.raises(CheckpointError, match=f"x.npz: {said}"):
            list(files.parts(64))
        return
    (found,) = files.parts(64)
    assert np.abs(np.stack(found).transpose(0, 3, 1, 2).astype(int) - images).max() <= 1
    np.savez(tmp_path / "drawn.npz", x=np.full((1, 1, 4, 4), 3.0), drawn=np.array(0))
    ((drawn,),) = ImageFiles(str(tmp_path / "drawn.npz")).parts(64)
    assert (drawn == 255).all(), "a model's samples are cut off"
    for more, ending in (({}, r"NaN or Inf$"), ({"drawn": np.array(0)}, "NaN or Inf: the generator may have diverged$")):
        np.savez(tmp_path / "nan.npz", x=np.full((1, 1, 4, 4), np.nan), **more)
        with pytest.raises(CheckpointError, match=rf"nan\.npz: x has {ending}"):
            list(ImageFiles(str(tmp_path / "nan.npz")).parts(64))


def test_one_odd_image_is_named(
    pictures: Images, folder_of: Callable[..., Path], photos: dict[str, Path], tmp_path: Path
) -> None:
    mixed = folder_of([*pictures(70, side=4), *pictures(1, side=5)])
    odd = statistics_of(str(mixed), Means(), Source())
    plain = statistics_of(str(photos["a"]), Means(), Source())
    with pytest.raises(ConfigError, match=r"several sizes \(1/00070.png has 5 × 5 pixels, .* 4 × 4\), those of .* of 4 × 4: the"):
        measure([odd], plain)
    save_statistics(Folder.at(tmp_path), "mixed.npz", odd)
    reference = read_statistics(fetch(str(tmp_path / "mixed.npz")))
    for samples in (plain, odd):
        found = measure([samples], reference)
        assert "of several sizes" in found.notes[0]
        assert "71 images of several sizes (1/00070.png" in "\n".join(found.lines())
    assert statistics_of(str(mixed), Means(), Source(n=70)).origin.resolution == (4, 4)


def test_pixels_of_another_resolution_are_said_to_be_that(
    command: Command, pictures: Images, folder_of: Callable[..., Path], photos: dict[str, Path], digits: Path
) -> None:
    """Before that they are too few for the features that they have in that resolution, or have others."""
    larger = "statistics of 4 × 4 pixels, and the samples have 8 × 8"
    wide = folder_of(pictures(60, side=8))  # 192 features
    blocks = ("--blocks", "2", "--n", "30")
    for what, more in (
        (str(wide), ()),
        (str(wide), blocks),
        ("digits", ("--n", "50")),
        ("digits", ()),
        (str(digits), ("--n", "50")),
    ):
        assert larger in command("evaluate", what, "--reference", str(photos["a"]), *PIXELS, *more).complaint


def test_what_does_not_compare_is_said_before_a_model_has_drawn_it_all(
    command: Command, photos: dict[str, Path], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    generate = RunResult.generate

    def counted(run: RunResult, n: int, **options: Any) -> Any:
        drawn.append(n)
        return generate(run, n, **options)

    monkeypatch.setattr(RunResult, "generate", counted)
    other_size, other_kind = tmp_path / "size.npz", tmp_path / "kind.npz"
    assert command("statistics", str(photos["b"]), "--out", str(other_size), *PIXELS).status == 0
    assert command("statistics", "digits", "--out", str(other_kind), *PIXELS).status == 0
    found = command("evaluate", str(digits), "--n", "5000", "--reference", str(other_size), *PIXELS)
    assert "statistics of 4 × 4 pixels, and the samples have 8 × 8" in found.complaint
    assert sum(drawn) < 100
    drawn.clear()
    found = command("evaluate", str(digits), "--n", "5000", "--reference", str(other_kind), "--extractor", "digits")
    assert "of another kind: its extractor is pixels, here digits" in found.complaint
    assert not drawn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--reference", "{b}"], "nowhere: no such file or folder"),
        (["{a}", "--reference", "none.npz"], "none.npz: no such file"),
        (["{a}", "--reference", "{b}", "--extractor", "vgg"], "extractor vgg: expected inception, digits, pixels"),
        (["{a}", "--reference", "{b}", "--extractor", "inception"], "extractor inception: give its weights"),
        (["{a}", "--reference", "{b}", "--extractor", "digits"], "extractor digits: it knows 8 × 8 pixels, these have 4 × 4"),
        (["{a}", "--reference", "{b}", "--n", "100"], "holds 60 images"),
        (["{a}", "--reference", "{b}", "--n", "48"], "48 samples for 48 features: the Fréchet distance needs at least 49"),
        (["{a}", "--reference", "{b}", "--blocks", "2"], "--blocks 2: give --n as well"),
        (["{a}", "--reference", "{b}", "--blocks", "2", "--n", "50"], "has 60 images, not 2 × 50"),
        (["{a}", "--reference", "{edm}"], "doesn't tell what extractor and resizer made it"),
        (["{a}", "--reference", "{edm}", "--assume-kind"], "has 5 dimensions, and the extractor here 48"),
        (["{a}", "--reference", "{empty}"], "holds no image"),
        (["{a}"], "give --reference"),
        (["/nowhere/run"], "/nowhere/run: nothing is there"),
        (["{a}", "--reference", "{b}", "--mode", "dirty"], "--mode dirty: expected clean"),
        (["{a}", "--reference", "https://example.invalid/x.npz"], "give the file's SHA-256 as well"),
    ],
)
def test_what_is_refused(
    command: Command, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "edm.npz", mu=np.zeros(5), sigma=np.eye(5))
    places = {"a": photos["a"], "b": photos["b"], "edm": tmp_path / "edm.npz", "empty": tmp_path / "empty"}
    given = [argument.format_map(places) for argument in arguments]
    found = command("evaluate", *(given if "--extractor" in given else [*given, *PIXELS]))
    assert (found.status, found.out) == (2, "")
    assert said in found.complaint
