"""A depth of one's own in place of stage 1's: painted over the depth after, or from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import gradio as gr
import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core import picture_editor
from demos.core.handlers import LIGHT, TALKS
from demos.core.hold import STARTS, held
from demos.core.page import drop_zone
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.georemover.files import SLUG, Shown
from pipelines.georemover import Geometry, Outcome, views
from pipelines.georemover.depth import open_depth

EDITOR_SIDE = 576
UNTOUCHED = 1.5 / 255
"""Difference of grey up to which nothing was painted: one level may be lost on the way through a browser."""
ROUNDED = 1.35
"""Ratio of formats up to which a depth map is the picture's: at the model's size the sides are multiples of 16 (a picture of 16:9 becomes 3:2)."""
GREYS = ("#000000", "#404040", "#808080", "#c0c0c0", "#ffffff")
ABOUT = """<p class='quiet'>Stage 2 takes away what differs between the two depth maps, whoever changed it. Paint an object away with the grey of
the floor around it (dark is far, bright is near), or paint something into the scene. Or change nothing: then nothing may go.</p>"""
NONE = "<p class='quiet'>3 Render uses the depth after of stage 1.</p>"
IN_USE = "<p class='remark'>3 Render uses your depth until you go back to the model’s.</p>"


@dataclasses.dataclass(frozen=True, eq=False)
class OwnDepth:
    """A depth after (h, w) in [0, 1] for the picture of this key."""

    key: str
    after: NDArray[numpy.float32]


@dataclasses.dataclass(frozen=True)
class Edit:
    """The widgets; :meth:`bind` ties them once the run's state exists."""

    own: gr.State
    editor: gr.ImageEditor
    fetch: gr.Button
    use: gr.Button
    drop: gr.File
    dark: gr.Checkbox
    back: gr.Button
    note: gr.HTML
    render: gr.Button
    unchanged: gr.Button

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What :meth:`clear` changes."""
        return [self.own, self.note, self.render, self.back, self.editor, self.use]

    def clear(self) -> dict[Any, Any]:
        """Another picture is on the page: this depth was not made for it."""
        return {
            self.own: None,
            self.note: NONE,
            self.editor: gr.ImageEditor(value=None, visible=False),
            self.use: gr.Button(visible=False),
            self.render: gr.Button(interactive=False),
            self.back: gr.Button(interactive=False),
        }

    @classmethod
    def build(cls) -> Edit:
        """An accordion below the depth maps."""
        picture_editor.guard()
        own = gr.State(None)
        with gr.Accordion("Edit or bring the depth after", open=False):
            gr.HTML(ABOUT, padding=False)
            unchanged = gr.Button("What if the depth had not changed?", size="md", elem_classes=STARTS)
            fetch = gr.Button("Paint over the depth after", size="md")
            editor = gr.ImageEditor(
                label="Depth after, dark is far",
                type="pil",
                image_mode="RGBA",
                format="png",
                sources=(),
                transforms=(),
                layers=False,
                height=300,
                buttons=[],
                visible=False,
                elem_classes="georemover-editor",
                brush=gr.Brush(default_size=20, colors=list(GREYS), default_color=GREYS[1]),
                eraser=gr.Eraser(default_size=20),
            )
            use = gr.Button("Use what I painted", size="md", visible=False)
            dark = gr.Checkbox(value=False, label="In depth files, near is dark")
            drop = drop_zone("Bring a depth map: grey of 8 or 16 bits, or inferno", "georemover-depth-file", "image")
            note = gr.HTML(NONE, padding=False)
            with gr.Row(elem_classes="run-row"):
                render = gr.Button(
                    "Render from my depth", size="md", min_width=120, interactive=False, elem_classes=STARTS
                )
                back = gr.Button("Back to the model’s", size="md", min_width=120, interactive=False)
        return cls(own, editor, fetch, use, drop, dark, back, note, render, unchanged)

    def bind(self, last: gr.State, after: gr.Image, colours: gr.Radio) -> None:
        """What the widgets do with the run on the page (``last``), in which ``after`` shows the depth after in ``colours``."""

        def taken(shown: Shown | None, depth: NDArray[numpy.float32], kind: str) -> dict[Any, Any]:
            assert shown is not None  # `_outcome` has refused it
            return {
                self.own: OwnDepth(shown.key, depth),
                self.note: IN_USE,
                after: views.depth_picture(depth, kind),
                self.render: gr.Button(interactive=True),
                self.back: gr.Button(interactive=True),
            }

        def fetched(shown: Shown | None) -> dict[Any, Any]:
            with errors_shown("Nothing to paint over"):
                depth = _newest(_outcome(shown))
            return {self.editor: gr.ImageEditor(value=ground(depth), visible=True), self.use: gr.Button(visible=True)}

        def painted(drawn: dict[str, Any] | None, shown: Shown | None, kind: str) -> dict[Any, Any]:
            with errors_shown("Nothing was painted"):
                outcome = _outcome(shown)
                if not drawn or drawn.get("composite") is None:
                    raise ValueError("The depth editor is empty: press Paint over the depth after first.")
            return taken(shown, level_of(drawn["composite"], _newest(outcome)), kind)

        def brought(path: str | None, near_is_dark: bool, shown: Shown | None, kind: str) -> Any:
            if path is None:
                return gr.skip()
            with errors_shown("This depth map was not taken"):
                shape = _outcome(shown).depth_before.shape
                # In the normalisation of the depth before, or the two could not be compared: grey is taken as it is.
                depth, _limits = open_depth(path, bool(near_is_dark), (0.0, 1.0), fits(shape))
                depth = numpy.asarray(cv2.resize(depth, shape[::-1], interpolation=cv2.INTER_AREA), numpy.float32)
            return {**taken(shown, depth, kind), self.drop: None}

        def given_back(shown: Shown | None, kind: str) -> dict[Any, Any]:
            depth = None if shown is None else shown.outcome.depth_after
            return {
                self.own: None,
                self.note: NONE,
                self.render: gr.Button(interactive=False),
                self.back: gr.Button(interactive=False),
                after: None if depth is None else views.depth_picture(depth, kind),
            }

        changed, dropped = [self.own, self.note, after, self.render, self.back], [self.drop, self.dark, last, colours]
        self.fetch.click(fetched, last, [self.editor, self.use], **TALKS)
        held(SLUG, self.use.click, painted, [self.editor, last, colours], changed, **TALKS)
        clear_on_refusal(self.drop, held(SLUG, self.drop.upload, brought, dropped, [*changed, self.drop], **TALKS))
        held(SLUG, self.back.click, given_back, [last, colours], changed, **LIGHT)


def _outcome(shown: Shown | None) -> Outcome | Geometry:
    if shown is None or shown.outcome.depth_before is None:
        raise ValueError("There is no depth yet to change: press 1 Estimate depth first.")
    return shown.outcome


def fits(shape: tuple[int, int]) -> Callable[[tuple[int, int]], None]:
    """A check that a map has the format of one of ``shape`` (h, w), whose sides were rounded to the model's multiples."""

    def check(size: tuple[int, int]) -> None:
        stretch = size[0] * shape[0] / (size[1] * shape[1])
        if max(stretch, 1 / stretch) > ROUNDED:
            raise ValueError(
                f"The depth map is {size[0]} x {size[1]} pixels and the picture’s has the format {shape[1]} x {shape[0]}: bring one of the whole picture."
            )

    return check


