"""How well something was removed, with its shadow and its mirror image: measured where the truth is known.

The *effect area* E is where the picture with the object differs from the picture without it, outside the object. There, a tool
that fills only what was brushed leaves everything as it was (residual 1) and a perfect one leaves nothing (0). A pair without
such an area has no residual: the answer is then None, "not defined", and never a perfect 0.

Lengths and areas were chosen at 960 x 540 and are scaled to the picture: lengths by the root of the ratio of areas.
Pictures are (H, W, 3) uint8, masks (H, W) bool, depth (H, W) inverse and in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy
import skimage
from numpy.typing import NDArray

from pipelines.core import masks
from pipelines.core.images import Picture
from pipelines.core.masks import Mask
from pipelines.core.scores import PERFECT

REFERENCE = 960 * 540
SIGMA, MARGIN = 2.0, 9.0
"""Blur of the difference, and how far E keeps from the object, in pixels of the reference."""
SMALLEST, LEAST = 64, 200
"""Pixels of the smallest area that counts, and of the smallest E, at the reference."""
CHANGED = 8
"""Difference in 8-bit Lab, the largest of the three channels, that counts as a change."""
NEW_DEPTH, NEW_SHARE, NEW_PIXELS = 0.08, 0.02, 12
"""A new structure: inverse depth that is off by so much over so much of the mask."""
BLOCK = 41
"""Side of the square over which :func:`worst_place` takes the mean, in pixels of the reference."""
SEEN = 2.3
"""Difference of colour (CIE76) that an eye just notices (Mahy et al., 1994); from here on what is left of an object is told."""
REGIONS = ("mask", "effect", "rest", "whole")
BARS = {"residual": 0.15, "psnr_effect": 27.0, "over_erasure": 0.01, "inserted": 0.03}
"""What was asked of ours before the evaluation: residual, over-erasure and new structures at most, PSNR (dB) at least."""


def scale(shape: tuple[int, ...]) -> float:
    """Length of a picture of ``shape`` (H, W, ...) against the reference."""
    return math.sqrt(shape[0] * shape[1] / REFERENCE)


def difference(first: Picture, second: Picture) -> NDArray[numpy.float32]:
    """Blurred difference in 8-bit Lab, the largest channel's, (H, W)."""
    lab = [cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(numpy.float32) for picture in (first, second)]
    blurred = cv2.GaussianBlur(lab[0] - lab[1], (0, 0), max(SIGMA * scale(first.shape), 0.3))
    return numpy.abs(blurred).max(-1)


def near(mask: Mask) -> Mask:
    """The mask and the margin around it that belongs neither to the effect area nor to the rest."""
    return masks.grow(mask, max(1, round(MARGIN * scale(mask.shape))))


def changed(first: Picture, second: Picture, threshold: float = CHANGED) -> Mask:
    """Where two pictures differ, without specks."""
    smallest = max(1, round(SMALLEST * scale(first.shape) ** 2))
    return without_specks(difference(first, second) > threshold, smallest)


def effect_area(image: Picture, clean: Picture, mask: Mask) -> Mask:
    """E: what the object does to the picture outside itself (its shadow, its reflection)."""
    smallest = max(1, round(SMALLEST * scale(image.shape) ** 2))
    return without_specks((difference(image, clean) > CHANGED) & ~near(mask), smallest)


