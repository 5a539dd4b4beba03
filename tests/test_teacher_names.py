"""A trained teacher is shared by runs under a name that each of its settings changes."""

from dataclasses import fields, replace
from typing import Any

import pytest

from disback_ray.algorithms.noise import LogNormalNoise
from disback_ray.config import load_recipe
from disback_ray.data.sources import DigitsData
from disback_ray.production import teacher_name, teacher_plan
from disback_ray.teachers.training import TeacherPlan

PLAN = teacher_plan(load_recipe("digits"))
OTHER: dict[str, Any] = {
    "spec": replace(PLAN.spec, sigma_data=PLAN.spec.sigma_data / 2),
    "data": DigitsData(conditional=False),
    "steps": PLAN.steps + 1,
    "batch": PLAN.batch + 1,
    "optimiser": replace(PLAN.optimiser, lr=PLAN.optimiser.lr / 2),
    "ema": PLAN.ema / 2,
    "label_dropout": PLAN.label_dropout + 0.125,
    "noise": LogNormalNoise(mean=0.25),
    "seed": PLAN.seed + 1,
}


def test_there_is_another_value_of_each_setting() -> None:
    assert set(OTHER) == {setting.name for setting in fields(TeacherPlan)}
    assert teacher_name(PLAN) == teacher_name(teacher_plan(load_recipe("digits")))


@pytest.mark.parametrize("setting", OTHER)
def test_another_value_of_any_setting_is_another_teacher(setting: str) -> None:
    assert teacher_name(replace(PLAN, **{setting: OTHER[setting]})) != teacher_name(PLAN)
