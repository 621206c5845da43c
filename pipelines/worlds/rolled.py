"""Scenes of our renderer by their numbers, for whoever wants a picture of our world. Module level is free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.core.images import to_pil

if TYPE_CHECKING:
    from PIL.Image import Image


def rolled(number: int, size: int = 256) -> Image:
    """The scene that belongs to ``number``, square."""
    from pipelines.worlds import tabletop

    return to_pil(tabletop.render([tabletop.sample(number)], size).image)[0]
