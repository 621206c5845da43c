"""The middle and the right of the GeoRemover tab: the widgets that show a run, and what they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from demos.core.hold import STARTS
from demos.core.links import Link
from demos.core.page import before_and_after, variants
from demos.core.widgets import progress_line
from demos.georemover.edit import Edit
from demos.georemover.files import Shown
from demos.georemover.shown import comparison_html, figures_html, heat_of, metrics_html, moved_words, notes_html
from pipelines import georemover
from pipelines.core.images import Picture
from pipelines.core.stages import Preview
from pipelines.georemover import Geometry, Outcome, views

NOTHING_YET = "Mark what is to go, press Remove and see what goes with it."
RAW, PASTED = "result", "composite"
STRIP = (
    "Stage 2 paints all three at once; only the left one is the result. Where the other two differ from the depth maps above, the "
    "rendering was unsteady."
)
STAND_IN = (
    "A preview, not GeoRemover: the weights of this model set cannot be had, so the marked area was filled by a classical method (Telea, "
    "OpenCV), which leaves shadow and reflection where they are."
)


@dataclasses.dataclass(frozen=True)
class View:
    """The widgets, and the updates that put a run on them."""

    line: gr.HTML
    before: gr.Image
    after: gr.Image
    change: gr.Image
    moved: gr.HTML
    slider: gr.ImageSlider
    gallery: gr.Gallery
    notes: gr.HTML
    beside: gr.HTML
    table: gr.HTML
    more: gr.Column
    heat: gr.Image
    heat_words: gr.HTML
    strip: gr.Image
    figures: gr.HTML
    saves: tuple[gr.DownloadButton, ...]
    last: gr.State
    """The run on the page, a :class:`Shown`, or None."""
    link: Link
    depth: gr.Button
    geometry: gr.Button
    render: gr.Button
    colours: gr.Radio
    which: gr.Radio
    threshold: gr.Slider

    @property
    def depths(self) -> list[gr.blocks.Block]:
        return [self.before, self.after, self.change, self.moved]

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """Everything that a run changes."""
        return [
            self.line,
            *self.depths,
            self.slider,
            self.gallery,
            self.notes,
            self.beside,
            self.table,
            self.more,
            self.heat,
            self.heat_words,
            self.strip,
            self.figures,
            *self.saves,
            self.last,
            self.link.shown,
        ]

    def geometry_of(self, outcome: Outcome | Geometry, colours: str) -> dict[Any, Any]:
        """The depth maps of a run, as far as it went."""
        before, after = outcome.depth_before, outcome.depth_after
        updates: dict[Any, Any] = {self.before: views.depth_picture(before, colours)}
        if after is not None:
            change, peak = views.difference_picture(before, after, colours)
            updates |= {self.after: views.depth_picture(after, colours), self.change: change}
            updates[self.moved] = moved_words(outcome, peak)
        return updates

    def result_of(self, shown: Shown, which: str) -> dict[Any, Any]:
        """The result, or the composite, of the variant that is chosen."""
        return {
            self.slider: shown.pair(which),
            self.gallery: gr.Gallery(
                value=shown.variants(which), visible=len(shown.results) > 1, selected_index=shown.index
            ),
        }

    def show(self, shown: Shown, colours: str, which: str, threshold: float) -> dict[Any, Any]:
        """The updates that put a finished run on the page, looked at as the widgets say."""
        notes = notes_html(shown.outcome.notes)
        updates = {**self.geometry_of(shown.outcome, colours), self.notes: notes, self.last: shown}
        if not shown.results:
            return updates
        outcome = shown.finished
        return {
            **updates,
            **self.result_of(shown, which),
            **self.heat_map(shown, threshold),
            self.beside: comparison_html(outcome, shown.clean, shown.index),
            self.table: metrics_html(outcome, shown.index),
            self.more: gr.Column(visible=True),
            self.strip: shown.strips[shown.index],
            self.figures: figures_html(outcome),
            **{button: gr.DownloadButton(value=path) for button, path in zip(self.saves, shown.files(), strict=True)},
        }

    def heat_map(self, shown: Shown, threshold: float) -> dict[Any, Any]:
        """The heat map of the change."""
        picture, words = heat_of(shown.finished, shown.index, threshold)
        return {self.heat: picture, self.heat_words: words}

    def preview(self, item: Preview, ground: Image.Image, colours: str) -> dict[Any, Any]:
        """What a stage has so far. ``ground``: the picture, for the left of the slider."""
        if item.stage == georemover.RESULT:
            return {self.slider: (ground.resize(item.picture.size), item.picture)}
        place = {georemover.DEPTH_BEFORE: self.before, georemover.DEPTH_AFTER: self.after}.get(item.stage)
        # Previews are in the models' own colours: in grey one waits for the finished map.
        return {place: item.picture} if place is not None and colours == "inferno" else {}

    def stand_in(self, image: Picture, filled: Picture) -> dict[Any, Any]:
        """The marked area filled without a model, where the weights cannot be had."""
        pair = tuple(Image.fromarray(picture) for picture in (image, filled))
        return {self.slider: pair, self.notes: f"<p class='remark'>{STAND_IN}</p>"}

    def clear(self) -> dict[Any, Any]:
        """Another picture is on the page: what was shown belongs to the one before, and is in the history."""
        return {
            **dict.fromkeys((self.before, self.after, self.change, self.slider, self.last)),
            **dict.fromkeys((self.moved, self.notes, self.beside, self.table), ""),
            self.gallery: gr.Gallery(value=None, visible=False),
            self.more: gr.Column(visible=False),
            self.line: progress_line(NOTHING_YET),
            **self.link.of(None),
        }


def build_view(edit: Callable[[], Edit], link: Callable[[], Link]) -> tuple[View, Edit]:
    """The widgets; ``edit`` makes those for a depth of one's own in their place, ``link`` the line with the result's address."""
    line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="georemover-line")
    with gr.Row(equal_height=False, elem_classes="georemover-stages"):
        with gr.Column(min_width=280):
            gr.HTML("<h3>2 Geometry</h3>", padding=False)
            with gr.Row(elem_classes="georemover-depths"):
                before = _frame("Depth before", "Depth of the picture, near is bright")
                after = _frame("Depth after", "Depth without the object, near is bright")
                change = _frame("Difference", "Where the depth changed is bright")
            moved = gr.HTML(padding=False)
            with gr.Row(elem_classes="run-row"):
                depth = gr.Button("1 Estimate depth", size="md", min_width=100, elem_classes=STARTS)
                geometry = gr.Button("2 Remove from depth", size="md", min_width=100, elem_classes=STARTS)
            kinds = [("inferno, as the models see it", "inferno"), ("grey", "grey")]
            colours = gr.Radio(kinds, value="inferno", label="Depth colours", elem_classes="choices")
            editing = edit()
        with gr.Column(min_width=280):
            gr.HTML("<h3>3 Result</h3>", padding=False)
            slider = before_and_after("Before and after", "georemover-slide")
            gallery = variants("Variants", "variants")
            with gr.Row(elem_classes="run-row"):
                render = gr.Button("3 Render", size="md", min_width=100, elem_classes=STARTS)
            ways = [("composite: all else untouched", PASTED), ("raw result of stage 2", RAW)]
            which = gr.Radio(ways, value=PASTED, label="Show", elem_classes="choices")
            linked = link()
            notes, beside = gr.HTML(padding=False), gr.HTML(padding=False)
    table = gr.HTML(padding=False)
    with gr.Column(visible=False) as more:
        rest = _build_more()
    buttons: dict[str, Any] = {
        "depth": depth,
        "geometry": geometry,
        "render": render,
        "colours": colours,
        "which": which,
    }
    shown: dict[str, Any] = {
        "slider": slider,
        "gallery": gallery,
        "notes": notes,
        "beside": beside,
        "table": table,
        "more": more,
    }
    maps: dict[str, Any] = {"before": before, "after": after, "change": change, "moved": moved}
    return View(line=line, last=gr.State(None), link=linked, **maps, **shown, **buttons, **rest), editing


def _build_more() -> dict[str, Any]:
    """What is there once a run is done: files, the heat map, the strip, and who answered."""
    with gr.Row(elem_classes="saves-row"):
        saves = tuple(
            gr.DownloadButton(words, size="md", min_width=90)
            for words in ("Download result", "Download composite", "Download all (zip)")
        )
    with gr.Accordion("Change heat map", open=False):
        heat = _frame("What changed in the raw result", "Heat map of the change; the mask is outlined in white")
        threshold = gr.Slider(1, 40, value=views.CHANGED, step=1, label="Counts as changed above, of 255")
        heat_words = gr.HTML(padding=False)
    with gr.Accordion("The raw strip of stage 2", open=False):
        strip = gr.Image(
            label="Result, depth after, depth before",
            interactive=False,
            type="filepath",
            buttons=["download", "fullscreen"],
            elem_classes="strip-frame",
            alt_text="Three panels painted at once: the result, the depth after and the depth before",
        )
        gr.HTML(f"<p class='quiet'>{STRIP}</p>", padding=False)
    widgets = {"saves": saves, "heat": heat, "threshold": threshold, "heat_words": heat_words, "strip": strip}
    return {**widgets, "figures": gr.HTML(padding=False)}


def _frame(label: str, words: str) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        type="pil",
        format="png",
        buttons=["download", "fullscreen"],
        elem_classes="frame",
        alt_text=words,
        placeholder=" ",
        min_width=120,
    )
