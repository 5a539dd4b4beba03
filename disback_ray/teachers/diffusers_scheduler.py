"""What the settings of a diffusers scheduler (scheduler_config.json) say of a VP model's noise."""

from collections.abc import Mapping
from typing import Any, get_args

import torch

from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.errors import CheckpointError
from disback_ray.networks.predictions import Prediction

KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}  # diffusers' names → ours


def prediction_of(settings: Mapping[str, Any]) -> Prediction:
    """What the network predicts. Raises CheckpointError where it is none of the three."""
    prediction: Prediction = settings.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise CheckpointError(f"its scheduler's prediction_type is {prediction!r:.60}, not {', '.join(get_args(Prediction))}")
    return prediction


def schedule_of(settings: Mapping[str, Any]) -> VPSchedule:
    """The noise schedule of a diffusers scheduler's settings. Raises CheckpointError where it has none that is VP's."""
    if "beta_schedule" not in settings:
        raise CheckpointError(f"its scheduler, {settings.get('_class_name')!r:.60}, has no schedule of β: not a DDPM's")
    if settings.get("rescale_betas_zero_snr"):
        raise CheckpointError("its scheduler has rescale_betas_zero_snr: noise without data at its last time, and no σ for it")
    kind, betas = KINDS.get(str(settings["beta_schedule"])), settings.get("trained_betas")
    if kind is None:
        raise CheckpointError(f"its scheduler's beta_schedule is {settings['beta_schedule']!r:.60}, not {', '.join(KINDS)}")
    try:
        schedule = VPSchedule(
            float(settings["beta_start"]), float(settings["beta_end"]), int(settings["num_train_timesteps"]),
            kind, None if betas is None else tuple(map(float, betas)),  # type: ignore[arg-type]
        )  # fmt: skip
        table = schedule.sigmas
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"its scheduler's settings are damaged ({' '.join(str(error).split())[:160]})") from None
    if len(table) < 2 or not bool(torch.isfinite(table).all() and (table.diff() > 0).all() and table[0] > 0):
        raise CheckpointError("its scheduler's β are no schedule of rising noise")
    return schedule


def ddim_of(settings: Mapping[str, Any]) -> DDIMSettings:
    """How DDIM goes with a diffusers scheduler's settings, as DDIMScheduler.from_config takes them. Raises CheckpointError."""
    if settings.get("thresholding"):
        raise CheckpointError("its scheduler has thresholding, which is not supported")
    spacing = settings.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing", "linspace"):
        raise CheckpointError(f"its scheduler's timestep_spacing is {spacing!r:.60}")
    try:
        clip = float(settings.get("clip_sample_range", 1.0)) if settings.get("clip_sample", True) else None
        offset = int(settings.get("steps_offset", 0))
        if offset < 0 or (clip is not None and not clip > 0):
            raise ValueError(f"steps_offset {offset}, clip_sample_range {clip}")
        return DDIMSettings(spacing, offset, bool(settings.get("set_alpha_to_one", True)), clip)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its scheduler's settings are damaged ({' '.join(str(error).split())[:160]})") from None
