"""How a picture looks beside what it shows: in one tone or in colours, soft, grainy, posterised; and how a painted part takes that on.

What a model paints looks like what it learnt from. Put into a black-and-white photograph, a faded, soft or grainy one, it stands out.
So the look is measured where nothing was painted (:func:`follow`), and what differs by more than a bar is matched, or said.
Pictures that look as the models' own do stay as they were painted, byte for byte: every bar lies beyond what the rendered worlds have.

Pictures are (H, W, 3) uint8 RGB, masks (H, W) bool; nothing here changes its input or needs a model.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image as Images

from pipelines.core import images, masks
from pipelines.core.images import Picture
from pipelines.core.masks import Mask

Floats = NDArray[numpy.float32]

LUMA = numpy.array([0.299, 0.587, 0.114], numpy.float32)
SIDE = 512
"""Tones are measured at most at this long side."""
TONE_ALL, TONE_MOST = 4.0, 11.0
"""Levels by which colours may differ from one curve by their lightness, root mean square and for 99 of 100 pixels, to be one tone, in a
picture of full contrast."""
GREY = 3.0
"""Levels between the channels, of 99 of 100 pixels, up to which a tone is grey."""
FLAT_BLOCK = 16
"""Side of the blocks in which grain is measured: the flattest quarter of them."""
GRAIN, GRAIN_SHARE = 1.4, 0.75
"""Deviation in levels from which on a picture is grainy, and share of it that a painted part must have."""
SOFT, SOFT_AROUND, SOFTER = 1.3, 1.8, 0.4
"""Blur in pixels from which on a picture is soft, the second where only its surroundings are known, which may be shadows; and by how much
it must be softer than the painted part."""
STEPS = 32
"""With at most so many levels in each channel a picture is posterised."""
BLOCKS = 1.3
"""How much larger the steps at the borders of 8 x 8 blocks are than others, from which on JPEG's blocks are seen."""
NARROW, LOOSE = 110.0, 1.15
"""Span of a picture's levels below which it is faded, and how much wider a face's own must be to be narrowed."""
CAST = 0.85
"""A channel's white, as a share of the strongest channel's, below which a picture may have a cast."""
PALE_SKIN, PALE_REST, SKIN_COLOUR = 0.2, 0.45, 0.5
"""Saturation of skin and of the most coloured twentieth of the rest below which a picture is pale, and that of most people's skin."""
SKIN = numpy.array([1.0, 1 / 1.45, 1 / (1.45 * 1.35)], numpy.float32)
"""Mean colour of skin, light or dark, to a factor; of the rendered people's as of photographs'."""


# --- one tone ----------------------------------------------------------------------------------------------------


def luma(picture: NDArray) -> Floats:
    return picture.astype(numpy.float32) @ LUMA


def tone_of(picture: Picture, where: Mask | None = None) -> Floats | None:
    """The colour (256, 3) for each lightness, if the picture, or its part ``where``, has one tone throughout: grey, sepia, a blueprint's
    blue. None where it has colours."""
    height, width = picture.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    seen = numpy.ones(small.shape[:2], bool) if where is None else ~masks.grow(masks.resized(~where, size), 4)
    grain = grain_of(numpy.asarray(small, numpy.uint8), seen)
    wide = 1.5 if grain is None or grain.deviation < GRAIN else 4.0  # grain is no colour
    colours = cv2.GaussianBlur(small, (0, 0), wide)[seen].astype(numpy.float32)
    if len(colours) < 100:
        return None
    low, high = numpy.percentile(colours @ LUMA, (0.5, 99.5))
    contrast = min(1.0, max(0.5, float(high - low) / 150))
    levels = numpy.arange(256, dtype=numpy.float32)
    if numpy.percentile(colours.max(1) - colours.min(1), 99) <= GREY:
        return numpy.repeat(levels[:, None], 3, 1)
    bins = numpy.rint(colours @ LUMA).clip(0, 255).astype(int)
    count = numpy.bincount(bins, minlength=256)
    known = count > 0
    means = numpy.stack([numpy.bincount(bins, colours[:, c], 256)[known] / count[known] for c in range(3)], 1)
    curve = numpy.stack([numpy.interp(levels, levels[known], means[:, c]) for c in range(3)], 1).astype(numpy.float32)
    off = numpy.linalg.norm(colours - curve[bins], axis=1)
    if numpy.sqrt((off**2).mean()) > TONE_ALL * contrast or numpy.percentile(off, 99) > TONE_MOST * contrast:
        return None
    # Beyond the lightnesses that it shows, a tone goes on towards black and white.
    low, high = int(numpy.flatnonzero(known)[0]), int(numpy.flatnonzero(known)[-1])
    if low:
        curve[:low] = curve[low] * (levels[:low, None] / low)
    if high < 255:
        share = (levels[high + 1 :, None] - high) / (255 - high)
        curve[high + 1 :] = curve[high] + share * (255 - curve[high])
    return curve


