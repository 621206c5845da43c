"""What the page of a paper is made of: a run, its events and, for papers that draw pictures from settings, the whole page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import gradio as gr

from demos.core.endpoint import MODEL_SET, Endpoint, parameters_of, publish
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import BROKE, GPU, LIGHT, TALKS, halt, on_gpu
from demos.core.hold import held
from demos.core.uploads import emptied, told
from demos.core.visitors import new_folder
from demos.core.widgets import Entry, History, paper_card, progress_line, running_line
from pipelines.core import images, lane
from pipelines.core.paper import Paper
from pipelines.core.registry import Registry
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


def run_event(handler: Callable[..., Any], *outputs: Any, inputs: Any = (), **named: Any) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Drawn:
    """A finished run and the files of its pictures, in the order of the page."""

    outcome: Any
    paths: tuple[str, ...]


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
    limit_s: float = 300.0

    def build(self, registry: Registry) -> None:
        """Make the page's widgets here and bind them."""
        registry.declare(*self.parts.values())
        paper_card(self.paper)
        asked = Form(self.start)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
                asked.add(*(name for name, one in self.start.fields().items() if one.shown))
                run, stop = run_row()
                dropped = restore_zone()
            with gr.Column(scale=7, min_width=320, elem_classes="studio-results"):
                line = gr.HTML(progress_line("Press Run."), padding=False, elem_classes="run-line")
                with gr.Row(elem_classes="pair"):
                    shown = {name: picture(label, name) for name, label in self.pictures.items()}
                table = gr.HTML(padding=False)
        history = History()
        if self.story:
            with gr.Accordion("How it works", open=False):
                gr.Markdown(self.story, elem_classes="reading")

        def show(drawn: Drawn, words: str) -> dict[Any, Any]:
            put = dict(zip(shown.values(), drawn.paths, strict=True))
            return {**put, line: progress_line(words, 1.0, "done"), table: self._table(drawn.outcome)}

        def draw(session: str, entries: list[Entry], **values: Any) -> Iterator[Any]:
            settings = asked.settings(values)
            yield {line: progress_line("Starting…", 0.0, "running")}

            def done(outcome: Any, seconds: float) -> dict[Any, Any]:
                drawn, caption = self.write(outcome, session), f"seed {outcome.settings.seed}"
                entry = Entry(drawn.paths[-1], caption, drawn)
                return {**show(drawn, f"Done in {seconds:.1f} s · {caption}"), **history.add(entries, entry)}

            previews = {
                kind: lambda item, read=read: {shown[name]: seen for name, seen in read(item).items()}
                for kind, read in self.shows.items()
            }
            items = lane.live(self.generate, registry, settings, limit_s=self.limit_s)
            yield from pump(items, line, done, previews)

        def restore(path: str | None) -> Any:
            if path is None:
                return gr.skip()
            with told("Nothing was restored"):
                record = images.read_settings(path, tab=self.slug)["settings"]
                return {**asked.updates(type(self.start).read(record, "this PNG")), dropped: None}

        def bring_back(entry: Entry) -> dict[Any, Any]:
            drawn = entry.outcome
            return {**asked.updates(drawn.outcome.settings), **show(drawn, "Brought back from your results")}

        draw.__name__ = f"{self.slug}_page"  # Gradio makes its name an address, which is the endpoint's
        results = [line, *shown.values(), table]
        handler = on_gpu(draw, **ends(line))
        run.click(**run_event(handler, *results, *history.outputs, inputs=[history.entries], **asked.widgets))
        stop.click(halt, **LIGHT)
        emptied(dropped, held(self.slug, dropped.upload, restore, dropped, [*asked.outputs, dropped], **TALKS))
        history.on_pick(bring_back, [*asked.outputs, *results])
        self._publish(registry)

    def write(self, outcome: Any, session: str) -> Drawn:
        """The pictures as PNG files with the settings inside, in a folder of their own."""
        record, models = asdict(outcome.settings), [model["key"] for model in outcome.measurements["models"]]
        with new_folder(session) as folder:
            paths = []
            for name in self.pictures:
                path = folder / f"{self.slug}_{outcome.settings.seed}_{name}.png"
                made = getattr(outcome, name)
                paths.append(images.save_png(made, path, {**record, "kind": name}, tab=self.slug, models=models))
        return Drawn(outcome, tuple(map(str, paths)))

    def _table(self, outcome: Any) -> str:
        measured = outcome.measurements
        notes = "".join(f"<p class='remark'>{safe(note)}</p>" for note in measured["notes"])
        rows = {"Time": f"{measured['seconds']:.1f} s on {'the GPU' if measured['device'] == 'cuda' else 'the CPU'}"}
        cells = "".join(
            f"<div><dt>{n}</dt><dd>{safe(v)}</dd></div>" for n, v in {**rows, **self.figures(outcome)}.items()
        )
        models = "".join(
            f"<li>{safe(model['key'])} ({safe(model['source'])}), {safe(model['licence'])}</li>"
            for model in measured["models"]
        )
        return f"{notes}<div class='figures'><h4>This run</h4><dl>{cells}</dl><h4>Models that answered</h4><ul>{models}</ul></div>"

    def _publish(self, registry: Registry) -> None:
        start = self.start

        def answer(session: str, **asked: Any) -> Iterator[Any]:
            settings = replace(start, **asked).validated()
            for item in lane.live(self.generate, registry, settings, limit_s=self.limit_s):
                if isinstance(item, lane.Result):
                    yield (*self.write(item.value, session).paths, item.value.measurements)
                else:
                    yield gr.skip()

        texts = {name: getattr(start, name) for name, one in start.fields().items() if one.kind == "text"}
        limits = start.limits_in_words([name for name in start.fields() if name != MODEL_SET.name])
        outputs = (*(("file", name) for name in self.pictures), ("json", "measurements"))
        endpoint = Endpoint(self.slug, parameters_of(start, **texts), outputs, f"{self.about} {limits}")
        publish(endpoint, answer, start.model_set)


def run_row() -> tuple[gr.Button, gr.Button]:
    """Run and Stop, side by side."""
    with gr.Row(elem_classes="run-row"):
        run = gr.Button("Run", variant="primary", size="lg", scale=3, min_width=120, elem_classes="studio-run")
        stop = gr.Button("Stop", size="lg", scale=1, min_width=90, elem_classes="studio-stop")
    return run, stop


def restore_zone() -> gr.File:
    """Where a PNG that was made here gives its settings back."""
    return gr.File(
        label="Restore settings from a PNG made here",
        file_types=[".png"],
        type="filepath",
        height=84,
        elem_classes="restore",
    )


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
    """Two pictures under one slider, with ``kind`` as its class."""
    return gr.ImageSlider(
        label=label, type="filepath", format="png", buttons=["fullscreen"], elem_classes=["frame", kind]
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
