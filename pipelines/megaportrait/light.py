"""The reference's light on the person's face, by arithmetic: before the Shading Net, and as what that net is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy
from numpy.typing import NDArray

from pipelines.core import geometry, masks
from pipelines.core.geometry import Mask, Picture, _check_sizes
from pipelines.megaportrait.paste import RING_OUT, width_of
from pipelines.models.control_maps import LOW

if TYPE_CHECKING:
    from pipelines.megaportrait.place import Analysis

LIGHT = 0.2
"""Sigma, in widths of the face, of the light that is moved from skin to skin."""
STRETCH = (0.5, 2.0)
"""How far the spread of a colour channel is changed at most: more would turn noise into colour."""


def smoothed_inside(values: NDArray, mask: Mask, sigma: float) -> NDArray[numpy.float32]:
    """Gaussian mean of ``values`` (H, W) over the mask's pixels only, so that no hair or background bleeds in; 0 far outside."""
    weight = mask.astype(numpy.float32)
    total = cv2.GaussianBlur(values.astype(numpy.float32) * weight, (0, 0), sigma)
    return numpy.asarray(total / numpy.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-6), numpy.float32)


def lab_of(picture: Picture) -> NDArray[numpy.float32]:
    """CIE Lab (D65), L in [0, 100]."""
    return numpy.asarray(cv2.cvtColor(picture.astype(numpy.float32) / 255, cv2.COLOR_RGB2Lab), numpy.float32)


def shading_transfer(
    face: Picture,
    reference: Picture,
    core: Mask,
    amount: float = 0.6,
    exclude: Mask | None = None,
    width: float | None = None,
    skin: tuple[Mask, Mask] | None = None,
) -> Picture:
    """``face`` in the reference's light, inside ``core`` and as far around it as the ring goes; both lie in the same place.

    The smooth part of L goes to the reference's by ``amount``; channels a and b go to the reference's mean and spread (Reinhard) by
    the same amount, without ``exclude`` (lips and eyes): these count in neither and keep their own colour. All of it is measured
    inside the core only. 0 is the face as it was.

    ``skin``: where the face and the reference show plain skin, neither of them empty. Then light is measured there alone, smoothed by
    :data:`LIGHT`, and colours are shifted only: what lies darker on the one, glasses or a beard, is no light on the other.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"The shading transfer is {amount:g}: give a number from 0 to 1.")
    _check_sizes(face, reference, core)
    if not amount or not core.any():
        return face.copy()
    width = width_of(core) if width is None else width
    sigma = max(0.5, (LOW if skin is None else LIGHT) * width)
    own, other = lab_of(face), lab_of(reference)
    change = numpy.zeros_like(own)
    mine, theirs = (core, core) if skin is None else skin
    change[..., 0] = smoothed_inside(other[..., 0], theirs, sigma) - smoothed_inside(own[..., 0], mine, sigma)
    plain, coloured = core, numpy.ones(core.shape, numpy.float32)
    if exclude is not None and exclude.any():
        plain = core & ~exclude
        coloured = numpy.where(
            exclude, 0, 1 - cv2.GaussianBlur(exclude.astype(numpy.float32), (0, 0), max(0.5, sigma / 3))
        )
    for channel in (1, 2) if plain.any() else ():
        here, there = own[..., channel], other[..., channel]
        if skin is not None:
            change[..., channel] = coloured * (there[theirs].mean() - here[mine].mean())
            continue
        stretch = numpy.clip(float(there[plain].std()) / max(float(here[plain].std()), 1e-3), *STRETCH)
        change[..., channel] = coloured * ((here - here[plain].mean()) * stretch + there[plain].mean() - here)
    # As a difference: the way to Lab and back alone moves a level here and there.
    light = cv2.cvtColor(own + amount * change, cv2.COLOR_Lab2RGB) - cv2.cvtColor(own, cv2.COLOR_Lab2RGB)
    levels = numpy.clip(numpy.rint(face + 255 * light), 0, 255).astype(numpy.uint8)
    return numpy.where(masks.grow(core, round(RING_OUT * width))[..., None], levels, face)


SKIN = 0.1
"""Share of the face that has to be plain skin for light to be measured on it."""


def lips_and_eyes(points: NDArray[numpy.floating], shape: tuple[int, int]) -> Mask:
    """Ellipses around mouth and eyes: their colours are the person's, whatever the light."""
    marks = geometry.five(points)
    apart = float(numpy.linalg.norm(marks[1] - marks[0]))
    roll = geometry.roll_of(marks)
    canvas = numpy.zeros(shape, numpy.uint8)
    mouth, wide = marks[3:5].mean(0), float(numpy.linalg.norm(marks[4] - marks[3]))
    for middle, axes in (
        (mouth, (0.62 * wide, 0.2 * wide)),
        (marks[0], (0.24 * apart, 0.18 * apart)),
        (marks[1], (0.24 * apart, 0.18 * apart)),
    ):
        centre, radii = (float(middle[0]) - 0.5, float(middle[1]) - 0.5), (2 * axes[0], 2 * axes[1])
        cv2.ellipse(canvas, (centre, radii, roll), 1, -1)
    return canvas.astype(bool)


def in_own_tone(reference: Picture, face: Picture, mine: Mask, theirs: Mask, share: float) -> Picture:
    """``reference`` with the mean skin tone of ``face``: how light falls on it stays, what it falls on is the person's.

    Measured inside ``mine`` of the face and ``theirs`` of the reference; L is scaled, as light does, a and b are shifted; the whole
    picture changes. ``share`` 0 leaves it.
    """
    if not share or not mine.any() or not theirs.any():
        return reference.copy()
    own, other = lab_of(face)[mine].mean(0), lab_of(reference)
    mean = other[theirs].mean(0)
    toned = other.copy()
    toned[..., 0] *= 1 + share * (float(own[0]) / max(float(mean[0]), 1.0) - 1)
    toned[..., 1:] += share * (own[1:] - mean[1:])
    toned[..., 0] = toned[..., 0].clip(0, 100)
    levels = cv2.cvtColor(toned, cv2.COLOR_Lab2RGB)
    return numpy.clip(numpy.rint(levels * 255), 0, 255).astype(numpy.uint8)


def lit(face: Picture, skin: Mask, analysis: Analysis, core: Mask, amount: float, own_tone: float) -> Picture:
    """``face`` in the reference's smooth light, where the reference shows a face; ``skin``: where ``face`` shows plain skin."""
    where = core & analysis.face_core
    where = where if where.any() else core
    exclude = lips_and_eyes(analysis.points, core.shape)
    mine, theirs = (one & where & ~exclude for one in (skin, analysis.skin))
    seen = min(mine.sum(), theirs.sum()) >= SKIN * where.sum()
    skins = (mine, theirs) if seen else None
    toned = in_own_tone(analysis.square, face, *(skins or (where, where)), own_tone)
    return shading_transfer(face, toned, where, amount, exclude, analysis.width, skins)
