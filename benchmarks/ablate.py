"""What each part of the method is worth: one axis of a recipe varied, each variant against the plain baseline, recording charged.

`python -m benchmarks.ablate AXIS --recipe ring8 --seeds 3 --levels 0.3,0.2 --out runs/ablations/AXIS --json FILE`, with --set as for
`run`. Axes: see AXES. The same call goes on where it was left; `comparison.html` in the folder has the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import get_args

from benchmarks import command, options, publish
from disback_ray.algorithms.noise import KarrasNoise
from disback_ray.algorithms.path import geometric_marks
from disback_ray.comparing import compare
from disback_ray.comparison.told import lines, results
from disback_ray.config import Recipe, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.teachers.node_storage import NodeKind

Variants = Mapping[str, tuple[str, ...]]


def nodes(recipe: Recipe) -> Variants:
    """How many, geometrically placed; their steps together are the recipe's."""
    whole = _on_nodes(recipe)
    found = {}
    for count in (2, 4, 6):
        marks = geometric_marks(recipe.recording.steps, nodes=count)
        each = max(1, round(whole / max(len(marks) - 1, 1)))
        found[f"nodes-{count}"] = ("recording.every=null", f"recording.at={list(marks)}", f"backtracking.steps_per_node={each}")
    return found


def placing(recipe: Recipe) -> Variants:
    """Where four nodes lie: early and geometrically, or evenly."""
    steps, each = recipe.recording.steps, f"backtracking.steps_per_node={max(1, round(_on_nodes(recipe) / 3))}"
    even = sorted({max(1, round(steps * part / 4)) for part in (1, 2, 3, 4)})
    return {
        "geometric": ("recording.every=null", f"recording.at={list(geometric_marks(steps))}", each),
        "even": ("recording.every=null", f"recording.at={even}", each),
    }


def interval(recipe: Recipe) -> Variants:
    """How long each node is the target: half, the recipe's steps, twice."""
    each = max(1, round(_on_nodes(recipe) / max(len(recipe.marks) - 1, 1)))
    return {f"{steps}-a-node": (f"backtracking.steps_per_node={steps}",) for steps in sorted({max(1, each // 2), each, 2 * each})}


def switch(recipe: Recipe) -> Variants:
    """When a node is left: after its steps, or when the score difference to it falls no more."""
    each = max(1, round(_on_nodes(recipe) / max(len(recipe.marks) - 1, 1)))
    rule = "path={{trial: 0, switch: {}}}"
    return {
        "timer": (rule.format("timer"), f"backtracking.steps_per_node={each}"),
        "plateau": (rule.format("plateau"), f"backtracking.steps_per_node={3 * each}"),
    }


def blending(recipe: Recipe) -> Variants:
    """In how many steps one target becomes the next: at once, or in a quarter, a half and all of those that it has."""
    ends = [*(each.step for each in recipe.switches[1:]), recipe.backtracking.steps]
    least = min(end - begin for begin, end in pairwise(ends)) if len(ends) > 1 else 0
    lengths = sorted({0, least // 4, least // 2, least})
    return {f"blend-{steps}": (f"backtracking.blend={steps}",) for steps in lengths}


def precision(recipe: Recipe) -> Variants:
    """In what the nodes compute: float32 or bfloat16."""
    return {f"nodes-{kind}": (f"precision.path_node={kind}",) for kind in ("fp32", "bf16")}


def storage(recipe: Recipe) -> Variants:
    """How nodes lie on disk, and so what the targets and s_φ's start are: the difference to the teacher has rank 8."""
    return {f"stored-{kind}": (f"recording.store={kind}",) for kind in get_args(NodeKind)}


def ratio(recipe: Recipe) -> Variants:
    """Updates of s_φ for one of the generator's."""
    return {f"fake-{updates}": (f"backtracking.fake_updates={updates}",) for updates in (1, 2, 5)}


def weighting(recipe: Recipe) -> Variants:
    """w(t): σ², or DMD's normaliser on it."""
    return {name: (f"backtracking.weighting={name}",) for name in ("score_difference", "dmd")}


def sigma(recipe: Recipe) -> Variants:
    """Up to which σ Eq. (8) is taken: half, the recipe's, twice. Raises ConfigError for another law than Karras'."""
    law = recipe.backtracking.noise
    if not isinstance(law, KarrasNoise):
        raise ConfigError(f"ablate sigma: {recipe.name} draws σ by the law {law.kind}, not karras")
    return {
        f"sigma-{factor * law.sigma_max:g}": (f"backtracking.noise.sigma_max={factor * law.sigma_max:g}",)
        for factor in (0.5, 1, 2)
    }


def init(recipe: Recipe) -> Variants:
    """Where s_φ starts."""
    return {f"from-{start}": (f"backtracking.fake_init={start}",) for start in ("path_end", "teacher", "random")}


AXES: Mapping[str, Callable[[Recipe], Variants]] = {
    made.__name__: made
    for made in (nodes, placing, interval, switch, blending, precision, storage, ratio, weighting, sigma, init)
}


def _on_nodes(recipe: Recipe) -> int:
    """The recipe's steps on nodes, all of them together."""
    return recipe.switches[-1].step


def main() -> None:
    parser = options("One axis of a recipe, each variant against the baseline.")
    parser.add_argument("axis", choices=list(AXES))
    parser.add_argument("--recipe", default="ring8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levels", default="")
    parser.add_argument("--every", type=int)
    parser.add_argument("--out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    plan = load_recipe(given.recipe, overrides=[o for o in given.set if not o.startswith("cluster.")])
    found, where = compare(
        given.recipe, arms=(), variants=AXES[given.axis](plan), seeds=given.seeds, overrides=given.set, every=given.every,
        out=given.out or f"runs/ablations/{plan.name}-{given.axis}", levels=[float(part) for part in given.levels.split(",") if part],
    )  # fmt: skip
    print(*lines(found), sep="\n")
    publish("ablate", results(found), file=given.json, axis=given.axis, recipe=plan.name, settings=given.set, folder=where.uri)


if __name__ == "__main__":
    command(main)
