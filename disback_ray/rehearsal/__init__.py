"""The stages that the cast plays, a file each, going on from wherever the run's folder says it stands; and the crew behind them."""

from disback_ray.rehearsal.backtracking import backtrack
from disback_ray.rehearsal.crew import Crew
from disback_ray.rehearsal.measuring import evaluate, look_at_the_start
from disback_ray.rehearsal.recording import record
from disback_ray.rehearsal.trials import try_warm, try_without

__all__ = ["Crew", "backtrack", "evaluate", "look_at_the_start", "record", "try_warm", "try_without"]
