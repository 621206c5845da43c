"""The chat of the Concept Guidance tab: one question, two answers from one batch, and what is steered how far."""

from __future__ import annotations

import dataclasses
import json
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from demos.concept_guidance.facts import (
    PROBE_NAMES,
    SLUG,
    Own,
    Page,
    accuracies,
    accuracy_chart,
    choices,
    full_name,
    points_of,
    safety,
)
from demos.concept_guidance.shown import Turn, bubbles, history, notices_html, row_facts
from demos.core.figures import safe
from demos.core.handlers import GPU, LIGHT, TALKS, halt, on_gpu, stop_run
from demos.core.hold import STARTS, held, hold
from demos.core.visitors import new_folder
from demos.core.widgets import progress_line, running_line
from pipelines import concept_guidance
from pipelines.concept_guidance import Partial, Settings, lab
from pipelines.core.lane import IDLE, Progress, Result, live
from pipelines.models.language import language_model
from pipelines.worlds import crumpet

LIMIT_S = 180.0
ROWS = Settings.CONCEPTS_MAX
PER_ROW = 4
"""Settings of a row of concepts: name, probe, strength, on."""
NOTHING_YET = "Press an example, or write a question of your own and press Send."
BROKE = "This answer ended early; the message says why. Your question is back in its box."
STOPPED = "Stopped. What was written stays; Retry answers the question again."
EACH, BOTH = "each its own history", "both follow the guided side"
RAW_STEPS = 32

START = ("politeness", 0.4)
"""What the first row holds when the page opens: a change that one sees at once."""
PRESETS: dict[str, dict[str, float]] = {
    "A joker who knows the facts": {"humour": 0.3, "truthfulness": 0.2},
    "A polite liar": {"politeness": 0.3, "truthfulness": -0.3},
    "A seaside poet": {"creativity": 0.3},
    "Grumpy and no help": {"politeness": -0.3, "compliance": -0.15},
    "A dry clerk": {"humour": -0.3, "creativity": -0.2},
}
"""Ways to set the rows, by what they make of the people of Crumpet Bay."""


@dataclasses.dataclass(frozen=True)
class ConceptRow:
    """One row of widgets: a concept, how it was found, how strong, on or off."""

    box: gr.Column
    concept: gr.Dropdown
    probe: gr.Dropdown
    strength: gr.Slider
    on: gr.Checkbox
    note: gr.HTML
    remove: gr.Button

    @property
    def inputs(self) -> list[gr.components.Component]:
        return [self.concept, self.probe, self.strength, self.on]


@dataclasses.dataclass(frozen=True)
class Chat:
    """What other parts of the tab need of the chat."""

    turns: gr.State
    """Every :class:`Turn`, also one that is being written."""
    finished: gr.State
    """The turns after an answer that was not stopped; its change tells that there is something new to look at."""
    rows: list[ConceptRow]
    mode: gr.Radio


