"""Whether a JSON is a run's summary, down to what is in its lists: it goes on into the run's report, its verdict and its next steps."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from disback_ray.config.complaints import shown

Figures = dict[str, float]
Node = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


class _Said(BaseModel):
    """What else there is, of another version of ours, is left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Alarm(_Said):
    model_config = ConfigDict(strict=True, extra="forbid")
    kind: str
    step: int
    text: str


class _Picture(_Said):
    """file: in the run's folder, and nowhere else: the report has the picture in it."""

    file: Annotated[str, StringConstraints(pattern=r"^samples/[A-Za-z0-9_-]+\.png$")]
    title: str


class _Skipped(_Said):
    stage: str
    step: int


class _Switch(_Said):
    step: int
    node: int


class _Tried(_Said):
    """apart: [steps, distance] of each look; without `path` it isn't decided yet."""

    apart: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    path: bool = False


class _Trial(_Tried):
    warm: _Tried = _Tried()


class _Seat(_Said):
    pid: int | None = None
    node: str = ""
    devices: list[str] = []


class _Calls(_Said):
    calls: int
    seconds: float


class _Wire(_Said):
    bytes_per_sample: float


class _Devices(_Said):
    steps: int
    busy: Figures
    bottleneck: str
    calls: dict[str, dict[str, _Calls]]
    wire: _Wire


class _Summary(_Said):
    recipe: str
    seed: int
    status: str
    stages: Figures
    metrics: dict[str, Figures | dict[Node, Figures]]
    digest: str
    teacher: str = ""
    teacher_sha256: str = ""
    measured_by: dict[str, str] = {}
    bounds: Figures = {}
    alarms: list[_Alarm] = []
    verdict: str = ""
    switches: list[_Switch] = []
    trial: _Trial = _Trial()
    roles: dict[str, _Seat] = {}
    versions: dict[str, str] = {}
    pictures: list[_Picture] = []
    devices: _Devices | Annotated[dict[str, Any], Field(max_length=0)] = {}
    skipped: list[_Skipped] = []
    losses: int = 0
    recoveries: list[dict[str, Any]] = []
    error: str | None = None


def problem_of(found: Any) -> str:
    """Why it is no summary, in a few words; '' where it is one."""
    if not isinstance(found, dict):
        return f"it holds {type(found).__name__}, not a run's summary"
    try:
        _Summary.model_validate(found)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(str(key)[:60] for key in wrong["loc"])
        missing = wrong["type"] == "missing"
        return f"{where}: {'missing' if missing else shown(wrong['input'])}: not a run's"
    return ""
