"""Latents into images: a pipeline's VAE, in float32, loaded when the first picture is wanted."""

from typing import Any

import torch
from torch import Tensor

from disback_ray.device import best_device
from disback_ray.errors import CheckpointError
from disback_ray.hugging_face import diffusers
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.pipeline import variant_of

AT_ONCE = 1 << 20
"""Pixels that are decoded together: one image of 1024 × 1024."""


class LatentDecoder:
    """The decoder of a pipeline's VAE (Rombach et al. 2022). float32: SDXL's overflows in half precision."""

    def __init__(self, network: TextUNetSpec) -> None:
        """network: the U-Net that makes the latents."""
        self.pipeline = Folder(network.pipeline)
        self.at_once = max(1, AT_ONCE // network.pixels**2)
        self.device = best_device()
        self._vae: Any = None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """latents: [N, 4, h, w] as the U-Net knows them → images [N, 3, H, W] in about [-1, 1], float32, on the CPU.

        Raises CheckpointError where the pipeline's VAE is missing or damaged.
        """
        vae = self._loaded()
        mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
        parts = []
        for part in latents.split(self.at_once):
            part = part.to(self.device, torch.float32)
            if mean is not None and std is not None:  # of later VAEs than SDXL's own
                shift, scale = (part.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
                part = part * scale / vae.config.scaling_factor + shift
            else:
                part = part / vae.config.scaling_factor
            parts.append(vae.decode(part, return_dict=False)[0].cpu())
        return torch.cat(parts)

    def _loaded(self) -> Any:
        if self._vae is None:
            with self.pipeline.here() as path:
                try:
                    vae = diffusers().AutoencoderKL.from_pretrained(
                        path / "vae", local_files_only=True, use_safetensors=True, torch_dtype=torch.float32,
                        variant=variant_of(path / "vae"),
                    )  # fmt: skip
                except Exception as error:  # diffusers raises a dozen kinds for damaged files
                    reason = " ".join(str(error).split())[:200]
                    raise CheckpointError(f"{self.pipeline.uri}/vae: can't be loaded ({reason})") from None
            self._vae = vae.to(self.device).eval().requires_grad_(False)
        return self._vae