def toned(picture: Picture, curve: Floats) -> Picture:
    """``picture`` in one tone; its lightness stays."""
    levels = luma(picture)
    channels = [numpy.interp(levels, numpy.arange(256), curve[:, c]) for c in range(3)]
    return numpy.rint(numpy.stack(channels, -1)).clip(0, 255).astype(numpy.uint8)


# --- softness ----------------------------------------------------------------------------------------------------


def blur_of(picture: Picture, where: Mask) -> float | None:
    """How wide the strongest edges in ``where`` are, as the sigma of a Gaussian in pixels; None where there are none.

    The gradient of an edge that is ``s`` wide falls with 1 / sqrt(s^2 + t^2) when it is blurred by t: two blurs tell s.
    """
    grey = luma(picture)
    fine, coarse = (_slope(cv2.GaussianBlur(grey, (0, 0), sigma)) for sigma in (0.7, 2.0))
    inner = where & ~masks.grow(~where, 3) if not where.all() else where
    if inner.sum() < 200:
        return None
    bar = max(4.0, float(numpy.percentile(coarse[inner], 98)))
    edges = inner & (coarse >= bar)
    if edges.sum() < 20:
        return None
    ratio = float(numpy.percentile(fine[edges] / coarse[edges], 85))  # of soft shadows and sharp edges, the edges
    if ratio <= 1.02:
        return 6.0
    return float(numpy.sqrt(max(0.0, (4.0 - ratio**2 * 0.49) / (ratio**2 - 1))))


def _slope(grey: NDArray) -> Floats:
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
    return numpy.asarray(cv2.magnitude(across, down), numpy.float32)


