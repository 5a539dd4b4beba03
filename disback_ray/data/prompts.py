"""Prompts from a text file, one a line, or from a column of a parquet file."""

import io
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from disback_ray.data.shares import listed, refuse_crowd, values
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.storage import DAMAGED_ARROW, Folder, only, open_parquet

COLUMNS = ("prompt", "caption", "text", "TEXT")
"""Of a parquet file, where no column is named: the first that is there. The last is LAION's."""

MOST_BYTES = 1 << 28
"""Of a parquet file's unpacked texts, unless it has a hundredth of that itself."""

Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class PromptsData:
    """Prompts for a text-to-image teacher. file: .txt or .parquet; column: of a parquet file; embeddings: the type they are kept in."""

    file: str
    column: str | None = None
    embeddings: Precision = "float32"
    kind: Literal["prompts"] = "prompts"


@dataclass(frozen=True)
class Prompts:
    """texts: none is empty. where: the key and the file; unit: what its prompts are, 'line' or 'row'."""

    texts: tuple[str, ...]
    where: str
    unit: str

    def __len__(self) -> int:
        return len(self.texts)

    def place(self, index: int) -> str:
        """Where a prompt stands, for errors: 'data.file: prompts.txt, line 3'."""
        return f"{self.where}, {self.unit} {index + 1}"


def read_prompts(data: PromptsData, *, key: str = "data.file:") -> Prompts:
    """key: what named the file, as errors begin. Raises ConfigError, which names the line, for no file, no prompt, or an empty one."""
    where = f"{key} {data.file}"
    folder, name = Folder.of_file(data.file)
    if folder.size(name) is None:
        raise ConfigError(f"{where}: no such file")
    try:
        content = folder.read(name)
    except CheckpointError as error:
        raise ConfigError(f"{key} {error}") from None
    if data.file.endswith(".parquet"):
        prompts = Prompts(tuple(_column(content, data, where)), where, "row")
    else:
        prompts = Prompts(tuple(text.strip() for text in _lines(content, data, where)), where, "line")
    if not prompts.texts:
        raise ConfigError(f"{where}: holds no prompts")
    for index, text in enumerate(prompts.texts):
        if not text:
            raise ConfigError(f"{prompts.place(index)}: empty; give a prompt, or delete the {prompts.unit}")
    return prompts


def _lines(content: bytes, data: PromptsData, where: str) -> list[str]:
    if data.column is not None:
        raise ConfigError(f"data.column: {data.column}: {data.file} is no .parquet file, and has none")
    try:
        # Lines as an editor counts them: str.splitlines would also cut a caption at a form feed or at U+2028.
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return text.removesuffix("\n").split("\n") if text else []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{where}, line {line}: not UTF-8 text") from None


def _column(content: bytes, data: PromptsData, where: str) -> list[str]:
    try:
        found = open_parquet(io.BytesIO(content), repeated=[data.column] if data.column else COLUMNS)
        there = found.schema_arrow.names
        name = data.column or next((column for column in COLUMNS if column in there), None)
        if name is None or name not in there:
            has = f"it has {listed(there) or 'none'}"
            if data.column:
                raise ConfigError(f"data.column: {data.file}: no column {data.column!r}; {has}")
            raise ConfigError(f"{where}: none of the columns {', '.join(COLUMNS)}; {has}")
        kind = found.schema_arrow.field(only(there, name)).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind  # as pandas writes categories
        if not any(is_text(plain) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
            raise ConfigError(f"{where}: column {name!r} holds {kind}, not text")
        _refuse_if_large(found.metadata, name, size=len(content), where=where)
        texts = values(found.read(columns=[name]).column(name))
    except DAMAGED_ARROW as error:
        raise ConfigError(f"{where}: no parquet file, or damaged: {str(error).splitlines()[0]}") from None
    stripped = {text: (text or "").strip() for text in set(texts)}
    return [stripped[text] for text in texts]


def _refuse_if_large(about: pq.FileMetaData, column: str, *, size: int, where: str) -> None:
    """A small file may say of itself what fills the memory. Raises ConfigError, and ArrowInvalid."""
    refuse_crowd(about, size=size)
    unpacked = sum(
        chunk.total_uncompressed_size
        for group in (about.row_group(index) for index in range(about.num_row_groups))
        for chunk in (group.column(index) for index in range(group.num_columns))
        if chunk.path_in_schema == column
    )
    if unpacked > max(MOST_BYTES, 100 * size):
        raise ConfigError(
            f"{where}: its texts unpack from {size:,} bytes to {unpacked:,}; at most {MOST_BYTES:,} are read of so small a file"
        )
