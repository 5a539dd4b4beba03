"""What `disback-ray teacher train` is asked for: images, a network, and how it is trained."""

from pydantic import model_validator

from disback_ray.config.base import Frozen, check_order, refuse_unknown_keys
from disback_ray.config.networks import check_network
from disback_ray.config.teacher import Teacher
from disback_ray.data.sources import ImagesData
from disback_ray.networks.spec import Count, DenoiserSpec, ResNetMLPSpec

refuse_unknown_keys(ImagesData)


class TeacherJob(Frozen):
    """pictures: of each grid; pictures_every: steps between two grids, None for ten in all."""

    data: ImagesData
    teacher: Teacher
    pictures: Count = 64
    pictures_every: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> "TeacherJob":
        network, training = self.teacher.network, self.teacher.training
        if isinstance(network, ResNetMLPSpec) or self.teacher.exact_score:
            raise ValueError("teacher: resnet-mlp and exact_score are for points, and these are images")
        if training.label_dropout and not self.data.conditional:
            raise ValueError(
                f"teacher.training.label_dropout: {training.label_dropout}: without labels (--uncond) there are none to drop"
            )
        check_network(DenoiserSpec(network, self.data.shape, 0, 1.0), "teacher.network")
        check_order(training.noise, "teacher.training.noise")
        return self


def multipliers_for(resolution: int) -> list[int]:
    """Levels down to about 8 pixels, as in EDM's configurations: [2, 2, 2] for 32, [1, 2, 2, 2] for 64."""
    levels = 1
    while resolution % 2**levels == 0 and resolution >> levels >= 8:
        levels += 1
    return [2] * levels if resolution <= 32 else [1, *[2] * (levels - 1)]
