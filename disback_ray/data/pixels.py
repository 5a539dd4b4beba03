"""An encoded image → pixels: as it is, for measuring, or the square that a network is trained on."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

MOST_BYTES = 64 << 20  # of one encoded image
MOST_PIXELS = 1 << 26  # of one decoded image: 8192 × 8192; what claims more is a bomb, or no picture to train on
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""What is decoded. Pillow knows forty more, whose decoders few people look at; two are imported here, or it would load them all."""
NAMED = 3  # corrupt images in a message


class CorruptImage(Exception):
    """Says in a few words what is wrong with an image."""


def square(data: bytes | CorruptImage, *, resolution: int, grey: bool) -> np.ndarray:
    """The image's centre square, Lanczos-resized (as EDM's data sets are): uint8 [1 or 3, resolution, resolution].

    Raises CorruptImage.
    """
    image = _decoded(data).convert("L" if grey else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def whole(data: bytes | CorruptImage) -> np.ndarray:
    """All of the image: uint8 [H, W, 1] where it is grey, else [H, W, 3]. Raises CorruptImage."""
    pixels = np.asarray(_decoded(data), dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _decoded(data: bytes | CorruptImage) -> Image.Image:
    """Of mode L or RGB. Turned upright where EXIF says so; transparent parts become white; 16-bit grey loses its low byte.

    Raises CorruptImage.
    """
    if isinstance(data, CorruptImage):  # there are no bytes to decode
        raise data
    if len(data) > MOST_BYTES:
        raise CorruptImage(f"{len(data) >> 20} MiB, more than {MOST_BYTES >> 20}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on damaged EXIF, and its own idea of a bomb: ours is above
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise CorruptImage(f"{opened.width} × {opened.height} pixels, more than {MOST_PIXELS}")
                return _flat(ImageOps.exif_transpose(opened))
    except CorruptImage:
        raise
    except UnidentifiedImageError:
        raise CorruptImage("empty" if not data else "no image, or damaged from its start") from None
    except Exception as error:  # decoders raise whatever they please: OSError, SyntaxError, struct.error, …
        raise CorruptImage(" ".join(str(error).split())[:120] or type(error).__name__) from None


def _flat(image: Image.Image) -> Image.Image:
    """Without transparency, grey or in colours. Raises CorruptImage for numbers that have no known range."""
    if image.mode.startswith("I;16"):  # Pillow would cut these at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise CorruptImage(f"of mode {image.mode}: the range of its numbers isn't known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if image.mode in ("L", "1") else "RGB")


def complaint(where: str, corrupt: Sequence[tuple[str, str]], *, of: int | None = None) -> str:
    """Why a source of images is refused, in one line. corrupt: name and reason of each; of: how many, where known."""
    named = "; ".join(f"{name}: {reason}" for name, reason in corrupt[:NAMED])
    more = f"; and {len(corrupt) - NAMED} more" if len(corrupt) > NAMED else ""
    counted = f"{len(corrupt)} of {of} images {'is' if len(corrupt) == 1 else 'are'} " if of else ""
    return (
        f"{where}: {counted}corrupt: {named}{more}: mend or remove it, or leave such images out "
        "(--skip-corrupt, data.skip_corrupt: true)"
    )


def note(where: str, skipped: Sequence[str]) -> str:
    """What was left out, in a line; empty where nothing was."""
    if not skipped:
        return ""
    more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return f"{where}: {len(skipped)} corrupt image{'s' if len(skipped) > 1 else ''} skipped: {', '.join(skipped[:NAMED])}{more}"
