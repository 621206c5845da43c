"""A widget to paint a mask over a picture: brush, eraser, undo, redo, clear; `painter.js` is its other half.

Not `gr.ImageEditor`: there a mask from a click or a file cannot be erased, what is put on it from outside lands twice or not at all, and
the first stroke is told with the second.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from demos.figures import data_uri
from pipelines import masks

SCRIPT = Path(__file__).with_name("painter.js")
SIDE = 768
"""Long side of the picture that is painted on: more is not seen, less is hard to hit."""
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
<canvas class="painter-canvas" role="img" aria-label="What is marked, in red over the picture"></canvas><i class="painter-ring"></i></div>
</div>"""


def build(label: str) -> gr.HTML:
    """The widget. Its value is None or what :func:`value_of` makes; ``change`` follows every stroke."""
    script = SCRIPT.read_text(encoding="utf-8")
    return gr.HTML(
        None, html_template=TEMPLATE.format(label=label), js_on_load=script, apply_default_css=False, padding=False
    )


def value_of(image: Image.Image, mask: NDArray[numpy.bool_] | None, key: str) -> dict[str, str]:
    """The widget's value: a picture to paint on, of this key, with a mask (H, W) on it that can be erased like strokes."""
    scale = SIDE / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    drawn = numpy.zeros((*size[::-1], 4), numpy.uint8)
    if mask is not None and mask.any():
        how = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
        drawn[cv2.resize(mask.astype(numpy.float32), size, interpolation=how) >= masks.COVERED] = (*masks.TINT, 255)
    ground = image.resize(size, Image.Resampling.LANCZOS)
    return {"key": key, "picture": data_uri(ground, "WEBP"), "mask": data_uri(Image.fromarray(drawn))}


def mask_in(value: Any, key: str, size: tuple[int, int]) -> NDArray[numpy.bool_]:
    """The mask (H, W) in the widget's value, for the picture of ``key`` and ``size`` (width, height); empty if it is of another one."""
    nothing = numpy.zeros(size[::-1], bool)
    uri = value.get("mask") if isinstance(value, dict) and value.get("key") == key else None
    if not isinstance(uri, str) or not uri.startswith(PREFIX) or len(uri) > MOST:
        return nothing
    try:
        with Image.open(io.BytesIO(base64.b64decode(uri[len(PREFIX) :], validate=True)), formats=["PNG"]) as file:
            if max(file.size) > 2 * SIDE:
                return nothing
            marked = numpy.asarray(file.convert("RGBA"))[..., 3] >= 128
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return nothing
    if marked.shape == nothing.shape:
        return marked
    how = cv2.INTER_AREA if size[0] < marked.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(marked.astype(numpy.float32), size, interpolation=how) >= 0.5
