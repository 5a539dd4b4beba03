"""Images in the cache: what is drawn from them, corrupt ones, and that all is made once and whole."""

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disback_ray.algorithms.noise import Batch
from disback_ray.data import prepared as file
from disback_ray.data.prepared import Decoded, PreparedImages, class_names, decode_here, prepare, skipped
from disback_ray.data.sources import ImagesData
from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    file._opened.cache_clear()


def made(where: Path, cache: Path, **settings: Any) -> PreparedImages:
    data = ImagesData(str(where), **({"resolution": 8, "grey": True} | settings))
    return prepare(data, Folder.at(cache), decode=decode_here, report=lambda done, count: None)


def test_three_forms_are_one_data_set(digits_kept: Any, tmp_path: Path) -> None:
    found = [made(where, tmp_path, conditional=True) for where in digits_kept.all]
    assert len({each.sha256 for each in found}) == 1
    assert [each.identity for each in found] == [found[0].identity] * 3
    assert found[0].count == 150
    assert class_names(found[1]) == list("0123456789")
    plain = made(digits_kept.zip, tmp_path)
    assert plain.sha256 != found[0].sha256
    assert plain.classes == 0


def test_what_is_drawn_is_keyed_by_the_sample(digits_kept: Any, tmp_path: Path) -> None:
    data = made(digits_kept.folder, tmp_path, conditional=True)
    whole = data.draw(Batch(3, "teacher", 7, 0, 100))
    parts = [data.draw(Batch(3, "teacher", 7, first, 25)) for first in (75, 0, 50, 25)]
    assert torch.equal(whole.x, torch.cat([parts[index].x for index in (1, 3, 2, 0)]))
    assert whole.condition is not None
    chosen = Batch(3, "teacher", 7, 0, 100).integers("data", 150)
    labels = torch.tensor([label for *_, label in digits_kept.files])
    assert torch.equal(whole.condition, labels[chosen])
    assert torch.equal(whole.x, torch.from_numpy(data.pixels()[chosen.numpy()]).float() / 127.5 - 1)
    assert whole.x.min() == -1
    assert whole.x.max() == 1
    assert made(digits_kept.folder, tmp_path).draw(Batch(3, "teacher", 7, 0, 4)).condition is None


def test_it_travels_without_its_pixels(digits_kept: Any, tmp_path: Path) -> None:
    data = made(digits_kept.folder, tmp_path)
    data.draw(Batch(0, "teacher", 0, 0, 4))
    sent = pickle.dumps(data)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent).draw(Batch(0, "teacher", 0, 0, 4)).x, data.draw(Batch(0, "teacher", 0, 0, 4)).x)


def test_storage_that_cannot_be_mapped_is_copied(digits_kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(digits_kept.folder, tmp_path)
    local = np.array(data.pixels())
    file._opened.cache_clear()
    monkeypatch.setattr(Folder, "is_local", property(lambda self: False))
    monkeypatch.setattr(Folder, "local_path", property(lambda self: pytest.fail("it isn't here")))
    assert np.array_equal(data.pixels(), local)


def test_it_is_made_once_for_the_same_files(digits_kept: Any, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(shares: Sequence[Any], data: ImagesData) -> Any:
        calls.append(len(shares))
        return decode_here(shares, data)

    def again(where: Path) -> PreparedImages:
        data = ImagesData(str(where), 8, grey=True)
        return prepare(data, Folder.at(tmp_path / "cache"), decode=counted, report=lambda done, count: None)

    zipped = tmp_path / "a.zip"
    zipped.write_bytes(digits_kept.zip.read_bytes())
    first = again(zipped)
    assert again(zipped) == first
    assert len(calls) == 1
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("in/9/99999.png", digits_kept.files[0][1])
    changed = again(zipped)
    assert len(calls) == 2
    assert (changed.count, first.count) == (151, 150)
    assert changed.sha256 != first.sha256


@pytest.fixture
def torn(digits_kept: Any, tmp_path: Path) -> Path:
    """The digits with three images that can't be read, and one that is empty."""
    folder = tmp_path / "torn"
    for name, data, _ in digits_kept.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for index in (5, 77, 149):
        name, data, _ = digits_kept.files[index]
        (folder / name).write_bytes(data[:40])
    (folder / digits_kept.files[80][0]).write_bytes(b"")
    return folder


def test_corrupt_images_are_named_and_nothing_is_left(torn: Path, tmp_path: Path, digits_kept: Any) -> None:
    with pytest.raises(CheckpointError) as refused:
        made(torn, tmp_path / "cache")
    said = str(refused.value)
    assert said.startswith(f"{torn}: corrupt: {digits_kept.files[5][0]}: ")
    assert digits_kept.files[77][0] in said
    assert "--skip-corrupt" in said
    assert "\n" not in said
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_corrupt_images_are_left_out_with_their_labels(torn: Path, tmp_path: Path, digits_kept: Any) -> None:
    data = made(torn, tmp_path / "cache", conditional=True, skip_corrupt=True)
    assert data.count == 146
    assert [name for name, _ in skipped(data)] == [digits_kept.files[index][0] for index in (5, 77, 80, 149)]
    whole = made(digits_kept.folder, tmp_path / "cache", conditional=True)
    kept = [index for index in range(150) if index not in (5, 77, 80, 149)]
    assert np.array_equal(data.pixels(), whole.pixels()[kept])
    _, labels = file._opened(data.folder, data.count, data.shape)
    assert labels.tolist() == [digits_kept.files[index][2] for index in kept]


def test_nothing_but_corrupt_images(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.png").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"none of its 1 images can be read; .*a\.png: no image, or damaged from its start"):
        made(tmp_path / "all", tmp_path / "cache", skip_corrupt=True)


def test_a_zip_s_damaged_member_is_one_corrupt_image(digits_kept: Any, tmp_path: Path) -> None:
    data = bytearray(digits_kept.zip.read_bytes())
    at = data.index(digits_kept.files[3][1])
    data[at + 20 : at + 30] = bytes(10)
    (tmp_path / "a.zip").write_bytes(data)
    found = made(tmp_path / "a.zip", tmp_path / "cache", skip_corrupt=True)
    ((name, reason),) = skipped(found)
    assert (name, reason[:20]) == (f"in/{digits_kept.files[3][0]}", "damaged in the zip: ")
    assert len(reason) > 20


def test_files_that_changed_while_they_were_read(digits_kept: Any, tmp_path: Path) -> None:
    def short(shares: Sequence[Any], data: ImagesData) -> Iterator[Decoded]:
        return iter(list(decode_here(shares, data))[:-1])

    with pytest.raises(CheckpointError, match="changed while it was read: 150 images were listed, and "):
        prepare(ImagesData(str(digits_kept.zip), 8), Folder.at(tmp_path), decode=short, report=lambda done, count: None)


def test_a_damaged_cache_is_said(digits_kept: Any, tmp_path: Path) -> None:
    data = made(digits_kept.folder, tmp_path)
    (data.folder.local_path / "pixels.uint8").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"pixels\.uint8 is missing or cut short: delete that folder"):
        data.draw(Batch(0, "teacher", 0, 0, 4))


def test_what_is_said_on_the_way(digits_kept: Any, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report: Callable[[int, int], None] = lambda done, count: told.append((done, count))
    prepare(ImagesData(str(digits_kept.parquet), 8), Folder.at(tmp_path), decode=decode_here, report=report)
    assert told == [(50, 150), (100, 150), (150, 150)]
