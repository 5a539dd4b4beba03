"""`inspect`: what each kind of checkpoint is, in lines that a person reads; or one line why it is refused."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.filesize import decimal
from safetensors.torch import save_file

import disback_ray
from disback_ray.cli import main
from disback_ray.config import ClusterConfig
from disback_ray.errors import CheckpointError
from disback_ray.inspection import inspect
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, import_teacher
from disback_ray.teachers.edm_writer import edm_pickle

SMALL = {"img_resolution": 8, "img_channels": 3, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
SMALL |= {"attn_resolutions": []}


def edm(folder: Path, arguments: dict[str, Any], precond: str = "EDMPrecond") -> Path:
    file = folder / "teacher.pkl"
    file.write_bytes(edm_pickle(build_edm(precond, arguments), arguments).replace(b"EDMPrecond", precond.encode()))
    return file


@pytest.mark.parametrize(
    ("arguments", "network", "conditioning"),
    [
        ({"model_type": "SongUNet"}, "DDPM++, EDM preconditioning", "none"),
        ({"model_type": "SongUNet", "encoder_type": "residual", "label_dim": 7}, "NCSN++, EDM preconditioning", "7 classes"),
        ({"label_dim": 1000}, "ADM, EDM preconditioning", "1000 classes"),
    ],
)
def test_an_edm_pickle(tmp_path: Path, arguments: dict[str, Any], network: str, conditioning: str) -> None:
    parameters = sum(p.numel() for p in build_edm("EDMPrecond", SMALL | arguments).parameters())
    file = edm(tmp_path, SMALL | arguments | {"use_fp16": True})
    assert inspect(file) == {
        "kind": "EDM pickle: teacher.format: edm",
        "network": network,
        "images": "3 × 8 × 8 (channels, height, width), in [-1, 1]",
        "conditioning": conditioning,
        "parameters": f"{parameters:,}",
        "precision": "float32 in the file, float16 when its owners run it; float32 here",
        "σ": "0.002 … 80 when sampled; σ_data 0.5",
    }
    folder = import_teacher(Folder.at(tmp_path / "cache"), str(file), format="edm", expected=Expected())
    of_folder = inspect(folder.uri)
    assert of_folder == inspect(file) | {"kind": "teacher's folder: teacher.format: denoiser", "precision": "float32"}


def test_the_range_of_sigma_is_the_network_s_own(tmp_path: Path) -> None:
    """VE: 0.02 … 100, Karras et al. 2022, Table 1; sampled up to 80."""
    arguments = SMALL | {"model_type": "SongUNet"}
    network = build_edm("VEPrecond", arguments)
    data = edm_pickle(network, arguments)
    (tmp_path / "ve.pkl").write_bytes(data)
    facts = inspect(tmp_path / "ve.pkl")
    assert facts["network"] == "DDPM++, VE preconditioning"
    assert facts["σ"].startswith("0.02 … 80 ")


def consistency(*, half: bool, size: int = 1) -> bytes:
    network = ConsistencyUNet(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_factors=(2,), scale_shift=False)
    weights = {key: value.half() if half else value for key, value in network.state_dict().items()}
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def test_a_consistency_file_and_what_it_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "cd.pt").write_bytes(consistency(half=True))
    facts = inspect(tmp_path / "cd.pt")
    assert facts["kind"] == "consistency file: teacher.format: consistency"
    assert facts["network"].startswith("openai's ADM, consistency model, or a diffusion model's: the file doesn't tell")
    assert facts["images"].startswith("3 × 16 × 16 (channels, height, width), in [-1, 1] (not in the file: ")
    assert facts["precision"].startswith("float16 in the file; float32 here")
    assert (facts["conditioning"], facts["σ"]) == ("none", "0.002 … 80 when sampled; σ_data 0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    cluster = ClusterConfig(storage=str(folder / "storage"))
    disback_ray.run("ring8", cluster=cluster, out=folder / "ring", in_process=True, tiny=True)
    disback_ray.run("cifar10-edm", cluster=cluster, out=folder / "images", in_process=True, tiny=True)
    return folder


def test_a_run_and_its_generator(run: Path) -> None:
    ring, images = inspect(run / "ring"), inspect(run / "images")
    said = {"kind": "run of ring8-tiny, complete", "path": ring["path"]}
    assert ring == inspect(run / "ring" / "generator") | said
    assert ring["path"].startswith("2 nodes, stored as they are: ")
    assert (ring["network"], ring["points"]) == ("MLP, one step", "of 2 coordinates")
    assert images["kind"] == "run of cifar10-edm-tiny, complete"
    assert (images["network"], images["σ"]) == ("DDPM++, EDM preconditioning", "one step from σ = 2.5")
    (teacher,) = (run / "storage" / "teachers").glob("ring-*")
    assert inspect(teacher)["network"] == "residual MLP, EDM preconditioning"


def test_a_node_of_its_path(run: Path) -> None:
    facts = inspect(run / "ring" / "path" / "node-2.safetensors")
    size = (run / "ring" / "path" / "node-2.safetensors").stat().st_size
    assert (facts["kind"], facts["weights"]) == ("node 2 of a path, after 2 recording steps", "a whole network")
    assert re.fullmatch(rf"as they are: [\d,]+ numbers, {re.escape(decimal(size))}", facts["stored"])


def test_an_unfinished_run_says_so(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "summary.json"):
        (tmp_path / name).write_bytes((run / "ring" / name).read_bytes().replace(b'"complete"', b'"interrupted"'))
    facts = inspect(tmp_path)
    assert facts["kind"] == "run of ring8-tiny, interrupted"
    assert facts["generator"].startswith("none yet")


def test_the_command_prints_the_lines_and_exits_2_with_one_where_it_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(run / "ring")])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ["kind", "run of ring8-tiny, complete"]
    file = tmp_path / "bad.pkl"
    good = edm(tmp_path, SMALL).read_bytes()
    for data, says in ((good[:-50], "damaged"), (b"text", "neither"), (good.replace(b"EasyDict", b"EasyCode"), "EasyCode")):
        file.write_bytes(data)
        with pytest.raises(SystemExit) as ended:
            main(["inspect", str(file)])
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert not said.out
        assert len(said.err.splitlines()) == 1
        assert said.err.startswith(f"disback-ray: {file}: ")
        assert says in said.err


def test_damaged_weights_are_found(run: Path, tmp_path: Path) -> None:
    for name in ("generator.json", "model.safetensors"):
        data = (run / "ring" / "generator" / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-1] + b"\x7f" if name.endswith("safetensors") else data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        inspect(tmp_path)


def test_what_is_nothing_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is there"):
        inspect(tmp_path / "nowhere")
    save_file({"unet.x.lora_A.weight": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no weights of a LoRA"):
        inspect(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="neither a teacher's folder"):
        inspect(tmp_path)
