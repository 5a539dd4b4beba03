"""The labels of images: from a dataset.json, the folders that they lie in, or a column, as numbers of classes."""

import json
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from disback_ray.errors import CheckpointError

LABELS_FILE = "dataset.json"  # of EDM's data sets
MOST_CLASSES = 1 << 16


def labels_file(names: Sequence[str], there: set[str]) -> str | None:
    """The dataset.json beside the images: at the top, or in a folder that all of them lie in."""
    if not names:
        return None
    around = posixpath.commonpath([f"/{posixpath.dirname(name)}" for name in names]).strip("/").split("/")
    possible = (posixpath.join(*around[:depth], LABELS_FILE) for depth in range(len(around) + 1))
    return next((name for name in possible if name in there), None)


def folders_of(names: Sequence[str]) -> list[str]:
    """The first folder of each image, below those that all of them lie in."""
    while all(name.count("/") > 1 for name in names) and len({name.partition("/")[0] for name in names}) == 1:
        names = [name.partition("/")[2] for name in names]
    return [name.partition("/")[0] for name in names]


def labels_of_json(where: str, raw: bytes, names: Sequence[str]) -> list[Any] | None:
    """Of these images, in their order; None where it says that there are none. where: what errors call it. Raises CheckpointError."""
    try:
        pairs = json.loads(raw)["labels"]
        known = None if pairs is None else {str(name).replace("\\", "/"): label for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f'{where}: expected {{"labels": [[name, label], …]}}') from None
    if known is None:
        return None
    if missing := [name for name in names if name not in known]:
        raise CheckpointError(f"{where}: has no label for {missing[0]!r}, nor for {len(missing) - 1} more")
    return [known[name] for name in names]


def numbered(where: str, labels: list[Any], named: list[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as 0 … classes - 1. Words are numbered in their order, 2 before 10; numbers stay as they are. Raises CheckpointError."""
    if labels and all(isinstance(label, str) for label in labels):
        words = set(labels)
        classes = sorted(words, key=int) if all(word.isdecimal() for word in words) else sorted(words)
        place = {name: index for index, name in enumerate(classes)}
        return np.array([place[label] for label in labels], np.int64), tuple(classes)
    bad = [label for label in labels if type(label) is not int or not 0 <= label < MOST_CLASSES]
    if bad or not labels:
        raise CheckpointError(f"{where}: a label is {(bad or [None])[0]!r:.60}: expected whole numbers from 0, or words")
    highest = max(labels)
    names = named if named and len(named) > highest else [str(index) for index in range(highest + 1)]
    return np.array(labels, np.int64), tuple(names)


def hugging_face_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """The classes' names that Hugging Face's `datasets` keep beside the columns."""
    try:
        known = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
        return [str(name) for name in known]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
