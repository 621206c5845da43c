"""What the buttons of the GeoRemover tab do: all stages, one of them, or the last one from another depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import gradio as gr
import numpy
from numpy.typing import NDArray
from PIL import Image

from demos.core.handlers import LIGHT, TALKS, halt, on_gpu
from demos.core.hold import OnPage, belonging, hold
from demos.core.opening import opens_with_result
from demos.core.page import ends, pump, run_event
from demos.core.uploads import errors_shown
from demos.core.widgets import Entry, History, progress_line
from demos.georemover import scenes
from demos.georemover.edit import Edit, OwnDepth
from demos.georemover.files import SLUG, Shown, made_of, write
from demos.georemover.input import Input
from demos.georemover.mask import BRUSH, asked_mask
from demos.georemover.settings import Controls
from demos.georemover.view import View
from pipelines import georemover
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.core.stages import Preview, keeping
from pipelines.georemover import EXAMPLES, Cache, Geometry, Outcome, Request, checks

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


class Held(NamedTuple):
    """What the page holds beside the settings when a run is asked for, in the order of :attr:`Runs.inputs`."""

    picture: scenes.Picture
    """None where :meth:`request` refuses it."""
    mode: str
    drawn: Any
    depth: OwnDepth | None
    shown: Shown | None
    compare: bool
    colours: str
    which: str
    threshold: float
    entries: list[Entry]
    cache: Cache
    page: OnPage

    def request(self, settings: georemover.Settings, marked: bool = True, **more: Any) -> Request:
        """A run on what is on the page; unless it has to be ``marked``, its mask may be empty.

        Raises:
            ValueError: there is no picture, or nothing is marked.
        """
        mask, picture = asked_mask(self.picture, self.mode, self.drawn, marked), self.picture
        rendered = picture.solids is not None
        asked = {"layered": picture.layered, "lost": picture.lost, "compare": bool(self.compare), **more}
        return Request(picture.image, mask, settings, known_world=rendered, **asked)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of the page, as its events call them."""

    registry: Registry
    cache: gr.State
    given: Input
    controls: Controls
    view: View
    edit: Edit
    history: History
    page: gr.State

    @property
    def inputs(self) -> list[gr.blocks.Block]:
        given, view = self.given, self.view
        marked = [given.picture, given.mode, given.editor, self.edit.own, view.last, self.controls.compare]
        return [*marked, view.colours, view.which, view.threshold, self.history.entries, self.cache, self.page]

    def remove(self, session: str, *held: Any, **values: object) -> Iterator[Any]:
        yield from self._run(session, Held(*held), values)

    def estimate_depth(self, session: str, *held: Any, **values: object) -> Iterator[Any]:
        yield from self._run(session, Held(*held), values, georemover.DEPTH_BEFORE)

    def remove_from_depth(self, session: str, *held: Any, **values: object) -> Iterator[Any]:
        yield from self._run(session, Held(*held), values, georemover.DEPTH_AFTER)

    def render(self, session: str, *held: Any, **values: object) -> Iterator[Any]:
        """From the visitor's depth, where there is one for this picture."""
        yield from self._run(session, Held(*held), values, own=True)

    def render_unchanged(self, session: str, *held: Any, **values: object) -> Iterator[Any]:
        """Render as if stage 1 had changed nothing: the picture must stay as it is."""
        on, settings = Held(*held), self.controls.asked.settings(values)
        # That depth has been assisted already.
        asked = on.request(dataclasses.replace(settings, depth_assist=False), compare=False)
        if on.shown is None or on.shown.key != on.picture.key:
            raise ValueError("The depth of this picture is not known yet: press 1 Estimate depth, then this again.")
        asked.depth_after = asked.depth_before = on.shown.outcome.depth_before
        yield from self._shown(session, asked, on)

    def _run(self, session: str, on: Held, values: dict[str, Any], until: str = "", own: bool = False) -> Iterator[Any]:
        """A run up to ``until``; with ``own``, from the visitor's depth where there is one for this picture."""
        asked = on.request(self.controls.asked.settings(values), until != georemover.DEPTH_BEFORE)
        if own and on.depth is not None and on.depth.key == on.picture.key:
            asked.depth_after = on.depth.after
        try:
            yield from self._shown(session, asked, on, until)
        except checks.NoWeights:
            if not until and on.page.key == on.picture.key:
                yield self.view.stand_in(*georemover.without_weights(asked))
            raise

    def _shown(self, session: str, asked: Request, on: Held, until: str = "") -> Iterator[Any]:
        """The updates of a run for as long as its picture is on the page."""
        updates = self._stages(session, asked, on, until)
        yield from belonging(updates, on.page, on.picture.key, self.view.line, self.history.outputs)

    def _stages(self, session: str, asked: Request, on: Held, until: str) -> Generator[Any, None, None]:
        """``until``: the stage, as previews name it, after which it is enough; empty for all."""
        view, picture = self.view, on.picture
        yield {view.line: progress_line("Starting…", 0.0, "running")}
        about = picture.meant(asked.mask)
        if not until and about is not None and picture.recipe is not None:
            yield {view.line: progress_line("Rendering the scene without it, to compare with…", 0.0, "running")}
            asked.truth = scenes.truth(dataclasses.replace(picture.recipe, index=about))
        work = georemover.geometry if until else georemover.generate
        more = (until == georemover.DEPTH_AFTER,) if until else ()
        items = keeping(live(work, self.registry, asked, on.cache, *more, limit_s=LIMIT_S), on.cache)

        def done(value: Outcome | Geometry, seconds: float) -> Iterator[Any]:
            if isinstance(value, Geometry):
                updates = view.show(Shown(value, picture.key), on.colours, on.which, on.threshold)
                yield {**updates, view.line: progress_line(f"{until} done in {seconds:.1f} s", 1.0, "done")}
            else:
                yield from self._finished(session, value, asked, on, about, seconds)

        # A preview that has no place here is an empty update.
        shows: dict[type, Any] = {Preview: lambda seen: view.preview(seen, picture.image, on.colours) or gr.skip()}
        yield from pump(items, view.line, done, shows)

    def _finished(
        self, session: str, outcome: Outcome, asked: Request, on: Held, about: int | None, seconds: float
    ) -> Iterator[Any]:
        """A run that went through; ``about``: the solid of the scene that was removed."""
        view, picture = self.view, on.picture
        # Writing takes a while where the original is large: the geometry need not wait for it.
        yield view.geometry_of(outcome, on.colours)
        drawn = on.mode == BRUSH or picture.solids is None
        clean = None if asked.truth is None else Image.fromarray(asked.truth.clean)
        shown = write(outcome, picture, session, clean, drawn)
        name = picture.names[about] if picture.names and about is not None else picture.name
        caption = f"{name} · seed {shown.finished.settings.seed}"
        text = f"Done in {seconds:.1f} s: {caption}"
        updates = {**view.show(shown, on.colours, on.which, on.threshold), view.line: progress_line(text, 1.0, "done")}
        if shown.results:
            packed = numpy.packbits(numpy.asarray(asked.mask)) if drawn else None
            kept = Kept(shown, picture.chosen(picture.index), packed)
            made = made_of(shown.finished, picture, drawn)
            updates |= view.link.of(made) | self.history.add(
                on.entries, Entry(shown.results[0], caption, kept, made.by(outcome.models))
            )
        yield updates

    def example(self, pixels: float | None, holes: bool, event: gr.EventData) -> dict[Any, Any]:
        assert isinstance(event.target, gr.Button)
        with errors_shown("No scene was rolled"):
            new = scenes.roll(EXAMPLES[self.given.chips.index(event.target)])
        return self.given.load(new, pixels, holes)

    def event(self, work: Callable[..., Iterator[Any]]) -> dict[str, Any]:
        """How the event of a run is bound."""
        guarded = on_gpu(work, **ends(self.view.line, STOPPED))
        outputs = [*self.view.outputs, *self.history.outputs]
        return run_event(guarded, *outputs, inputs=self.inputs, **self.controls.asked.widgets)


