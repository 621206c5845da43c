"""Step 3 of the MegaPortrait tab: how the portrait is made. A main slider per net, and all the rest in one accordion."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr

from demos.core.handlers import LIGHT
from pipelines.megaportrait import MODES, REGIONS, STARTS, Settings
from pipelines.megaportrait.parts import PRESETS

PACES = ("default", "fast")
OFF = {"no_identity": "the person’s training", "no_shading": "Shading Net", "no_harmonisation": "Harmonization Net"}
"""Switches of the settings, and what is left out by them."""
MAIN: dict[str, tuple[str, str]] = {
    "identity_strength": ("Identity strength", "How much of the pasted head is painted anew: more follows the reference’s pose, less keeps the person’s own picture."),
    "shading_strength": ("Shading strength", "How much is painted anew in the reference’s light: more is softer."),
    "shading_transfer": ("Light taken over before", "0 keeps the light of the person’s pictures."),
    "harmonise_strength": ("Harmonization strength", "More hides the seam; too much changes hair and neck."),
}  # fmt: skip
"""Label and help of the sliders that matter, within :attr:`Settings.SAFE`."""
FINE: dict[str, tuple[tuple[str, str, float], ...]] = {
    "Identity Net": (
        ("identity_steps", "Identity steps", 1), ("identity_guidance", "Identity guidance", 0.5),
        ("identity_lora", "Identity LoRA, how much of the trained person", 0.05),
        ("landmarks", "ControlNet: face points and outline", 0.05), ("line", "ControlNet: lines of what it begins with", 0.05),
        ("line_end", "… up to this share of the steps", 0.05), ("colour", "ControlNet: blurred colours of what it begins with", 0.05),
        ("colour_end", "… colours up to this share of the steps", 0.05), ("detail", "Fine detail given back after each net", 0.05),
    ),
    "Shading Net": (
        ("shading_steps", "Shading steps", 1), ("shading_guidance", "Shading guidance", 0.5),
        ("shading_lora", "Shading LoRA", 0.05), ("own_tone", "Keep the person’s own skin tone", 0.05),
        ("shading_line", "ControlNet: lines of the identity image", 0.05),
        ("shading_line_end", "… lines up to this share of the steps", 0.05),
        ("shading_map", "ControlNet: light of the reference", 0.05),
        ("shading_map_end", "… light up to this share of the steps", 0.05),
    ),
    "Paste": (
        ("erode", "Take in the edge, in face widths", 0.01), ("feather", "Soft edge, in face widths", 0.01),
    ),
    "Harmonization Net": (
        ("harmonise_steps", "Harmonization steps", 1), ("harmonise_guidance", "Harmonization guidance", 0.5),
        ("harmonise_lora", "Harmonization LoRA", 0.05), ("harmonise_line", "ControlNet: lines of the paste", 0.05),
        ("harmonise_map", "ControlNet: light of the paste", 0.05), ("harmonise_smooth", "Only the change smoother than, in face widths", 0.05),
        ("core_back", "Mix the pasted face back in", 0.05),
    ),
}  # fmt: skip
"""Field, label and step of the sliders in the accordion."""
MODE_HELP = (
    "Instant begins with the person’s nearest picture; trained also knows what step 1 learnt; one pass is faster."
)


@dataclasses.dataclass(frozen=True)
class Controls:
    """The settings that have a widget; ``names`` are their fields in :class:`Settings`."""

    names: tuple[str, ...]
    widgets: list[gr.components.Component]
    off: gr.CheckboxGroup
    """Fields of :data:`OFF` that are on."""
    glasses: gr.Checkbox
    """Not a setting: what the visitor says of a photographed person."""
    mode: gr.Radio
    region: gr.Radio
    pace: gr.Radio
    drop: gr.File
    run: gr.Button
    stop: gr.Button

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What :meth:`asked` reads, in its order."""
        return [self.off, *self.widgets]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What :meth:`restored` updates."""
        return [self.pace, *self.inputs]

    def asked(self, values: Sequence[Any], model_set: str) -> Settings:
        """Checked settings from what the widgets hold.

        Raises:
            ValueError: one sentence.
        """
        off, *rest = values
        switches = {name: name in (off or ()) for name in OFF}
        return Settings(model_set=model_set, **switches, **dict(zip(self.names, rest, strict=True))).validated()

    def restored(self, settings: Settings, model_set: str) -> dict[Any, Any]:
        """The updates that put ``settings`` on the widgets."""
        held = {widget: getattr(settings, name) for name, widget in zip(self.names, self.widgets, strict=True)}
        for widget in held:
            if isinstance(widget, gr.Dropdown):  # the preset: "" is the first, and another set's is none of this page's
                known = [value for _words, value in widget.choices]
                held[widget] = held[widget] if held[widget] in known else known[0]
        on = [name for name in OFF if getattr(settings, name)]
        return {**held, self.off: on, self.pace: pace_of(model_set, settings)}


def pace_of(model_set: str, settings: Settings) -> str | None:
    """The pace to which the steps and the number of candidates belong; None where they were set by hand."""
    names = _paced()
    for pace in PACES:
        known = Settings.of(model_set, fast=pace == PACES[1])
        if all(getattr(known, name) == getattr(settings, name) for name in names):
            return pace
    return None


def _paced() -> tuple[str, ...]:
    return ("identity_steps", "shading_steps", "harmonise_steps", "candidates")


def slider(name: str, settings: Settings, label: str, step: float, info: str | None = None) -> gr.Slider:
    """A slider of a field, within what :meth:`Settings.validated` takes."""
    low, high = Settings._bounds()[name]
    low, high = Settings.SAFE.get(name, (low, high))
    return gr.Slider(low, high, value=getattr(settings, name), step=step, label=label, info=info)


def build(model_set: str, licence: str, fixed: bool = False) -> Controls:
    """The widgets of step 3 and what they do among themselves.

    Args:
        licence: stands next to the button.
        fixed: only the first preset is loaded and can be had (ZeroGPU).
    """
    start = Settings.of(model_set)
    held: dict[str, gr.components.Component] = {}
    gr.HTML("<h3>3 Make</h3>", padding=False)
    with gr.Row(elem_classes="run-row"):
        run = gr.Button(
            "Make the portrait", variant="primary", size="lg", scale=3, min_width=150, elem_classes="studio-run"
        )
        stop = gr.Button("Stop", size="lg", scale=1, min_width=80, elem_classes="studio-stop")
    gr.HTML(licence, padding=False)
    held["mode"] = gr.Radio(
        [(words, name) for name, words in MODES.items()],
        value="instant",
        label="How",
        info=MODE_HELP,
        elem_classes="sources",
    )
    for name, (label, info) in MAIN.items():
        held[name] = slider(name, start, label, 0.01, info)
    held["candidates"] = slider("candidates", start, "Candidates", 1, "The one most like the person is shown first.")
    with gr.Row(elem_classes="seed-row"):
        held["seed"] = gr.Number(label="Portrait seed", value=start.seed, precision=0, min_width=110, scale=3)
        dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
    fast = Settings.of(model_set, fast=True)
    pace = gr.Radio(
        [(f"default, {_steps(start)} steps", PACES[0]), (f"fast, {_steps(fast)}", PACES[1])], value=PACES[0], label="Pace",
        elem_classes="choices",
    )  # fmt: skip
    with gr.Accordion("Advanced", open=False):
        held["region"] = gr.Radio(
            [(words, name) for name, words in REGIONS.items()], value=start.region, label="What is replaced", elem_classes="choices",
        )  # fmt: skip
        held["start"] = gr.Radio(
            [(words, name) for name, words in STARTS.items()], value=start.start, label="The Identity Net begins with",
            elem_classes="choices",
        )  # fmt: skip
        if model_set == "full":
            presets = list(PRESETS[model_set].items())[: 1 if fixed else None]
            held["preset"] = gr.Dropdown(
                [(f"{name}: {preset.words}", name) for name, preset in presets], value=presets[0][0], label="Memory", visible=not fixed
            )  # fmt: skip
            held["adapter_scale"] = slider(
                "adapter_scale", start, "IP-Adapter, in the instant mode", 0.05, "How much of the person’s pictures the model is shown."
            )  # fmt: skip
        glasses = gr.Checkbox(
            value=False, label="Most pictures of the person show glasses", visible=model_set == "full",
            info="Of photographs nothing is read: say it, and the result says what will come of it.",
        )  # fmt: skip
        for net, sliders in FINE.items():
            gr.HTML(f"<h4 class='portrait-net'>{net}</h4>", padding=False)
            for name, label, step in sliders:
                held[name] = slider(name, start, label, step)
            if net == "Paste":
                held["poisson"] = gr.Checkbox(
                    value=start.poisson, label="Poisson paste", info="Fits the colours at the edge, instead of a soft edge."
                )  # fmt: skip
        off = gr.CheckboxGroup(
            [(words, name) for name, words in OFF.items()], label="Leave out, to see what it is good for", elem_classes="choices",
        )  # fmt: skip
        drop = gr.File(
            label="Restore settings from a PNG made here", file_types=[".png"], type="filepath", height=84,
            elem_classes=["drop-zone", "portrait-restore"],
        )  # fmt: skip

    def paced(which: str) -> list[int]:
        settings = Settings.of(model_set, fast=which == PACES[1])
        return [getattr(settings, name) for name in _paced()]

    pace.input(paced, pace, [held[name] for name in _paced()], **LIGHT)
    dice.click(lambda: secrets.randbelow(2**31), None, held["seed"], **LIGHT)
    return Controls(tuple(held), list(held.values()), off, glasses, held["mode"], held["region"], pace, drop, run, stop)


def _steps(settings: Settings) -> str:
    steps = (settings.identity_steps, settings.shading_steps, settings.harmonise_steps)
    return " + ".join(str(number) for number in steps)
