"""The left of the GeoRemover tab: a picture, rolled or brought along, and the mask of what is to go."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS
from demos.core.hold import held, hold
from demos.core.page import drop_zone, run_row
from demos.core.uploads import clear_on_refusal, download, errors_shown
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
from pipelines.core.masks import Mask
from pipelines.georemover import LARGE, Recipe, Settings
from pipelines.models import flux
from pipelines.models.flux import FillBase
from pipelines.worlds.grammar import FLOORS

SCENE, OWN = "scene", "own"
ANY = "any"
SMALL_WORLD = (
    "The small models know rendered tabletop scenes only: on anything else they paint something, and it says nothing about the "
    "method. The full set, <code>--model-set full</code>, knows photographs."
)
HELD = "Every scene brings its truth along, the same scene rendered without the object. No scene of these seeds was used in training."


@dataclasses.dataclass(frozen=True)
class Roll:
    """The widgets that say how a new scene is rolled."""

    count: gr.Dropdown
    floor: gr.Dropdown
    light: gr.Dropdown
    mirror: gr.Dropdown
    number: gr.Number
    again: gr.Button
    dice: gr.Button

    @classmethod
    def build(cls, seed: int) -> Roll:
        with gr.Accordion("Roll a new scene", open=False):
            with gr.Row(elem_classes="georemover-roll"):
                count = gr.Dropdown([(ANY, 0), ("1", 1), ("2", 2), ("3", 3)], value=2, label="Objects", min_width=120)
                floor = gr.Dropdown([ANY, *FLOORS], value=ANY, label="Floor", min_width=120)
                light = gr.Dropdown([ANY, "soft", "hard"], value=ANY, label="Light", min_width=120)
                mirror = gr.Dropdown([ANY, "mirroring", "matt"], value=ANY, label="Reflection", min_width=120)
            with gr.Row(elem_classes="seed-row"):
                number = gr.Number(label="Scene seed", value=seed, precision=0, min_width=90, scale=2)
                again = gr.Button("Render it", size="sm", min_width=80, scale=1)
                dice = gr.Button("Roll a new scene", size="sm", min_width=130, scale=1)
            gr.HTML(f"<p class='quiet'>{HELD}</p>", padding=False)
        return cls(count, floor, light, mirror, number, again, dice)


@dataclasses.dataclass(frozen=True)
class Tools:
    """The widgets that change a mask, bring one and save it."""

    white: gr.Checkbox
    drop: gr.File
    save: gr.Button
    edges: gr.Button
    preview: gr.Image

    @classmethod
    def build(cls, start: Picture, base: FillBase, asked: Form[Settings]) -> Tools:
        with gr.Accordion("Mask tools", open=False):
            theirs = " The authors’ code grows none." if base.name == "full" else ""
            asked.add("grow", info=f"At the size the model works at, long side {base.long_side}.{theirs}")
            asked.add("fill_holes")
            white = gr.Checkbox(value=False, label="In mask files, white = keep")
            drop = drop_zone("Use a mask from a file", "georemover-mask", "image")
            save = gr.Button("Download mask", size="md")
            edges = gr.Button("Snap the strokes to the object", size="md")
            preview = _picture("What the model gets", marked(start, solid_mask(start), base))
        return cls(white, drop, save, edges, preview)


class Input:
    """The widgets that say what is to be removed from what, and what they do among themselves.

    Their handlers take the picture, how its mask is chosen, the painter's value, growth and whether holes are filled, in this order.
    """

    def __init__(self, model_set: str, asked: Form[Settings], licence: str, chips: list[gr.Button]) -> None:
        """``licence`` stands next to the button; ``chips``: a button per example."""
        self.chips = chips
        self.base, start = flux.BASES[model_set], scenes.first()
        self.picture = gr.State(start)
        """A :class:`Picture`, or None."""
        self.scene, self.mine = gr.State(start), gr.State(None)
        """The last picture of either kind."""
        self.key = gr.State(start.key)
        """Of the picture; its change says that another one was put on the page."""
        gr.HTML("<h3>1 Picture and mask</h3>", padding=False)
        self.kind = gr.Radio(
            [("A rendered scene", SCENE), ("My own picture", OWN)],
            value=SCENE,
            label="Picture",
            show_label=False,
            container=False,
            elem_classes="choices",
        )
        with gr.Column(visible=False) as self.own_box:
            self.dropped = drop_zone("Drop a picture: PNG, JPEG or WebP", "georemover-photo", "image")
            if model_set == "mini":
                gr.HTML(f"<p class='remark'>{SMALL_WORLD}</p>", padding=False)
        solid = solid_mask(start)
        with gr.Column() as self.click_box:
            self.seen = _picture("Click the object that is to go", marked(start, solid, self.base), "georemover-scene")
        with gr.Column(visible=False) as self.brush_box:
            self.editor = painter.build("Brush over the object, not over its shadow")
        self.run, self.stop = run_row("Remove")
        gr.HTML(licence, padding=False)
        self.line = gr.HTML(mask_line(start, solid, self.base), padding=False)
        ways = [("Click the object", CLICK), ("Brush over it", BRUSH)]
        self.mode = gr.Radio(ways, value=CLICK, label="Mark what is to go", elem_classes="choices")
        self.solid = gr.Radio(
            solid_choices(start), value=start.index, label="Object that is to go", elem_classes="choices"
        )
        self.roll = Roll.build(scenes.START.seed)
        self.tools = Tools.build(start, self.base, asked)
        widgets: dict[str, Any] = asked.widgets
        self.grow, self.fill = widgets["grow"], widgets["fill_holes"]
        self._bind()

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What :meth:`load` updates."""
        pictures = [self.picture, self.key, self.scene, self.mine, self.kind, self.own_box]
        return [*pictures, self.mode, self.roll.number, *self._boxes, *self._by_look]

    @property
    def _boxes(self) -> list[gr.blocks.Block]:
        return [self.click_box, self.solid, self.brush_box, self.editor]

    @property
    def _by_look(self) -> list[gr.blocks.Block]:
        return [self.line, self.tools.preview, self.seen, self.tools.save]

    def _bind(self) -> None:
        shape = [self.grow, self.fill]
        state = [self.picture, self.mode, self.editor, *shape]
        chosen = [self.picture, self.scene, self.solid, self.editor, *self._by_look]
        to_brush = [self.picture, self.scene, self.mine, self.mode, *self._boxes, *self._by_look]
        roll, tools = self.roll, self.tools
        rolling = [roll.number, roll.count, roll.floor, roll.light, roll.mirror, *shape]
        held(SLUG, roll.again.click, self.roll_scene, rolling, self.outputs, **TALKS)
        there = hold(SLUG, roll.dice.click)
        rolled = roll.dice.click(lambda: secrets.randbelow(HELD_OUT), None, roll.number, **LIGHT)
        there(rolled.then(self.roll_scene, rolling, self.outputs, **TALKS))
        held(SLUG, self.seen.select, self.click, state, chosen, **TALKS)
        held(SLUG, self.solid.input, self.pick, [self.solid, *state], chosen, **LIGHT)
        held(SLUG, self.mode.input, self.switch, [self.mode, self.picture, self.editor, *shape], to_brush, **LIGHT)
        gr.on(
            [self.editor.change, self.grow.change, self.fill.change],
            self.changed,
            state,
            [self.scene, self.mine, *self._by_look],
            trigger_mode="always_last",
            **LIGHT,
        )
        # Not LIGHT: whoever listens to the key would not hear of it.
        held(SLUG, self.kind.input, self.other_kind, [self.kind, self.scene, self.mine, *state], self.outputs, **TALKS)
        bring = held(
            SLUG, self.dropped.upload, self.bring, [self.dropped, *shape], [*self.outputs, self.dropped], **TALKS
        )
        clear_on_refusal(self.dropped, bring)
        with_mask = [tools.drop, tools.white, self.picture, *shape]
        clear_on_refusal(
            tools.drop, held(SLUG, tools.drop.upload, self.bring_mask, with_mask, [*to_brush, tools.drop], **TALKS)
        )
        held(SLUG, tools.edges.click, self.snap, state, to_brush, **TALKS)
        download(tools.save, self.saved, [self.picture, self.mode, self.editor])

    # ------------------------------------------------------------------------- updates

    def load(
        self, new: Picture, pixels: float | None = None, holes: bool = True, brushed: Mask | None = None
    ) -> dict[Any, Any]:
        """The updates that put a picture on the page, with a ``brushed`` mask (H, W) on it where there is one."""
        rendered = new.solids is not None
        updates = {
            self.picture: new,
            self.key: new.key,
            self._home(new): new,
            self.kind: SCENE if rendered else OWN,
            self.own_box: gr.Column(visible=not rendered),
        }
        if new.recipe is not None:
            updates[self.roll.number] = new.recipe.seed
        how = new.mode or CLICK if rendered else BRUSH
        if brushed is not None or (how == BRUSH and not new.strokes):
            updates |= self._on_brush(new, brushed, pixels, holes)
            how = BRUSH
        else:  # as it was left
            updates |= {self.editor: new.strokes, **self._look(new, how, new.strokes, pixels, holes)}
        updates |= {self.mode: gr.Radio(value=how, visible=rendered), **self._sides(how == CLICK, how == BRUSH)}
        if rendered:
            updates[self.solid] = gr.Radio(choices=solid_choices(new), value=new.index, visible=how == CLICK)
        return updates

    def _sides(self, click: bool, brush: bool) -> dict[Any, Any]:
        return {
            self.click_box: gr.Column(visible=click),
            self.solid: gr.Radio(visible=click),
            self.brush_box: gr.Column(visible=brush),
        }

    def _home(self, of: Picture) -> gr.State:
        """Where the last picture of its kind is kept."""
        return self.mine if of.solids is None else self.scene

    def _left(self, now: Picture | None, how: str, drawn: object) -> dict[Any, Any]:
        """The picture with the strokes on it, for whoever goes to another one and comes back."""
        if now is None or not isinstance(drawn, dict) or drawn.get("key") != now.key:
            return {}
        return {self._home(now): dataclasses.replace(now, strokes=drawn, mode=how)}

    def _look(self, now: Picture | None, how: str, drawn: object, pixels: float | None, holes: bool) -> dict[Any, Any]:
        """The mask as it is now: in words, as the model gets it, and in the scene."""
        if now is None:
            return {self.line: mask_line(None, None, self.base)}
        mask, pixels = current_mask(now, how, drawn), None if pixels is None else int(pixels)
        shown = marked(now, mask, self.base, pixels, bool(holes))
        updates = {
            self.line: mask_line(now, mask, self.base, pixels, bool(holes)),
            self.tools.preview: shown,
            self.tools.save: gr.Button(interactive=bool(mask.any())),
        }
        return {**updates, self.seen: shown} if now.solids is not None and how == CLICK else updates

    def _on_brush(self, now: Picture, mask: Mask | None, pixels: float | None, holes: bool) -> dict[Any, Any]:
        """Over to the brush, with ``mask`` as what is painted already."""
        new, drawn = painter.put_on(now, mask)
        return {
            self.picture: new,
            self._home(new): new,
            self.mode: BRUSH,
            **self._sides(False, True),
            self.editor: drawn,
            **self._look(new, BRUSH, drawn, pixels, holes),
        }

    def _choose(self, now: Picture, index: int | None, rest: tuple[Any, ...]) -> dict[Any, Any]:
        new = now.chosen(index)
        # The brush goes on from the object that was clicked last, so strokes around another one go.
        return {self.picture: new, self.scene: new, self.solid: index, self.editor: None, **self._look(new, *rest)}

    # ------------------------------------------------------------------------ handlers

    def changed(self, now, how, drawn, pixels, holes) -> dict[Any, Any]:
        return {**self._left(now, how, drawn), **self._look(now, how, drawn, pixels, holes)}

    def saved(self, now, how, drawn, request: gr.Request) -> str:
        with errors_shown("There is no mask to save"):
            return mask_file(now, asked_mask(now, how, drawn), visitor(request))

    def click(self, now, how, drawn, pixels, holes, event: gr.SelectData) -> Any:
        if now is None or now.solids is None:
            return gr.skip()
        scale = shown_scale(now)
        index = now.at(int(event.index[0] / scale), int(event.index[1] / scale))
        if index is None:
            gr.Info("There is no object here: click one of the solids.", title="Nothing chosen")
            return gr.skip()
        return self._choose(now, index, (how, drawn, pixels, holes))

    def pick(self, index, now, how, drawn, pixels, holes) -> Any:
        if now is None or now.solids is None:
            return gr.skip()
        return self._choose(now, index, (how, drawn, pixels, holes))

    def switch(self, how: str, now: Picture | None, drawn: object, pixels, holes) -> Any:
        """To the brush: it goes on from the clicked object. Strokes that are there for this picture stay."""
        if now is not None and how == BRUSH and not drawn:
            return self._on_brush(now, solid_mask(now), pixels, holes)
        updates = self._sides(how == CLICK, how == BRUSH)
        return updates if now is None else {**updates, **self._look(now, how, drawn, pixels, holes)}

    def bring(self, path: str | None, pixels, holes) -> Any:
        if path is None:
            return gr.skip()
        with errors_shown("This picture was not taken"):
            opened = images.open_upload(path)
            self.base.working_size(opened.image.size)  # says in one sentence what is too small
        new = scenes.own(opened, Path(path).stem[:60])
        return {**self.load(new, pixels, holes), self.dropped: None}

    def other_kind(self, which, last_scene, last_own, now, how, drawn, pixels, holes) -> dict[Any, Any]:
        known, was = last_scene if which == SCENE else last_own, self._left(now, how, drawn)
        if known is not None:
            return {**was, **self.load(known, pixels, holes)}
        return {
            **was,
            self.picture: None,
            self.key: "",
            self.own_box: gr.Column(visible=True),
            self.mode: gr.Radio(visible=False),
            self.editor: None,
            self.line: mask_line(None, None, self.base),
            self.tools.preview: None,
            self.tools.save: gr.Button(interactive=False),
            **self._sides(False, False),
        }

    def bring_mask(self, path: str | None, keep: bool, now, pixels, holes) -> Any:
        if path is None:
            return gr.skip()
        with errors_shown("This mask was not taken"):
            if now is None:
                raise ValueError("There is no picture yet that this mask could belong to: bring the picture first.")
            mask = read_mask(path, now.image.size, bool(keep))
        return {**self._on_brush(now, mask, pixels, holes), self.tools.drop: None}

    def snap(self, now, how, drawn, pixels, holes) -> Any:
        with errors_shown("The mask stays as it is"):
            if now is None:
                raise ValueError("There is no picture yet: roll a scene or bring one of your own.")
            mask = snapped(now, current_mask(now, how, drawn))
        return self._on_brush(now, mask, pixels, holes)

    def roll_scene(self, seed, objects, ground, lamp, shine, pixels, holes) -> dict[Any, Any]:
        with errors_shown("No scene was rolled"):
            new = scenes.roll(recipe_of(seed, objects, ground, lamp, shine))
        return self.load(new, pixels, holes)


def _picture(label: str, value: Image.Image | None, *more: str) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        type="pil",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes=["frame", *more],
        alt_text=f"{label}: what is marked is red",
    )


def solid_choices(picture: Picture) -> list[tuple[str, int]]:
    return [(name, index) for index, name in enumerate(picture.names)]


def recipe_of(seed: object, count: int, floor: str, light: str, mirror: str) -> Recipe:
    """What the widgets ask for; "any" is left to the seed."""
    return Recipe(
        int(limits.number("scene seed", seed, 0, HELD_OUT - 1, whole=True)),
        count or None,
        None if floor == ANY else floor,
        None if light == ANY else light,
        None if mirror == ANY else mirror == "mirroring",
        scale=LARGE,
    )
