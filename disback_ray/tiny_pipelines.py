"""Stable Diffusion at the size of a test: random weights, saved by diffusers itself, in the layout of the published pipelines."""

from pathlib import Path
from typing import Any, Literal

import torch

from disback_ray.hugging_face import diffusers, peft, transformers

Family = Literal["sd", "sdxl"]
LATENT = 8  # pixels a side of the latents; the images have twice as many
TOKENS = 77
WIDTH = 16  # of a text encoder
RANK = 64  # the published LCM-LoRA's


def write_pipeline(folder: Path, family: Family, *, prediction: str = "epsilon", seed: int = 0) -> None:
    """Saves a pipeline with random weights. family: 'sd' as Stable Diffusion 1.5 is laid out, 'sdxl' as SDXL."""
    df = diffusers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {"unet": _unet(family), "vae": _vae(family)}
        names = ("", "_2") if family == "sdxl" else ("",)
        for name in names:
            parts |= {f"text_encoder{name}": _text_encoder(projects=name == "_2"), f"tokenizer{name}": _tokenizer()}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts["scheduler"] = df.DDIMScheduler(
        **betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
    )
    if family == "sdxl":
        df.StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(folder)
        return
    nothing = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    df.StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False).save_pretrained(folder)


def write_lora(folder: Path, *, seed: int = 1) -> None:
    """Saves a LoRA for the 'sd' family's U-Net, of the published LCM-LoRA's rank, and unlike a fresh one no identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet("sd")
        targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
        unet.add_adapter(peft().LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
        weights = peft().get_peft_model_state_dict(unet)
        weights = {name: 0.05 * torch.randn(tensor.shape) for name, tensor in weights.items()}
    diffusers().StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=weights)


def _unet(family: Family) -> Any:
    common: dict[str, Any] = {
        "sample_size": LATENT, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (16, 32),
        "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    own: dict[str, Any] = {"cross_attention_dim": WIDTH, "attention_head_dim": 8}
    if family == "sdxl":
        own = {
            "cross_attention_dim": 2 * WIDTH, "attention_head_dim": (2, 4), "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        }  # fmt: skip
    return diffusers().UNet2DConditionModel(**common, **own)


def _vae(family: Family) -> Any:
    return diffusers().AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=2 * LATENT, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215, force_upcast=family == "sdxl",
    )  # fmt: skip


def _text_encoder(*, projects: bool) -> Any:
    config = transformers().CLIPTextConfig(
        vocab_size=len(_vocabulary()), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=WIDTH, hidden_act="gelu" if projects else "quick_gelu",
        bos_token_id=len(_vocabulary()) - 2, eos_token_id=len(_vocabulary()) - 1, pad_token_id=len(_vocabulary()) - 1,
    )  # fmt: skip
    kind = transformers().CLIPTextModelWithProjection if projects else transformers().CLIPTextModel
    return kind(config).eval()


def _tokenizer() -> Any:
    vocabulary = {token: number for number, token in enumerate(_vocabulary())}
    return transformers().CLIPTokenizer(vocab=vocabulary, merges=[("t", "h"), ("th", "e</w>")], model_max_length=TOKENS)


def _vocabulary() -> list[str]:
    """CLIP's order at the size of ASCII: letters, letters that end a word, merged ones, the start and the end."""
    letters = [chr(code) for code in range(33, 127)]
    return [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
