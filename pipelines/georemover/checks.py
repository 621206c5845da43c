"""What is said of a run: sentences for the page and the endpoint, and why a run cannot be."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from pipelines.core import masks, troubles
from pipelines.core.depth import Depth
from pipelines.core.images import Picture
from pipelines.core.masks import Mask
from pipelines.core.registry import too_little_ram
from pipelines.georemover.depth import OFF_PALETTE
from pipelines.models import flux

if TYPE_CHECKING:
    from pipelines.models.flux import FillBase

DEPTH_CHANGED = 0.03
"""Mean change of depth in a part of the mask below which there is nothing to render (the official sample has .154 and .099)."""
UNSTABLE = 0.06
"""Mean difference of stage 2's depth panels from the maps it was given, in inverse depth."""
MOST_MASK = 0.6
FAR = 0.02
"""Share of the picture that may change without touching the object before a sentence says so."""
FLAT = 0.01
MUCH_ENLARGED = 3.0
"""From this factor on a sentence says that what was painted is enlarged."""


def warn_large_mask(mask: Mask) -> str | None:
    share = masks.area(mask)
    if share <= MOST_MASK:
        return None
    return f"The mask covers {share:.0%} of the image, most of it: the fill will be invented."


def warn_partial_mask(depth_before: Depth, mask: Mask, rgb: Picture) -> str | None:
    if not masks.touches_partly(depth_before, mask, rgb):
        return None
    return "The mask may miss part of the object: grow it, or the object may be completed instead of removed."


def warn_flat_depth(raw: NDArray[numpy.floating]) -> str | None:
    """``raw``: inverse depth before it was normalised."""
    spread, most = float(raw.max() - raw.min()), float(numpy.abs(raw).max())
    if math.isfinite(spread) and spread > max(FLAT * most, 1e-6):
        return None
    return "No usable depth in this image: everything seems equally far away, so there is no geometry to change."


def warn_unchanged_depth(depth_before: Depth, depth_after: Depth, mask: Mask) -> str | None:
    parts = masks.components(mask, max(4, round(mask.sum() / 50)))
    unchanged = sum(float(numpy.abs(depth_after - depth_before)[part].mean()) < DEPTH_CHANGED for part in parts)
    if not unchanged:
        return None
    where = "here" if len(parts) == 1 else f"in {unchanged} of {len(parts)} masked areas"
    return (
        f"The depth did not change {where}, so the render has nothing to remove (glass, mirror, flat print, blur): "
        "try depth assist."
    )


def warn_off_palette(off_palette: float | None) -> str | None:
    if off_palette is None or off_palette <= OFF_PALETTE:
        return None
    return (
        f"The depth result does not look like a depth map (its colours are {off_palette:.0f} of 441 from the palette): "
        "wrong LoRA or grey depth?"
    )


def warn_unstable(panels: float) -> str | None:
    """``panels``: see :func:`panels_error`."""
    if panels <= UNSTABLE:
        return None
    return (
        "Unstable render, because its depth panels differ from the maps it was given: try another seed or more steps."
    )


def warn_far_changes(far: Mask) -> str | None:
    share = masks.area(far)
    if share <= FAR:
        return None
    return f"Areas far from the object changed ({share:.0%} of the picture): use the composite, which leaves them as they were."


def warn_enlarged(original: tuple[int, int], working: tuple[int, int]) -> str | None:
    """The composite is as large as the original; what the model paints is not."""
    factor = max(side / made for side, made in zip(original, working, strict=True))
    if factor < MUCH_ENLARGED:
        return None
    return (
        f"The filled part was painted at {working[0]} x {working[1]} pixels and enlarged {factor:.0f} times for this picture: it is softer "
        "than the rest, which stays as it was."
    )


def warn_photograph(base: FillBase, known_world: bool) -> str | None:
    if base.name != "mini" or known_world:
        return None
    return "The small models know only our rendered scenes, so other pictures come out badly: choose a rendered example, or the full set."


def out_of_memory(stage: str, base: FillBase, preset: str, error: MemoryError) -> MemoryError:
    """Names the stage and proposes the next smaller preset, or a smaller picture where there is none; ``error`` itself where neither
    would help, as where the budget for RAM is too small: the presets differ in what they take of the GPU."""
    names = list(base.presets)
    can_quantise = importlib.util.find_spec("bitsandbytes") is not None
    later = [
        name
        for name in names[names.index(preset or names[0]) + 1 :]
        if can_quantise or base.by_preset[name][0].dtype not in flux.QUANTISED
    ]
    smaller = "make the picture smaller" + (" or choose the mini set" if base.name != "mini" else "")
    memory = troubles.ran_out(error)
    if not memory and (not later or too_little_ram(error)):
        return error
    proposal = f"choose the preset {later[0]}" if later else smaller
    return MemoryError(f"There is not enough {memory or 'memory'} for {stage}: {proposal}.")


class NoWeights(ValueError):
    """The weights cannot be had; one sentence says why."""


TRANSPARENT = (
    "The picture has transparent parts: the models saw them over white, the composite has them as they were, and inside the mask its "
    "transparency follows what is around it."
)
