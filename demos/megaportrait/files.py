"""Files of a portrait: PNGs marked as AI-generated with the settings inside, the manifest, and everything in one zip."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from demos.core.visitors import new_folder
from demos.core.widgets import Made
from demos.megaportrait.people import HELD_OUT, START, Chosen, Reference, person_file
from demos.megaportrait.shown import SIDE
from pipelines.core import images
from pipelines.megaportrait import Settings
from pipelines.megaportrait.paste import Picture
from pipelines.megaportrait.recipes import Recipe
from pipelines.megaportrait.results import TAB, Outcome, facts, save_zip

SLUG = "megaportrait"
Box = tuple[float, float, float, float]
"""(left, top, width, height) in pixels of the reference."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """A run and its files."""

    outcome: Outcome
    """With small pictures (:func:`seen_of`)."""
    chosen: Chosen | None
    reference: Reference
    face: int | None = None
    box: Box | None = None
    before: str = ""
    """The reference."""
    results: tuple[str, ...] = ()
    """A PNG per candidate, the most alike first."""
    everything: str = ""
    manifest: str = ""
    index: int = 0
    """The candidate that is looked at."""

    @property
    def keys(self) -> tuple[str, str]:
        """Of the person and of the reference."""
        return "" if self.chosen is None else self.chosen.key, self.reference.key

    def files(self) -> tuple[str, str, str]:
        return self.results[self.index], self.everything, self.manifest

    def captions(self) -> list[tuple[str, str]]:
        """(file, similarity and seed) of the candidates."""
        told = []
        for path, one in zip(self.results, self.outcome.candidates, strict=True):
            like = "" if one.identity is None else f"similarity {one.identity:.2f} · "
            told.append((path, f"{like}seed {one.seed}"))
        return told


def write(
    outcome: Outcome,
    chosen: Chosen | None,
    reference: Reference,
    session: str,
    face: int | None = None,
    box: Box | None = None,
) -> Shown:
    """The files of a run."""
    with new_folder(session) as folder:
        recipe = recipe_of(chosen, reference)
        models = [model["key"] for model in outcome.models]
        where = {"face": face, "box": None if box is None else [round(number, 1) for number in box]}
        results = []
        for one in outcome.candidates:
            record = {
                **dataclasses.asdict(outcome.settings),
                "seed": one.seed,
                "candidates": 1,
                "recipe": recipe,
                **where,
            }
            path = folder / f"{SLUG}_{one.seed}.png"
            results.append(str(images.save_png(one.result, path, record, tab=TAB, models=models)))
        before = folder / "reference.png"
        (outcome.layered or Image.fromarray(outcome.analysis.picture)).save(before, compress_level=1)
        more = {"recipe": recipe, **where}
        stem = f"{SLUG}_{outcome.settings.seed}"
        manifest = folder / f"{stem}_manifest.json"
        manifest.write_text(json.dumps({**facts(outcome), **more}, indent=1))
        everything = save_zip(outcome, folder / f"{stem}.zip", more)
        return Shown(
            seen_of(outcome), chosen, reference, face, box, str(before), tuple(results), str(everything), str(manifest)
        )


def seen_of(outcome: Outcome) -> Outcome:
    """The run as the page shows it: its pictures lie in the files, and the history would hold them in memory two dozen times."""
    none = numpy.zeros((0, 0), bool)
    analysis = dataclasses.replace(
        outcome.analysis,
        picture=_small(outcome.analysis.picture),
        square=_small(outcome.analysis.square),
        core=none,
        face_core=none,
        ring=none,
    )
    candidates = [
        dataclasses.replace(
            one,
            result=Image.fromarray(_small(numpy.asarray(images.over_white(one.result)))),
            changed=none,
            core=none,
            stages={name: _small(picture) for name, picture in one.stages.items()},
        )
        for one in outcome.candidates
    ]
    truth = None if outcome.truth is None else _small(outcome.truth)
    return dataclasses.replace(
        outcome, analysis=analysis, candidates=candidates, truth=truth, controls={}, layered=None
    )


def _small(picture: Picture) -> Picture:
    """At most :data:`SIDE` pixels long, which is what the page shows."""
    shown = Image.fromarray(picture)
    shown.thumbnail((SIDE, SIDE))
    return numpy.asarray(shown)


def recipe_of(chosen: Chosen | None, reference: Reference) -> dict[str, int] | None:
    """Seeds of a rendered person and reference; None where one of them is a visitor's own: nothing of these is noted."""
    if chosen is None or chosen.identity is None or reference.seed is None:
        return None
    return {"person": chosen.identity, "reference": reference.seed}


def call_names(chosen: Chosen) -> list[str]:
    """What the files are called by which a call of the endpoint says who it is."""
    return ["person.zip"] if chosen.trained else [f"picture_{n}.png" for n in range(1, len(chosen.pictures) + 1)]


