"""A widget that says which prompt speaks in which stage, by mouse, finger and keyboard; `timeline.js` is its other half."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import gradio as gr

from demos.core.figures import safe
from demos.core.widgets import words_of
from pipelines.prospect import LETTERS

TEMPLATE = """<div class="timeline" data-letters="{letters}" data-names="{names}"><p class="timeline-title">{label}</p>
<p>Drag a prompt onto the stages, or pick one and paint. Keys: arrows, then its letter.</p>
<div class="timeline-bar" role="group" aria-label="{label}"></div>
<p class="timeline-ends"><span>noise: layout</span><span>details: picture</span></p>
<div class="timeline-palette" role="group" aria-label="Put onto the stages"></div></div>"""


def build(label: str, value: str, names: Mapping[str, str] = MappingProxyType({})) -> gr.HTML:
    """The widget; its value is the plan, a letter a stage. ``names``: letter -> what it stands for; else the prompts beside it."""
    letters = "".join(names) or LETTERS
    shown = TEMPLATE.format(label=safe(label), letters=letters, names=safe(json.dumps(dict(names))))
    return gr.HTML(
        value,
        html_template=shown,
        css_template=words_of(__package__, "timeline.css"),
        js_on_load=words_of(__package__, "timeline.js"),
        apply_default_css=False,
        padding=False,
        elem_classes="timeline-host",
    )
