"""Masks that a visitor draws or brings: read from a file, grown, filled, measured and shown.

A mask is (H, W) bool; True means "take this away". Sizes are (width, height), as PIL has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image as Images

from pipelines.core import images

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
ALIKE, EDGE = (26.0, 36.0), (0.045, 0.06)
"""In :func:`touches_partly`: difference in 8-bit Lab, the largest channel's, up to which two places are of one colour, and fall of
inverse depth, within a few pixels, that is an edge; to the side and farther out."""
STRETCH, NEARER = 0.03, 0.04
"""The share of the border that it takes, and the rise of inverse depth that is something else in the way."""


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
    distance = cv2.distanceTransform(mask.astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return numpy.asarray(distance, numpy.float32)


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


def touches_partly(depth: NDArray[numpy.floating], mask: Mask, rgb: NDArray[numpy.uint8]) -> bool:
    """Whether an object seems to stick out of the mask (H, W), by its inverse depth (H, W) and the picture (H, W, 3).

    Walks along the mask's border. Where the colour just outside is that inside, and the depth falls off by an edge either farther
    out or to the side, something goes on outside the mask and ends there. Colour alone says so of every floor, depth alone of
    every object whose estimated outline is soft. The thresholds were chosen on scenes with even seeds;
    ``tests/georemover/test_warnings.py`` holds them on others.
    """
    reach = max(2, round(max(mask.shape) / 96))  # 2 pixels at 192
    height, width = mask.shape
    outside, inside = (
        cv2.distanceTransform(side.astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (~mask, mask)
    )
    core = inside >= min(2.5 * reach, 0.6 * float(inside.max()))
    if not mask.any() or core.all():
        return False
    nearest = _nearest(core)
    lab = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(numpy.float32), (0, 0), reach / 2)
    away = cv2.GaussianBlur((outside - inside).astype(numpy.float32), (0, 0), reach)
    across, down = cv2.Sobel(away, cv2.CV_32F, 1, 0), cv2.Sobel(away, cv2.CV_32F, 0, 1)
    length = numpy.hypot(across, down) + 1e-6
    ring = (outside <= reach).astype(numpy.uint8)
    for edge in cv2.findContours(ring, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        columns, rows = edge[:, 0, 0], edge[:, 0, 1]
        framed = (columns > 0) & (columns < width - 1) & (rows > 0) & (rows < height - 1)
        columns, rows = columns[framed], rows[framed]  # along the picture's own edge nothing sticks out
        if len(rows) < 8 * reach:
            continue
        here = rows, columns
        differs = numpy.abs(lab[here] - lab[nearest[0][here], nearest[1][here]]).max(-1)
        steps = numpy.arange(12 * reach, dtype=numpy.float32)
        out = (across[here] / length[here])[:, None] * steps, (down[here] / length[here])[:, None] * steps
        sideways = (differs < ALIKE[0]) & (_rise_along(depth[here], 2 * reach) > EDGE[0])
        ahead = (differs < ALIKE[1]) & (_fall_ahead(depth, columns, rows, out, 2 * reach) > EDGE[1])
        if (sideways | ahead).sum() >= max(reach, STRETCH * len(rows)):
            return True
    return False


def _nearest(core: Mask) -> tuple[NDArray[numpy.intp], NDArray[numpy.intp]]:
    """Row and column (H, W) of the pixel of ``core`` that is nearest to each pixel."""
    outside, kind = (~core).astype(numpy.uint8), cv2.DIST_LABEL_PIXEL
    labels = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=kind)[1]
    where = numpy.zeros((2, int(labels.max()) + 1), numpy.intp)
    where[:, labels[core]] = numpy.nonzero(core)
    return where[0][labels], where[1][labels]


def _rise_along(along: NDArray[numpy.floating], step: int) -> NDArray[numpy.floating]:
    """How much nearer each point of a closed line is than one ``step`` before or after it, beyond what its neighbourhood rises."""
    found = numpy.full(len(along), -1.0)
    for by in (step, -step):
        rise = along - numpy.roll(along, by)
        found = numpy.maximum(found, rise - (numpy.roll(rise, by) + numpy.roll(rise, -by)) / 2)
    return found


def _fall_ahead(
    depth: NDArray[numpy.floating],
    columns: NDArray[numpy.intp],
    rows: NDArray[numpy.intp],
    out: tuple[NDArray[numpy.floating], NDArray[numpy.floating]],
    step: int,
) -> NDArray[numpy.floating]:
    """The steepest fall of depth on the way ``out`` (N, S) from each point, beyond the slope around it; -1 where there is none
    before something nearer comes into the way or the picture ends."""
    x, y = (place[:, None] + way for place, way in ((columns, out[0]), (rows, out[1])))
    seen = cv2.remap(
        depth.astype(numpy.float32),
        x.astype(numpy.float32),
        y.astype(numpy.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    falls = seen[:, :-step] - seen[:, step:]
    padded = numpy.pad(falls, ((0, 0), (step, step)), mode="edge")
    slope = numpy.minimum(padded[:, : -2 * step], padded[:, 2 * step :]).clip(min=0)
    free = (numpy.maximum.accumulate(seen, axis=1)[:, :-step] - seen[:, :1]) <= NEARER
    framed = (x[:, step:] >= 0) & (x[:, step:] < depth.shape[1]) & (y[:, step:] >= 0) & (y[:, step:] < depth.shape[0])
    return numpy.where(free & framed, falls - slope, -1.0).max(1)
