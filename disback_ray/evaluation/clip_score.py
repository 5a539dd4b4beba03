"""How well images fit their prompts, by a CLIP of transformers' that lies in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from disback_ray.device import best_device
from disback_ray.errors import CheckpointError
from disback_ray.hugging_face import transformers
from disback_ray.storage import digest


class ClipScore:
    """CLIP score: the cosine between the embeddings of an image and of its prompt (Hessel et al. 2021, without their factor 2.5)."""

    def __init__(self, folder: str) -> None:
        """folder: of CLIPModel and CLIPProcessor, as `save_pretrained` leaves them.

        Raises CheckpointError where it holds none, ConfigError without transformers.
        """
        library = transformers()
        if not Path(folder).is_dir():
            raise CheckpointError(f"--clip {folder}: no such folder: give one that holds a CLIP of transformers'")
        try:
            self.processor = library.CLIPProcessor.from_pretrained(folder, local_files_only=True)
            self.model = library.CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # transformers raises a dozen kinds for what isn't there or is damaged
            raise CheckpointError(f"--clip {folder}: no CLIP of transformers' ({' '.join(str(error).split())[:200]})") from None
        self.device = best_device()
        self.model = self.model.float().eval().to(self.device)
        self.name, self.sha256 = Path(folder).resolve().name, digest(self.model.state_dict())

    @torch.inference_mode()
    def scores(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """images: uint8 [H, W, 3]; texts: one each, cut to what CLIP reads → float64 [B], -1 … 1."""
        given = self.processor(text=list(texts), images=list(images), return_tensors="pt", padding=True, truncation=True)
        made = self.model(**{name: tensor.to(self.device) for name, tensor in given.items()})
        return torch.nn.functional.cosine_similarity(made.image_embeds.double(), made.text_embeds.double()).cpu().numpy()
