"""The result in the original: its size, its texture, and no other pixel touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy
import skimage
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import lane, masks
from pipelines.core.images import Picture
from pipelines.core.masks import Mask
from pipelines.georemover import borrowed, metrics

if TYPE_CHECKING:
    from pipelines.georemover import Settings

CHANGE_SEED, CHANGE_RIM = 8.0, 4.0
"""Detected effect: differences in 8-bit Lab from the first on, with what hangs together with them from the second on."""
UNSURE = 1.0
"""Median difference outside the mask above which both are raised in proportion: there the model does not know the world it sees. Its own
scenes have at most 0.8 (48 validation scenes), four photographs in the small set 1.5 to 4.0."""
ENLARGED = 1.25
"""From this factor on the effect area of a composite keeps the original's texture, instead of the enlarged result's."""
EVEN = 25.0
"""Variance of levels below which :func:`recolouring` takes the picture to be even."""
EVEN_EDGES = 4.0
"""The same of :func:`along_edges`, whose light comes from a network and not from the picture that it is guided by."""
EDGES = 1.25
"""Radius of :func:`along_edges`, in pixels of the result: how far an enlarged change may move to the edge that it belongs to."""


def at_size(image: Image.Image, size: tuple[int, int]) -> Picture:
    """``image`` at (width, height), (h, w, 3)."""
    return numpy.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)).copy()


def telea(rgb: Picture, mask: Mask) -> Picture:
    """The mask filled with colours from around it by OpenCV (Telea): a preview without any model, not GeoRemover."""
    if not mask.any():
        return rgb.copy()
    return numpy.asarray(cv2.inpaint(rgb, mask.astype(numpy.uint8), 5, cv2.INPAINT_TELEA), numpy.uint8)


def pasted(original: Image.Image, filled: Picture, mask: Mask) -> Image.Image:
    """What was ``filled`` at any size, enlarged into the original where its ``mask`` says: without a seam, as such tools do."""
    new = at_size(Image.fromarray(filled), original.size)
    return Image.fromarray(numpy.where(mask[..., None], new, numpy.asarray(original.convert("RGB"))))


def change_areas(result: Picture, through: Picture, mask: Mask) -> tuple[Mask, Mask]:
    """Where a result changed outside the mask: (what hangs together with the object, what does not).

    ``through`` is the input as the model paints it unchanged (:func:`what_changed`). A shadow often comes apart from its object
    by a few pixels, and goes on behind another, so areas within a small gap hang together.
    """
    size = max(mask.shape)
    off = metrics.difference(result, through)
    outside = off[~metrics.near(mask)]
    unsure = max(1.0, float(numpy.median(outside)) / UNSURE) if outside.size else 1.0
    touched = skimage.filters.apply_hysteresis_threshold(off, unsure * CHANGE_RIM, unsure * CHANGE_SEED) & ~mask
    touched = metrics.without_specks(touched, max(2, round(6 * (size / 192) ** 2)))
    together = masks.grow(touched | mask, max(1, round(size / 64)))
    _count, labels = cv2.connectedComponents(together.astype(numpy.uint8), connectivity=8)
    ours = numpy.unique(labels[mask])
    effect = touched & numpy.isin(labels, ours[ours > 0])
    return effect, touched & ~effect


Light = tuple[NDArray[numpy.float32], NDArray[numpy.float32]]
"""Slope and offset, both (h, w, 3), that recolour a picture: new = (1 + slope) * picture + offset, in levels of 255."""


def what_changed(result: Picture, rgb_in: Picture, through: Picture, light: Light | None) -> tuple[Picture, Picture]:
    """The two pictures whose difference is the change, for :func:`change_areas`: the input as it is recoloured and as it was; without
    ``light`` the result, and the input as the autoencoder gives it back."""
    if light is None:
        return result, through
    return recoloured(rgb_in, *light).round().astype(numpy.uint8), rgb_in


def compose(
    original: Image.Image,
    result: Picture,
    rgb_in: Picture,
    mask: Mask,
    settings: Settings,
    through: Picture | None = None,
    light: Light | None = None,
) -> tuple[Image.Image, Mask]:
    """The original at its own resolution with the object and what it caused taken out, and where it may differ.

    Only the mask and the detected effect (:func:`change_areas`) are touched, with a seam of ``settings.feather`` inside them; every
    other pixel is the original's, byte for byte. In the mask the result is pasted. In the effect area the original is recoloured by
    ``light``, so that its texture stays. Without it the result is pasted there with the texture of the original (:func:`with_detail`)
    or, enlarged, the original recoloured as a guided filter would (:func:`recolouring`).

    Args:
        result: at working size. rgb_in: the input at that size. mask: at working size or, better, at the original's.
        through: the input as the autoencoder gives it back; without it, ``rgb_in``.
        light: of :meth:`Stages.light`.
    """
    out = numpy.array(original.convert("RGB"))
    rows, columns = result.shape[:2]
    factor = max(original.width / columns, original.height / rows)
    through = rgb_in if through is None else through
    effect, _far = change_areas(*what_changed(result, rgb_in, through, light), masks.resized(mask, (columns, rows)))
    # A rim around the effect, in which the seam fades: the last of a soft shadow lies below the threshold.
    effect = masks.grow(effect, max(1, settings.feather))
    pasted = masks.resized(mask, original.size)
    changed = pasted | masks.resized(effect, original.size)
    if not changed.any():
        return Image.fromarray(out), changed
    weight = _weight(changed, pasted, settings, factor)
    if factor <= 1:  # the model worked on an enlarged picture
        painted = result.astype(numpy.float32)
        detailed = with_detail(result, rgb_in, through) if light is None else recoloured(rgb_in, *light)
        if factor < 1:
            painted, detailed = (
                numpy.asarray(cv2.resize(part, original.size, interpolation=cv2.INTER_AREA), numpy.float32)
                for part in (painted, detailed)
            )
        new = numpy.where(pasted[..., None], painted, detailed)
        out[changed] = _mixed(out[changed], new[changed], weight[changed])
        return Image.fromarray(out), changed
    radius = round(EDGES * factor) if light is not None else 0  # what a guided filter found has the picture's edges
    if not (changed & ~pasted).any():
        light = None
    elif light is None and factor >= ENLARGED:
        light = recolouring(rgb_in, result.astype(numpy.float32) - through)
    grain = _grain(out, result, through, changed, pasted, factor) if factor >= ENLARGED else None
    _paste_enlarged(out, result, changed, pasted, weight, light, radius, grain)
    return Image.fromarray(out), changed


def _grain(
    picture: Picture, result: Picture, through: Picture, changed: Mask, pasted: Mask, factor: float
) -> NDArray[numpy.float32] | None:
    """What :func:`borrowed.detail` adds to the enlarged ``result`` where it is ``pasted``, of the box of what is ``changed``; None in a
    picture in which that is too large."""
    box = masks.box(changed, 1)
    window = masks.box(pasted, max(part.stop - part.start for part in box))
    if numpy.prod([part.stop - part.start for part in window]) > borrowed.MOST_PIXELS:
        return None
    coarse, filled = (_enlarged(one, changed.shape, window).astype(numpy.float32) for one in (through, result))
    known = ~masks.grow(changed[window], round(2 * factor))
    found = borrowed.detail(picture[window], coarse, filled, pasted[window], known, round(6 * factor))
    return borrowed.part_at(found, box, (-window[0].start, -window[1].start))


def _weight(changed: Mask, pasted: Mask, settings: Settings, factor: float) -> NDArray[numpy.float32]:
    """The share of what is new in each pixel: the seam of a composite that is ``factor`` times as large as the result."""
    box = masks.box(changed, 1)
    weight = numpy.zeros(changed.shape, numpy.float32)
    weight[box] = numpy.clip(masks.inner_distance(changed[box]) / (settings.feather * factor + 1), 0, 1)
    # Inside the mask the seam must lie in what the mask was grown by, or it would bring back the object's edge.
    inside = max(min(settings.feather, settings.grow), 0) * factor + 1
    weight[box] = numpy.maximum(weight[box], numpy.clip(masks.inner_distance(pasted[box]) / inside, 0, 1))
    return weight


def _paste_enlarged(
    out: Picture,
    result: Picture,
    changed: Mask,
    pasted: Mask,
    weight: NDArray[numpy.float32],
    light: Light | None,
    radius: int,
    grain: NDArray[numpy.float32] | None,
) -> None:
    """Put the enlarged ``result`` into ``out`` where ``changed``, with the ``grain`` of the box of that; outside of ``pasted``, ``out``
    itself recoloured by ``light``, whose change is brought to the edges of the picture within ``radius``, if that is not 0."""
    box, shape = masks.box(changed, 1), changed.shape
    # From the mask's border on, where it fades over into recolouring.
    outside = numpy.zeros(shape, numpy.float32)
    if light is not None:
        outside[box] = cv2.distanceTransform((~pasted[box]).astype(numpy.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    factor = max(large / small for large, small in zip(shape, result.shape[:2], strict=True))
    original = out.copy() if radius else out
    for band in _bands(box):
        here, before = changed[band], out[band]
        new = _enlarged(result, shape, band).astype(numpy.float32)
        if grain is not None:
            new += grain[band[0].start - box[0].start : band[0].stop - box[0].start]
        if light is not None:
            around, inside = _with_margin(band, 2 * radius, shape)
            slope, offset = (_enlarged(part, shape, around) for part in light)
            if radius:
                slope, offset = (along_edges(part, original[around], radius) for part in (slope, offset))
            change = _light_change(before, slope[inside], offset[inside])
            change += before
            change -= new
            change *= numpy.clip(outside[band] / factor, 0, 1)[..., None]
            new += change
        numpy.copyto(before, _mixed(before, new, weight[band]), where=here[..., None])


def _light_change(picture: Picture, slope: NDArray[Any], offset: NDArray[Any]) -> NDArray[Any]:
    """What :func:`recoloured` adds to ``picture``, unclipped; overwrites ``slope``."""
    slope *= picture
    slope += offset
    return slope


def _with_margin(
    band: tuple[slice, slice], margin: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """``band`` grown by ``margin`` within ``shape``, and where in that it lies."""
    starts = [max(part.start - margin, 0) for part in band]
    around = [
        slice(start, min(part.stop + margin, size)) for start, part, size in zip(starts, band, shape, strict=True)
    ]
    inside = [slice(part.start - start, part.stop - start) for start, part in zip(starts, band, strict=True)]
    return (around[0], around[1]), (inside[0], inside[1])


def along_edges(change: NDArray[Any], picture: Picture, radius: int) -> NDArray[Any]:
    """An enlarged, so blurred, slope or offset (h, w, 3) of :data:`Light` with the edges of ``picture`` (h, w, 3): the guided filter
    (He et al., PAMI 2013) within ``radius`` pixels, each channel guided by itself. The border of a shadow is an edge of both. The two are
    filtered and not the change that they make, which has the picture's texture and would lose some of it."""
    window = (2 * radius + 1, 2 * radius + 1)
    guide = picture.astype(numpy.float32)
    mean, shift = cv2.blur(guide, window), cv2.blur(change, window)
    variance = cv2.blur(guide * guide, window) - mean * mean
    slope = (cv2.blur(guide * change, window) - mean * shift) / (variance + EVEN_EDGES)
    return cv2.blur(slope, window) * guide + cv2.blur(shift - slope * mean, window)


