"""The chat of the Concept Guidance tab: one question, two answers from one batch, and what is steered how far."""

from __future__ import annotations

import dataclasses
import json
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from demos.concept_guidance.facts import (
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
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, halt, on_gpu, stop_run
from demos.core.hold import STARTS, held, hold
from demos.core.page import pump, run_event
from demos.core.visitors import new_folder
from demos.core.widgets import progress_line
from pipelines import concept_guidance
from pipelines.concept_guidance import Outcome, Partial, Settings, lab
from pipelines.core.lane import live
from pipelines.models.language import language_model
from pipelines.worlds import crumpet

LIMIT_S = 180.0
ROWS = Settings.CONCEPTS_MAX
ROW = ("concept", "probe", "strength", "on")
"""Settings of a row of concepts; an event gets them as concept0, probe0 and so on."""
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
        return [getattr(self, name) for name in ROW]


@dataclasses.dataclass(frozen=True)
class Chat:
    """The chat's widgets. Other parts of the tab read its turns and set its rows."""

    page: Page
    asked: Form[Settings]
    rows: list[ConceptRow]
    visible: gr.State
    """Which rows are there."""
    both: gr.Radio
    turns: gr.State
    """Every :class:`Turn`, also one that is being written."""
    finished: gr.State
    """The turns after an answer that was not stopped; its change tells that there is something new to look at."""
    line: gr.HTML
    panes: list[gr.Chatbot]
    applied: gr.HTML
    save: gr.DownloadButton

    def panes_of(self, turns: Sequence[Turn]) -> dict[Any, Any]:
        """The updates that show both sides of ``turns``."""
        return {pane: bubbles(turns, side, self.page.model_set) for side, pane in enumerate(self.panes)}

    def written(self, turns: list[Turn]) -> dict[Any, Any]:
        """The updates that make ``turns`` the chat."""
        return {self.turns: turns, **self.panes_of(turns)}


def build(page: Page) -> Chat:
    """Controls on the left, both chats on the right, and what they do."""
    asked = Form(dataclasses.replace(Settings.of(page.model_set), message="", seed=7))
    turns, finished, visible = gr.State([]), gr.State([]), gr.State([True] + [False] * (ROWS - 1))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            presets = _presets() if page.model_set == "mini" else []
            rows = [_row(page, number) for number in range(ROWS)]
            add = gr.Button("+ Add a concept", size="sm", elem_classes="add-concept")
            both = gr.Radio([EACH, BOTH], value=EACH, label="Continue from", elem_classes="choices")
            with gr.Row(elem_classes="seed-row"):
                asked.add("seed", label="Chat seed", scale=3)
                dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
            with gr.Accordion("Layers, scale and sampling", open=False):
                asked.add("layers", lines=1, max_lines=1)
                chart = gr.HTML(padding=False)
                asked.add("mode", "positions", elem_classes="choices")
                asked.add("temperature", "top_p", "max_tokens")
        with gr.Column(scale=7, min_width=320, elem_classes=["studio-results", "chat-side"]):
            line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="chat-line")
            with gr.Row(elem_classes=["pair", "chats"]):
                panes = [_pane("Unguided", "plain"), _pane("Guided", "steered")]
            applied = gr.HTML(padding=False, elem_classes="applied")
            buttons = _message(asked, page.model_set)
            chips, surprise = _questions(page.model_set)
            save = gr.DownloadButton("Download transcript and settings (JSON)", size="md", interactive=False)
    chat = Chat(page, asked, rows, visible, both, turns, finished, line, panes, applied, save)
    _answers(chat, buttons, chips, surprise)
    _edits(chat, buttons)
    held(SLUG, dice.click, lambda: secrets.randbelow(2**31), None, asked["seed"], **LIGHT)
    _rows(chat, add)
    _preset_events(chat, presets)
    _chart(chat, chart)
    return chat


