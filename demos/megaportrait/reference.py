"""Step 2 of the MegaPortrait tab: the reference portrait, which of its faces is replaced, and what is known of it.

A rolled or brought reference is looked at by itself (:func:`look`), beside whatever runs: on the lane, but in a slot of its own, so that
a visitor may choose another reference while a person is being trained.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import gradio as gr
import numpy
from PIL import Image

from demos.core.figures import data_uri, safe
from demos.core.handlers import GPU, LIGHT, TALKS, explain, on_gpu, stop_run
from demos.core.hold import held, hold
from demos.core.page import drop_zone
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.widgets import progress_line
from demos.megaportrait import people, step1
from demos.megaportrait.files import SLUG
from demos.megaportrait.people import HELD_OUT, Reference
from demos.megaportrait.shown import notes_html
from pipelines import megaportrait
from pipelines.core import images
from pipelines.core.lane import IDLE, Progress, Result, live
from pipelines.core.registry import Registry
from pipelines.megaportrait import Request, Settings, parts, person, tools
from pipelines.megaportrait.place import DRAWN, Analysis

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.megaportrait.paste import Picture

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels of the reference."""
SIDE = 640
"""Long side of the reference as the page shows it, so that a click hits and a number can be read."""
LEAST_SIDE = 64
LEAST = 16
"""A drawn box is at least so wide and high, in pixels of the reference."""
GOLD, PETROL, WHITE = (226, 172, 60), (20, 122, 142), (255, 255, 255)
TWO_CLICKS = "Click two opposite corners of a box around the face, from brows to chin, in the picture."
NOT_YET = "The face is looked for by itself when another reference comes, or now:"
SECOND_CLICK = "Now click the opposite corner."


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a look found, and a drawn box's first corner."""

    key: str = ""
    boxes: tuple[Box, ...] = ()
    """From left to right."""
    chosen: int = 0
    corner: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Step2:
    """The widgets of the reference, and what they do among themselves."""

    reference: gr.State
    """A :class:`Reference`, or None."""
    key: gr.State
    """Of the reference; its change says that another one was put on the page."""
    face: gr.State
    """Number of the face from the left, from 0; None: the largest."""
    box: gr.State
    """A :data:`Box` that was drawn, or None."""
    seen: gr.State
    ask: gr.State
    """A change of it starts a look."""
    shown: gr.Image
    number: gr.Number
    consent: gr.Checkbox
    faces: gr.Radio
    words: gr.HTML
    draw: gr.Checkbox
    drop: gr.File

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What :meth:`load` updates."""
        states = [self.reference, self.key, self.face, self.box, self.seen, self.ask]
        return [*states, self.shown, self.number, self.consent, self.faces, self.words, self.draw]

    @property
    def look_outputs(self) -> list[gr.blocks.Block]:
        """What a look updates."""
        return [self.shown, self.faces, self.draw, self.words, self.seen]

    def given(
        self, reference: Reference | None, chosen: people.Chosen | None, agreed: tuple[Any, Any]
    ) -> dict[str, bool]:
        """``rendered`` and ``consent`` of a request; ``agreed``: the ticks of the person's and of the reference's pictures."""
        rendered = (chosen is None or chosen.rendered, reference is None or reference.rendered)
        ticked = [bool(tick) or own for tick, own in zip(agreed, rendered, strict=True)]
        return {"rendered": all(rendered), "consent": all(ticked)}

    def load(self, new: Reference, at: int | None = None, drawn: Box | None = None) -> dict[Any, Any]:
        """The updates that put a reference on the page, and have it looked at."""
        return {
            self.reference: new,
            self.key: new.key,
            self.face: at,
            self.box: drawn,
            self.seen: Seen(),
            self.ask: secrets.token_hex(4),
            self.shown: overlaid(new.picture, box=drawn),
            self.number: gr.skip() if new.seed is None else new.seed,
            self.consent: gr.Checkbox(value=False, visible=not new.rendered),
            self.faces: gr.Radio(choices=[], value=None, visible=False),
            self.words: "",
            self.draw: drawn is not None,
        }

    def bind(self, again: gr.Button, dice: gr.Button, search: gr.Button) -> None:
        """Tie the widgets to what they do; looks are :func:`bind`'s."""
        there = hold(SLUG, dice.click)
        rolled = dice.click(lambda: secrets.randbelow(HELD_OUT), None, self.number, **LIGHT)
        there(rolled.then(self.roll_reference, self.number, self.outputs, **TALKS))
        held(SLUG, again.click, self.roll_reference, self.number, self.outputs, **TALKS)
        dropped = held(SLUG, self.drop.upload, self.bring_reference, self.drop, [*self.outputs, self.drop], **TALKS)
        clear_on_refusal(self.drop, dropped)
        # Not LIGHT: what changes outside the queue does not start the look that waits for it.
        held(SLUG, self.faces.input, self.look_again, self.faces, [self.face, self.ask], **TALKS)
        search.click(self.look_again, self.face, [self.face, self.ask], **TALKS)
        put = [self.seen, self.box, self.shown, self.words, self.face, self.ask]
        boxed = [self.draw, self.reference, self.seen, self.box]
        held(SLUG, self.draw.input, self.drawing, boxed, put, **TALKS)
        held(SLUG, self.shown.select, self.click, [self.reference, self.seen, self.draw], put, **TALKS)

    def roll_reference(self, seed: object) -> dict[Any, Any]:
        """Render one."""
        with errors_shown("No reference was rolled"):
            return self.load(people.roll_reference(seed))

    def bring_reference(self, path: str | None) -> Any:
        """Take a visitor's own."""
        if path is None:
            return gr.skip()
        with errors_shown("This reference was not taken"):
            try:
                return {**self.load(brought(path)), self.drop: None}
            finally:
                step1.forget_uploads([path])

    def look_again(self, at: int | None = None) -> dict[Any, Any]:
        """Look for the face anew, or for the one numbered ``at``."""
        return {self.face: at, self.ask: secrets.token_hex(4)}

    def drawing(self, on: bool, now: Reference | None, known: Seen, drawn: Box | None) -> dict[Any, Any]:
        """The switch of the box: on, the next two clicks are its corners; off, the face is looked for again."""
        if now is None or on:
            return {self.words: f"<p class='remark'>{TWO_CLICKS}</p>" if on else ""}
        again = self.look_again() if drawn is not None or not known.boxes else {}
        known = dataclasses.replace(known, corner=None)
        return {self.box: None, self.seen: known, self.shown: overlaid(now.picture, known), self.words: "", **again}

    def click(self, now: Reference | None, known: Seen, on: bool, event: gr.SelectData) -> Any:
        """A click on the picture: a corner of the box that is drawn, or a face."""
        if now is None:
            return gr.skip()
        scale = scale_of(now.picture)
        x, y = (float(place) / scale for place in event.index)
        if not on:
            return self._picked(known, x, y)
        if known.corner is None:
            first = dataclasses.replace(known, boxes=(), corner=(x, y))
            words = f"<p class='remark'>{SECOND_CLICK}</p>"
            return {self.seen: first, self.box: None, self.shown: overlaid(now.picture, first), self.words: words}
        left, top = min(x, known.corner[0]), min(y, known.corner[1])
        made = (left, top, abs(x - known.corner[0]), abs(y - known.corner[1]))
        if min(made[2:]) < LEAST:
            gr.Info(f"The box is too small: {TWO_CLICKS[:1].lower()}{TWO_CLICKS[1:]}", title="No box yet")
            words = f"<p class='remark'>{TWO_CLICKS}</p>"
            return {self.seen: Seen(), self.shown: overlaid(now.picture), self.words: words}
        shown = overlaid(now.picture, box=made)
        return {self.seen: Seen(), self.box: made, self.shown: shown, self.words: "", **self.look_again()}

    def _picked(self, known: Seen, x: float, y: float) -> Any:
        """A click on one of several faces chooses it."""
        for number, (left, top, width, height) in enumerate(known.boxes):
            if len(known.boxes) > 1 and left <= x < left + width and top <= y < top + height:
                return self.look_again(number)
        return gr.skip()


