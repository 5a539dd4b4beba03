"""The study as one page of HTML that needs nothing else: two pictures at a time, answered with the keyboard or a tap."""

import base64
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from disback_ray.study.pairs import Key

TEMPLATE = "page.html.jinja"


def render(key: Key, first: Sequence[bytes], second: Sequence[bytes], captions: Sequence[str], *, side: int) -> str:
    """The page. It holds the pictures in the order and on the sides that the key says, and not whose they are.

    first, second: PNG bytes of the two models, sample by sample; captions: what each sample was asked to be, '' for nothing.
    side: the pictures' width in pixels; small ones are enlarged without smoothing. All text is escaped.
    """
    shown = []
    for sample, first_is_left in zip(key.order, key.first_is_left, strict=True):
        left, right = (first, second) if first_is_left else (second, first)
        shown.append({"left": _uri(left[sample]), "right": _uri(right[sample]), "caption": captions[sample]})
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(study=key.study, pairs=shown, small=side < 256)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
