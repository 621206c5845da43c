"""The Golden Noise tab: the same prompt and seed from standard noise and from golden noise, side by side."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.endpoint import MODEL_SET, Endpoint, parameters_of, publish
from demos.core.figures import measured, safe
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, explain, halt, on_gpu
from demos.core.hold import held, hold
from demos.core.links import Link
from demos.core.live import LiveSwitch
from demos.core.opening import opens_with_result
from demos.core.page import drawn_by_another, ends, picture, pump, restore_zone, run_event, run_row
from demos.core.preflight import PreflightPanel
from demos.core.tabs import Tab
from demos.core.uploads import clear_on_refusal, errors_shown
from demos.core.use import use_panel
from demos.core.visitors import new_folder
from demos.core.widgets import Entry, History, Made, paper_card, progress_line, words_of
from demos.golden_noise import lab
from demos.golden_noise.shown import figures_html, inspect_html, notes_html, unknown_words, verdict_table
from demos.golden_noise.talk import TALK
from pipelines import golden_noise
from pipelines.core import images
from pipelines.core.lane import Progress, Result, live
from pipelines.core.registry import Registry
from pipelines.golden_noise import EXAMPLES, PAPER, Outcome, Preview, Settings
from pipelines.models import sdxl

SLUG = "golden_noise"
LIMIT_S = 300.0
LIVE = (
    f"{golden_noise.GLANCE_STEPS} steps follow the prompt and the settings while you change them; Run draws the result."
)
NOTHING_YET = "Type a prompt or pick an example, then press Run."

TOO_SLOW = "Live: the large models take minutes for a first look on a processor, so that this needs a GPU. Run draws as always."


def build(registry: Registry, model_set: str) -> None:
    """The widgets of the tab and what they do."""
    choices = golden_noise.sources(model_set)
    for key in choices:
        registry.declare(*golden_noise.parts(model_set, key).values())
    paper_card(PAPER)
    preflight = PreflightPanel(registry, model_set)
    with gr.Row(equal_height=False):
        controls = Controls(Form(Settings.of(model_set)), choices, on_zero=registry.mode == "zero")
        results = Results(registry, model_set, controls.asked)
    history = History(PAPER.title)
    with gr.Accordion("How it works", open=False):
        gr.Markdown(words_of(__package__, "story.md"), elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False) as box:
        asked = controls.asked
        use_panel(SLUG, box, endpoint(model_set), lambda **values: asked.settings(values).sent(), asked.widgets)
        gr.Markdown(from_python(), elem_classes="reading")
    preflight.bind(
        lambda source, base="": [[*golden_noise.parts(model_set, source, base).values()]],
        golden_noise.generate,
        *(controls.asked[name] for name in ("source", "base") if name in controls.asked.widgets),
    )
    _bind_runs(registry, controls, results, history)
    _bind_settings(controls, results, history)
    _endpoint(registry, model_set)


class Controls:
    """The left side: what is asked for. Makes its widgets in the layout that is open."""

    def __init__(self, asked: Form[Settings], choices: dict[str, str], on_zero: bool) -> None:
        """``on_zero``: ZeroGPU loads the set's own image model only, and is asked for a GPU anew for every look."""
        self.asked, self.choices = asked, choices
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            asked.add("prompt", elem_id="golden-prompt", container=True)
            self.run, self.stop = run_row()
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Examples: one click runs</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    self.chips = [gr.Button(text, size="sm", elem_classes="example") for text, _ in EXAMPLES]
                    self.surprise = gr.Button("Surprise me", size="sm", elem_classes="surprise")
                if asked.start.model_set == "mini":
                    gr.HTML(f"<p class='label'>{safe(golden_noise.how_often())}</p>", padding=False)
            with gr.Row(elem_classes="seed-row"):
                asked.add("seed", scale=3)
                self.dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
                self.reuse = gr.Button("Last seed", size="sm", min_width=80, scale=1)
            self.live = None if on_zero else LiveSwitch(SLUG, LIVE)
            asked.add("source", choices=[(words, key) for key, words in choices.items()], elem_classes="sources")
            if asked.start.model_set == "full" and not on_zero:
                own = (sdxl.FULL.title, "")
                asked.add("base", choices=[own, *_pairs(sdxl.OTHER_WORDS)], elem_classes="sources")
            asked.add("strength", elem_classes="gold-slider")
            asked.add("steps", "guidance")
            if asked.start.model_set == "full":
                asked.add("sampler", choices=[("the model’s own", ""), *_pairs(sdxl.SAMPLERS)], elem_classes="choices")
            self.dropped = restore_zone()

    def restored(self, settings: Settings) -> dict[Any, Any]:
        """The updates that put ``settings`` here; a file of another model set may name a source that this one calls otherwise."""
        known = settings.source if settings.source in self.choices else self.asked.start.source
        return self.asked.updates(dataclasses.replace(settings, source=known))


