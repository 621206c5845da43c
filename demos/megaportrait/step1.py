"""Step 1 of the MegaPortrait tab: whose face it is, rolled or from a visitor's own pictures."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from demos.core.figures import data_uri, safe
from demos.core.handlers import LIGHT, TALKS, on_gpu
from demos.core.hold import held, hold
from demos.core.page import drop_zone, ends, pump, run_event
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.widgets import progress_line
from demos.megaportrait import people
from demos.megaportrait.files import SLUG
from demos.megaportrait.people import HELD_OUT, MOST, Chosen
from demos.megaportrait.shown import notes_html, verdicts_html
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.megaportrait.intake import Intake, look_at
from pipelines.megaportrait.paste import Picture
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.results import measured
from pipelines.megaportrait.settings import DRAWN, MODES, modes_of

ROLLED, OWN = "rolled", "own"
LIMIT_S = 300.0
SMALL_WORLD = (
    "The small models know rendered people only: of a photograph they find the face and paste it, but can neither learn it well "
    "nor say who it is. The full set, <code>--model-set full</code>, is for real people."
)
HELD = "with the truth: the same person in the reference’s place. No model was trained on these seeds."
CONSENT = "Everybody in these pictures is of age and agrees to this"
PRIVATE = "Your pictures go to the machine that serves this page, to nobody else, and are held in its memory while the page is open."
NOBODY = "There is nobody in step 1 yet: roll a person, or add pictures of one."
MY_PERSON = "My person"


@dataclasses.dataclass(frozen=True)
class Step1:
    """The widgets that say who it is, and what they do among themselves."""

    chosen: gr.State
    """A :class:`Chosen`, or None."""
    key: gr.State
    """That of ``chosen``, or "": its change says that somebody else is there, or that more was learnt."""
    rolled: gr.State
    """The last rendered person."""
    mine: gr.State
    """The last one of the visitor's own."""
    kind: gr.Radio
    rolled_box: gr.Column
    own_box: gr.Column
    number: gr.Number
    over: gr.Button
    shown: gr.HTML
    """The pictures with their verdicts, and what was learnt of them."""
    consent: gr.Checkbox
    """Asked for where the pictures were not rendered."""
    name: gr.Textbox
    drop: gr.File

    @property
    def memory(self) -> list[gr.State]:
        """The states that :meth:`learnt` updates."""
        return [self.chosen, self.key, self.rolled, self.mine]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What :meth:`load` updates."""
        shown = [self.kind, self.rolled_box, self.own_box, self.number, self.over, self.shown, self.consent, self.name]
        return [*self.memory, *shown]

    def learnt(self, new: Chosen) -> dict[Any, Any]:
        """The updates when more was learnt of who is there: of the states in :attr:`memory` only."""
        return {self.chosen: new, self.key: new.key, self.rolled if new.rendered else self.mine: new}

    def load(self, new: Chosen | None) -> dict[Any, Any]:
        """The updates that put somebody there, or nobody."""
        rendered = new is not None and new.rendered
        updates = {
            self.kind: ROLLED if rendered else OWN,
            self.rolled_box: gr.Column(visible=rendered),
            self.own_box: gr.Column(visible=not rendered),
            self.over: gr.Button(visible=new is not None),
            self.shown: chosen_html(new),
            self.consent: gr.Checkbox(visible=not rendered),
        }
        if new is None:
            return {**updates, self.chosen: None, self.key: "", self.mine: None, self.name: MY_PERSON}
        seed = {self.number: new.identity} if rendered else {}
        return {**updates, **self.learnt(new), self.name: new.name, **seed}

    def bind(self, again: gr.Button, dice: gr.Button) -> None:
        """Tie the widgets to what they do; what needs a model is :func:`bind`'s."""
        rendering = {**TALKS, "show_progress": "minimal", "show_progress_on": [self.shown]}
        asked = [again.click, self.number.submit]
        there = hold(SLUG, *asked)
        there(gr.on(asked, self.roll, self.number, self.outputs, **rendering))
        there = hold(SLUG, dice.click)
        seed = dice.click(lambda: secrets.randbelow(HELD_OUT), None, self.number, **LIGHT)
        there(seed.then(self.roll, self.number, self.outputs, **rendering))
        # Not LIGHT: whoever listens to the key would not hear of it.
        held(SLUG, self.kind.input, self.other_kind, [self.kind, self.rolled, self.mine], self.outputs, **TALKS)
        held(SLUG, self.over.click, self.remove_all, None, self.outputs, **TALKS)

    def roll(self, seed: object) -> dict[Any, Any]:
        """Render somebody."""
        with errors_shown("Nobody was rolled"):
            return self.load(people.roll_person(seed))

    def remove_all(self) -> dict[Any, Any]:
        """Nobody, and no consent."""
        return {**self.load(None), self.consent: gr.Checkbox(value=False, visible=True)}

    def other_kind(self, which: str, last_rolled: Chosen, last_own: Chosen | None) -> dict[Any, Any]:
        """Go from rendered people to one's own pictures, or back."""
        return self.load(last_rolled if which == ROLLED else last_own)


