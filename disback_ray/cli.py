"""The command line: thin; each command is a call that Python can make as well."""

import importlib.metadata
import shlex
import sys
import traceback
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from disback_ray.cli_measuring import compare, evaluate, mismatch, statistics
from disback_ray.cli_teacher import teacher_app
from disback_ray.errors import ClusterError, ConfigError, DisbackError

app = typer.Typer(
    name="disback-ray",
    help=(
        "One-step generators from diffusion models, by DisBack, with each model on a small GPU of its own.\n\n"
        "Without a recipe, `disback-ray run` turns scikit-learn's real handwritten digits into a one-step generator, "
        "on a private Ray on this machine, in a few minutes. Look at runs/digits/report.html afterwards."
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes_app = typer.Typer(
    help="The shipped recipes: `recipes` lists them, `recipes show NAME` prints one.", rich_markup_mode=None
)
app.add_typer(recipes_app, name="recipes", invoke_without_command=True)
for _command in (evaluate, statistics, mismatch, compare):
    app.command()(_command)
app.add_typer(teacher_app, name="teacher")

Trust = Annotated[
    bool, typer.Option("--trust-modules", help="Run the code of the module:factory that the run or teacher names as its network.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("disback-ray"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)] = False,
) -> None:
    """What is asked of the whole."""


@app.command()
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe (see `recipes`), a YAML file, or a run's config.yaml, which has cluster and seed too; default: digits."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="cluster.yaml: where Ray is, what each role gets, where runs are stored; default: a private Ray here."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run's folder or URI; default: runs/RECIPE. Used again, the run goes on.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn; default: 0.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a recipe's key, or a cluster file's as cluster.KEY. Repeatable."
        ),
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="No Ray: all roles in this process; the same numbers.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier run left in the folder.")] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="The recipe at the size of a test, with random weights for the teacher's file.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write trace.json into the run's folder: each call of each role, for ui.perfetto.dev.")
    ] = False,
    on_nonfinite: Annotated[
        Literal["stop", "skip"] | None,
        typer.Option(help="NaN or Inf in a step: the run stops (the default), or goes on without the step."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Distil a teacher into a one-step generator: record the degradation path, then backtrack along it."""
    from disback_ray.running import run as distil

    result = distil(
        recipe,
        cluster=cluster,
        out=out,
        seed=seed,
        overrides=set_ or [],
        in_process=in_process,
        fresh=fresh,
        progress=True,
        tiny=tiny,
        trace=trace,
        on_nonfinite=on_nonfinite,
    )
    for line in describe(result.summary, result.paths):
        print(line)


@app.command()
def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's folder or URI; or a teacher's file (.pkl, .pt), its folder, or its id on the Hugging Face Hub."
        ),
    ],
    n: Annotated[int, typer.Option("--n", help="How many samples.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Of a diffusion teacher's sampler; Heun's 18 or DDIM's 50 by default. Generators have one step."),
    ] = None,
    sampler: Annotated[
        Literal["heun", "ddim"] | None,
        typer.Option(help="Of a diffusion teacher; by default DDIM for DDPMs, Heun's method for all else."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Of a text-to-image teacher to its prompts (classifier-free); 1 for none, 8 by default."),
    ] = None,
    scalings: Annotated[
        Literal["boundary", "standard"] | None,
        typer.Option(
            help="Of openai's .pt, which doesn't tell: standard for a diffusion model (edm_*.pt), else boundary, a consistency model's."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Of a text-to-image model, in place of those it was trained with. Repeatable: taken in turn."),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            help="Where to, a file or a URI: a .png (a picture) or an .npz (arrays x, drawn: the seed, and, with classes, labels)."
        ),
    ] = "samples.png",
    trust_modules: Trust = False,
    debug: Debug = False,
) -> None:
    """Draw samples from a run's generator in one step, or from a teacher as its owners do."""
    from disback_ray.any_model import load_model
    from disback_ray.model import save_samples

    if not out.endswith((".png", ".npz")):
        raise ConfigError(f"--out {out}: name a .png or an .npz file")
    found = load_model(model, steps=steps, sampler=sampler, guidance=guidance, scalings=scalings, trust_modules=trust_modules)
    save_samples(found, n, seed=seed, out=out, prompts=prompt)
    print(out)


@app.command()
def inspect(
    where: Annotated[
        str,
        typer.Argument(
            help="A teacher's file (.pkl, .pt), folder or id on the Hugging Face Hub, or the folder of a generator or a run."
        ),
    ],
    trust_modules: Trust = False,
    debug: Debug = False,
) -> None:
    """Say what a checkpoint is, or why it is refused. Nothing in it is executed, unless you trust the module that it names."""
    from disback_ray.inspection import inspect as look

    for name, value in look(where, trust_modules=trust_modules).items():
        print(f"{name:14}{value}")


@app.command()
def doctor(
    cluster: Annotated[str | None, typer.Option(help="cluster.yaml; default: a private Ray on this machine.")] = None,
    debug: Debug = False,
) -> None:
    """Look at every machine of a cluster before a run does: what passes, what fails, and what to do."""
    from disback_ray.actors.examiner import examine
    from disback_ray.config import load_cluster
    from disback_ray.doctor.checks import check_all

    checks = check_all(examine(load_cluster(cluster)))
    for check in checks:
        print(f"{check.state}  {check.name}: {check.found}" + (f"\n      {check.advice}" if check.advice else ""))
    failed = [check.name for check in checks if check.state == "fail"]
    if failed:
        raise ClusterError(f"failed: {', '.join(failed)}: what to do is said above")


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe or a YAML file; default: the cluster file's, or digits.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="cluster.yaml: the roles' devices; default: this machine.")] = None,
    card: Annotated[
        str | None, typer.Option(help="What roles run on whose accelerator the file doesn't name, such as A10G.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Choose seats and settings with which it fits, the fastest.")] = False,
    cards: Annotated[
        int | None,
        typer.Option(help="With --auto: how many cards there are; default: as many as the cluster file reserves, or 4."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for run. Repeatable.")] = None,
    debug: Debug = False,
) -> None:
    """Before anything runs: each role's memory and time, the bottleneck, and whether it fits."""
    from rich.console import Console

    from disback_ray.config import load_cluster
    from disback_ray.planning.page import table, words
    from disback_ray.planning.planner import Planner, roles_yaml
    from disback_ray.running import DEFAULT_RECIPE

    if cards is not None and not auto:
        raise ConfigError("--cards: how many cards --auto has to choose seats on: add --auto, or leave it out")
    mine, overrides = ([o for o in set_ or [] if o.startswith("cluster.") is ours] for ours in (True, False))
    on = load_cluster(cluster, overrides=[o.removeprefix("cluster.") for o in mine])
    name = recipe or on.recipe or DEFAULT_RECIPE
    planner = Planner(name, overrides, card, on.storage)
    if auto:
        on, settings, made = planner.choose(on, cards)
        print(
            "$ disback-ray run",
            name,
            *(f"--set {shlex.quote(setting)}" for setting in [*overrides, *settings]),
            "--cluster FILE, with",
        )
        print(roles_yaml(on), end="")
    else:
        made = planner.plan(on)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table(made))
    print(*words(made, network=planner.network), sep="\n")
    if not made.fits:
        advice = " ".join(f"--set {shlex.quote(setting)}" for setting in planner.fitting(on))
        raise ConfigError(
            f"{name} doesn't fit: " + (f"it does with {advice}" if advice else "no setting makes it fit: more memory would")
        )


@app.command()
def study(
    runs: Annotated[list[str] | None, typer.Argument(help="Two runs (or teachers): RUN_A RUN_B.")] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="How many pairs; default: one for each of --prompts, or 50 without them.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Of text-to-image models: a file, one prompt a line, or a .parquet; default: those that they were trained with."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, the order and the sides.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Of a side that is a diffusion teacher, as for sample.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of a side that is a text-to-image teacher, as for sample.")] = None,
    out: Annotated[str, typer.Option(help="The study's folder: study.html for people, key.json for you.")] = "study",
    score: Annotated[
        list[str] | None, typer.Option("--score", help="A file of answers; repeatable. Prints the preference.")
    ] = None,
    trust_modules: Trust = False,
    debug: Debug = False,
) -> None:
    """Which of two models do people prefer? Writes a page of blinded, shuffled pairs; `--score` counts what they answered."""
    from disback_ray.any_model import load_model
    from disback_ray.storage import Folder
    from disback_ray.study import making
    from disback_ray.teacher_model import is_teacher

    if score and not runs and prompts is None and steps is None and guidance is None:
        print(making.score_files(Folder.at(out), score))
    elif runs and len(runs) == 2 and runs[0] != runs[1] and not score:
        taught = [where for where in runs if is_teacher(where)] or runs  # a run says that it takes neither
        models = {
            where: load_model(where, steps=steps, guidance=guidance, trust_modules=trust_modules)
            if where in taught
            else load_model(where, trust_modules=trust_modules)
            for where in runs
        }
        print(making.make(models, Folder.at(out), seed=seed, pairs=n, prompts=prompts))
    else:
        raise ConfigError("study: give two different runs, or --score FILE with the study's --out")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's folder or URI.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    to: Annotated[
        Literal["diffusers", "safetensors", "state-dict"],
        typer.Option(
            "--to", help="A diffusers pipeline; weights with their owners' names as safetensors; or as a torch state dict."
        ),
    ],
    trust_modules: Trust = False,
    debug: Debug = False,
) -> None:
    """Write a run's generator as what other tools load. A README.md in it says how."""
    from disback_ray.exports.export import export as write

    print(write(run, folder, to=to, trust_modules=trust_modules))


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes."""
    from disback_ray.config import load_recipe, shipped

    if context.invoked_subcommand is None:
        for name in shipped("recipes"):
            print(f"{name:17} {load_recipe(name).summary}")


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="A shipped recipe.")]) -> None:
    """Print a recipe, to read, or to save and change."""
    from disback_ray.config import recipe_text

    print(recipe_text(name), end="")


def describe(summary: dict[str, Any], paths: dict[str, str]) -> list[str]:
    """The run in a few lines: what was measured, how long it took, where to look."""
    titles = {
        "teacher": "teacher, many steps",
        "untrained": "untrained generator",
        "generator": "generator, one step",
        "real_halves": "real against real",
    }
    rows = [(title, summary["metrics"][key]) for key, title in titles.items() if key in summary["metrics"]]
    names = list(summary["metrics"].get("generator", {}))
    lines = ["".join([f"{'':22}", *(f"{name.replace('_', ' '):>19}" for name in names)])] if rows else []
    for title, figures in rows:
        lines.append("".join([f"{title:22}", *(f"{figures[name]:19.4g}" if name in figures else f"{'':19}" for name in names)]))
    lines += [summary["verdict"]] if summary.get("verdict") else []
    spent = sum(summary["stages"].values())
    return [*lines, f"{summary['status']} in {spent:.0f} s; digest {summary['digest'][:16]}", f"report: {paths['report']}"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What a user can mend is one line on stderr and exit status 2, without a traceback unless --debug."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = app(given, standalone_mode=False)
    except (DisbackError, TyperException) as error:
        _complain(_asked(error) if isinstance(error, TyperException) else str(error), debug="--debug" in given)
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        _complain(f"internal error, please report it: {type(error).__name__}: {error}", debug="--debug" in given)
        status = 1
    sys.exit(status or 0)


def _asked(error: TyperException) -> str:
    """What was wrong with the command itself, without pydantic's words before it."""
    return str(error.format_message()).replace(": Value error, ", ": ")


def _complain(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    # A file of somebody else's names its parts as it likes, and a terminal does what ESC asks of it.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    print(f"disback-ray: {line}", file=sys.stderr)
