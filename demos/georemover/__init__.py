"""The GeoRemover tab: an object goes with its shadow and its reflection, because the geometry is edited first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr

from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import TALKS
from demos.core.hold import held
from demos.core.links import Link
from demos.core.page import example_chips
from demos.core.preflight import PreflightPanel
from demos.core.tabs import Tab
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.use import File, use_panel
from demos.core.visitors import visitor
from demos.core.widgets import Entry, History, paper_card, progress_line, words_of
from demos.georemover import api, run, scenes, settings
from demos.georemover.batch import Board
from demos.georemover.edit import Edit
from demos.georemover.files import LINKED, SLUG, call_files, recipe_linked, settings_inside
from demos.georemover.input import Input
from demos.georemover.mask import asked_mask
from demos.georemover.measured import measured_html
from demos.georemover.settings import Controls
from demos.georemover.talk import TALK
from demos.georemover.view import PASTED, View, build_view
from pipelines import georemover
from pipelines.core.registry import Registry
from pipelines.georemover import EXAMPLES, PAPER, Cache, Settings, export
from pipelines.models import flux

NOT_COMMERCIAL = (
    "<b>Non-commercial use only.</b> FLUX.1 [dev] Non-Commercial License: accept it at huggingface.co/black-forest-labs/FLUX.1-Fill-dev "
    "and give the server a token (HF_TOKEN), or a local copy. The authors’ adapters carry no licence of their own."
)


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    base = flux.BASES[model_set]
    registry.declare(*base.parts)
    paper_card(PAPER)
    preflight = PreflightPanel(registry, model_set)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    asked = Form(Settings.of(model_set))
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as parts:
        with gr.Tab("Remove an object", id="remove", render_children=True):
            chips = example_chips("Examples: one click removes", [recipe.title for recipe in EXAMPLES])
            with gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
                    given = Input(model_set, asked, _licence(model_set), chips)
                    controls = settings.build(asked, fixed=registry.mode == "zero")
                with gr.Column(scale=8, min_width=320, elem_classes="studio-results"):
                    view, edit = build_view(Edit.build, lambda: Link(SLUG, asked))
        with gr.Tab("Batch", id="batch", render_children=True):
            Board(registry, asked)
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(export.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History(PAPER.title)
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False) as box:
        _build_call(box, given, asked, model_set)
        gr.Markdown(from_python(model_set), elem_classes="reading")
    preflight.bind(base.leases, georemover.generate, asked["preset"])
    run.bind(registry, cache, given, controls, view, edit, history)
    edit.bind(view.last, view.after, view.colours)
    _bind_restore(given, controls, view)
    _bind_history(given, controls, view, edit, history, parts)
    api.build(registry, model_set)


def _bind_restore(given: Input, controls: Controls, view: View) -> None:
    """A PNG that this tab wrote brings its settings back, and its scene; so does a link."""
    model_set = controls.asked.start.model_set

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        with errors_shown("Nothing was restored"):
            inside = settings_inside(path)
            scene = None if inside.recipe is None else scenes.roll(inside.recipe)
        settings, words = inside.settings, f"Settings restored. {inside.next_step()}"
        if settings.model_set != model_set:
            own = controls.asked.start
            settings = dataclasses.replace(settings, grow=own.grow, feather=own.feather)
            words += f" Growth and soft edge were left out: they are in pixels of the {settings.model_set} set."
        gr.Info(words, title="Restored")
        put = {} if scene is None else given.load(scene, settings.grow, settings.fill_holes)
        return {**put, **controls.updates(settings), controls.drop: None}

    def put(settings: Settings, more: Mapping[str, str]) -> dict[Any, Any]:
        recipe, compare = recipe_linked(more), more.get("compare", str(model_set == "mini").lower())
        scene = scenes.first() if recipe == scenes.START else scenes.roll(recipe)
        on_page = {**given.load(scene, settings.grow, settings.fill_holes), **controls.updates(settings)}
        return {**on_page, controls.compare: compare == "true"}

    outputs = [*given.outputs, *controls.outputs, controls.drop]
    linked = [*outputs, controls.compare]
    view.link.bind(put, linked, view.line, "Remove", more=(*LINKED, "compare"), restore=restore)
    clear_on_refusal(controls.drop, held(SLUG, controls.drop.upload, restore, controls.drop, outputs, **TALKS))


def _build_call(box: gr.Accordion, given: Input, asked: Form[Settings], model_set: str) -> None:
    """The call for what is marked, inside ``box``, and its two files."""
    marked: list[gr.components.Component] = [given.picture, given.mode, given.editor]

    def call(picture: scenes.Picture | None, mode: str, drawn: Any, **values: Any) -> dict[str, Any]:
        asked_mask(picture, mode, drawn)  # says what is missing
        settings = asked.settings(values)
        fine = settings.differing(Settings.of(model_set), api.FINE)
        return {"image": File("picture.png"), "mask": File("mask.png"), "seed": settings.seed, "settings": fine}

    def files(picture: scenes.Picture, mode: str, drawn: Any, request: gr.Request) -> str:
        with errors_shown("There is nothing to save"):
            mask = asked_mask(picture, mode, drawn)
            return call_files(picture, mask, visitor(request))

    use_panel(SLUG, box, api.endpoint(model_set), call, asked.widgets, marked, (files, marked))


def _bind_history(given: Input, controls: Controls, view: View, edit: Edit, history: History, parts: gr.Tabs) -> None:
    """A result that is picked comes back with its picture, its mask and its settings."""

    def bring_back(entries: list[Entry], threshold: float, event: gr.SelectData) -> Any:
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        kept = entries[event.index].outcome
        settings = kept.shown.outcome.settings
        return {
            **given.load(kept.picture, settings.grow, settings.fill_holes, kept.brushed),
            **controls.updates(settings),
            **edit.clear(),
            **view.show(kept.shown, "inferno", PASTED, threshold),
            **view.link.of(entries[event.index].made),
            view.colours: "inferno",
            view.which: PASTED,
            view.line: progress_line("Brought back from your results", 1.0, "done"),
            parts: gr.Tabs(selected="remove"),
        }

    outputs = [*given.outputs, *controls.outputs, *edit.outputs, *view.outputs, view.colours, view.which, parts]
    held(SLUG, history.gallery.select, bring_back, [history.entries, view.threshold], outputs, **TALKS)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    base = flux.BASES[model_set]
    if model_set == "mini":
        return f"<p class='quiet licence'>{safe(base.title)}, {safe(base.licence)}.</p>"
    return f"<p class='remark licence'>{NOT_COMMERCIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return words_of(__package__, "python.md").replace('model_set="mini"', f'model_set="{model_set}"')


TAB = Tab("GeoRemover", SLUG, 20, build, PAPER, (api.API,), talk=TALK)
