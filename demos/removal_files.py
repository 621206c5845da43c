"""Files of a removal: PNGs with the settings inside, and everything in one zip."""

from __future__ import annotations

import dataclasses
import json
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from demos import workspace
from demos.removal_scenes import Picture
from pipelines import georemover, images
from pipelines.georemover import Outcome, Recipe, Settings

SLUG = "georemover"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What a run has that was asked for the geometry only; stands in the place of an ``Outcome``."""

    depth_before: NDArray[numpy.float32]
    depth_after: NDArray[numpy.float32] | None
    mask: NDArray[numpy.bool_]
    notes: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """A run and its files; per variant a result, a composite and a strip, and a zip of all. Of a :class:`Part` there are none."""

    outcome: Outcome | Part
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

    def pair(self, which: str) -> tuple[str, str]:
        """Before and after, for the slider."""
        if which == "composite":
            return self.original, self.composites[self.index]
        return self.ground, self.results[self.index]

    def variants(self, which: str) -> list[tuple[str, str]]:
        paths = self.composites if which == "composite" else self.results
        seed = self.outcome.settings.seed
        return [(path, f"seed {seed + number}") for number, path in enumerate(paths)]

    def files(self) -> tuple[str, str, str]:
        return self.results[self.index], self.composites[self.index], self.everything


def write(outcome: Outcome, picture: Picture, session: str, clean: Image.Image | None = None) -> Shown:
    """The files of a run."""
    folder = workspace(session) / secrets.token_hex(6)
    folder.mkdir()
    record = settings_record(outcome.settings, picture)
    models = [str(model["key"]) for model in outcome.models]
    written: dict[str, list[str]] = {"result": [], "composite": [], "strip": []}
    for index, result in enumerate(outcome.results):
        seed = outcome.settings.seed + index
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
    picture.image.save(original, compress_level=1)
    everything = georemover.save_zip(outcome, folder / f"{SLUG}_{picture.name}_{outcome.settings.seed}.zip")
    if picture.recipe is not None:
        with zipfile.ZipFile(everything, "a") as archive:
            archive.writestr("scene.json", json.dumps(record["scene"], indent=1))
    # What is as large as the original is on the disk now; the history would hold it in memory two dozen times.
    height, width = outcome.image.shape[:2]
    small = [made if made.size == (width, height) else made.resize((width, height)) for made in outcome.composites]
    outcome = dataclasses.replace(outcome, changed=[], composites=small)
    return Shown(
        outcome, picture.key, clean, str(ground), str(original), *map(tuple, written.values()), str(everything)
    )


def settings_record(settings: Settings, picture: Picture) -> dict[str, Any]:
    """The settings, and of a rendered scene its recipe: everything that makes the picture again."""
    record = dataclasses.asdict(settings)
    if picture.recipe is not None:
        record["scene"] = {**dataclasses.asdict(picture.recipe), "index": picture.index or 0}
    return record


def settings_inside(path: str | Path) -> tuple[Settings, Recipe | None]:
    """The checked settings of a PNG that this tab wrote, and its scene's recipe."""
    found = images.read_settings(path, tab=SLUG)["settings"]
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in found.items() if name in names}).validated()
    scene = found.get("scene")
    if scene is None:
        return settings, None
    known = {field.name for field in dataclasses.fields(Recipe)}
    if not isinstance(scene, dict) or not isinstance(scene.get("seed"), int) or not isinstance(scene.get("index"), int):
        raise ValueError("The scene in this PNG cannot be read: drop one that this page wrote, unedited.")
    return settings, Recipe(**{name: value for name, value in scene.items() if name in known})