def _pairs(words: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a widget offers, from keys and their words."""
    return [(text, key) for key, text in words.items()]


class Results:
    """The right side: a pair of pictures with all that is known of them, the lab, and the measured figures."""

    def __init__(self, registry: Registry, model_set: str, asked: Form[Settings]) -> None:
        with gr.Column(scale=7, min_width=320, elem_classes="studio-results"):
            with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as self.parts:
                with gr.Tab("One picture", id="picture", render_children=True):
                    self._pair(asked)
                with gr.Tab("Win-rate lab", id="lab", render_children=True):
                    lab.build(registry, model_set, asked)
                with gr.Tab("Measured figures", id="measured", render_children=True):
                    gr.HTML(measured(golden_noise.MEASURED, lambda: lab.measured_html(model_set)), padding=False)
        self.last_seed = gr.State(None)

    def _pair(self, asked: Form[Settings]) -> None:
        self.line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="run-line")
        with gr.Row(elem_classes="pair"):
            self.standard = picture("Standard noise", "standard", "The picture made from standard noise")
            self.golden = picture("Golden noise", "golden", "The picture made from golden noise")
        link = Link(SLUG, asked)
        self.verdict = gr.HTML(padding=False)
        with gr.Column(visible=False) as self.details:
            self.slider = gr.ImageSlider(
                label="Slide between standard (left) and golden (right)",
                type="filepath",
                slider_position=0,
                buttons=["fullscreen"],
                elem_classes="slide",
            )
            with gr.Row(elem_classes="run-row"):
                self.save_standard = gr.DownloadButton("Download standard PNG", size="md", min_width=150)
                self.save_golden = gr.DownloadButton("Download golden PNG", size="md", min_width=150)
            self.figures = gr.HTML(padding=False)
            with gr.Accordion("Inspect the noise", open=False, elem_classes="inspector"):
                self.inspected = gr.HTML(padding=False)
        self.link = link

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [one.shown if isinstance(one, Link) else one for one in vars(self).values()]

    def show(self, shown: Shown, text: str) -> dict[Any, Any]:
        """The updates that put a finished run on the page."""
        outcome = shown.outcome
        return {
            self.line: progress_line(text, 1.0, "done"),
            self.standard: shown.standard,
            self.golden: shown.golden,
            self.verdict: notes_html(outcome) + unknown_words(outcome) + verdict_table(outcome),
            self.details: gr.Column(visible=True),
            self.slider: (shown.standard, shown.golden),
            self.save_standard: gr.DownloadButton(value=shown.standard),
            self.save_golden: gr.DownloadButton(value=shown.golden),
            self.figures: figures_html(outcome),
            self.inspected: inspect_html(outcome),
            self.last_seed: outcome.settings.seed,
            **self.link.of(Made(outcome.settings)),
        }


def _bind_runs(registry: Registry, controls: Controls, results: Results, history: History) -> None:
    """Run, Stop and the examples."""
    asked, line = controls.asked, results.line

    def compare(session: str, entries: list[Entry], **values: object) -> Iterator[Any]:
        settings = asked.settings(values)
        yield {line: progress_line("Starting…", 0.0, "running"), results.parts: gr.Tabs(selected="picture")}

        def done(outcome: Outcome, seconds: float) -> dict[Any, Any]:
            shown = write(outcome, session)
            caption = f"{settings.prompt[:60]} · seed {settings.seed}"
            text = f"Done: {settings.steps} steps in {seconds:.1f} s · {caption}"
            made = Made(settings).by(outcome.measurements["models"])
            return {
                **results.show(shown, text),
                **history.add(entries, Entry(shown.golden, caption, shown, made)),
            }

        def on_the_way(seen: Preview) -> dict[Any, Any]:
            return {results.standard: seen.standard, results.golden: seen.golden}

        items = live(golden_noise.generate, registry, settings, limit_s=LIMIT_S)
        yield from pump(items, line, done, {Preview: on_the_way})

    def example(event: gr.EventData) -> list[Any]:
        assert isinstance(event.target, gr.Button)
        return list(EXAMPLES[controls.chips.index(event.target)])

    outputs = [*results.outputs, *history.outputs]
    shared = run_event(on_gpu(compare, **ends(line)), *outputs, inputs=[history.entries], **asked.widgets)
    controls.run.click(**shared)
    if asked.start.model_set == "mini":
        opens_with_result(
            SLUG, compare, shared, line, "Press Run to draw it now.", [*history.outputs, results.link.shown]
        )
    controls.stop.click(halt, **LIGHT)
    if controls.live:
        _bind_live(registry, controls.live, asked, results)
    pressed = [chip.click for chip in controls.chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, None, [asked["prompt"], asked["seed"]], **LIGHT)).then(**shared)


def _bind_live(registry: Registry, switch: LiveSwitch, asked: Form[Settings], results: Results) -> None:
    """Both pictures in few steps, whenever a setting changes. What stands below of an earlier result is not of them and goes."""

    def live_look(session: str, **values: object) -> Iterator[Any]:
        if asked.start.model_set == "full" and registry.device != "cuda":
            yield {results.line: progress_line(TOO_SLOW)}
            return
        try:
            settings = asked.settings(values)
        except ValueError as error:  # half a number, or no prompt yet: no reason for a message over the page
            yield {results.line: progress_line(f"Live: {explain(error)}")}
            return
        began = time.monotonic()
        for item in live(golden_noise.glance, registry, settings, limit_s=LIMIT_S):
            if isinstance(item, Result):
                seen: Preview = item.value
                took = f"{seen.steps} steps in {time.monotonic() - began:.1f} s"
                yield {
                    results.line: progress_line(
                        f"Live: {took}. A first look, not judged and not kept: Run draws {settings.steps} steps."
                    ),
                    results.standard: seen.standard,
                    results.golden: seen.golden,
                    results.verdict: "",
                    results.details: gr.Column(visible=False),
                    **results.link.of(Made(settings)),
                }
            elif isinstance(item, Progress) and not item.fraction:  # loading, or waiting for others
                began = time.monotonic()
                yield {results.line: progress_line(f"Live: {item.text}…")}
            else:
                yield gr.skip()

    shown = [results.line, results.standard, results.golden, results.verdict, results.details, results.link.shown]
    switch.bind(live_look, shown, **asked.widgets)


def _bind_settings(controls: Controls, results: Results, history: History) -> None:
    """What fills in settings: dice, a file, an earlier result."""
    asked, dropped = controls.asked, controls.dropped

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        with errors_shown("Nothing was restored"):
            settings, models = inside(path)
        parts = golden_noise.parts(settings.model_set, settings.source, settings.base)
        another = drawn_by_another(models, parts) or "Press Run to make the pictures again."
        gr.Info(f"Settings restored. {another}", title="Restored")
        return {**controls.restored(settings), dropped: None}

    def bring_back(entry: Entry) -> dict[Any, Any]:
        shown = entry.outcome
        return {
            **controls.restored(shown.outcome.settings),
            **results.show(shown, "Brought back from your results"),
            results.parts: gr.Tabs(selected="picture"),
        }

    def surprise() -> str:
        return golden_noise.surprise(secrets.randbelow(2**31))

    def again(last: int | None) -> Any:
        return gr.skip() if last is None else last

    def paced(base: str) -> tuple[int, float]:
        model = sdxl.base_of(asked.start.model_set, base)
        return model.steps, model.guidance

    if "base" in asked.widgets:
        held(SLUG, asked["base"].input, paced, asked["base"], [asked["steps"], asked["guidance"]], **LIGHT)
    surprised = held(SLUG, controls.surprise.click, surprise, None, asked["prompt"], **LIGHT)
    dealt = held(SLUG, controls.dice.click, lambda: secrets.randbelow(2**31), None, asked["seed"], **LIGHT)
    taken = held(SLUG, controls.reuse.click, again, results.last_seed, asked["seed"], **LIGHT)
    if controls.live:
        for event in (surprised, dealt, taken):
            controls.live.after(event)
    clear_on_refusal(dropped, held(SLUG, dropped.upload, restore, dropped, [*asked.outputs, dropped], **TALKS))
    history.on_pick(bring_back, [*asked.outputs, *results.outputs])
    results.link.bind(
        lambda settings, _: controls.restored(settings), [*asked.outputs, dropped], results.line, restore=restore
    )


def from_python() -> str:
    """The words and programs under "Use it from Python"."""
    named = [f'`"{key}"` ({words})' for key, words in golden_noise.SOURCES.items()]
    listed = ", ".join(named[:-1]) + " or " + named[-1]
    return words_of(__package__, "python.md").replace("{prompt}", f'"{EXAMPLES[0][0]}"').replace("{sources}", listed)


ASKED = "a red cube to the left of a blue ball on a wooden floor"


def _start(model_set: str) -> Settings:
    """What the endpoint takes for settings that a program leaves out, as it always has."""
    return dataclasses.replace(Settings.of(model_set), prompt=ASKED, seed=0, source=Settings.source)


def endpoint(model_set: str) -> Endpoint:
    """The public endpoint `/golden_noise` as it is declared."""
    start = _start(model_set)
    description = (
        "Two pictures of one prompt, from standard and from golden noise, with verdicts and the statistics of both "
        f"noises. {start.limits_in_words([name for name in start.fields() if name != MODEL_SET.name])}"
    )
    outputs = (("file", "standard"), ("file", "golden"), ("json", "measurements"))
    return Endpoint(SLUG, parameters_of(start, prompt=start.prompt), outputs, description)


def _endpoint(registry: Registry, model_set: str) -> None:
    """The public endpoint `/golden_noise`."""
    start = _start(model_set)

    def answer(session: str, **asked: Any) -> Iterator[Any]:
        settings = dataclasses.replace(start, **asked).validated()
        for item in live(golden_noise.generate, registry, settings, limit_s=LIMIT_S):
            if isinstance(item, Result):
                shown = write(item.value, session)
                yield shown.standard, shown.golden, facts(item.value)
            else:
                yield gr.skip()

    publish(endpoint(model_set), answer, model_set)


# --- a run on the page ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shown:
    """A finished run and its two files."""

    outcome: Outcome
    standard: str
    golden: str


def write(outcome: Outcome, session: str) -> Shown:
    """Both pictures as PNG files with the settings inside, named after the seed."""
    # A folder of its own: the same seed with another prompt must not overwrite the earlier file.
    with new_folder(session) as folder:
        settings = dataclasses.asdict(outcome.settings)
        models = [str(model["key"]) for model in outcome.measurements.get("models", ())]
        paths = []
        for kind in ("standard", "golden"):
            path = folder / f"{SLUG}_{outcome.settings.seed}_{kind}.png"
            paths.append(
                images.save_png(getattr(outcome, kind), path, {**settings, "noise": kind}, tab=SLUG, models=models)
            )
        return Shown(outcome, *map(str, paths))


def inside(path: str | Path) -> tuple[Settings, list[str]]:
    """The checked settings of a PNG that this tab wrote, and the keys of the models that drew it."""
    record = images.read_settings(path, tab=SLUG)
    return Settings.read(record["settings"], "this PNG"), record["models"]


def facts(outcome: Outcome) -> dict[str, Any]:
    """What the endpoint tells about a run, as JSON."""
    return {
        **outcome.measurements,
        "verdict_standard": [dataclasses.asdict(verdict) for verdict in outcome.verdict_standard],
        "verdict_golden": [dataclasses.asdict(verdict) for verdict in outcome.verdict_golden],
    }


# --- words and tables; everything that did not come from this file is escaped ------------------------------------


def warm(registry: Registry, model_set: str) -> None:
    """Load what the first run needs."""
    source = Settings.of(model_set).source

    def built(npnet: object = None, judge: object = None, **parts: Any) -> None:
        sdxl.build(parts)  # its libraries, too

    registry.run(golden_noise.parts(model_set, source), built)


TAB = Tab("Golden Noise", SLUG, 10, build, PAPER, (SLUG,), warm, TALK)
