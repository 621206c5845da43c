"""The chat of the Concept Guidance tab: one question, two answers from one batch, and what is steered how far."""

from __future__ import annotations

import dataclasses
import json
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from demos.concept_guidance import card
from demos.concept_guidance.facts import (
    SLUG,
    Own,
    Page,
    accuracies,
    accuracy_chart,
    choices,
    concepts_of,
    full_name,
    points_of,
    safety,
)
from demos.concept_guidance.shown import Conversation, Turn, bubbles, history, notices_html, row_facts
from demos.core.endpoint import Endpoint
from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, halt, on_gpu, stop_run
from demos.core.hold import STARTS, held, hold
from demos.core.links import Link, written
from demos.core.opening import opens_with_result
from demos.core.page import pump, run_event
from demos.core.use import use_panel
from demos.core.visitors import new_folder
from demos.core.widgets import Entry, History, Made, progress_line, running_line
from pipelines import concept_guidance
from pipelines.concept_guidance import Outcome, Partial, Settings, lab
from pipelines.concept_guidance.concepts import PROBES
from pipelines.core import lane, limits
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
    link: Link
    save: gr.DownloadButton
    kept: History

    def panes_of(self, turns: Sequence[Turn]) -> dict[Any, Any]:
        """The updates that show both sides of ``turns``."""
        return {pane: bubbles(turns, side, self.page.model_set) for side, pane in enumerate(self.panes)}

    @property
    def steers(self) -> list[gr.blocks.Block]:
        """What :meth:`steered` updates."""
        return [self.visible, *(part for row in self.rows for part in (row.box, *row.inputs))]

    def steered(self, wanted: Mapping[str, float], limit: float = 0.0) -> dict[Any, Any]:
        """The updates that set the rows to concepts and their strengths, up to the ``limit`` of the raw scale where there is one."""
        updates: dict[Any, Any] = {self.visible: [n < max(len(wanted), 1) for n in range(ROWS)]}
        low, high = (-limit, limit) if limit else Settings.STRENGTH
        step = limit / RAW_STEPS / 2 if limit else 0.05
        for number, row in enumerate(self.rows):
            updates[row.box] = gr.Column(visible=number < max(len(wanted), 1))
            if number < len(wanted):
                (name, strength) = list(wanted.items())[number]
                concept, _, probe = name.partition(".")
                updates |= {row.concept: concept, row.probe: probe, row.on: True}
                updates[row.strength] = gr.Slider(low, high, strength, step=step)
        return updates if wanted else {**updates, self.rows[0].on: False}

    def written(self, turns: list[Turn]) -> dict[Any, Any]:
        """The updates that make ``turns`` the chat."""
        return {self.turns: turns, **self.panes_of(turns)}

    def shows(self, talk: Conversation) -> dict[Any, Any]:
        """The updates that make ``talk``, whose last answer is finished, the chat."""
        last = talk.turns[-1].outcome
        assert last is not None
        return {
            **self.written(talk.turns),
            self.applied: applied_html(last.applied, last.settings.seed) + notices_html(last.notices),
            self.save: gr.DownloadButton(value=talk.transcript, interactive=True),
            self.finished: talk.turns,
        }

    def asks(self, settings: Settings, wanted: Mapping[str, float], own: Own | None) -> dict[Any, Any]:
        """The updates that put settings, their model and concepts on the page; the lists of concepts offer those of the model and
        ``own``, or what they did (None)."""
        page = self.page
        limit = language_model(page.model_set, settings.model).raw_limit if settings.mode == "raw" else 0.0
        updates = {page.model: settings.model, **self.asked.updates(settings), **self.steered(wanted, limit)}
        if own is None:
            return updates
        offered = page.offered(own, settings.model)
        first = offered[0][1] if offered else None
        return updates | {one: gr.Dropdown(choices=offered, value=updates.get(one, first)) for one in page.pickers}


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
            buttons = _message(asked, page.model_set)
            chips, surprise = _questions(page.model_set)
            applied = gr.HTML(padding=False, elem_classes="applied")
            link = Link(
                SLUG, asked, opening=Made(dataclasses.replace(asked.start, message=examples(page.model_set)[0]))
            )
            save = gr.DownloadButton("Download transcript and settings (JSON)", size="md", interactive=False)
    kept = History(concept_guidance.PAPER.title, "answers")
    chat = Chat(page, asked, rows, visible, both, turns, finished, line, panes, applied, link, save, kept)
    sending = _answers(chat, buttons, chips, surprise)
    _edits(chat, buttons)
    held(SLUG, dice.click, lambda: secrets.randbelow(2**31), None, asked["seed"], **LIGHT)
    _rows(chat, add)
    _preset_events(chat, presets, sending)
    _chart(chat, chart)
    return chat


