"""Rendered people and references, from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy

from pipelines.core import images
from pipelines.core.geometry import Picture
from pipelines.worlds import portrait
from pipelines.worlds.portrait import Portrait


@dataclass(frozen=True)
class Recipe:
    """A rendered person and a rendered reference of somebody else, from seeds; the truth comes along."""

    person: int
    reference: int
    title: str = ""

    PICTURES: ClassVar[int] = 5
    SIZE: ClassVar[tuple[int, int]] = (192, 160)
    """Height and width of the reference. The person's pictures are 160 x 160."""

    def pictures(self, count: int = PICTURES) -> list[tuple[str, Picture]]:
        """(name, picture) pairs of the person, in different shots."""
        someone = portrait.sample_identity(self.person)
        taken = [portrait.Portrait(someone, portrait.sample_shot(100 * self.person + shot)) for shot in range(count)]
        return [(f"picture {number}", rendered(one, (160, 160))) for number, one in enumerate(taken, 1)]

    def host(self) -> Portrait:
        """Who is in the reference, and how it was taken."""
        return portrait.sample(self.reference)

    def picture(self) -> Picture:
        """The reference."""
        return rendered(self.host(), self.SIZE)

    def truth(self) -> Portrait:
        """The person in the reference's shot: what a perfect result shows."""
        return portrait.relit(
            portrait.Portrait(portrait.sample_identity(self.person), self.host().shot), self.host().shot
        )


def rendered(someone: Portrait, size: tuple[int, int]) -> Picture:
    """A rendered portrait of (height, width)."""
    return numpy.asarray(images.to_pil(portrait.render([someone], size).image)[0])


EXAMPLES: tuple[Recipe, ...] = (
    Recipe(11, 203, "From one light to another"),
    Recipe(24, 207, "No beard where there was one"),
    Recipe(35, 212, "Another skin tone, another head"),
    Recipe(46, 221, "Glasses come along"),
    Recipe(57, 230, "A head that is turned away"),
    Recipe(68, 238, "Two of the same hair colour"),
)
"""People and references that no model was trained on."""
