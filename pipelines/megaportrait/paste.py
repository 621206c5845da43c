"""Putting one face where another was: geometry, light and seam, without any model.

The steps around the three nets of a MegaPortrait-style swap: cut a square around the reference's face (:func:`crop_around`), make
the control pictures of it, move light from one face to the other (:func:`shading_transfer`), paste (:func:`paste`), keep what the
last net may not touch (:func:`stitch`) and put the square back (:func:`uncrop`). The paper (arXiv 2411.04357) gives no settings:
lengths are shares of the face's width and ours.

Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool, alphas (H, W) float32 in [0, 1]. A point is (x, y) in pixels, (0.5, 0.5) being
the middle of the first pixel; a box is (left, top, width, height). Nothing here changes its input.
"""

from __future__ import annotations

import cv2
import numpy
import scipy

from pipelines.core import masks
from pipelines.core.geometry import Alpha, Crop, Mask, Matrix, Picture, _check_sizes, _shift, warp

RING_OUT, RING_IN = 0.18, 0.08
ERODE, FEATHER = 0.04, 0.05


# --- the square around the face --------------------------------------------------------------------------------


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
    solved = cv2.seamlessClone(
        wide[0], wide[1], marked.copy(), middle, cv2.NORMAL_CLONE
    )  # it overwrites the mask it is given
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
    system = scipy.sparse.coo_matrix((factors, (equation, unknown)), shape=(count, count)).tocsc()
    result = composite.copy()
    levels = scipy.sparse.linalg.splu(system).solve(wanted)
    result[rows, columns] = numpy.clip(numpy.rint(levels), 0, 255).astype(numpy.uint8)
    return result


def smoothly_changed(before: Picture, after: Picture, where: Mask, sigma: float) -> Picture:
    """``before`` with the smooth part (a Gaussian of ``sigma`` pixels) of what ``after`` changes in ``where``: its colours and its light,
    not its grain. The whole of ``after`` where ``sigma`` is 0."""
    if not sigma:
        return after
    change = (after.astype(numpy.float32) - before) * where[..., None]
    smooth = cv2.GaussianBlur(change, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return numpy.clip(numpy.rint(before + smooth), 0, 255).astype(numpy.uint8)
