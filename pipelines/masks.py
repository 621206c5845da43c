"""Masks that a visitor draws or brings: read from a file, grown, filled, measured and shown.

A mask is (H, W) bool; True means "take this away". Sizes are (width, height), as PIL has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy
from numpy.typing import NDArray

from pipelines import images

if TYPE_CHECKING:
    from PIL.Image import Image

Mask = NDArray[numpy.bool_]

TINT = (255, 64, 64)
"""Colour of :func:`overlay`."""
COVERED = 0.1
"""A pixel of a reduced mask is True from this share on: a mask errs to the large side, because what is left of an object is
completed instead of removed."""
STRETCHED = 0.02
"""Ratios of sides that differ by more belong to different pictures; less is rounding."""
JUMP = 0.06
"""Difference of inverse depth, within a few pixels, that counts as an edge in :func:`touches_partly`."""


def resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """``mask`` at (width, height). Reduced, it keeps thin strokes; enlarged, its border stays where it was."""
    width, height = size
    if mask.shape == (height, width):
        return mask.copy()
    if width < mask.shape[1] or height < mask.shape[0]:
        return cv2.resize(mask.astype(numpy.float32), size, interpolation=cv2.INTER_AREA) >= COVERED
    return cv2.resize(mask.astype(numpy.float32), size, interpolation=cv2.INTER_LINEAR) >= 0.5


def check_format(name: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """See that something of ``size`` (width, height) lies over a picture of size ``wanted`` without being stretched.

    Raises:
        ValueError: its sides are in another ratio.
    """
    if abs(size[0] * wanted[1] / (size[1] * wanted[0]) - 1) > STRETCHED:
        raise ValueError(
            f"The {name} is {size[0]} x {size[1]} pixels and the picture {wanted[0]} x {wanted[1]}, which is another format: "
            "bring one of the whole picture."
        )


def from_picture(
    source: str | Path | bytes | BinaryIO | Image, size: tuple[int, int], white_is_keep: bool = False
) -> Mask:
    """A mask file: white (from the middle grey on) is what goes, or, with ``white_is_keep`` (RORD), what stays.

    Where the file has an alpha channel that says anything, transparent pixels are no part of the mask; a file that is one colour
    throughout is then read by its alpha alone. EXIF rotation is followed.

    Raises:
        ValueError: its sides are in another ratio than those of ``size``, or it cannot be read as a picture.
    """
    upright = images.opened(source, check=lambda found: check_format("mask", found, size))
    alpha = None
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        white = images.unit_levels(upright) >= 0.5
    elif upright.mode in ("1", "L") and "transparency" not in upright.info:
        white = numpy.asarray(upright.convert("L")) >= 128
    elif upright.mode == "RGB" and "transparency" not in upright.info:
        white = numpy.asarray(upright).max(-1) >= 128
    else:
        pixels = numpy.asarray(upright.convert("RGBA"))
        white, alpha = pixels[..., :3].max(-1) >= 128, pixels[..., 3]
    if alpha is not None and alpha.min() < 255:
        seen = alpha > 0
        if not seen.any() or white[seen].all() or not white[seen].any():
            return resized(seen, size)
        white = white & seen if not white_is_keep else white | ~seen
    return resized(~white if white_is_keep else white, size)


def grow(mask: Mask, pixels: int) -> Mask:
    """``mask`` with a round brush of radius ``pixels`` around it; a negative number takes as much away."""
    grown = mask.copy()
    if not pixels or not mask.any():
        return grown
    # Exact distances instead of a brush, and only around the mask: a large brush over a large picture would take seconds.
    here = box(mask, max(pixels, 0) + 1)
    if pixels > 0:
        empty = (~mask[here]).astype(numpy.uint8)
        grown[here] = cv2.distanceTransform(empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels
    else:
        grown[here] = inner_distance(mask[here]) > -pixels
    return grown


def box(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around ``mask``, with ``margin`` pixels around it as far as the picture goes."""
    left, top, width, height = cv2.boundingRect(mask.astype(numpy.uint8))
    rows = slice(max(top - margin, 0), min(top + height + margin, mask.shape[0]))
    return rows, slice(max(left - margin, 0), min(left + width + margin, mask.shape[1]))


