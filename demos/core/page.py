"""What the page of a paper is made of: a run, its events and, for papers that draw pictures from settings, the whole page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import gradio as gr

from demos.core.endpoint import FILE, FILES, MODEL_SET, Endpoint, Parameter, parameters_of, publish
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import BROKE, GPU, LIGHT, TALKS, halt, on_gpu
from demos.core.hold import held, hold
from demos.core.links import Link
from demos.core.opening import opens_with_result
from demos.core.preflight import PreflightPanel
from demos.core.quantities import this_run
from demos.core.roll import roll_row, rolls_into
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.use import File, use_panel
from demos.core.visitors import new_folder
from demos.core.widgets import Entry, History, Made, paper_card, progress_line, running_line
from pipelines.core import images, lane
from pipelines.core.paper import Paper
from pipelines.core.registry import Registry
from pipelines.core.settings import Field
from pipelines.core.stages import Cache, keeping
from pipelines.core.weights import ModelSpec

STOPPED = "Stopped. What was drawn so far stays; Run starts anew."


def pump(
    items: Iterator[Any],
    line: gr.HTML,
    done: Callable[[Any, float], Any],
    shows: Mapping[type, Callable[[Any], Any]] = MappingProxyType({}),
    digits: int = 1,
) -> Iterator[Any]:
    """The updates of a run from the items of `lane.live`: its progress on ``line``, what it emits through ``shows`` by type, and
    at the end ``done(result, seconds)``, one update or an iterator of several."""
    began = time.monotonic()
    for item in items:
        if isinstance(item, lane.Progress):
            yield {line: running_line(item, began, digits)}
        elif isinstance(item, lane.Result):
            last = done(item.value, time.monotonic() - began)
            yield from last if isinstance(last, Iterator) else (last,)
        elif type(item) in shows:
            yield shows[type(item)](item)
        else:
            yield gr.skip()


def run_event(
    handler: Callable[..., Any], *outputs: object, inputs: Iterable[object] = (), **named: object
) -> dict[str, Any]:
    """How the event of a run is bound: ``button.click(**run_event(on_gpu(compare), ...))``; ``named`` are inputs by name."""
    return {
        "fn": handler,
        "inputs": list(inputs),
        "inputs_kwargs": named,
        "outputs": list(outputs),
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
        **GPU,
    }


def ends(line: gr.HTML, stopped: str = STOPPED, broken: str = BROKE) -> dict[str, Any]:
    """The last updates of a run that was stopped, or that an error ended, for :func:`demos.core.handlers.on_gpu`."""
    return {
        "stopped": {line: progress_line(stopped, 0.0, "stopped")},
        "broken": {line: progress_line(broken, 0.0, "stopped")},
    }


# --- a whole page, for a paper that draws pictures from its settings ----------------------------------------------


class Finished(Protocol):
    """What the outcome of every paper has."""

    settings: Any
    measurements: dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A finished run and the files of its pictures, in the order of the page."""

    outcome: Any
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Files that may come with the settings, several or none."""

    label: str
    kind: str
    """How their names end: ".safetensors"."""
    read: Callable[[list[str]], Any]
    """What ``generate`` gets of their paths; ``ValueError`` for one that cannot be read."""


@dataclass(frozen=True, eq=False)
class Widgets:
    """What is on a page of pictures."""

    asked: Form[Any]
    brought: dict[str, gr.File]
    """By the names of the pictures that a visitor gives, and of the files that may come."""
    run: gr.Button
    stop: gr.Button
    chips: list[gr.Button]
    dropped: gr.File
    line: gr.HTML
    shown: dict[str, gr.Image]
    """By the names of the pictures."""
    table: gr.HTML
    link: Link | None
    history: History


@dataclass(frozen=True)
class PicturesPage:
    """The usual page: settings on the left, pictures on the right, results below, and one public endpoint.

    ``generate(job, registry, settings)`` gives an outcome with ``settings``, ``measurements`` (of :meth:`Run.measurements`, with
    ``seconds``) and a picture under each name of ``pictures``.
    """

    slug: str
    paper: Paper
    start: Any
    """Its settings as they begin, with ``seed`` and ``model_set`` among them."""
    generate: Callable[..., Any]
    parts: Mapping[str, ModelSpec]
    pictures: Mapping[str, str]
    """Field of the outcome -> its name on the page."""
    about: str
    """What the endpoint does, in a sentence."""
    story: str = ""
    """Markdown."""
    shows: Mapping[type, Callable[[Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Type of a preview -> the pictures in it, by their names."""
    figures: Callable[[Any], Mapping[str, str]] = lambda outcome: {}
    """Rows of its own for the table of figures."""
    table: Callable[[Any], str] = lambda outcome: ""
    """Markup of its own below the figures."""
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Title of a chip -> the settings that it fills in before it runs."""
    name: str = ""
    """Of its endpoint and its files; the slug, unless a tab has several such parts."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Pictures that a visitor has to give: name, as ``generate`` takes it -> its label."""
    rolls: int | None = None
    """Number of a scene of our renderer, which what a visitor has to give may also be; None, where it may not."""
    files: Mapping[str, Files] = field(default_factory=dict)
    """Files that may come along: name, as ``generate`` takes what is read of them -> what they are."""
    first: Sequence[str] = ()
    """Settings that stand above Run; the first text, if none is named."""
    widgets: Mapping[str, Callable[[Field, Any], gr.components.Component]] = field(default_factory=dict)
    """Setting -> what makes its widget of its declaration and its value, where that is not the usual one."""
    sheets: bool = False
    """Whether its pictures are sheets, each as wide as the page, also where there are two."""
    opens: bool = False
    """Whether it opens with a result that was drawn earlier (:mod:`demos.core.opening`), in the mini set."""
    keeps: bool = False
    """Whether ``generate`` also takes a ``cache`` of a visitor's own, in which it keeps what another run need not draw again."""
    limit_s: float = 300.0

    @property
    def key(self) -> str:
        """What its endpoint and its files are called."""
        return self.name or self.slug

    def build(self, registry: Registry) -> None:
        """Make the whole page here: the paper's card, the pictures, the story."""
        paper_card(self.paper)
        self.pictures_part(registry)
        how_it_works(self.story)

    def pictures_part(self, registry: Registry) -> Widgets:
        """Make the widgets of settings and pictures here and bind them; a page of more parts has them beside others, which may fill them."""
        registry.declare(*self.parts.values())
        PreflightPanel(registry, self.start.model_set).bind(lambda: [[*self.parts.values()]], self.generate)
        asked = Form(self.start, makes=self.widgets)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
                shown_fields = {name: one for name, one in self.start.fields().items() if one.shown}
                texts = [name for name, one in shown_fields.items() if one.kind == "text"]
                first = self.first or texts[:1]
                several = sum(name not in self.widgets for name in first) > 1
                asked.add(*first, **({"lines": 2} if several else {}))  # what is asked for
                row = None if self.rolls is None else roll_row(self.rolls)
                brought = {name: drop_zone(label, "brought", "image") for name, label in self.given.items()}
                run, stop = run_row()
                chips = example_chips("Examples: one click runs", list(self.examples)) if self.examples else []
                asked.add(*(name for name in shown_fields if name not in first))
                for name, one in self.files.items():
                    brought[name] = drop_zone(one.label, name, one.kind, file_count="multiple")
                dropped = restore_zone()
            with gr.Column(scale=7, min_width=320, elem_classes="studio-results"):
                line = gr.HTML(progress_line("Press Run."), padding=False, elem_classes="run-line")
                # Two stand side by side; one, and more, are sheets, each as wide as the page.
                pair = len(self.pictures) == 2 and not self.sheets
                with gr.Row(elem_classes="pair") if pair else gr.Column(elem_classes="sheets"):
                    shown = {name: picture(label, name) for name, label in self.pictures.items()}
                link = None if self.given else Link(self.slug, asked)  # no address holds a picture
                table = gr.HTML(padding=False)
        history = History(self.paper.title)
        with gr.Accordion("Use it from Python", open=False) as box:
            given = {name: File(f"{name}.png") for name in self.given}

            def sent(**values: Any) -> dict[str, Any]:
                files = {name: [File(Path(path).name) for path in values.pop(name) or []] for name in self.files}
                came = {name: some for name, some in files.items() if some}
                return given | came | asked.settings(values).sent()

            filled = {name: brought[name] for name in self.files}
            use_panel(self.key, box, self.endpoint, sent, {**asked.widgets, **filled})
        if row:
            for name in self.given:
                rolls_into(self.slug, row, brought[name])
        widgets = Widgets(asked, brought, run, stop, chips, dropped, line, shown, table, link, history)
        self._bind(registry, widgets)
        self._publish(registry)
        return widgets

    def _bind(self, registry: Registry, made: Widgets) -> None:
        asked, line, shown, history = made.asked, made.line, made.shown, made.history

        def show(drawn: Drawn, words: str) -> dict[Any, Any]:
            put = dict(zip(shown.values(), drawn.paths, strict=True))
            told = {line: progress_line(words, 1.0, "done"), made.table: self._table(drawn.outcome)}
            return {**put, **told, **(made.link.of(Made(drawn.outcome.settings)) if made.link else {})}

        kept = [gr.State(Cache())] if self.keeps else []

        def draw(session: str, entries: list[Entry], *caches: Cache, **values: object) -> Iterator[Any]:
            given = self.opened(values)
            settings = asked.settings(values)
            yield {line: progress_line("Starting…", 0.0, "running")}

            def done(outcome: Finished, seconds: float) -> dict[Any, Any]:
                drawn, caption = self.write(outcome, session), f"seed {outcome.settings.seed}"
                made_with = Made(outcome.settings).by(outcome.measurements["models"])
                entry = Entry(drawn.paths[-1], caption, drawn, made_with)
                return {**show(drawn, f"Done in {seconds:.1f} s · {caption}"), **history.add(entries, entry)}

            previews = {
                kind: lambda item, read=read: {shown[name]: seen for name, seen in read(item).items()}
                for kind, read in self.shows.items()
            }
            if caches:
                given["cache"] = caches[0]
            items = lane.live(self.generate, registry, settings, limit_s=self.limit_s, **given)
            yield from pump(keeping(items, *caches) if caches else items, line, done, previews)

        def example(event: gr.EventData) -> dict[Any, Any]:
            assert isinstance(event.target, gr.Button)
            filled = list(self.examples.values())[made.chips.index(event.target)]
            return asked.updates(replace(self.start, **filled))

        def restore(path: str | None) -> Any:
            if path is None:
                return gr.skip()
            return {**asked.updates(self.inside(path)), made.dropped: None}

        def bring_back(entry: Entry) -> dict[Any, Any]:
            drawn = entry.outcome
            return {**asked.updates(drawn.outcome.settings), **show(drawn, "Brought back from your results")}

        draw.__name__ = f"{self.key}_page"  # Gradio makes its name an address, which is the endpoint's
        results = [line, *shown.values(), made.table, *([made.link.shown] if made.link else [])]
        named = {**asked.widgets, **made.brought}
        bound = run_event(
            on_gpu(draw, **ends(line)), *results, *history.outputs, inputs=[history.entries, *kept], **named
        )
        made.run.click(**bound)
        if self.opens and self.start.model_set == "mini":
            opens_with_result(self.slug, draw, bound, line, "Press Run to draw it now.", history.outputs)
        if made.chips:
            pressed = [chip.click for chip in made.chips]
            hold(self.slug, *pressed)(gr.on(pressed, example, None, asked.outputs, **LIGHT)).then(**bound)
        made.stop.click(halt, **LIGHT)
        dropped = made.dropped
        clear_on_refusal(dropped, held(self.slug, dropped.upload, restore, dropped, [*asked.outputs, dropped], **TALKS))
        history.on_pick(bring_back, [*asked.outputs, *results])
        if made.link:
            made.link.bind(
                lambda settings, _: asked.updates(settings), [*asked.outputs, dropped], line, restore=restore
            )

    def inside(self, path: str) -> Any:
        """The checked settings of a PNG of this page; a visitor is told where another model drew it."""
        with errors_shown("Nothing was restored"):
            record = images.read_settings(path, tab=self.key)
            settings = type(self.start).read(record["settings"], "this PNG")
        if words := drawn_by_another(record["models"], self.parts):
            gr.Info(words, title="Restored")
        return settings

    def opened(self, values: dict[str, Any]) -> dict[str, Any]:
        """The pictures that a visitor gave, in RGB by their names, and what was read of files that came along; taken out of ``values``,
        where they are paths.

        Raises:
            ValueError: there is no such picture, or one cannot be read.
        """
        came = {name: one.read([str(path) for path in values.pop(name) or []]) for name, one in self.files.items()}
        paths = {name: values.pop(name) for name in self.given}
        for name, path in paths.items():
            if path is None:
                raise ValueError(f"There is no {name} yet: drop one, a PNG, JPEG or WebP.")
        return came | {name: images.open_picture(path) for name, path in paths.items()}

    def write(self, outcome: Finished, session: str) -> Drawn:
        """The pictures as PNG files with the settings inside, in a folder of their own."""
        record, models = asdict(outcome.settings), [model["key"] for model in outcome.measurements["models"]]
        with new_folder(session) as folder:
            paths = []
            for name in self.pictures:
                path = folder / f"{self.key}_{outcome.settings.seed}_{name}.png"
                made = getattr(outcome, name)
                paths.append(images.save_png(made, path, {**record, "kind": name}, tab=self.key, models=models))
        return Drawn(outcome, tuple(map(str, paths)))

    def _table(self, outcome: Finished) -> str:
        measured = outcome.measurements
        notes = "".join(f"<p class='remark'>{safe(note)}</p>" for note in measured["notes"])
        rows = {"Time": f"{measured['seconds']:.1f} s on {'the GPU' if measured['device'] == 'cuda' else 'the CPU'}"}
        return notes + this_run({**rows, **self.figures(outcome)}, measured["models"], more=self.table(outcome))

    @property
    def endpoint(self) -> Endpoint:
        """The public endpoint as it is declared."""
        start = self.start
        texts = {
            name: getattr(start, name)
            for name, one in start.fields().items()
            if one.kind == "text" and not one.optional
        }
        limits = start.limits_in_words([name for name in start.fields() if name != MODEL_SET.name])
        outputs = (*(("file", name) for name in self.pictures), ("json", "measurements"))
        files = (Parameter(name, FILE, required=True) for name in self.given)
        more = (Parameter(name, FILES, optional=True, later=True) for name in self.files)
        return Endpoint(self.key, (*files, *parameters_of(start, **texts), *more), outputs, f"{self.about} {limits}")

    def _publish(self, registry: Registry) -> None:
        start = self.start

        def answer(session: str, **asked: object) -> Iterator[Any]:
            pictures = self.opened(asked)
            settings = replace(start, **asked).validated()
            for item in lane.live(self.generate, registry, settings, limit_s=self.limit_s, **pictures):
                if isinstance(item, lane.Result):
                    yield (*self.write(item.value, session).paths, item.value.measurements)
                else:
                    yield gr.skip()

        publish(self.endpoint, answer, start.model_set)


