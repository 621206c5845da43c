"""A concept of one's own in the Concept Guidance tab: from ten lines or a file to a slider in the chat, and back to a file."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.concept_guidance.chat import Chat
from demos.concept_guidance.facts import (
    PLACES,
    PROBE_NAMES,
    SLUG,
    Own,
    Page,
    accuracy_chart,
    free_name,
    shipped_place,
    size,
)
from demos.concept_guidance.shown import display, notices_html
from demos.core.figures import safe, signed
from demos.core.handlers import GPU, LIGHT, TALKS, explain, halt, on_gpu
from demos.core.hold import held
from demos.core.uploads import emptied, told
from demos.core.visitors import new_folder, visitor
from demos.core.widgets import progress_line, running_line
from pipelines import concept_guidance
from pipelines.concept_guidance import Settings, files
from pipelines.concept_guidance.concepts import similarity
from pipelines.concept_guidance.examples import check_examples, read_examples
from pipelines.concept_guidance.gguf import write_gguf
from pipelines.concept_guidance.train import Trained, TrainSettings, train
from pipelines.concept_guidance.vectors import specs
from pipelines.core.lane import IDLE, Progress, Result, live
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

    return Made(trained, registry.run(specs(settings.model_set, settings.model)[-1], compare))


def build(page: Page, chat: Chat) -> None:
    """The widgets of the part and what they do."""
    mini = page.model_set == "mini"
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="studio-controls"):
            examples = gr.Textbox(
                label="Examples, one a line", lines=10, max_lines=18, elem_classes="own-lines",
                placeholder="+ question => an answer that shows it\n- question => an answer that does not",
            )  # fmt: skip
            with gr.Row(elem_classes="chips"):
                fill = gr.Button("Fill in an example", size="sm", elem_classes="surprise")
            upload = gr.File(
                label="Or a file: CSV, JSON or JSONL with prompt, completion, label", type="filepath", height=96,
                elem_classes="restore",
            )  # fmt: skip
            name = gr.Textbox(label="Name of the concept", value="", max_lines=1, placeholder="such as warm welcome")
            with gr.Accordion("Probe, place and validation", open=False):
                probe = gr.Dropdown([(words, key) for key, words in PROBE_NAMES.items()], value="dim", label="Probe")
                place = gr.Dropdown(
                    [(words, key) for key, words in PLACES.items()], value=shipped_place(page.model_set), label="Place",
                    info="Vectors can be compared with the shipped ones at the same place only.",
                )  # fmt: skip
                context = gr.Slider(*TrainSettings.CONTEXT, value=16, step=1, label="Tokens of each answer to look at")
                apart = gr.Slider(*TrainSettings.VALIDATION, value=0.2, step=0.05, label="Share held out")
            with gr.Row(elem_classes=["run-row", "lab-row"]):
                train = gr.Button(
                    "Train", variant="primary", size="lg", scale=3, min_width=110, elem_classes="studio-run"
                )
                stop = gr.Button("Stop training", size="lg", scale=2, min_width=90, elem_classes="studio-stop")
        with gr.Column(scale=6, min_width=320, elem_classes="studio-results"):
            line = gr.HTML(progress_line(READY), padding=False, elem_classes="make-line")
            result = gr.HTML(padding=False)
            with gr.Row(elem_classes="run-row"):
                save = gr.DownloadButton("Download .safetensors", size="md", interactive=False, min_width=140)
                save_gguf = gr.DownloadButton("Download .gguf", size="md", interactive=False, min_width=140)
            why = gr.HTML(padding=False)
            loaded = gr.File(
                label="Load a concept: .safetensors or .gguf", type="filepath", height=96,
                elem_classes=["restore", "load-concept"],
            )  # fmt: skip

    def keep(own: Own, concept: Concept, model: str, session: str) -> dict[Any, Any]:
        """The updates that put a concept among the visitor's own and into the first row of the chat."""
        kept = dict(
            list({**{k: v for k, v in own.items() if k != concept.name}, concept.name: concept}.items())[-OWN_MAX:]
        )
        paths, reason = concept_file(concept, session)
        first = chat.rows[0]
        return {
            page.own: kept, **page.offer(kept, model),
            first.concept: gr.Dropdown(choices=page.offered(kept, model), value=concept.name), first.on: True,
            save: gr.DownloadButton(value=paths[0], interactive=True),
            save_gguf: gr.DownloadButton(value=paths[1], interactive=paths[1] is not None),
            why: f"<p class='quiet'>{safe(reason)}</p>" if reason else "",
        }  # fmt: skip

    def train_own(session, text, path, called, probe_key, where, tokens, share, own, model) -> Iterator[Any]:
        source = Path(path) if path else text
        if not path and not text.strip():
            raise ValueError("There are no examples: write some, press “Fill in an example”, or choose a file.")
        settings = TrainSettings(
            source, called or (Path(path).stem[: TrainSettings.NAME_MAX] if path else ""), probe_key, where, tokens,
            share, model_set=page.model_set, model=model or "",
        ).validated()  # fmt: skip
        settings = dataclasses.replace(settings, name=free_name(settings.name, page.model_set, model or ""))
        check_examples(settings.read())
        yield {line: progress_line("Starting…", 0.0, "running")}
        began = time.monotonic()
        made = None
        for item in live(make, page.registry, settings, limit_s=LIMIT_S):
            if isinstance(item, Progress):
                yield {line: running_line(item, began)}
            elif isinstance(item, Result):
                made = item.value
            elif item is IDLE:
                yield gr.skip()
        concept = made.trained.concept
        told = f"Made: {concept.name} is now in the chat’s lists, and in its first row."
        yield {
            **keep(own, concept, model or "", session), result: made_html(made, "", page.layers),
            line: progress_line(f"{told} Writing a sample…", 0.95, "running"),
        }  # fmt: skip
        sample = ""
        asked = Settings(
            crumpet.EXAMPLES[0] if mini else "What should I cook tonight?",
            ((concept.name, SAMPLE_STRENGTH),), levels=(-1.0, 1.0), seed=7, max_tokens=60,
            model_set=page.model_set, model=model or "",
        )  # fmt: skip
        try:
            for item in live(concept_guidance.generate, page.registry, asked, {concept.name: concept}, limit_s=LIMIT_S):
                if isinstance(item, Result):
                    sample = sample_html(item.value, page.model_set)
                elif item is IDLE:
                    yield gr.skip()
        except ValueError as error:  # made at a place where one can detect but not guide
            sample = notices_html([explain(error)])
        yield {
            result: made_html(made, sample, page.layers),
            line: progress_line(f"{told} {time.monotonic() - began:.1f} s.", 1.0, "done"),
        }

    def load(path, own, model, request: gr.Request) -> dict[Any, Any]:
        if path is None:
            return {loaded: None}
        try:
            layers, width = size(page.model_set, model or "")
            concept = files.read_concept(path, layers, width)
        except Exception as error:  # whatever is in the file: one sentence, and an empty zone to try again
            gr.Warning(safe(explain(error), quotes=False), title="Nothing was loaded")
            return {loaded: None}
        wanted = concept.name[: TrainSettings.NAME_MAX] or "loaded"
        concept = dataclasses.replace(concept, name=free_name(wanted, page.model_set, model or ""))
        gr.Info(f"{safe(concept.name)} is now in the chat’s lists, and in its first row.", title="Loaded")
        return {
            **keep(own, concept, model or "", visitor(request)), loaded: None, result: loaded_html(concept, page.layers),
            line: progress_line(f"Loaded {concept.name}.", 1.0, "done"),
        }  # fmt: skip

    first = chat.rows[0]
    kept = [page.own, *page.pickers, first.on, save, save_gguf, why, result, line]
    stopped = {line: progress_line("Stopped. Your examples are still here.", 0.0, "stopped")}
    broken = {line: progress_line(BROKE, 0.0, "stopped")}
    train.click(
        on_gpu(train_own, stopped=stopped, broken=broken), [examples, upload, name, probe, place, context, apart, page.own, page.model],
        kept, show_progress="hidden", api_visibility="private", trigger_mode="multiple", **GPU,
    )  # fmt: skip
    stop.click(halt, **LIGHT)
    filled = [EXAMPLE if mini else PLAIN_EXAMPLE, EXAMPLE_NAME if mini else "pirate talk", None]
    held(SLUG, fill.click, lambda: filled, None, [examples, name, upload], **LIGHT)

    def look_into(path: str | None) -> None:
        """The examples of a file are read when it comes, so that a file that is refused does not stay."""
        if path is not None:
            with told("These examples were not taken"):
                check_examples(read_examples(Path(path)))

    emptied(upload, held(SLUG, upload.upload, look_into, upload, None, **TALKS))
    held(SLUG, loaded.upload, load, [loaded, page.own, page.model], [*kept, loaded], **TALKS)


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
    told = (
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
    return f"<div class='board'><h4>{safe(concept.name)}</h4>{told}{notices_html(made.trained.notices)}{chart}{sample}</div>"


def loaded_html(concept: Concept, layers: str) -> str:
    """What a loaded file tells of itself."""
    chart = accuracy_chart(concept.name, concept.train_accuracy, concept.validation_accuracy, layers)
    return (
        f"<div class='board'><h4>{safe(concept.name)}</h4><p class='quiet'>{concept.layers} layers · "
        f"{safe(PROBE_NAMES.get(concept.probe, 'probe not known'))} · {safe(concept.representation)}</p>"
        f"{notices_html(concept.notices)}{chart}</div>"
    )


def sample_html(outcome: Any, model_set: str) -> str:
    """One question without, with less and with more of a new concept."""
    plain, less, more = outcome.rows
    names = (f"−{SAMPLE_STRENGTH}", "0", f"+{SAMPLE_STRENGTH}")
    items = "".join(
        f"<dt>{name}</dt><dd>{safe(display(row.text, model_set)) or '(empty)'}</dd>"
        for name, row in zip(names, (less, plain, more), strict=True)
    )
    asked = safe(outcome.settings.message)
    return f"<div class='readings'><h4>A sample: {asked}</h4><dl>{items}</dl></div>{notices_html(outcome.notices)}"
