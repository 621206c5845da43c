"""Step 3 of the MegaPortrait tab: how the portrait is made. A main slider per net, and all the rest in one accordion."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

import gradio as gr

from demos.core.form import Form
from demos.core.handlers import LIGHT
from demos.core.page import restore_zone
from pipelines.megaportrait import Settings
from pipelines.megaportrait.parts import PRESETS
from pipelines.megaportrait.settings import DRAWN, modes_of

PACES = ("default", "fast")
OFF = ("no_identity", "no_shading", "no_harmonisation")
"""Switches of the settings that leave something out."""
MAIN = ("identity_strength", "shading_strength", "shading_transfer", "harmonise_strength", "candidates")
"""The sliders that matter."""
FINE: dict[str, tuple[str, ...]] = {
    "Identity Net": (
        "identity_steps",
        "identity_guidance",
        "identity_lora",
        "landmarks",
        "line",
        "line_end",
        "colour",
        "colour_end",
        "detail",
    ),
    "Shading Net": (
        "shading_steps",
        "shading_guidance",
        "shading_lora",
        "own_tone",
        "shading_line",
        "shading_line_end",
        "shading_map",
        "shading_map_end",
    ),
    "Paste": ("erode", "feather", "poisson"),
    "Harmonization Net": (
        "harmonise_steps",
        "harmonise_guidance",
        "harmonise_lora",
        "harmonise_line",
        "harmonise_map",
        "harmonise_smooth",
        "core_back",
    ),
}
"""Those in the accordion."""
IN_MINI = (
    "Drawn: nets that know rendered people draw head, hair and neck anew, each in one step; strengths and steps below are those of the other modes. "
    "Instant begins with the person’s nearest picture; trained also knows what step 1 learnt; one pass is faster."
)
STEPS = ("identity_steps", "shading_steps", "harmonise_steps")
PACED = (*STEPS, "candidates")


@dataclasses.dataclass(frozen=True)
class Controls:
    """The widgets of the settings and what stands beside them."""

    form: Form[Settings]
    off: gr.CheckboxGroup
    """Names of :data:`OFF` that are on."""
    glasses: gr.Checkbox
    """Not a setting: what the visitor says of a photographed person."""
    pace: gr.Radio
    drop: gr.File
    run: gr.Button
    stop: gr.Button

    @property
    def named(self) -> dict[str, gr.components.Component]:
        """What an event gives :meth:`asked` by name."""
        return {"off": self.off, **self.form.widgets}

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What :meth:`restored` updates."""
        return [self.pace, self.off, *self.form.outputs]

    def asked(self, off: list[str] | None, **values: object) -> Settings:
        """Checked settings from what the widgets hold.

        Raises:
            ValueError: one sentence.
        """
        return self.form.settings(values, **{name: name in (off or ()) for name in OFF})

    def restored(self, settings: Settings) -> dict[Any, Any]:
        """The updates that put ``settings`` on the widgets."""
        held = self.form.updates(settings)
        for widget in held:
            if isinstance(widget, gr.Dropdown):  # the preset: "" is the first, and another set's is none of this page's
                known = [value for _words, value in widget.choices]
                held[widget] = held[widget] if held[widget] in known else known[0]
        on = [name for name in OFF if getattr(settings, name)]
        return {**held, self.off: on, self.pace: pace_of(self.form.start.model_set, settings)}


def pace_of(model_set: str, settings: Settings) -> str | None:
    """The pace to which the steps and the number of candidates belong; None where they were set by hand."""
    for pace in PACES:
        known = Settings.of(model_set, fast=pace == PACES[1])
        if all(getattr(known, name) == getattr(settings, name) for name in PACED):
            return pace
    return None


def first_mode(model_set: str) -> str:
    """What a page opens with: nobody is trained yet. The endpoint takes "instant" where nothing is said, as it always has."""
    return DRAWN if model_set == "mini" else "instant"


def form_of(model_set: str) -> Form[Settings]:
    """A form without widgets yet; nobody is trained when the page opens."""
    return Form(dataclasses.replace(Settings.of(model_set), mode=first_mode(model_set)))


def build(
    model_set: str, run: gr.Button, stop: gr.Button, fixed: bool = False, form: Form[Settings] | None = None
) -> Controls:
    """The widgets of step 3 below its result, and what they do among themselves. ``fixed``: only the first preset is loaded and
    can be had (ZeroGPU)."""
    form = form or form_of(model_set)
    offered = [(words, mode) for mode, words in modes_of(model_set).items()]
    form.add("mode", elem_classes="sources", choices=offered, **({"info": IN_MINI} if model_set == "mini" else {}))
    with gr.Accordion("Strengths, seed and pace", open=False):
        form.add(*MAIN)
        with gr.Row(elem_classes="seed-row"):
            form.add("seed", label="Portrait seed", scale=3)
            dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
        paces = [(f"default, {_steps(form.start)} steps", PACES[0])]
        paces.append((f"fast, {_steps(Settings.of(model_set, fast=True))}", PACES[1]))
        pace = gr.Radio(paces, value=PACES[0], label="Pace", elem_classes="choices")
    with gr.Accordion("Advanced", open=False):
        form.add("region", "start", elem_classes="choices")
        if model_set == "full":
            presets = list(PRESETS[model_set].items())[: 1 if fixed else None]
            words = [(f"{name}: {preset.words}", name) for name, preset in presets]
            form.widgets["preset"] = gr.Dropdown(words, value=presets[0][0], label="Memory", visible=not fixed)
            form.add("adapter_scale")
            if fixed:  # as with the preset: what draws other lines is not loaded
                form.widgets["lines"] = gr.Dropdown([form.start.lines], value=form.start.lines, visible=False)
            else:
                form.add("lines", elem_classes="choices")
        glasses = gr.Checkbox(
            value=False,
            label="Most pictures of the person show glasses",
            visible=model_set == "full",
            info="Of photographs nothing is read: say it, and the result says what will come of it.",
        )
        for net, names in FINE.items():
            gr.HTML(f"<h3 class='megaportrait-net'>{net}</h3>", padding=False)
            form.add(*names)
        switches = [(form.start.field(name).label, name) for name in OFF]
        off = gr.CheckboxGroup(switches, label="Leave out, to see what it is good for", elem_classes="choices")
        drop = restore_zone()

    def paced(which: str) -> list[int]:
        settings = Settings.of(model_set, fast=which == PACES[1])
        return [getattr(settings, name) for name in PACED]

    pace.input(paced, pace, [form[name] for name in PACED], **LIGHT)
    dice.click(lambda: secrets.randbelow(2**31), None, form["seed"], **LIGHT)
    return Controls(form, off, glasses, pace, drop, run, stop)


def _steps(settings: Settings) -> str:
    return " + ".join(str(getattr(settings, name)) for name in STEPS)
