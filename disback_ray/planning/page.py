"""The plan as a table for a terminal, and what it says in words."""

from rich.filesize import decimal
from rich.table import Table

from disback_ray.planning.cards import Cores
from disback_ray.planning.plan import Plan

HEADINGS = ("role", "device", "parameters", "gradients", "optimiser", "EMA", "activations", "peak", "a step")


def table(plan: Plan) -> Table:
    """A row for each role: what its process holds at its peak, in decimal units, and how long it is busy in a step."""
    made = Table()
    for heading in HEADINGS:
        made.add_column(heading, justify="left" if heading in ("role", "device") else "right")
    for device in plan.devices:
        for role in device.roles:
            needs = role.footprint
            name = f"{role.name} × {role.devices}" if role.devices > 1 else role.name
            portion = f", {device.portion:g} of it" if device.portion < 1 else ""
            parts = (needs.parameters, needs.gradients, needs.optimiser, needs.average, needs.activations, needs.peak)
            made.add_row(name, device.card.name + portion, *map(decimal, parts), duration(role.seconds))
    return made


def words(plan: Plan, *, network: str) -> list[str]:
    """What the table means. network: where the teacher's network is known from."""
    worst = plan.bottleneck
    said = [f"network: {network}"]
    for device in plan.devices:
        if not isinstance(device.card, Cores):
            verdict = "fits" if device.fits else "DOES NOT FIT"
            said.append(
                f"{device.name}: {decimal(int(device.needs))} of {decimal(int(device.memory))} with CUDA's own: {verdict}"
            )
    if plan.on_cores:
        verdict = "fits" if plan.cores_fit else "DOES NOT FIT"
        which = "all roles" if len(plan.on_cores) == len(plan.devices) else " + ".join(device.name for device in plan.on_cores)
        memory = decimal(int(plan.on_cores[0].card.memory))
        said.append(f"{which}: {decimal(int(plan.cores_need))} of {memory} of memory: {verdict}")
    said.append(f"no step is shorter than {duration(plan.seconds)}; the bottleneck is {worst.name}")
    gained = 100 * (1 - plan.with_one_more() / plan.seconds) if plan.seconds else 0.0
    if isinstance(worst.card, Cores):
        said.append("one more replica would bring nothing: the cores are the same")
    else:
        said.append(f"one more device for {worst.name} would shorten a step by {gained:.0f} %")
    said.append(
        f"a step's times: {f'measured in {plan.measured}' if plan.measured else 'computed from operations, not measured'}"
    )
    said.append(f"{decimal(plan.wire)} cross between roles in a step")
    most = plan.wire
    if plan.blend:
        most = plan.blended_wire
        said.append(f"for {plan.blend:,} steps after each switch the target before scores as well: {decimal(most)} cross then")
    said += [
        f"{role.name}'s {role.ranks} ranks add up their gradients: {decimal(role.gradients)} a step over each link"
        for device in plan.devices
        for role in device.roles
        if role.ranks > 1
    ]
    said.append(
        f"the log of inputs, from which a lost role is made again, holds up to {decimal(most * plan.log_steps)} "
        f"in Ray's object store: {plan.log_steps:,} steps from checkpoint to checkpoint, and as much again while one is written"
    )
    return said


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