def with_detail(result: Picture, rgb_in: Picture, through: Picture) -> NDArray[numpy.float32]:
    """``result`` (h, w, 3) with the texture of ``rgb_in`` that the autoencoder lost: ``through`` lacks it too."""
    weight = texture_weight(result, through)
    return result.astype(numpy.float32) + weight[..., None] * (rgb_in.astype(numpy.float32) - through)


def recolouring(
    rgb_in: Picture, change: NDArray[numpy.float32]
) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    """``change`` (h, w, 3) as slope * picture + offset, each (h, w, 3) and smooth: the guided filter (He et al., PAMI 2013), whose
    two factors can be enlarged, because the edges are in the picture. Where the picture is even, the slope is that of a shadow,
    a plain factor, and not 0: then texture that is too fine for the small picture gets its contrast back as well."""
    window = (5, 5)
    guide = rgb_in.astype(numpy.float32)
    mean, shift = cv2.blur(guide, window), cv2.blur(change, window)
    variance = cv2.blur(guide * guide, window) - mean * mean
    factor = numpy.clip(shift / (mean + 8), -0.5, 2)
    slope = (cv2.blur(guide * change, window) - mean * shift + EVEN * factor) / (variance + EVEN)
    offset = shift - slope * mean
    return cv2.blur(slope, window), cv2.blur(offset, window)