def build(page: Page) -> Chat:
    """Controls on the left, both chats on the right, and what they do."""
    mini = page.model_set == "mini"
    turns, finished, shown = gr.State([]), gr.State([]), gr.State([True] + [False] * (ROWS - 1))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            if mini:
                with gr.Column(elem_classes="studio-chips"):
                    gr.HTML("<p class='label'>Presets: set the strengths below</p>", padding=False)
                    with gr.Row(elem_classes="chips"):
                        presets = [gr.Button(name, size="sm", elem_classes="preset") for name in PRESETS]
            rows = [_row(page, number) for number in range(ROWS)]
            add = gr.Button("+ Add a concept", size="sm", elem_classes="add-concept")
            both = gr.Radio([EACH, BOTH], value=EACH, label="Continue from", elem_classes="choices")
            with gr.Row(elem_classes="seed-row"):
                seed = gr.Number(label="Chat seed", value=7, precision=0, min_width=110, scale=3)
                dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
            with gr.Accordion("Layers, scale and sampling", open=False):
                layers = gr.Textbox(
                    label="Layers", value=page.layers, max_lines=1,
                    info="best, best 3, all, a range such as 2-4, or a list such as 1, 3",
                )  # fmt: skip
                chart = gr.HTML(padding=False)
                mode = gr.Radio(
                    [("share of each token’s norm", "share"), ("the paper’s raw scale", "raw")],
                    value="share", label="Strength means", elem_classes="choices",
                )  # fmt: skip
                positions = gr.Radio(
                    [("everywhere", "all"), ("the answer", "answer"), ("the newest token only", "last")],
                    value="all", label="Guide at", elem_classes="choices",
                )  # fmt: skip
                temperature = gr.Slider(*Settings.TEMPERATURE, value=0.7, step=0.05, label="Temperature")
                top_p = gr.Slider(*Settings.TOP_P, value=0.95, step=0.05, label="Top-p")
                longest = gr.Slider(
                    Settings.MAX_TOKENS[0], 512, value=96 if mini else 160, step=1, label="Most tokens of an answer"
                )
        with gr.Column(scale=7, min_width=320, elem_classes=["studio-results", "chat-side"]):
            line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="chat-line")
            with gr.Row(elem_classes=["pair", "chats"]):
                panes = [_pane("Unguided", "plain"), _pane("Guided", "steered")]
            applied = gr.HTML(padding=False, elem_classes="applied")
            message = gr.Textbox(
                label="Your message", placeholder="Ask about the animals, people and places of Crumpet Bay"
                if mini else "Ask anything", lines=1, max_lines=6, elem_id="concept-message", elem_classes=STARTS,
            )  # fmt: skip
            with gr.Row(elem_classes=["run-row", "chat-row"]):
                send = gr.Button("Send", variant="primary", size="lg", scale=3, min_width=96, elem_classes="studio-run")
                stop = gr.Button("Stop", size="lg", scale=1, min_width=64, elem_classes="studio-stop")
                retry = gr.Button("Retry", size="lg", scale=1, min_width=64, elem_classes=STARTS)
                undo = gr.Button("Undo", size="lg", scale=1, min_width=64)
                clear = gr.Button("Clear", size="lg", scale=1, min_width=64)
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Questions: one click sends</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    chips = [gr.Button(text, size="sm", elem_classes="example") for text in examples(page.model_set)]
                    surprise = gr.Button("Surprise me", size="sm", elem_classes=["surprise", STARTS])
            save = gr.DownloadButton("Download transcript and settings (JSON)", size="md", interactive=False)

    advanced = [layers, mode, positions, seed, temperature, top_p, longest]
    each_row = [widget for row in rows for widget in row.inputs]
    inputs = [message, turns, page.own, page.model, both, shown, *advanced, *each_row]
    outputs = [message, turns, finished, line, *panes, applied, save, seed]

    def panes_of(now: Sequence[Turn]) -> dict[Any, Any]:
        return {pane: bubbles(now, side, page.model_set) for side, pane in enumerate(panes)}

    def chat(session, message_text, before, own, model, both_sides, visible, *rest) -> Iterator[Any]:
        settings = asked(page.model_set, message_text, before, own, model, both_sides, visible, rest)
        yield from answer(session, settings, before, before, own)

    def chat_again(session, message_text, before, own, model, both_sides, visible, *rest) -> Iterator[Any]:
        if not before:
            raise ValueError("There is nothing to answer again: send a question first.")
        last, kept = before[-1], before[:-1]
        settings = asked(page.model_set, last.message, kept, own, model, both_sides, visible, rest)
        if last.outcome is not None and last.outcome.settings == settings:
            settings = dataclasses.replace(settings, seed=secrets.randbelow(2**31))  # the same would come again
        for update in answer(session, settings, kept, before, own):
            if message in update:  # the question is in the chat, not in the box
                del update[message]
                update |= {seed: settings.seed}
            yield update

    def answer(session: str, settings: Settings, before: list[Turn], whole: list[Turn], own: Own) -> Iterator[Any]:
        """Stream the turn behind ``before``. What was written so far is a turn already, so that Stop loses nothing;
        an error brings back ``whole``, the chat as it was."""
        turn = Turn(settings.message, ("", ""))
        began = time.monotonic()
        yield {
            message: "", line: progress_line("Starting…", 0.0, "running"), turns: [*before, turn],
            **panes_of([*before, turn]),
        }  # fmt: skip
        try:
            for item in live(concept_guidance.generate, page.registry, settings, own, limit_s=LIMIT_S):
                if item is IDLE:
                    yield gr.skip()
                elif isinstance(item, Progress):
                    yield {line: running_line(item, began)}
                elif isinstance(item, Partial):
                    turn = Turn(settings.message, (item.texts[0], item.texts[-1]))
                    yield {turns: [*before, turn], **panes_of([*before, turn])}
                elif isinstance(item, Result):
                    outcome = item.value
                    turn = Turn(settings.message, (outcome.rows[0].text, outcome.rows[-1].text), outcome)
                    done = [*before, turn]
                    told = outcome.measurements
                    text = f"Done: {max(told['tokens'])} tokens in {told['seconds']:.1f} s, both answers at once"
                    yield {
                        turns: done, line: progress_line(text, 1.0, "done"), **panes_of(done),
                        applied: applied_html(outcome.applied, settings.seed) + notices_html(outcome.notices),
                        save: gr.DownloadButton(value=transcript_file(done, session), interactive=True),
                        finished: done,
                    }  # fmt: skip
        except TimeoutError:
            text = f"Stopped after {LIMIT_S:.0f} s, the limit of one answer. What was written stays."
            yield {line: progress_line(text, 0.0, "stopped")}
        except Exception:
            broke = progress_line(BROKE, 0.0, "stopped")
            yield {message: settings.message, line: broke, turns: whole, **panes_of(whole)}
            raise

    shared = {"inputs": inputs, "outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}
    shared |= {"trigger_mode": "multiple", **GPU}
    stopped = {line: progress_line(STOPPED, 0.0, "stopped")}
    sending = on_gpu(chat, stopped=stopped)
    gr.on([send.click, message.submit], sending, **shared)

    def example(event: gr.EventData) -> str:
        return examples(page.model_set)[chips.index(event.target)]

    pressed = [chip.click for chip in chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, None, message, **LIGHT)).then(sending, **shared)
    asking = held(SLUG, surprise.click, lambda: any_question(page.model_set), None, message, **LIGHT)
    asking.then(sending, **shared)
    retry.click(on_gpu(chat_again, stopped=stopped), **shared)
    stop.click(halt, **LIGHT)

    def back(now: list[Turn], request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        if not now:
            return {line: progress_line(NOTHING_YET)}
        kept = now[:-1]
        return {turns: kept, message: now[-1].message, line: progress_line("Took the last question back."),
                applied: "", **panes_of(kept)}  # fmt: skip

    def empty(request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        return {turns: [], line: progress_line(NOTHING_YET), applied: "", **panes_of([]),
                save: gr.DownloadButton(value=None, interactive=False)}  # fmt: skip

    changed = [turns, message, line, applied, save, *panes]
    # Not LIGHT: in the queue they keep their place among the updates of an answer that is being written.
    held(SLUG, undo.click, back, turns, changed, **TALKS)
    held(SLUG, clear.click, empty, None, changed, **TALKS)
    held(SLUG, dice.click, lambda: secrets.randbelow(2**31), None, seed, **LIGHT)

    _rows(page, rows, shown, add, mode)
    if mini:
        wide = [shown, mode, *(part for row in rows for part in (row.box, *row.inputs))]

        def chosen(event: gr.EventData) -> dict[Any, Any]:
            return preset(list(PRESETS)[presets.index(event.target)], rows, shown, mode)

        pressed = [button.click for button in presets]
        there = hold(SLUG, *pressed)
        there(gr.on(pressed, chosen, None, wide, **LIGHT))

    def redraw(layers_text: str, concept: str | None, probe: str, own: Own, model: str) -> str:
        if not concept:
            return ""
        name = full_name(concept, probe, own)
        return accuracy_chart(name, *accuracies(page.model_set, model, name, own), layers_text)

    drawn = [layers, rows[0].concept, rows[0].probe, page.own, page.model]
    gr.on([widget.change for widget in (layers, rows[0].concept, rows[0].probe)], redraw, drawn, chart, **LIGHT)
    chart.value = redraw(page.layers, rows[0].concept.value, "", {}, "")
    return Chat(turns, finished, rows, mode)


def _pane(label: str, kind: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label, height=520, elem_classes=["chat-pane", kind], buttons=["copy"], feedback_options=None,
        group_consecutive_messages=True, layout="bubble", allow_tags=False, render_markdown=False, latex_delimiters=[],
        placeholder="The answer appears here." if kind == "plain" else "The same answer, steered, appears here.",
    )  # fmt: skip


def _row(page: Page, number: int) -> ConceptRow:
    offered = [name for _, name in choices(page.model_set, "", {})]
    offered.sort(key=lambda name: name != START[0])
    value = offered[number % len(offered)] if offered else None
    with gr.Column(visible=number == 0, elem_classes="concept-row") as box:
        with gr.Row(elem_classes="concept-head"):
            concept = page.picker(f"Concept {number + 1}", value, min_width=130, scale=3)
            probe = gr.Dropdown(
                [("best measured", ""), *((words, key) for key, words in PROBE_NAMES.items())],
                value="", label="Found by", min_width=130, scale=3,
            )  # fmt: skip
        strength = gr.Slider(
            *Settings.STRENGTH, value=START[1] if number == 0 else 0.0, step=0.05, label=f"Strength {number + 1}",
            elem_classes="strength",
        )  # fmt: skip
        note = gr.HTML(
            safety(points_of(page.model_set, "", concept.value or "", {}, {}), strength.value), padding=False
        )
        with gr.Row(elem_classes="concept-foot"):
            on = gr.Checkbox(value=True, label="On", container=False, min_width=60, scale=1)
            remove = gr.Button("Remove", size="sm", min_width=80, scale=0)
    return ConceptRow(box, concept, probe, strength, on, note, remove)


def _rows(page: Page, rows: list[ConceptRow], shown: gr.State, add: gr.Button, mode: gr.Radio) -> None:
    """Adding and removing rows, the notes below the sliders, and the two scales."""
    boxes = [row.box for row in rows]

    def more(visible: list[bool]) -> list[Any]:
        visible = list(visible)
        if all(visible):
            return [visible, *(gr.skip() for _ in rows), gr.Button(interactive=False)]
        visible[visible.index(False)] = True
        return [visible, *(gr.Column(visible=seen) for seen in visible), gr.Button(interactive=not all(visible))]

    held(SLUG, add.click, more, shown, [shown, *boxes, add], **LIGHT)
    for number, row in enumerate(rows):

        def less(visible: list[bool], number: int = number) -> list[Any]:
            visible = [seen and place != number for place, seen in enumerate(visible)]
            return [visible, gr.Column(visible=False), gr.Button(interactive=True)]

        def note(concept: str | None, probe: str, strength: float, scale: str, own: Own, swept: Any, model: str) -> str:
            name = full_name(concept or "", probe, own)
            return safety(points_of(page.model_set, model, name, own, swept), strength, scale == "raw")

        held(SLUG, row.remove.click, less, shown, [shown, row.box, add], **LIGHT)
        told = [row.concept, row.probe, row.strength, mode, page.own, page.swept, page.model]
        widgets = (row.concept, row.probe, row.strength, mode, page.swept)
        gr.on([w.change for w in widgets], note, told, row.note, trigger_mode="always_last", **LIGHT)

    def rescale(scale: str, model: str, *strengths: float) -> list[Any]:
        limit = language_model(page.model_set, model).raw_limit
        if scale == "raw":
            return [
                gr.Slider(-limit, limit, round(value * limit, 2), step=limit / RAW_STEPS / 2) for value in strengths
            ]
        return [
            gr.Slider(*Settings.STRENGTH, round(20 * max(min(value / limit, 1.0), -1.0)) / 20, step=0.05)
            for value in strengths
        ]

    sliders = [row.strength for row in rows]
    held(SLUG, mode.input, rescale, [mode, page.model, *sliders], sliders, **LIGHT)


def preset(name: str, rows: Sequence[ConceptRow], shown: gr.State, mode: gr.Radio) -> dict[Any, Any]:
    """The updates that set the rows to a preset; rows that it does not need are hidden."""
    wanted = list(PRESETS[name].items())
    updates: dict[Any, Any] = {shown: [number < len(wanted) for number in range(len(rows))], mode: "share"}
    for number, row in enumerate(rows):
        updates[row.box] = gr.Column(visible=number < len(wanted))
        if number < len(wanted):
            concept, strength = wanted[number]
            updates |= {row.concept: concept, row.probe: "", row.on: True}
            updates[row.strength] = gr.Slider(*Settings.STRENGTH, strength, step=0.05)
    return updates


def asked(
    model_set: str,
    message: str,
    before: Sequence[Turn],
    own: Own,
    model: str,
    both: str,
    shown: Sequence[bool],
    rest: Sequence[Any],
) -> Settings:
    """Checked settings from what the page's widgets hold. ``rest``: the advanced ones, then four for each row."""
    layers, mode, positions, seed, temperature, top_p, longest = rest[:7]
    rows = [rest[7 + PER_ROW * n : 7 + PER_ROW * (n + 1)] for n in range(ROWS)]
    concepts = tuple(
        (full_name(concept, probe, own), strength)
        for seen, (concept, probe, strength, on) in zip(shown, rows, strict=True)
        if seen and on and concept
    )
    guided = history(before, 1)
    plain, other = (guided, None) if both == BOTH else (history(before, 0), guided)
    return Settings(
        message, concepts, plain, other, layers, mode, positions, (1.0,), seed, temperature, top_p, longest, model_set,
        model or "",
    ).validated()  # fmt: skip


def examples(model_set: str) -> list[str]:
    """Questions for one click."""
    return list(crumpet.EXAMPLES) if model_set == "mini" else [question for question, _ in lab.QUESTIONS[:6]]


def any_question(model_set: str) -> str:
    if model_set == "mini":
        return crumpet.surprise(secrets.randbelow(2**31))
    return random.Random(secrets.randbelow(2**31)).choice(lab.QUESTIONS)[0]


def applied_html(applied: str, seed: int) -> str:
    return f"<p class='status'><b>Applied</b> {safe(applied)} · seed {seed}</p>"


def transcript(turns: Sequence[Turn]) -> dict[str, Any]:
    """Both conversations with settings, scores and verdicts, for a download."""
    told = []
    for turn in turns:
        entry: dict[str, Any] = {"question": turn.message}
        if turn.outcome is None:
            entry |= {"stopped": True, "unguided": {"text": turn.texts[0]}, "guided": {"text": turn.texts[1]}}
        else:
            done = turn.outcome
            sides = (row_facts(done.rows[place], turn.message, done.settings.model_set) for place in (0, -1))
            entry |= dict(zip(("unguided", "guided"), sides, strict=True))
            entry |= {"applied": done.applied, "notices": done.notices, "measurements": done.measurements}
        told.append(entry)
    return {
        "made_by": "Latent Studio, Concept Guidance",
        "messages": {"unguided": history(turns, 0), "guided": history(turns, 1)},
        "turns": told,
    }


def transcript_file(turns: Sequence[Turn], session: str) -> str:
    with new_folder(session) as folder:
        path = folder / "concept_guidance_transcript.json"
        path.write_text(json.dumps(transcript(turns), ensure_ascii=False, indent=1), encoding="utf-8")
        return str(path)
