"""What the removal page shows of depth and of change, as pictures.

Depth (H, W) is float32 in [0, 1], near is 1; RGB (H, W, 3) is uint8; masks (H, W) are bool. No torch here.
"""

from __future__ import annotations

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import depth as depth_maps
from pipelines.georemover.metrics import CHANGED, difference

COLOURS = ("inferno", "grey")


def depth_picture(depth: NDArray[numpy.floating], colours: str = "inferno") -> Image.Image:
    """A depth map as the models see it, or in grey; near is bright in both."""
    if colours == "grey":
        return Image.fromarray((numpy.clip(depth, 0, 1) * 255).round().astype(numpy.uint8)).convert("RGB")
    return Image.fromarray(depth_maps.to_colours(depth))


def difference_picture(
    before: NDArray[numpy.floating], after: NDArray[numpy.floating], colours: str = "inferno"
) -> tuple[Image.Image, float]:
    """|after - before| from 0 to its peak, and that peak."""
    change = numpy.abs(after - before)
    peak = float(change.max())
    return depth_picture(change / max(peak, 1e-6), colours), peak


def change_picture(
    before: NDArray[numpy.uint8], after: NDArray[numpy.uint8], mask: NDArray[numpy.bool_], threshold: float = CHANGED
) -> tuple[Image.Image, float]:
    """A heat map of what changed by more than ``threshold`` (8-bit Lab), the mask outlined, and the share that changed of what
    lies outside the mask."""
    change = difference(before, after)
    shown = numpy.where(change > threshold, change, 0) / 64
    picture = depth_maps.to_colours(shown)
    rim = mask & ~cv2.erode(mask.astype(numpy.uint8), numpy.ones((3, 3), numpy.uint8)).astype(bool)
    picture[rim] = 255
    outside = ~mask
    share = float((change[outside] > threshold).mean()) if outside.any() else 0.0
    return Image.fromarray(picture), share
