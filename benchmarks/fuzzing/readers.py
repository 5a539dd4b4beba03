"""Every reader of what others made: honest files of each, small, and what is done with one."""

import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image

from benchmarks.fuzzing.campaign import Reader
from benchmarks.fuzzing.settings import damaged, read_cluster, read_recipe
from disback_ray.config.loading import SHIPPED
from disback_ray.data.image_files import ImageFiles
from disback_ray.data.listing import listing
from disback_ray.data.pixels import CorruptImage, square, whole
from disback_ray.data.prompts import PromptsData, read_prompts
from disback_ray.errors import CheckpointError
from disback_ray.evaluation.statistics import read_statistics
from disback_ray.fetching import Fetched
from disback_ray.inspection import inspect
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec, MLPSpec, ResNetMLPSpec
from disback_ray.run_folder import METRICS, Metrics, Summary, claim, newest_checkpoint, save_checkpoint, write_config
from disback_ray.run_lock import LOCK, refuse_if_held
from disback_ray.storage import Folder
from disback_ray.study.pairs import Key, shuffle
from disback_ray.study.scoring import score
from disback_ray.teachers.checkpoint import Expected, read_file, read_teacher, read_teacher_folder
from disback_ray.teachers.edm_writer import edm_pickle
from disback_ray.teachers.inert_pickle import Built, read_pickle
from disback_ray.teachers.node_storage import NodeStorage
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import save_denoiser
from disback_ray.teachers.torch_file import read_state_dict

EDM = {"img_resolution": 4, "img_channels": 1, "model_type": "SongUNet", "model_channels": 4, "channel_mult": [1], "num_blocks": 1,
       "attn_resolutions": []}  # fmt: skip
SPEC = DenoiserSpec(ResNetMLPSpec(width=4, blocks=1), (2,), 0, 1.0)


def readers() -> dict[str, Callable[[], Reader]]:
    """By their names; made when they are asked for, since some take diffusers."""
    return {
        "pickle": _pickle, "edm": _edm, "consistency": _consistency, "torch": _torch, "tensors": _tensors, "denoiser": _denoiser,
        "generator": _generator, "ddpm": _ddpm, "pipeline": _pipeline, "lora": _lora, "statistics": _statistics, "image": _image,
        "zip": _zip, "dataset.json": _labels, "parquet": _parquet, "arrays": _arrays, "prompts": _prompts,
        "prompts.parquet": _prompt_table, "recipe": lambda: _settings("recipes"), "cluster": lambda: _settings("clusters"),
        "config.yaml": _config, "manifest": _manifest, "node": _node, "metrics": _metrics, "summary": _summary, "lock": _lock,
        "study": _study, "answers": _answers,
    }  # fmt: skip


def _pickle() -> Reader:
    values = [{"a": [1, 2.5, "x", None, (True, b"b")], "n": 1 << 70}, [[[1]], {"k": {}}]]
    known: dict[str, Callable[..., object]] = {"collections.OrderedDict": lambda: {}, "package.allowed": lambda *given: Built()}
    made = [pickle.dumps(value, protocol=protocol) for value in values for protocol in (4, 5)]
    made.append(b"\x80\x02cpackage\nallowed\nK\x01\x85RK\x02b.")
    return Reader("pickle", "x.pkl", made, lambda file: read_pickle(file.read_bytes(), known))


def _edm() -> Reader:
    made = edm_pickle(build_edm("EDMPrecond", EDM), EDM)
    return Reader("edm", "x.pkl", [made], lambda file: _teacher(file, "edm"))


def _consistency() -> Reader:
    network = ConsistencyUNet(model_channels=64, num_res_blocks=1, channel_mult=(1,), attention_factors=(), num_classes=0)
    return Reader("consistency", "x.pt", _saved(network.state_dict()), lambda file: _teacher(file, "consistency"))


def _torch() -> Reader:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    return Reader("torch", "x.pth", _saved(network.state_dict()), read_state_dict)


def _saved(content: object) -> list[bytes]:
    """In both of torch's formats."""
    made = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=new)
        made.append(file.getvalue())
    return made


def _teacher(file: Path, kind: Any) -> None:
    expected = Expected(resolution=4) if kind == "consistency" else Expected()
    read_teacher(read_file(str(file)), name=file.name, format=kind, expected=expected)


def _tensors() -> Reader:
    made = safetensors.torch.save({"a": torch.ones(3, 2), "b": torch.zeros(2, dtype=torch.bfloat16)}, {"about": "x"})
    return Reader("tensors", "x.safetensors", [made], lambda file: Folder.at(file.parent).read_tensors(file.name))


