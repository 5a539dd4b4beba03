"""metrics.parquet: what each step has measured."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from disback_ray.errors import CheckpointError
from disback_ray.evaluation.looks import SIGMAS
from disback_ray.run_folder.layout import CHECKPOINTS, MANIFEST, METRICS, STAGES
from disback_ray.storage import DAMAGED_ARROW, Folder, only, open_parquet

DAMAGED_METRICS = "metrics.damaged.parquet"
FLUSH_SECONDS = 5.0
TRAINED = ("fake_loss", "fake_grad_norm", "field_norm", "generator_grad_norm")
MEASURED = ("frechet", "accuracy", "sliced_wasserstein", "energy_distance", "modes", "in_modes")
LOOKED = ("mismatch", "fake_mismatch", "spread", "target_gap", *(f"gap_{sigma:g}" for sigma in SIGMAS))
NUMBERS = ("seconds", *TRAINED, *MEASURED, *LOOKED)


class Metrics:
    """metrics.parquet: one row a step. Rewritten now and then, whole each time, so that it can always be read."""

    schema = pa.schema(
        [("stage", pa.string()), ("step", pa.int64()), ("node", pa.int64()), *((name, pa.float64()) for name in NUMBERS)]
    )

    def __init__(self, folder: Folder, *, may_write: Callable[[], None] = lambda: None) -> None:
        """Goes on from the folder's file, where it has one. may_write: raises where the folder is another driver's by now.

        Raises CheckpointError where the file is damaged.
        """
        self.folder, self.may_write = folder, may_write
        self.rows: list[dict[str, Any]] = []
        self.early: dict[tuple[str, int], dict[str, float]] = {}
        self.flushed = time.monotonic()
        self.cost = 0.0
        if folder.has(METRICS):
            try:
                self.rows = self._read(folder.read(METRICS)).to_pylist()
            except DAMAGED_ARROW as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise CheckpointError(f"{folder.uri}/{METRICS} is damaged: {reason}") from None

    def _read(self, data: bytes) -> pa.Table:
        """The columns that are known, of the types that they have. Raises what DAMAGED_ARROW says."""
        found = open_parquet(io.BytesIO(data), repeated=["stage"])
        if found.metadata.num_rows > len(data):  # the seconds of each row are others
            raise pa.ArrowInvalid(f"{found.metadata.num_rows:,} rows in {len(data):,} bytes")
        there = found.schema_arrow.names
        names = [only(there, name) for name in self.schema.names if name in there]
        if not {"stage", "step", "seconds"} <= set(names):
            raise pa.ArrowInvalid("its columns are not a run's")
        table = found.read(columns=names)
        if not set(table.column("stage").unique().to_pylist()) <= set(STAGES):
            raise pa.ArrowInvalid("its stages are not a run's")
        table = table.cast(pa.schema([self.schema.field(name) for name in table.column_names]))
        if table.column("step").null_count or table.column("seconds").null_count:
            raise pa.ArrowInvalid("rows without a step or a time")
        return table

    @classmethod
    def of_run(cls, folder: Folder, *, say: Callable[[str], None], may_write: Callable[[], None] = lambda: None) -> Self:
        """The same for a run that goes on: a damaged file is set aside, and its rows are missed. What is missed is said."""
        if not folder.has(METRICS) and any(
            (folder / CHECKPOINTS / name).has(MANIFEST) for name in (folder / CHECKPOINTS).names()
        ):
            say(f"{folder.uri}/{METRICS} is gone: the run goes on without its rows")
        try:
            return cls(folder, may_write=may_write)
        except CheckpointError as error:
            folder.write(DAMAGED_METRICS, folder.read(METRICS))
            folder.remove(METRICS)
            say(f"{error}: it is {DAMAGED_METRICS} now, and the run goes on without its rows")
            return cls(folder, may_write=may_write)

    def forget_after(self, stage: str, step: int, *, order: Sequence[str]) -> None:
        """Drops rows of steps that will be made again: those of `stage` after `step`, and of later stages; the rest is put in order."""
        later = order[order.index(stage) + 1 :]
        stay = [row for row in self.rows if row["stage"] not in later and (row["stage"] != stage or row["step"] <= step)]
        self.rows = sorted(stay, key=lambda row: (STAGES.index(row["stage"]), row["step"]))

    @property
    def seconds(self) -> float:
        """How long the run had taken at the last row."""
        return float(max((row["seconds"] for row in self.rows), default=0.0))

    def add(self, row: dict[str, Any]) -> None:
        """Takes a step's numbers; writes when it is time, so that writing takes at most a fiftieth of it."""
        self.rows.append(row | self.early.pop((row["stage"], row["step"]), {}))
        if time.monotonic() - self.flushed > max(FLUSH_SECONDS, 50 * self.cost):
            self.flush()

    def amend(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        """Adds what was measured after a step to its row, be it there already or not."""
        for row in reversed(self.rows):
            if row["stage"] == stage and row["step"] == step:
                row.update(numbers)
                return
        self.early.setdefault((stage, step), {}).update(numbers)

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, schema=self.schema)

    def flush(self) -> None:
        """Raises CheckpointError, and what may_write raises."""
        self.may_write()
        start = time.monotonic()
        sink = io.BytesIO()
        pq.write_table(self.table(), sink, write_page_checksum=True)
        self.folder.write(METRICS, sink.getvalue())
        self.flushed = time.monotonic()
        self.cost = self.flushed - start
