"""Putting one face where another was: geometry, light and seam, without any model.

The steps around the three nets of a MegaPortrait-style swap: cut a square around the reference's face (:func:`crop_around`), make
the control pictures of it, move light from one face to the other (:func:`shading_transfer`), paste (:func:`paste`), keep what the
last net may not touch (:func:`stitch`) and put the square back (:func:`uncrop`). The paper (arXiv 2411.04357) gives no settings:
lengths are shares of the face's width and ours.

Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool, alphas (H, W) float32 in [0, 1]. A point is (x, y) in pixels, (0.5, 0.5) being
the middle of the first pixel; a box is (left, top, width, height). Nothing here changes its input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy
from numpy.typing import ArrayLike, NDArray

from pipelines import masks

Picture = NDArray[numpy.uint8]
Mask = NDArray[numpy.bool_]
Alpha = NDArray[numpy.float32]
Matrix = NDArray[numpy.float64]
"""3 x 3, applied to (x, y, 1)."""

POINTS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")
"""The five points and their order; left and right as seen in the picture."""
SPREAD = 1.0
"""Pixels, root mean square: five points that lie closer together say nothing of size and turn."""
RING_OUT, RING_IN = 0.18, 0.08
ERODE, FEATHER = 0.04, 0.05
LOW = 0.06
"""Sigma of "low frequency". All five are shares of the face's width."""
LIGHT = 0.2
"""Sigma, in widths of the face, of the light that is moved from skin to skin."""
COLOUR_STEP = 8
"""The colour map keeps one value per so many pixels."""
LINE_SIGMA, LINE_SIDE = 6.0, 512
"""Blur of the line drawing at this side; scaled with the crop, so that the same lines are drawn at every size."""
STRETCH = (0.5, 2.0)
"""How far the spread of a colour channel is changed at most: more would turn noise into colour."""


# --- points ----------------------------------------------------------------------------------------------------


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
    from skimage.transform import SimilarityTransform

    source, target = five(source), five(target)
    if _orientation(source) * _orientation(target) < 0:
        raise ValueError(
            "One face's points are mirrored against the other's: left and right are meant as seen in the picture."
        )
    found = SimilarityTransform.from_estimate(source, target)
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
    from skimage.transform import AffineTransform

    plain = similarity(source, target)
    found = AffineTransform.from_estimate(five(source), five(target))
    if not found or not numpy.isfinite(found.params).all():
        return plain
    large, small = numpy.linalg.svd(found.params[:2, :2], compute_uv=False)
    if small < 1e-6 or large / small > FLATTENED or numpy.linalg.det(found.params[:2, :2]) <= 0:
        return plain
    return numpy.asarray(found.params, numpy.float64)


def bent(picture: Picture, source: ArrayLike, target: ArrayLike) -> Picture:
    """``picture`` bent smoothly (thin-plate spline) so that its five points come to lie on five others near by; its border stays."""
    from skimage.transform import ThinPlateSplineTransform
    from skimage.transform import warp as warped

    height, width = picture.shape[:2]
    across, down = numpy.array([0, 0.5, 1]) * width, numpy.array([0, 0.5, 1]) * height
    border = [(x, y) for x in across for y in down if (x, y) != (width / 2, height / 2)]
    found = ThinPlateSplineTransform.from_estimate(
        numpy.concatenate((five(target), border)) - 0.5, numpy.concatenate((five(source), border)) - 0.5
    )
    if not found:
        return picture.copy()
    made = warped(picture, found, order=3, mode="edge", preserve_range=True)
    return numpy.clip(numpy.rint(made), 0, 255).astype(numpy.uint8)


def _orientation(points: NDArray[numpy.float64]) -> float:
    """Positive where the mouth is below the eyes and the left eye is the left one, negative where mirrored; 0 when in doubt."""
    along, down = points[1] - points[0], points[3:5].mean(0) - points[:2].mean(0)
    cross = along[0] * down[1] - along[1] * down[0]
    return 0.0 if abs(cross) < 0.1 * float(numpy.linalg.norm(along) * numpy.linalg.norm(down)) else cross