# --- grain -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grain:
    """Grain as it is in a picture's flattest places."""

    blocks: Floats
    """(n, side, side, 3), without their slopes; the side is even."""
    deviation: float
    """Of lightness, in levels."""

    def field(self, shape: tuple[int, int], seed: int) -> Floats:
        """Grain (H, W, 3) of any size, pieced together from the blocks with soft borders; the seed decides which come where."""
        random, side = numpy.random.default_rng(seed), self.blocks.shape[1]
        half = side // 2
        rows, columns = (-(-length // half) + 1 for length in shape)
        wave = numpy.sin(numpy.pi * (numpy.arange(side) + 0.5) / side).astype(numpy.float32)
        window = (wave[:, None] * wave)[..., None]  # the squares of those that overlap sum to 1: so does their variance
        out = numpy.zeros(((rows + 1) * half, (columns + 1) * half, 3), numpy.float32)
        chosen = random.integers(0, len(self.blocks), (rows, columns))
        flips = random.integers(0, 2, (rows, columns, 2)) * 2 - 1
        for row in range(rows):
            for column in range(columns):
                down, across = flips[row, column]
                piece = self.blocks[chosen[row, column]][::down, ::across]
                out[row * half : row * half + side, column * half : column * half + side] += window * piece
        return out[half : half + shape[0], half : half + shape[1]]


def grain_of(picture: Picture, where: Mask, most: int = 4000) -> Grain | None:
    """The grain in the flattest places of ``where``; None where there are too few."""
    side = FLAT_BLOCK if where.sum() > 40 * FLAT_BLOCK**2 else FLAT_BLOCK // 2
    blocks = [_block(picture, row, column, side) for row, column in _whole_blocks(where, side, most)]
    if len(blocks) < 4:
        return None
    found = numpy.stack(blocks)
    means = found.mean((1, 2, 3))
    found = found[(means > 12) & (means < 243)]
    if len(found) < 4:
        return None
    found = found - _planes(found)
    spread = (found @ LUMA).std((1, 2))
    order = numpy.argsort(spread)[: max(4, len(spread) // 4)]
    return Grain(found[order], float(numpy.median(spread[order])))


def _planes(blocks: Floats) -> Floats:
    """The plane of least squares through each block (n, side, side, 3): a slope of light is no grain."""
    side = blocks.shape[1]
    ramp = numpy.arange(side, dtype=numpy.float32) - (side - 1) / 2
    scale = float((ramp**2).sum()) * side
    down = numpy.einsum("nijc,i->nc", blocks, ramp)[:, None, None] / scale
    across = numpy.einsum("nijc,j->nc", blocks, ramp)[:, None, None] / scale
    return blocks.mean((1, 2), keepdims=True) + down * ramp[:, None, None] + across * ramp[None, :, None]


def _whole_blocks(where: Mask, side: int, most: int) -> list[tuple[int, int]]:
    """Corners of blocks that lie in ``where``, evenly chosen."""
    height, width = (length // side * side for length in where.shape)
    full = where[:height, :width].reshape(height // side, side, width // side, side).all((1, 3))
    places = numpy.argwhere(full) * side
    return [tuple(place) for place in places[:: max(1, len(places) // most)].tolist()]


def _block(picture: Picture, row: int, column: int, side: int) -> Floats:
    return picture[row : row + side, column : column + side].astype(numpy.float32)


# --- few levels, blocks, range, cast -----------------------------------------------------------------------------


def levels_of(picture: Picture, where: Mask) -> list[NDArray[numpy.uint8]] | None:
    """The levels of each channel, if there are only a few (:data:`STEPS`) over a wide range; None where there are many."""
    pixels = picture[where]
    if len(pixels) < 2000:
        return None
    found = [numpy.flatnonzero(numpy.bincount(pixels[:, c], minlength=256) > len(pixels) // 10_000) for c in range(3)]
    if not all(2 <= len(one) <= STEPS for one in found) or max(int(numpy.ptp(one)) for one in found) < 60:
        return None
    return [one.astype(numpy.uint8) for one in found]


def stepped(picture: Picture, levels: list[NDArray[numpy.uint8]]) -> Picture:
    """Each channel at the nearest of its ``levels``."""
    tables = [known[numpy.abs(numpy.arange(256)[:, None] - known.astype(int)).argmin(1)] for known in levels]
    return numpy.stack([table[picture[..., c]] for c, table in enumerate(tables)], -1)


def blockiness(picture: Picture) -> float:
    """Mean step at every eighth row and column against that at the next largest of the other seven; about 1 without JPEG's blocks."""
    grey, ratios = luma(picture), []
    for axis in (0, 1):
        step = numpy.abs(numpy.diff(grey, axis=axis)).mean(1 - axis)
        phases = [float(step[phase::8].mean()) for phase in range(8)] if len(step) >= 32 else [1.0] * 8
        ratios.append(phases[7] / max(*phases[:7], 0.05))
    return min(ratios)


def span_of(picture: Picture) -> tuple[float, float]:
    """Its black and its white: lightness that one pixel of 200 is below, and above."""
    low, high = numpy.percentile(luma(picture[:: max(1, len(picture) // SIDE)]), (0.5, 99.5))
    return float(low), float(high)


def narrowed(picture: Picture, like: Picture) -> Picture | None:
    """``picture`` with the black and white of ``like``, where that is faded (or dark) and this is not; else None."""
    (low, high), (own_low, own_high) = span_of(like), span_of(picture)
    if high - low >= NARROW or own_high - own_low < LOOSE * (high - low):
        return None
    made = low + (picture.astype(numpy.float32) - own_low) * (high - low) / (own_high - own_low)
    return numpy.rint(made).clip(0, 255).astype(numpy.uint8)


def cast_of(picture: Picture, rest: Mask, skin: NDArray[numpy.floating]) -> Floats | None:
    """Gains (3,) of a strong colour cast, None where there is none.

    ``skin`` (3,), the mean colour of a face in it, must be one that people do not have, and the brightest of the ``rest`` must lack the
    same channel. Skin of all people differs in lightness far more than in hue, so the gains are what it takes to the mean one.
    """
    pixels = picture[rest]
    if not len(pixels) or _is_skin(skin):
        return None
    gains = numpy.maximum(skin, 1).astype(numpy.float32) / SKIN
    gains /= gains.max()
    white = numpy.percentile(pixels[:: max(1, len(pixels) // SIDE**2)], 99.5, axis=0)
    weakest = int(gains.argmin())
    return gains if gains.min() > 0.1 and white[weakest] < CAST * white.max() else None


def paleness_of(picture: Picture, rest: Mask, skin: NDArray[numpy.floating]) -> float | None:
    """How much colour a pale picture has left, in [0.2, 1); None where it is not pale. Both ``skin`` (3,), the mean colour of a face, and
    the ``rest`` must lack it: people may be pale, and rooms grey."""
    pixels = picture[rest]
    if not len(pixels) or float(skin.max()) < 8:
        return None
    pixels = pixels[:: max(1, len(pixels) // SIDE**2)].astype(numpy.float32)
    seen = (pixels.max(1) - pixels.min(1)) / numpy.maximum(pixels.max(1), 32)
    own = float((skin.max() - skin.min()) / skin.max())
    if own > PALE_SKIN or numpy.percentile(seen, 95) > PALE_REST:
        return None
    return max(0.2, own / SKIN_COLOUR)


def paled(picture: Picture, share: float) -> Picture:
    """``picture`` with that ``share`` of its colour; its lightness stays."""
    grey = luma(picture)[..., None]
    return numpy.rint(grey + share * (picture - grey)).clip(0, 255).astype(numpy.uint8)


def _is_skin(colour: NDArray[numpy.floating]) -> bool:
    red, green, blue = (float(part) for part in numpy.maximum(colour, 1))
    return 1.08 <= red / green <= 1.95 and 0.95 <= green / blue <= 1.75


# --- a painted part ----------------------------------------------------------------------------------------------


def follow(
    result: Picture,
    original: Picture,
    changed: Mask,
    seed: int,
    part: str,
    whole: str,
    own: bool,
    bare: Mask | None = None,
) -> tuple[Picture, list[str]]:
    """``result`` with its painted part in the look of ``original``, and a sentence for each thing that was matched or could not be.

    Only pixels in ``changed`` differ from ``result``. Equal arguments give equal bytes.

    Args:
        part, whole: how sentences call the two ("portrait", "reference").
        bare: where nothing of the original's texture was kept; None: in all of ``changed``.
        own: what ``original`` shows in ``changed`` belongs to its look, too: a face that is replaced by another one. Else only the rest.
    """
    if not changed.any():
        return result, []
    rest, notes = ~changed, []
    window = _window(changed)
    new, old, here = result[window].copy(), original[window], changed[window]
    around = rest[window]
    curve = tone_of(original, None if own else rest)
    if curve is not None:
        name = "black and white" if (curve[:, 0] == curve[:, 2]).all() else "of one tone"
        new = numpy.where(here[..., None], toned(new, curve), new)
        notes.append(f"The {whole} is {name}: the {part} was made so.")
    new = _softened(new, old, here, around, own, part, whole, notes)
    grain = grain_of(original, rest)
    if grain is not None and grain.deviation >= GRAIN and not _textured(original, rest, grain):
        plain = here if bare is None else here & bare[window]
        there = grain_of(new, plain)
        share = 0.0 if there is None else there.deviation / grain.deviation
        if share < GRAIN_SHARE:
            amount = numpy.sqrt(1 - share**2) * _ramp(plain, 4)[..., None]
            field = grain.field(here.shape, seed)
            if curve is not None:
                field = numpy.repeat((field @ LUMA)[..., None], 3, -1)
            grainy = numpy.rint(new + amount * field).clip(0, 255).astype(numpy.uint8)
            new = numpy.where(plain[..., None], grainy, new)
            notes.append(f"The {whole} is grainy: the {part} got grain of the same kind.")
    levels = levels_of(original, rest)
    if levels is not None:
        new = numpy.where(here[..., None], stepped(new, levels), new)
        notes.append(f"The {whole} has few levels of each colour: the {part} was given the same ones.")
    elif blockiness(original[:2048, :2048]) > BLOCKS:
        new = numpy.where(here[..., None], _compressed(new, window, blockiness(original[:2048, :2048])), new)
        notes.append(f"The {whole} shows the blocks of strong JPEG compression: the {part} was compressed as strongly.")
    out = result.copy()
    out[window] = new
    return out, notes


def _softened(
    new: Picture, old: Picture, here: Mask, around: Mask, own: bool, part: str, whole: str, notes: list[str]
) -> Picture:
    """``new`` as soft as ``old`` is around it; where nothing there has an edge, as it was in its place."""
    wanted = blur_of(old, around)
    if wanted is None and own:
        wanted = blur_of(old, here)
    made = blur_of(new, here)
    if wanted is None or made is None or wanted < (SOFT if own else SOFT_AROUND) or made > wanted - SOFTER:
        return new
    sigma = float(numpy.sqrt(wanted**2 - made**2))
    soft = cv2.GaussianBlur(new, (0, 0), sigma)
    share = _ramp(here, 2 * sigma)[..., None]
    notes.append(f"The {whole} is soft (its edges are {2.4 * wanted:.0f} pixels wide): the {part} was made as soft.")
    return numpy.rint(new + share * (soft.astype(numpy.float32) - new)).clip(0, 255).astype(numpy.uint8)


def _compressed(new: Picture, window: tuple[slice, slice], wanted: float) -> Picture:
    """``new`` as a JPEG of about the blockiness that is ``wanted``, its blocks where the whole picture's are."""
    shift = [part.start % 8 for part in window]
    wide = numpy.pad(new, ((shift[0], 0), (shift[1], 0), (0, 0)), "edge")
    made = []
    for quality in QUALITIES:
        data = io.BytesIO()
        Images.fromarray(wide).save(data, "JPEG", quality=quality)
        made.append(numpy.asarray(images.opened(data.getvalue()).convert("RGB")))
    best = min(made, key=lambda one: abs(blockiness(one) - wanted))
    return best[shift[0] :, shift[1] :]


QUALITIES = (8, 12, 16, 20, 25, 30, 40, 50)


def _textured(picture: Picture, rest: Mask, grain: Grain) -> bool:
    """Whether what looks like grain is a texture: then its neighbours hang together, at several pixels."""
    blocks = grain.blocks @ LUMA
    shift = min(4, blocks.shape[1] // 2)
    together = (
        float((blocks[:, shift:] * blocks[:, :-shift]).mean() + (blocks[:, :, shift:] * blocks[:, :, :-shift]).mean())
        / 2
    )
    return together > 0.3 * float((blocks**2).mean())


def _ramp(mask: Mask, width: float) -> Floats:
    """0 outside, 1 from ``width`` pixels inside on."""
    return numpy.clip(masks.inner_distance(mask) / max(width, 1), 0, 1) * mask


def _window(changed: Mask) -> tuple[slice, slice]:
    """The box of what changed, with as much around it."""
    rows, columns = masks.box(changed)
    return masks.box(changed, max(32, (rows.stop - rows.start) // 2, (columns.stop - columns.start) // 2))