def build(model_set: str) -> Step1:
    """The widgets; :func:`bind` adds what needs a model."""
    start = people.first_person()
    chosen, key, rolled, mine = (gr.State(value) for value in (start, start.key, start, None))
    gr.HTML("<h3>1 Person</h3>", padding=False)
    kind = gr.Radio(
        [("A rendered person", ROLLED), ("My own pictures", OWN)],
        value=ROLLED,
        label="Person",
        show_label=False,
        container=False,
        elem_classes="choices",
    )
    with gr.Column() as rolled_box:
        with gr.Row(elem_classes="seed-row"):
            number = gr.Number(label="Person seed", value=start.identity, precision=0, min_width=90, scale=2)
            again = gr.Button("Render", size="sm", min_width=80, scale=1)
            dice = gr.Button("Roll a person", size="sm", min_width=120, scale=1)
    with gr.Column(visible=False) as own_box:
        words = f"Drop 1 to {MOST} pictures of one person"
        drop = drop_zone(words, "megaportrait-pictures", "image", file_count="multiple")
        if model_set == "mini":
            gr.HTML(f"<p class='remark'>{SMALL_WORLD}</p>", padding=False)
        over = gr.Button("Remove all pictures", size="sm", visible=False)
    shown = gr.HTML(chosen_html(start), padding=False)
    consent = gr.Checkbox(label=CONSENT, value=False, visible=False, info=PRIVATE)
    name = gr.Textbox(start.name, label="Name", max_length=40, max_lines=1)

    step = Step1(chosen, key, rolled, mine, kind, rolled_box, own_box, number, over, shown, consent, name, drop)
    step.bind(again, dice)
    return step


def bind(registry: Registry, model_set: str, step1: Step1, line: gr.HTML) -> None:
    """Look at pictures as soon as they are dropped; ``line`` tells how far it is."""

    def look_at_pictures(session: str, paths: list[str] | None, before: Chosen | None, name: str) -> Iterator[Any]:
        if not paths:
            yield gr.skip()
            return
        # Pictures add to those that are there already, as long as these are a visitor's own and not a saved person's crops.
        held = before if before is not None and before.intake is not None else Chosen("", "", ())
        yield {line: progress_line("Opening the pictures…", 0.0, "running")}
        new, refusals = read_uploads(paths, model_set, [known for known, _picture in held.pictures])
        pictures, told = (*held.pictures, *new), (*held.refusals, *refusals)

        def done(found: Intake, _seconds: float) -> dict[Any, Any]:
            there = Chosen(secrets.token_hex(8), name, pictures, intake=found, refusals=told)
            text = f"{len(found.used)} of {len(pictures)} pictures can be used"
            return {**step1.load(there), line: progress_line(text, 1.0, "done"), step1.drop: None}

        yield from pump(live(look_at, registry, list(pictures), model_set, limit_s=LIMIT_S), line, done)

    ending = ends(line, "Stopped; no picture was added.")
    handler = on_gpu(look_at_pictures, **{**ending, "stopped": {**ending["stopped"], step1.drop: None}})
    updated = [*step1.outputs, line, step1.drop]
    event = run_event(handler, *updated, inputs=[step1.drop, step1.chosen, step1.name])
    clear_on_refusal(step1.drop, step1.drop.upload(**{**event, "trigger_mode": "once"}))


