"""Peak memory of each role against all roles in one process: FFHQ 64's EDM network (DDPM++, 61.8 M parameters) at full size, on the CPU.

Each in a process of its own that plays two steps of backtracking: its peak resident set above what the code that it runs takes, which on
a machine with a GPU is in the host's memory and not on the device.
`--options` measures what saves memory beside it, each against the same role without. The recipe is ffhq64-edm with random weights.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Result, measured, options, publish
from benchmarks.memory_role import ROLES
from disback_ray.actors.parts import Places, parts
from disback_ray.config import load_recipe
from disback_ray.networks.imported import EDMSpec
from disback_ray.networks.lora import LoRA
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.storage import Folder
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import save_denoiser

DDPMPP = {  # EDM's arguments for edm-ffhq-64x64-uncond-vp.pkl
    "model_type": "SongUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 0, "augment_dim": 9,
    "model_channels": 128, "channel_mult": [1, 2, 2, 2], "dropout": 0.05,
}  # fmt: skip
RECIPE = "ffhq64-edm"
SHAPE = (3, 64, 64)
LORA = LoRA(rank=16)
PLAIN = ("student.checkpointing=false", "fake_score.checkpointing=false")
CHECKPOINTED = ("student.checkpointing=true", "fake_score.checkpointing=true")
SETTINGS = {
    "": (),
    "not checkpointed: ": PLAIN,
    "checkpointed: ": CHECKPOINTED,
    "checkpointed, recomputed: ": (*CHECKPOINTED, "student.graph=recompute"),
}
"""What each role is measured with: the recipe as it is, for which there is a goal, whose checkpointing is selective; and others.
recomputed: the generator holds no sample's graph while its score is away."""
OPTIONS: dict[str, tuple[str, Sequence[str]]] = {
    "checkpointing": ("fake_score", ["fake_score.checkpointing=true"]),
    "lora, rank 16": ("fake_score", [f"fake_score.lora={{rank: {LORA.rank}}}"]),
    "states: 8bit": ("fake_score", ["backtracking.fake_score.states=8bit"]),
    "bf16_stochastic": ("fake_score", ["precision.fake_score=bf16_stochastic"]),
    "bf16_stochastic, 8bit, checkpointing": (
        "fake_score",
        ["precision.fake_score=bf16_stochastic", "backtracking.fake_score.states=8bit", "fake_score.checkpointing=true"],
    ),
    "graph: recompute": ("generator", ["student.graph=recompute"]),
    "bf16": ("teacher", ["precision.teacher=bf16"]),
}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--batch", type=int, default=2, help="samples a step (2)")
    parser.add_argument("--options", action="store_true", help="what saves memory as well")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Folder.at(folder))
        results, peaks = roles(folder, asked.batch)
        if asked.options:
            for name, (role, changes) in OPTIONS.items():
                saved = peak(folder, role, [*settings(asked.batch), *changes])
                results.append(measured(f"{role}, {name}", saved, "MiB", baseline=peaks[role]))
    publish("memory", results, file=asked.json, recipe=RECIPE, batch=asked.batch, steps=2, threads=1)


def prepare(at: Folder) -> None:
    """The teacher with random weights, and two nodes of its path: whole, and as adapters."""
    spec = DenoiserSpec(EDMSpec("EDMPrecond", DDPMPP), SHAPE, 0, 0.5)
    save_denoiser(at / "teacher", spec, spec.build().state_dict())
    for name, lora in (("whole", None), ("adapters", LORA)):
        copies = PathCopies(at / "teacher", at / name / "path", lora)
        for node in (1, 2):
            copies.keep(copies.weights(copies.build()), node, step=node)


def settings(batch: int) -> list[str]:
    """The recipe in float32, one sample at a time, so short that a node is the target once and the teacher once."""
    steps = ("recording.steps=2", "recording.every=1", "backtracking.steps=2", "backtracking.steps_per_node=1")
    return ["precision={}", f"batch={batch}", f"micro_batches={batch}", *steps]


def roles(folder: str, batch: int) -> tuple[list[Result], dict[str, float]]:
    """Each role against all in one process, with the same settings; the first settings' peaks."""
    results, plain = [], dict[str, float]()
    for name, changes in SETTINGS.items():
        peaks = {role: peak(folder, role, [*settings(batch), *changes]) for role in (*ROLES, "all")}
        plain = plain or peaks
        results += [measured(f"{name}{role}", peaks[role], "MiB", baseline=peaks["all"]) for role in ROLES]
        largest = max(peaks[role] for role in ROLES)
        goal = None if name else 0.5
        results.append(measured(f"{name}largest role", largest, "MiB", baseline=peaks["all"], at_most=goal))
    return results, plain


def peak(folder: str, role: str, overrides: Sequence[str]) -> float:
    """MiB above the code's."""
    recipe, at, there = load_recipe(RECIPE, overrides=overrides), Folder.at(folder), Path(folder)
    places = Places(at / "teacher", at / ("adapters" if recipe.fake_score.lora else "whole"), at / "cache")
    for name, part in parts(recipe, places, seed=0).items():
        (there / f"{name}.pkl").write_bytes(pickle.dumps(part))
    said = {"batch": recipe.batch, "micro_batches": recipe.micro_batches, "shape": SHAPE}
    (there / "settings.json").write_text(json.dumps(said), "utf-8")
    # Freed memory goes back at once, so that a peak is of what is in use.
    kept = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    arguments = [sys.executable, "-m", "benchmarks.memory_role", folder, role]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ | kept)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