def _message(asked: Form[Settings], model_set: str) -> dict[str, gr.Button]:
    """The box for a question, and the buttons under it by their words."""
    place = "Ask about the animals, people and places of Crumpet Bay" if model_set == "mini" else "Ask anything"
    with gr.Row(elem_classes="ask-row"):
        look: dict[str, Any] = {"elem_id": "concept-message", "elem_classes": STARTS, "scale": 6, "min_width": 200}
        asked.add("message", placeholder=place, lines=1, **look)
        send = gr.Button("Send", variant="primary", size="lg", scale=1, min_width=96, elem_classes="studio-run")
    with gr.Row(elem_classes=["run-row", "chat-row"]):
        stop = gr.Button("Stop", size="md", scale=1, min_width=64, elem_classes="studio-stop")
        retry = gr.Button("Retry", size="md", scale=1, min_width=64, elem_classes=STARTS)
        others = [gr.Button(words, size="md", scale=1, min_width=64) for words in ("Undo", "Clear")]
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


def _answers(
    chat: Chat, buttons: Mapping[str, gr.Button], chips: list[gr.Button], surprise: gr.Button
) -> dict[str, Any]:
    """Send, Retry and the questions of one click; how an event that sends is bound."""
    page, message, seed = chat.page, chat.asked["message"], chat.asked["seed"]

    def ask(session, before, own, model, both, visible, results, **values) -> Iterator[Any]:
        settings = settings_of(chat.asked, values, before, own, model, both, visible)
        yield from answer(chat, session, settings, before, before, own, results)

    def ask_again(session, before, own, model, both, visible, results, **values) -> Iterator[Any]:
        if not before:
            raise ValueError("There is nothing to answer again: send a question first.")
        last, kept = before[-1], before[:-1]
        values["message"] = last.message
        settings = settings_of(chat.asked, values, kept, own, model, both, visible)
        if last.outcome is not None and last.outcome.settings == settings:
            settings = dataclasses.replace(settings, seed=secrets.randbelow(2**31))  # the same would come again
        for update in answer(chat, session, settings, kept, before, own, results):
            if message in update:  # the question is in the chat, not in the box
                del update[message]
                update |= {seed: settings.seed}
            yield update

    def example(event: gr.EventData) -> str:
        assert isinstance(event.target, gr.Button)
        return examples(page.model_set)[chips.index(event.target)]

    stopped = {chat.line: progress_line(STOPPED, 0.0, "stopped")}
    outputs = [message, chat.turns, chat.finished, chat.line, *chat.panes, chat.applied, chat.save, seed]
    outputs += [chat.link.shown, *chat.kept.outputs]
    inputs = [chat.turns, page.own, page.model, chat.both, chat.visible, chat.kept.entries]
    rows = {f"{name}{n}": getattr(row, name) for n, row in enumerate(chat.rows) for name in ROW}
    sending, again = (
        run_event(on_gpu(work, stopped=stopped), *outputs, inputs=inputs, **chat.asked.widgets, **rows)
        for work in (ask, ask_again)
    )
    gr.on([buttons["Send"].click, message.submit], **sending)
    if page.model_set == "mini":
        opens_with_result(
            SLUG,
            ask,
            sending,
            chat.line,
            "Press a question to ask it now.",
            [chat.link.shown, *chat.kept.outputs],
            message=examples(page.model_set)[0],
        )
    pressed = [chip.click for chip in chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, None, message, **LIGHT)).then(**sending)
    asking = held(SLUG, surprise.click, lambda: any_question(page.model_set), None, message, **LIGHT)
    asking.then(**sending)
    buttons["Retry"].click(**again)
    buttons["Stop"].click(halt, **LIGHT)
    return sending