def _newest(outcome: Outcome | Geometry) -> NDArray[numpy.float32]:
    return outcome.depth_before if outcome.depth_after is None else outcome.depth_after


def ground(depth: NDArray[numpy.float32]) -> Any:
    """The editor's value for a depth map, in grey and at a size that can be painted on."""
    grey = views.depth_picture(depth, "grey")
    scale = EDITOR_SIDE / max(grey.size)
    size = (round(grey.width * scale), round(grey.height * scale))
    # Bilinear, not sharper: a sharper filter would put depths beyond their neighbours at every edge.
    large = grey.resize(size, Image.Resampling.BILINEAR).convert("RGBA")
    return {"background": large, "layers": [], "composite": large}


def level_of(painted: Image.Image, depth: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """``depth`` (h, w) with what was painted over it in grey; where nothing was, it stays exactly as it is."""
    grey, before = (
        numpy.asarray(image.convert("RGB").convert("L"), dtype=numpy.float32) / 255
        for image in (painted, ground(depth)["composite"])
    )
    size = depth.shape[::-1]
    made = numpy.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), numpy.float32)
    if grey.shape != before.shape:
        return made
    touched = (numpy.abs(grey - before) > UNTOUCHED).astype(numpy.float32)
    return numpy.where(cv2.resize(touched, size, interpolation=cv2.INTER_AREA) > 0, made, depth)
