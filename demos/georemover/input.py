"""The left of the GeoRemover tab: a picture, rolled or brought along, and the mask of what is to go."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.handlers import LIGHT, TALKS
from demos.core.hold import held, hold
from demos.core.uploads import download, emptied, told
from demos.core.visitors import visitor
from demos.georemover import painter, scenes
from demos.georemover.files import SLUG
from demos.georemover.mask import (
    BRUSH,
    CLICK,
    asked_mask,
    current_mask,
    marked,
    mask_file,
    mask_line,
    read_mask,
    shown_scale,
    snapped,
    solid_mask,
)
from demos.georemover.scenes import HELD_OUT, Picture
from pipelines.core import images, limits
from pipelines.georemover import EXAMPLES, Recipe, Settings
from pipelines.models import flux
from pipelines.worlds.grammar import FLOORS

SCENE, OWN = "scene", "own"
ANY = "any"
SMALL_WORLD = (
    "The small models know rendered tabletop scenes only: on anything else they paint something, and it says nothing about the "
    "method. The full set, <code>--model-set full</code>, knows photographs."
)
HELD = "Every scene brings its truth along, the same scene rendered without the object. No scene of these seeds was used in training."


@dataclasses.dataclass(frozen=True)
class Input:
    """The widgets that say what is to be removed from what."""

    picture: gr.State
    """A :class:`Picture`, or None."""
    key: gr.State
    """Of the picture; its change says that another one was put on the page."""
    mode: gr.Radio
    editor: gr.HTML
    grow: gr.Slider
    fill: gr.Checkbox
    chips: list[gr.Button]
    run: gr.Button
    stop: gr.Button
    load: Callable[..., dict[Any, Any]]
    """``load(picture, grow, fill, brushed mask)``: the updates that put it on the page."""
    outputs: list[gr.blocks.Block]
    """What ``load`` updates."""


def build(model_set: str, licence: str) -> Input:
    """The widgets and what they do among themselves. ``licence`` stands next to the button."""
    base, start = flux.BASES[model_set], scenes.first()
    picture, scene, mine, key = gr.State(start), gr.State(start), gr.State(None), gr.State(start.key)
    gr.HTML("<h3>1 Picture and mask</h3>", padding=False)
    kind = gr.Radio(
        [("A rendered scene", SCENE), ("My own picture", OWN)], value=SCENE, label="Picture", show_label=False,
        container=False, elem_classes="choices",
    )  # fmt: skip
    with gr.Column(visible=False) as own_box:
        dropped = _drop("Drop a picture: PNG, JPEG or WebP", "removal-photo")
        if model_set == "mini":
            gr.HTML(f"<p class='remark'>{SMALL_WORLD}</p>", padding=False)
    with gr.Column() as click_box:
        seen = _picture("Click the object that is to go", marked(start, solid_mask(start), base), "removal-scene")
    with gr.Column(visible=False) as brush_box:
        editor = painter.build("Brush over the object, not over its shadow")
    with gr.Row(elem_classes="run-row"):
        run = gr.Button("Remove", variant="primary", size="lg", scale=3, min_width=120, elem_classes="studio-run")
        stop = gr.Button("Stop", size="lg", scale=1, min_width=90, elem_classes="studio-stop")
    gr.HTML(licence, padding=False)
    line = gr.HTML(mask_line(start, solid_mask(start), base), padding=False)
    mode = gr.Radio(
        [("Click the object", CLICK), ("Brush over it", BRUSH)], value=CLICK, label="Mark what is to go",
        elem_classes="choices",
    )  # fmt: skip
    solid = gr.Radio(solid_choices(start), value=start.index, label="Object that is to go", elem_classes="choices")
    with gr.Column(elem_classes="studio-chips"):
        gr.HTML("<p class='label'>Examples: one click removes</p>", padding=False)
        with gr.Row(elem_classes="chips"):
            chips = [gr.Button(recipe.title, size="sm", elem_classes="example") for recipe in EXAMPLES]
    with gr.Accordion("Roll a new scene", open=False):
        with gr.Row(elem_classes="removal-roll"):
            count = gr.Dropdown([(ANY, 0), ("1", 1), ("2", 2), ("3", 3)], value=2, label="Objects", min_width=120)
            floor = gr.Dropdown([ANY, *FLOORS], value=ANY, label="Floor", min_width=120)
            light = gr.Dropdown([ANY, "soft", "hard"], value=ANY, label="Light", min_width=120)
            mirror = gr.Dropdown([ANY, "mirroring", "matt"], value=ANY, label="Reflection", min_width=120)
        with gr.Row(elem_classes="seed-row"):
            number = gr.Number(label="Scene seed", value=start.recipe.seed, precision=0, min_width=90, scale=2)
            again = gr.Button("Render it", size="sm", min_width=80, scale=1)
            dice = gr.Button("Roll a new scene", size="sm", min_width=130, scale=1)
        gr.HTML(f"<p class='quiet'>{HELD}</p>", padding=False)
    with gr.Accordion("Mask tools", open=False):
        grow = gr.Slider(
            *Settings.GROW, value=base.grow, step=1, label="Grow or shrink the mask, pixels",
            info=f"At the size the model works at, long side {base.long_side}.",
        )  # fmt: skip
        fill = gr.Checkbox(value=True, label="Fill holes")
        white = gr.Checkbox(value=False, label="In mask files, white = keep")
        mask_drop = _drop("Use a mask from a file", "removal-mask")
        save = gr.Button("Download mask", size="md")
        edges = gr.Button("Snap the strokes to the object", size="md")
        preview = _picture("What the model gets", marked(start, solid_mask(start), base))

    tools = [grow, fill]
    state = [picture, mode, editor, *tools]
    by_look = [line, preview, seen, save]
    boxes = [click_box, solid, brush_box, editor]
    outputs = [picture, key, scene, mine, kind, own_box, mode, number, *boxes, *by_look]

    def sides(click: bool, brush: bool) -> dict[Any, Any]:
        return {
            click_box: gr.Column(visible=click), solid: gr.Radio(visible=click), brush_box: gr.Column(visible=brush)
        }  # fmt: skip

    def load(
        new: Picture, pixels: float | None = None, holes: bool = True, brushed: Any = None
    ) -> dict[Any, Any]:  # fmt: skip
        rendered = new.solids is not None
        updates = {
            picture: new, key: new.key, home(new): new, kind: SCENE if rendered else OWN,
            own_box: gr.Column(visible=not rendered),
        }  # fmt: skip
        if rendered:
            updates |= {solid: gr.Radio(choices=solid_choices(new), value=new.index), number: new.recipe.seed}
        how = new.mode or CLICK if rendered else BRUSH
        if brushed is not None or (how == BRUSH and not new.strokes):
            updates |= on_brush(new, brushed, pixels, holes)
            how = BRUSH
        else:  # as it was left
            updates |= {editor: new.strokes, **look(new, how, new.strokes, pixels, holes)}
        updates |= {mode: gr.Radio(value=how, visible=rendered), **sides(how == CLICK, how == BRUSH)}
        if rendered:
            updates[solid] = gr.Radio(choices=solid_choices(new), value=new.index, visible=how == CLICK)
        return updates

    def home(of: Picture) -> gr.State:
        """Where the last picture of its kind is kept."""
        return mine if of.solids is None else scene

    def left(now: Picture | None, how: str, drawn: Any) -> dict[Any, Any]:
        """The picture with the strokes on it, for whoever goes to another one and comes back."""
        if now is None or not isinstance(drawn, dict) or drawn.get("key") != now.key:
            return {}
        return {home(now): dataclasses.replace(now, strokes=drawn, mode=how)}

    def look(now: Picture | None, how: str, drawn: Any, pixels: Any, holes: bool) -> dict[Any, Any]:
        """The mask as it is now: in words, as the model gets it, and in the scene."""
        if now is None:
            return {line: mask_line(None, None, base)}
        mask, pixels = current_mask(now, how, drawn), None if pixels is None else int(pixels)
        shown = marked(now, mask, base, pixels, bool(holes))
        updates = {
            line: mask_line(now, mask, base, pixels, bool(holes)), preview: shown,
            save: gr.Button(interactive=bool(mask.any())),
        }  # fmt: skip
        return {**updates, seen: shown} if now.solids is not None and how == CLICK else updates

    def on_brush(now: Picture, mask: Any, pixels: float | None, holes: bool) -> dict[Any, Any]:
        """Over to the brush, with ``mask`` as what is painted already."""
        new, drawn = painter.put_on(now, mask)
        return {
            picture: new, home(new): new, mode: BRUSH, **sides(False, True), editor: drawn,
            **look(new, BRUSH, drawn, pixels, holes),
        }  # fmt: skip

    def changed(now, how, drawn, pixels, holes) -> dict[Any, Any]:
        return {**left(now, how, drawn), **look(now, how, drawn, pixels, holes)}

    def saved(now, how, drawn, request: gr.Request) -> str:
        with told("There is no mask to save"):
            return mask_file(now, asked_mask(now, how, drawn), visitor(request))

    def choose(now: Picture, index: int | None, rest: list[Any]) -> dict[Any, Any]:
        new = now.chosen(index)
        # The brush goes on from the object that was clicked last, so strokes around another one go.
        return {picture: new, scene: new, solid: index, editor: None, **look(new, *rest)}

    def click(now, how, drawn, pixels, holes, event: gr.SelectData) -> Any:
        if now is None or now.solids is None:
            return gr.skip()
        scale = shown_scale(now)
        index = now.at(int(event.index[0] / scale), int(event.index[1] / scale))
        if index is None:
            gr.Info("There is no object here: click one of the solids.", title="Nothing chosen")
            return gr.skip()
        return choose(now, index, [how, drawn, pixels, holes])

    def pick(index, now, how, drawn, pixels, holes) -> Any:
        if now is None or now.solids is None:
            return gr.skip()
        return choose(now, index, [how, drawn, pixels, holes])

    def switch(how: str, now: Picture | None, drawn: Any, pixels, holes) -> Any:
        """To the brush: it goes on from the clicked object. Strokes that are there for this picture stay."""
        if now is not None and how == BRUSH and not drawn:
            return on_brush(now, solid_mask(now), pixels, holes)
        updates = sides(how == CLICK, how == BRUSH)
        return updates if now is None else {**updates, **look(now, how, drawn, pixels, holes)}

    def bring(path: str | None, pixels, holes) -> Any:
        if path is None:
            return gr.skip()
        with told("This picture was not taken"):
            opened = images.open_upload(path)
            base.working_size(opened.image.size)  # says in one sentence what is too small
        new = scenes.own(opened, Path(path).stem[:60])
        return {**load(new, pixels, holes), dropped: None}

    def other_kind(which, last_scene, last_own, now, how, drawn, pixels, holes) -> dict[Any, Any]:
        known, was = last_scene if which == SCENE else last_own, left(now, how, drawn)
        if known is not None:
            return {**was, **load(known, pixels, holes)}
        return {
            **was, picture: None, key: "", own_box: gr.Column(visible=True), mode: gr.Radio(visible=False), editor: None,
            line: mask_line(None, None, base), preview: None, save: gr.Button(interactive=False), **sides(False, False),
        }  # fmt: skip

    def bring_mask(path: str | None, keep: bool, now, pixels, holes) -> Any:
        if path is None:
            return gr.skip()
        with told("This mask was not taken"):
            if now is None:
                raise ValueError("There is no picture yet that this mask could belong to: bring the picture first.")
            mask = read_mask(path, now.image.size, bool(keep))
        return {**on_brush(now, mask, pixels, holes), mask_drop: None}

    def snap(now, how, drawn, pixels, holes) -> Any:
        with told("The mask stays as it is"):
            if now is None:
                raise ValueError("There is no picture yet: roll a scene or bring one of your own.")
            mask = snapped(now, current_mask(now, how, drawn))
        return on_brush(now, mask, pixels, holes)

    def roll_scene(seed, objects, ground, lamp, shine, pixels, holes) -> dict[Any, Any]:
        with told("No scene was rolled"):
            new = scenes.roll(recipe_of(seed, objects, ground, lamp, shine))
        return load(new, pixels, holes)

    rolling = [count, floor, light, mirror, *tools]
    chosen = [picture, scene, solid, editor, *by_look]
    to_brush = [picture, scene, mine, mode, *boxes, *by_look]
    held(SLUG, again.click, roll_scene, [number, *rolling], outputs, **TALKS)
    there = hold(SLUG, dice.click)
    rolled = dice.click(lambda: secrets.randbelow(HELD_OUT), None, number, **LIGHT)
    there(rolled.then(roll_scene, [number, *rolling], outputs, **TALKS))
    held(SLUG, seen.select, click, state, chosen, **TALKS)
    held(SLUG, solid.input, pick, [solid, *state], chosen, **LIGHT)
    held(SLUG, mode.input, switch, [mode, picture, editor, *tools], to_brush, **LIGHT)
    gr.on(
        [editor.change, grow.change, fill.change], changed, state, [scene, mine, *by_look], trigger_mode="always_last",
        **LIGHT,
    )  # fmt: skip
    # Not LIGHT: whoever listens to the key would not hear of it.
    held(SLUG, kind.input, other_kind, [kind, scene, mine, *state], outputs, **TALKS)
    emptied(dropped, held(SLUG, dropped.upload, bring, [dropped, *tools], [*outputs, dropped], **TALKS))
    with_mask = [mask_drop, white, picture, *tools]
    emptied(mask_drop, held(SLUG, mask_drop.upload, bring_mask, with_mask, [*to_brush, mask_drop], **TALKS))
    held(SLUG, edges.click, snap, state, to_brush, **TALKS)
    download(save, saved, [picture, mode, editor])
    return Input(picture, key, mode, editor, grow, fill, chips, run, stop, load, outputs)


def _drop(label: str, name: str) -> gr.File:
    return gr.File(label=label, file_types=["image"], type="filepath", height=84, elem_classes=["drop-zone", name])


def _picture(label: str, value: Any, *more: str) -> gr.Image:
    return gr.Image(
        value, label=label, type="pil", format="png", interactive=False, buttons=["fullscreen"],
        elem_classes=["frame", *more], alt_text=f"{label}: what is marked is red",
    )  # fmt: skip


def solid_choices(picture: Picture) -> list[tuple[str, int]]:
    return [(name, index) for index, name in enumerate(picture.names)]


def recipe_of(seed: Any, count: int, floor: str, light: str, mirror: str) -> Recipe:
    """What the widgets ask for; "any" is left to the seed."""
    seed = int(limits.number("scene seed", seed, 0, HELD_OUT - 1, whole=True))
    return Recipe(
        seed, count or None, None if floor == ANY else floor, None if light == ANY else light,
        None if mirror == ANY else mirror == "mirroring",
    )  # fmt: skip
