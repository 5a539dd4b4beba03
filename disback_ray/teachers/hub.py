"""Folders in diffusers' layout: here, at a URI, or on the Hugging Face Hub by their id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disback_ray.errors import CheckpointError
from disback_ray.hugging_face import diffusers
from disback_ray.storage import Folder

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str, *, beside: Path | None = None) -> bool:
    """Whether it reads as OWNER/NAME, and no OWNER is in that folder: what is here goes first, and so does a slip in a path's end."""
    return _ID.fullmatch(text) is not None and not (beside or Path.cwd()).joinpath(text.partition("/")[0]).exists()


def is_diffusers(where: str) -> bool:
    """Whether a folder in diffusers' layout is there, or what is named is none of this machine's but may be the Hub's."""
    if is_hub_id(where):
        return True
    folder = Folder.at(where)
    return any(folder.has(name) for name in (INDEX, f"unet/{CONFIG}", SCHEDULER))


@contextmanager
def diffusers_folder(where: str) -> Iterator[Path]:
    """The folder of a path, a URI or a Hub id, on this machine, to be read. What comes from the Hub stays in its own cache.

    Raises CheckpointError where there is none, or the Hub can't be reached and has not been before; ConfigError without diffusers.
    """
    if is_hub_id(where):
        yield _downloaded(where)
        return
    folder = Folder.at(where)
    if not folder.names():
        raise CheckpointError(f"{where}: no such folder, and not OWNER/NAME of the Hugging Face Hub")
    if not is_diffusers(where):
        raise CheckpointError(f"{where}: no folder of diffusers' (it has no {INDEX} and no {SCHEDULER})")
    with folder.here() as path:
        yield path


def _downloaded(name: str) -> Path:
    try:
        return Path(diffusers().DiffusionPipeline.download(name))  # safetensors where there are some; its code is not trusted
    except Exception as error:  # the Hub's client, diffusers and their transport raise kinds of their own
        cause = error.__cause__ or error
        reason = " ".join((str(cause).splitlines() or [""])[0].split())[:160].rstrip(" .:") or type(cause).__name__
        raise CheckpointError(
            f"{name}: no such folder here, and not to be had from the Hugging Face Hub ({reason}); "
            f"name a folder, or run this once where the Hub can be reached"
        ) from None
