"""The MegaPortrait tab: a person goes into a reference portrait, in its pose, light, clothes and place, in three nets that can be watched."""

from __future__ import annotations

import gradio as gr

from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.links import Link
from demos.core.page import example_chips, run_row
from demos.core.preflight import PreflightPanel
from demos.core.tabs import Tab
from demos.core.widgets import History, paper_card, words_of
from demos.megaportrait import api, learn, reference, run, settings, step1, view
from demos.megaportrait.files import SLUG
from demos.megaportrait.measured import measured_html
from demos.megaportrait.run import Runs
from demos.megaportrait.talk import TALK
from pipelines import megaportrait
from pipelines.core.registry import Registry
from pipelines.megaportrait import PAPER, Cache, parts, results
from pipelines.megaportrait.recipes import EXAMPLES
from pipelines.models import sdxl

UNOFFICIAL = "An unofficial re-creation from the abstract; the settings are ours."


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    drawn = parts.specs(model_set, settings.first_mode(model_set))
    registry.declare(*drawn.values(), *parts.specs(model_set).values(), *parts.look_specs(model_set, "instant"))
    paper_card(PAPER)
    preflight = PreflightPanel(registry, model_set)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as tabs:
        with gr.Tab("Make a portrait", id="portrait", render_children=True):
            chips = example_chips("Examples: one click makes a portrait", [recipe.title for recipe in EXAMPLES])
            with gr.Row(equal_height=False, elem_classes="megaportrait-steps"):
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    first = step1.build(model_set)
                    learning = learn.build(registry, model_set)
                with gr.Column(min_width=300, elem_classes="studio-controls"):
                    second = reference.build(model_set)
                with gr.Column(min_width=300, elem_classes=["studio-controls", "megaportrait-make"]):
                    gr.HTML("<h3>3 Make</h3>", padding=False)
                    buttons = run_row("Make the portrait")
                    form = settings.form_of(model_set)
                    result = view.build_result(lambda: Link(SLUG, form, tab=results.TAB))
                    gr.HTML(_licence(model_set), padding=False)
                    controls = settings.build(model_set, *buttons, fixed=registry.mode == "zero", form=form)
            results_view = view.build(result)
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(results.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History(PAPER.title)
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False) as box:
        run.build_call(box, first, second, controls)
        gr.Markdown(from_python(model_set), elem_classes="reading")

    if model_set == "full":
        form = controls.form
        preflight.bind(
            lambda mode, preset, lines: parts.leases(model_set, mode, preset, lines),
            megaportrait.generate,
            form["mode"],
            form["preset"],
            form["lines"],
        )
    learn.bind(registry, model_set, first, learning)
    reference.bind(registry, model_set, second, controls.form["region"])
    Runs(registry, cache, first, second, controls, results_view, history, chips, tabs).bind()
    learn.build_api(registry, model_set)
    api.build(registry, model_set)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    titles = dict.fromkeys(
        bases[model_set].title for bases in (sdxl.FIRST, sdxl.BASES)
    )  # the drawn mode's is the second
    licences = dict.fromkeys(spec.licence for spec in parts.specs(model_set).values())
    return f"<p class='quiet licence'>{safe(', '.join(titles))}; {safe(', '.join(licences))}. {UNOFFICIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return words_of(__package__, "python.md").replace("{model_set}", model_set)


TAB = Tab(results.TAB, SLUG, 30, build, PAPER, (learn.API, api.API), talk=TALK)
