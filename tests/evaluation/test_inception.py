"""The extractor on a real TorchScript module of NVIDIA's interface, in all modes, against clean-fid's own pipeline."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disback_ray.data.image_files import ImageFiles
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.frechet import frechet_of
from disback_ray.evaluation.inception import Inception
from disback_ray.evaluation.statistics import tally
from disback_ray.fetching import Fetched
from disback_ray.torchvision_shim import declare_missing_operators

Weights = Callable[[int], Fetched]
MODES = ("clean", "legacy_pytorch", "legacy_tensorflow")


@pytest.fixture(autouse=True)
def _clean_fid_warns() -> Any:
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_are_those_of_clean_fid_s_wrapper(
    mode: str, inception_file: Callable[[int], Path], inception_weights: Weights, pictures: Any
) -> None:
    """2,048 wide, as its wrapper demands."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    ours = Inception(inception_weights(2048), mode=mode)  # type: ignore[arg-type]
    theirs = InceptionV3W(str(inception_file(2048).parent), download=False, resize_inside=mode == "legacy_tensorflow")
    images = pictures(5)
    batch = torch.stack([torch.from_numpy(np.array(build_resizer(mode)(x), np.float32)).permute(2, 0, 1) for x in images])
    expected = theirs(batch).detach().numpy()
    assert ours.kind.dimensions == 2048
    assert np.allclose(ours.features(images), expected, rtol=1e-5, atol=1e-6)
    assert expected.std(axis=0).max() > 1e-3, "the pictures differ"


@pytest.mark.parametrize("mode", MODES)
def test_the_distance_of_two_folders_is_clean_fid_s(
    mode: str, inception_weights: Weights, pictures: Any, folder_of: Callable[[list[np.ndarray]], Path]
) -> None:
    """The whole of it, from files to figure, with clean-fid's readers, resizers, moments and root.

    Features are float32, made in other batches: 1e-5.
    """
    from cleanfid.fid import compute_fid

    narrow = Inception(inception_weights(8), mode="legacy_tensorflow" if mode == "legacy_tensorflow" else "clean")
    narrow.mode = mode  # type: ignore[assignment]  # its network takes pytorch's resized pixels as well
    folders = [folder_of(pictures(40, seed=1)), folder_of(pictures(40, seed=2, tint=60))]
    expected = compute_fid(
        str(folders[0]), str(folders[1]), mode=mode, custom_feat_extractor=narrow._network, num_workers=0,
        device=torch.device("cpu"), verbose=False,
    )  # fmt: skip
    found = [tally(ImageFiles(str(folder)).parts(16), narrow).moments.gaussian() for folder in folders]
    assert frechet_of(*found) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_the_port_of_pytorch_fid_gets_its_weights_from_the_file(pictures: Any) -> None:
    """clean-fid would load them from an address; it is given random ones, and computes with exactly those."""
    from cleanfid import inception_pytorch as port

    stock = port.load_state_dict_from_url
    with torch.random.fork_rng():
        torch.manual_seed(0)
        port.load_state_dict_from_url = lambda *_, **__: {}
        load, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, lambda *_, **__: None  # type: ignore[assignment]
        try:
            network = port.fid_inception_v3()
        finally:
            port.load_state_dict_from_url, torch.nn.Module.load_state_dict = stock, load
    sink = io.BytesIO()
    torch.save(network.state_dict(), sink)
    ours = Inception(Fetched("pt_inception.pth", sink.getvalue(), "0" * 64), mode="legacy_pytorch")
    assert port.load_state_dict_from_url is stock, "clean-fid is left as it was"
    assert ours.kind.dimensions == 2048
    image = pictures(1, side=299)[0]
    with torch.no_grad():
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        theirs = port.InceptionV3.__new__(port.InceptionV3)
        port.load_state_dict_from_url = lambda *_, **__: network.state_dict()
        try:
            theirs.__init__(output_blocks=[3], resize_input=False)
        finally:
            port.load_state_dict_from_url = stock
        expected = theirs.eval()(x)[0].flatten(1).numpy()
    assert np.allclose(ours.features([image]), expected, rtol=1e-4, atol=1e-5)
    other = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match=r"other.pth: not the weights of pytorch-fid's Inception"):
        Inception(Fetched("other.pth", other.getvalue(), "0" * 64), mode="legacy_pytorch")


def test_other_files_are_refused(inception_weights: Weights) -> None:
    whole = inception_weights(8)
    with pytest.raises(CheckpointError, match=r"a.pt: no TorchScript module"):
        Inception(Fetched("a.pt", b"not a module", "0" * 64), mode="clean")
    with pytest.raises(CheckpointError, match=r"a.pt: no TorchScript module"):
        Inception(Fetched("a.pt", whole.data[:-100], "0" * 64), mode="clean")
    with pytest.raises(CheckpointError, match=r"a.pth: no state dict"):
        Inception(Fetched("a.pth", b"\x80\x02cos\nsystem\n", "0" * 64), mode="legacy_pytorch")
    sink = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), sink)
    with pytest.raises(CheckpointError, match="without `layers`"):
        Inception(Fetched("a.pt", sink.getvalue(), "0" * 64), mode="clean")


def test_grey_images_are_taken_and_odd_ones_refused(inception_weights: Weights, pictures: Any) -> None:
    ours = Inception(inception_weights(8), mode="clean")
    grey = pictures(1)[0][..., :1]
    assert np.array_equal(ours.features([grey]), ours.features([grey.repeat(3, axis=2)]))
    with pytest.raises(ConfigError, match="expected uint8"):
        ours.features([grey.astype(np.float32)])
