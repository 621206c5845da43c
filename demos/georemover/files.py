"""Files of a removal: PNGs with the settings inside, and everything in one zip."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core.visitors import new_folder
from demos.core.widgets import Made
from demos.georemover.scenes import HELD_OUT, START, Picture
from pipelines.core import images
from pipelines.georemover import LARGE, Geometry, Outcome, Recipe, Settings, export
from pipelines.worlds.grammar import FLOORS

SLUG = "georemover"
BESIDE = 384
"""Long side of what is shown beside the baselines."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """A run and its files; per variant a result, a composite and a strip, and a zip of all. Of a ``Geometry`` there are none."""

    outcome: Outcome | Geometry
    key: str
    """Of its :class:`Picture`."""
    clean: Image.Image | None = None
    """The truth, where it is known."""
    ground: str = ""
    """The picture at the size of the results."""
    original: str = ""
    results: tuple[str, ...] = ()
    composites: tuple[str, ...] = ()
    strips: tuple[str, ...] = ()
    everything: str = ""
    index: int = 0
    """The variant that is looked at."""

    @property
    def finished(self) -> Outcome:
        """The run, where it went through to its results."""
        assert not isinstance(self.outcome, Geometry)
        return self.outcome

    def pair(self, which: str) -> tuple[str, str]:
        """Before and after, for the slider."""
        if which == "composite":
            return self.original, self.composites[self.index]
        return self.ground, self.results[self.index]

    def variants(self, which: str) -> list[tuple[str, str]]:
        paths = self.composites if which == "composite" else self.results
        return [(path, f"seed {seed}") for path, seed in zip(paths, self.finished.seeds, strict=True)]

    def files(self) -> tuple[str, str, str]:
        return self.results[self.index], self.composites[self.index], self.everything


def write(
    outcome: Outcome, picture: Picture, session: str, clean: Image.Image | None = None, drawn: bool = False
) -> Shown:
    """The files of a run; ``drawn``: its mask is no solid of the scene."""
    with new_folder(session) as folder:
        record = settings_record(outcome, picture, drawn)
        models = [str(model["key"]) for model in outcome.models]
        written: dict[str, list[str]] = {"result": [], "composite": [], "strip": []}
        for index, result in enumerate(outcome.results):
            seed = outcome.seeds[index]
            stem, kept = f"{SLUG}_{picture.name}_{seed}", {**record, "seed": seed}
            pictures = {
                "result": Image.fromarray(numpy.asarray(result)),
                "composite": outcome.composites[index],
                "strip": Image.fromarray(numpy.asarray(outcome.strips[index])),
            }
            for kind, image in pictures.items():
                path = images.save_png(
                    image, folder / f"{stem}_{kind}.png", {**kept, "kind": kind}, tab=SLUG, models=models
                )
                written[kind].append(str(path))
        ground, original = folder / "before.png", folder / "original.png"
        Image.fromarray(numpy.asarray(outcome.image)).save(ground)
        (picture.layered or picture.image).save(original, compress_level=1)
        more = {"mask": record["mask"], "compare": record["compare"]}
        everything = export.save_zip(outcome, folder / f"{SLUG}_{picture.name}_{outcome.settings.seed}.zip", more)
        if picture.recipe is not None:
            with zipfile.ZipFile(everything, "a") as archive:
                archive.writestr("scene.json", json.dumps(record["scene"], indent=1))
        # What is as large as the original is on the disk now; the history would hold it in memory two dozen times.
        outcome = dataclasses.replace(outcome, changed=[], composites=[_small(made) for made in outcome.composites])
        return Shown(
            outcome,
            picture.key,
            None if clean is None else _small(clean),
            str(ground),
            str(original),
            tuple(written["result"]),
            tuple(written["composite"]),
            tuple(written["strip"]),
            str(everything),
        )


def _small(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.thumbnail((BESIDE, BESIDE))
    return image


def settings_record(outcome: Outcome, picture: Picture, drawn: bool) -> dict[str, Any]:
    """The settings, of a rendered scene its recipe, and whether the mask or the depth were a visitor's own: these are in no PNG."""
    record: dict[str, Any] = {
        **dataclasses.asdict(outcome.settings),
        "depth": outcome.depth_from,
        "mask": "drawn" if drawn else "solid",
        "original_size": list(outcome.original_size),
        "compare": outcome.fill_only is not None,
        "adapters": {model["key"]: model["sha256"] for model in outcome.models if "sha256" in model},
    }
    if picture.recipe is not None:
        record["scene"] = {**dataclasses.asdict(picture.recipe), "index": picture.index or 0}
    return record


