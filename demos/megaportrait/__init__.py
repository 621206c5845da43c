"""The MegaPortrait tab: a person goes into a reference portrait, in its pose, light, clothes and place, in three nets that can be watched."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.handlers import TALKS
from demos.core.hold import held
from demos.core.tabs import Tab
from demos.core.uploads import emptied, told
from demos.core.widgets import Entry, History, paper_card, progress_line, words_of
from demos.megaportrait import api, people
from demos.megaportrait import learn as portrait_learn
from demos.megaportrait import reference as portrait_reference
from demos.megaportrait import settings as portrait_settings
from demos.megaportrait import step1 as portrait_step1
from demos.megaportrait import view as portrait_view
from demos.megaportrait.files import SLUG, settings_inside
from demos.megaportrait.measured import measured_html
from demos.megaportrait.run import Runs
from demos.megaportrait.settings import STEPS
from pipelines.core.registry import Registry
from pipelines.megaportrait import PAPER, Cache, Settings, results
from pipelines.megaportrait import parts as megaportrait_parts
from pipelines.megaportrait.recipes import EXAMPLES
from pipelines.models import sdxl

UNOFFICIAL = "An unofficial re-creation from the abstract; the settings are ours."


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    registry.declare(
        *megaportrait_parts.specs(model_set).values(), *megaportrait_parts.look_specs(model_set, "instant")
    )
    paper_card(PAPER)
    fetched = megaportrait_parts.download(model_set)
    if fetched:
        gr.HTML(f"<p class='remark'>{safe(sdxl.BASES[model_set].title)}: {safe(fetched)}.</p>", padding=False)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as parts:
        with gr.Tab("Make a portrait", id="portrait", render_children=True):
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Examples: one click makes a portrait</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    chips = [gr.Button(recipe.title, size="sm", elem_classes="example") for recipe in EXAMPLES]
            with gr.Row(equal_height=False, elem_classes="portrait-steps"):
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    step1 = portrait_step1.build(model_set)
                    learn = portrait_learn.build(registry, model_set, step1)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    step2 = portrait_reference.build(model_set)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    controls = portrait_settings.build(model_set, _licence(model_set), fixed=registry.mode == "zero")
            with gr.Column(elem_classes="studio-results"):
                view = portrait_view.build()
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(results.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History()
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False):
        gr.Markdown(from_python(model_set), elem_classes="reading")

    portrait_learn.bind(registry, model_set, step1, learn)
    portrait_reference.bind(registry, model_set, step2, controls.form["region"])
    Runs(registry, cache, step1, step2, controls, view, history, chips).bind()

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        put: dict[Any, Any] = {}
        with told("Nothing was restored"):
            inside = settings_inside(path)
            if inside.recipe is not None:
                person = people.roll_person(inside.recipe.person)
                reference = people.roll_reference(inside.recipe.reference)
                put = {**step1.load(person), **step2.load(reference, inside.face, inside.box)}
        settings, words = inside.settings, f"Settings restored. {inside.next_step()}"
        if settings.model_set != model_set:
            own = Settings.of(model_set)
            settings = dataclasses.replace(settings, **{name: getattr(own, name) for name in (*STEPS, "region")})
            words += f" Steps and region are those of this page’s model set, not of {inside.settings.model_set}."
        gr.Info(words, title="Restored")
        return {**put, **controls.restored(settings), controls.drop: None}

    def bring_back(entries: list[Entry], event: gr.SelectData) -> Any:
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        shown = entries[event.index].outcome
        person = {} if shown.chosen is None else step1.load(shown.chosen)
        return {
            **person,
            **step2.load(shown.reference, shown.face, shown.box),
            **controls.restored(shown.outcome.settings),
            **view.show(shown),
            view.line: progress_line("Brought back from your results", 1.0, "done"),
            parts: gr.Tabs(selected="portrait"),
        }

    put = [*step1.outputs, *step2.outputs, *controls.outputs]
    emptied(controls.drop, held(SLUG, controls.drop.upload, restore, controls.drop, [*put, controls.drop], **TALKS))
    held(SLUG, history.gallery.select, bring_back, history.entries, [*put, *view.outputs, parts], **TALKS)
    portrait_learn.build_api(registry, model_set)
    api.build(registry, model_set)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    base = sdxl.BASES[model_set]
    licences = dict.fromkeys(spec.licence for spec in megaportrait_parts.specs(model_set).values())
    return f"<p class='quiet licence'>{safe(base.title)}; {safe(', '.join(licences))}. {UNOFFICIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return words_of(__package__, "python.md").replace("{model_set}", model_set)


TAB = Tab(results.TAB, SLUG, 30, build, PAPER)
