"""Depth maps of a removal: read from a file, helped where an object hardly shows, kept outside the mask.

Inverse depth (H, W) is float32 in [0, 1], near is 1; masks are (H, W) bool; RGB (H, W, 3) is uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import depth as depth_maps
from pipelines.core import images, masks
from pipelines.core.depth import Depth
from pipelines.core.images import Picture, unit_levels
from pipelines.core.masks import Mask

if TYPE_CHECKING:
    from PIL.Image import Image

OFF_PALETTE = 12.0
"""Mean distance from the palette, of 441, above which a depth map is none (the official stage 1 has 3.8)."""
SIDE, SAMPLES = 2048, 64
"""Longest side of a depth map that is brought; its colours are looked at in so many rows and columns before all of it is read."""
ASSIST = 10
"""Side of the neighbourhood of :func:`assisted`, in pixels, as in the paper."""


def open_depth(
    source: str | Path | BinaryIO | Image,
    near_is_dark: bool = False,
    limits_: tuple[float, float] | None = None,
    check: Callable[[tuple[int, int]], Any] | None = None,
) -> tuple[Depth, tuple[float, float]]:
    """A depth map from a file: inverse depth in [0, 1], at most :data:`SIDE` long, and the limits by which it was normalised.

    Grey of 8 or 16 bits, or inferno colours as this studio writes them. A depth-after that belongs to an uploaded depth-before must
    be read with that one's limits, and one that belongs to an estimate with (0, 1), or both maps could not be compared.

    Args:
        near_is_dark: the map is of distances, as metric networks write them: turned round.
        limits_: minimum and maximum of the map it belongs to; None: its own.
        check: as of ``images.opened``.

    Raises:
        ValueError: it is flat or coloured otherwise, or the file cannot be read.
    """
    upright = images.opened(source, check)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        levels = _not_larger(unit_levels(upright), cv2.INTER_AREA)
    else:
        pixels = numpy.asarray(upright if upright.mode == "RGB" else upright.convert("RGBA").convert("RGB"))
        step = max(1, max(pixels.shape) // SAMPLES)
        sample = pixels[::step, ::step]
        grey = _is_grey(sample) and _is_grey(pixels)
        if not grey and depth_maps.from_colours(sample)[1].mean() > OFF_PALETTE:
            raise ValueError("This is no depth map: use grey levels, or inferno colours as the studio saves them.")
        # The mean of two colours of the palette is none of its colours, so these are picked and not mixed.
        pixels = _not_larger(pixels, cv2.INTER_AREA if grey else cv2.INTER_NEAREST)
        levels = pixels[..., 0] / numpy.float32(255) if grey else depth_maps.from_colours(pixels)[0]
    if near_is_dark:
        levels = 1 - levels
    own = (float(levels.min()), float(levels.max()))
    if limits_ is None and own[1] - own[0] < 1e-3:
        raise ValueError("This depth map is flat: it says nothing of what stands where, choose another.")
    low, high = limits_ or own
    return numpy.clip((levels - low) / max(high - low, 1e-6), 0, 1).astype(numpy.float32), (low, high)


def _is_grey(pixels: Picture) -> bool:
    red, green, blue = (pixels[..., channel] for channel in range(3))
    low, high = numpy.minimum(numpy.minimum(red, green), blue), numpy.maximum(numpy.maximum(red, green), blue)
    return float((high - low).mean()) < 2


def _not_larger(levels: NDArray[Any], way: int) -> NDArray[Any]:
    """``levels`` (H, W) or (H, W, 3), reduced where its long side is above :data:`SIDE`."""
    scale = SIDE / max(levels.shape[:2])
    if scale >= 1:
        return levels
    return cv2.resize(levels, [max(1, round(side * scale)) for side in levels.shape[1::-1]], interpolation=way)


def assisted(depth: Depth, mask: Mask) -> Depth:
    """The paper's fill-in where the depth of an object is unreliable: the nearest depth of a 10 x 10 neighbourhood, within
    the mask. Outside the mask nothing changes."""
    inside = cv2.dilate(numpy.where(mask, depth, 0).astype(numpy.float32), numpy.ones((ASSIST, ASSIST), numpy.uint8))
    return numpy.where(mask, inside, depth).astype(numpy.float32)


def kept_outside(depth_after: Depth, depth_before: Depth, mask: Mask) -> Depth:
    """The depth after in the mask and the depth before outside of it, with a soft seam."""
    share = cv2.GaussianBlur(masks.grow(mask, 2).astype(numpy.float32), (0, 0), 1.0)
    return share * depth_after + (1 - share) * depth_before


def panels_error(strip: Picture, depth_after: Depth, depth_before: Depth) -> float:
    """Mean difference of a strip's second and third panel from the maps that they should repeat, in inverse depth."""
    width = strip.shape[1] // 3
    repeated, _distance = depth_maps.from_colours(strip[:, width:])
    return float(numpy.abs(repeated - numpy.concatenate([depth_after, depth_before], 1)).mean())


def checked(depth: NDArray[numpy.floating] | None, size: tuple[int, int], name: str) -> Depth | None:
    """A depth that was given (h, w), at (width, height); None stays None.

    Raises:
        ValueError: it is no map of floats in [0, 1]; the sentence calls it ``name``.
    """
    if depth is None:
        return None
    depth = numpy.asarray(depth)
    if depth.ndim != 2 or not numpy.issubdtype(depth.dtype, numpy.floating):
        raise ValueError(
            f"The {name} has shape {depth.shape} and type {depth.dtype}: send a map (height, width) of floats."
        )
    if not numpy.isfinite(depth).all() or depth.min() < -1e-3 or depth.max() > 1 + 1e-3:
        raise ValueError(f"The {name} has values outside 0 to 1: normalise it first, near is 1.")
    return numpy.clip(cv2.resize(depth.astype(numpy.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1)
