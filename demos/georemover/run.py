"""What the buttons of the GeoRemover tab do: all stages, one of them, or the last one from another depth."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core.handlers import BROKE, GPU, LIGHT, TALKS, halt, on_gpu
from demos.core.hold import OnPage, belonging, hold
from demos.core.uploads import told
from demos.core.widgets import Entry, History, progress_line, running_line
from demos.georemover import scenes
from demos.georemover.edit import Edit
from demos.georemover.files import SLUG, Shown, write
from demos.georemover.input import Input
from demos.georemover.mask import BRUSH, asked_mask
from demos.georemover.settings import Controls
from demos.georemover.view import View
from pipelines import georemover
from pipelines.core.lane import IDLE, Progress, Result, live
from pipelines.core.registry import Registry
from pipelines.core.stages import Preview, keeping
from pipelines.georemover import EXAMPLES, Cache, Geometry, Request, checks

LIMIT_S = 900.0
STOPPED = "Stopped. Stages that were finished are kept; Remove goes on from them."


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What the history needs to bring a result back: the run, its picture, and the mask if it was brushed."""

    shown: Shown
    picture: scenes.Picture
    packed: Any
    """The mask, eight pixels a byte, because two dozen of them may be as large as a photograph; None if a solid was clicked."""

    @property
    def brushed(self) -> NDArray[numpy.bool_] | None:
        width, height = self.picture.image.size
        if self.packed is None:
            return None
        return numpy.unpackbits(self.packed, count=width * height).reshape(height, width).astype(bool)


def request_of(picture: scenes.Picture, mask: Any, settings: georemover.Settings, **more: Any) -> Request:
    """A run on what is on the page."""
    return Request(picture.image, mask, settings, layered=picture.layered, lost=picture.lost, **more)


def bind(
    registry: Registry, model_set: str, cache: gr.State, given: Input, controls: Controls, view: View, edit: Edit, history: History
) -> None:  # fmt: skip
    """Tie the buttons to the runs."""

    def going(
        session: str, asked: Request, kept: Cache, picture: scenes.Picture, mode: str, look: tuple[str, str, float],
        entries: list[Entry], page: OnPage, until: str = "",
    ) -> Iterator[Any]:  # fmt: skip
        updates = stages(session, asked, kept, picture, mode, look, entries, until)
        yield from belonging(updates, page, picture.key, view.line, history.outputs)

    def stages(
        session: str, asked: Request, kept: Cache, picture: scenes.Picture, mode: str, look: tuple[str, str, float],
        entries: list[Entry], until: str,
    ) -> Iterator[Any]:  # fmt: skip
        """``until``: the stage, as previews name it, after which it is enough; empty for all."""
        yield {view.line: progress_line("Starting…", 0.0, "running")}
        began, clean = time.monotonic(), None
        asked = dataclasses.replace(asked, known_world=picture.solids is not None)
        about = picture.meant(asked.mask)
        if not until and about is not None:
            truth = scenes.truth(dataclasses.replace(picture.recipe, index=about))
            asked, clean = dataclasses.replace(asked, truth=truth), Image.fromarray(truth.clean)
        work = [georemover.geometry, registry, asked, kept, until == georemover.DEPTH_AFTER] if until else [
            georemover.remove, registry, asked, kept,
        ]  # fmt: skip
        for item in keeping(live(*work, limit_s=LIMIT_S), kept):
            if item is IDLE:
                yield gr.skip()
            elif isinstance(item, Progress):
                yield {view.line: running_line(item, began)}
            elif isinstance(item, Preview):
                yield view.preview(item, picture.image, look[0]) or gr.skip()
            elif isinstance(item, Result) and isinstance(item.value, Geometry):
                text = f"{until} done in {time.monotonic() - began:.1f} s"
                updates = view.show(Shown(item.value, picture.key), *look)
                yield {**updates, view.line: progress_line(text, 1.0, "done")}
            elif isinstance(item, Result):
                # Writing takes a while where the original is large: the geometry need not wait for it.
                yield view.geometry_of(item.value, look[0])
                drawn = mode == BRUSH or picture.solids is None
                shown = write(item.value, picture, session, clean, drawn)
                name = picture.names[about] if picture.names and about is not None else picture.name
                caption = f"{name} · seed {shown.outcome.settings.seed}"
                text = f"Done in {time.monotonic() - began:.1f} s: {caption}"
                updates = {**view.show(shown, *look), view.line: progress_line(text, 1.0, "done")}
                if shown.results:
                    packed = numpy.packbits(asked.mask) if drawn else None
                    held = Kept(shown, picture.chosen(picture.index), packed)
                    updates |= history.add(entries, Entry(shown.results[0], caption, held))
                yield updates

    def run(name: str, until: str = "", own: bool = False) -> Callable[..., Iterator[Any]]:
        """A run up to ``until``; with ``own``, from the visitor's depth where there is one for this picture."""

        def removal(
            session, picture, mode, drawn, grow, fill, depth, compare, colours, which, threshold, entries, kept, page, *values
        ) -> Iterator[Any]:  # fmt: skip
            mask = asked_mask(picture, mode, drawn, needed=until != georemover.DEPTH_BEFORE)
            after = depth.after if own and depth is not None and depth.key == picture.key else None
            settings = controls.asked(values, grow, fill, model_set)
            asked = request_of(picture, mask, settings, depth_after=after, compare=bool(compare))
            try:
                yield from going(session, asked, kept, picture, mode, (colours, which, threshold), entries, page, until)
            except checks.NoWeights:
                if not until and page.key == picture.key:
                    yield view.stand_in(*georemover.without_weights(asked))
                raise

        removal.__name__ = name
        return removal

    def render_unchanged(
        session, picture, mode, drawn, grow, fill, shown, compare, colours, which, threshold, entries, kept, page, *values
    ) -> Iterator[Any]:  # fmt: skip
        """Render as if stage 1 had changed nothing: the picture must stay as it is."""
        mask = asked_mask(picture, mode, drawn)
        if shown is None or shown.key != picture.key:
            raise ValueError("The depth of this picture is not known yet: press 1 Estimate depth, then this again.")
        same, settings = shown.outcome.depth_before, controls.asked(values, grow, fill, model_set)
        settings = dataclasses.replace(settings, depth_assist=False)  # that depth has been assisted already
        asked = request_of(picture, mask, settings, depth_after=same, depth_before=same)
        yield from going(session, asked, kept, picture, mode, (colours, which, threshold), entries, page)

    page = gr.State(OnPage(scenes.START_KEY))
    mine = [given.picture, given.mode, given.editor, given.grow, given.fill]
    rest = [controls.compare, view.colours, view.which, view.threshold, history.entries, cache, page, *controls.widgets]
    inputs = [*mine, edit.own, *rest]
    shared = {"outputs": [*view.outputs, *history.outputs], "show_progress": "hidden", "api_visibility": "private"}
    shared |= {"trigger_mode": "multiple", **GPU}
    ends = {
        "stopped": {view.line: progress_line(STOPPED, 0.0, "stopped")},
        "broken": {view.line: progress_line(BROKE, 0.0, "stopped")},
    }
    whole = on_gpu(run("remove"), **ends)
    given.run.click(whole, inputs, **shared)
    view.depth.click(on_gpu(run("estimate_depth", georemover.DEPTH_BEFORE), **ends), inputs, **shared)
    view.geometry.click(on_gpu(run("remove_from_depth", georemover.DEPTH_AFTER), **ends), inputs, **shared)
    gr.on([view.render.click, edit.render.click], on_gpu(run("render", own=True), **ends), inputs, **shared)
    edit.unchanged.click(on_gpu(render_unchanged, **ends), [*mine, view.last, *rest], **shared)
    given.stop.click(halt, **LIGHT)

    def example(pixels, holes, event: gr.EventData) -> dict[Any, Any]:
        with told("No scene was rolled"):
            new = scenes.roll(EXAMPLES[given.chips.index(event.target)])
        return given.load(new, pixels, holes)

    pressed = [chip.click for chip in given.chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, [given.grow, given.fill], given.outputs, **TALKS)).success(whole, inputs, **shared)
    _look(given, view, edit, page)


