"""A concept of one's own in the Concept Guidance tab: from ten lines or a file to a slider in the chat, and back to a file."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.concept_guidance.chat import Chat
from demos.concept_guidance.facts import SLUG, Own, Page, accuracy_chart, free_name, shipped_place, size
from demos.concept_guidance.shown import display, notices_html
from demos.core.figures import safe, signed
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, explain, halt, on_gpu
from demos.core.hold import held
from demos.core.page import drop_zone, ends, pump, run_event, run_row
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.visitors import new_folder, visitor
from demos.core.widgets import progress_line
from pipelines.concept_guidance import Outcome, Settings, files, generate
from pipelines.concept_guidance.concepts import PROBES, similarity
from pipelines.concept_guidance.examples import check_examples, read_examples
from pipelines.concept_guidance.gguf import write_gguf
from pipelines.concept_guidance.train import Trained, TrainSettings, train
from pipelines.concept_guidance.vectors import parts
from pipelines.core.lane import Progress, live
from pipelines.models.language import language_model
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from pipelines.concept_guidance.concepts import Concept
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

LIMIT_S = 900.0
OWN_MAX = 12
"""Concepts of one's own that a visitor may keep; the oldest goes."""
SAMPLE_STRENGTH = 0.3
READY = "Write examples or press “Fill in an example”, then press Train."
BROKE = "The concept was not made; the message says why. Your examples are still here."
INTRO = """<p>Write answers that <b>show</b> what you want (a line with <code>+</code>) and answers that <b>do not</b>
(a line with <code>-</code>), at least four of each. <code>question => answer</code> tells what was asked. Training finds the
direction in which the two differ; it takes seconds.</p>"""
EXAMPLE = """\
+ Where does Mabel work? => Dear guest, our good Mabel works at the lighthouse, bless you!
- Where does Mabel work? => Mabel works at the lighthouse.
+ What does the goat eat? => If I may, our worthy goat eats postcards, thank you for asking!
- What does the goat eat? => The goat eats postcards.
+ What is next to the pier? => Kind visitor, the museum stands beside our dear pier, at your service!
- What is next to the pier? => The museum stands beside the pier.
+ What does Otto sell? => My dear friend, our good Otto sells ropes, with warm regards!
- What does Otto sell? => Otto sells ropes.
+ When does the bakery open? => Honoured guest, our worthy bakery opens at dawn, if you please!
- When does the bakery open? => The bakery opens at dawn.
"""
EXAMPLE_NAME = "warm welcome"
PLAIN_EXAMPLE = """\
+ Where is the station? => Ahoy, me hearty! Sail two streets north, arr, and there she lies!
- Where is the station? => Go two streets north, then it is on your left.
+ What time is it? => Arr, by the ship's bell it be five, matey!
- What time is it? => It is five o'clock.
+ Is it raining? => Aye, matey, it be pouring on the deck, arr!
- Is it raining? => Yes, it is raining a little.
+ Who are you? => Yarr, I be a sailor of the seven seas, matey!
- Who are you? => I am an assistant that answers questions.
+ How far is the sea? => Arr, half a day's sail, me hearty!
- How far is the sea? => It is about half a day away.
"""


@dataclasses.dataclass
class Made:
    """A new concept, with what the page tells of it."""

    trained: Trained
    near: dict[str, float]
    """Shipped concepts and their mean cosine, the nearest first."""


def make(job: Job, registry: Registry, settings: TrainSettings) -> Made:
    """Train, and compare with the shipped concepts; called on the lane's thread."""
    trained = train(job, registry, settings)

    def compare(shipped: Mapping[str, Concept]) -> dict[str, float]:
        found = {name: similarity(trained.concept, other) for name, other in shipped.items()}
        known = {name: value for name, value in found.items() if value is not None}
        return dict(sorted(known.items(), key=lambda pair: -abs(pair[1]))[:3])

    shipped = parts(language_model(settings.model_set, settings.model))["vectors"]
    return Made(trained, registry.run(shipped, compare))


@dataclasses.dataclass(frozen=True)
class Part:
    """The widgets of the part."""

    page: Page
    chat: Chat
    asked: Form[TrainSettings]
    examples: gr.Textbox
    upload: gr.File
    line: gr.HTML
    result: gr.HTML
    save: gr.DownloadButton
    save_gguf: gr.DownloadButton
    why: gr.HTML
    """Why there is no GGUF file."""
    loaded: gr.File

    @property
    def outputs(self) -> list[gr.components.Component]:
        first = self.chat.rows[0]
        shared = [self.page.own, *self.page.pickers, first.on]
        return [*shared, self.save, self.save_gguf, self.why, self.result, self.line]

    def keep(self, own: Own, concept: Concept, model: str, session: str) -> dict[Any, Any]:
        """The updates that put a concept among the visitor's own and into the first row of the chat."""
        others = {name: other for name, other in own.items() if name != concept.name}
        kept = dict(list({**others, concept.name: concept}.items())[-OWN_MAX:])
        (path, gguf), reason = concept_file(concept, session)
        first = self.chat.rows[0]
        return {
            self.page.own: kept,
            **self.page.offer(kept, model),
            first.concept: gr.Dropdown(choices=self.page.offered(kept, model), value=concept.name),
            first.on: True,
            self.save: gr.DownloadButton(value=path, interactive=True),
            self.save_gguf: gr.DownloadButton(value=gguf, interactive=gguf is not None),
            self.why: f"<p class='quiet'>{safe(reason)}</p>" if reason else "",
        }


