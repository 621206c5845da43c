"""The heat map of the Concept Guidance tab: how strongly each token of an answer shows a concept, in numbers and colours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.concept_guidance.chat import Chat
from demos.concept_guidance.facts import Own, Page, accuracies, choices
from demos.concept_guidance.shown import Turn, heat_map
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import LIGHT, halt, on_gpu
from demos.core.page import ends, pump, run_event, run_row
from demos.core.widgets import progress_line
from pipelines import concept_guidance
from pipelines.concept_guidance import ScoreSettings
from pipelines.concept_guidance.layers import choose_layers
from pipelines.core.lane import live

if TYPE_CHECKING:
    from pipelines.concept_guidance import Row

LIMIT_S = 120.0
GUIDED, UNGUIDED, PASTED = "the last guided answer", "the last unguided answer", "a text of my own"
MEAN = "the mean of the best layers"
READY = "Send a question in the chat, or choose a text of your own, and press Read."
INTRO = """<p>A probe looks at the hidden state of every token and says from −1 to +1 how strongly it sees the
concept there. The reader is always the <b>unguided</b> model: otherwise one would only find again what one added.</p>"""
SAMPLE = "Dear guest, the goat eats postcards, with warm regards!"


@dataclasses.dataclass(frozen=True)
class Heat:
    """The widgets of the part."""

    page: Page
    asked: Form[ScoreSettings]
    source: gr.Radio
    concept: gr.Dropdown
    layer: gr.Dropdown
    line: gr.HTML
    picture: gr.HTML

    def draw(self, turns, where, text, question, name, number, own, model, rows) -> dict[Any, Any]:
        """The updates that show the tokens of what is looked at; ``rows``: (text, concept) -> what was read on request."""
        text, _, row = text_to_read(turns, where, text, question)
        if not name:
            return {self.picture: "<p class='quiet'>This model has no concepts yet: make one of your own.</p>"}
        row = rows.get((text, name), row)
        if row is None or name not in row.scores:
            words = f"Press Read to have this text read for {safe(name)}." if text.strip() else READY
            return {self.picture: f"<p class='quiet'>{words}</p>", self.line: progress_line(READY)}
        scores = row.scores[name]
        layers = [(MEAN, -1), *((f"layer {n}", n) for n in range(len(scores)))]
        number = number if number < len(scores) else -1
        _, validation = accuracies(self.page.model_set, model, name, own)
        best = choose_layers(self.page.layers, len(scores), validation) if scores else ()
        title = {GUIDED: "The guided answer", UNGUIDED: "The unguided answer"}.get(where, "Your text")
        return {
            self.picture: heat_map(row, name, None if number < 0 else number, best, title),
            self.layer: gr.Dropdown(layers, value=number),
            self.line: progress_line("Read.", 1.0, "done"),
        }

    def first_look(self, turns: Sequence[Turn], where: str, name: str | None, own: Own, model: str) -> dict[Any, Any]:
        """After an answer: the updates that show the first concept that it was guided by."""
        row = turns[-1].row(1) if turns else None
        if row is None or where == PASTED:
            return gr.skip()
        scores = row.scores
        name = name if name in scores else next(iter(scores), name)
        offered = choices(self.page.model_set, model, own)
        if name is not None and name not in [key for _, key in offered]:
            offered = [*offered, (name, name)]
        drawn = self.draw(turns, where, "", "", name, -1, own, model, {})
        return {**drawn, self.concept: gr.Dropdown(choices=offered, value=name)}


def text_to_read(turns: Sequence[Turn], where: str, text: str, question: str) -> tuple[str, str, Row | None]:
    """The text that is looked at, its question, and its row where the chat has read it."""
    if where == PASTED:
        return text, question, None
    last = next((turn for turn in reversed(turns) if turn.outcome is not None), None)
    if last is None:
        return "", "", None
    row = last.row(int(where == GUIDED))
    assert row is not None
    return row.text, last.message, row


def build(page: Page, chat: Chat) -> None:
    """The widgets of the part and what they do."""
    rows = gr.State({})
    asked = Form(ScoreSettings(SAMPLE if page.model_set == "mini" else "", model_set=page.model_set))
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    source = gr.Radio([GUIDED, UNGUIDED, PASTED], value=GUIDED, label="Look at", elem_classes="choices")
    with gr.Column(visible=False) as own_text:
        asked.add("answer", max_lines=8)
        asked.add("question", lines=1, max_lines=2)
    with gr.Row(elem_classes="heat-choice"):
        concept = page.picker("Concept to look for", min_width=150)
        layer = gr.Dropdown([(MEAN, -1)], value=-1, label="At", min_width=150)
    read, stop = run_row("Read", "Stop reading", "lab-row")
    line = gr.HTML(progress_line(READY), padding=False, elem_classes="heat-line")
    heat = Heat(page, asked, source, concept, layer, line, gr.HTML(padding=False))

    def read_text(session, turns, where, text, question, name, number, own, model, found) -> Iterator[Any]:
        text, question, _ = text_to_read(turns, where, text, question)
        if not name:
            raise ValueError("No concept is chosen: choose one to look for.")
        settings = asked.settings({"answer": text, "question": question}, concepts=(name,), model=model or "")
        yield {line: progress_line("Starting…", 0.0, "running")}

        def done(row: Row, _seconds: float) -> dict[Any, Any]:
            kept = dict(list(found.items())[-20:]) | {(text, name): row}
            cost = f", perplexity {row.perplexity:.1f} under the unguided model" if row.perplexity else ""
            words = progress_line(f"Read: {len(row.tokens)} tokens{cost}", 1.0, "done")
            return {**heat.draw(turns, where, text, question, name, number, own, model, kept), rows: kept, line: words}

        items = live(concept_guidance.score_text, page.registry, settings, own, limit_s=LIMIT_S)
        yield from pump(items, line, done)

    inputs = [chat.turns, source, *asked.outputs, concept, layer, page.own, page.model, rows]
    outputs = [heat.picture, layer, line]
    last = ends(line, "Stopped.", "The text was not read; the message says why.")
    read.click(**run_event(on_gpu(read_text, **last), *outputs, rows, inputs=inputs))
    stop.click(halt, **LIGHT)
    gr.on([source.input, concept.input, layer.input], heat.draw, inputs, outputs, **LIGHT)
    source.change(lambda where: gr.Column(visible=where == PASTED), source, own_text, **LIGHT)
    looking = [chat.finished, source, concept, page.own, page.model]
    chat.finished.change(heat.first_look, looking, [*outputs, concept], **LIGHT)