def _mixed(before: Picture, new: NDArray[numpy.float32], weight: NDArray[numpy.float32]) -> Picture:
    """``before`` where ``weight`` is 0, ``new`` where it is 1; overwrites ``new``."""
    new -= before
    new *= weight[..., None]
    new += before
    return numpy.rint(new, out=new).clip(0, 255, out=new).astype(numpy.uint8)


def _bands(box: tuple[slice, slice], rows: int = 256) -> Iterator[tuple[slice, slice]]:
    """``box`` in bands, so that a picture of 25 megapixels needs no gigabytes of floats."""
    for start in range(box[0].start, box[0].stop, rows):
        lane.check()
        yield slice(start, min(start + rows, box[0].stop)), box[1]


def _enlarged(small: NDArray[Any], shape: tuple[int, int], band: tuple[slice, slice]) -> NDArray[Any]:
    """The part ``band`` of ``small`` resized to ``shape`` (H, W), cubic, without making the rest."""
    (rows, columns), (height, width) = band, shape
    down, across = small.shape[0] / height, small.shape[1] / width
    # Pixels are areas: the middle of the first lies at half its width.
    place = numpy.array(
        [[across, 0, (columns.start + 0.5) * across - 0.5], [0, down, (rows.start + 0.5) * down - 0.5]], numpy.float64
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(small, place, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def texture_weight(render: Picture, through: Picture) -> NDArray[numpy.float32]:
    """How much of the texture that the autoencoder loses of a picture belongs into stage 2's ``render`` of it, (h, w): all, except along
    edges of what the render changes, where it is the outline of what is to go. ``through``: the picture's round trip."""
    change = cv2.GaussianBlur((render.astype(numpy.float32) - through).mean(-1), (0, 0), 1.0)
    slopes = (cv2.Sobel(change, cv2.CV_32F, *way) / 8 for way in ((1, 0), (0, 1)))
    edge = cv2.dilate(numpy.hypot(*slopes), numpy.ones((3, 3)))  # grey levels a pixel
    return numpy.exp(-(edge**2)).astype(numpy.float32)


def recoloured(
    picture: Picture, slope: NDArray[numpy.float32], offset: NDArray[numpy.float32]
) -> NDArray[numpy.float32]:
    """``picture`` (h, w, 3) with the light that ``slope`` and ``offset`` (h, w, 3) say, in float."""
    return ((1 + slope) * picture + offset).clip(0, 255).astype(numpy.float32)