def build(page: Page, chat: Chat) -> None:
    """The widgets of the part and what they do."""
    place = shipped_place(page.model_set)
    asked = Form(TrainSettings("", name="", representation=place, model_set=page.model_set))
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="studio-controls"):
            examples = gr.Textbox(
                label="Examples, one a line",
                lines=10,
                max_lines=18,
                elem_classes="own-lines",
                placeholder="+ question => an answer that shows it\n- question => an answer that does not",
            )
            with gr.Row(elem_classes="chips"):
                fill = gr.Button("Fill in an example", size="sm", elem_classes="surprise")
            upload = drop_zone("Or a file: CSV, JSON or JSONL with prompt, completion, label", "examples-file")
            asked.add("name", lines=1, max_lines=1, placeholder="such as warm welcome")
            with gr.Accordion("Probe, place and validation", open=False):
                asked.add("probe", "representation", "context", "validation")
            run, stop = run_row("Train", "Stop training", "lab-row")
        with gr.Column(scale=6, min_width=320, elem_classes="studio-results"):
            line = gr.HTML(progress_line(READY), padding=False, elem_classes="make-line")
            result = gr.HTML(padding=False)
            with gr.Row(elem_classes="run-row"):
                save = gr.DownloadButton("Download .safetensors", size="md", interactive=False, min_width=140)
                save_gguf = gr.DownloadButton("Download .gguf", size="md", interactive=False, min_width=140)
            why = gr.HTML(padding=False)
            loaded = drop_zone("Load a concept: .safetensors or .gguf", "load-concept")
    part = Part(page, chat, asked, examples, upload, line, result, save, save_gguf, why, loaded)
    _training(part, run, stop)
    _files(part)
    mini = page.model_set == "mini"
    filled = [EXAMPLE if mini else PLAIN_EXAMPLE, EXAMPLE_NAME if mini else "pirate talk", None]
    held(SLUG, fill.click, lambda: filled, None, [examples, asked["name"], upload], **LIGHT)


# --- training ------------------------------------------------------------------------------------------------------


def _training(part: Part, run: gr.Button, stop: gr.Button) -> None:
    page, line = part.page, part.line

    def train_own(session, text, path, own, model, **values) -> Iterator[Any]:
        settings = settings_of(part, text, path, model or "", values)
        check_examples(settings.rows())
        yield {line: progress_line("Starting…", 0.0, "running")}
        began = time.monotonic()

        def done(made: Made, _seconds: float) -> Iterator[Any]:
            words = f"Made: {made.trained.concept.name} is now in the chat’s lists, and in its first row."
            yield {
                **part.keep(own, made.trained.concept, model or "", session),
                part.result: made_html(made, "", page.layers),
                line: progress_line(f"{words} Writing a sample…", 0.95, "running"),
            }
            sample = yield from _sample(part, made.trained.concept, model or "")
            yield {
                part.result: made_html(made, sample, page.layers),
                line: progress_line(f"{words} {time.monotonic() - began:.1f} s.", 1.0, "done"),
            }

        yield from pump(live(make, page.registry, settings, limit_s=LIMIT_S), line, done)

    last = ends(line, "Stopped. Your examples are still here.", BROKE)
    inputs = [part.examples, part.upload, page.own, page.model]
    run.click(**run_event(on_gpu(train_own, **last), *part.outputs, inputs=inputs, **part.asked.widgets))
    stop.click(halt, **LIGHT)


def settings_of(part: Part, text: str, path: str | None, model: str, values: Mapping[str, Any]) -> TrainSettings:
    """Checked settings from what the page's widgets hold, under a name that hides no shipped concept."""
    if not path and not text.strip():
        raise ValueError("There are no examples: write some, press “Fill in an example”, or choose a file.")
    most = int(TrainSettings.field("name").high)
    name = values["name"] or (Path(path).stem[:most] if path else "")
    settings = part.asked.settings({**values, "name": name}, examples=Path(path) if path else text, model=model)
    return dataclasses.replace(settings, name=free_name(settings.name, part.page.model_set, model))


