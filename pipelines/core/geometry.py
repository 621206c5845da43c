"""Points, squares and matrices of faces in pictures: nothing here looks at what a picture shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy
import skimage
from numpy.typing import ArrayLike, NDArray

from pipelines.core.images import Picture
from pipelines.core.masks import Mask

Alpha = NDArray[numpy.float32]
Matrix = NDArray[numpy.float64]
"""3 x 3, applied to (x, y, 1)."""
POINTS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")
"""The five points and their order; left and right as seen in the picture."""
SPREAD = 1.0
"""Pixels, root mean square: five points that lie closer together say nothing of size and turn."""


def five(points: ArrayLike) -> NDArray[numpy.float64]:
    """The first five of ``points``, (5, 2), checked.

    Raises:
        ValueError: fewer than five, not finite, or all in one place.
    """
    found = numpy.asarray(points, numpy.float64)
    if found.ndim != 2 or found.shape[0] < 5 or found.shape[1] != 2:
        raise ValueError(
            f"Points of shape {found.shape} came and (5, 2) are needed: {', '.join(POINTS)}, each as x, y."
        )
    found = found[:5]
    if not numpy.isfinite(found).all():
        raise ValueError("A point of the face is not a number: mark all five points.")
    if numpy.sqrt(((found - found.mean(0)) ** 2).sum(1).mean()) < SPREAD:
        raise ValueError(
            f"The five points lie within {SPREAD:g} pixel of each other: mark eyes, nose and mouth corners."
        )
    return found


def similarity(source: ArrayLike, target: ArrayLike) -> Matrix:
    """The turn, scale and shift that takes five points onto five others with the least squares.

    Raises:
        ValueError: points that :func:`five` refuses, or one face that is mirrored against the other.
    """
    source, target = five(source), five(target)
    if _orientation(source) * _orientation(target) < 0:
        raise ValueError(
            "One face's points are mirrored against the other's: left and right are meant as seen in the picture."
        )
    found = skimage.transform.SimilarityTransform.from_estimate(source, target)
    if not found or not numpy.isfinite(found.params).all() or found.scale < 1e-6:
        raise ValueError(
            "No turn and scale takes these five points onto the others: mark eyes, nose and mouth corners."
        )
    return numpy.asarray(found.params, numpy.float64)


FLATTENED = 1.6
"""Ratio of an affine map's scales beyond which it flattens a face: then the heads are turned too differently."""


def affinity(source: ArrayLike, target: ArrayLike) -> Matrix:
    """The affine map that takes five points onto five others with the least squares: as :func:`similarity`, and it also follows how a
    turned head is foreshortened. Where it would flatten the face (:data:`FLATTENED`) it is the similarity.

    Raises:
        ValueError: as :func:`similarity`.
    """
    plain = similarity(source, target)
    found = skimage.transform.AffineTransform.from_estimate(five(source), five(target))
    if not found or not numpy.isfinite(found.params).all():
        return plain
    large, small = numpy.linalg.svd(found.params[:2, :2], compute_uv=False)
    if small < 1e-6 or large / small > FLATTENED or numpy.linalg.det(found.params[:2, :2]) <= 0:
        return plain
    return numpy.asarray(found.params, numpy.float64)


def bent(picture: Picture, source: ArrayLike, target: ArrayLike) -> Picture:
    """``picture`` bent smoothly (thin-plate spline) so that its five points come to lie on five others near by; its border stays."""
    height, width = picture.shape[:2]
    across, down = numpy.array([0, 0.5, 1]) * width, numpy.array([0, 0.5, 1]) * height
    border = [(x, y) for x in across for y in down if (x, y) != (width / 2, height / 2)]
    found = skimage.transform.ThinPlateSplineTransform.from_estimate(
        numpy.concatenate((five(target), border)) - 0.5, numpy.concatenate((five(source), border)) - 0.5
    )
    if not found:
        return picture.copy()
    made = skimage.transform.warp(picture, found, order=3, mode="edge", preserve_range=True)
    return numpy.clip(numpy.rint(made), 0, 255).astype(numpy.uint8)


