"""What a folder, a zip and a parquet file hold: one order, the same labels, and what is refused."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disback_ray.data.listing import Listing, listing
from disback_ray.data.shares import values
from disback_ray.errors import CheckpointError

PNG = b"never decoded here"


def names(found: Listing) -> list[str]:
    return [name for share in found.shares for name, _ in share.read()]


def folder(root: Path, *files: str, **texts: str) -> str:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(PNG)
    for name, text in texts.items():
        (root / f"{name}.json").write_text(text)
    return str(root)


def zipped(file: Path, *members: Any) -> str:
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, PNG)
    return str(file)


def refusal(where: str, *, labelled: bool = True) -> str:
    with pytest.raises(CheckpointError) as refused:
        listing(where, labelled=labelled)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_three_forms_hold_the_same(digits_kept: Any) -> None:
    found = [listing(str(where), labelled=True) for where in digits_kept.all]
    wanted = [data for _, data, _ in digits_kept.files]
    for each in found:
        assert [data for share in each.shares for _, data in share.read()] == wanted
        assert each.labels is not None
        assert each.labels.tolist() == [label for *_, label in digits_kept.files]
        assert each.classes == tuple("0123456789")
        assert each.count == len(wanted)
    assert len({each.fingerprint for each in found}) == 3


def test_folders_are_classes_and_numbers_go_by_their_size(tmp_path: Path) -> None:
    found = listing(folder(tmp_path / "n", "10/a.png", "9/b.jpg", "9/deep/c.PNG", "9/notes.txt", "9/.hidden.png"), labelled=True)
    assert names(found) == ["10/a.png", "9/b.jpg", "9/deep/c.PNG"]
    assert found.classes == ("9", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 0]
    words = listing(folder(tmp_path / "w", "cat/a.png", "ant/b.png"), labelled=True)
    assert words.classes == ("ant", "cat")
    assert listing(folder(tmp_path / "u", "cat/a.png"), labelled=False).labels is None


@pytest.mark.parametrize("links", [{"a/back": ".."}, {"a/self": "."}, {"a/to": "../b", "b/fro": "../a"}])
def test_a_link_back_to_a_folder_around_it_is_refused(tmp_path: Path, links: dict[str, str]) -> None:
    """Followed until the kernel's limit, it made each image count 40 times, and two in one folder made it 2⁴⁰."""
    where = folder(tmp_path / "data", "a/1.png", "b/2.png")
    for link, target in links.items():
        (tmp_path / "data" / link).symlink_to(target)
    assert "a symbolic link back to" in refusal(where, labelled=False)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", "2.png")
    where = folder(tmp_path / "data", "a/1.png")
    (tmp_path / "data" / "b").symlink_to("../elsewhere")
    assert names(listing(where, labelled=True)) == ["a/1.png", "b/2.png"]


def test_dataset_json_goes_before_folders(tmp_path: Path) -> None:
    said = json.dumps({"labels": [["00000\\a.png", 2], ["00000/b.png", 0]]})
    found = listing(folder(tmp_path, "00000/a.png", "00000/b.png", dataset=said), labelled=True)
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0]
    assert found.classes == ("0", "1", "2")


def test_folders_around_all_of_it_count_for_nothing(tmp_path: Path) -> None:
    """As `zip -r` makes them of a folder."""
    around = listing(zipped(tmp_path / "a.zip", "photos/train/cat/a.png", "photos/train/dog/b.png"), labelled=True)
    assert (around.classes, names(around)) == (("cat", "dog"), ["photos/train/cat/a.png", "photos/train/dog/b.png"])
    assert listing(folder(tmp_path / "one", "cat/a.png", "cat/b.png"), labelled=True).classes == ("cat",)
    said = json.dumps({"labels": [["0/a.png", 1], ["1/b.png", 0]]})
    folder(tmp_path / "in", "x/set/0/a.png", "x/set/1/b.png")
    (tmp_path / "in" / "x" / "set" / "dataset.json").write_text(said)
    found = listing(str(tmp_path / "in"), labelled=True)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('{"labels": [["a.png", null], ["b.png", 0]]}', "a label is None"),
        ('{"labels": null}', "has no labels"),
        ('{"labels": [["a.png", 1]]}', "has no label for 'b.png', nor for 0 more"),
        ('{"labels": [["a.png", -1], ["b.png", 0]]}', "a label is -1: expected whole numbers from 0, or words"),
        ('{"labels": [["a.png", 1.5], ["b.png", 0]]}', "a label is 1.5"),
        ('{"labels": [["a.png", true], ["b.png", 0]]}', "a label is True"),
        ('{"labels": [["a.png", 99999999], ["b.png", 0]]}', "a label is 99999999"),
        ('{"labels": 3}', 'expected {"labels": [[name, label], …]}'),
        ("[]", 'expected {"labels": [[name, label], …]}'),
        ("{", 'expected {"labels": [[name, label], …]}'),
    ],
)
def test_labels_that_are_none(tmp_path: Path, said: str, why: str) -> None:
    assert why in refusal(folder(tmp_path, "a.png", "b.png", dataset=said))
    assert listing(str(tmp_path), labelled=False).count == 2, "who asks for no labels isn't told of them"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (["../out.png"], "a member would lie outside of it: '../out.png'"),
        (["in/../../out.png"], "a member would lie outside"),
        (["/etc/out.png"], "a member would lie outside"),
        (["..\\out.png"], "a member would lie outside"),
        (["C:out.png"], "a member would lie outside"),
        (["notes.txt"], "holds no images"),
    ],
)
def test_zips_that_are_refused(tmp_path: Path, members: list[str], why: str) -> None:
    assert why in refusal(zipped(tmp_path / "a.zip", *members), labelled=False)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    assert "two members are named 'a.png'" in refusal(zipped(tmp_path / "a.zip", "a.png", "a.png"), labelled=False)


