"""An encoded image → the square of pixels that a network is trained on."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

MOST_BYTES = 64 << 20  # of one encoded image
MOST_PIXELS = 1 << 26  # of one decoded image: 8192 × 8192; what claims more is a bomb, or no picture to train on


class CorruptImage(Exception):
    """Says in a few words what is wrong with an image."""


def square(data: bytes, *, resolution: int, grey: bool) -> np.ndarray:
    """The image's centre square, Lanczos-resized (as EDM's data sets are): uint8 [1 or 3, resolution, resolution].

    Turned upright where EXIF says so; transparent parts become white; 16-bit grey loses its low byte. Raises CorruptImage.
    """
    if len(data) > MOST_BYTES:
        raise CorruptImage(f"{len(data) >> 20} MiB, more than {MOST_BYTES >> 20}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on damaged EXIF, and its own idea of a bomb: ours is above
            with Image.open(io.BytesIO(data)) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise CorruptImage(f"{opened.width} × {opened.height} pixels, more than {MOST_PIXELS}")
                image = _flat(ImageOps.exif_transpose(opened), "L" if grey else "RGB")
    except CorruptImage:
        raise
    except Exception as error:  # decoders raise whatever they please: OSError, SyntaxError, struct.error, …
        raise CorruptImage(" ".join(str(error).split())[:120] or type(error).__name__) from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Without transparency and in the mode asked for. Raises CorruptImage for numbers that have no known range."""
    if image.mode.startswith("I;16"):  # Pillow would cut these at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise CorruptImage(f"of mode {image.mode}: the range of its numbers isn't known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if image.mode not in ("L", "1") or mode == "RGB" else "L").convert(mode)