def call_files(chosen: Chosen | None, reference: Reference | None, session: str) -> str:
    """A zip of the files that a call of the endpoint sends.

    Raises:
        ValueError: nobody is chosen.
    """
    if chosen is None or reference is None:
        raise ValueError("There are no files yet: choose a person and a reference.")
    with new_folder(session) as folder:
        path = folder / "call.zip"
        made = {"reference.png": reference.layered or Image.fromarray(reference.picture)}
        names = call_names(chosen)
        with zipfile.ZipFile(path, "w") as archive:
            if chosen.person is not None and chosen.trained:
                archive.write(person_file(chosen.person, folder), names[0])
            else:
                made |= {name: Image.fromarray(one) for name, (_, one) in zip(names, chosen.pictures, strict=True)}
            for name, image in made.items():
                with archive.open(name, "w") as file:
                    image.save(file, format="PNG")
        return str(path)


LINKED = ("person", "reference", "face", "box")
"""What a link says beside the settings: seeds of a rendered person and reference, and which of its faces."""


def made_of(shown: Shown) -> Made:
    """What a link holds of a run."""
    settings, recipe = shown.outcome.settings, recipe_of(shown.chosen, shown.reference)
    if recipe is None:
        return Made(settings, {}, "Your own pictures are not in the link.")
    more = (
        {}
        if is_start(Recipe(recipe["person"], recipe["reference"]))
        else {name: str(seed) for name, seed in recipe.items()}
    )
    if shown.face is not None:
        more["face"] = str(shown.face)
    if shown.box is not None:
        more["box"] = ",".join(f"{side:g}" for side in shown.box)
    return Made(settings, more, "What was learnt of the person is not in the link." if settings.wears else "")


def recipe_linked(more: Mapping[str, str]) -> tuple[Recipe, int | None, Box | None]:
    """Who a link names, else who is there when the page opens, and which face of the reference.

    Raises:
        ValueError: there is nobody of that name.
    """
    seeds = {name: _number_in(more.get(name, str(getattr(START, name)))) for name in LINKED[:2]}
    box = [_number_in(side) for side in more["box"].split(",")] if "box" in more else None
    face = _number_in(more["face"]) if "face" in more else None
    return (_recipe_inside(seeds, "this link"), *_face_inside(face, box, "this link"))


def is_start(recipe: Recipe) -> bool:
    """Whether it is who is there when the page opens."""
    return (recipe.person, recipe.reference) == (START.person, START.reference)


def _number_in(text: str) -> float | None:
    """A number that is written in a link."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Inside:
    """What a PNG of this tab holds."""

    settings: Settings
    recipe: Recipe | None
    face: int | None = None
    box: Box | None = None

    def next_step(self) -> str:
        """What is to be done to make the picture again."""
        lacking = [] if self.recipe is not None else ["the person’s pictures and the reference"]
        trained = self.settings.mode in ("trained", "single") and not self.settings.no_identity
        if trained:
            lacking.append("what was learnt of the person")
        if not lacking:
            return "Press Make the portrait to make it again."
        again = "bring both again" if len(lacking) > 1 or self.recipe is None else "train the person again"
        return f"The file does not hold {' or '.join(lacking)}: {again}, then press Make the portrait."


def settings_inside(path: str | Path) -> Inside:
    """The checked settings of a PNG that this tab wrote, and its recipe.

    Raises:
        ValueError: it is no such PNG, or what it claims is out of bounds.
    """
    found = images.read_settings(path, tab=TAB)["settings"]
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in found.items() if name in names}).validated()
    recipe = None if found.get("recipe") is None else _recipe_inside(found["recipe"])
    if recipe is None:  # a face or a box says nothing of another reference
        return Inside(settings, None)
    return Inside(settings, recipe, *_face_inside(found.get("face"), found.get("box")))


def _face_inside(face: Any, box: Any, where: str = "this PNG") -> tuple[int | None, Box | None]:
    """Which face of the reference, or the box around it that was drawn."""
    whole = face is None or (_whole(face) and 0 <= face < 32)
    drawn = box is None or (isinstance(box, list) and len(box) == 4 and all(_number(side) for side in box))
    if not whole or not drawn:
        raise ValueError(f"The face in {where} cannot be read: take one that this page wrote, unedited.")
    if box is None:
        return face, None
    left, top, width, height = map(float, box)
    return face, (left, top, width, height)


def _recipe_inside(recipe: object, where: str = "this PNG") -> Recipe:
    known = recipe if isinstance(recipe, dict) else {}
    seeds: list[Any] = [known.get(name) for name in ("person", "reference")]
    if not all(_whole(seed) and 0 <= seed < HELD_OUT for seed in seeds):
        raise ValueError(f"The person in {where} cannot be read: take one that this page wrote, unedited.")
    return Recipe(*seeds)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e5 < value < 1e5
