"""The settings of the GeoRemover tab that need not be touched, in one accordion."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr

from demos.core.handlers import LIGHT
from pipelines.georemover import Settings
from pipelines.models import flux

PACES = ("official", "fast")


@dataclasses.dataclass(frozen=True)
class Controls:
    """The settings that have a widget here; ``names`` are their fields in :class:`Settings`."""

    names: tuple[str, ...]
    widgets: list[gr.components.Component]
    compare: gr.Checkbox
    drop: gr.File
    preset: gr.Dropdown
    presets: tuple[str, ...]
    """Those that can be chosen."""
    pace: gr.Radio

    def asked(self, values: Sequence[Any], grow: Any, fill: Any, model_set: str) -> Settings:
        """Checked settings from what the widgets hold."""
        named = dict(zip(self.names, values, strict=True))
        return Settings(grow=grow, fill_holes=fill, model_set=model_set, **named).validated()


def pace_of(model_set: str, settings: Settings) -> str | None:
    """The pace to which the steps of ``settings`` belong; None where they were set by hand."""
    base, steps = flux.BASES[model_set], (settings.steps_1, settings.steps_2)
    return PACES[0] if steps == base.steps else PACES[1] if steps == base.fast else None


def build(model_set: str, fixed: bool = False) -> Controls:
    """The accordion with everything that need not be touched. ``fixed``: only the first preset is loaded and can be had (ZeroGPU)."""
    base = flux.BASES[model_set]
    presets = dict(list(base.presets.items())[: 1 if fixed else None])
    standard = Settings.of(model_set)
    words = "as published" if base.steps == flux.FillBase.steps else "as measured best"
    with gr.Accordion("Settings", open=False):
        pace = gr.Radio(
            [(f"{words}, {base.steps[0]} + {base.steps[1]} steps", PACES[0]), (f"fast, {base.fast[0]} + {base.fast[1]}", PACES[1])],
            value=PACES[0], label="Pace", elem_classes="choices",
        )  # fmt: skip
        steps_1 = gr.Slider(*Settings.STEPS, value=base.steps[0], step=1, label="Stage 1 steps, geometry")
        steps_2 = gr.Slider(*Settings.STEPS, value=base.steps[1], step=1, label="Stage 2 steps, rendering")
        with gr.Row(elem_classes="seed-row"):
            seed = gr.Number(label="Removal seed", value=0, precision=0, min_width=110, scale=3)
            dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
        variants = gr.Slider(*Settings.VARIANTS, value=1, step=1, label="Variants", info="Each from a seed of its own.")
        compare = gr.Checkbox(
            value=model_set == "mini", label="Also fill only the marked area, without geometry",
            info="The same base model without either adapter: what removers without geometry do.",
        )  # fmt: skip
        assist = gr.Checkbox(
            value=False, label="Depth assist",
            info="Before stage 1, raise the depth inside the mask to the nearest of its neighbourhood: for glass, mirrors and flat prints.",
        )  # fmt: skip
        keep = gr.Checkbox(
            value=standard.keep_depth, label="Keep the depth outside the mask",
            info="The paper says so; the authors’ code leaves it to the model.",
        )  # fmt: skip
        feather = gr.Slider(
            *Settings.FEATHER, value=standard.feather, step=1, label="Soft edge of the composite, pixels"
        )
        guidance = gr.Slider(
            *Settings.GUIDANCE, value=base.guidance, step=1, label="Guidance",
            info="Has no effect in the mini set: its models were trained over all values." if model_set == "mini"
            else "30 as published.",
        )  # fmt: skip
        scale_1 = gr.Slider(*Settings.SCALE, value=1.0, step=0.05, label="Strength of the geometry adapter")
        scale_2 = gr.Slider(*Settings.SCALE, value=1.0, step=0.05, label="Strength of the rendering adapter")
        preset = gr.Dropdown(
            [(words, key) for key, words in presets.items()], value=next(iter(presets)), label="Memory",
            visible=len(presets) > 1,
        )  # fmt: skip
        drop = gr.File(
            label="Restore settings from a PNG made here", file_types=[".png"], type="filepath", height=84,
            elem_classes=["drop-zone", "removal-restore"],
        )  # fmt: skip
    pace.input(lambda which: base.fast if which == PACES[1] else base.steps, pace, [steps_1, steps_2], **LIGHT)
    dice.click(lambda: secrets.randbelow(2**31), None, seed, **LIGHT)
    names = (
        "steps_1",
        "steps_2",
        "seed",
        "variants",
        "depth_assist",
        "keep_depth",
        "feather",
        "guidance",
        "scale_1",
        "scale_2",
        "preset",
    )
    widgets = [steps_1, steps_2, seed, variants, assist, keep, feather, guidance, scale_1, scale_2, preset]
    return Controls(names, widgets, compare, drop, preset, tuple(presets), pace)