def how_it_works(story: str) -> None:
    """The words about the paper, in Markdown, which open on a click; nothing where there are none."""
    if story:
        with gr.Accordion("How it works", open=False):
            gr.Markdown(story, elem_classes="reading")


def run_row(
    label: str = "Run", stopping: str = "Stop", *classes: str, kind: str = "studio-run"
) -> tuple[gr.Button, gr.Button]:
    """What starts a run, with ``kind`` as its class, and what stops it beside it; ``classes``: of the row."""
    with gr.Row(elem_classes=["run-row", *classes]):
        run = gr.Button(label, variant="primary", size="lg", scale=3, min_width=120, elem_classes=kind)
        stop = gr.Button(stopping, size="lg", scale=1, min_width=90, elem_classes="studio-stop")
    return run, stop


def example_chips(label: str, titles: Sequence[str]) -> list[gr.Button]:
    """A button per example, in one place of the layout, which says what a click does."""
    with gr.Column(elem_classes=["studio-chips", "across"]):
        gr.HTML(f"<p class='label'>{safe(label)}</p>", padding=False)
        with gr.Row(elem_classes="chips"):
            return [gr.Button(title, size="sm", elem_classes="example") for title in titles]


def drop_zone(label: str, kind: str, *file_types: str, file_count: Literal["single", "multiple"] = "single") -> gr.File:
    """Where a file is dropped, with ``kind`` as its class."""
    given: dict[str, Any] = {
        "file_types": list(file_types) or None,
        "type": "filepath",
        "height": 84,
        "file_count": file_count,
    }
    return gr.File(label=label, elem_classes=["drop-zone", kind], **given)