# ------------------------------------------------------------------------------------------ pictures


def scale_of(picture: Picture) -> float:
    """How much larger the page shows a picture than it is."""
    return SIDE / max(picture.shape[:2])


def overlaid(picture: Picture, seen: Seen | None = None, box: Box | None = None) -> Image.Image:
    """The reference at the page's size, with its faces boxed, and numbered where there are several."""
    scale = scale_of(picture)
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = numpy.asarray(cv2.resize(picture, size, interpolation=way), numpy.uint8)
    seen = seen or Seen()
    boxes = seen.boxes or ((box,) if box is not None else ())
    for number, (left, top, width, height) in enumerate(boxes):
        chosen = number == seen.chosen
        one, other = ((round(scale * x), round(scale * y)) for x, y in ((left, top), (left + width, top + height)))
        cv2.rectangle(shown, one, other, WHITE, 5 if chosen else 3, cv2.LINE_AA)
        cv2.rectangle(shown, one, other, GOLD if chosen else PETROL, 3 if chosen else 1, cv2.LINE_AA)
        if len(boxes) > 1:
            _number(shown, one, str(number + 1), GOLD if chosen else PETROL)
    if seen.corner is not None:
        at = tuple(round(scale * place) for place in seen.corner)
        cv2.drawMarker(shown, at, WHITE, cv2.MARKER_CROSS, 26, 5)
        cv2.drawMarker(shown, at, PETROL, cv2.MARKER_CROSS, 24, 2)
    return Image.fromarray(shown)