def _message(asked: Form[Settings], model_set: str) -> dict[str, gr.Button]:
    """The box for a question, and the buttons under it by their words."""
    place = "Ask about the animals, people and places of Crumpet Bay" if model_set == "mini" else "Ask anything"
    asked.add("message", placeholder=place, lines=1, elem_id="concept-message", elem_classes=STARTS)
    with gr.Row(elem_classes=["run-row", "chat-row"]):
        send = gr.Button("Send", variant="primary", size="lg", scale=3, min_width=96, elem_classes="studio-run")
        stop = gr.Button("Stop", size="lg", scale=1, min_width=64, elem_classes="studio-stop")
        retry = gr.Button("Retry", size="lg", scale=1, min_width=64, elem_classes=STARTS)
        others = [gr.Button(words, size="lg", scale=1, min_width=64) for words in ("Undo", "Clear")]
    return {button.value: button for button in (send, stop, retry, *others)}


def _questions(model_set: str) -> tuple[list[gr.Button], gr.Button]:
    with gr.Column(elem_classes="studio-chips"):
        gr.HTML("<p class='label'>Questions: one click sends</p>", padding=False)
        with gr.Row(elem_classes="chips"):
            chips = [gr.Button(text, size="sm", elem_classes="example") for text in examples(model_set)]
            surprise = gr.Button("Surprise me", size="sm", elem_classes=["surprise", STARTS])
    return chips, surprise


def _pane(label: str, kind: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label,
        height=520,
        elem_classes=["chat-pane", kind],
        buttons=["copy"],
        feedback_options=None,
        group_consecutive_messages=True,
        layout="bubble",
        allow_tags=False,
        render_markdown=False,
        latex_delimiters=[],
        placeholder="The answer appears here." if kind == "plain" else "The same answer, steered, appears here.",
    )


# --- answers -----------------------------------------------------------------------------------------------------


def _answers(chat: Chat, buttons: Mapping[str, gr.Button], chips: list[gr.Button], surprise: gr.Button) -> None:
    """Send, Retry and the questions of one click."""
    page, message, seed = chat.page, chat.asked["message"], chat.asked["seed"]

    def ask(session, before, own, model, both, visible, **values) -> Iterator[Any]:
        settings = settings_of(chat.asked, values, before, own, model, both, visible)
        yield from answer(chat, session, settings, before, before, own)

    def ask_again(session, before, own, model, both, visible, **values) -> Iterator[Any]:
        if not before:
            raise ValueError("There is nothing to answer again: send a question first.")
        last, kept = before[-1], before[:-1]
        values["message"] = last.message
        settings = settings_of(chat.asked, values, kept, own, model, both, visible)
        if last.outcome is not None and last.outcome.settings == settings:
            settings = dataclasses.replace(settings, seed=secrets.randbelow(2**31))  # the same would come again
        for update in answer(chat, session, settings, kept, before, own):
            if message in update:  # the question is in the chat, not in the box
                del update[message]
                update |= {seed: settings.seed}
            yield update

    def example(event: gr.EventData) -> str:
        assert isinstance(event.target, gr.Button)
        return examples(page.model_set)[chips.index(event.target)]

    stopped = {chat.line: progress_line(STOPPED, 0.0, "stopped")}
    outputs = [message, chat.turns, chat.finished, chat.line, *chat.panes, chat.applied, chat.save, seed]
    inputs = [chat.turns, page.own, page.model, chat.both, chat.visible]
    rows = {f"{name}{n}": getattr(row, name) for n, row in enumerate(chat.rows) for name in ROW}
    sending, again = (
        run_event(on_gpu(work, stopped=stopped), *outputs, inputs=inputs, **chat.asked.widgets, **rows)
        for work in (ask, ask_again)
    )
    gr.on([buttons["Send"].click, message.submit], **sending)
    pressed = [chip.click for chip in chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, None, message, **LIGHT)).then(**sending)
    asking = held(SLUG, surprise.click, lambda: any_question(page.model_set), None, message, **LIGHT)
    asking.then(**sending)
    buttons["Retry"].click(**again)
    buttons["Stop"].click(halt, **LIGHT)


