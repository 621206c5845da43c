"""The mask of the GeoRemover tab: where it comes from, what it looks like, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core.visitors import new_folder
from demos.georemover import painter
from demos.georemover.scenes import SIDE, Picture
from pipelines.core import masks
from pipelines.georemover import composite
from pipelines.models.flux import FillBase

CLICK, BRUSH = "click", "brush"
SNAP_SIDE = 512
"""Long side at which GrabCut looks: it takes seconds on a large picture."""


def asked_mask(picture: Picture | None, mode: str, drawn: object, needed: bool = True) -> NDArray[numpy.bool_]:
    """The mask (H, W) at the original's size, before it is grown.

    Raises:
        ValueError: there is no picture, or nothing is marked although a mask is ``needed``.
    """
    if picture is None:
        raise ValueError("There is no picture yet: roll a scene or bring one of your own.")
    mask = current_mask(picture, mode, drawn)
    if needed and not mask.any():
        clicks = mode == CLICK and picture.solids is not None
        raise ValueError(
            "Nothing is chosen yet: click the object that is to go."
            if clicks
            else "Paint over the object first: the mask is empty."
        )
    return mask


def current_mask(picture: Picture, mode: str, drawn: object) -> NDArray[numpy.bool_]:
    """As :func:`asked_mask`, empty where nothing is marked."""
    if mode == CLICK and picture.solids is not None:
        return solid_mask(picture)
    return painter.mask_in(drawn, picture)


def read_mask(path: str | Path, size: tuple[int, int], white_is_keep: bool = False) -> NDArray[numpy.bool_]:
    """A mask file for a picture of ``size`` (width, height).

    Raises:
        ValueError: it cannot be read, is of another format, or marks nothing.
    """
    try:
        mask = masks.from_picture(path, size, white_is_keep)
    except ValueError as error:
        words = str(error)
        if "mask" in words:
            raise
        raise ValueError(f"The mask cannot be read: {words[0].lower()}{words[1:]}") from error
    if not mask.any():
        raise ValueError(
            "This mask marks nothing: white is what goes, so if its white means keep, say so and bring it again."
        )
    return mask


def solid_mask(picture: Picture) -> NDArray[numpy.bool_]:
    """The chosen solid's pixels; empty without one."""
    if picture.solids is None or picture.index is None:
        return numpy.zeros(picture.image.size[::-1], bool)
    return picture.solids[picture.index]


def shown_scale(picture: Picture) -> float:
    """Pixels of the shown scene for one of the original."""
    return SIDE / max(picture.image.size)


def worked(picture: Picture, mask: NDArray[numpy.bool_], base: FillBase, grow: int, fill: bool) -> NDArray[numpy.bool_]:
    """The mask as the model gets it, at the model's size."""
    small = masks.resized(mask, base.working_size(picture.image.size))
    return masks.grow(masks.fill_holes(small) if fill else small, grow)


def marked(
    picture: Picture, mask: NDArray[numpy.bool_], base: FillBase, grow: int | None = None, fill: bool = True
) -> Image.Image:
    """The picture with the mask as the model gets it in red, at a size that a screen shows well."""
    if not mask.any():
        return picture.small
    return masks.overlay(picture.small, worked(picture, mask, base, base.grow if grow is None else grow, fill))


def mask_line(
    picture: Picture | None,
    mask: NDArray[numpy.bool_] | None,
    base: FillBase,
    grow: int | None = None,
    fill: bool = True,
) -> str:
    """How much of the picture is marked, in words."""
    if picture is None or mask is None:
        return "<p class='quiet mask-line'>No picture yet.</p>"
    if not mask.any():
        return "<p class='quiet mask-line'>Nothing is marked yet.</p>"
    grow = base.grow if grow is None else grow
    share = masks.area(worked(picture, mask, base, grow, fill))
    how = f", after {'growing' if grow > 0 else 'shrinking'} it by {abs(grow)} px" if grow else ""
    return f"<p class='quiet mask-line'>The mask covers {100 * share:.1f} % of the picture{how}.</p>"


def snapped(picture: Picture, mask: NDArray[numpy.bool_]) -> NDArray[numpy.bool_]:
    """The object within the box around ``mask``, found by its colours (GrabCut); no model.

    Raises:
        ValueError: nothing is marked, or no object is found there.
    """
    if not mask.any():
        raise ValueError("Nothing is marked yet: brush roughly over the object first.")
    scale = min(1.0, SNAP_SIDE / max(picture.image.size))
    size = (max(round(picture.image.width * scale), 1), max(round(picture.image.height * scale), 1))
    rows, columns = numpy.nonzero(masks.resized(mask, size))
    room = 2 + round(0.1 * max(numpy.ptp(rows), numpy.ptp(columns)))
    box = (int(columns.min()) - room, int(rows.min()) - room, int(columns.max()) + room + 1, int(rows.max()) + room + 1)
    outlined = masks.around(composite.at_size(picture.image, size), box)
    if not outlined.any():
        raise ValueError("No object stands out there by its colours: brush it by hand.")
    return masks.resized(outlined, picture.image.size)


def mask_file(picture: Picture, mask: NDArray[numpy.bool_], session: str) -> str:
    """The mask without growth, white where something is to go, so that bringing it back gives the same."""
    with new_folder(session) as folder:
        path = folder / f"{picture.name}_mask.png"
        Image.fromarray(mask).convert("L").save(path)
        return str(path)
