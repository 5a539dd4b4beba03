"""Prompts from text and parquet files, and one line for each that can't be used."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disback_ray.data import prompts, shares
from disback_ray.data.prompts import PromptsData, read_prompts
from disback_ray.errors import ConfigError


def written(folder: Path, content: bytes | dict[str, list[object]]) -> str:
    file = folder / ("prompts.txt" if isinstance(content, bytes) else "prompts.parquet")
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pq.write_table(pa.table(content), file)
    return str(file)


@pytest.mark.parametrize("content", ["a cat\na dög\n", "\ufeffa cat\r\n  a dög", "a cat\na dög"])
def test_a_text_file_has_one_a_line(tmp_path: Path, content: str) -> None:
    prompts = read_prompts(PromptsData(written(tmp_path, content.encode())))
    assert prompts.texts == ("a cat", "a dög")
    assert prompts.place(1).endswith("prompts.txt, line 2")


def test_a_line_is_what_an_editor_calls_one(tmp_path: Path) -> None:
    """str.splitlines cuts at form feeds and U+2028 too: one caption more, and all numbers after it are others."""
    prompts = read_prompts(PromptsData(written(tmp_path, "a\u2028cat\rtwo\x0cdogs\r\nthree\x85\n".encode())))
    assert prompts.texts == ("a\u2028cat", "two\x0cdogs", "three")


@pytest.mark.parametrize("named", [None, "caption"])
def test_a_parquet_file_has_one_a_row(tmp_path: Path, named: str | None) -> None:
    file = written(tmp_path, {"id": [1, 2], "caption": ["a cat", "a dog"], "TEXT": ["x", "y"]})
    prompts = read_prompts(PromptsData(file, column=named))
    assert prompts.texts == ("a cat", "a dog")
    assert prompts.place(0).endswith("prompts.parquet, row 1")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_is_text_however_arrow_keeps_it(tmp_path: Path, kind: pa.DataType) -> None:
    """A pandas category is a dictionary."""
    texts = pa.array(["a cat", "a dog", "a cat"]).cast(kind)
    assert read_prompts(PromptsData(written(tmp_path, {"prompt": texts}))).texts == ("a cat", "a dog", "a cat")


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (b"a cat\n \na dog\n", None, "prompts.txt, line 2: empty; give a prompt, or delete the line"),
        (b"", None, "holds no prompts"),
        (b"a cat\nd\xf6g\n", None, "line 2: not UTF-8 text"),
        (b"a cat\n", "prompt", "data.column: prompt: "),
        ({"prompt": ["a cat", None]}, None, "prompts.parquet, row 2: empty"),
        ({"prompt": pa.array([], pa.string())}, None, "holds no prompts"),
        ({"prompt": ["a cat"], "id": [1]}, "promt", "no column 'promt'; it has prompt, id"),
        ({"id": [1]}, None, "none of the columns prompt, caption, text, TEXT; it has id"),
        ({"a\nb": [1]}, None, "it has a b"),
        ({"prompt": [1]}, None, "column 'prompt' holds int64, not text"),
    ],
)
def test_what_can_t_be_used_is_said_with_its_line(
    tmp_path: Path, content: bytes | dict[str, list[object]], column: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_prompts(PromptsData(written(tmp_path, content), column))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_prompts(PromptsData(str(tmp_path / "none.txt")))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"prompt": pa.array([b"\xff"]).cast(pa.string(), safe=False)}), tmp_path / "not-utf-8.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "twice.parquet")
    for name in ("damaged", "not-utf-8", "twice"):
        with pytest.raises(ConfigError, match="no parquet file, or damaged"):
            read_prompts(PromptsData(str(tmp_path / f"{name}.parquet")))


def test_a_text_of_many_rows_is_kept_once(tmp_path: Path) -> None:
    """100 MB of text in a few kB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 999 + [1, None], pa.int32()), pa.array([" " + "a" * 100_000, "b"]))
    file = written(tmp_path, {"prompt": texts.slice(0, 1000)})
    found = read_prompts(PromptsData(file)).texts
    assert (len(found), found[0], found[-1]) == (1000, "a" * 100_000, "b")
    assert len({id(text) for text in found}) == 2
    with pytest.raises(ConfigError, match="row 1001: empty"):
        read_prompts(PromptsData(written(tmp_path, {"prompt": texts})))


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, {"id": [0] * 500, "prompt": ["a" * 100_000] * 500})
    size = Path(file).stat().st_size
    assert size < 25_000
    monkeypatch.setattr(prompts, "MOST_BYTES", 90_000)
    assert len(read_prompts(PromptsData(file))) == 500, "its own size allows for a hundred times as much"
    monkeypatch.setattr(shares, "MOST_ROWS", 400)
    assert len(read_prompts(PromptsData(file))) == 500
    long = str(tmp_path / "long.parquet")
    pq.write_table(pa.table({"prompt": ["a" * 1_000_000]}), long, compression="zstd")
    with pytest.raises(ConfigError, match=r"its texts unpack from [\d,]+ bytes to 1,000,0\d\d; at most 90,000 are read"):
        read_prompts(PromptsData(long))
    many = str(tmp_path / "many.parquet")
    pq.write_table(pa.table({"prompt": ["a"] * 5000}), many)
    with pytest.raises(ConfigError, match=r"5,000 rows in [\d,]+ bytes; at most 400 are read"):
        read_prompts(PromptsData(many))