def answer(
    chat: Chat,
    session: str,
    settings: Settings,
    before: list[Turn],
    whole: list[Turn],
    own: Own,
    results: list[Entry],
) -> Iterator[dict[Any, Any]]:
    """Stream the turn behind ``before``. What was written so far is a turn already, so that Stop loses nothing;
    an error brings back ``whole``, the chat as it was. ``results``: the answers of before, which this one joins."""
    message, line, began = chat.asked["message"], chat.line, time.monotonic()

    def partly(item: Partial) -> dict[Any, Any]:
        progress = lane.Progress(
            item.tokens / settings.max_tokens, f"token {item.tokens} of at most {settings.max_tokens}"
        )
        turns = [*before, Turn(settings.message, (item.texts[0], item.texts[-1]))]
        return {**chat.written(turns), line: running_line(progress, began)}  # one update for both sides and the line

    def done(outcome: Outcome, _seconds: float) -> dict[Any, Any]:
        turns = [*before, Turn(settings.message, (outcome.rows[0].text, outcome.rows[-1].text), outcome)]
        figures = outcome.measurements
        text = f"Done: {max(figures['tokens'])} tokens in {figures['seconds']:.1f} s, both answers at once"
        with new_folder(session) as folder:
            talk = Conversation(turns, transcript_file(turns, folder))
            printed = card.save(turns[-1], settings.model_set, folder)
        steered = ", ".join(f"{name} {strength:+.2f}" for name, strength in settings.concepts) or "none"
        made = Made(settings, {"concepts": steered, "model": settings.model}).by(figures["models"])
        said = card.words(turns[-1], settings.model_set)
        entry = Entry(printed, f"{settings.message[:60]} · {steered}", talk, made, said)
        return {
            **chat.shows(talk),
            line: progress_line(text, 1.0, "done"),
            **chat.link.of(made_of(settings, own)),
            **chat.kept.add(results, entry),
        }

    yield {
        message: "",
        line: progress_line("Starting…", 0.0, "running"),
        **chat.written([*before, Turn(settings.message, ("", ""))]),
    }
    try:
        items = lane.live(
            concept_guidance.generate, chat.page.registry, settings, own, limit_s=LIMIT_S, newest=(Partial,)
        )
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
    message, nothing = chat.asked["message"], {chat.applied: "", **chat.link.of(None)}

    def back(now: list[Turn], request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        if not now:
            return {chat.line: progress_line(NOTHING_YET)}
        taken = progress_line("Took the last question back.")
        return {**chat.written(now[:-1]), message: now[-1].message, chat.line: taken, **nothing}

    def empty(request: gr.Request) -> dict[Any, Any]:
        stop_run(request)
        saved = gr.DownloadButton(value=None, interactive=False)
        return {**chat.written([]), chat.line: progress_line(NOTHING_YET), **nothing, chat.save: saved}

    changed = [chat.turns, message, chat.line, chat.applied, chat.save, chat.link.shown, *chat.panes]
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

        def note(
            concept: str | None, probe: str, strength: float, scale: str, own: Own, swept: Mapping[str, Any], model: str
        ) -> str:
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
        gr.HTML("<p class='label'>Characters: one click sets the strengths and asks</p>", padding=False)
        with gr.Row(elem_classes="chips"):
            return [gr.Button(name, size="sm", elem_classes=["preset", STARTS]) for name in PRESETS]


def _preset_events(chat: Chat, presets: list[gr.Button], sending: dict[str, Any]) -> None:
    """A preset sets the rows, hides those that it does not need, and asks: what stands in the box, else the last question again,
    so that one sees what the strengths do, else the first example."""
    message = chat.asked["message"]

    def chosen(typed: str, turns: list[Turn], event: gr.EventData) -> dict[Any, Any]:
        assert isinstance(event.target, gr.Button)
        wanted = PRESETS[list(PRESETS)[presets.index(event.target)]]
        updates = {**chat.steered(wanted), chat.asked["mode"]: "share"}
        last = turns[-1].message if turns else examples(chat.page.model_set)[0]
        return {**updates, message: typed if (typed or "").strip() else last}

    if presets:
        changed = [*chat.steers, chat.asked["mode"], message]
        pressed = [button.click for button in presets]
        there = hold(SLUG, *pressed)
        there(gr.on(pressed, chosen, [message, chat.turns], changed, **LIGHT)).then(**sending)


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


# --- links and results --------------------------------------------------------------------------------------------


def bind(chat: Chat) -> None:
    """What links and earlier answers bring back; after all parts of the tab, whose lists of concepts are among it."""
    _bind_link(chat)
    _bind_results(chat)


def made_of(settings: Settings, own: Own) -> Made:
    """What a link holds of an answer: its settings and the shipped concepts."""
    shipped = {name: strength for name, strength in settings.concepts if name not in own}
    more = {}
    if settings.concepts != (START,):
        more["concepts"] = ",".join(f"{name}:{written(strength)}" for name, strength in shipped.items())
    if settings.model != language_model(settings.model_set).name:
        more["model"] = settings.model
    lacking = []
    if len(shipped) < len(settings.concepts):
        lacking.append("Your own concepts are not in the link.")
    if settings.history:
        lacking.append("The questions before this one are not in the link.")
    return Made(settings, more, " ".join(lacking))


def concepts_linked(settings: Settings, text: str, model: str) -> dict[str, float]:
    """The concepts that a link names, with their strengths.

    Raises:
        ValueError: one is unknown, or its strength is none.
    """
    wanted, known = {}, concepts_of(settings.model_set, model)
    for part in filter(None, text.split(",")):
        name, _, strength = part.partition(":")
        concept, _, probe = name.partition(".")
        limits.choice("The concept", concept, known)
        if probe:
            limits.choice("The probe", probe, PROBES)
        try:
            wanted[name] = float(strength)
        except ValueError:
            raise ValueError(
                f"The concept {name} has the strength {limits.described(strength)}, which is no number: write {name}:0.3."
            ) from None
    made = dataclasses.replace(settings, message="x", concepts=tuple(wanted.items()), model=model).validated()
    return dict(made.concepts)


def _bind_link(chat: Chat) -> None:
    """A link puts the question into its box and sets the rows; without concepts in it, as they are when the page opens."""
    page = chat.page

    def put(settings: Settings, more: Mapping[str, str]) -> dict[Any, Any]:
        model = language_model(page.model_set, more.get("model", "")).name
        wanted = concepts_linked(settings, more["concepts"], model) if "concepts" in more else dict([START])
        return chat.asks(dataclasses.replace(settings, model=model), wanted, {} if "model" in more else None)

    chat.link.bind(put, _fields(chat), chat.line, "Send", more=("concepts", "model"))


def _fields(chat: Chat) -> list[gr.blocks.Block]:
    """What :meth:`Chat.asks` updates."""
    page = chat.page
    return list(dict.fromkeys([*page.pickers, page.model, *chat.asked.outputs, *chat.steers]))


def _bind_results(chat: Chat) -> None:
    """An earlier answer comes back with its whole conversation and the settings that it was made with."""
    page = chat.page

    def bring_back(entry: Entry, own: Own) -> dict[Any, Any]:
        talk: Conversation = entry.outcome
        last = talk.turns[-1].outcome
        assert last is not None
        there = {name for _, name in page.offered(own, last.settings.model)}
        wanted = {name: strength for name, strength in last.settings.concepts if {name, name.split(".")[0]} & there}
        return {
            **chat.shows(talk),
            **chat.asks(dataclasses.replace(last.settings, message=""), wanted, own),
            chat.line: progress_line("Brought back from your results", 1.0, "done"),
            **chat.link.of(made_of(last.settings, own)),
        }

    told = [chat.turns, *chat.panes, chat.applied, chat.save, chat.finished, chat.line, chat.link.shown]
    chat.kept.on_pick(bring_back, [*told, *_fields(chat)], [page.own])


def build_call(chat: Chat, box: gr.Accordion, endpoint: Endpoint) -> None:
    """The call for the answer on the page, or for the question in the box, inside ``box``."""
    page = chat.page

    def asked(turns: list[Turn], own: Own, model: str, both: str, visible: list[bool], **values: Any) -> dict[str, Any]:
        if not (values["message"] or "").strip():  # the answer that is shown
            values["message"] = turns[-1].message if turns else examples(page.model_set)[0]
            turns = turns[:-1]
        settings = settings_of(chat.asked, values, turns, own, model, both, visible)
        if settings.guided_history is not None and settings.guided_history != settings.history:
            raise ValueError(
                "Each side goes on from its own answers here, and a call has one history: choose “both follow the guided side”, or Clear."
            )
        mine = [name for name, _strength in settings.concepts if name in own]
        if mine:
            raise ValueError(
                f"The concept {mine[0]} is your own: download its file under Make your own, and send it as vector=handle_file(...)."
            )
        said = {"role": "user", "content": settings.message}
        prompt = [*settings.history, said] if settings.history else settings.message
        named = [one.name for one in endpoint.parameters if one.name in settings.fields()]
        plain = language_model(page.model_set).name == settings.model
        given = {"prompt": prompt, "concepts": dict(settings.concepts), "model": "" if plain else settings.model}
        return {**given, **settings.sent(*named)}

    rows = {f"{name}{n}": getattr(row, name) for n, row in enumerate(chat.rows) for name in ROW}
    inputs = [chat.turns, page.own, page.model, chat.both, chat.visible]
    use_panel(SLUG, box, endpoint, asked, {**chat.asked.widgets, **rows}, inputs)


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


def transcript_file(turns: Sequence[Turn], folder: Path) -> str:
    path = folder / "concept_guidance_transcript.json"
    path.write_text(json.dumps(transcript(turns), ensure_ascii=False, indent=1), encoding="utf-8")
    return str(path)
