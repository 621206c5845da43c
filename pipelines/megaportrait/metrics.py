"""How good a pasted and harmonised portrait is: seam, colour, light, sharpness, identity, and the truth where it is known.

None is "not defined" (a plain face has no shading, one photo nothing to be compared with) and never a perfect number. Seam and ring
are told as the excess over the untouched reference, because a chin has an edge of its own. Their lengths were chosen for a face
116 pixels wide and are scaled with the core.

Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool; points (x, y) in pixels; embeddings (D,), of any length above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy
import scipy
import skimage
from numpy.typing import ArrayLike, NDArray

from pipelines.core import masks
from pipelines.core.geometry import Mask, Picture
from pipelines.core.scores import PERFECT
from pipelines.megaportrait.light import lab_of, smoothed_inside
from pipelines.megaportrait.paste import width_of
from pipelines.models.control_maps import LOW

REFERENCE_WIDTH = 116
"""Pixels of the face for which the lengths below are meant: that of the portrait on which the bars were found."""
HALF_STEP = 2.0
"""A jump is measured between so many pixels on either side of a contour."""
PARALLEL = (-18.0, -12.0, 12.0, 18.0)
"""Distances of the contours whose jumps are the measure of the seam's."""
BAND = 10.0
"""Depth of the two bands whose mean colours are compared."""
FEWEST = 16
"""Pixels of a contour, band or region that are enough to measure in."""
FLAT = 0.05
"""Lab units: a smaller jump or spread is rounding, and no measure of anything."""

BARS: dict[str, tuple[float, float]] = {
    "seam_excess": (0.15, 0.5),
    "ring_difference": (3.0, 5.0),
    "landmark_error": (3.0, 6.0),
    "shading_agreement": (0.8, 0.5),
    "sharpness_ratio": (0.7, 1.4),
}
"""Good up to the first and poor above the second; agreement is good from the first on and poor below the second, sharpness good between."""


# --- the seam --------------------------------------------------------------------------------------------------


def _signed_distance(core: Mask) -> NDArray[numpy.float64]:
    """Pixels to the core's border, positive inside; whole pixels lie half a pixel or more from it."""
    inside, outside = scipy.ndimage.distance_transform_edt(core), scipy.ndimage.distance_transform_edt(~core)
    return numpy.where(core, inside - 0.5, 0.5 - outside)


def eighths(core: Mask) -> NDArray[numpy.intp]:
    """To which of eight sectors around the middle of the core each pixel belongs, 0 to 7."""
    rows, columns = numpy.nonzero(core)
    y, x = numpy.indices(core.shape)
    turn = numpy.arctan2(y - rows.mean(), x - columns.mean())
    return numpy.floor((turn + numpy.pi) / (numpy.pi / 4)).clip(0, 7).astype(numpy.intp)


def _largest(after: Sequence[float | None], before: Sequence[float | None]) -> float | None:
    """The largest growth of any part; None where none is defined in both."""
    pairs = zip(after, before, strict=True)
    return max((one - other for one, other in pairs if one is not None and other is not None), default=None)


def _jumps(
    lab: NDArray[numpy.float32],
    distance: NDArray[numpy.float64],
    normal: NDArray[numpy.float64],
    at: float,
    step: float,
    sectors: NDArray[numpy.intp],
) -> list[float | None]:
    """Mean colour steps across the contour at a distance, in Lab units: of all of it, then of each of its eighths; None where too little
    lies in the picture."""
    rows, columns = numpy.nonzero(numpy.abs(distance - at) <= 0.5)
    height, width = distance.shape
    ends = [
        (rows + way * step * normal[0][rows, columns], columns + way * step * normal[1][rows, columns])
        for way in (-1, 1)
    ]
    framed = numpy.logical_and.reduce([(y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1) for y, x in ends])
    if framed.sum() < FEWEST:
        return [None] * 9
    sides = [
        numpy.stack(
            [
                scipy.ndimage.map_coordinates(lab[..., c], [y[framed], x[framed]], order=1, mode="nearest")
                for c in range(3)
            ],
            -1,
        )
        for y, x in ends
    ]
    steps = numpy.linalg.norm(sides[1] - sides[0], axis=-1)
    parts = [steps[sectors[rows, columns][framed] == number] for number in range(8)]
    return [float(steps.mean()), *(float(part.mean()) if len(part) >= FEWEST else None for part in parts)]


def seam_ratios(picture: Picture, core: Mask) -> list[float | None]:
    """The mean colour step across the core's border over that across contours parallel to it, 1 is no seam at all; and of each eighth of
    the border, over the same."""
    if not core.any() or core.all():
        return [None] * 9
    unit = width_of(core) / REFERENCE_WIDTH
    distance = _signed_distance(core)
    slope = numpy.stack([scipy.ndimage.sobel(distance, axis) for axis in (0, 1)])
    normal = slope / numpy.maximum(numpy.linalg.norm(slope, axis=0), 1e-9)
    lab, step, sectors = lab_of(picture), max(1.0, HALF_STEP * unit), eighths(core)
    across = _jumps(lab, distance, normal, 0.0, step, sectors)
    around = [_jumps(lab, distance, normal, at * unit, step, sectors)[0] for at in PARALLEL]
    beside = [jump for jump in around if jump is not None]
    if across[0] is None or not beside or sum(beside) / len(beside) < FLAT:
        return [None] * 9
    return [None if one is None else one / (sum(beside) / len(beside)) for one in across]


