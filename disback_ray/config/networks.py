"""The networks that a recipe can name."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from disback_ray.config.base import refuse_unknown_keys
from disback_ray.errors import ConfigError
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, MLPSpec, ResNetMLPSpec

refuse_unknown_keys(DDPMppSpec, ResNetMLPSpec, MLPSpec, ModuleSpec)


def _kind_of_module(network: Any) -> Any:
    """`{module: my_nets:make}` is enough."""
    return {"kind": "own"} | network if isinstance(network, dict) and "module" in network else network


AnyNetwork = Annotated[DDPMppSpec | ResNetMLPSpec | ModuleSpec, Field(discriminator="kind"), BeforeValidator(_kind_of_module)]
StudentNetwork = Annotated[DDPMppSpec | MLPSpec | ModuleSpec, Field(discriminator="kind"), BeforeValidator(_kind_of_module)]


def check_network(spec: DenoiserSpec, key: str) -> None:
    """Raises ValueError where a network of ours can't be built. Somebody's code runs once a run begins, not where a recipe is read."""
    try:
        if spec.module is None:
            spec.check()
    except ConfigError as error:
        raise ValueError(f"{key}: {error}") from None


def check_student(network: StudentNetwork, shape: tuple[int, ...], kind: str) -> None:
    """Raises ValueError where a student's own network is not for samples of this shape, which data of this kind have."""
    dimensions = {MLPSpec: 1, DDPMppSpec: 3}.get(type(network), len(shape))
    if len(shape) != dimensions:
        raise ValueError(f"student.network.kind: {network.kind} is not for data of kind {kind}")
    if not isinstance(network, MLPSpec):
        check_network(DenoiserSpec(network, shape, 0, 1.0), "student.network")
