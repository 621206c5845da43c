"""Pictures of the GeoRemover tab: rendered scenes that know their objects and their truth, and a visitor's own.

    python -m demos.georemover.scenes

writes the scene that the page opens with, so that opening it renders nothing and imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import zipfile
import zlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import asset_files, images
from pipelines.core.weights import ROOT
from pipelines.georemover import LARGE, Recipe

if TYPE_CHECKING:
    from pipelines.worlds.removal import Pair
    from pipelines.worlds.tabletop import Scene

FIRST = ROOT / "assets" / "example_scenes" / "removal.npz"
FIRST_MASK = FIRST.with_name("removal_mask.png")
START = Recipe(29, scale=LARGE)
"""What :func:`first` shows: two balls on mirroring wood, of which the left one is to go."""
START_KEY = "first"
HELD_OUT = 1_000_000
"""Seeds of scenes below this one were never trained on."""
SIDE = 768
"""Long side of a picture as the page shows it: more is not seen, less is hard to hit."""
NEARBY = (0.01, 0.026)
"""How far beside a solid a click may lie, as shares of the picture's width; the first that hits one counts."""
COVERED, SHARED = 0.1, 0.25
"""A brushed mask is about the solid of which it covers the largest share, at least the first; about none if it covers more than
the second of another one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """What is on the page. A rendered scene has a recipe, its solids (K, H, W) bool and their names."""

    image: Image.Image
    """RGB at its original size; never changed."""
    key: str
    recipe: Recipe | None = None
    solids: NDArray[numpy.bool_] | None = None
    names: tuple[str, ...] = ()
    index: int | None = None
    """The solid that was chosen."""
    name: str = "picture"
    exact: tuple[str, NDArray[numpy.bool_]] | None = None
    """A mask (H, W) that was put on the painter, and how the painter's value shows it, which is coarser."""
    layered: Image.Image | None = None
    """A visitor's picture with its transparency, if it has any."""
    lost: tuple[str, ...] = ()
    """What its file has and no result can give back, as sentences."""
    strokes: Any = None
    """The painter's value when it was last seen, and in ``mode`` how the mask was chosen then: to come back to."""
    mode: str = ""

    @cached_property
    def small(self) -> Image.Image:
        """The picture as the page shows it, its long side :data:`SIDE`."""
        scale = SIDE / max(self.image.size)
        size = (max(round(self.image.width * scale), 1), max(round(self.image.height * scale), 1))
        return self.image.resize(size, Image.Resampling.LANCZOS)

    def chosen(self, index: int | None) -> Picture:
        """The picture with another solid chosen, and nothing painted on it."""
        return dataclasses.replace(self, index=index, exact=None, strokes=None, mode="")

    def at(self, x: int, y: int) -> int | None:
        """The solid at a pixel of the original, or the one nearest to it within a few pixels."""
        if self.solids is None:
            return None
        for reach in (0, *(round(share * self.image.width) for share in NEARBY)):
            window = self.solids[:, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            hits = window.sum((1, 2))
            if hits.any():
                return int(hits.argmax())
        return None

    def meant(self, mask: NDArray[numpy.bool_] | None) -> int | None:
        """The solid that a mask (H, W) is about; None where that is not one of them."""
        if self.solids is None or mask is None:
            return None
        shares = [float((mask & solid).sum() / max(solid.sum(), 1)) for solid in self.solids]
        best = int(numpy.argmax(shares))
        others = [share for index, share in enumerate(shares) if index != best]
        return best if shares[best] >= COVERED and not any(share > SHARED for share in others) else None


def _names(scene: Scene) -> tuple[str, ...]:
    """Words for the solids, told apart where two look the same."""
    plain = [f"{solid.colour} {solid.shape}" for solid in scene.solids]
    order = scene.left_to_right()
    return tuple(
        f"{name}, {_place(order.index(index), len(plain))}" if plain.count(name) > 1 else name
        for index, name in enumerate(plain)
    )


def _place(rank: int, count: int) -> str:
    return ("left", "right")[rank] if count == 2 else ("left", "middle", "right")[rank]


def roll(recipe: Recipe) -> Picture:
    """Render a scene; two seconds. The solid of the recipe is chosen already.

    Raises:
        ValueError: it has no such solid.
    """
    from pipelines.worlds import removal

    scene = recipe.scene()
    solids = removal.masks(scene, recipe.size)
    image = Image.fromarray(removal.pictures(scene, recipe.size))
    return Picture(
        image, secrets.token_hex(8), recipe, solids, _names(scene), recipe.index, name=f"scene_{recipe.seed}"
    )


@lru_cache(maxsize=16)
def truth(recipe: Recipe) -> Pair:
    """The scene with and without the solid of the recipe; four seconds the first time, then kept."""
    return recipe.pair()


def own(opened: images.Opened, name: str) -> Picture:
    """A visitor's picture."""
    return Picture(opened.image, secrets.token_hex(8), name=name, layered=opened.layered, lost=opened.notes)


def first() -> Picture:
    """The scene that the page opens with: ``START``, read from its file, or rendered where that is missing or garbled."""
    return asset_files.reading(FIRST, _first, lambda: dataclasses.replace(roll(START), key=START_KEY))


def _first() -> Picture:
    try:
        with numpy.load(FIRST) as kept:
            names = tuple(json.loads(str(kept["names"])))
            image, solids = Image.fromarray(kept["image"]), kept["solids"]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(FIRST.name) from error
    if solids.shape != (len(names), *image.size[::-1]) or START.index >= len(names):
        raise ValueError(FIRST.name)
    return Picture(image, START_KEY, START, solids, names, START.index, name=f"scene_{START.seed}")


def write_first(path: Path = FIRST) -> Path:
    """Render ``START`` into the file that :func:`first` reads."""
    picture = roll(START)
    assert picture.solids is not None
    path.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(
        path, image=numpy.array(picture.image), solids=picture.solids, names=json.dumps(picture.names)
    )
    Image.fromarray(picture.solids[picture.index]).convert("L").save(path.with_name(FIRST_MASK.name), optimize=True)
    return path


if __name__ == "__main__":
    write_first()