def read_uploads(
    paths: Sequence[str | Path], model_set: str, taken: Sequence[str] = ()
) -> tuple[tuple[tuple[str, Picture], ...], tuple[str, ...]]:
    """``people.own_pictures`` of files that a visitor sent, which then lie on the disk no longer.

    Raises:
        ValueError: too many, or none that can be read.
    """
    try:
        pictures, refusals = people.own_pictures(paths, model_set, taken)
    finally:
        forget_uploads(paths)
    if not pictures:
        raise ValueError(refusals[0])
    return pictures, refusals


def forget_uploads(paths: Sequence[str | Path]) -> None:
    """Gradio would keep what was sent for a day. Files that were not sent here are left alone."""
    folder = Path(get_upload_folder()).resolve()
    for path in paths:
        inside = Path(path).resolve()
        if inside.is_relative_to(folder):
            inside.unlink(missing_ok=True)


# --- what is shown of a person ----------------------------------------------------------------------------------


def chosen_html(chosen: Chosen | None) -> str:
    """The pictures of a person, the verdicts of a visitor's own, and what was learnt."""
    if chosen is None:
        return "<p class='quiet'>No pictures yet. Five or more, sharp and in varied light, work best.</p>"
    if chosen.intake is not None:
        return f"{notes_html(chosen.refusals)}{verdicts_html(chosen.intake)}{state_html(chosen.person)}"
    told = (
        f"{len(chosen.pictures)} rendered pictures of one person, {HELD}"
        if chosen.rendered
        else "The pictures that were kept."
    )
    return f"{pictures_html(chosen.pictures, told)}{state_html(chosen.person)}"


def pictures_html(pictures: Sequence[tuple[str, Picture]], told: str) -> str:
    """A strip of small pictures over a sentence."""
    items = "".join(
        f"<li><img src='{thumbnail(Image.fromarray(picture))}' alt='{safe(name)}'></li>" for name, picture in pictures
    )
    return f"<ul class='megaportrait-people'>{items}</ul><p class='quiet'>{safe(told)}</p>"


def thumbnail(image: Image.Image, side: int = 160) -> str:
    """A small copy, as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return data_uri(small, "WEBP")


def state_html(person: Person | None) -> str:
    """Whether somebody was learnt, and how well."""
    if person is None or not person.trained:
        return "<p class='quiet'><b>Not trained yet.</b> Step 3 says what can be made without training.</p>"
    facts = person.facts
    parts = [f"step {facts.get('best_step', '?')} of {facts.get('steps', '?')} was the best"]
    score, before = best_score(facts), facts.get("score_before")
    if score is not None:
        was = "" if before is None else f", {before:.2f} before"
        parts.append(f"similarity of its drawings {score:.2f}{was}")
    more = _beside_drawn() if DRAWN in modes_of(person.model_set) else ""
    return f"<p class='quiet'><b>{safe(person.name)} is trained:</b> {'; '.join(parts)}.{more}</p>"


def _beside_drawn() -> str:
    """Where a trained person is worn, and what was measured of the way that needs none."""
    rows = measured().get("rows", {})
    untrained, trained = (rows.get(arm, {}).get("identity", {}).get("mean") for arm in ("drawn", "ours"))
    alike = ""
    if None not in (untrained, trained) and untrained > trained:
        alike = f", and is more like the person ({untrained:.2f} instead of {trained:.2f} in our measured pairs)"
    return f" It is worn where “{MODES['trained']}” is chosen under <i>How</i> in step 3; “{MODES[DRAWN]}” has no need of it{alike}."


def best_score(facts: dict[str, Any]) -> float | None:
    """Similarity at the checkpoint that was kept; None where it is not known."""
    return next((one["score"] for one in facts.get("checks", ()) if one["step"] == facts.get("best_step")), None)
