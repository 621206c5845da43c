"""The pictures that ControlNets are shown: lines, colours, light and landmarks of a face."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy
from numpy.typing import ArrayLike, NDArray

from pipelines.core.geometry import Mask, Picture, _check_sizes, five, roll_of

COLOUR_STEP = 8
"""The colour map keeps one value per so many pixels."""
LINE_SIGMA, LINE_SIDE = 6.0, 512
"""Blur of the line drawing at this side; scaled with the crop, so that the same lines are drawn at every size."""


def face_oval(
    size: tuple[int, int], box: Sequence[float] | None = None, points: ArrayLike | None = None, roll: float = 0.0
) -> Mask:
    """The face's oval in a picture of ``size`` (width, height): from five points, or from a detector's box (brows to chin).

    By proportions of an adult's head; a parser's mask (:func:`core_of`) is better where there is one.
    """
    radii: tuple[float | numpy.floating, float | numpy.floating]
    if points is not None:
        marks = five(points)
        eyes, mouth = marks[:2].mean(0), marks[3:5].mean(0)
        tall, apart = numpy.linalg.norm(mouth - eyes), numpy.linalg.norm(marks[1] - marks[0])
        roll = roll_of(marks)
        along = numpy.array([math.cos(math.radians(roll)), math.sin(math.radians(roll))])
        # A head that turns shows more of its far side: the oval moves away from the nose.
        middle = eyes + 0.45 * (mouth - eyes) - 0.5 * float((marks[2] - eyes) @ along) * along
        radii = max(1.1 * tall, 0.95 * apart), max(1.37 * tall, 1.05 * apart)
    elif box is not None:
        left, top, width, height = box
        middle, radii = numpy.array([left + width / 2, top + height / 2]), (0.6 * width, 0.75 * height)
    else:
        raise ValueError("There is neither a box nor points: draw the face box.")
    turn = math.radians(roll)
    x, y = numpy.meshgrid(numpy.arange(size[0]) + 0.5 - middle[0], numpy.arange(size[1]) + 0.5 - middle[1])
    across, down = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return (across / radii[0]) ** 2 + (down / radii[1]) ** 2 <= 1


def shading_map(picture: Picture, width: float) -> Picture:
    """Luminance after a Gaussian of :data:`LOW` times the face's ``width``, in three equal channels."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(numpy.float32)
    blurred = cv2.GaussianBlur(grey, (0, 0), max(0.5, LOW * width), borderType=cv2.BORDER_REPLICATE)
    return _three(numpy.clip(numpy.rint(blurred), 0, 255).astype(numpy.uint8))


def colour_map(picture: Picture, step: int = COLOUR_STEP) -> Picture:
    """The picture's colours at 1/``step`` of its resolution, at its own size ("tile")."""
    height, width = picture.shape[:2]
    small = cv2.resize(
        picture, (max(1, round(width / step)), max(1, round(height / step))), interpolation=cv2.INTER_AREA
    )
    return numpy.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), numpy.uint8)


def canny_map(picture: Picture, low: int = 100, high: int = 200) -> Picture:
    """Edges, white on black, at the picture's own size. (controlnet_aux's ``CannyDetector`` would enlarge it to 512.)"""
    return _three(numpy.asarray(cv2.Canny(picture, low, high), numpy.uint8))


def line_map(picture: Picture, sigma: float | None = None, threshold: int = 8) -> Picture:
    """A line drawing, white on black: what is darker than its surroundings.

    The formula of controlnet_aux 0.0.10's ``LineartStandardDetector``, without its import (which loads every detector and writes
    over timm's registry), its resizing to multiples of 64 and its warning on a plain picture. ``sigma`` follows the picture's size.
    """
    values = picture.astype(numpy.float32)
    sigma = LINE_SIGMA * min(picture.shape[:2]) / LINE_SIDE if sigma is None else sigma
    darker = (cv2.GaussianBlur(values, (0, 0), sigma) - values).min(2).clip(0, 255)
    strong = darker[darker > threshold]
    darker /= max(16.0, float(numpy.median(strong)) if strong.size else 0.0)
    return _three((darker * 127).clip(0, 255).astype(numpy.uint8))


def landmark_picture(size: tuple[int, int], points: ArrayLike, oval: Mask | None = None) -> Picture:
    """The face's points as a control picture of (width, height): a coloured disc per point, grey lines from eye to nose to mouth,
    further points as a blue outline, and the border of ``oval`` in white; black elsewhere."""
    marks = five(points)
    every = numpy.asarray(points, numpy.float64)
    canvas = numpy.zeros((size[1], size[0], 3), numpy.uint8)
    bits, thick = 4, max(1, round(min(size) / 128))

    def place(point: NDArray[numpy.float64]) -> tuple[int, int]:
        return tuple(round((number - 0.5) * 2**bits) for number in point.tolist())

    def line(first: NDArray, second: NDArray, colour: tuple[int, int, int]) -> None:
        cv2.line(canvas, place(first), place(second), colour, thick, cv2.LINE_AA, bits)

    if oval is not None:
        _check_sizes(canvas, oval)
        edges, _tree = cv2.findContours(oval.astype(numpy.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, edges, -1, (255, 255, 255), thick)
    for first, second in itertools.pairwise(every[5:]):
        line(first, second, (0, 0, 255))
    for first, second in ((0, 2), (1, 2), (2, 3), (2, 4), (3, 4)):
        line(marks[first], marks[second], (128, 128, 128))
    for mark, colour in zip(
        marks, ((255, 0, 0), (0, 255, 0), (255, 255, 0), (255, 0, 255), (0, 255, 255)), strict=True
    ):
        cv2.circle(canvas, place(mark), round(2 * thick * 2**bits), colour, -1, cv2.LINE_AA, bits)
    return canvas


def _three(levels: Picture) -> Picture:
    return numpy.repeat(levels[..., None], 3, 2)


LOW = 0.06
"""Sigma of "low frequency". All five are shares of the face's width."""
