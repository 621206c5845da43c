"""The right of the MegaPortrait tab: the widgets that show a run, and what they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from PIL import Image

from demos.core.figures import data_uri, safe
from demos.core.links import Link
from demos.core.page import before_and_after, variants
from demos.core.widgets import progress_line
from demos.megaportrait.files import Shown
from demos.megaportrait.shown import (
    CAPTIONS,
    beside_html,
    figures_html,
    metrics_html,
    notes_html,
    numbered,
    strip_html,
)
from pipelines.megaportrait import Preview

NOTHING_YET = "Choose a person and a reference, press Make the portrait and watch the three nets."
SIDE = 160
"""Long side of a preview in the strip, in pixels: it is sent anew with every step."""


@dataclasses.dataclass(frozen=True)
class View:
    """The widgets, and the updates that put a run on them."""

    line: gr.HTML
    strip: gr.HTML
    slider: gr.ImageSlider
    gallery: gr.Gallery
    measured: gr.HTML
    """Notes and measurements."""
    under: gr.HTML
    """Pictures beside each other, and what answered."""
    more: gr.Column
    saves: tuple[gr.DownloadButton, ...]
    last: gr.State
    """The run on the page, a :class:`Shown`, or None."""
    link: Link

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """Everything that a run changes."""
        return [
            self.line,
            self.strip,
            self.slider,
            self.gallery,
            self.measured,
            self.under,
            self.more,
            *self.saves,
            self.last,
            self.link.shown,
        ]

    def show(self, shown: Shown) -> dict[Any, Any]:
        """The updates that put a finished run on the page."""
        outcome, index = shown.outcome, shown.index
        person = None if shown.chosen is None else shown.chosen.person
        one = outcome.candidates[index]
        several = len(shown.results) > 1
        return {
            self.strip: strip_html(one, outcome.analysis, outcome.settings.mode),
            self.slider: (shown.before, shown.results[index]),
            self.gallery: gr.Gallery(value=shown.captions(), visible=several, selected_index=index),
            self.measured: notes_html(outcome.notes) + metrics_html(outcome, index),
            self.under: beside_html(outcome, index, person) + figures_html(outcome),
            self.more: gr.Column(visible=True),
            **{button: gr.DownloadButton(value=path) for button, path in zip(self.saves, shown.files(), strict=True)},
            self.last: shown,
        }

    def clear(self) -> dict[Any, Any]:
        """Somebody else or another reference is there: what was shown belongs to those before, and is in the history."""
        return {
            **dict.fromkeys((self.strip, self.measured, self.under), ""),
            self.slider: None,
            self.last: None,
            self.gallery: gr.Gallery(value=None, visible=False),
            self.more: gr.Column(visible=False),
            **self.link.of(None),
        }


def live_strip(seen: Mapping[str, Preview]) -> str:
    """The stages of a run so far, each as it looked last."""
    items = "".join(_stage(number, name, seen[name]) for name, number in numbered(seen).items())
    return f"<div class='beside-each-other megaportrait-strip'><h3>Stage by stage</h3><ul>{items}</ul></div>"


def _stage(number: int, name: str, item: Preview) -> str:
    picture = item.picture.convert("RGB")
    if max(picture.size) > SIDE:
        picture = picture.copy()
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    state = CAPTIONS[name] if item.step == item.steps else f"step {item.step} of {item.steps}"
    return (
        f"<li><img src='{data_uri(picture, 'WEBP')}' alt='{safe(name)}: {safe(state)}'><b>{number}. {safe(name)}</b>"
        f"<span>{safe(state)}</span></li>"
    )


def build_result(link: Callable[[], Link]) -> dict[str, Any]:
    """The widgets beside the steps: how far the run is, the portrait over its reference, its ``link``, its files."""
    with gr.Column(elem_classes=["studio-results", "megaportrait-result"]):
        line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="megaportrait-line")
        slider = before_and_after("Reference and portrait", "megaportrait-slide")
        linked = link()
        strip = gr.HTML(padding=False)
        gallery = variants("Candidates, the most alike first", ["variants", "megaportrait-candidates"])
        with gr.Column(visible=False) as more, gr.Row(elem_classes="saves-row"):
            saves = tuple(
                gr.DownloadButton(words, size="md", min_width=90)
                for words in ("Download portrait", "Download all (zip)", "Download manifest")
            )
    return {
        "line": line,
        "slider": slider,
        "link": linked,
        "strip": strip,
        "gallery": gallery,
        "more": more,
        "saves": saves,
    }


def build(result: dict[str, Any]) -> View:
    """The widgets below the steps, with those of :func:`build_result`."""
    measured, under = gr.HTML(padding=False), gr.HTML(padding=False)
    return View(**result, measured=measured, under=under, last=gr.State(None))
