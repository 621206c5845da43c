"""The map of the UNet on which a visitor says where prompt B speaks; `unet_map.js` is its other half."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from demos.core.figures import safe
from pipelines.core.settings import Field
from pipelines.instant_style import POOLED, places, short
from pipelines.instant_style.measured import ALONE_BAR, painted

SCRIPT = Path(__file__).with_name("unet_map.js")


def of(model_set: str) -> partial[gr.HTML]:
    """What makes the map of a model set's UNet: see :func:`widget`."""
    return partial(widget, model_set)


def widget(model_set: str, field: Field, value: str) -> gr.HTML:
    """The map as the widget of the setting ``places``: its value is their names with spaces between."""
    return gr.HTML(
        value,
        label=field.label,
        html_template=template(model_set, field),
        js_on_load=SCRIPT.read_text(encoding="utf-8"),
        apply_default_css=False,
        padding=False,
    )


def template(model_set: str, field: Field) -> str:
    """The way down on the left, the middle below, the way up on the right, as a U; the pooled embedding under it all."""
    sides: dict[str, list[str]] = {"down": [], "mid": [], "up": [], POOLED: []}
    for place in places(model_set):
        sides[place.partition("_")[0]].append(button(place, model_set))
    sides["up"].reverse()
    down, middle, up, pooled = ("".join(side) for side in sides.values())
    return (
        f"<div class='unet-map' role='group' aria-label='{safe(field.label)}'><p class='label'>{safe(field.label)}</p>"
        f"<p>{safe(field.info)}</p>"
        f"<div class='unet-sides'><div><p>noise comes in ↓</p>{down}</div><div><p>the picture goes out ↑</p>{up}</div></div>"
        f"{middle}<div class='unet-pooled'>{pooled}</div></div>"
    )


def button(place: str, model_set: str) -> str:
    """One place, with what it was measured to paint; with the share where that is below the bar."""
    paints = painted(place) if model_set == "mini" else []
    told = ", ".join(
        safe(name.replace("_", " ")) + (f" ({share:.0%})" if share < ALONE_BAR else "") for name, share in paints
    )
    title = "the prompt as one vector, which every layer hears" if place == POOLED else place
    return (
        f"<button type='button' data-place='{place}' aria-pressed='false' title='{title}'>"
        f"<b>{short(place)}</b><span>{told}</span><i>A</i></button>"
    )
