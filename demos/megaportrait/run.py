"""What the buttons of the MegaPortrait tab do: make a portrait, make an example, look at another candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import gradio as gr

from demos.core.handlers import BROKE, LIGHT, TALKS, halt, on_gpu
from demos.core.hold import OnPage, belonging, held, hold
from demos.core.opening import opens_with_result
from demos.core.page import ends, pump, run_event
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.use import File, use_panel
from demos.core.visitors import visitor
from demos.core.widgets import Entry, History, progress_line
from demos.megaportrait import api, people
from demos.megaportrait.files import (
    LINKED,
    SLUG,
    Box,
    Shown,
    call_files,
    call_names,
    is_start,
    made_of,
    recipe_linked,
    settings_inside,
    write,
)
from demos.megaportrait.people import Chosen, Reference, truth_of
from demos.megaportrait.reference import Step2
from demos.megaportrait.settings import STEPS, Controls, first_mode
from demos.megaportrait.step1 import Step1
from demos.megaportrait.view import NOTHING_YET, View, live_strip
from pipelines import megaportrait
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.megaportrait import Preview, Request, Settings
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


@dataclasses.dataclass(frozen=True)
class Runs:
    """The page's parts, and what is done with them."""

    registry: Registry
    cache: gr.State
    step1: Step1
    step2: Step2
    controls: Controls
    view: View
    history: History
    chips: list[gr.Button]
    tabs: gr.Tabs

    def bind(self) -> None:
        """Tie the buttons to the runs."""
        step1, step2, controls, view, history = self.step1, self.step2, self.controls, self.view, self.history
        page = gr.State(OnPage(shown_of(people.first_person(), people.first_reference())))
        asked = [step1.chosen, step1.consent, step2.reference, step2.face, step2.box, step2.consent, controls.glasses]
        handler = on_gpu(self.make_portrait, **ends(view.line, STOPPED))
        inputs = [*asked, history.entries, self.cache, page]
        whole = run_event(handler, *view.outputs, *history.outputs, inputs=inputs, **controls.named)
        pressed = [chip.click for chip in self.chips]
        # Before the runs: a second listener of a click waits until the first is through.
        gr.on([controls.run.click, *pressed], None, js=TO_RESULTS, **LIGHT)
        controls.run.click(**whole)
        if controls.form.start.model_set == "mini":
            opens_with_result(
                SLUG,
                self.make_portrait,
                whole,
                view.line,
                "Press Make the portrait to draw it now.",
                [*history.outputs, view.link.shown],
            )
        controls.stop.click(halt, **LIGHT)
        put = [*step1.outputs, *step2.outputs, controls.form["mode"], view.line]
        there = hold(SLUG, *pressed)
        there(gr.on(pressed, self.example, step1.chosen, put, **TALKS)).success(**whole)
        view.gallery.select(self.candidate, view.last, view.outputs, **LIGHT)
        self._bind_another(page)
        put = [*step1.outputs, *step2.outputs, *controls.outputs]
        drop = controls.drop
        clear_on_refusal(drop, held(SLUG, drop.upload, self.restore, drop, [*put, drop], **TALKS))
        view.link.bind(self.put, [*put, drop], view.line, "Make the portrait", more=LINKED, restore=self.restore)
        shown = [*put, *view.outputs, self.tabs]
        held(SLUG, history.gallery.select, self.bring_back, history.entries, shown, **TALKS)

    def make_portrait(
        self,
        session: str,
        chosen: Chosen | None,
        agreed_1: bool,
        reference: Reference | None,
        face: int | None,
        box: tuple[float, float, float, float] | None,
        agreed_2: bool,
        glasses: bool,
        entries: list[Entry],
        kept: megaportrait.Cache,
        page: OnPage,
        **values: Any,
    ) -> Iterator[Any]:
        """The portrait of what the page shows, for as long as it shows that."""
        view = self.view
        seen: dict[str, Preview] = {}

        def show(item: Preview) -> dict[Any, Any]:
            if item.stage == megaportrait.IDENTITY:  # perhaps of the next candidate
                for name in seen.keys() - {megaportrait.REFERENCE}:
                    del seen[name]
            seen[item.stage] = item
            return {view.strip: live_strip(seen)}

        def done(outcome: megaportrait.Outcome, seconds: float) -> dict[Any, Any]:
            assert chosen is not None and reference is not None
            shown = write(outcome, chosen, reference, session, face, box)
            caption = f"{chosen.name} · {reference.name} · seed {outcome.best.seed}"
            line = progress_line(f"Done in {seconds:.1f} s: {caption}", 1.0, "done")
            entry = Entry(shown.results[0], caption, shown, made_of(shown).by(outcome.models))
            return {**view.show(shown), **view.link.of(entry.made), view.line: line, **self.history.add(entries, entry)}

        def run() -> Generator[Any]:
            given = self.step2.given(reference, chosen, (agreed_1, agreed_2))
            asked = request_of(
                chosen,
                reference,
                settings=self.controls.asked(**values),
                face=face,
                box=box,
                glasses=bool(glasses),
                **given,
            )
            yield {view.line: progress_line("Starting…", 0.0, "running")}
            asked = dataclasses.replace(asked, truth=truth_of(chosen, reference))
            items = live(megaportrait.generate, self.registry, asked, kept, limit_s=LIMIT_S)
            yield from pump(megaportrait.keeping(items, kept), view.line, done, {Preview: show})

        yield from belonging(run(), page, shown_of(chosen, reference), view.line, self.history.outputs)

    def example(self, now: Chosen | None, event: gr.EventData) -> Iterator[Any]:
        """Put an example's person and reference on the page; its run follows."""
        assert isinstance(event.target, gr.Button)
        recipe, line = EXAMPLES[self.chips.index(event.target)], self.view.line
        yield {line: progress_line("Rendering the person and the reference…", 0.0, "running")}
        try:
            with errors_shown("No example was rolled"):
                person = now  # perhaps trained already
                if person is None or person.identity != recipe.person:
                    person = people.roll_person(recipe.person)
                reference = people.roll_reference(recipe.reference)
        except gr.Error:
            yield {line: progress_line(BROKE, 0.0, "stopped")}
            raise
        mode = "trained" if person.trained else first_mode(self.controls.form.start.model_set)
        yield {**self.step1.load(person), **self.step2.load(reference), self.controls.form["mode"]: mode}

    def candidate(self, shown: Shown | None, event: gr.SelectData) -> Any:
        """Show another candidate."""
        if shown is None or not isinstance(event.index, int) or not 0 <= event.index < len(shown.results):
            return gr.skip()
        return self.view.show(dataclasses.replace(shown, index=event.index))

    def restore(self, path: str | None) -> Any:
        """Put the settings of a PNG that was made here on the page, and whom it shows where that was rendered."""
        if path is None:
            return gr.skip()
        put: dict[Any, Any] = {}
        with errors_shown("Nothing was restored"):
            inside = settings_inside(path)
            if inside.recipe is not None:
                person = people.roll_person(inside.recipe.person)
                reference = people.roll_reference(inside.recipe.reference)
                put = {**self.step1.load(person), **self.step2.load(reference, inside.face, inside.box)}
        settings, words = inside.settings, f"Settings restored. {inside.next_step()}"
        model_set = self.controls.form.start.model_set
        if settings.model_set != model_set:
            own = Settings.of(model_set)
            settings = dataclasses.replace(settings, **{name: getattr(own, name) for name in (*STEPS, "region")})
            words += f" Steps and region are those of this page’s model set, not of {inside.settings.model_set}."
        gr.Info(words, title="Restored")
        return {**put, **self.controls.restored(settings), self.controls.drop: None}

    def put(self, settings: Settings, more: Mapping[str, str]) -> dict[Any, Any]:
        """Put what a link says on the page."""
        recipe, face, box = recipe_linked(more)
        same = is_start(recipe)
        person = people.first_person() if same else people.roll_person(recipe.person)
        reference = people.first_reference() if same else people.roll_reference(recipe.reference)
        put = {**self.step1.load(person), **self.step2.load(reference, face, box)}
        return {**put, **self.controls.restored(settings)}

    def bring_back(self, entries: list[Entry], event: gr.SelectData) -> Any:
        """Show an earlier result with all that it was made of."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        shown = entries[event.index].outcome
        person = {} if shown.chosen is None else self.step1.load(shown.chosen)
        return {
            **person,
            **self.step2.load(shown.reference, shown.face, shown.box),
            **self.controls.restored(shown.outcome.settings),
            **self.view.show(shown),
            **self.view.link.of(entries[event.index].made),
            self.view.line: progress_line("Brought back from your results", 1.0, "done"),
            self.tabs: gr.Tabs(selected="portrait"),
        }

    def _bind_another(self, page: gr.State) -> None:
        """When another person or reference is there, or more was learnt of the person, who is worn from now on."""
        view, mode = self.view, self.controls.form["mode"]
        was = gr.State(people.first_person().key)

        def another(
            shown: Shown | None,
            chosen: Chosen | None,
            reference: Reference | None,
            mode_now: str,
            before: str,
            page: OnPage,
        ) -> dict[Any, Any]:
            now, key = "" if chosen is None else chosen.key, shown_of(chosen, reference)
            updates: dict[Any, Any] = {was: now}
            going, page.key = page.key == key, key
            if shown is not None and shown.keys == (now, "" if reference is None else reference.key):
                return updates  # brought back, with settings of its own
            if shown is None or shown_of(shown.chosen, shown.reference) != key:
                updates |= view.clear()
            if not (going and view.strip in updates):
                updates[view.line] = progress_line(NOTHING_YET if shown is None else ANOTHER)
            if now != before and chosen is not None and chosen.trained and mode_now == "instant":
                updates[mode] = "trained"
            return updates

        looks = [view.last, self.step1.chosen, self.step2.reference, mode, was, page]
        changes = [self.step1.key.change, self.step2.key.change]
        # Not LIGHT: in the queue it keeps its place among the updates of a run that is going.
        gr.on(changes, another, looks, [*view.outputs, mode, was], **TALKS)


def build_call(box: gr.Accordion, step1: Step1, step2: Step2, controls: Controls) -> None:
    """The call for who is chosen, inside ``box``, and its files."""
    endpoint = api.endpoint(controls.form.start.model_set)
    who: list[gr.components.Component] = [step1.chosen, step2.reference]

    def call(
        chosen: Chosen | None,
        reference: Reference | None,
        face: int | None,
        box: Box | None,
        glasses: bool,
        **values: Any,
    ) -> dict[str, Any]:
        if chosen is None or reference is None:
            raise ValueError("There is no call yet: choose a person and a reference.")
        if box is not None:
            raise ValueError("A face that was boxed by hand is in no call: choose one that was found.")
        settings = controls.asked(**values)
        files = [File(name) for name in call_names(chosen)]
        whom = {"person": files[0]} if chosen.trained else {"pictures": files}
        given = {"reference": File("reference.png"), "face": face, "glasses": bool(glasses), "consent": True}
        fine = settings.differing(Settings.of(settings.model_set), api.FINE)
        return {**whom, **given, **settings.sent("mode", "seed", "candidates"), "settings": fine}

    def files(chosen: Chosen | None, reference: Reference | None, request: gr.Request) -> str:
        with errors_shown("There is nothing to save"):
            return call_files(chosen, reference, visitor(request))

    inputs = [*who, step2.face, step2.box, controls.glasses]
    use_panel(SLUG, box, endpoint, call, controls.named, inputs, (files, who))


def request_of(chosen: Chosen | None, reference: Reference | None, **more: Any) -> Request:
    """What is asked of the pipeline; ``more``: what the page has beside a person and a reference."""
    if chosen is not None:
        more |= {"person": chosen.person, "pictures": chosen.pictures}
    if reference is None:
        return Request(None, **more)
    return Request(reference.picture, layered=reference.layered, lost=reference.lost, **more)


def shown_of(chosen: Chosen | None, reference: Reference | None) -> tuple[str, str]:
    """Whose pictures and which reference the page shows, whatever was learnt of them."""
    return "" if chosen is None else chosen.root, "" if reference is None else reference.key