def _orientation(points: NDArray[numpy.float64]) -> float:
    """Positive where the mouth is below the eyes and the left eye is the left one, negative where mirrored; 0 when in doubt."""
    along, down = points[1] - points[0], points[3:5].mean(0) - points[:2].mean(0)
    cross = along[0] * down[1] - along[1] * down[0]
    return 0.0 if abs(cross) < 0.1 * float(numpy.linalg.norm(along) * numpy.linalg.norm(down)) else cross


def moved(points: ArrayLike, matrix: NDArray[numpy.floating]) -> NDArray[numpy.float64]:
    """``points`` (N, 2) through ``matrix``."""
    return numpy.asarray(points, numpy.float64) @ matrix[:2, :2].T + matrix[:2, 2]


def roll_of(points: ArrayLike) -> float:
    """Degrees by which the line through the eyes is turned; positive when the right eye is lower."""
    left, right = five(points)[:2]
    return math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))


def nose_between_eyes(points: ArrayLike) -> float:
    """Where the nose tip stands along the line from the left eye (0) to the right one (1); 0.5 looks straight ahead.

    Eyes that coincide are those of a profile: minus or plus infinity, by the side of the nose.
    """
    left, right, nose = five(points)[:3]
    span = right - left
    length = float(span @ span)
    if length < 1e-6:
        return math.copysign(math.inf, float(nose[0] - left[0]))
    return float((nose - left) @ span) / length


