"""The GeoRemover tab: an object goes with its shadow and its reflection, because the geometry is edited first."""

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
from demos.core.widgets import Entry, History, paper_card, progress_line
from demos.georemover import api, batch, run, scenes
from demos.georemover import edit as removal_edit
from demos.georemover import input as removal_input
from demos.georemover import settings as removal_settings
from demos.georemover import view as removal_view
from demos.georemover.files import SLUG, settings_inside
from demos.georemover.measured import measured_html
from demos.georemover.view import PASTED
from pipelines.core.registry import Registry
from pipelines.georemover import PAPER, Cache, Settings, export
from pipelines.models import flux

HOW_IT_WORKS = """
Whoever takes an object out of a photograph has to take its shadow and its mirror image out, too. Tools that fill the brushed area
leave both: they were not brushed. **GeoRemover** goes round: shadows and mirror images are no geometry. So it takes the
object out of the *depth map* first, where there is nothing but the object, and then renders the picture anew from the changed
depth. A renderer that sees that nothing stands there any more has no reason to paint its shadow.

**Three steps.**

1. *Estimate depth.* A depth network reads the picture. Its map is normalised to 0 (far) to 1 (near) and painted in the inferno
   colours, because the models know depth as pictures in these colours.
2. *Remove from depth* (stage 1). A fill model for pictures, FLUX.1-Fill in the paper, fills the marked area of the depth map. An adapter
   (LoRA) was trained to put the background there, never another object: in training it was also told, by a preference term, which
   of two depth maps is the worse.
3. *Render* (stage 2). The same model with another adapter gets a strip of three panels, the picture, the depth after and the depth
   before, and paints all three. The left panel is the result. **It gets no mask**: what is to go reaches it only as the
   difference of both depth maps. If the depth did not change, nothing can go; the button *What if the depth had not changed?* shows it.

**What is compared.** *Mask only* is the same base model without either adapter, filling the marked area: that is what removers without
geometry do. *Telea* is a classical fill. Both cannot change a pixel outside the marked area, so their residual effect is 1 wherever
the object shades or mirrors.

**What is measured.** A rendered scene is rendered once more without the object, so the truth is known. *Residual effect* is the error that
is left where shadow and reflection were, as a share of the error of doing nothing: 0 clean, 1 untouched. Where an object has no
visible effect beyond itself, it is *not defined*. *Over-erasure* is the share of everything else that changed. For pictures of your
own there is no truth, so there are self-checks only.

**The composite** pastes what belongs to the removal into the original at its full resolution: the marked area, and connected changes around it.
All other pixels stay as they are, one by one, with their transparency. It is a PNG of 8 bits a channel in sRGB, without what the file said
of its owner, place and camera; whatever else a file has and a result cannot (16 bits, another profile, more than one picture) is named beside
the result. Where the picture is black and white, grainy, soft or strongly compressed, what was painted is made so, and the notes say it.

**What to keep in mind.** Glass, mirrors and flat prints hardly show in depth, so there is little to take away. A mask that
misses part of an object makes stage 1 complete it. Self-luminous objects leave their glow. And the small models have seen nothing but
rendered solids on a floor.
"""
FROM_PYTHON = """
The tab has one public endpoint, `/remove_object`. The same seed gives the same pictures on the same machine.

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
result, depth_before, depth_after, facts = client.predict(
    image=handle_file("picture.png"),
    mask=handle_file("mask.png"),  # white is what goes
    seed=0,
    steps=0,  # the page's own; from 1 on, so many in each stage
    model_set="mini",
    api_name="/remove_object",
)
print(result, facts["metrics"][0], facts["notes"])
```

Without a server, from a checkout, with a rendered scene and its truth:

```python
from PIL import Image

from pipelines import georemover
from pipelines.georemover import Cache, Request, Settings
from pipelines.core.lane import run_blocking
from pipelines.core.registry import from_environment
from pipelines.worlds import removal

pair = removal.pair(removal.sample(10, count=2, mirror=True), 1)
request = Request(Image.fromarray(pair.image), pair.mask, Settings(seed=0), truth=pair, compare=True)
outcome = run_blocking(georemover.remove, from_environment(), request, Cache())
outcome.composites[0].save("removed.png")
print(outcome.metrics[0]["residual_effect"])
```
"""
NOT_COMMERCIAL = (
    "<b>Non-commercial use only.</b> FLUX.1 [dev] Non-Commercial License: accept it at huggingface.co/black-forest-labs/FLUX.1-Fill-dev "
    "and give the server a token (HF_TOKEN), or a local copy. The authors’ adapters carry no licence of their own."
)


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    base = flux.BASES[model_set]
    registry.declare(*base.parts)
    paper_card(PAPER)
    if base.download:
        gr.HTML(f"<p class='remark'>{safe(base.title)}: {safe(base.download)}.</p>", padding=False)
    cache = gr.State(Cache())  # a visitor's own: what is kept is somebody's picture
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as parts:
        with gr.Tab("Remove an object", id="remove", render_children=True):
            with gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
                    given = removal_input.build(model_set, _licence(model_set))
                    controls = removal_settings.build(model_set, fixed=registry.mode == "zero")
                with gr.Column(scale=8, min_width=320, elem_classes="studio-results"):
                    view, edit = removal_view.build(removal_edit.build)
        with gr.Tab("Batch", id="batch", render_children=True):
            batch.build(registry, model_set, given, controls)
        with gr.Tab("Measured figures", id="measured", render_children=True):
            gr.HTML(measured_figures(export.MEASURED, lambda: measured_html(model_set)), padding=False)
    history = History()
    with gr.Accordion("How it works", open=False):
        gr.Markdown(HOW_IT_WORKS, elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False):
        gr.Markdown(from_python(model_set), elem_classes="reading")

    run.bind(registry, model_set, cache, given, controls, view, edit, history)
    removal_edit.bind(edit, view)

    def restored(settings: Settings) -> dict[Any, Any]:
        held = settings.preset if settings.preset in controls.presets else controls.presets[0]
        updates = {
            widget: getattr(settings, name) for name, widget in zip(controls.names, controls.widgets, strict=True)
        }
        return {
            **updates, controls.preset: held, given.grow: settings.grow, given.fill: settings.fill_holes,
            controls.pace: removal_settings.pace_of(model_set, settings),
        }  # fmt: skip

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        with told("Nothing was restored"):
            inside = settings_inside(path)
            scene = None if inside.recipe is None else scenes.roll(inside.recipe)
        settings, words = inside.settings, f"Settings restored. {inside.next_step()}"
        if settings.model_set != model_set:
            own = Settings.of(model_set)
            settings = dataclasses.replace(settings, grow=own.grow, feather=own.feather)
            words += f" Growth and soft edge were left out: they are in pixels of the {settings.model_set} set."
        gr.Info(words, title="Restored")
        put = {} if scene is None else given.load(scene, settings.grow, settings.fill_holes)
        return {**put, **restored(settings), controls.drop: None}

    def bring_back(entries: list[Entry], threshold: float, event: gr.SelectData) -> Any:
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        kept = entries[event.index].outcome
        settings = kept.shown.outcome.settings
        loaded = given.load(kept.picture, settings.grow, settings.fill_holes, kept.brushed)
        return {
            **loaded, **restored(settings), **edit.clear(), **view.show(kept.shown, "inferno", PASTED, threshold),
            view.colours: "inferno", view.which: PASTED,
            view.line: progress_line("Brought back from your results", 1.0, "done"), parts: gr.Tabs(selected="remove"),
        }  # fmt: skip

    widgets = [*controls.widgets, given.grow, given.fill, controls.pace]
    restored_to = [*given.outputs, *widgets, controls.drop]
    emptied(controls.drop, held(SLUG, controls.drop.upload, restore, controls.drop, restored_to, **TALKS))
    back = [*given.outputs, *widgets, *edit.outputs, *view.outputs, view.colours, view.which, parts]
    held(SLUG, history.gallery.select, bring_back, [history.entries, view.threshold], back, **TALKS)
    api.build(registry, model_set)


def _licence(model_set: str) -> str:
    """What stands next to the button."""
    base = flux.BASES[model_set]
    if model_set == "mini":
        return f"<p class='quiet licence'>{safe(base.title)}, {safe(base.licence)}.</p>"
    return f"<p class='remark licence'>{NOT_COMMERCIAL}</p>"


def from_python(model_set: str = "mini") -> str:
    """The words and programs under "Use it from Python"."""
    return FROM_PYTHON.replace('model_set="mini"', f'model_set="{model_set}"')


# Without its model the tab is not shown.
if flux.shipped():
    TAB = Tab("GeoRemover", SLUG, 20, build, PAPER)
