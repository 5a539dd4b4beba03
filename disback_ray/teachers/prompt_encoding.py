"""A pipeline's text encoders: prompts into the embeddings that its U-Net hears, kept on disk as a table."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from disback_ray.data.prompts import Precision, Prompts
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.hugging_face import transformers
from disback_ray.networks.prompt_table import TEXTS, Embedded
from disback_ray.storage import Folder
from disback_ray.teachers.hub import INDEX
from disback_ray.teachers.pipeline import Family, encoders_digest, family_of, variant_of

AT_ONCE = 16
KINDS: dict[Family, tuple[tuple[str, str], ...]] = {
    "sd": (("", "CLIPTextModel"),),
    "sdxl": (("", "CLIPTextModel"), ("_2", "CLIPTextModelWithProjection")),
}


class TextEncoders:
    """The tokenizers and text encoders of a pipeline's folder."""

    def __init__(self, path: Path, family: Family, *, zeros_for_empty: bool, device: torch.device) -> None:
        """zeros_for_empty: 'no prompt' is zeros, instead of the empty prompt. Raises CheckpointError where a part is damaged."""
        self.family: Family = family
        self.zeros_for_empty = zeros_for_empty
        self.tokenizers = load_tokenizers(path, family)
        self.encoders = []
        for name, kind in KINDS[family]:
            part = path / f"text_encoder{name}"
            with _one_line(part):
                encoder = getattr(transformers(), kind).from_pretrained(
                    part, local_files_only=True, use_safetensors=True, dtype=torch.float32, variant=variant_of(part)
                )
            self.encoders.append(encoder.eval())
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Moves the encoders."""
        self.device = device
        for encoder in self.encoders:
            encoder.to(device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Embedded:
        """What the U-Net hears of each: SD the last layer's states, normed; SDXL the last but one of both encoders."""
        tokens: list[Tensor] = []
        pooled = None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            inputs = tokenizer(
                list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
            ).to(self.device)
            mask = inputs.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
            out = encoder(inputs.input_ids, attention_mask=mask, output_hidden_states=self.family == "sdxl")
            tokens.append(out.hidden_states[-2] if self.family == "sdxl" else out.last_hidden_state)
            pooled = getattr(out, "text_embeds", None)
        return Embedded(torch.cat(tokens, dim=-1), pooled)

    def unconditional(self) -> Embedded:
        """What the U-Net hears of 'no prompt'."""
        empty = self.encode([""])
        if not self.zeros_for_empty:
            return empty
        return Embedded(torch.zeros_like(empty.tokens), None if empty.pooled is None else torch.zeros_like(empty.pooled))


class _one_line:
    """transformers' errors for a damaged part, of many kinds, as CheckpointError."""

    def __init__(self, part: Path) -> None:
        self.part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConfigError):
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.part}: can't be loaded ({type(error).__name__}: {reason})") from None


def load_tokenizers(path: Path, family: Family) -> list[Any]:
    """Raises CheckpointError where one is damaged."""
    tokenizers = []
    for name, _ in KINDS[family]:
        with _one_line(path / f"tokenizer{name}"):
            tokenizers.append(transformers().CLIPTokenizer.from_pretrained(path / f"tokenizer{name}", local_files_only=True))
    return tokenizers


def check_lengths(prompts: Prompts, path: Path, family: Family) -> None:
    """Raises ConfigError, which names the line, for a prompt that the text encoder would cut off."""
    for tokenizer in load_tokenizers(path, family):
        most = tokenizer.model_max_length
        for first in range(0, len(prompts), 1000):
            for index, ids in enumerate(tokenizer(list(prompts.texts[first : first + 1000])).input_ids, start=first):
                if len(ids) > most:
                    raise ConfigError(
                        f"{prompts.place(index)}: {len(ids)} tokens, and the text encoder takes {most}: shorten the prompt"
                    )


def table_folder(cache: Folder, pipeline: Folder, texts: Sequence[str], *, embeddings: Precision) -> Folder:
    """Where the table of these prompts is, or will be: named by the SHA-256 of them, the encoders and the type."""
    key = json.dumps([encoders_digest(pipeline), embeddings, list(texts)])
    return cache / f"prompts-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def put_texts(table: Folder, prompts: Prompts) -> None:
    """Keeps the prompts themselves beside their embeddings, before those are there. Raises CheckpointError."""
    if not table.has(TEXTS):
        table.write_json(TEXTS, list(prompts.texts))


def load_encoders(pipeline: Folder, *, device: torch.device) -> TextEncoders:
    """Those of an imported pipeline. Raises CheckpointError where it is not whole."""
    with pipeline.here() as path:
        family = family_of(pipeline)
        zeros = family == "sdxl" and pipeline.read_json(INDEX).get("force_zeros_for_empty_prompt", True)
        return TextEncoders(path, family, zeros_for_empty=zeros, device=device)


def encoded(encoders: TextEncoders, texts: Sequence[str], *, embeddings: Precision) -> dict[str, Tensor]:
    """The rows of a table, by the names that PromptTable knows. texts: of one shard."""
    kind = getattr(torch, embeddings)
    parts = [encoders.encode(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)]
    return _rows(torch.cat([part.tokens for part in parts]), [part.pooled for part in parts if part.pooled is not None], kind)


def encoded_nothing(encoders: TextEncoders, *, embeddings: Precision) -> dict[str, Tensor]:
    """The row of 'no prompt'."""
    nothing = encoders.unconditional()
    return _rows(nothing.tokens, [] if nothing.pooled is None else [nothing.pooled], getattr(torch, embeddings))


def _rows(tokens: Tensor, pooled: list[Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {"tokens": tokens.to("cpu", kind)} | ({"pooled": torch.cat(pooled).to("cpu", kind)} if pooled else {})