def _number(shown: Picture, corner: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    """A number on a disc at a box's corner, kept inside the picture."""
    x, y = (min(max(place, 17), side - 18) for place, side in zip(corner, shown.shape[1::-1], strict=True))
    cv2.circle(shown, (x, y), 17, WHITE, -1, cv2.LINE_AA)
    cv2.circle(shown, (x, y), 15, colour, -1, cv2.LINE_AA)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 2)
    ink = (29, 27, 23) if colour == GOLD else WHITE
    cv2.putText(shown, text, (x - width // 2, y + height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.7, ink, 2, cv2.LINE_AA)


def masked(analysis: Analysis) -> Image.Image:
    """The square with what is replaced in petrol and the ring that is melted in gold."""
    square = analysis.square.astype(numpy.float32)
    for mask, colour in ((analysis.core & ~analysis.ring, PETROL), (analysis.ring, GOLD)):
        square[mask] = 0.5 * square[mask] + 0.5 * numpy.array(colour, numpy.float32)
    shown = Image.fromarray(square.round().astype(numpy.uint8))
    shown.thumbnail((256, 256))
    return shown


def look_html(analysis: Analysis) -> str:
    """The mask preview, what is read from the reference, and what is to be said about it."""
    several, face = len(analysis.faces), analysis.face
    which = f"Face {analysis.chosen + 1} of {several}" if several > 1 else "One face"
    told = f"<b>{which}</b>, {face.box[2]:.0f} px wide; found by {safe(face.backend)}."
    if face.backend == DRAWN:
        told = f"<b>Your box</b>, {face.box[2]:.0f} px wide."
    read = "".join(
        f"<div><dt>{safe(name.replace('_', ' '))}</dt><dd>{safe(value)}</dd></div>"
        for name, value in analysis.attributes.items()
    )
    words = f"<p class='quiet'>What the small model reads from it:</p><dl>{read}</dl>" if read else ""
    alt = "The square around the face: what is replaced is green, the ring around it golden"
    return (
        f"<div class='megaportrait-look'><figure><img src='{data_uri(masked(analysis), 'WEBP')}' alt='{alt}'>"
        "<figcaption><span><i class='core'></i>replaced</span> <span><i class='ring'></i>melted</span></figcaption></figure>"
        f"<div><p>{told}</p>{words}</div></div>{notes_html(analysis.notes)}"
    )


# ------------------------------------------------------------------------------------------ the look


def look(job: Job, registry: Registry, request: Request) -> Analysis:
    """``megaportrait.analyse``, and what the verifier reads; called on the lane's thread."""
    found = megaportrait.analyse(job, registry, request)
    readers = parts.reader_specs(request.settings.model_set)
    if not readers or found.face.backend != tools.PARSED:  # of a photograph it would read anything
        return found
    read = registry.run(readers, lambda verifier: person.read_attributes(verifier, [found.square])[0])
    return dataclasses.replace(found, attributes=read)


def beside(handler: Callable[..., Iterator[Any]], slot: str) -> Callable[..., Iterator[Any]]:
    """``on_gpu`` in a slot of its own: it neither forbids this visitor's run nor is forbidden by it, and a newer one ends it."""
    guarded: Any = on_gpu(handler)

    def seen(request: gr.Request, *inputs: object) -> Iterator[Any]:
        own: Any = SimpleNamespace(session_hash=f"{request.session_hash}/{slot}")
        stop_run(own)
        yield from guarded(own, *inputs)

    shown: Any = seen
    shown.__signature__, shown.__annotations__ = guarded.__signature__, guarded.__annotations__
    shown.__name__, shown.needs_gpu = handler.__name__, True
    return seen


# ------------------------------------------------------------------------------------------ the widgets


def brought(path: str) -> Reference:
    """A visitor's own reference.

    Raises:
        ValueError: no picture that can be used, in one sentence.
    """
    opened = images.open_upload(path)
    picture = numpy.asarray(opened.image)
    if min(picture.shape[:2]) < LEAST_SIDE:
        raise ValueError(
            f"The picture is {picture.shape[1]} x {picture.shape[0]} pixels and at least {LEAST_SIDE} each way are needed: use a larger one."
        )
    return Reference(secrets.token_hex(8), Path(path).stem[:60], picture, None, opened.layered, opened.notes)


def build(model_set: str) -> Step2:
    """The widgets; :func:`bind` ties the looks to them."""
    start = people.first_reference()
    reference, key, face, box, seen, ask = (gr.State(value) for value in (start, start.key, None, None, Seen(), ""))
    gr.HTML("<h3>2 Reference</h3>", padding=False)
    shown = gr.Image(
        overlaid(start.picture),
        label="Reference: its pose, light, clothes and place stay",
        type="pil",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes=["frame", "megaportrait-reference"],
        alt_text="The reference portrait with its faces boxed",
    )
    with gr.Row(elem_classes="seed-row"):
        number = gr.Number(label="Reference seed", value=start.seed, precision=0, min_width=90, scale=2)
        again = gr.Button("Show it", size="sm", min_width=70, scale=1)
        dice = gr.Button("Roll a reference", size="sm", min_width=120, scale=1)
    drop = drop_zone("Or drop a portrait: PNG, JPEG, WebP", "megaportrait-photo", "image")
    consent = gr.Checkbox(
        label="Everybody in this reference is of age and agrees to this use",
        value=False,
        visible=False,
        elem_classes="megaportrait-agree",
    )
    faces = gr.Radio([], label="Face that is replaced, from the left", visible=False, elem_classes="choices")
    words = gr.HTML(f"<p class='quiet'>{NOT_YET}</p>", padding=False, elem_classes="megaportrait-words")
    with gr.Row(elem_classes="megaportrait-tools"):
        search = gr.Button("Look at it", size="sm", min_width=90)
        draw = gr.Checkbox(label="Draw the face box", value=False, min_width=150, container=False)
    step = Step2(reference, key, face, box, seen, ask, shown, number, consent, faces, words, draw, drop)
    step.bind(again, dice, search)
    return step


def bind(registry: Registry, model_set: str, step: Step2, region: gr.Radio) -> None:
    """Let the page look at a reference whenever it, its face, its box or the region changes."""
    shown, faces, draw, words, seen = step.look_outputs

    def look_at(session, now: Reference | None, at: int | None, drawn: Box | None, where: str) -> Iterator[Any]:
        if now is None:
            return
        yield {words: progress_line("Looking for the face…", 0.0, "waiting")}
        settings = dataclasses.replace(Settings.of(model_set), region=where)
        request = Request(now.picture, settings=settings, face=at, box=drawn)
        try:
            for item in live(look, registry, request):
                if item is IDLE:
                    yield gr.skip()
                elif isinstance(item, Progress):
                    yield {words: progress_line(item.text[:1].upper() + item.text[1:], item.fraction, "waiting")}
                elif isinstance(item, Result):
                    yield analysed(now, item.value, drawn)
        except ValueError as error:
            yield refused(now, explain(error), drawn)

    def analysed(now: Reference, analysis: Analysis, drawn: Box | None) -> dict[Any, Any]:
        boxes: tuple[Any, ...] = tuple(tuple(map(float, one.box)) for one in analysis.faces)
        known = Seen(now.key, boxes, analysis.chosen)
        several = len(boxes) > 1
        choices = [(f"Face {number + 1}", number) for number in range(len(boxes))]
        return {
            seen: known,
            shown: overlaid(now.picture, known),
            words: look_html(analysis),
            draw: drawn is not None,
            faces: gr.Radio(choices=choices, value=analysis.chosen, visible=several),
        }

    def refused(now: Reference, sentence: str, drawn: Box | None) -> dict[Any, Any]:
        blind = "draw the face box" in sentence
        todo = f" {TWO_CLICKS}" if blind else ""
        return {
            seen: Seen(now.key),
            shown: overlaid(now.picture, box=drawn),
            words: f"<p class='remark'>{safe(sentence)}{todo}</p>",
            draw: blind or drawn is not None,
            faces: gr.Radio(choices=[], value=None, visible=False),
        }

    inputs = [step.reference, step.face, step.box, region]
    shared = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple", **GPU}
    gr.on([step.ask.change, region.input], beside(look_at, "look"), inputs, step.look_outputs, **shared)
