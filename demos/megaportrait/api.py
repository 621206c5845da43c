"""The public endpoint of the MegaPortrait tab: a person and a reference in, the portrait and its measurements out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.endpoint import (
    FILE,
    FILES,
    FLAG,
    MODEL_SET,
    SETTINGS,
    WHOLE,
    Endpoint,
    Parameter,
    parameters_of,
    publish,
)
from demos.core.visitors import new_folder
from demos.megaportrait.files import SLUG
from demos.megaportrait.people import own_pictures, read_person
from pipelines import megaportrait
from pipelines.core import images
from pipelines.core.lane import Result, stream
from pipelines.core.registry import Registry
from pipelines.megaportrait import Request, Settings, results
from pipelines.megaportrait.paste import Picture
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.results import Outcome
from pipelines.megaportrait.settings import modes_of

API = "portrait"
LIMIT_S = 900.0
FINE = tuple(name for name in Settings.fields() if name not in ("mode", "seed", "candidates", "model_set"))
"""Settings that a program may send beside the main ones."""


def who(
    person: Path | None, pictures: list[Path] | None, model_set: str
) -> tuple[Person | None, tuple[tuple[str, Picture], ...], tuple[str, ...]]:
    """A trained person, or pictures of one, and a sentence for each that cannot be read.

    Raises:
        ValueError: neither, both, or what cannot be read.
    """
    if person is not None and pictures:
        raise ValueError(
            "A person and pictures came: send the file of /train_person, or pictures of a person, not both."
        )
    if person is not None:
        return read_person(person, model_set), (), ()
    if not pictures:
        raise ValueError("There is no person: send the file of /train_person as person, or a list of pictures of one.")
    taken, refusals = own_pictures(pictures, model_set)
    if not taken:
        raise ValueError(refusals[0])
    return None, taken, refusals


def answer(outcome: Outcome, session: str) -> tuple[str, dict[str, Any]]:
    """The candidate that is most like the person, and what there is to know."""
    with new_folder(session) as folder:
        path = results.save_result(outcome, folder / f"{SLUG}_{outcome.best.seed}.png")
        return str(path), results.facts(outcome)


def _start(model_set: str) -> Settings:
    """What the endpoint takes for settings that a program leaves out."""
    return dataclasses.replace(Settings.of(model_set), mode="instant", candidates=1)


def endpoint(model_set: str) -> Endpoint:
    """The public endpoint as it is declared."""
    start = _start(model_set)
    parameters = (
        Parameter("person", FILE, optional=True),
        Parameter("pictures", FILES, optional=True),
        Parameter("reference", FILE),
        *parameters_of(start, "mode", "seed", "candidates"),
        Parameter("consent", FLAG, False),
        MODEL_SET,
        Parameter("face", WHOLE, optional=True),
        Parameter("glasses", FLAG, False, later=True),
        Parameter("settings", SETTINGS, {}, later=True),
    )
    description = (
        "A person in a reference portrait, in its pose, light, clothes and place. person: the file that /train_person "
        "answered with, or null; pictures: 1 to 20 pictures of a person where there is no such file (modes without training); reference: "
        f"a PNG, JPEG or WebP with a face; the result is a PNG as large and as transparent as it is, of 8 bits in sRGB. mode: {', '.join(modes_of(model_set))}. consent: everybody in the pictures is of age and agrees; without it nothing is "
        f"made. Answers with the candidate most like the person and all measurements. face: which face of the reference, from the left, from 0; null for the largest. settings: others of the page by their names, such as shading_transfer. {start.limits_in_words(['seed', 'candidates'])}"
    )
    return Endpoint(API, parameters, (("file", "result"), ("json", "measurements")), description)


def build(registry: Registry, model_set: str) -> None:
    """The public endpoint."""
    start = _start(model_set)

    def portrait(
        session: str,
        person: Path | None,
        pictures: list[Path] | None,
        reference: Path,
        consent: bool,
        face: int | None,
        glasses: bool,
        settings: dict[str, Any],
        **asked: Any,
    ) -> Iterator[Any]:
        chosen = dataclasses.replace(start, **asked).changed(settings, FINE).validated()
        somebody, taken, refusals = who(person, pictures, model_set)
        opened = images.open_upload(reference)
        request = Request(
            opened.image,
            somebody,
            taken,
            chosen,
            consent=consent,
            face=face,
            glasses=glasses,
            layered=opened.layered,
            lost=(*refusals, *opened.notes),
        )
        for item in stream(megaportrait.generate, registry, request, limit_s=LIMIT_S):
            if isinstance(item, Result):
                yield answer(item.value, session)
            else:
                yield gr.skip()

    publish(endpoint(model_set), portrait, model_set)