def without_specks(area: Mask, smallest: int) -> Mask:
    _count, labels, stats, _centres = cv2.connectedComponentsWithStats(area.astype(numpy.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= smallest
    kept[0] = False
    return kept[labels]


def defined(effect: Mask) -> bool:
    """Whether an effect area is large enough to measure in."""
    return int(effect.sum()) >= max(1, round(LEAST * scale(effect.shape) ** 2))


def residual_effect(
    image: Picture, result: Picture, clean: Picture, mask: Mask, effect: Mask | None = None
) -> float | None:
    """How much of the effect is left: 0 clean, 1 untouched, above 1 worse; None where the pair has no effect area."""
    effect = effect_area(image, clean, mask) if effect is None else effect
    if not defined(effect):
        return None
    left, whole = (numpy.abs(p[effect].astype(float) - clean[effect]).sum() for p in (result, image))
    return float(left / whole)


def change_iou(image: Picture, result: Picture, clean: Picture, mask: Mask, effect: Mask | None = None) -> float | None:
    """How well the area that the tool changed outside the mask fits the effect area: their intersection over their union."""
    effect = effect_area(image, clean, mask) if effect is None else effect
    if not defined(effect):
        return None
    touched = effect_area(image, result, mask)
    return float((touched & effect).sum() / (touched | effect).sum())


def over_erasure(image: Picture, result: Picture, clean: Picture, mask: Mask, effect: Mask | None = None) -> float:
    """Share of the pixels that have nothing to do with the object and were changed all the same, in [0, 1]."""
    effect = effect_area(image, clean, mask) if effect is None else effect
    rest = ~near(mask) & ~effect
    return float((difference(image, result) > CHANGED)[rest].mean()) if rest.any() else 0.0


def worst_place(result: Picture, clean: Picture, area: Mask) -> dict[str, float] | None:
    """Where in ``area`` the result is farthest from the truth: a mean over everything hides a ghost that is plain to see.

    Returns:
        ``difference``: of a block's mean colour, CIE76; ``lightness``: the part of it that is lighter (positive) or darker,
        in L*; ``share``: how much of the area is off by :data:`SEEN` or more, in [0, 1]. None without an area.
    """
    if not area.any():
        return None
    side = max(1, round(BLOCK * scale(area.shape)))
    first, second = (cv2.cvtColor(p.astype(numpy.float32) / 255, cv2.COLOR_RGB2LAB) for p in (result, clean))
    off = cv2.blur(first - second, (side, side))
    distance = numpy.where(area, numpy.linalg.norm(off, axis=-1), 0)
    worst = numpy.unravel_index(int(distance.argmax()), distance.shape)
    return {
        "difference": float(distance[worst]),
        "lightness": float(off[worst][0]),
        "share": float((distance >= SEEN).sum() / area.sum()),
    }


def region_scores(result: Picture, clean: Picture, mask: Mask, effect: Mask) -> dict[str, dict[str, float | None]]:
    """PSNR (dB, equal pictures :data:`PERFECT`) and SSIM in the mask, the effect area, the rest and the whole picture.

    SSIM is the full map's mean over the region. None where there is no such region, or the effect area is too small.
    """
    squares = ((result.astype(float) - clean) ** 2).mean(-1)
    _mean, similar = skimage.metrics.structural_similarity(result, clean, channel_axis=2, data_range=255, full=True)
    similar = similar.mean(-1)
    where = {
        "mask": mask,
        "effect": effect if defined(effect) else numpy.zeros_like(effect),
        "rest": ~near(mask) & ~effect,
        "whole": numpy.ones_like(mask),
    }
    return {
        name: {
            "psnr": _decibels(float(squares[here].mean())) if here.any() else None,
            "ssim": float(similar[here].mean()) if here.any() else None,
        }
        for name, here in where.items()
    }


def _decibels(mean_square: float) -> float:
    return min(PERFECT, 10 * math.log10(255**2 / mean_square)) if mean_square else PERFECT


def inserted(depth_result: NDArray[numpy.floating], depth_clean: NDArray[numpy.floating], mask: Mask) -> bool:
    """Whether something new stands where the object was: a connected part of the grown mask whose depth, estimated on the
    result, is not that estimated on the true picture by the same network. Both in one normalisation."""
    inside = masks.grow(mask, max(1, round(MARGIN * scale(mask.shape))))
    off = inside & (numpy.abs(depth_result - depth_clean) > NEW_DEPTH)
    return bool(masks.components(off, max(NEW_PIXELS, math.ceil(NEW_SHARE * mask.sum()))))


def against_truth(
    image: Picture,
    result: Picture,
    clean: Picture,
    mask: Mask,
    depth_result: NDArray[numpy.floating] | None = None,
    depth_clean: NDArray[numpy.floating] | None = None,
) -> dict[str, Any]:
    """Every measure of one result whose truth is known; JSON-able, None means "not defined for this pair".

    ``image`` with the object, ``result`` of the tool, ``clean`` the truth, ``mask`` the object. The depths, for
    :func:`inserted`: estimated on the result and on the true picture, in one normalisation.
    """
    effect = effect_area(image, clean, mask)
    new = None if depth_result is None or depth_clean is None else inserted(depth_result, depth_clean, mask)
    return {
        "residual_effect": residual_effect(image, result, clean, mask, effect),
        "change_iou": change_iou(image, result, clean, mask, effect),
        "over_erasure": over_erasure(image, result, clean, mask, effect),
        "effect_share": float(effect.mean()),
        "regions": region_scores(result, clean, mask, effect),
        "worst": worst_place(result, clean, effect | near(mask)),
        "inserted": new,
    }


def self_checks(
    image: Picture,
    result: Picture,
    mask: Mask,
    depth_before: NDArray[numpy.floating] | None = None,
    depth_after: NDArray[numpy.floating] | None = None,
    off_palette: float | None = None,
    panels: float | None = None,
) -> dict[str, Any]:
    """What can be said without the truth; JSON-able. None of it says that a result is good.

    Args:
        off_palette: mean distance of stage 1's colours from the palette, of 441.
        panels: mean difference of stage 2's two depth panels from the maps it was given, in inverse depth.
    """
    outside = ~near(mask)
    touched = difference(image, result) > CHANGED
    moved = None if depth_before is None or depth_after is None else numpy.abs(depth_after - depth_before)
    return {
        "changed_outside": float(touched[outside].mean()) if outside.any() else 0.0,
        "depth_change_inside": None if moved is None or not mask.any() else float(moved[mask].mean()),
        "depth_change_outside": None if moved is None or not outside.any() else float(moved[outside].mean()),
        "off_palette": off_palette,
        "panels": panels,
    }