def moved(points: ArrayLike, matrix: Matrix) -> NDArray[numpy.float64]:
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


# --- the square around the face --------------------------------------------------------------------------------


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
        return numpy.linalg.inv(self.matrix)

    def cut(self, picture: Picture) -> Picture:
        """The square; beyond the picture's border its edge is repeated."""
        self._check(picture)
        return warp(picture, self.matrix, (self.side, self.side))

    def cut_mask(self, mask: Mask) -> Mask:
        """``mask`` of the picture in the square; False beyond the border."""
        self._check(mask)
        soft = warp(
            mask.astype(numpy.float32), self.matrix, (self.side, self.side), cv2.BORDER_CONSTANT, cv2.INTER_LINEAR
        )
        return soft >= 0.5

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


def uncrop(reference: Picture, crop: Crop, edited: Picture, alpha: Alpha) -> Picture:
    """``reference`` with the square ``edited`` (side, side, 3) put back where ``alpha`` (side, side) is above 0, at full size.

    Every other pixel is the reference's, byte for byte.
    """
    crop._check(reference)
    _check_sizes(edited, alpha)
    corners = crop.back([(0, 0), (crop.side, 0), (0, crop.side), (crop.side, crop.side)])
    left, top = numpy.clip(numpy.floor(corners.min(0)).astype(int), 0, crop.size)
    right, bottom = numpy.clip(numpy.ceil(corners.max(0)).astype(int), 0, crop.size)
    result = reference.copy()
    if right <= left or bottom <= top:
        return result
    matrix, size = _shift(-left, -top) @ crop.inverse, (int(right - left), int(bottom - top))
    enlarged = warp(edited, matrix, size)
    weight = warp(alpha.astype(numpy.float32), matrix, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    here = slice(top, bottom), slice(left, right)
    result[here] = blend(enlarged, reference[here], weight)
    return result


# --- masks -----------------------------------------------------------------------------------------------------


def face_oval(
    size: tuple[int, int], box: Sequence[float] | None = None, points: ArrayLike | None = None, roll: float = 0.0
) -> Mask:
    """The face's oval in a picture of ``size`` (width, height): from five points, or from a detector's box (brows to chin).

    By proportions of an adult's head; a parser's mask (:func:`core_of`) is better where there is one.
    """
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


def core_of(oval: Mask) -> Mask:
    """The largest connected part of a face mask, without holes.

    Raises:
        ValueError: the mask is empty.
    """
    parts = masks.components(oval)
    if not parts:
        raise ValueError("The face mask is empty: choose a picture where the face is visible, or draw the face box.")
    return masks.fill_holes(parts[0])


def width_of(core: Mask) -> int:
    """Columns that the core spans, in pixels."""
    _rows, columns = masks.box(core)
    return columns.stop - columns.start


def ring_of(core: Mask, width: float | None = None, outer: float = RING_OUT, inner: float = RING_IN) -> Mask:
    """The band around the core's border that is harmonised; ``outer`` and ``inner`` in shares of ``width``, by default the core's."""
    width = width_of(core) if width is None else width
    return masks.grow(core, max(1, round(outer * width))) & ~masks.grow(core, -max(1, round(inner * width)))


def feathered(mask: Mask, width: float | None = None, erode: float = ERODE, feather: float = FEATHER) -> Alpha:
    """A soft edge: the mask, smaller by ``erode`` and blurred by ``feather``, both in shares of ``width``; 0 outside the mask's
    reach of four sigmas, and unchanged where the mask touches the picture's border."""
    width = width_of(mask) if width is None else width
    hard = masks.grow(mask, -round(erode * width)).astype(numpy.float32)
    if feather * width < 0.2:
        return hard
    soft = cv2.GaussianBlur(hard, (0, 0), feather * width, borderType=cv2.BORDER_REPLICATE)
    soft[soft < 1 / 512] = 0  # less than half a level: such a pixel could not be told from the reference's
    return numpy.minimum(soft, 1)


# --- pasting ---------------------------------------------------------------------------------------------------


def _check_sizes(*arrays: NDArray) -> None:
    if len({array.shape[:2] for array in arrays}) > 1:
        found = ", ".join(f"{array.shape[1]} x {array.shape[0]}" for array in arrays)
        raise ValueError(f"Pictures and masks of one size are needed and {found} came: cut them from the same crop.")


def blend(picture: Picture, reference: Picture, alpha: Alpha) -> Picture:
    """``alpha`` times the picture plus the rest of the reference; where alpha is 0 the reference, byte for byte."""
    _check_sizes(picture, reference, alpha)
    weight = alpha[..., None].astype(numpy.float32)
    mixed = numpy.clip(numpy.rint(picture * weight + reference * (1 - weight)), 0, 255).astype(numpy.uint8)
    return numpy.where(weight > 0, mixed, reference)


def poisson(picture: Picture, reference: Picture, mask: Mask) -> Picture:
    """The picture's gradients inside ``mask``, the reference's colours on its border (OpenCV's ``seamlessClone``)."""
    _check_sizes(picture, reference, mask)
    if not mask.any():
        return reference.copy()
    # A frame keeps the mask off the border, where the solver would lose its outermost pixels or stop.
    frame = 3
    wide = [cv2.copyMakeBorder(array, *(frame,) * 4, cv2.BORDER_REPLICATE) for array in (picture, reference)]
    marked = numpy.pad(mask, frame).astype(numpy.uint8) * 255
    left, top, width, height = cv2.boundingRect(marked)
    if min(width, height) < 3:  # no interior to solve for: what its border says is what is there
        return reference.copy()
    middle = (left + width // 2, top + height // 2)
    solved = cv2.seamlessClone(*wide, marked.copy(), middle, cv2.NORMAL_CLONE)  # it overwrites the mask it is given
    return numpy.where(mask[..., None], solved[frame:-frame, frame:-frame], reference)


def paste(
    face: Picture,
    reference: Picture,
    core: Mask,
    matrix: Matrix | None = None,
    method: str = "feather",
    width: float | None = None,
    erode: float = ERODE,
    feather: float = FEATHER,
    own: Mask | None = None,
) -> tuple[Picture, Alpha]:
    """``face`` into the reference's ``core``: the composite, and the alpha of what it took from the face.

    Args:
        matrix: takes the face's picture onto the reference (:func:`similarity`); None when it lies there already.
        method: "feather" (a soft edge), "poisson" (the eroded core, solved) or "hard".
        own: the face in its own picture: what lies around it there is not brought along. None takes the whole picture.

    Raises:
        ValueError: another method, sizes that do not fit, or a face that the matrix moves out of the core.
    """
    if method not in ("feather", "poisson", "hard"):
        raise ValueError(f"The paste method is {method!r}: choose from feather, poisson, hard.")
    _check_sizes(reference, core)
    own = numpy.ones(face.shape[:2], bool) if own is None else own
    _check_sizes(face, own)
    if matrix is not None:
        size = reference.shape[1::-1]
        own = warp(own.astype(numpy.float32), matrix, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR) > 0.999
        face = warp(face, matrix, size)
    _check_sizes(reference, face)
    where = core & own
    if not where.any():
        raise ValueError("Nothing of the face falls on the reference's face: check the five points of both.")
    width = width_of(core) if width is None else width
    if method == "feather":
        alpha = feathered(where, width, erode, feather)
        return blend(face, reference, alpha), alpha
    kept = where if method == "hard" else masks.grow(where, -round(erode * width))
    composite = numpy.where(kept[..., None], face, reference) if method == "hard" else poisson(face, reference, kept)
    return composite, kept.astype(numpy.float32)


def stitch(
    reference: Picture, pasted: Picture, result: Picture, soft: Alpha, core: Mask | None = None, share: float = 0.25
) -> Picture:
    """The last net's ``result`` where ``soft`` is above 0, every other pixel the reference's, byte for byte.

    Inside ``core``, without the ring, ``share`` of ``pasted`` is mixed back in, so that the net does not take the person away:
    0 leaves the result, 1 the pasted face.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The core's share is {share:g}: give a number from 0 to 1.")
    if core is not None and share:
        result = blend(pasted, result, share * feathered(core, erode=2 * FEATHER))
    return blend(result, reference, soft)


# --- the seam --------------------------------------------------------------------------------------------------


def without_seam(composite: Picture, face: Picture, reference: Picture, alpha: Alpha, ring: Mask) -> Picture:
    """The composite with its seam taken out of the ``ring``: there the gradients of face and reference are mixed by ``alpha``, as
    their levels are in a paste, so that alpha's own slope draws no edge (gradient-domain blending; Perez et al., SIGGRAPH 2003, eq. 4
    with two sources). Outside the ring it is the composite, byte for byte.

    Solves the discrete Poisson equation with the composite around the ring as its boundary; what touches the picture's border is free there.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    _check_sizes(composite, face, reference, alpha, ring)
    if not ring.any() or ring.all():
        return composite.copy()
    rows, columns = numpy.nonzero(ring)
    count, (height, width) = len(rows), ring.shape
    place = numpy.full(ring.shape, -1)
    place[rows, columns] = numpy.arange(count)
    levels, new, old = (picture.astype(numpy.float64) for picture in (composite, face, reference))
    wanted, ties = numpy.zeros((count, 3)), numpy.zeros(count)
    entries = []
    for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        framed = (rows + down >= 0) & (rows + down < height) & (columns + across >= 0) & (columns + across < width)
        mine = numpy.flatnonzero(framed)
        here, there = (rows[mine], columns[mine]), (rows[mine] + down, columns[mine] + across)
        share = ((alpha[here] + alpha[there]) / 2)[:, None]
        wanted[mine] += share * (new[here] - new[there]) + (1 - share) * (old[here] - old[there])
        ties[mine] += 1
        free = ring[there]
        entries.append((mine[free], place[there][free]))
        wanted[mine[~free]] += levels[there][~free]
    equation = numpy.concatenate([one[0] for one in entries] + [numpy.arange(count)])
    unknown = numpy.concatenate([one[1] for one in entries] + [numpy.arange(count)])
    factors = numpy.concatenate([numpy.full(len(equation) - count, -1.0), ties])
    system = coo_matrix((factors, (equation, unknown)), shape=(count, count)).tocsc()
    result = composite.copy()
    result[rows, columns] = numpy.clip(numpy.rint(splu(system).solve(wanted)), 0, 255).astype(numpy.uint8)
    return result


def smoothly_changed(before: Picture, after: Picture, where: Mask, sigma: float) -> Picture:
    """``before`` with the smooth part (a Gaussian of ``sigma`` pixels) of what ``after`` changes in ``where``: its colours and its light,
    not its grain. The whole of ``after`` where ``sigma`` is 0."""
    if not sigma:
        return after
    change = (after.astype(numpy.float32) - before) * where[..., None]
    change = cv2.GaussianBlur(change, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return numpy.clip(numpy.rint(before + change), 0, 255).astype(numpy.uint8)


# --- light -----------------------------------------------------------------------------------------------------


def smoothed_inside(values: NDArray, mask: Mask, sigma: float) -> NDArray[numpy.float32]:
    """Gaussian mean of ``values`` (H, W) over the mask's pixels only, so that no hair or background bleeds in; 0 far outside."""
    weight = mask.astype(numpy.float32)
    total = cv2.GaussianBlur(values.astype(numpy.float32) * weight, (0, 0), sigma)
    return total / numpy.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-6)


def lab_of(picture: Picture) -> NDArray[numpy.float32]:
    """CIE Lab (D65), L in [0, 100]."""
    return cv2.cvtColor(picture.astype(numpy.float32) / 255, cv2.COLOR_RGB2Lab)


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


# --- control pictures ------------------------------------------------------------------------------------------


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
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def canny_map(picture: Picture, low: int = 100, high: int = 200) -> Picture:
    """Edges, white on black, at the picture's own size. (controlnet_aux's ``CannyDetector`` would enlarge it to 512.)"""
    return _three(cv2.Canny(picture, low, high))


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