def call_files(picture: Picture, mask: NDArray[numpy.bool_], session: str) -> str:
    """A zip of the two files that a call of the endpoint sends: ``mask`` (H, W) is white where something is to go."""
    with new_folder(session) as folder:
        made = {"picture.png": picture.layered or picture.image, "mask.png": Image.fromarray(mask).convert("L")}
        path = folder / "call.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, image in made.items():
                with archive.open(name, "w") as file:
                    image.save(file, format="PNG")
        return str(path)


LINKED = {
    "scene": "seed",
    "objects": "count",
    "floor": "floor",
    "light": "light",
    "mirror": "mirror",
    "object": "index",
    "size": "scale",
}
"""What a link calls the parts of a scene's recipe."""


def made_of(outcome: Outcome, picture: Picture, drawn: bool) -> Made:
    """What a link holds of a run: its settings, and of a rendered scene the recipe; ``drawn``: its mask is no solid of the scene."""
    more, lacking = {}, "Your own picture and its mask are not in the link."
    if picture.recipe is not None:
        recipe = dataclasses.replace(picture.recipe, index=picture.index or 0)
        lacking = "The mask that you brushed is not in the link." if drawn else ""
        if dataclasses.replace(recipe, title=START.title) != START:
            held = {name: getattr(recipe, part) for name, part in LINKED.items()}
            held["size"] = None if recipe.scale == START.scale else recipe.scale
            more = {name: str(value).lower() for name, value in held.items() if value is not None}
    if outcome.depth_from != "stage 1":
        lacking = f"{lacking} The depth after is not in the link.".strip()
    compared = outcome.fill_only is not None
    if compared != (outcome.settings.model_set == "mini"):
        more["compare"] = str(compared).lower()
    return Made(outcome.settings, more, lacking)


def recipe_linked(more: Mapping[str, str]) -> Recipe:
    """The scene that a link names, else the one that the page opens with.

    Raises:
        ValueError: there is no such scene.
    """
    if "scene" not in more:
        return START
    words: dict[str, Any] = {"true": True, "false": False}
    told = {part: more[name] for name, part in LINKED.items() if name in more}
    record = {part: int(text) if text.isdecimal() else words.get(text, text) for part, text in told.items()}
    return _recipe_inside({"index": 0, "scale": START.scale, **record}, "this link")


@dataclasses.dataclass(frozen=True)
class Inside:
    """What a PNG of this tab holds."""

    settings: Settings
    recipe: Recipe | None
    drawn: bool
    """Its mask is no solid of the scene."""
    depth: str
    """As ``Outcome.depth_from``."""

    def next_step(self) -> str:
        """What is to be done to make the picture again."""
        lacking = ["the picture and its mask"] if self.recipe is None else ["the brushed mask"] if self.drawn else []
        lacking += ["the depth after that was painted or brought"] if self.depth == "given" else []
        press = {
            "given": "Render from my depth",
            "unchanged": "1 Estimate depth and What if the depth had not changed?",
        }.get(self.depth, "Remove")
        if not lacking:
            return f"Press {press} to make it again."
        return f"The file does not hold {' and '.join(lacking)}: bring that again, then press {press}."


def settings_inside(path: str | Path) -> Inside:
    """The checked settings of a PNG that this tab wrote, and its scene's recipe.

    Raises:
        ValueError: it is no such PNG, or what it claims is out of bounds.
    """
    record = images.read_settings(path, tab=SLUG)["settings"]
    settings = Settings.read(record, "this PNG")
    recipe = None if record.get("scene") is None else _recipe_inside(record["scene"])
    depth = str(record.get("depth", "stage 1"))
    return Inside(settings, recipe, record.get("mask", "solid") == "drawn", depth)


def _recipe_inside(scene: object, where: str = "this PNG") -> Recipe:
    """The recipe, but for its title, as the page itself may ask for it."""
    wanted: dict[str, Callable[[Any], bool]] = {
        "seed": lambda v: _whole(v) and 0 <= v < HELD_OUT,
        "count": lambda v: v is None or (_whole(v) and 1 <= v <= 3),
        "floor": lambda v: v is None or v in FLOORS,
        "light": lambda v: v is None or v in ("soft", "hard"),
        "mirror": lambda v: v is None or isinstance(v, bool),
        "index": lambda v: _whole(v) and v >= 0,
        "scale": lambda v: v is None or v in (1, LARGE),
    }
    known: dict[str, Any] = scene if isinstance(scene, dict) else {}
    if not all(fits(known.get(name)) for name, fits in wanted.items()):
        raise ValueError(f"The scene in {where} cannot be read: take one that this page wrote, unedited.")
    made: dict[str, Any] = {name: known.get(name) for name in wanted}
    return Recipe(**(made | {"scale": made["scale"] or 1}))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
