"""recipe.yaml and cluster.yaml → frozen models."""

from disback_ray.config.agreement import check_agreement
from disback_ray.config.cluster import ClusterConfig, RecoveryLimits, RoleResources, Roles
from disback_ray.config.loading import is_resolved, load_cluster, load_recipe, recipe_text, resolved, shipped
from disback_ray.config.parsing import parse
from disback_ray.config.recipe import Recipe
from disback_ray.config.stages import Backtracking, Evaluation, Recording, Student
from disback_ray.config.teacher import Teacher, TeacherFile, TeacherModule, TeacherTraining, TextTeacher

__all__ = [
    "Backtracking",
    "ClusterConfig",
    "Evaluation",
    "Recipe",
    "Recording",
    "RecoveryLimits",
    "RoleResources",
    "Roles",
    "Student",
    "Teacher",
    "TeacherFile",
    "TeacherModule",
    "TeacherTraining",
    "TextTeacher",
    "check_agreement",
    "is_resolved",
    "load_cluster",
    "load_recipe",
    "parse",
    "recipe_text",
    "resolved",
    "shipped",
]