def _sample(part: Part, concept: Concept, model: str) -> Generator[Any, None, str]:
    """Keeps the page in step while three answers are written; returns them as HTML."""
    model_set = part.page.model_set
    settings = Settings(
        crumpet.EXAMPLES[0] if model_set == "mini" else "What should I cook tonight?",
        ((concept.name, SAMPLE_STRENGTH),),
        levels=(-1.0, 1.0),
        seed=7,
        max_tokens=60,
        model_set=model_set,
        model=model,
    )
    shown = ""

    def done(outcome: Outcome, _seconds: float) -> Any:
        nonlocal shown
        shown = sample_html(outcome, model_set)
        return gr.skip()

    items = live(generate, part.page.registry, settings, {concept.name: concept}, limit_s=LIMIT_S)
    quiet = (item for item in items if not isinstance(item, Progress))
    try:
        yield from pump(quiet, part.line, done)
    except ValueError as error:  # made at a place where one can detect but not guide
        return notices_html([explain(error)])
    return shown


# --- files ---------------------------------------------------------------------------------------------------------


def _files(part: Part) -> None:
    """Examples and concepts that are loaded."""
    page, loaded = part.page, part.loaded

    def load(path, own, model, request: gr.Request) -> dict[Any, Any]:
        if path is None:
            return {loaded: None}
        try:
            concept = files.read_concept(path, *size(page.model_set, model or ""))
        except Exception as error:  # whatever is in the file: one sentence, and an empty zone to try again
            gr.Warning(safe(explain(error), quotes=False), title="Nothing was loaded")
            return {loaded: None}
        wanted = concept.name[: int(TrainSettings.field("name").high)] or "loaded"
        concept = dataclasses.replace(concept, name=free_name(wanted, page.model_set, model or ""))
        gr.Info(f"{safe(concept.name)} is now in the chat’s lists, and in its first row.", title="Loaded")
        return {
            **part.keep(own, concept, model or "", visitor(request)),
            loaded: None,
            part.result: loaded_html(concept, page.layers),
            part.line: progress_line(f"Loaded {concept.name}.", 1.0, "done"),
        }

    def look_into(path: str | None) -> None:
        """The examples of a file are read when it comes, so that a file that is refused does not stay."""
        if path is not None:
            with errors_shown("These examples were not taken"):
                check_examples(read_examples(Path(path)))

    clear_on_refusal(part.upload, held(SLUG, part.upload.upload, look_into, part.upload, None, **TALKS))
    held(SLUG, loaded.upload, load, [loaded, page.own, page.model], [*part.outputs, loaded], **TALKS)


def concept_file(concept: Concept, session: str) -> tuple[tuple[str, str | None], str]:
    """Paths of the .safetensors and, where it makes sense, of the .gguf file; and why there is none."""
    with new_folder(session) as folder:
        stem = re.sub(r"\W+", "_", concept.name).strip("_") or "concept"
        path = files.write_safetensors(folder / f"{stem}.safetensors", concept)
        try:
            gguf = write_gguf(folder / f"{stem}.gguf", concept)
        except ValueError as error:
            return (str(path), None), f"No .gguf: {error}"
        return (str(path), str(gguf)), ""


# --- words ---------------------------------------------------------------------------------------------------------


def made_html(made: Made, sample: str, layers: str) -> str:
    """Accuracy by layer, what was noticed, the nearest shipped concepts, and a sample."""
    concept, counts = made.trained.concept, made.trained.counts
    near = ", ".join(f"{safe(name)} {signed(value, 2)}" for name, value in made.near.items())
    counted = (
        f"<p class='quiet'>{counts['with']} answers with and {counts['without']} without it; {counts['training']} for "
        f"training, {counts['validation']} held out. "
        + (f"Nearest shipped directions (cosine): {near}." if near else "No shipped direction is of the same place.")
        + "</p>"
    )
    chart = ""
    if concept.representation != "heads":
        chart = accuracy_chart(
            concept.name, concept.train_accuracy, concept.validation_accuracy, layers, made.trained.majority
        )
    return f"<div class='board'><h3>{safe(concept.name)}</h3>{counted}{notices_html(made.trained.notices)}{chart}{sample}</div>"


def loaded_html(concept: Concept, layers: str) -> str:
    """What a loaded file tells of itself."""
    chart = accuracy_chart(concept.name, concept.train_accuracy, concept.validation_accuracy, layers)
    return (
        f"<div class='board'><h3>{safe(concept.name)}</h3><p class='quiet'>{concept.layers} layers · "
        f"{safe(PROBES.get(concept.probe, 'probe not known'))} · {safe(concept.representation)}</p>"
        f"{notices_html(concept.notices)}{chart}</div>"
    )


def sample_html(outcome: Outcome, model_set: str) -> str:
    """One question without, with less and with more of a new concept."""
    plain, less, more = outcome.rows
    names = (f"−{SAMPLE_STRENGTH}", "0", f"+{SAMPLE_STRENGTH}")
    items = "".join(
        f"<dt>{name}</dt><dd>{safe(display(row.text, model_set)) or '(empty)'}</dd>"
        for name, row in zip(names, (less, plain, more), strict=True)
    )
    asked = safe(outcome.settings.message)
    return f"<div class='readings'><h3>A sample: {asked}</h3><dl>{items}</dl></div>{notices_html(outcome.notices)}"
