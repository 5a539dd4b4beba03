"""recipe.yaml's precision, and what s_φ is made of."""

from disback_ray.config.base import Frozen, refuse_unknown_keys
from disback_ray.networks.checkpointing import Checkpointing
from disback_ray.networks.lora import LoRA
from disback_ray.networks.precision import FrozenPrecision
from disback_ray.networks.precision import Precision as TrainedPrecision

refuse_unknown_keys(LoRA)


class Precision(Frozen):
    """Of each role's network. bf16: computed in it, and what is frozen kept in it; bf16_stochastic: what is trained kept in it too.

    Scores, losses and what crosses between roles are float32 in any case.
    """

    teacher: FrozenPrecision = "fp32"
    path_node: FrozenPrecision = "fp32"
    fake_score: TrainedPrecision = "fp32"
    generator: TrainedPrecision = "fp32"


class FakeScoreNetwork(Frozen):
    """lora: s_φ and the path are adapters on the frozen teacher; null: each is all of a network. checkpointing: of gradients;
    selective: only what is cheap is computed again."""

    lora: LoRA | None = None
    checkpointing: Checkpointing = False
