"""The MegaPortrait tab: a person goes into a reference portrait, in its pose, light, clothes and place, in three nets that can be watched."""

from __future__ import annotations

import gradio as gr

from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.tabs import Tab
from demos.core.widgets import History, paper_card, words_of
from demos.megaportrait import api, learn, reference, settings, step1, view
from demos.megaportrait.files import SLUG
from demos.megaportrait.measured import measured_html
from demos.megaportrait.run import Runs
from pipelines.core.registry import Registry
from pipelines.megaportrait import PAPER, Cache, parts, results
from pipelines.megaportrait.recipes import EXAMPLES
from pipelines.models import sdxl

UNOFFICIAL = "An unofficial re-creation from the abstract; the settings are ours."


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    registry.declare(*parts.specs(model_set).values(), *parts.look_specs(model_set, "instant"))
    paper_card(PAPER)
    fetched = parts.download(model_set)
    if fetched:
        gr.HTML(f"<p class='remark'>{safe(sdxl.BASES[model_set].title)}: {safe(fetched)}.</p>", padding=False)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as tabs:
        with gr.Tab("Make a portrait", id="portrait", render_children=True):
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Examples: one click makes a portrait</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    chips = [gr.Button(recipe.title, size="sm", elem_classes="example") for recipe in EXAMPLES]
            with gr.Row(equal_height=False, elem_classes="portrait-steps"):
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    first = step1.build(model_set)
                    learning = learn.build(registry, model_set)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    second = reference.build(model_set)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    controls = settings.build(model_set, _licence(model_set), fixed=registry.mode == "zero")
            with gr.Column(elem_classes="studio-results"):
                results_view = view.build()
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(results.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History()
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False):
        gr.Markdown(from_python(model_set), elem_classes="reading")

    learn.bind(registry, model_set, first, learning)
    reference.bind(registry, model_set, second, controls.form["region"])
    Runs(registry, cache, first, second, controls, results_view, history, chips, tabs).bind()
    learn.build_api(registry, model_set)
    api.build(registry, model_set)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    base = sdxl.BASES[model_set]
    licences = dict.fromkeys(spec.licence for spec in parts.specs(model_set).values())
    return f"<p class='quiet licence'>{safe(base.title)}; {safe(', '.join(licences))}. {UNOFFICIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return words_of(__package__, "python.md").replace("{model_set}", model_set)


TAB = Tab(results.TAB, SLUG, 30, build, PAPER)
