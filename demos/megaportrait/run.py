"""What the buttons of the MegaPortrait tab do: make a portrait, make an example, look at another candidate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demos.core.handlers import BROKE, GPU, LIGHT, TALKS, halt, on_gpu
from demos.core.hold import OnPage, belonging, hold
from demos.core.uploads import told
from demos.core.widgets import Entry, History, progress_line, running_line
from demos.megaportrait import people
from demos.megaportrait.files import SLUG, Shown, write
from demos.megaportrait.people import Chosen, Reference, truth_of
from demos.megaportrait.reference import Step2
from demos.megaportrait.settings import Controls
from demos.megaportrait.step1 import Step1
from demos.megaportrait.view import View, live_strip
from pipelines import megaportrait
from pipelines.core.lane import IDLE, Progress, Result, live
from pipelines.core.registry import Registry
from pipelines.megaportrait import Preview, Request
from pipelines.megaportrait.recipes import EXAMPLES

LIMIT_S = 900.0
STOPPED = "Stopped. Stages that were finished are kept; Make the portrait goes on from them."
ANOTHER = "Another person or reference is chosen: press Make the portrait."

TO_RESULTS = """() => {
  const panel = [...document.querySelectorAll(".studio-results")].find((node) => node.offsetParent !== null);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (panel && panel.getBoundingClientRect().top > window.innerHeight / 3)
    panel.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}"""
"""The results lie below the steps: go there when a run starts."""


def bind(
    registry: Registry, model_set: str, cache: gr.State, step1: Step1, step2: Step2, controls: Controls, view: View,
    history: History, chips: list[gr.Button],
) -> None:  # fmt: skip
    """Tie the buttons to the runs."""

    def make_portrait(
        session, chosen: Chosen | None, agreed_1, reference: Reference | None, face, box, agreed_2, glasses, entries, kept, page, *values
    ) -> Iterator[Any]:  # fmt: skip
        stages_ = stages(session, chosen, agreed_1, reference, face, box, agreed_2, glasses, entries, kept, values)
        yield from belonging(stages_, page, shown_of(chosen, reference), view.line, history.outputs)

    def stages(
        session, chosen: Chosen | None, agreed_1, reference: Reference | None, face, box, agreed_2, glasses, entries, kept, values
    ) -> Iterator[Any]:  # fmt: skip
        settings = controls.asked(values, model_set)
        given = step2.given(reference, chosen, (agreed_1, agreed_2))
        asked = Request(
            None if reference is None else reference.picture, None if chosen is None else chosen.person,
            () if chosen is None else chosen.pictures, settings, face, box, glasses=bool(glasses), **given,
            layered=None if reference is None else reference.layered, lost=() if reference is None else reference.lost,
        )  # fmt: skip
        yield {view.line: progress_line("Starting…", 0.0, "running")}
        began, seen = time.monotonic(), {}
        asked = dataclasses.replace(asked, truth=truth_of(chosen, reference))
        for item in megaportrait.keeping(live(megaportrait.portrait, registry, asked, kept, limit_s=LIMIT_S), kept):
            if item is IDLE:
                yield gr.skip()
            elif isinstance(item, Progress):
                yield {view.line: running_line(item, began)}
            elif isinstance(item, Preview):
                if item.stage == megaportrait.IDENTITY:  # perhaps of the next candidate
                    seen = {name: shown for name, shown in seen.items() if name == megaportrait.REFERENCE}
                seen[item.stage] = item
                yield {view.strip: live_strip(seen)}
            elif isinstance(item, Result):
                yield finished(item.value, chosen, reference, session, face, box, entries, time.monotonic() - began)

    def finished(outcome, chosen, reference, session, face, box, entries, seconds: float) -> dict[Any, Any]:
        shown = write(outcome, chosen, reference, session, face, box)
        caption = f"{chosen.name} · {reference.name} · seed {outcome.best.seed}"
        return {
            **view.show(shown), view.line: progress_line(f"Done in {seconds:.1f} s: {caption}", 1.0, "done"),
            **history.add(entries, Entry(shown.results[0], caption, shown)),
        }  # fmt: skip

    def example(now: Chosen | None, event: gr.EventData) -> Iterator[Any]:
        recipe = EXAMPLES[chips.index(event.target)]
        yield {view.line: progress_line("Rendering the person and the reference…", 0.0, "running")}
        try:
            with told("No example was rolled"):
                there = now is not None and now.identity == recipe.person  # perhaps trained already
                person = now if there else people.roll_person(recipe.person)
                reference = people.roll_reference(recipe.reference)
        except gr.Error:
            yield {view.line: progress_line(BROKE, 0.0, "stopped")}
            raise
        yield {**step1.load(person), **step2.load(reference), controls.mode: "trained" if person.trained else "instant"}

    def candidate(shown: Shown | None, event: gr.SelectData) -> Any:
        if shown is None or not isinstance(event.index, int) or not 0 <= event.index < len(shown.results):
            return gr.skip()
        return view.show(dataclasses.replace(shown, index=event.index))

    def another(
        shown: Shown | None, chosen: Chosen | None, reference: Reference | None, mode: str, before: str, page: OnPage
    ) -> dict[Any, Any]:
        """Another person or reference is there, or more was learnt of the person, who is worn from now on."""
        now, key = "" if chosen is None else chosen.key, shown_of(chosen, reference)
        updates: dict[Any, Any] = {was: now}
        going, page.key = page.key == key, key
        if shown is not None and shown.keys == (now, "" if reference is None else reference.key):
            return updates  # brought back, with settings of its own
        if shown is None or shown_of(shown.chosen, shown.reference) != key:
            updates |= view.clear()
        if shown is not None and not (going and view.strip in updates):
            updates[view.line] = progress_line(ANOTHER)
        if now != before and chosen is not None and chosen.trained and mode == "instant":
            updates[controls.mode] = "trained"
        return updates

    was = gr.State(people.first_person().key)
    page = gr.State(OnPage(shown_of(people.first_person(), people.first_reference())))
    inputs = [
        step1.chosen, step1.consent, step2.reference, step2.face, step2.box, step2.consent, controls.glasses, history.entries, cache,
        page, *controls.inputs,
    ]  # fmt: skip
    shared = {"outputs": [*view.outputs, *history.outputs], "show_progress": "hidden", "api_visibility": "private"}
    shared |= {"trigger_mode": "multiple", **GPU}
    ends = {
        "stopped": {view.line: progress_line(STOPPED, 0.0, "stopped")},
        "broken": {view.line: progress_line(BROKE, 0.0, "stopped")},
    }
    whole = on_gpu(make_portrait, **ends)
    pressed = [chip.click for chip in chips]
    # Before the runs: a second listener of a click waits until the first is through.
    gr.on([controls.run.click, *pressed], None, js=TO_RESULTS, **LIGHT)
    controls.run.click(whole, inputs, **shared)
    gr.on([controls.stop.click, view.stop.click], halt, **LIGHT)
    put = [*step1.outputs, *step2.outputs, controls.mode, view.line]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, step1.chosen, put, **TALKS)).success(whole, inputs, **shared)
    view.gallery.select(candidate, view.last, view.outputs, **LIGHT)
    looks = [view.last, step1.chosen, step2.reference, controls.mode, was, page]
    # Not LIGHT: in the queue it keeps its place among the updates of a run that is going.
    gr.on([step1.key.change, step2.key.change], another, looks, [*view.outputs, controls.mode, was], **TALKS)


def shown_of(chosen: Chosen | None, reference: Reference | None) -> tuple[str, str]:
    """Whose pictures and which reference the page shows, whatever was learnt of them."""
    return "" if chosen is None else chosen.root, "" if reference is None else reference.key
