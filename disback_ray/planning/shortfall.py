"""Too little memory, told with what the plan says of it."""

from disback_ray.config import ClusterConfig, Recipe
from disback_ray.errors import DeviceMemoryError
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.planning.dry_run import CAST, DryRuns
from disback_ray.planning.ranked import of_each_rank


def with_plan(error: DeviceMemoryError, recipe: Recipe, cluster: ClusterConfig, spec: DenoiserSpec) -> DeviceMemoryError:
    """The same error, with the peak that the plan has for the role; as it is where the plan has none."""
    roles = {name: asked for name, asked in cluster.roles.by_name().items() if name in CAST and name == error.role}
    try:
        needed = of_each_rank(recipe, roles, DryRuns(spec).footprints)
    except Exception:  # whatever keeps the plan from being made, the error that there was is the one to tell
        return error
    if error.role not in needed:
        return error
    return DeviceMemoryError(
        f"{error}; by the plan it needs {needed[error.role].peak / 2**30:.2g} GiB at its peak, beside what the driver and the "
        "allocator take: `disback-ray plan` says which settings would fit",
        error.role,
    )
