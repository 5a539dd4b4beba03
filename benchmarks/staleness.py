"""What `staleness` and `fuse_forward` cost in quality: a recipe trained with s_φ learning S steps late, or at the t and ε of its scores.

python -m benchmarks.staleness --json staleness.json; over several seeds, in this process.
"""

import statistics
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory

from benchmarks import Result, measured, options, publish
from disback_ray import run

MEASURES = ("sliced_wasserstein", "modes")
Figures = dict[str, dict[str, list[float]]]


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--recipe", default="ring8", help="one of points, which are measured (ring8)")
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2, 4], help="S, by how many steps, beside 0 (1 2 4)")
    parser.add_argument("--seeds", type=int, default=3, help="runs with each (3)")
    parser.add_argument("--steps", type=int, help="of backtracking (the recipe's)")
    given = parser.parse_args()
    variants = variants_of(given.staleness)
    found: Figures = {name: {measure: [] for measure in MEASURES} for name in variants}
    with TemporaryDirectory() as storage:
        for seed in range(given.seeds):
            for number, (name, changes) in enumerate(variants.items()):
                settings = [f"cluster.storage={storage}", *changes]
                settings += [f"backtracking.steps={given.steps}"] if given.steps else []
                out = f"{storage}/{number}-{seed}"
                metrics = run(given.recipe, out=out, seed=seed, overrides=settings, in_process=True).metrics["generator"]
                for measure in MEASURES:
                    found[name][measure].append(metrics[measure])
    publish(
        "staleness", results_of(found), file=given.json, recipe=given.recipe, seeds=given.seeds, each_seed=found, steps=given.steps
    )  # fmt: skip


def variants_of(staleness: Sequence[int]) -> Mapping[str, tuple[str, ...]]:
    """What each is called, and the recipe's keys for it; the first one is neither late nor fused."""
    return {
        "staleness 0": (),
        **{f"staleness {late}": (f"backtracking.staleness={late}",) for late in staleness if late},
        "fuse_forward": ("backtracking.fuse_forward=true",),
    }


def results_of(found: Figures) -> list[Result]:
    """Medians over the seeds, against those of the first; and how far apart the seeds are."""
    results = []
    plain = next(iter(found.values()))
    for name, figures in found.items():
        for measure, values in figures.items():
            middle, base = statistics.median(values), statistics.median(plain[measure])
            results.append(measured(f"{measure}, {name}", middle, "median", baseline=base))
            results.append(measured(f"{measure}, {name}: largest less least", max(values) - min(values), "over seeds"))
    return results


if __name__ == "__main__":
    main()