def answer(
    chat: Chat, session: str, settings: Settings, before: list[Turn], whole: list[Turn], own: Own
) -> Iterator[dict[Any, Any]]:
    """Stream the turn behind ``before``. What was written so far is a turn already, so that Stop loses nothing;
    an error brings back ``whole``, the chat as it was."""
    message, line = chat.asked["message"], chat.line

    def partly(item: Partial) -> dict[Any, Any]:
        return chat.written([*before, Turn(settings.message, (item.texts[0], item.texts[-1]))])

    def done(outcome: Outcome, _seconds: float) -> dict[Any, Any]:
        turns = [*before, Turn(settings.message, (outcome.rows[0].text, outcome.rows[-1].text), outcome)]
        figures = outcome.measurements
        text = f"Done: {max(figures['tokens'])} tokens in {figures['seconds']:.1f} s, both answers at once"
        return {
            **chat.written(turns),
            line: progress_line(text, 1.0, "done"),
            chat.applied: applied_html(outcome.applied, settings.seed) + notices_html(outcome.notices),
            chat.save: gr.DownloadButton(value=transcript_file(turns, session), interactive=True),
            chat.finished: turns,
        }

    yield {
        message: "",
        line: progress_line("Starting…", 0.0, "running"),
        **chat.written([*before, Turn(settings.message, ("", ""))]),
    }
    try:
        items = live(concept_guidance.generate, chat.page.registry, settings, own, limit_s=LIMIT_S)
        yield from pump(items, line, done, {Partial: partly})
    except TimeoutError:
        text = f"Stopped after {LIMIT_S:.0f} s, the limit of one answer. What was written stays."
        yield {line: progress_line(text, 0.0, "stopped")}
    except Exception:
        yield {message: settings.message, line: progress_line(BROKE, 0.0, "stopped"), **chat.written(whole)}
        raise


def settings_of(
    asked: Form[Settings],
    values: Mapping[str, Any],
    before: Sequence[Turn],
    own: Own,
    model: str,
    both: str,
    visible: Sequence[bool],
) -> Settings:
    """Checked settings from what the page's widgets hold, those of the rows (:data:`ROW`) among them."""
    rows = [[values[f"{name}{n}"] for name in ROW] for n in range(ROWS)]
    concepts = tuple(
        (full_name(concept, probe, own), strength)
        for there, (concept, probe, strength, on) in zip(visible, rows, strict=True)
        if there and on and concept
    )
    guided = history(before, 1)
    plain, other = (guided, None) if both == BOTH else (history(before, 0), guided)
    declared = {name: value for name, value in values.items() if name in asked.start.fields()}
    return asked.settings(declared, concepts=concepts, history=plain, guided_history=other, model=model or "")