def drawn_by_another(models: Sequence[str], parts: Mapping[str, ModelSpec]) -> str:
    """A sentence where the ``models`` that a PNG names drew with another UNet than ``parts`` have; empty otherwise."""
    earlier = [key for key in models if key.endswith("/unet")]
    if not earlier or "unet" not in parts or parts["unet"].key in earlier:
        return ""
    return f"The picture was drawn by {safe(earlier[0][:60])}, and {parts['unet'].key} draws here now: the same settings give another one."


def restore_zone() -> gr.File:
    """Where a PNG that was made here gives its settings back."""
    return drop_zone("Restore settings from a PNG made here", "restore", ".png")


def picture(label: str, kind: str, alt_text: str = "") -> gr.Image:
    """A picture of a run, with ``kind`` as its class."""
    return gr.Image(
        label=label,
        type="filepath",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes=["picture", kind],
        alt_text=alt_text or label,
        placeholder=" ",
    )


def before_and_after(label: str, kind: str) -> gr.ImageSlider:
    """Two pictures under one slider, which opens at the second, with ``kind`` as its class."""
    return gr.ImageSlider(
        label=label,
        type="filepath",
        format="png",
        slider_position=0,  # all of the result
        buttons=["fullscreen"],
        elem_classes=["frame", kind],
    )


def variants(label: str, classes: str | list[str]) -> gr.Gallery:
    """The pictures of a run to choose from, unseen until there are some."""
    return gr.Gallery(
        label=label,
        columns=4,
        height="auto",
        visible=False,
        allow_preview=False,
        object_fit="contain",
        buttons=[],
        elem_classes=classes,
    )
