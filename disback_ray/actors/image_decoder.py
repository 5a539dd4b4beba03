"""Ray Data decodes a data set all over the cluster, a share of images in each task, and gives the shares in their order."""

import logging
import pickle
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from disback_ray.data.prepared import Decoded, decoded
from disback_ray.data.shares import Share
from disback_ray.data.sources import ImagesData
from disback_ray.errors import CheckpointError, ClusterError


class _Decode:
    """What a task does: a row with a share → a row with its images, or with what is wrong.

    Both are pickled here: Arrow has no types for them, and Ray Data, which would pickle them then, says so on the terminal for each task.
    """

    def __init__(self, data: ImagesData) -> None:
        self.data = data

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"decoded": pickle.dumps(decoded(pickle.loads(row["share"]), self.data)), "error": ""}
        except CheckpointError as error:
            return {"decoded": b"", "error": f"{error} (read on {socket.gethostname()}: all machines have to see the images)"}


def decode_on_ray(shares: Sequence[Share], data: ImagesData) -> Iterator[Decoded]:
    """As decode_here, by tasks of one CPU each. Raises CheckpointError where a share can't be read, ClusterError where Ray fails."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells how it plans
    rows = ray.data.from_items([{"share": pickle.dumps(share)} for share in shares], override_num_blocks=len(shares))
    rows.context.execution_options.preserve_order = True
    rows.context.enable_progress_bars = False
    rows.context.print_on_execution_start = False
    try:
        for row in rows.map(_Decode(data), num_cpus=1).iter_rows():
            if row["error"]:
                raise CheckpointError(row["error"])
            yield pickle.loads(row["decoded"])
    except RayError as error:
        raise ClusterError(f"Ray Data: {(str(error).strip().splitlines() or [type(error).__name__])[-1][:200]}") from None
