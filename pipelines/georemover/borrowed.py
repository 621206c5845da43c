"""Detail for the filled part of an enlarged result, borrowed from around it: grain of wood, joints, the sharp edge of a floor.

The model fills at its own size, so what it paints is soft at the original's. A background repeats itself: shifted copies of a picture fit
it well at a few shifts (He and Sun, ECCV 2012), the joints of planks at every shift along them. Those shifts are found where the
picture is known, by Fourier transforms over all shifts at once; each filled pixel takes the detail of the shift that fits there best, as
far as the coarse pictures agree, and none where they do not.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy
import scipy.fft
from numpy.typing import NDArray

from pipelines.core import lane, masks
from pipelines.core.images import Picture
from pipelines.core.masks import Mask

SHIFTS = 24
"""Shifts that are tried in each pixel."""
APART = 6
"""Least distance between two of them, in pixels."""
FITS, MISFITS = 0.15, 0.4
"""Misfit of the known rim nearby, as a share of what two unlike textures have (1), up to which all is borrowed and from which on nothing."""
AGREE = 12.0
"""Difference of the coarse pictures, in levels, from which on nothing is borrowed."""
MOST_PIXELS = 6_000_000
"""Of a larger neighbourhood nothing is borrowed: it would take gigabytes."""
Floats = NDArray[numpy.float32]
Shift = tuple[int, int]
"""(down, across), in pixels."""
Box = tuple[slice, slice]


def detail(picture: Picture, coarse: Floats, filled: Floats, wanted: Mask, known: Mask, reach: int) -> Floats:
    """What is to be added to ``filled`` where it is ``wanted``, (H, W, 3) in levels; 0 elsewhere.

    Args:
        picture: the original, (H, W, 3). coarse: what enlarging leaves of it, (H, W, 3).
        filled: the enlarged result, as ``coarse`` as that.
        wanted: what was filled. known: what shows the background as it was; without what blends with a filled part.
        reach: width of the known rim around ``wanted`` by which shifts are judged, in pixels.
    """
    made = numpy.zeros(picture.shape, numpy.float32)
    fine = (picture - coarse) * known[..., None]
    rim = masks.grow(wanted, reach) & known
    if rim.sum() < 64:
        return made
    box = masks.box(wanted, reach)
    best, here, there = numpy.full(wanted[box].shape, numpy.inf, numpy.float32), made[box], wanted[box]
    for shift in _shifts(fine.mean(2), wanted, known, rim):
        lane.check()
        other, valid = part_at(fine, box, shift), part_at(known, box, shift)
        judged = (rim[box] & valid).astype(numpy.float32)
        unlike = numpy.square(fine[box]).mean(2) + numpy.square(other).mean(2) + 0.5  # what is even has nothing to say
        misfit, full = (_nearby(part * judged, reach) for part in (_distance(fine[box], other), unlike))
        share = misfit / numpy.maximum(full, 1e-6)
        apart = numpy.sqrt(cv2.blur(_distance(filled[box], part_at(coarse, box, shift)), (reach, reach)))
        trust = numpy.clip((MISFITS - share) / (MISFITS - FITS), 0, 1) * numpy.clip(2 - 2 * apart / AGREE, 0, 1)
        better = there & valid & (trust > 0) & (share < best)
        best[better] = share[better]
        here[better] = (other * trust[..., None])[better]
    return made


def _shifts(fine: Floats, wanted: Mask, known: Mask, rim: Mask) -> list[Shift]:
    """Those by which the fine picture fits itself best in the ``rim``, of those that bring known pixels into a third of ``wanted``."""
    size = [scipy.fft.next_fast_len(2 * side, real=True) for side in fine.shape]

    def spectrum(plane: NDArray[Any]) -> NDArray[Any]:
        return numpy.asarray(scipy.fft.rfft2(plane.astype(numpy.float32), size))

    def over_shifts(here: NDArray[Any], there: NDArray[Any]) -> Floats:
        """Σ here(x) there(x + shift), of every shift."""
        return numpy.asarray(scipy.fft.irfft2(numpy.conj(here) * there, size), numpy.float32)

    valid, place = spectrum(known), spectrum(rim)
    count = over_shifts(place, valid)
    energy = over_shifts(spectrum(fine**2 * rim), valid) + over_shifts(place, spectrum(fine**2))
    score = 1 - 2 * over_shifts(spectrum(fine * rim), spectrum(fine)) / numpy.maximum(
        energy, 1e-3 * energy.max() + 1e-6
    )
    covered = over_shifts(spectrum(wanted), valid)
    score[(count < 0.4 * rim.sum()) | (covered < 0.3 * wanted.sum())] = numpy.inf
    middle = (size[0] // 2, size[1] // 2)
    score = numpy.roll(score, middle, (0, 1))
    found: list[Shift] = []
    while len(found) < SHIFTS:
        row, column = (int(n) for n in numpy.unravel_index(score.argmin(), score.shape))
        if score[row, column] > MISFITS:
            break
        found.append((row - middle[0], column - middle[1]))
        score[max(0, row - APART) : row + APART + 1, max(0, column - APART) : column + APART + 1] = numpy.inf
    return found


def _nearby(plane: Floats, reach: int) -> Floats:
    return numpy.asarray(cv2.GaussianBlur(plane, (0, 0), 1.5 * reach))


def _distance(first: Floats, second: Floats) -> Floats:
    """Mean squared difference over the channels, (H, W)."""
    return numpy.asarray(numpy.square(first - second).mean(2))


def part_at(plane: NDArray[Any], box: Box, shift: Shift) -> NDArray[Any]:
    """The part of ``plane`` that lies at ``box``, moved by ``shift``; 0 where that lies outside."""
    starts = [part.start + by for part, by in zip(box, shift, strict=True)]
    sides = [part.stop - part.start for part in box]
    made = numpy.zeros((*sides, *plane.shape[2:]), plane.dtype)
    inside = tuple(
        slice(min(side, max(0, -start)), max(0, min(side, whole - start)))
        for start, side, whole in zip(starts, sides, plane.shape, strict=False)
    )
    made[inside] = plane[
        tuple(slice(part.start + start, part.stop + start) for part, start in zip(inside, starts, strict=True))
    ]
    return made
