"""Depth as GeoRemover's models see it: the inferno colours of min-max normalised inverse depth, near is bright.

The colours are OpenCV's ``COLORMAP_INFERNO``, the authors' are matplotlib's with the fraction cut off: at most 1 of 255 a channel apart.
A depth is rounded to its level where they cut it off: half of all pixels are one level nearer. What a model paints is not exactly on the
palette. The authors hand stage 1's picture on to stage 2 as it was painted; here the nearest level of each pixel is read, so that the map
can be shown, measured, saved and brought back, and is painted anew in the palette's colours (the released stage 1 is 3.8 of 441 away).
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy
import scipy
from numpy.typing import NDArray

Depth = NDArray[numpy.float32]
"""(H, W), inverse, in [0, 1]."""


@cache
def palette() -> NDArray[numpy.uint8]:
    """The 256 colours, (256, 3) RGB, from far to near."""
    levels = numpy.arange(256, dtype=numpy.uint8)[:, None]
    return numpy.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), numpy.uint8)[:, 0, ::-1].copy()


def to_colours(depth: NDArray[numpy.floating]) -> NDArray[numpy.uint8]:
    """Inverse depth (H, W) in [0, 1] to RGB (H, W, 3); what lies outside is clipped."""
    return palette()[(numpy.clip(depth, 0, 1) * 255).round().astype(numpy.uint8)]


def from_colours(rgb: NDArray[numpy.uint8]) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    """RGB (H, W, 3) to inverse depth (H, W) in [0, 1] and the distance of each pixel from the palette (0 to 441)."""
    # Each colour once: far from the palette a look-up takes ten times as long, and maps have few colours.
    red, green, blue = (rgb[..., channel].ravel().astype(numpy.uint32) for channel in range(3))
    colours, which = numpy.unique(red << 16 | green << 8 | blue, return_inverse=True)
    points = numpy.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(numpy.float32)
    distance, level = (found[which] for found in scipy.spatial.cKDTree(palette().astype(numpy.float32)).query(points))
    shape = rgb.shape[:2]
    return (level / 255).astype(numpy.float32).reshape(shape), distance.astype(numpy.float32).reshape(shape)


def normalised(inverse: NDArray[numpy.floating], like: NDArray[numpy.floating] | None = None) -> NDArray[numpy.float32]:
    """Inverse depth of any scale to [0, 1] by the minimum and maximum of ``like`` (by default its own)."""
    like = inverse if like is None else like
    low, high = float(like.min()), float(like.max())
    return numpy.clip((inverse - low) / max(high - low, 1e-6), 0, 1).astype(numpy.float32)
