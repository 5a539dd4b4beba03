"""An encoded image → a square of pixels: against Pillow and by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from disback_ray.data import pixels
from disback_ray.data.pixels import CorruptImage, square, whole

NOISE = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_the_centre_square_is_resized_by_lanczos() -> None:
    found = square(encoded(Image.fromarray(NOISE)), resolution=5, grey=False)
    wanted = Image.fromarray(NOISE[:, 6:26]).resize((5, 5), Image.Resampling.LANCZOS)
    assert found.shape == (3, 5, 5)
    assert np.array_equal(found, np.asarray(wanted).transpose(2, 0, 1))


def test_what_has_the_size_already_is_left_as_it_is() -> None:
    assert np.array_equal(
        square(encoded(Image.fromarray(NOISE[:, :20])), resolution=20, grey=False), NOISE[:, :20].transpose(2, 0, 1)
    )


def test_a_downsized_edge_does_not_alias() -> None:
    """One bright column in eight averages to an eighth, wherever it lies: a filter that skips pixels would lose or keep it whole."""
    for column in range(8):
        lines = np.zeros((64, 64), np.uint8)
        lines[:, column::8] = 255
        found = square(encoded(Image.fromarray(lines)), resolution=8, grey=True)
        assert abs(float(found[0, 2:-2, 2:-2].mean()) - 255 / 8) < 16, column


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("grey", [True, False])
def test_every_mode_becomes_grey_or_colour(mode: str, grey: bool) -> None:
    image = Image.fromarray(np.full((4, 4), 255, np.uint8)).convert(mode)
    found = square(encoded(image, "tiff" if mode == "CMYK" else "png"), resolution=4, grey=grey)
    assert found.shape == (1 if grey else 3, 4, 4)
    assert found.dtype == np.uint8
    assert (found == 255).all(), mode


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("LA", 3)])
def test_measuring_sees_what_training_sees(mode: str, channels: int) -> None:
    """But all of it, grey where it is grey."""
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(NOISE).resize((32, 32)).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(NOISE[..., 0]).resize((32, 32)))
    data = encoded(image)
    found = whole(data)
    assert found.shape == (32, 32, channels)
    assert np.array_equal(found.transpose(2, 0, 1), square(data, resolution=32, grey=channels == 1))
    assert whole(encoded(image.crop((0, 0, 32, 9)))).shape == (9, 32, channels)


def test_transparent_parts_are_white_and_sixteen_bits_are_scaled() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (square(encoded(clear), resolution=4, grey=False) == 255).all()
    deep = Image.fromarray(np.full((4, 4), 128 * 256 + 7, np.uint16))
    assert (square(encoded(deep), resolution=4, grey=True) == 128).all()


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    lying = Image.fromarray(np.repeat(np.arange(0, 256, 32, dtype=np.uint8)[None], 8, 0))
    found = square(encoded(lying, "png", exif=exif), resolution=8, grey=True)
    assert np.array_equal(found[0], np.rot90(np.asarray(lying), -1))


@pytest.mark.parametrize(
    "data", [b"", b"text", encoded(Image.fromarray(NOISE))[:200], encoded(Image.fromarray(NOISE), "jpeg")[:150]]
)
def test_corrupt_images_are_refused_in_a_few_words(data: bytes) -> None:
    with pytest.raises(CorruptImage) as refused:
        square(data, resolution=8, grey=False)
    assert 0 < len(str(refused.value)) <= 160
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["bmp", "gif", "ppm", "tiff", "webp"])
def test_other_kinds_of_images_are_read(kind: str) -> None:
    grey = Image.fromarray(NOISE[..., 0])
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(square(encoded(grey, kind, **options), resolution=20, grey=True)[0], NOISE[:, 6:26, 0])


@pytest.mark.parametrize("kind", ["pcx", "tga", "ico", "jpeg2000"])
def test_what_few_people_look_at_is_not_decoded(kind: str) -> None:
    """Pillow would read them."""
    data = encoded(Image.fromarray(NOISE[:, :20]), kind)
    Image.open(io.BytesIO(data)).load()
    with pytest.raises(CorruptImage, match="no image"):
        square(data, resolution=20, grey=False)


def test_bombs_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (9000, 9000)))
    assert len(bomb) < 20_000
    with pytest.raises(CorruptImage, match="9000 × 9000 pixels, more than 67108864"):
        square(bomb, resolution=8, grey=True)
    monkeypatch.setattr(pixels, "MOST_BYTES", 3 << 20)
    with pytest.raises(CorruptImage, match="4 MiB, more than 3"):
        square(bytes(4 << 20), resolution=8, grey=True)
