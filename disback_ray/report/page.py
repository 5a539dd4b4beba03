"""A run as one page of HTML that needs nothing else: what came out, how it got there, and where each role ran."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from disback_ray.report import curves, figures

Summary = Mapping[str, Any]

TEMPLATE, STYLE = "page.html.jinja", "style.css"
ROLES = {
    "teacher": "frozen: gives the score of the data, s_θ",
    "path_node": "frozen: gives the score of the path's current node",
    "fake_score": "always in training: the score of what the generator makes, s_φ",
    "generator": "the student: makes a sample in one step",
    "evaluator": "measures samples and draws the pictures",
}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture within the page; uri is empty where the file is missing. width, height: pixels."""

    title: str
    uri: str = ""
    width: int = 0
    height: int = 0

    @property
    def wide(self) -> bool:
        """Several panels in a row, which want the page's width."""
        return self.width > 1.3 * self.height


@dataclass(frozen=True)
class Stage:
    """One part of the run; share: of the whole time, in percent."""

    name: str
    duration: str
    share: float


def render(summary: Summary, config_yaml: str, metrics: pa.Table, pictures: Mapping[str, bytes]) -> str:
    """The page. What an unfinished run lacks is left out or said to be missing; all text is escaped.

    summary: recipe, seed, status, error, stages, metrics, switches, roles, digest, versions and pictures; each may be absent.
    metrics: one row per step. pictures: PNG bytes by the file names that the summary lists.
    """
    found = summary.get("metrics") or {}
    switches = summary.get("switches") or []
    status = summary.get("status", "unknown")
    durations = summary.get("stages") or {}
    shown = figures.taken(found)
    return _environment().from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")).render(
        style=Markup(files(__package__).joinpath(STYLE).read_text(encoding="utf-8")),
        recipe=summary.get("recipe", "without a name"),
        seed=summary.get("seed"),
        status=status,
        lead=" ".join([_ending(status, metrics), *figures.headline(found)]),
        error=summary.get("error"),
        tiles=figures.tiles(found) + ([(_duration(sum(durations.values())), "in all")] if durations else []),
        measured_by=list((summary.get("measured_by") or {}).items()),
        measures=[figures.MEASURES[name] for name in shown],
        rows=figures.rows(found, shown),
        verdict=summary.get("verdict"),
        alarms=[f"Step {alarm['step']:,}: {alarm['text']}" for alarm in summary.get("alarms") or []],
        quality=[
            *curves.quality(metrics, found, switches),
            *curves.looks(metrics, summary.get("bounds") or {}, switches, measured="real_halves" in found),
        ],
        training=curves.training(metrics, switches),
        recording=curves.recording(metrics),
        pictures=[_picture(entry, pictures) for entry in summary.get("pictures") or []],
        devices=_devices(summary.get("devices") or {}),
        machines=_machines(summary.get("roles") or {}),
        stages=[Stage(name, _duration(s), 100 * s / (sum(durations.values()) or 1)) for name, s in durations.items()],
        versions=summary.get("versions") or {},
        digest=summary.get("digest"),
        config=config_yaml,
    )  # fmt: skip


def _ending(status: str, metrics: pa.Table) -> str:
    if status == "complete":
        return "The run is complete."
    ended = {"interrupted": "The run was interrupted", "failed": "The run failed"}.get(status, "How the run ended is not known")
    last = curves.last_step(metrics)
    return f"{ended}; its last step is {last[1]:,} of {last[0]}." if last else f"{ended}."


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _picture(entry: Summary, pictures: Mapping[str, bytes]) -> Picture:
    title = str(entry.get("title") or entry["file"])
    data = pictures.get(entry["file"], b"")
    if not data.startswith(PNG) or len(data) < 24:
        return Picture(title)
    width, height = struct.unpack(">II", data[16:24])  # the header comes first in every PNG
    return Picture(title, "data:image/png;base64," + base64.b64encode(data).decode(), width, height)


def _machines(roles: Mapping[str, Summary]) -> dict[str, list[dict[str, Any]]]:
    """Roles by the machine that they ran on."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for name, seat in roles.items():
        what = ROLES.get(name.partition("/")[0], "")
        role = {"name": name, "what": what, "pid": seat.get("pid"), "devices": [str(d) for d in seat.get("devices") or []]}
        machines.setdefault(str(seat.get("node", "unknown")), []).append(role)
    return machines


def _devices(devices: Summary) -> dict[str, Any]:
    """How busy each role was, and with what, ready to be shown; nothing where it isn't known."""
    steps = devices.get("steps") or 0
    if not steps:
        return {}
    roles = []
    for name, calls in devices["calls"].items():
        seconds = {method: total["seconds"] for method, total in calls.items()}
        most = max(seconds, key=lambda method: seconds[method], default="")
        spent = f"{1000 * sum(seconds.values()) / steps:.3g}"
        roles.append({"name": name, "busy": f"{devices['busy'][name]:.0%}", "milliseconds": spent, "most": most})
    return {
        "steps": steps,
        "bottleneck": devices["bottleneck"],
        "bytes": f"{devices['wire']['bytes_per_sample']:,.0f}",
        "roles": roles,
    }


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
