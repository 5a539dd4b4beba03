"""What `staleness` costs in quality: a recipe trained with s_φ learning S steps late, over several seeds, in this process.

python -m benchmarks.staleness --json staleness.json
"""

import statistics
from tempfile import TemporaryDirectory

from benchmarks import Result, measured, options, publish
from disback_ray import run

MEASURES = ("sliced_wasserstein", "modes")


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--recipe", default="ring8", help="one of points, which are measured (ring8)")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4], help="S, by how many steps (0 1 2 4)")
    parser.add_argument("--seeds", type=int, default=3, help="runs with each (3)")
    parser.add_argument("--steps", type=int, help="of backtracking (the recipe's)")
    given = parser.parse_args()
    found: dict[int, dict[str, list[float]]] = {late: {name: [] for name in MEASURES} for late in given.staleness}
    with TemporaryDirectory() as storage:
        for seed in range(given.seeds):
            for late, figures in found.items():
                settings = [f"cluster.storage={storage}", f"backtracking.staleness={late}"]
                settings += [f"backtracking.steps={given.steps}"] if given.steps else []
                out = f"{storage}/{late}-{seed}"
                metrics = run(given.recipe, out=out, seed=seed, overrides=settings, in_process=True).metrics["generator"]
                for name in MEASURES:
                    figures[name].append(metrics[name])
    publish(
        "staleness", results_of(found), file=given.json, recipe=given.recipe, seeds=given.seeds, each_seed=found, steps=given.steps
    )  # fmt: skip


def results_of(found: dict[int, dict[str, list[float]]]) -> list[Result]:
    """Medians over the seeds, against those of the least staleness; and how far apart the seeds are."""
    results = []
    plain = found[min(found)]
    for late, figures in found.items():
        for name, values in figures.items():
            middle, base = statistics.median(values), statistics.median(plain[name])
            results.append(measured(f"{name}, staleness {late}", middle, "median", baseline=base))
            results.append(measured(f"{name}, staleness {late}: largest less least", max(values) - min(values), "over seeds"))
    return results


if __name__ == "__main__":
    main()
