"""The arms of a comparison: what each changes in a recipe, and nothing else."""

from collections.abc import Sequence

from disback_ray.errors import ConfigError

WITHOUT_NODES = ("recording.every=null", "recording.at=null", "backtracking.steps_per_node=1")
"""The path's end alone is kept, so that the teacher is the target from the first step."""

ARMS = {
    "baseline": ("path=fixed", "recording.steps=0", *WITHOUT_NODES, "backtracking.fake_init=teacher"),
    "warm": ("path=fixed", *WITHOUT_NODES, "backtracking.fake_init=path_end"),
    "disback": ("path=fixed",),
    "auto": ("path=auto",),
}
PAPER = ("baseline", "warm", "disback")
MEANINGS = {
    "baseline": "no path: the teacher is the target from the first step, and s_φ starts as the teacher",
    "warm": "s_φ starts at the path's end, and the teacher is the target from the first step",
    "disback": "the recipe's path: s_φ starts at the path's end, and the targets are the path's nodes, then the teacher",
    "auto": "path: auto: some steps without a path, kept where they lead somewhere; else it is recorded, and some made without its nodes",
}
ALWAYS = ("baseline", "warm")
"""Without the second, the path would get credit for what a fitted s_φ does alone."""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The arms asked for, in their order, with those that are always shown. Raises ConfigError for unknown ones."""
    for name in names:
        if name not in ARMS:
            raise ConfigError(f"--arms: {name}: expected some of {', '.join(ARMS)}")
    return tuple(name for name in ARMS if name in names or name in ALWAYS)
