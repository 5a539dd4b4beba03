"""What makes a role smaller, the cheapest first; and which of it a recipe needs to fit its devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from disback_ray.config import Recipe, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning.plan import Plan

Settings = tuple[str, ...]


@dataclass(frozen=True)
class Remedy:
    """settings: what `--set` takes; roles: whom it makes smaller; costs: what is paid for it."""

    settings: Settings
    roles: tuple[str, ...]
    costs: str


REMEDIES = (
    Remedy(("micro_batches={batch}",), ("teacher", "path_node", "fake_score"), "one sample at a time: devices are less busy"),
    Remedy(("precision.teacher=bf16", "precision.path_node=bf16"), ("teacher", "path_node"), "targets rounded to bfloat16"),
    Remedy(("student.checkpointing=selective",), ("generator",), "what is cheap of the generator's activations is computed twice"),
    Remedy(("fake_score.checkpointing=selective",), ("fake_score",), "what is cheap of s_φ's activations is computed twice"),
    Remedy(("student.graph=recompute", "micro_batches={batch}"), ("generator",), "a third of the generator's forward passes again"),
    Remedy(("student.checkpointing=true",), ("generator",), "the generator's activations are computed twice"),
    Remedy(("fake_score.checkpointing=true",), ("fake_score",), "s_φ's activations are computed twice"),
    Remedy(("backtracking.generator.states=8bit",), ("generator",), "the generator's moments in 8 bits"),
    Remedy(("backtracking.fake_score.states=8bit", "recording.optimiser.states=8bit"), ("fake_score",), "s_φ's moments in 8 bits"),
    Remedy(
        ("backtracking.generator.offload=true", "backtracking.generator.states=fp32"), ("generator",),
        "the generator's moments in host memory: each update is made there",
    ),
    Remedy(
        ("backtracking.fake_score.offload=true", "backtracking.fake_score.states=fp32",
         "recording.optimiser.offload=true", "recording.optimiser.states=fp32"), ("fake_score",),
        "s_φ's moments in host memory: each update is made there",
    ),
    Remedy(("student.ema_on=host",), ("generator",), "the average is copied from host memory in each step"),
    Remedy(("precision.generator=bf16_stochastic",), ("generator",), "the generator's weights in bfloat16, rounded stochastically"),
    Remedy(("precision.fake_score=bf16_stochastic",), ("fake_score",), "s_φ's weights in bfloat16, rounded stochastically"),
    Remedy(("fake_score.lora={rank: 64}",), ("fake_score", "path_node"), "s_φ and the path are adapters on the teacher"),
)  # fmt: skip

Planned = Callable[[Recipe], Plan]


def unfit(plan: Plan) -> list[str]:
    """The roles on devices that are too small for them; where cores are too small for all that share them, those."""
    small = [device for device in plan.devices if not device.fits]
    small += [] if plan.cores_fit else [device for device in plan.on_cores if device not in small]
    return [role.name for device in small for role in device.roles]


def remedy(name: str, overrides: Sequence[str], plan: Plan, planned: Planned) -> list[str]:
    """The settings with which the recipe fits, cheapest first and each only for a role that still doesn't; [] where nothing helps.

    Of them only what it doesn't fit without: where a dearer one was needed in the end, cheaper ones may be so no longer.
    name, overrides: of the recipe as it is; planned: its plan with other settings. A setting that the recipe refuses is left out.
    """

    def changed(remedies: Sequence[Settings]) -> Recipe:
        return load_recipe(name, overrides=[*overrides, *_together(remedies)])

    taken: list[Settings] = []
    batch = str(changed([]).batch)
    for offered in REMEDIES:
        too_large = unfit(plan)
        if not too_large:
            break
        if not set(offered.roles) & set(too_large):
            continue
        more = tuple(setting.replace("{batch}", batch) for setting in offered.settings)
        try:
            before, after = changed(taken), changed([*taken, more])
            if after == before or _takes_back(before, after):
                continue  # it has that already, or more
            plan = planned(after)
        except ConfigError:
            continue  # such as a plain MLP, which has no blocks to compute again
        taken.append(more)
    if not plan.fits:
        return []
    for one in tuple(taken):
        others = [other for other in taken if other is not one]
        try:
            taken = others if planned(changed(others)).fits else taken
        except ConfigError:
            continue  # what is left contradicts itself without it
    return _together(taken)


def _together(remedies: Sequence[Settings]) -> list[str]:
    """The last setting of each key."""
    return list({setting.partition("=")[0]: setting for settings in remedies for setting in settings}.values())


def _takes_back(before: Recipe, changed: Recipe) -> bool:
    """Whether blocks that are whole checkpoints would be selective ones."""
    return any(
        getattr(before, key).checkpointing is True and getattr(changed, key).checkpointing is not True
        for key in ("student", "fake_score")
    )  # fmt: skip
