"""The public endpoint of the MegaPortrait tab: a person and a reference in, the portrait and its measurements out."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio.data_classes import FileData, ListFiles

from demos import GPU, on_gpu, workspace
from demos.portrait_files import SLUG
from demos.portrait_people import own_pictures, read_person
from demos.uploads import sent
from pipelines import images, limits, megaportrait
from pipelines.lane import Result, stream
from pipelines.megaportrait import MODES, Outcome, Request, Settings
from pipelines.portrait_paste import Picture
from pipelines.portrait_person import Person
from pipelines.registry import Registry

API = "portrait"
INPUTS = ("person", "pictures", "reference", "mode", "seed", "candidates", "consent", "model_set")
LIMIT_S = 900.0


def who(
    person: Any, pictures: Any, model_set: str
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
        return read_person(sent(person, "person"), model_set), (), ()
    if not isinstance(pictures, list) or not pictures:
        raise ValueError("There is no person: send the file of /train_person as person, or a list of pictures of one.")
    taken, refusals = own_pictures([sent(one, "picture") for one in pictures], model_set)
    if not taken:
        raise ValueError(refusals[0])
    return None, taken, refusals


def answer(outcome: Outcome, session: str) -> tuple[str, dict[str, Any]]:
    """The candidate that is most like the person, and what there is to know."""
    folder = workspace(session) / secrets.token_hex(6)
    folder.mkdir()
    path = megaportrait.save_result(outcome, folder / f"{SLUG}_{outcome.best.seed}.png")
    return str(path), megaportrait.facts(outcome)


def build(registry: Registry, model_set: str) -> None:
    """The public endpoint. Its inputs arrive as they were sent, so that our own checks answer."""
    own = model_set

    def portrait(
        session, person=None, pictures=None, reference=None, mode="instant", seed=0, candidates=1, consent=False, model_set=own
    ) -> Iterator[Any]:  # fmt: skip
        settings = dataclasses.replace(Settings.of(model_set), mode=mode, seed=seed, candidates=candidates).validated()
        if model_set != own:  # another would be fetched for whoever asks
            raise ValueError(
                f"This server runs the model set {own}, not {model_set}: ask for that, or start it with --model-set {model_set}."
            )
        if not isinstance(consent, bool):
            raise ValueError(f"The consent is {limits.described(consent)} but must be true or false.")
        somebody, taken, refusals = who(person, pictures, own)
        opened = images.open_upload(sent(reference, "reference"))
        asked = Request(
            opened.image,
            somebody,
            taken,
            settings,
            consent=consent,
            layered=opened.layered,
            lost=(*refusals, *opened.notes),
        )
        for item in stream(megaportrait.portrait, registry, asked, limit_s=LIMIT_S):
            if isinstance(item, Result):
                yield answer(item.value, session)
            else:
                yield gr.skip()

    file = FileData.model_json_schema()
    kinds = [
        file, ListFiles.model_json_schema(), file, {"type": "string"}, {"type": "integer"}, {"type": "integer"},
        {"type": "boolean"}, {"type": "string"},
    ]  # fmt: skip
    values: list[Any] = [None, None, None, "instant", 0, 1, False, own]
    trigger = gr.Button(visible=False)
    trigger.click(
        on_gpu(portrait),
        [Api(value, kind, name) for value, kind, name in zip(values, kinds, INPUTS, strict=True)],
        [gr.File(visible=False, label="result"), gr.JSON(visible=False, label="measurements")],
        api_name=API,
        api_description="A person in a reference portrait, in its pose, light, clothes and place. person: the file that /train_person "
        "answered with, or null; pictures: 1 to 20 pictures of a person where there is no such file (modes instant and preview); reference: "
        f"a PNG, JPEG or WebP with a face; the result is a PNG as large and as transparent as it is, of 8 bits in sRGB. mode: {', '.join(MODES)}. consent: everybody in the pictures is of age and agrees; without it nothing is "
        f"made. Answers with the candidate most like the person and all measurements. {_limits(own)}",
        show_progress="hidden",
        **GPU,
    )


def _limits(model_set: str) -> str:
    (low, high), (least, most) = Settings.SEED, Settings.CANDIDATES
    return f"Limits: seed {low} to {high}, candidates {least} to {most}, model set {model_set}."
