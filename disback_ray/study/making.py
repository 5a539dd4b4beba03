"""Makes a study of two models, and scores it: the folder holds the page for people, and the key that stays with you."""

from pathlib import Path

import torch

from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.model import Model
from disback_ray.pictures import image_grid
from disback_ray.storage import Folder
from disback_ray.study.asked import ask
from disback_ray.study.page import render
from disback_ray.study.pairs import Key, shuffle
from disback_ray.study.scoring import Preference, score

PAGE, KEY = "study.html", "key.json"


def make(models: dict[str, Model], folder: Folder, *, seed: int, pairs: int | None = None, prompts: str | None = None) -> str:
    """Draws samples of the two models, in pairs of the same noise and the same prompt or class; writes page and key.

    pairs: by default one for each of the prompts, else 50. prompts: a file of them, one a line, or a .parquet, of which the first
    are taken; without it text-to-image models get those that they were trained with.
    Returns the page's URI. Raises ConfigError where the models' samples can't be compared or the folder is not empty.
    """
    (name_a, a), (name_b, b) = models.items()
    if folder.names():
        raise ConfigError(f"--out {folder.uri}: not empty: a study's page and its key belong together; name another folder")
    asked = ask(models, pairs=pairs, prompts=prompts)
    x, y = (asked.draw(model, seed=seed) for model in (a, b))
    for name, samples in ((name_a, x), (name_b, y)):
        if samples.ndim != 4:
            raise ConfigError(f"{name} makes points, not pictures: nobody can prefer one; see `disback-ray compare`")
    if x.shape[1:] != y.shape[1:]:
        raise ConfigError(
            f"{name_a} makes pictures of {tuple(x.shape[1:])}, {name_b} of {tuple(y.shape[1:])}: the size would tell them apart"
        )
    if torch.equal(x, y):
        raise ConfigError(f"{name_a} and {name_b} make the very same pictures: nobody can prefer one; give two different models")
    first, second = ([image_grid(image[None]) for image in samples] for samples in (x, y))
    key = shuffle((name_a, name_b), len(asked.captions), seed=seed, pictures=[*first, *second])
    page = render(key, first, second, asked.captions, side=x.shape[-1])
    folder.write(KEY, key.to_json().encode())
    folder.write(PAGE, page.encode())
    return (folder / PAGE).uri


def score_files(folder: Folder, files: list[str]) -> Preference:
    """Scores what people sent. Raises CheckpointError where the folder is no study's, or a file is no answers to it."""
    if not folder.has(KEY):
        raise CheckpointError(f"{folder.uri}: no study is there (it has no {KEY}): name its folder with --out")
    key = Key.from_json(folder.read(KEY).decode("utf-8", "replace"), where=(folder / KEY).uri)
    found = {}
    for file in files:
        if file in found:
            raise CheckpointError(f"{file}: given twice: give each file once")
        try:
            found[file] = Path(file).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{file}: {error.strerror}") from None
    return score(key, found)