def _denoiser() -> Reader:
    made = _written(lambda folder: save_denoiser(folder, SPEC, SPEC.build().state_dict()))
    return Reader("denoiser", "denoiser.json", [made.pop("denoiser.json")], _inspected, beside=made)


def _generator() -> Reader:
    def write(folder: Folder) -> None:
        spec = GeneratorSpec(MLPSpec(width=4, hidden_layers=1), (2,), 0, 1.0)
        proof = folder.write_tensors("model.safetensors", spec.build().state_dict())
        folder.write_json("generator.json", spec.to_json() | {"weights": proof})

    made = _written(write)
    return Reader("generator", "generator.json", [made.pop("generator.json")], _inspected, beside=made)


def _inspected(file: Path) -> None:
    """Without --trust-modules: whatever module it names is not imported."""
    inspect(file.parent)


def _ddpm() -> Reader:
    from disback_ray.tiny import write_ddpm

    made = _written(lambda folder: write_ddpm(Path(folder.uri)))
    name = "unet/config.json"
    return Reader(
        "ddpm", name, [made.pop(name)],
        lambda file: read_teacher_folder(file.parents[1], name="ddpm", expected=Expected()), beside=made,
    )  # fmt: skip


def _pipeline() -> Reader:
    from disback_ray.teachers.pipeline import open_pipeline
    from disback_ray.tiny_pipelines import write_pipeline

    made = _written(lambda folder: write_pipeline(Path(folder.uri), "sd"))
    name = "unet/config.json"
    return Reader("pipeline", name, [made.pop(name)], lambda file: open_pipeline(file.parents[1], name="pipeline"), beside=made)


def _lora() -> Reader:
    from disback_ray.teachers.lora import FILE, read_lora
    from disback_ray.tiny_pipelines import write_lora, write_pipeline

    every = safetensors.torch.load(_written(lambda folder: write_lora(Path(folder.uri)))[FILE])
    made = safetensors.torch.save({name: every[name] for name in sorted(every)[:8]})  # for some of its layers: a case costs less
    unet = json.loads(_written(lambda folder: write_pipeline(Path(folder.uri), "sd"))["unet/config.json"])
    return Reader("lora", FILE, [made], lambda file: read_lora(str(file), unet))


def _statistics() -> Reader:
    file = io.BytesIO()
    np.savez(file, mu=np.zeros(2), sigma=np.eye(2))
    return Reader(
        "statistics", "x.npz", [file.getvalue()], lambda path: read_statistics(Fetched(path.name, path.read_bytes(), "0" * 64))
    )


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, kind)
    return file.getvalue()


def _image() -> Reader:
    made = [_picture(kind) for kind in ("png", "jpeg", "bmp", "webp", "tiff", "ppm")]
    return Reader("image", "x.png", made, _decoded)


def _decoded(file: Path) -> None:
    try:
        whole(file.read_bytes())
        square(file.read_bytes(), resolution=4, grey=False)
    except CorruptImage as error:
        raise CheckpointError(str(error)) from None  # as the readers of many images say it, with its name


def _read_images(file: Path) -> None:
    """As training and as measuring read them."""
    for share in listing(str(file), labelled=False).shares:
        for _ in share.read():
            pass
    for _ in ImageFiles(str(file), skip_corrupt=True).parts(8):
        pass


def _zip() -> Reader:
    made = []
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", how) as archive:
            archive.writestr("a/1.png", _picture("png"))
            archive.writestr("dataset.json", '{"labels": [["a/1.png", 0]]}')
        made.append(file.getvalue())
    return Reader("zip", "x.zip", made, _read_images)


def _labels() -> Reader:
    made = [b'{"labels": [["1.png", 0], ["2.png", 3]]}', b'{"labels": [["1.png", "cat"], ["2.png", "dog"]]}']
    pictures = {"1.png": _picture("png"), "2.png": _picture("png")}
    return Reader("dataset.json", "dataset.json", made, lambda file: listing(str(file.parent), labelled=True), beside=pictures)


def _parquet() -> Reader:
    made = []
    for table in (
        pa.table({"image": [{"bytes": _picture("png"), "path": "1.png"}], "label": [1]}),
        pa.table({"bytes": [_picture("png")]}),
    ):
        file = io.BytesIO()
        pq.write_table(table, file)
        made.append(file.getvalue())
    return Reader("parquet", "x.parquet", made, _read_images)


