"""`evaluate --prompts`: one image a prompt, and a CLIP score that transformers' own model gives too; both tiny, with random weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from disback_ray import model_images, prompting
from disback_ray.any_model import load_model
from disback_ray.errors import ConfigError
from disback_ray.evaluating import evaluate_prompts
from disback_ray.evaluation.extractors import ExtractorSpec, as_pixels
from disback_ray.hugging_face import transformers
from disback_ray.image_statistics import Source
from disback_ray.model_images import PART
from disback_ray.storage import digest
from disback_ray.teachers.prompt_encoding import load_encoders
from disback_ray.tiny_pipelines import write_pipeline

PROMPTS = ("the cat", "a dog on the roof", "an old mill")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    write_pipeline(folder, "sd")
    return folder


@pytest.fixture(scope="module")
def clip(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the pipeline's tokenizer."""
    library, folder = transformers(), tmp_path_factory.mktemp("clip")
    tokenizer = library.CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "pad_token_id": tokenizer.eos_token_id}
    config = library.CLIPConfig(text_config=text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library.CLIPModel(config).save_pretrained(folder)
    images = library.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    library.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_the_score_is_transformers_own(pipeline: Path, clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    source = Source(seed=3, steps=2, guidance=1)
    found = evaluate_prompts(str(pipeline), str(file), clip=str(clip), reference=None, spec=ExtractorSpec(), source=source)
    assert (found.samples.images, set(found.figures)) == (3, {"clip_score"})
    drawn = as_pixels(load_model(pipeline, steps=2, guidance=1).generate(3, seed=3, prompts=list(PROMPTS)))
    assert found.samples.sha256 == hashlib.sha256(b"".join(image.tobytes() for image in drawn)).hexdigest()
    library = transformers()
    processor, model = library.CLIPProcessor.from_pretrained(clip), library.CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        made = model(**processor(text=list(PROMPTS), images=drawn, return_tensors="pt", padding=True))
        expected = (made.logits_per_image.diag() / model.logit_scale.exp()).mean()
    assert found.figures["clip_score"] == pytest.approx(float(expected), abs=1e-5)
    assert "CLIP score" in "\n".join(found.lines())
    prompts = hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest()
    assert found.of == {"prompts": prompts, "CLIP": digest(model.float().state_dict())}
    with pytest.raises(ConfigError, match="holds 3 prompts"):
        evaluate_prompts(
            str(pipeline), str(file), clip=str(clip), reference=None, spec=ExtractorSpec(), source=Source(n=4, steps=2)
        )


def test_the_text_encoders_are_loaded_once_for_all_parts(
    pipeline: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And draw what encoders that were loaded for each part draw, bit for bit."""
    (file := tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    parts = [
        load_model(pipeline, steps=2, guidance=2).generate(len(texts), seed=3, first=first, prompts=texts)
        for first, texts in ((0, PROMPTS[:2]), (2, PROMPTS[2:]))
    ]
    expected = hashlib.sha256(b"".join(image.tobytes() for part in parts for image in as_pixels(part))).hexdigest()
    monkeypatch.setattr(model_images, "PART", 2)
    loads = []
    monkeypatch.setattr(prompting, "load_encoders", lambda *given, **more: loads.append(given) or load_encoders(*given, **more))
    source = Source(seed=3, steps=2, guidance=2)
    found = evaluate_prompts(str(pipeline), str(file), clip=str(clip), reference=None, spec=ExtractorSpec(), source=source)
    assert found.samples.sha256 == expected
    assert len(loads) == 1
    assert found.lines()[1].endswith(", 3 samples, drawn in 2 steps of DDIM, guidance 2")


def test_a_prompt_that_is_too_long_is_named_by_its_line_before_any_is_drawn(
    pipeline: Path, clip: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first part of images, too."""
    monkeypatch.delattr("disback_ray.teacher_model.TeacherModel.generate")
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\n" * PART + "a" * 80)
    said = command("evaluate", str(pipeline), "--prompts", str(file), "--clip", str(clip))
    assert said.complaint == f"--prompts {file}, line {PART + 1}: 82 tokens, and the text encoder takes 77: shorten the prompt"


def test_what_cant_be_measured_is_said(ring8: Path, clip: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the cat")
    said = command("evaluate", str(ring8), "--prompts", str(file), "--clip", str(clip))
    assert said.complaint == f"--prompts {file}: {ring8} takes no prompts"
    said = command("evaluate", str(ring8), "--prompts", f"{file}.none", "--clip", str(clip))
    assert said.complaint == f"--prompts {file}.none: no such file"
    assert "give --clip, --reference, or both" in command("evaluate", "x.pkl", "--prompts", str(file)).complaint
    assert "give --prompts as well" in command("evaluate", "x.pkl", "--clip", str(tmp_path)).complaint
    assert "is no model" in command("evaluate", "x.zip", "--prompts", str(file), "--clip", str(tmp_path)).complaint
