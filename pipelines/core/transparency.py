"""A result that was made over white gets back the transparency of the picture that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image as Images

from pipelines.core import masks

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 512
"""Long side at which alpha is filled: it is smooth where it is not even, and a large hole would take minutes."""


def put_back(made: Image, changed: masks.Mask, layered: Image, hole: masks.Mask | None = None) -> Image:
    """``made`` (RGB over white) as RGBA.

    Outside ``changed`` (H, W) it is ``layered`` (RGBA), byte for byte, with the colours under its transparent parts. Inside, it lies over
    white as ``made`` does. Alpha is that of ``layered``, but for the ``hole``, where it follows what is around it: of an object on a
    transparent ground nothing stays.
    """
    out, over_white = numpy.array(layered), numpy.asarray(made)
    if hole is not None and hole.any():
        out[..., 3] = _filled(out[..., 3], hole)
    alpha = out[..., 3][changed].astype(numpy.float32)[:, None] / 255
    colours = (over_white[changed] - (1 - alpha) * 255) / numpy.maximum(alpha, 1 / 255)
    seen = numpy.rint(colours).clip(0, 255).astype(numpy.uint8)
    out[changed, :3] = numpy.where(alpha > 0, seen, out[changed, :3])
    return Images.fromarray(out)


def _filled(alpha: NDArray[numpy.uint8], hole: masks.Mask) -> NDArray[numpy.uint8]:
    """``alpha`` (H, W) with the ``hole`` filled from its border."""
    rim = alpha[masks.grow(hole, 2) & ~hole]
    out = alpha.copy()
    if not rim.size:
        return out
    if rim.min() == rim.max():
        out[hole] = rim[0]
        return out
    height, width = alpha.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    filled = cv2.inpaint(small, masks.grow(masks.resized(hole, size), 1).astype(numpy.uint8), 3, cv2.INPAINT_TELEA)
    out[hole] = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)[hole]
    return out