def _look(given: Input, view: View, edit: Edit, page: gr.State) -> None:
    """What only changes how a run is shown."""

    def recoloured(shown: Shown | None, colours: str) -> Any:
        return gr.skip() if shown is None else view.geometry_of(shown.outcome, colours)

    def other(shown: Shown | None, which: str) -> Any:
        return gr.skip() if shown is None or not shown.results else view.result_of(shown, which)

    def variant(shown: Shown | None, colours: str, which: str, threshold: float, event: gr.SelectData) -> Any:
        if shown is None or not isinstance(event.index, int) or not 0 <= event.index < len(shown.results):
            return gr.skip()
        return view.show(dataclasses.replace(shown, index=event.index), colours, which, threshold)

    def warmed(shown: Shown | None, threshold: float) -> Any:
        return gr.skip() if shown is None or not shown.results else view.warm(shown, threshold)

    def cleared(key: str, shown: Shown | None, page: OnPage) -> Any:
        """Another picture is on the page: what a run still shows of the one before goes, too."""
        going, page.key = page.key == key, key  # a run of this very picture, which has told its line already
        if shown is not None and shown.key == key:
            return gr.skip()
        updates = {**view.clear(), **edit.clear()}
        return {block: value for block, value in updates.items() if not (going and block is view.line)}

    view.colours.input(recoloured, [view.last, view.colours], view.depths, **LIGHT)
    view.which.input(other, [view.last, view.which], [view.slider, view.gallery], **LIGHT)
    looks = [view.last, view.colours, view.which, view.threshold]
    view.gallery.select(variant, looks, view.outputs, **LIGHT)
    view.threshold.change(
        warmed, [view.last, view.threshold], [view.heat, view.heat_words], trigger_mode="always_last", **LIGHT
    )
    # Not LIGHT: in the queue it keeps its place among the updates of a run that is going.
    given.key.change(cleared, [given.key, view.last, page], [*view.outputs, *edit.outputs], **TALKS)
