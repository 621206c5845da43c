"""What a net draws too softly, taken from the person's own picture: fine detail, wherever the picture shows the same."""

from __future__ import annotations

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import masks
from pipelines.core.geometry import Mask, Picture, _check_sizes

FINE, COARSE, WINDOW = 0.035, 0.14, 0.09
"""Widths of Gaussians in widths of the face: detail is finer than the first, likeness is of what lies between the first two, and is asked
for in a window of the third."""
LEAST, SURE = 0.2, 0.6
"""Correlations from which on, and from which on wholly, detail is taken."""
NOTHING = 4.0
"""Variance, in squared levels, below which there is nothing that could be alike."""
WEAKER, STRONGER = 0.6, 1.1
"""How much weaker or stronger detail may become, as the coarser parts of both pictures are."""


def lent(drawn: Picture, picture: Picture, where: Mask, width: float, amount: float = 1.0) -> Picture:
    """``drawn`` with the fine detail of ``picture``, which shows the same in its place, inside ``where``.

    Where the parts next coarser than the detail correlate, they show the same feature in the same place, and its detail fits. Elsewhere
    (another pose, another expression) it would be an edge where none belongs, and nothing is taken.

    Args:
        width: of the face in pixels.
        amount: 0 takes none.
    """
    _check_sizes(drawn, picture, where)
    soft, own = drawn.astype(numpy.float32), picture.astype(numpy.float32)
    fine = _smooth(own, FINE * width)
    mine, theirs = _smooth(soft, FINE * width) - _smooth(soft, COARSE * width), fine - _smooth(own, COARSE * width)
    both, ours, its = (
        _smooth((a * b).sum(2), WINDOW * width) for a, b in ((mine, theirs), (mine, mine), (theirs, theirs))
    )
    alike = (both / numpy.sqrt((ours + NOTHING) * (its + NOTHING)) - LEAST) / (SURE - LEAST)
    share = numpy.clip(alike, 0, 1)
    share = share * share * (3 - 2 * share)
    inside = _smooth(masks.grow(where, -2).astype(numpy.float32), 2.0)
    share = _smooth(share * inside, 2.0) * inside * numpy.clip(both / (its + NOTHING), WEAKER, STRONGER) * amount
    return numpy.clip(numpy.rint(soft + share[..., None] * (own - fine)), 0, 255).astype(numpy.uint8)


def _smooth(values: NDArray[numpy.floating], sigma: float) -> NDArray[numpy.float32]:
    return numpy.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), numpy.float32)