def _edits(chat: Chat, buttons: Mapping[str, gr.Button]) -> None:
    """Undo and Clear."""
    message = chat.asked["message"]

    def back(now: list[Turn], request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        if not now:
            return {chat.line: progress_line(NOTHING_YET)}
        taken = progress_line("Took the last question back.")
        return {**chat.written(now[:-1]), message: now[-1].message, chat.line: taken, chat.applied: ""}

    def empty(request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        saved = gr.DownloadButton(value=None, interactive=False)
        return {**chat.written([]), chat.line: progress_line(NOTHING_YET), chat.applied: "", chat.save: saved}

    changed = [chat.turns, message, chat.line, chat.applied, chat.save, *chat.panes]
    # Not LIGHT: in the queue they keep their place among the updates of an answer that is being written.
    held(SLUG, buttons["Undo"].click, back, chat.turns, changed, **TALKS)
    held(SLUG, buttons["Clear"].click, empty, None, changed, **TALKS)


# --- rows of concepts --------------------------------------------------------------------------------------------


def _row(page: Page, number: int) -> ConceptRow:
    offered = [name for _, name in choices(page.model_set, "", {})]
    offered.sort(key=lambda name: name != START[0])
    value = offered[number % len(offered)] if offered else None
    with gr.Column(visible=number == 0, elem_classes="concept-row") as box:
        with gr.Row(elem_classes="concept-head"):
            concept = page.picker(f"Concept {number + 1}", value, min_width=130, scale=3)
            probe = page.probe_picker(min_width=130, scale=3)
        strength = gr.Slider(
            *Settings.STRENGTH,
            value=START[1] if number == 0 else 0.0,
            step=0.05,
            label=f"Strength {number + 1}",
            elem_classes="strength",
        )
        points = points_of(page.model_set, "", concept.value or "", {}, {})
        note = gr.HTML(safety(points, strength.value), padding=False)
        with gr.Row(elem_classes="concept-foot"):
            on = gr.Checkbox(value=True, label="On", container=False, min_width=60, scale=1)
            remove = gr.Button("Remove", size="sm", min_width=80, scale=0)
    return ConceptRow(box, concept, probe, strength, on, note, remove)


def _rows(chat: Chat, add: gr.Button) -> None:
    """Adding and removing rows, the notes below the sliders, and the two scales."""
    page, rows, shown, mode = chat.page, chat.rows, chat.visible, chat.asked["mode"]
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
        shows = [row.concept, row.probe, row.strength, mode, page.own, page.swept, page.model]
        widgets = (row.concept, row.probe, row.strength, mode, page.swept)
        gr.on([w.change for w in widgets], note, shows, row.note, trigger_mode="always_last", **LIGHT)

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


def _presets() -> list[gr.Button]:
    with gr.Column(elem_classes="studio-chips"):
        gr.HTML("<p class='label'>Presets: set the strengths below</p>", padding=False)
        with gr.Row(elem_classes="chips"):
            return [gr.Button(name, size="sm", elem_classes="preset") for name in PRESETS]


def _preset_events(chat: Chat, presets: list[gr.Button]) -> None:
    """A preset sets the rows; those that it does not need are hidden."""

    def chosen(event: gr.EventData) -> dict[Any, Any]:
        assert isinstance(event.target, gr.Button)
        wanted = list(PRESETS[list(PRESETS)[presets.index(event.target)]].items())
        updates: dict[Any, Any] = {chat.visible: [n < len(wanted) for n in range(ROWS)], chat.asked["mode"]: "share"}
        for number, row in enumerate(chat.rows):
            updates[row.box] = gr.Column(visible=number < len(wanted))
            if number < len(wanted):
                concept, strength = wanted[number]
                updates |= {row.concept: concept, row.probe: "", row.on: True}
                updates[row.strength] = gr.Slider(*Settings.STRENGTH, strength, step=0.05)
        return updates

    if presets:
        changed = [chat.visible, chat.asked["mode"], *(part for row in chat.rows for part in (row.box, *row.inputs))]
        pressed = [button.click for button in presets]
        hold(SLUG, *pressed)(gr.on(pressed, chosen, None, changed, **LIGHT))


def _chart(chat: Chat, chart: gr.HTML) -> None:
    """Where the model knows the first concept, with the chosen layers."""
    page, first, layers = chat.page, chat.rows[0], chat.asked["layers"]

    def redraw(layers_text: str, concept: str | None, probe: str, own: Own, model: str) -> str:
        if not concept:
            return ""
        name = full_name(concept, probe, own)
        return accuracy_chart(name, *accuracies(page.model_set, model, name, own), layers_text)

    widgets = [layers, first.concept, first.probe]
    gr.on([widget.change for widget in widgets], redraw, [*widgets, page.own, page.model], chart, **LIGHT)
    chart.value = redraw(layers.value, first.concept.value, "", {}, "")


# --- questions and transcripts -----------------------------------------------------------------------------------


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
    entries = []
    for turn in turns:
        entry: dict[str, Any] = {"question": turn.message}
        if turn.outcome is None:
            entry |= {"stopped": True, "unguided": {"text": turn.texts[0]}, "guided": {"text": turn.texts[1]}}
        else:
            done = turn.outcome
            sides = (row_facts(done.rows[place], turn.message, done.settings.model_set) for place in (0, -1))
            entry |= dict(zip(("unguided", "guided"), sides, strict=True))
            entry |= {"applied": done.applied, "notices": done.notices, "measurements": done.measurements}
        entries.append(entry)
    return {
        "made_by": "Latent Studio, Concept Guidance",
        "messages": {"unguided": history(turns, 0), "guided": history(turns, 1)},
        "turns": entries,
    }


def transcript_file(turns: Sequence[Turn], session: str) -> str:
    with new_folder(session) as folder:
        path = folder / "concept_guidance_transcript.json"
        path.write_text(json.dumps(transcript(turns), ensure_ascii=False, indent=1), encoding="utf-8")
        return str(path)