def _shift(x: float, y: float) -> Matrix:
    return numpy.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(
    picture: NDArray,
    matrix: Matrix,
    size: tuple[int, int],
    border: int = cv2.BORDER_REPLICATE,
    way: int = cv2.INTER_LANCZOS4,
) -> NDArray:
    """``picture`` through ``matrix`` on a canvas of (width, height); what lies outside repeats its edge, or is 0 with
    ``cv2.BORDER_CONSTANT``. Reduced, it is smoothed first. A shift by whole pixels copies them unchanged."""
    width, height = size
    scale = math.sqrt(abs(numpy.linalg.det(matrix[:2, :2])))
    blur = 0.5 * math.sqrt(1 / scale**2 - 1) if scale < 0.999 else 0.0
    corners = moved([(0, 0), (width, 0), (0, height), (width, height)], numpy.linalg.inv(matrix))
    margin = math.ceil(4 * blur + 5)
    # Only what is needed: a large photograph would take seconds, and OpenCV cannot address more than 32,767 columns.
    low = numpy.floor(corners.min(0)).astype(int) - margin
    high = numpy.ceil(corners.max(0)).astype(int) + margin
    left, top = (min(max(int(low[axis]), 0), picture.shape[1 - axis] - 1) for axis in (0, 1))
    right, bottom = (
        min(max(int(high[axis]), start + 1), picture.shape[1 - axis]) for axis, start in ((0, left), (1, top))
    )
    part = picture[top:bottom, left:right]
    if blur:
        part = cv2.GaussianBlur(part, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    inner = _shift(-0.5, -0.5) @ matrix @ _shift(left, top) @ _shift(0.5, 0.5)
    return cv2.warpAffine(numpy.ascontiguousarray(part), inner[:2], size, flags=way, borderMode=border)


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of ``side`` pixels cut from a picture of ``size`` (width, height), and the way back."""

    matrix: Matrix
    """From the picture to the square."""
    side: int
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the square per pixel of the picture."""
        return math.sqrt(abs(numpy.linalg.det(self.matrix[:2, :2])))

    @property
    def inverse(self) -> Matrix:
        return numpy.asarray(numpy.linalg.inv(self.matrix), numpy.float64)

    def cut(self, picture: Picture) -> Picture:
        """The square; beyond the picture's border its edge is repeated."""
        self._check(picture)
        return warp(picture, self.matrix, (self.side, self.side))

    def inside(self) -> Mask:
        """Where the square shows the picture, and not its repeated edge."""
        middles = numpy.arange(self.side) + 0.5
        x, y = numpy.meshgrid(middles, middles)
        found = moved(numpy.stack([x, y], -1).reshape(-1, 2), self.inverse)
        return ((found >= 0) & (found <= self.size)).all(1).reshape(self.side, self.side)

    def there(self, points: ArrayLike) -> NDArray[numpy.float64]:
        """Points of the picture in the square."""
        return moved(points, self.matrix)

    def back(self, points: ArrayLike) -> NDArray[numpy.float64]:
        """Points of the square in the picture."""
        return moved(points, self.inverse)

    def _check(self, picture: NDArray) -> None:
        if picture.shape[1::-1] != self.size:
            height, width = picture.shape[:2]
            raise ValueError(
                f"The picture is {width} x {height} and the crop was made for {self.size[0]} x {self.size[1]}: "
                "cut it from the same picture."
            )


def crop_around(
    box: Sequence[float], size: tuple[int, int], factor: float = 2.2, side: int | None = 512, roll: float = 0.0
) -> Crop:
    """A square ``factor`` times as wide as the longer side of ``box``, around its middle, scaled to ``side`` pixels.

    Args:
        side: None keeps the picture's own scale; an upright square then lies on whole pixels and comes back byte for byte.
        roll: degrees by which the head is turned (:func:`roll_of`); in the square it is upright.

    Raises:
        ValueError: a box without an area or beside the picture, a factor below 1, a side of fewer than 8 pixels.
    """
    left, top, width, height = (float(number) for number in box)
    if not all(map(math.isfinite, (left, top, width, height, roll))) or min(width, height) <= 0:
        raise ValueError(
            f"The face box {left:g}, {top:g}, {width:g} x {height:g} has no area: draw it around the face."
        )
    if left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0:
        raise ValueError(f"The face box lies outside the picture of {size[0]} x {size[1]}: draw it around the face.")
    if not factor >= 1 or (side is not None and side < 8):
        raise ValueError(
            f"A crop of {factor:g} times the face at {side} pixels cannot be cut: take at least 1 and 8 pixels."
        )
    middle, extent = (left + width / 2, top + height / 2), max(width, height) * factor
    if side is None:
        side = max(8, round(extent))
        if roll == 0:
            corner = (round(middle[0] - side / 2), round(middle[1] - side / 2))
            return Crop(_shift(-corner[0], -corner[1]), side, size)
        extent = side
    turn, scale = math.radians(-roll), side / extent
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    turned = numpy.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return Crop(_shift(side / 2, side / 2) @ turned @ _shift(-middle[0], -middle[1]), side, size)


def _check_sizes(*arrays: NDArray) -> None:
    if len({array.shape[:2] for array in arrays}) > 1:
        found = ", ".join(f"{array.shape[1]} x {array.shape[0]}" for array in arrays)
        raise ValueError(f"Pictures and masks of one size are needed and {found} came: cut them from the same crop.")


@dataclass(frozen=True)
class Face:
    """A face as a detector found it."""

    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float], ...] | None
    """Eyes, nose tip and mouth corners, left and right as seen in the picture; None where the detector has none."""
    score: float
    """In [0, 1], the detector's own: not comparable between detectors."""
    backend: str
    roll: float | None = None
    """Degrees, positive when the right eye is lower; of a detector without points the pass that found it, else None."""

    @property
    def tilt(self) -> float | None:
        """Degrees by which the head is turned in the picture's plane, None when unknown."""
        return self.roll if self.points is None else roll_of(self.points)


def check_picture(picture: NDArray[numpy.uint8]) -> None:
    """Raise ValueError unless ``picture`` is (H, W, 3) uint8 of at least 16 pixels each way."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != numpy.uint8:
        raise ValueError(f"the picture is {picture.dtype} of shape {picture.shape}: give uint8 of (height, width, 3)")
    if min(picture.shape[:2]) < 16:
        raise ValueError(
            f"the picture is only {picture.shape[1]} x {picture.shape[0]} pixels: give one of at least 16 each way"
        )


def resized(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The picture at (width, height); a mean of pixels where it shrinks."""
    shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[0]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
