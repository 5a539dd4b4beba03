"""README.md of an export: what it is, how to load it, and the noise that `disback-ray sample` draws for a seed, in numpy alone."""

from pathlib import Path

from disback_ray.algorithms.noise import BLOCK
from disback_ray.exports.student import Student
from disback_ray.prompting import text_network_of

# As Batch draws it (algorithms/noise.py), stage "draw", step 0, tag "z": a test holds the two together.
LATENTS = """```python
import hashlib

import numpy as np
import torch


def latents(seed, count, shape=SHAPE):
    rows = []
    for block in range((count + BLOCK - 1) // BLOCK):
        key = hashlib.blake2b(repr((seed, "draw", 0, block, "z")).encode(), digest_size=16).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))
        rows.append(stream.standard_normal((min(BLOCK, count - BLOCK * block), *shape), dtype=np.float32))
    return torch.from_numpy(np.concatenate(rows))
```"""


def write_card(student: Student, folder: Path, use: str) -> None:
    """use: how to load the rest of the folder, in Markdown."""
    text = text_network_of(student.spec)
    classes = f", {student.spec.classes} classes" if student.spec.classes else ""
    told = f", latents of images of {text.pixels} × {text.pixels}, from prompts" if text else classes
    latents = LATENTS.replace("SHAPE", repr(tuple(student.spec.shape))).replace("BLOCK", str(BLOCK))
    page = f"""# {student.recipe}: a one-step generator

Samples of {" × ".join(map(str, student.spec.shape))}{told}, in one evaluation each. Distilled by disback-ray (recipe `{student.recipe}`,
seed {student.seed}, weights averaged along training; the run's digest is {student.digest}).

{use}

The noise z that `disback-ray sample RUN --seed SEED --n COUNT` draws:

{latents}
"""
    (folder / "README.md").write_text(page, "utf-8")
