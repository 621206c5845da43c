"""A widget to paint a mask over a picture: brush, eraser, undo, redo, clear; `painter.js` is its other half.

Not `gr.ImageEditor`: there a mask from a click or a file cannot be erased, what is put on it from outside lands twice or not at all, and
the first stroke is told with the second.
"""

from __future__ import annotations

import base64
import dataclasses
from functools import lru_cache
from pathlib import Path

import cv2
import gradio as gr
import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core.figures import data_uri
from demos.georemover.scenes import SIDE, Picture
from pipelines.core import images, masks

SCRIPT = Path(__file__).with_name("painter.js")
PREFIX = "data:image/png;base64,"
MOST = 4_000_000
"""Characters of a mask that are looked at; one of this side has some ten thousand."""
TEMPLATE = """<div class="painter"><p class="painter-label">{label}</p>
<div class="painter-tools" role="toolbar" aria-label="Mask brush">
<button type="button" class="painter-brush" aria-pressed="true">Brush</button>
<button type="button" class="painter-erase" aria-pressed="false">Erase</button>
<button type="button" class="painter-undo">Undo</button>
<button type="button" class="painter-redo">Redo</button>
<button type="button" class="painter-clear">Clear</button>
<label>Size <input type="range" class="painter-size" min="4" max="80" value="24" aria-label="Size of the brush"></label></div>
<div class="painter-stage" hidden><img class="painter-picture" alt="The picture to paint on" draggable="false">
<canvas class="painter-canvas" role="application" tabindex="0" aria-roledescription="painter" aria-label="{label}. Arrow keys \
move the brush, with Shift in leaps; the space bar puts it down and lifts it"></canvas><i class="painter-ring"></i></div>
<p class="painter-keys" role="status"></p></div>"""


def build(label: str) -> gr.HTML:
    """The widget. Its value is None or what :func:`value_of` makes; ``change`` follows every stroke."""
    script = SCRIPT.read_text(encoding="utf-8")
    return gr.HTML(
        None, html_template=TEMPLATE.format(label=label), js_on_load=script, apply_default_css=False, padding=False
    )


def value_of(picture: Picture, mask: NDArray[numpy.bool_] | None) -> dict[str, str]:
    """The widget's value: the picture to paint on, with a mask (H, W) on it that can be erased like strokes."""
    size = picture.small.size
    drawn = numpy.zeros((*size[::-1], 4), numpy.uint8)
    if mask is not None and mask.any():
        drawn[_reduced(mask, size)] = (*masks.TINT, 255)
    return {"key": picture.key, "picture": data_uri(picture.small, "WEBP"), "mask": data_uri(Image.fromarray(drawn))}


def _reduced(mask: NDArray[numpy.bool_], size: tuple[int, int]) -> NDArray[numpy.bool_]:
    """``mask`` at (width, height): its border stays where it was, however often it goes there and back; thin strokes stay, too."""
    if size[0] >= mask.shape[1]:
        return cv2.resize(mask.astype(numpy.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    share = cv2.resize(mask.astype(numpy.float32), size, interpolation=cv2.INTER_AREA)
    half = share >= 0.5
    return half | ((share >= masks.COVERED) & ~masks.grow(half, 2))


def put_on(picture: Picture, mask: NDArray[numpy.bool_] | None) -> tuple[Picture, dict[str, str]]:
    """``picture`` that knows the mask (H, W) pixel by pixel, and the widget's value with the mask on it."""
    value = value_of(picture, mask)
    exact = None if mask is None or not mask.any() else (value["mask"], mask)
    return dataclasses.replace(picture, exact=exact), value


def _small_enough(size: tuple[int, int]) -> None:
    if max(size) > 2 * SIDE:
        raise ValueError("The painter’s picture is larger than the painter.")


def mask_in(value: object, picture: Picture) -> NDArray[numpy.bool_]:
    """The mask (H, W) in the widget's value, for this picture; empty if it is of another one. Until the visitor paints, that is the
    very mask that was put there."""
    size = picture.image.size
    nothing = numpy.zeros(size[::-1], bool)
    uri = value.get("mask") if isinstance(value, dict) and value.get("key") == picture.key else None
    if not isinstance(uri, str) or not uri.startswith(PREFIX) or len(uri) > MOST:
        return nothing
    if picture.exact is not None and uri == picture.exact[0]:
        return picture.exact[1]
    try:
        return _decoded(uri, size)
    except ValueError:  # binascii's error is one, too
        return nothing


@lru_cache(maxsize=4)
def _decoded(uri: str, size: tuple[int, int]) -> NDArray[numpy.bool_]:
    """The mask at (width, height); read-only, because whoever asks again, a run after its last stroke, gets the same."""
    drawn = images.opened(base64.b64decode(uri[len(PREFIX) :], validate=True), _small_enough, kinds=["PNG"])
    mask = numpy.asarray(drawn.convert("RGBA"))[..., 3] >= 128
    if mask.shape != size[::-1]:
        how = cv2.INTER_AREA if size[0] < mask.shape[1] else cv2.INTER_LINEAR
        mask = cv2.resize(mask.astype(numpy.float32), size, interpolation=how) >= 0.5
    mask.flags.writeable = False
    return mask