def seam_ratio(picture: Picture, core: Mask) -> float | None:
    """The first of :func:`seam_ratios`."""
    return seam_ratios(picture, core)[0]


def seam_excess(result: Picture, original: Picture, core: Mask) -> float | None:
    """By how much the result's :func:`seam_ratio` is above the original's; 0 is no new seam, below 0 a softer edge than before."""
    return seams(result, original, core)["seam_excess"]


def seams(result: Picture, original: Picture, core: Mask) -> dict[str, float | None]:
    """:func:`seam_excess`, and the largest of any eighth of the border: a mean says nothing of one place that stands out."""
    after, before = seam_ratios(result, core), seam_ratios(original, core)
    return {"seam_excess": _largest(after[:1], before[:1]), "seam_worst": _largest(after[1:], before[1:])}


def ring_colours(picture: Picture, core: Mask) -> list[float | None]:
    """Distance in Lab between the mean colours of the bands just inside and just outside the core's border; and of each of their
    eighths."""
    if not core.any() or core.all():
        return [None] * 9
    distance, lab, sectors = _signed_distance(core), lab_of(picture), eighths(core)
    depth = max(1.0, BAND * width_of(core) / REFERENCE_WIDTH)
    bands = [core & (distance <= depth), ~core & (distance >= -depth)]
    apart: list[float | None] = []
    for part in (None, *range(8)):
        inner, outer = (band if part is None else band & (sectors == part) for band in bands)
        few = min(inner.sum(), outer.sum()) < FEWEST
        apart.append(None if few else float(numpy.linalg.norm(lab[inner].mean(0) - lab[outer].mean(0))))
    return apart


def ring_difference(result: Picture, original: Picture, core: Mask) -> float | None:
    """By how much the result's :func:`ring_colours` are above the original's, in Lab units: a colour cast that a feather hides."""
    return rings(result, original, core)["ring_difference"]


def rings(result: Picture, original: Picture, core: Mask) -> dict[str, float | None]:
    """:func:`ring_difference`, and the largest of any eighth of the ring."""
    after, before = ring_colours(result, core), ring_colours(original, core)
    return {"ring_difference": _largest(after[:1], before[:1]), "ring_worst": _largest(after[1:], before[1:])}


# --- light, sharpness, the rest of the picture -----------------------------------------------------------------


def shading_agreement(result: Picture, reference: Picture, core: Mask, width: float | None = None) -> float | None:
    """Correlation of the smooth part of L inside the core, -1 to 1; None where one of the two has no shading. Where ``core`` is a part
    of the face only, ``width`` is the face's, in pixels."""
    if core.sum() < FEWEST:
        return None
    sigma = max(0.5, LOW * (width_of(core) if width is None else width))
    first, second = (smoothed_inside(lab_of(picture)[..., 0], core, sigma)[core] for picture in (result, reference))
    if min(first.std(), second.std()) < FLAT:
        return None
    return float(numpy.corrcoef(first, second)[0, 1])


def laplacian_variance(picture: Picture, mask: Mask) -> float | None:
    """Sharpness of the luminance inside the mask, without its border pixels."""
    inner = masks.grow(mask, -1)
    if inner.sum() < FEWEST:
        return None
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(numpy.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F)[inner].var())


def sharpness_ratio(result: Picture, reference: Picture, core: Mask) -> float | None:
    """Of the result's face against the reference's; below 1 it is softer. None where the reference is plain."""
    ours, theirs = laplacian_variance(result, core), laplacian_variance(reference, core)
    return None if ours is None or theirs is None or theirs < FLAT else ours / theirs


def outside(result: Picture, reference: Picture, mask: Mask) -> dict[str, float | None]:
    """What changed where nothing may change: the largest difference in levels, the share of pixels that differ, and SSIM."""
    rest = ~mask
    if not rest.any():
        return {"outside_largest": None, "outside_changed": None, "outside_ssim": None}
    off = cv2.absdiff(result, reference).max(-1)[rest]
    # SSIM looks at a window around each pixel: what lies inside the mask is the same in both, so that it does not count.
    shown = numpy.where(mask[..., None], reference, result)
    similar = None if off.any() else 1.0  # exactly: a sum of ones that rounds to 0.9999 would be told as a change
    if similar is None and min(mask.shape) >= 7:
        _mean, full = skimage.metrics.structural_similarity(shown, reference, channel_axis=2, data_range=255, full=True)
        similar = float(full.mean(-1)[rest].mean())
    return {"outside_largest": float(off.max()), "outside_changed": float((off > 0).mean()), "outside_ssim": similar}


# --- against the truth -----------------------------------------------------------------------------------------


