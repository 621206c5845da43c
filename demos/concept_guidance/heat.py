"""The heat map of the Concept Guidance tab: how strongly each token of an answer shows a concept, in numbers and colours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.concept_guidance.chat import Chat
from demos.concept_guidance.facts import Own, Page, accuracies, choices
from demos.concept_guidance.shown import Turn, heat_map
from demos.core.figures import safe
from demos.core.handlers import GPU, LIGHT, halt, on_gpu
from demos.core.widgets import progress_line, running_line
from pipelines import concept_guidance
from pipelines.concept_guidance.layers import choose_layers
from pipelines.core.lane import IDLE, Progress, Result, live

if TYPE_CHECKING:
    from pipelines.concept_guidance import Row

LIMIT_S = 120.0
GUIDED, UNGUIDED, PASTED = "the last guided answer", "the last unguided answer", "a text of my own"
MEAN = "the mean of the best layers"
READY = "Send a question in the chat, or choose a text of your own, and press Read."
INTRO = """<p>A probe looks at the hidden state of every token and says from −1 to +1 how strongly it sees the
concept there. The reader is always the <b>unguided</b> model: otherwise one would only find again what one added.</p>"""
SAMPLE = "Dear guest, the goat eats postcards, with warm regards!"


def build(page: Page, chat: Chat) -> None:
    """The widgets of the part and what they do."""
    found = gr.State({})  # (text, concept) -> row of what was read on request
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    source = gr.Radio([GUIDED, UNGUIDED, PASTED], value=GUIDED, label="Look at", elem_classes="choices")
    with gr.Column(visible=False) as own_text:
        pasted = gr.Textbox(
            label="Text to read", value=SAMPLE if page.model_set == "mini" else "", lines=3, max_lines=8
        )
        question = gr.Textbox(label="The question that it answers (may be empty)", max_lines=2)
    with gr.Row(elem_classes="heat-choice"):
        concept = page.picker("Concept to look for", min_width=150)
        layer = gr.Dropdown([(MEAN, -1)], value=-1, label="At", min_width=150)
    with gr.Row(elem_classes=["run-row", "lab-row"]):
        read = gr.Button("Read", variant="primary", size="lg", scale=3, min_width=110, elem_classes="studio-run")
        stop = gr.Button("Stop reading", size="lg", scale=1, min_width=90, elem_classes="studio-stop")
    line = gr.HTML(progress_line(READY), padding=False, elem_classes="heat-line")
    picture = gr.HTML(padding=False)

    def picked(turns: Sequence[Turn], where: str, text: str, asked: str) -> tuple[str, str, Row | None]:
        """The text that is looked at, its question, and its row where the chat has read it."""
        if where == PASTED:
            return text, asked, None
        last = next((turn for turn in reversed(turns) if turn.outcome is not None), None)
        if last is None:
            return "", "", None
        row = last.row(int(where == GUIDED))
        return row.text, last.message, row

    def draw(turns, where, text, asked, name, number, own, model, read_rows) -> dict[Any, Any]:
        text, _, row = picked(turns, where, text, asked)
        if not name:
            return {picture: "<p class='quiet'>This model has no concepts yet: make one of your own.</p>"}
        row = read_rows.get((text, name), row)
        if row is None or name not in row.scores:
            told = f"Press Read to have this text read for {safe(name)}." if text.strip() else READY
            return {picture: f"<p class='quiet'>{told}</p>", line: progress_line(READY)}
        scores = row.scores[name]
        layers = [(MEAN, -1), *((f"layer {n}", n) for n in range(len(scores)))]
        number = number if number < len(scores) else -1
        _, validation = accuracies(page.model_set, model, name, own)
        best = choose_layers(page.layers, len(scores), validation) if scores else ()
        title = {GUIDED: "The guided answer", UNGUIDED: "The unguided answer"}.get(where, "Your text")
        return {
            picture: heat_map(row, name, None if number < 0 else number, best, title),
            layer: gr.Dropdown(layers, value=number),
            line: progress_line("Read.", 1.0, "done"),
        }

    def first_look(turns: Sequence[Turn], where: str, name: str | None, own: Own, model: str) -> dict[Any, Any]:
        """After an answer: show the first concept that it was guided by."""
        if not turns or where == PASTED:
            return gr.skip()
        scores = turns[-1].row(1).scores
        name = name if name in scores else next(iter(scores), name)
        offered = choices(page.model_set, model, own)
        if name is not None and name not in [key for _, key in offered]:
            offered = [*offered, (name, name)]
        update = gr.Dropdown(choices=offered, value=name)
        return {**draw(turns, where, "", "", name, -1, own, model, {}), concept: update}

    def read_text(session, turns, where, text, asked, name, number, own, model, read_rows) -> Iterator[Any]:
        text, asked, _ = picked(turns, where, text, asked)
        if not name:
            raise ValueError("No concept is chosen: choose one to look for.")
        yield {line: progress_line("Starting…", 0.0, "running")}
        began = time.monotonic()
        for item in live(
            concept_guidance.score_text, page.registry, text, (name,), asked, page.model_set, model or "", own,
            limit_s=LIMIT_S,
        ):  # fmt: skip
            if item is IDLE:
                yield gr.skip()
            elif isinstance(item, Progress):
                yield {line: running_line(item, began)}
            elif isinstance(item, Result):
                rows = dict(list(read_rows.items())[-20:]) | {(text, name): item.value}
                where_now = draw(turns, where, text, asked, name, number, own, model, rows)
                perplexity = item.value.perplexity
                told = f"Read: {len(item.value.tokens)} tokens" + (
                    f", perplexity {perplexity:.1f} under the unguided model" if perplexity else ""
                )
                yield {**where_now, found: rows, line: progress_line(told, 1.0, "done")}

    inputs = [chat.turns, source, pasted, question, concept, layer, page.own, page.model, found]
    outputs = [picture, layer, line]
    handler = on_gpu(
        read_text,
        stopped={line: progress_line("Stopped.", 0.0, "stopped")},
        broken={line: progress_line("The text was not read; the message says why.", 0.0, "stopped")},
    )
    read.click(
        handler, inputs, [*outputs, found], show_progress="hidden", api_visibility="private",
        trigger_mode="multiple", **GPU,
    )  # fmt: skip
    stop.click(halt, **LIGHT)
    gr.on([source.input, concept.input, layer.input], draw, inputs, outputs, **LIGHT)
    source.change(lambda where: gr.Column(visible=where == PASTED), source, own_text, **LIGHT)
    chat.finished.change(
        first_look, [chat.finished, source, concept, page.own, page.model], [*outputs, concept], **LIGHT
    )