def bind(
    registry: Registry, cache: gr.State, given: Input, controls: Controls, view: View, edit: Edit, history: History
) -> None:
    """Tie the buttons to the runs."""
    page = gr.State(OnPage(scenes.START_KEY))
    runs = Runs(registry, cache, given, controls, view, edit, history, page)
    whole = runs.event(runs.remove)
    given.run.click(**whole)
    if controls.asked.start.model_set == "mini":
        opens_with_result(
            SLUG, runs.remove, whole, view.line, "Press Remove to draw it now.", [*history.outputs, view.link.shown]
        )
    view.depth.click(**runs.event(runs.estimate_depth))
    view.geometry.click(**runs.event(runs.remove_from_depth))
    gr.on([view.render.click, edit.render.click], **runs.event(runs.render))
    edit.unchanged.click(**runs.event(runs.render_unchanged))
    given.stop.click(halt, **LIGHT)
    pressed = [chip.click for chip in given.chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, runs.example, [given.grow, given.fill], given.outputs, **TALKS)).success(**whole)
    _bind_look(given, view, edit, page)


def _bind_look(given: Input, view: View, edit: Edit, page: gr.State) -> None:
    """What only changes how a run is shown."""

    def recoloured(shown: Shown | None, colours: str) -> Any:
        return gr.skip() if shown is None else view.geometry_of(shown.outcome, colours)

    def other(shown: Shown | None, which: str) -> Any:
        return gr.skip() if shown is None or not shown.results else view.result_of(shown, which)

    def variant(shown: Shown | None, colours: str, which: str, threshold: float, event: gr.SelectData) -> Any:
        if shown is None or not isinstance(event.index, int) or not 0 <= event.index < len(shown.results):
            return gr.skip()
        return view.show(dataclasses.replace(shown, index=event.index), colours, which, threshold)

    def reheated(shown: Shown | None, threshold: float) -> Any:
        return gr.skip() if shown is None or not shown.results else view.heat_map(shown, threshold)

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
        reheated, [view.last, view.threshold], [view.heat, view.heat_words], trigger_mode="always_last", **LIGHT
    )
    # Not LIGHT: in the queue it keeps its place among the updates of a run that is going.
    given.key.change(cleared, [given.key, view.last, page], [*view.outputs, *edit.outputs], **TALKS)