def landmark_error(
    found: ArrayLike | None, truth: ArrayLike | None, face_width: float, visible: ArrayLike | None = None
) -> float | None:
    """Mean distance of the points (N, 2), in percent of the face's width; of the visible ones where (N,) ``visible`` is given."""
    if found is None or truth is None:
        return None
    first, second = numpy.asarray(found, float), numpy.asarray(truth, float)
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 2:
        raise ValueError(
            f"Points of shapes {first.shape} and {second.shape} came: give as many of one as of the other, as x, y."
        )
    if not face_width > 0:
        raise ValueError(f"The face is {face_width:g} pixels wide: give the width of its box.")
    apart = numpy.linalg.norm(first - second, axis=1)
    apart = apart if visible is None else apart[numpy.asarray(visible, bool)]
    return float(100 * apart.mean() / face_width) if apart.size else None


def against_truth(result: Picture, truth: Picture, regions: Mapping[str, Mask]) -> dict[str, dict[str, float | None]]:
    """PSNR (dB, equal pictures :data:`PERFECT`) and SSIM (mean of the full map) in each region; None where it is empty."""
    if result.shape != truth.shape:
        raise ValueError(
            f"The result is {result.shape[1::-1]} and the truth {truth.shape[1::-1]}: compare pictures of one size."
        )
    _mean, similar = skimage.metrics.structural_similarity(result, truth, channel_axis=2, data_range=255, full=True)

    def score(here: Mask) -> dict[str, float | None]:
        if not here.any():
            return {"psnr": None, "ssim": None}
        ours, theirs = result[here], truth[here]
        decibels = PERFECT
        if not numpy.array_equal(ours, theirs):
            decibels = min(PERFECT, float(skimage.metrics.peak_signal_noise_ratio(theirs, ours, data_range=255)))
        return {"psnr": decibels, "ssim": float(similar.mean(-1)[here].mean())}

    return {name: score(here) for name, here in regions.items()}


def measured(result: Picture, reference: Picture, core: Mask, changeable: Mask) -> dict[str, float | None]:
    """Every measure of a result that needs no truth and no identity; JSON-able. ``changeable`` is where the result may differ."""
    return {
        **seams(result, reference, core),
        **rings(result, reference, core),
        "shading_agreement": shading_agreement(result, reference, core),
        "sharpness_ratio": sharpness_ratio(result, reference, core),
        **outside(result, reference, changeable),
    }


# --- identity --------------------------------------------------------------------------------------------------


def _units(embeddings: Sequence[ArrayLike | None]) -> NDArray[numpy.float64]:
    """(N, D) of length 1, without those that are missing."""
    rows = [numpy.asarray(one, numpy.float64).ravel() for one in embeddings if one is not None]
    if not rows:
        return numpy.zeros((0, 0))
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"Embeddings of {sorted({len(row) for row in rows})} numbers came: compare those of one network."
        )
    lengths = numpy.linalg.norm(rows, axis=1)
    if not numpy.isfinite(lengths).all() or not (lengths > 0).all():
        raise ValueError("An embedding is zero or not a number: leave out the picture in which no face was found.")
    return numpy.stack(rows) / lengths[:, None]


def cosine_distances(embeddings: Sequence[ArrayLike | None]) -> NDArray[numpy.float64]:
    """1 minus the cosine of every two (N, N), 0 to 2; NaN where one is missing."""
    table = numpy.full((len(embeddings),) * 2, numpy.nan)
    there = [place for place, one in enumerate(embeddings) if one is not None]
    units = _units(embeddings)
    if there:
        table[numpy.ix_(there, there)] = 1 - numpy.clip(units @ units.T, -1, 1)
    return table


def identity_table(
    result: ArrayLike | None, person: Sequence[ArrayLike | None], reference: ArrayLike | None
) -> dict[str, dict[str, float | None]]:
    """Cosine similarities, -1 to 1, that make the first one readable; None without a face.

    ``result`` and ``reference`` to the person's photos: the best and the mean. ``among``: the photos of the person between
    themselves, mean and worst; not defined for a single one.
    """
    photos = [one for one in person if one is not None]
    units = _units([result, reference, *photos])
    own = units[len(units) - len(photos) :]

    def to_person(row: int) -> dict[str, float | None]:
        cosines = numpy.clip(own @ units[row], -1, 1)
        return {"best": float(cosines.max()), "mean": float(cosines.mean())}

    nothing: dict[str, float | None] = {"best": None, "mean": None}
    table: dict[str, dict[str, float | None]] = {
        "result": nothing,
        "reference": nothing,
        "among": {"mean": None, "worst": None},
    }
    if photos and result is not None:
        table["result"] = to_person(0)
    if photos and reference is not None:
        table["reference"] = to_person(int(result is not None))
    if len(photos) > 1:
        pairs = numpy.clip(own @ own.T, -1, 1)[numpy.triu_indices(len(own), 1)]
        table["among"] = {"mean": float(pairs.mean()), "worst": float(pairs.min())}
    return table
