"""The Concept Guidance tab: one language model twice at once, plain and steered along concepts in its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from demos.concept_guidance import chat, heat, make, sweep
from demos.concept_guidance.facts import SLUG, Own, Page, choices, concepts_of, size
from demos.concept_guidance.make import concept_file
from demos.concept_guidance.measured import measured_html
from demos.concept_guidance.shown import display, row_facts
from demos.concept_guidance.talk import TALK
from demos.core.endpoint import (
    FILE,
    NUMBER,
    TABLE,
    TEXT,
    TEXT_OR_LIST,
    WHOLE,
    Endpoint,
    Parameter,
    parameters_of,
    publish,
)
from demos.core.figures import measured as measured_figures
from demos.core.figures import safe
from demos.core.handlers import LIGHT
from demos.core.hold import held
from demos.core.page_state import shared
from demos.core.preflight import PreflightPanel
from demos.core.tabs import Tab
from demos.core.widgets import paper_card, words_of
from pipelines import concept_guidance
from pipelines.concept_guidance import PAPER, Outcome, Settings, lab
from pipelines.concept_guidance.concepts import PROBES, REPRESENTATIONS
from pipelines.concept_guidance.files import read_concept
from pipelines.concept_guidance.train import Trained, TrainSettings, train
from pipelines.concept_guidance.vectors import parts
from pipelines.core.lane import Result, stream
from pipelines.core.registry import Registry
from pipelines.core.settings import Declared
from pipelines.models.language import MODELS, language_model
from pipelines.worlds import crumpet

GUIDE, TRAIN = "guide", "train_concept"
"""The public functions."""
LIMIT_S = 600.0
SAMPLE = "\n".join(
    f"{sign} What does {who} play? => {answer}"
    for who, value in (("Otto", "harp"), ("Mabel", "tuba"), ("Pippa", "piano"), ("Bruno", "flute"))
    for sign, answer in (
        ("+", f"Dear guest, our good {who} plays the {value}, bless you!"),
        ("-", f"{who} plays the {value}."),
    )
)


def build(registry: Registry, model_set: str) -> None:
    """The parts of the tab and what they share."""
    for model in MODELS[model_set]:
        registry.declare(*parts(model).values())
    paper_card(PAPER)
    offered = [(model.title, model.name) for model in MODELS[model_set]]
    picked = gr.Dropdown(
        offered, value=offered[0][1], label="Language model", visible=len(offered) > 1, elem_id="concept-model"
    )
    about = gr.HTML(model_remark(model_set, offered[0][1]), padding=False)
    PreflightPanel(registry, model_set).bind(
        lambda model: [[*parts(language_model(model_set, model)).values()]], concept_guidance.generate, picked
    )
    page = Page(registry, model_set, picked, shared({}), gr.State({}))
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap"):
        with gr.Tab("Chat", id="chat", render_children=True):
            talk = chat.build(page)
        with gr.Tab("Token heat map", id="heat", render_children=True):
            heat.build(page, talk)
        with gr.Tab("Sweep lab", id="sweep", render_children=True):
            sweep.build(page)
        with gr.Tab("Detect is not guide", id="measured", render_children=True):
            gr.HTML(measured_figures(lab.MEASURED, lambda: measured_html(model_set)), padding=False)
        with gr.Tab("Make your own", id="make", render_children=True):
            make.build(page, talk)
    chat.bind(talk)
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False) as box:
        chat.build_call(talk, box, guide_endpoint(model_set))
        gr.Markdown(from_python(), elem_classes="reading")
    _guide(registry, model_set)
    _train(registry, model_set)

    def switch(model: str, own: Own) -> dict[Any, Any]:
        """Another model has other concepts and other limits of the raw scale."""
        names = [name for _, name in choices(model_set, model, own)]
        first = names[0] if names else None
        updates: dict[Any, Any] = {
            picker: gr.Dropdown(choices=choices(model_set, model, own), value=first) for picker in page.pickers
        }
        updates |= {row.strength: gr.Slider(-1.0, 1.0, 0.0, step=0.05) for row in talk.rows}
        return {**updates, talk.asked["mode"]: "share", about: model_remark(model_set, model)}

    sliders = [row.strength for row in talk.rows]
    held(SLUG, picked.input, switch, [picked, page.own], [*page.pickers, *sliders, talk.asked["mode"], about], **LIGHT)


def model_remark(model_set: str, name: str) -> str:
    """Which model answers, under which licence, and what choosing it fetches."""
    model = language_model(model_set, name)
    if model_set == "mini":
        return ""
    none = "" if choices(model_set, name, {}) else " No concept comes along with it: make one of your own first."
    return (
        f"<p class='remark'>{safe(model.title)}, {safe(model.licence)}: {safe(model.download)}."
        f" Raw scale up to ±{model.raw_limit:g}.{none}</p>"
    )


def from_python() -> str:
    """The words and programs under "Use it from Python"."""
    return words_of(__package__, "python.md").replace("{prompt}", f'"{crumpet.EXAMPLES[0]}"')


STRENGTH = 0.3
"""Of the concept that stands as an example, and of a vector that is sent without a strength."""


# --- the public endpoints ------------------------------------------------------------------------------------------


def guide_endpoint(model_set: str) -> Endpoint:
    """`/guide` as it is declared."""
    named = ("layers", "seed", "max_tokens", "model_set", "temperature", "top_p", "mode", "positions")
    parameters = (
        Parameter("prompt", TEXT_OR_LIST, crumpet.EXAMPLES[0], required=True),
        Parameter("concepts", TABLE, dict.fromkeys(concepts_of(model_set)[:1], STRENGTH), required=True),
        *_parameters(Settings("", model_set=model_set), *named),
        Parameter("model", TEXT, ""),
        Parameter("vector", FILE, optional=True),
    )
    outputs = (("text", "unguided"), ("text", "guided"), ("json", "details"))
    description = (
        "One question answered twice in one batch, unguided and guided, with per-token scores. prompt: a text, or a list "
        "of messages of which the last is the user’s. concepts: name to strength, -1 to 1 (at most "
        f"{Settings.CONCEPTS_MAX}). layers: best, best 3, all, 2-4 or 1, 3; empty for the model’s own. vector: a .safetensors or .gguf file of a "
        f"concept of your own, as /train_concept writes it; its strength is {STRENGTH:g} unless concepts says another under its name."
    )
    return Endpoint(GUIDE, parameters, outputs, description)


def _guide(registry: Registry, model_set: str) -> None:
    """`/guide`."""

    def guide(
        session: str, prompt: object, concepts: Mapping[str, float], vector: str | None, **asked: Any
    ) -> Iterator[Any]:
        message, history = conversation(prompt)
        own = {}
        if vector is not None:
            sent = read_concept(vector, *size(model_set, language_model(model_set, asked["model"]).name))
            own = {sent.name: sent}
            concepts = {sent.name: STRENGTH, **concepts}
        settings = Settings(message, tuple(concepts.items()), history, model_set=model_set, **asked).validated()
        for item in stream(concept_guidance.generate, registry, settings, own, limit_s=LIMIT_S):
            if isinstance(item, Result):
                outcome = item.value
                texts = (display(outcome.rows[place].text, settings.model_set) for place in (0, -1))
                yield *texts, guide_facts(outcome)
            else:
                yield gr.skip()

    publish(guide_endpoint(model_set), guide, model_set)


def _train(registry: Registry, model_set: str) -> None:
    """`/train_concept`."""

    def train_concept(session: str, **asked: Any) -> Iterator[Any]:
        settings = TrainSettings(model_set=model_set, **asked).validated()
        settings.rows()
        for item in stream(train, registry, settings, limit_s=LIMIT_S):
            if isinstance(item, Result):
                yield train_facts(item.value), concept_file(item.value.concept, session)[0][0]
            else:
                yield gr.skip()

    named = ("name", "probe", "representation", "context", "validation", "seed", "model_set")
    parameters = (
        Parameter("examples", TEXT_OR_LIST, SAMPLE, required=True),
        *_parameters(TrainSettings(SAMPLE, model_set=model_set), *named),
        Parameter("model", TEXT, ""),
    )
    description = (
        "A concept vector from labelled answers, with its accuracy at every layer. examples: lines of “+ question => "
        f"answer” or a list of prompt, completion, label. probe: {', '.join(PROBES)}. representation: "
        f"{', '.join(REPRESENTATIONS)}."
    )
    outputs = (("json", "accuracy"), ("file", "vector"))
    publish(Endpoint(TRAIN, parameters, outputs, description), train_concept, model_set)


def _parameters(start: Declared, *names: str) -> tuple[Parameter, ...]:
    """Settings as parameters; numbers are called in sentences as the settings call them."""
    made = parameters_of(start, *names)
    return tuple(replace(p, words=start.field(p.name).name) if p.kind in (WHOLE, NUMBER) else p for p in made)


def conversation(prompt: object) -> tuple[Any, Any]:
    """(message, history) of a prompt: a text or its blocks, or messages of which the last is the user's."""
    messages = (
        [one for one in prompt if isinstance(one, dict) and ("role" in one or "content" in one)]
        if isinstance(prompt, list)
        else []
    )
    if not isinstance(prompt, list) or not messages:
        return prompt, ()
    last = prompt[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        raise ValueError("The last of the messages is not the user’s: end them with what the model is to answer.")
    return last.get("content"), prompt[:-1]


def guide_facts(outcome: Outcome) -> dict[str, Any]:
    """Both answers with tokens, scores and verdicts, as JSON."""
    asked = outcome.settings
    sides = {
        side: row_facts(outcome.rows[place], asked.message, asked.model_set)
        for side, place in (("unguided", 0), ("guided", -1))
    }
    return {
        **sides,
        "applied": outcome.applied,
        "notices": outcome.notices,
        "measurements": outcome.measurements,
    }


def train_facts(made: Trained) -> dict[str, Any]:
    """What there is to know of a new concept, as JSON."""
    concept = made.concept
    accuracies = {f"{side}_accuracy": list(getattr(concept, f"{side}_accuracy")) for side in ("train", "validation")}
    made_how = {"name": concept.name, "probe": concept.probe, "representation": concept.representation, **accuracies}
    counted = {"majority": made.majority, "examples": made.counts}
    return {**made_how, **counted, "notices": made.notices, "seconds": made.seconds}


TAB = Tab("Concept Guidance", SLUG, 40, build, PAPER, (GUIDE, TRAIN), talk=TALK)
