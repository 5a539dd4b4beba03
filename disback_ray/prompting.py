"""Other prompts for a text-to-image model than those that it was trained with, encoded when they are asked for."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from disback_ray.actors.prompt_encoder import PromptEncoder, encode_all
from disback_ray.data.prompts import Prompts
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.networks.prompt_table import TEXTS
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.networks.text_unet import TextUNet, TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.latents import LatentDecoder
from disback_ray.teachers.pipeline import family_of
from disback_ray.teachers.prompt_encoding import TextEncoders, check_lengths, load_encoders, put_texts


def text_network_of(spec: DenoiserSpec | GeneratorSpec) -> TextUNetSpec | None:
    """The U-Net that a model is made of, where that makes latents from prompts."""
    network = spec.network.network if isinstance(spec.network, DenoiserSpec) else spec.network
    return network if isinstance(network, TextUNetSpec) else None


def as_images(samples: Tensor, network: TextUNetSpec | None) -> Tensor:
    """Images of latents; other samples as they are. On the CPU. Raises CheckpointError where the VAE is missing or damaged."""
    return LatentDecoder(network)(samples) if network else samples.cpu()


def texts_of(network: TextUNetSpec, count: int) -> tuple[str, ...] | None:
    """The prompts that a network was told, by their numbers; None where they aren't kept any more. count: how many they were."""
    try:
        texts = Folder(network.prompts).read_json(TEXTS)
    except CheckpointError:
        return None
    whole = isinstance(texts, list) and len(texts) == count and all(isinstance(text, str) for text in texts)
    return tuple(texts) if whole else None


def check_heard(network: TextUNetSpec, prompts: Prompts) -> None:
    """Raises ConfigError, which says where it stands, for a prompt that is too long, CheckpointError where the tokenizers are gone."""
    pipeline = Folder(network.pipeline)
    with pipeline.here() as path:
        check_lengths(prompts, path, family_of(pipeline))


def encoders_of(network: TextUNetSpec | None) -> TextEncoders:
    """Of its pipeline, on the CPU. Raises CheckpointError where they are gone or damaged."""
    assert network is not None
    return load_encoders(Folder(network.pipeline), device=torch.device("cpu"))


@contextmanager
def hearing(
    model: nn.Module, network: TextUNetSpec | None, prompts: Sequence[str] | None, *, encoders: Callable[[], TextEncoders]
) -> Iterator[int | None]:
    """Lets a model hear these prompts while the block lasts, and gives their number; None: it hears its own.

    encoders: gives those of its pipeline; on the device they are only while they encode, since the network draws there.

    Raises ConfigError where it takes none, or one is empty or too long, CheckpointError where the text encoders are gone.
    """
    if prompts is None:
        yield None
        return
    if network is None:
        raise ConfigError("--prompt: this model takes no prompts")
    asked = Prompts(tuple(text.strip() for text in prompts), "--prompt", "number")
    if "" in asked.texts:
        raise ConfigError(f"{asked.place(asked.texts.index(''))}: empty")
    check_heard(network, asked)
    (unet,) = (module for module in model.modules() if isinstance(module, TextUNet))
    own = unet.prompts
    with tempfile.TemporaryDirectory() as beside:
        unet.tell(Folder.at(beside))
        put_texts(unet.prompts, asked)
        loaded = encoders()
        loaded.to(best_device())
        encoder = PromptEncoder(unet.prompts, Folder(network.pipeline), embeddings="float32", encoders=loaded)
        encode_all(encoder, wait=lambda value: value, report=lambda done, shards: None)
        loaded.to(torch.device("cpu"))
        try:
            yield len(asked)
        finally:
            unet.tell(own)