def inner_distance(mask: Mask) -> NDArray[numpy.float32]:
    """Distance of each True pixel to the nearest False one, in pixels, at least 1; the picture's edge is no border."""
    if mask.all():
        return numpy.full(mask.shape, numpy.inf, numpy.float32)
    return cv2.distanceTransform(mask.astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fill_holes(mask: Mask) -> Mask:
    """``mask`` and every area that it surrounds: a circle drawn around an object becomes a disc."""
    around = numpy.pad(~mask, 1, constant_values=True)
    _count, labels = cv2.connectedComponents(around.astype(numpy.uint8), connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


def area(mask: Mask) -> float:
    """Share of the picture, in [0, 1]."""
    return float(mask.mean())


def components(mask: Mask, smallest: int = 1) -> list[Mask]:
    """Its connected areas (also across corners) of at least ``smallest`` pixels, the largest first."""
    count, labels, stats, _centres = cv2.connectedComponentsWithStats(mask.astype(numpy.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA]
    order = sorted(range(1, count), key=lambda label: -sizes[label])
    return [labels == label for label in order if sizes[label] >= smallest]


def overlay(image: Image, mask: Mask, opacity: float = 0.5) -> Image:
    """``image`` with the mask tinted and outlined; a mask of another size is rescaled."""
    from PIL import Image as Images

    pixels = numpy.array(image.convert("RGB"))
    here = resized(mask, image.size)
    pixels[here] = (pixels[here] * (1 - opacity) + numpy.array(TINT) * opacity).round().astype(numpy.uint8)
    line = max(1, round(max(image.size) / 400))
    pixels[here & (inner_distance(here) <= line)] = TINT
    return Images.fromarray(pixels)


def around(rgb: NDArray[numpy.uint8], box: tuple[int, int, int, int]) -> Mask:
    """The object within ``box`` (left, top, right, bottom) of a picture (H, W, 3), by GrabCut, without any model.

    Raises:
        ValueError: the box is too small, or leaves nothing around it to compare with.
    """
    height, width = rgb.shape[:2]
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if right - left < 4 or bottom - top < 4 or (right - left) * (bottom - top) >= width * height:
        raise ValueError(
            f"The box {left}, {top} to {right}, {bottom} does not stand around an object in a picture of {width} x {height}: "
            "draw it a little larger than the object."
        )
    marks = numpy.zeros((height, width), numpy.uint8)
    models = numpy.zeros((2, 1, 65))
    cv2.setRNGSeed(0)  # its clustering starts at random
    rectangle = (left, top, right - left, bottom - top)
    cv2.grabCut(rgb[..., ::-1].copy(), marks, rectangle, models[0], models[1], 5, cv2.GC_INIT_WITH_RECT)
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def touches_partly(depth: NDArray[numpy.floating], mask: Mask) -> bool:
    """Whether an object seems to stick out of the mask: a depth edge crosses the mask's border.

    Walks along the border and compares the inverse depth ``depth`` (H, W) just outside it with that just inside. Where a stretch of
    the outside stands out from its neighbours along the border by more than :data:`JUMP`, is nearer than they are, and goes on
    inside without a step, the object goes on outside the mask.
    """
    reach = max(2, round(max(mask.shape) / 96))  # 2 pixels at 192
    height, width = mask.shape
    outside = cv2.distanceTransform((~mask).astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    edges, _tree = cv2.findContours(
        (outside <= reach).astype(numpy.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )  # fmt: skip
    brush = numpy.ones((4 * reach + 1,) * 2, numpy.uint8)
    highest = cv2.dilate(numpy.where(mask, depth, -numpy.inf).astype(numpy.float32), brush)
    lowest = cv2.erode(numpy.where(mask, depth, numpy.inf).astype(numpy.float32), brush)
    for edge in edges:
        columns, rows = edge[:, 0, 0], edge[:, 0, 1]
        framed = (columns > 0) & (columns < width - 1) & (rows > 0) & (rows < height - 1)
        columns, rows = columns[framed], rows[framed]  # along the picture's own edge nothing sticks out
        if len(rows) < 8 * reach:
            continue
        along = depth[rows, columns]
        goes_on = (along <= highest[rows, columns] + JUMP / 2) & (along >= lowest[rows, columns] - JUMP / 2)
        for step in (2 * reach, -2 * reach):
            rise = along - numpy.roll(along, step)
            # A floor rises steadily; an edge rises where its neighbourhood does not.
            excess = rise - (numpy.roll(rise, step) + numpy.roll(rise, -step)) / 2
            if ((excess > JUMP) & goes_on).sum() >= reach:
                return True
    return False