def _arrays() -> Reader:
    made = []
    for arrays in ({"x": np.zeros((1, 1, 2, 2), np.float32)}, {"arr_0": np.zeros((1, 2, 2, 3), np.uint8)}):
        file = io.BytesIO()
        np.savez(file, **arrays)
        made.append(file.getvalue())
    return Reader("arrays", "x.npz", made, lambda path: list(ImageFiles(str(path)).parts(8)))


def _prompts() -> Reader:
    return Reader("prompts", "x.txt", ["a cat\nein Hund\n日本\n".encode()], lambda file: read_prompts(PromptsData(str(file))))


def _prompt_table() -> Reader:
    file = io.BytesIO()
    pq.write_table(pa.table({"caption": ["a cat", "a dog"]}), file)
    return Reader("prompts.parquet", "x.parquet", [file.getvalue()], lambda path: read_prompts(PromptsData(str(path))))


def _settings(kind: str) -> Reader:
    made = [file.read_bytes() for file in sorted((SHIPPED / kind).iterdir(), key=lambda file: file.name)]
    read = read_recipe if kind == "recipes" else read_cluster
    return Reader(kind.removesuffix("s"), "x.yaml", made, lambda file: read(str(file)), make=damaged)


def _run(folder: Folder) -> None:
    from disback_ray.config import load_cluster, load_recipe

    write_config(folder, load_recipe("ring8"), load_cluster(None), seed=0)
    proof = (folder / "checkpoints" / "recording-00000005").write_tensors("fake_score.safetensors", {"a": torch.ones(2)})
    save_checkpoint(folder, "recording", 5, {"fake_score": proof})
    rows = Metrics(folder)
    rows.add({"stage": "recording", "step": 1, "node": 0, "seconds": 1.0, "fake_loss": 2.0})
    rows.flush()
    folder.write_json("summary.json", asdict(Summary("ring8", 0)))


def _config() -> Reader:
    from disback_ray.config import load_recipe

    made, recipe = _written(_run), load_recipe("ring8")
    return Reader(
        "config.yaml", "config.yaml", [made.pop("config.yaml")], lambda file: claim(Folder.at(file.parent), recipe, seed=0),
        beside=made,
    )  # fmt: skip


def _manifest() -> Reader:
    made, name = _written(_run), "checkpoints/recording-00000005/manifest.json"
    return Reader(
        "manifest", name, [made.pop(name)], lambda file: newest_checkpoint(Folder.at(file.parents[2]), "recording"), beside=made
    )


def _node() -> Reader:
    def write(folder: Folder) -> None:
        network, copies = SPEC.build(), PathCopies(folder, folder, storage=NodeStorage("int8"))
        copies.keep(network.state_dict(), 1, step=5, matrices=copies.matrices(network))

    made, name = _written(write), "node-1.json"
    return Reader(
        "node",
        name,
        [made.pop(name)],
        lambda file: PathCopies(Folder.at(file.parent), Folder.at(file.parent)).read(1),
        beside=made,
    )


def _metrics() -> Reader:
    return Reader("metrics", METRICS, [_written(_run)[METRICS]], lambda file: Metrics(Folder.at(file.parent)))


def _summary() -> Reader:
    made = _written(_run)
    return Reader("summary", "summary.json", [made.pop("summary.json")], _inspected, beside=made)


def _lock() -> Reader:
    made = b'{"host": "x", "processes": "y", "pid": 1, "started": 1.0, "key": "k", "folder": "/f", "heard": 1.0}'
    return Reader("lock", LOCK, [made], lambda file: refuse_if_held(Folder.at(file.parent)))


def _a_study() -> Key:
    return shuffle(("a", "b"), 3, seed=0, pictures=[b"1", b"2"])


def _study() -> Reader:
    made = _a_study().to_json().encode()
    return Reader("study", "key.json", [made], lambda file: Key.from_json(file.read_text("utf-8", "replace"), where="key.json"))


def _answers() -> Reader:
    key = _a_study()
    rows = [{"pair": pair, "choice": "left", "seconds": 1.5} for pair in range(3)]
    made = json.dumps({"study": key.study, "answers": rows}).encode()
    return Reader("answers", "a.json", [made], lambda file: score(key, {"a.json": file.read_bytes()}))


def _written(write: Callable[[Folder], None]) -> dict[str, bytes]:
    """The files that it writes into an empty folder, by their paths."""
    with tempfile.TemporaryDirectory() as name:
        write(Folder.at(name))
        return {str(file.relative_to(name)): file.read_bytes() for file in Path(name).rglob("*") if file.is_file()}
