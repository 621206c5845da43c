"""The settings of the GeoRemover tab that need not be touched, in one accordion."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

import gradio as gr

from demos.core.form import Form
from demos.core.handlers import LIGHT
from demos.core.page import restore_zone
from pipelines.georemover import Settings
from pipelines.models import flux

PACES = ("official", "fast")


@dataclasses.dataclass(frozen=True)
class Controls:
    """The settings of the page, and what is asked for beside them."""

    asked: Form[Settings]
    compare: gr.Checkbox
    drop: gr.File
    presets: tuple[str, ...]
    """Those that can be chosen."""
    pace: gr.Radio

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What :meth:`updates` changes."""
        return [*self.asked.outputs, self.pace]

    def updates(self, settings: Settings) -> dict[Any, Any]:
        """The updates that put ``settings`` on the page."""
        preset = settings.preset if settings.preset in self.presets else self.presets[0]
        pace = pace_of(self.asked.start.model_set, settings)
        return {**self.asked.updates(dataclasses.replace(settings, preset=preset)), self.pace: pace}


def pace_of(model_set: str, settings: Settings) -> str | None:
    """The pace to which the steps of ``settings`` belong; None where they were set by hand."""
    base, steps = flux.BASES[model_set], (settings.steps_1, settings.steps_2)
    return PACES[0] if steps == base.steps else PACES[1] if steps == base.fast else None


def build(asked: Form[Settings], fixed: bool = False) -> Controls:
    """The accordion with everything that need not be touched. ``fixed``: only the first preset is loaded and can be had (ZeroGPU)."""
    small, base = asked.start.model_set == "mini", flux.BASES[asked.start.model_set]
    presets = dict(list(base.presets.items())[: 1 if fixed else None])
    words = "as published" if base.steps == flux.FillBase.steps else "as measured best"
    official, fast = f"{words}, {base.steps[0]} + {base.steps[1]} steps", f"fast, {base.fast[0]} + {base.fast[1]}"
    with gr.Accordion("Settings", open=False):
        paces = list(zip((official, fast), PACES, strict=True))
        pace = gr.Radio(paces, value=PACES[0], label="Pace", elem_classes="choices")
        steps = asked.add("steps_1", "steps_2")
        with gr.Row(elem_classes="seed-row"):
            seed = asked.add("seed", label="Removal seed", scale=3)
            dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
        asked.add("variants")
        compare = gr.Checkbox(
            value=small,
            label="Also fill only the marked area, without geometry",
            info="The same base model without either adapter: what removers without geometry do.",
        )
        asked.add("depth_assist", "keep_depth", "feather")
        none = "Has no effect in the mini set: its models were trained over all values."
        asked.add("guidance", info=none if small else "30 as published.")
        asked.add("scale_1", "scale_2")
        asked.widgets["preset"] = gr.Dropdown(
            [(words, key) for key, words in presets.items()],
            value=next(iter(presets)),
            label="Memory",
            visible=len(presets) > 1,
        )
        drop = restore_zone()
    pace.input(lambda which: base.fast if which == PACES[1] else base.steps, pace, steps, **LIGHT)
    dice.click(lambda: secrets.randbelow(2**31), None, seed, **LIGHT)
    return Controls(asked, compare, drop, tuple(presets), pace)