def test_members_that_overlap(tmp_path: Path) -> None:
    """The quine of zip bombs: many entries of one stretch of bytes."""
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", bytes(1000))
        for number in range(20):
            copy = zipfile.ZipInfo(f"{number}.png")
            first = archive.infolist()[0]
            for key in ("compress_size", "file_size", "header_offset", "CRC", "flag_bits", "compress_type"):
                setattr(copy, key, getattr(first, key))
            archive.filelist.append(copy)
    assert "its members overlap one another (a zip bomb)" in refusal(str(file), labelled=False)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(str(tmp_path / "nowhere"))
    assert "holds no images" in refusal(str(tmp_path))
    for name in ("a.zip", "a.parquet"):
        for data in (b"", b"PK\x03\x04 torn", struct.pack("<4sI", b"PAR1", 7)):
            (tmp_path / name).write_bytes(data)
            assert "or damaged" in refusal(str(tmp_path / name))
    (tmp_path / "a.tar").write_bytes(b"x")
    assert "expected a folder of images, a .zip or a .parquet file" in refusal(str(tmp_path / "a.tar"))


def parquet(file: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), file)
    return str(file)


def test_columns_by_other_names_and_in_several_files(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    parquet(parts / "train-1.parquet", img=[b"c"], label=["cat"])
    parquet(parts / "train-0.parquet", img=[b"a", b"b"], label=["dog", "cat"])
    found = listing(str(parts), labelled=True)
    assert [data for share in found.shares for _, data in share.read()] == [b"a", b"b", b"c"]
    assert names(found) == ["train-0.parquet row 0", "train-0.parquet row 1", "train-1.parquet row 0"]
    assert found.classes == ("cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 0]


def test_hugging_face_s_names_of_classes(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["plane", "car", "bird"]}}}}
    table = pa.table({"image": [{"bytes": b"x", "path": None}], "label": [1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "a.parquet")
    assert listing(str(tmp_path / "a.parquet"), labelled=True).classes == ("plane", "car", "bird")


def test_a_word_that_labels_many_rows_is_kept_once(tmp_path: Path) -> None:
    """200 MB of words in a few kB."""
    file = parquet(tmp_path / "a.parquet", label=["b" * 200_000] * 1000 + ["c", None])
    assert Path(file).stat().st_size < 50_000
    found = values(pq.ParquetFile(file, read_dictionary=["label"]).read().column(0))
    assert (len(found), len({id(label) for label in found}), found[-2:]) == (1002, 3, ["c", None])


def test_parquet_files_that_are_refused(tmp_path: Path) -> None:
    assert "no column image, img, jpg, png, image.bytes or bytes of images; its columns are x, y" in refusal(
        parquet(tmp_path / "a.parquet", x=[1], y=[2])
    )
    assert "its columns are a b" in refusal(parquet(tmp_path / "n.parquet", **{"a\nb": [1]}))
    assert "column image is string: expected encoded images" in refusal(parquet(tmp_path / "b.parquet", image=["a.png"]))
    assert "has no labels" in refusal(parquet(tmp_path / "c.parquet", image=[b"x"]))
    assert "a label is -1" in refusal(parquet(tmp_path / "d.parquet", image=[b"x"], label=[-1]))
    assert "holds no images" in refusal(parquet(tmp_path / "e.parquet", image=pa.array([], pa.binary())), labelled=False)
    for names in (["image", "image", "label"], ["image", "label", "label"]):
        columns = [pa.array([b"x"]) if name == "image" else pa.array([0]) for name in names]
        pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "g.parquet")
        assert f"2 columns are named {names[1]!r}" in refusal(str(tmp_path / "g.parquet"))
    nothing = parquet(tmp_path / "f.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.int64()))
    assert "holds no images" in refusal(nothing)
