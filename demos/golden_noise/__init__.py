"""The Golden Noise tab: the same prompt and seed from standard noise and from golden noise, side by side."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.core.endpoint import MODEL_SET, Endpoint, parameters_of, publish
from demos.core.figures import Line, bars, data_uri, lines, measured, safe, signed
from demos.core.form import Form
from demos.core.handlers import LIGHT, TALKS, halt, on_gpu
from demos.core.hold import held, hold
from demos.core.page import ends, picture, pump, restore_zone, run_event, run_row
from demos.core.tabs import Tab
from demos.core.uploads import emptied, told
from demos.core.visitors import new_folder
from demos.core.widgets import Entry, History, paper_card, progress_line
from demos.golden_noise import lab
from pipelines import golden_noise
from pipelines.core import images
from pipelines.core.lane import Result, live
from pipelines.core.registry import Registry
from pipelines.golden_noise import EXAMPLES, PAPER, Outcome, Preview, Settings, inspection
from pipelines.models.sdxl import BASES

if TYPE_CHECKING:
    from pipelines.models.verifier import Verdict

SLUG = "golden_noise"
LIMIT_S = 300.0
NOTHING_YET = "Type a prompt or pick an example, then press Run."

HOW_IT_WORKS = """
A diffusion model starts from random noise and removes it step by step. The noise is not neutral: some draws lead
to pictures that follow the prompt better than others. **Golden Noise** trains a small network, NPNet, that takes the
random noise and the prompt and returns a slightly changed noise, before the first step.

**Where golden noise comes from**

- **Re-denoise sampling** needs no network of its own: the noise is denoised one step with strong guidance and noised back
  with weak guidance. What comes back carries a trace of the prompt. To first order this pushes the noise along the very
  direction that guidance pushes the first step, so it amounts to **stronger guidance in the first step**, which anybody can
  have for nothing. The lab has that as a baseline.
- **NPNet, the paper’s network**: many such pairs are collected, a reward model keeps those where the changed noise gave the
  better picture, and NPNet learns to turn the first noise of a pair into the second, in a single pass. In the published
  architecture the prompt is heard through eight numbers.
- **NPNet, our network**: taught another lesson. While a model is trained, even its noisiest level still holds a trace of the
  picture; when it draws, it starts from noise alone, and believes what the noise says of large surfaces: grey on average, so that a
  sky may become a wall. This network adds what the prompt lets one expect of the picture, twice as strong as the level would hold
  it. It is a small U-Net in which the prompt speaks in every layer and can move the noise at places; its teacher is the image model
  itself, asked for its first guess at other noises (the arm *The lacking signal* in the lab). Not the paper’s idea; known as signal
  leak.

**Golden strength** mixes the two noises: 0 leaves the noise as it is, so both pictures are the same, pixel for pixel; 1 is the
paper’s setting; above 1 exaggerates the change, below 0 goes the other way.

**What the lab compares, and why.** Golden noise has to beat what is free (stronger guidance, in the first step or throughout)
and what the same or more compute buys (more steps; two seeds of which the reward keeps the better). The *controls* are there to
fail: a random change of the same size, the change that NPNet makes for another prompt, and simply another seed. If one of them
wins as well, it was not the golden noise.

**Related ideas.** *Best of N* draws several seeds and lets a reward choose: simple, strong, N times the cost. *ReNO* moves the
noise by the gradient of rewards anew for each picture, with few-step models. *InitNO* moves it until the attention
maps answer to every word of the prompt. *Z-Sampling* denoises and inverts in zigzag at every step, not only at the first, at about three times the cost.

**What to keep in mind.** The verdicts come from a classifier that was trained on rendered scenes: it says what it sees
and how sure it is, and it can be wrong. One pair of pictures says little; the lab speaks of one prompt, the measured figures
of many prompts of a small world. Whether golden noise helps also depends on how much signal the model’s last noise level leaves,
so nothing here can be carried over to SDXL.
"""
FROM_PYTHON = """
The page has one public endpoint, `/golden_noise`. The same seed gives the same files, byte for byte.

```python
from gradio_client import Client

client = Client("http://127.0.0.1:7860")
standard, golden, facts = client.predict(
    prompt={prompt},
    seed=7,
    steps=25,
    guidance=5.5,
    strength=1.0,
    model_set="mini",
    source="npnet",
    api_name="/golden_noise",
)
print(standard, golden, facts["seconds"])  # two PNG files and the measurements
```

`source` is {sources}. Of the measurements, `verdict_standard` and `verdict_golden` are lists of what was wanted and seen,
`fully_right` sums them up (null where the prompt names nothing known, or asks for more than the model reads: `unread_words`), and `noise` says how the noise changed: mean and deviation,
`change_rms` and `change_peak`, channel means, the shares of the change’s `energy`, singular values and radial spectrum,
each before and after.

Without a server, from a checkout:

```python
from pipelines.golden_noise import Settings, generate
from pipelines.core.lane import run_blocking
from pipelines.core.registry import from_environment

settings = Settings({prompt}, seed=7)
outcome = run_blocking(generate, from_environment(), settings)
outcome.golden.save("golden.png")
```
"""


def build(registry: Registry, model_set: str) -> None:
    """The widgets of the tab and what they do."""
    choices = golden_noise.sources(model_set)
    for key in choices:
        registry.declare(*golden_noise.parts(model_set, key).values())
    asked = Form(Settings.of(model_set))
    paper_card(PAPER)
    fetched = golden_noise.download(model_set)
    if fetched:
        gr.HTML(f"<p class='remark'>{safe(BASES[model_set].title)}: {safe(fetched)}.</p>", padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes="studio-controls"):
            asked.add("prompt", elem_id="golden-prompt", container=True)
            run, stop = run_row()
            with gr.Column(elem_classes="studio-chips"):
                gr.HTML("<p class='label'>Examples: one click runs</p>", padding=False)
                with gr.Row(elem_classes="chips"):
                    chips = [gr.Button(text, size="sm", elem_classes="example") for text, _ in EXAMPLES]
                    surprise = gr.Button("Surprise me", size="sm", elem_classes="surprise")
            with gr.Row(elem_classes="seed-row"):
                asked.add("seed", scale=3)
                dice = gr.Button("New seed", size="sm", min_width=80, scale=1)
                reuse = gr.Button("Last seed", size="sm", min_width=80, scale=1)
            asked.add("source", choices=[(words, key) for key, words in choices.items()], elem_classes="sources")
            asked.add("strength", elem_classes="gold-slider")
            asked.add("steps", "guidance")
            dropped = restore_zone()
        with gr.Column(scale=7, min_width=320, elem_classes="studio-results"):
            with gr.Tabs(elem_classes="parts", overflow_behavior="wrap") as parts:
                with gr.Tab("One picture", id="picture", render_children=True):
                    line = gr.HTML(progress_line(NOTHING_YET), padding=False, elem_classes="run-line")
                    with gr.Row(elem_classes="pair"):
                        standard = picture("Standard noise", "standard", "The picture made from standard noise")
                        golden = picture("Golden noise", "golden", "The picture made from golden noise")
                    verdict = gr.HTML(padding=False)
                    with gr.Column(visible=False) as details:
                        slider = gr.ImageSlider(
                            label="Slide between standard (left) and golden (right)",
                            type="filepath",
                            buttons=["fullscreen"],
                            elem_classes="slide",
                        )
                        with gr.Row(elem_classes="run-row"):
                            save_standard = gr.DownloadButton("Download standard PNG", size="md", min_width=150)
                            save_golden = gr.DownloadButton("Download golden PNG", size="md", min_width=150)
                        figures = gr.HTML(padding=False)
                        with gr.Accordion("Inspect the noise", open=False, elem_classes="inspector"):
                            inspected = gr.HTML(padding=False)
                with gr.Tab("Win-rate lab", id="lab", render_children=True):
                    lab.build(registry, model_set, asked)
                with gr.Tab("Measured figures", id="measured", render_children=True):
                    gr.HTML(measured(golden_noise.MANIFEST, lambda: lab.measured_html(model_set)), padding=False)
    history = History()
    last_seed = gr.State(None)
    with gr.Accordion("How it works", open=False):
        gr.Markdown(HOW_IT_WORKS, elem_classes="reading")
    with gr.Accordion("Use it from Python", open=False):
        gr.Markdown(from_python(), elem_classes="reading")

    result = [line, standard, golden, verdict, details, slider, save_standard, save_golden, figures, inspected]
    result += [last_seed, parts]

    def show(shown: Shown, text: str) -> dict[Any, Any]:
        """The updates that put a finished run on the page."""
        return {
            line: progress_line(text, 1.0, "done"),
            standard: shown.standard,
            golden: shown.golden,
            verdict: notes_html(shown.outcome) + unknown_words(shown.outcome) + verdict_table(shown.outcome),
            details: gr.Column(visible=True),
            slider: (shown.standard, shown.golden),
            save_standard: gr.DownloadButton(value=shown.standard),
            save_golden: gr.DownloadButton(value=shown.golden),
            figures: figures_html(shown.outcome),
            inspected: inspect_html(shown.outcome),
            last_seed: shown.outcome.settings.seed,
        }

    def compare(session: str, entries: list[Entry], **values: Any) -> Iterator[Any]:
        settings = asked.settings(values)
        yield {line: progress_line("Starting…", 0.0, "running"), parts: gr.Tabs(selected="picture")}

        def done(outcome: Outcome, seconds: float) -> dict[Any, Any]:
            shown = write(outcome, session)
            caption = f"{settings.prompt[:60]} · seed {settings.seed}"
            text = f"Done: {settings.steps} steps in {seconds:.1f} s · {caption}"
            return {**show(shown, text), **history.add(entries, Entry(shown.golden, caption, shown))}

        items = live(golden_noise.generate, registry, settings, limit_s=LIMIT_S)
        yield from pump(items, line, done, {Preview: lambda seen: {standard: seen.standard, golden: seen.golden}})

    def example(event: gr.EventData) -> list[Any]:
        return list(EXAMPLES[chips.index(event.target)])

    def restored(settings: Settings) -> dict[Any, Any]:
        # A picture of another model set may name a source that this one has under another name.
        known = settings.source if settings.source in choices else asked.start.source
        return asked.updates(dataclasses.replace(settings, source=known))

    def restore(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        with told("Nothing was restored"):
            updates = restored(settings_inside(path))
        gr.Info("Settings restored. Press Run to make the pictures again.", title="Restored")
        return {**updates, dropped: None}

    handler = on_gpu(compare, **ends(line))
    shared = run_event(handler, *result, *history.outputs, inputs=[history.entries], **asked.widgets)
    run.click(**shared)
    pressed = [chip.click for chip in chips]
    there = hold(SLUG, *pressed)
    there(gr.on(pressed, example, None, [asked["prompt"], asked["seed"]], **LIGHT)).then(**shared)
    stop.click(halt, **LIGHT)

    held(SLUG, surprise.click, lambda: golden_noise.surprise(secrets.randbelow(2**31)), None, asked["prompt"], **LIGHT)
    held(SLUG, dice.click, lambda: secrets.randbelow(2**31), None, asked["seed"], **LIGHT)
    held(SLUG, reuse.click, lambda last: gr.skip() if last is None else last, last_seed, asked["seed"], **LIGHT)
    emptied(dropped, held(SLUG, dropped.upload, restore, dropped, [*asked.outputs, dropped], **TALKS))
    history.on_pick(
        lambda entry: {
            **restored(entry.outcome.outcome.settings),
            **show(entry.outcome, "Brought back from your results"),
            parts: gr.Tabs(selected="picture"),
        },
        [*asked.outputs, *result],
    )
    _endpoint(registry, model_set)


def from_python() -> str:
    """The words and programs under "Use it from Python"."""
    named = [f'`"{key}"` ({words})' for key, words in golden_noise.SOURCES.items()]
    listed = ", ".join(named[:-1]) + " or " + named[-1]
    return FROM_PYTHON.replace("{prompt}", f'"{EXAMPLES[0][0]}"').replace("{sources}", listed)


def _endpoint(registry: Registry, model_set: str) -> None:
    """The public endpoint `/golden_noise`."""
    start = dataclasses.replace(Settings.of(model_set), seed=0, source=Settings.source)

    def answer(session: str, **asked: Any) -> Iterator[Any]:
        settings = dataclasses.replace(start, **asked).validated()
        for item in live(golden_noise.generate, registry, settings, limit_s=LIMIT_S):
            if isinstance(item, Result):
                shown = write(item.value, session)
                yield shown.standard, shown.golden, facts(item.value)
            else:
                yield gr.skip()

    description = (
        "Two pictures of one prompt, from standard and from golden noise, with verdicts and the statistics of both "
        f"noises. {start.limits_in_words([name for name in start.fields() if name != MODEL_SET.name])}"
    )
    outputs = (("file", "standard"), ("file", "golden"), ("json", "measurements"))
    publish(Endpoint(SLUG, parameters_of(start, prompt=start.prompt), outputs, description), answer, model_set)


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


def settings_inside(path: str | Path) -> Settings:
    """The checked settings of a PNG that this tab wrote."""
    return Settings.read(images.read_settings(path, tab=SLUG)["settings"], "this PNG")


def facts(outcome: Outcome) -> dict[str, Any]:
    """What the endpoint tells about a run, as JSON."""
    return {
        **outcome.measurements,
        "verdict_standard": [dataclasses.asdict(verdict) for verdict in outcome.verdict_standard],
        "verdict_golden": [dataclasses.asdict(verdict) for verdict in outcome.verdict_golden],
    }


# --- words and tables; everything that did not come from this file is escaped ------------------------------------


def verdict_table(outcome: Outcome) -> str:
    """What the classifier saw in each picture, attribute by attribute. A mark never stands without its word."""
    both = list(zip(outcome.verdict_standard, outcome.verdict_golden, strict=True))
    if not both:
        return '<p class="quiet">The prompt asks for nothing that the classifier knows, so there is no verdict.</p>'
    judged = sum(left.right is not None for left, _ in both)
    rows = "".join(
        f"<tr><th scope='row'>{safe(left.attribute)}</th><td>{safe(left.wanted)}</td>{_seen(left)}{_seen(right)}</tr>"
        for left, right in both
    )
    heads = "".join(
        f"<th scope='col'>{name}<span>{sum(verdict.right is True for verdict in verdicts)} of {judged} right</span></th>"
        for name, verdicts in (
            ("Standard noise", [pair[0] for pair in both]),
            ("Golden noise", [pair[1] for pair in both]),
        )
    )
    return (
        "<div class='verdicts'><h4>What a classifier sees</h4><table><thead><tr><th scope='col'>Attribute</th>"
        f"<th scope='col'>Asked for</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _seen(verdict: Verdict) -> str:
    if verdict.right is None:
        return "<td><b>– not read</b>, so not judged</td>"
    word = "<b class='yes'>✓ right</b>" if verdict.right else "<b class='no'>✗ wrong</b>"
    return f"<td>{word}, {safe(verdict.seen)} <span>({100 * verdict.confidence:.0f} % sure)</span></td>"


def figures_html(outcome: Outcome) -> str:
    """The measurements of a run, the measured claim, and which models answered under which licence."""
    told, noise = outcome.measurements, outcome.measurements["noise"]
    figures = {
        "Both pictures": f"{told['seconds']:.1f} s on {'the GPU' if told['device'] == 'cuda' else 'the CPU'}",
        "Re-denoising" if outcome.settings.source == "redenoise" else "NPNet": f"{1000 * told['npnet_seconds']:.0f} ms",
        "Noise moved by": f"{noise['change_rms']:.3f} RMS",
        "Its mean": f"{noise['mean_before']:+.3f} → {noise['mean_after']:+.3f}",
        "Its deviation": f"{noise['std_before']:.3f} → {noise['std_after']:.3f}",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{safe(value)}</dd></div>" for name, value in figures.items())
    answered = "".join(
        f"<li>{safe(model['key'])} ({safe(model['source'])}), {safe(model['licence'])}</li>" for model in told["models"]
    )
    claim = f"<h4>Which noise is better, measured over many prompts</h4><p class='claim'>{safe(told['claim'])}</p>"
    return (
        f"<div class='figures'><h4>This run</h4><dl>{cells}</dl>{claim}"
        f"<h4>Models that answered</h4><ul>{answered}</ul></div>"
    )


def notes_html(outcome: Outcome) -> str:
    """What has to be said of a run before its verdicts: words that were not read."""
    return "".join(f"<p class='remark'>{safe(note)}</p>" for note in outcome.measurements.get("notes", ()))


def unknown_words(outcome: Outcome) -> str:
    """A remark on the words of the prompt that the small model was never taught; empty when it knows them all."""
    words = outcome.measurements.get("unknown_words", [])
    if not words or outcome.settings.model_set != "mini":
        return ""
    listed = ", ".join(f"“{safe(word)}”" for word in words[:8])
    return (
        f"<p class='remark'>The mini model never learned {listed}: it knows plain solids on floors, and portraits.</p>"
    )


def inspect_html(outcome: Outcome) -> str:
    """What was done to the noise: a map, shares, singular values and spectrum, each with its facts in words."""
    noise = outcome.measurements["noise"]
    quiet = "" if noise["change_rms"] else "<p class='remark'>At strength 0 the noise is not changed at all.</p>"
    side = len(noise["singular_values_before"]) // 2
    return (
        f"<div class='inspect'>{quiet}<div class='inspect-grid'>{_map(outcome)}{_shares(noise, side)}"
        f"{_singular_values(noise)}{_spectrum(noise)}{_channels(noise, side)}</div></div>"
    )


def _map(outcome: Outcome) -> str:
    noise = outcome.measurements["noise"]
    peak = noise["change_peak"]
    facts = (
        f"Every cell of the latent, in its place in the picture: dark was not changed, light was changed most, by {peak:.3f} "
        f"(root mean square over the four channels; {noise['change_rms']:.3f} over all cells). The noise itself is about 1."
    )
    colours = ", ".join(f"rgb{stop}" for stop in inspection.HEAT)
    return (
        f"<figure class='heat'><h5>Where the noise was changed</h5><img src='{data_uri(outcome.heat)}' "
        f"alt='Map of the change of the noise. {safe(facts)}'><p class='scale'><span>0</span>"
        f"<i style='background: linear-gradient(to right, {colours})'></i><span>{peak:.3f}</span></p>"
        f"<figcaption>{safe(facts)}</figcaption></figure>"
    )


def _shares(noise: dict[str, Any], side: int) -> str:
    energy = noise["energy"]
    patch = math.gcd(8, side)
    chance = (1 / side**2, 1 / patch**2 - 1 / side**2, 1 - 1 / patch**2)
    by_chance = ", ".join(f"{100 * share:.1f} %" for share in chance)
    names = ("One shift for each channel", f"Flat patches of {patch} × {patch} cells", "Finer than that")
    shares = list(zip(names, (energy["shift"], energy["patches"], energy["fine"]), strict=True))
    told = ", ".join(f"{name[:1].lower() + name[1:]} {100 * share:.1f} %" for name, share in shares)
    return bars("What the change is made of", f"Of its energy: {told}. A random change would have {by_chance}.", shares)


def _channels(noise: dict[str, Any], side: int) -> str:
    rows = "".join(
        f"<tr><th scope='row'>Channel {number}</th><td>{signed(before, 3)}</td><td>{signed(after, 3)}</td></tr>"
        for number, (before, after) in enumerate(
            zip(noise["channel_means_before"], noise["channel_means_after"], strict=True), 1
        )
    )
    return (
        "<div class='verdicts channels'><h5>Mean of each channel</h5><table><thead><tr><th scope='col'></th>"
        f"<th scope='col'>Before</th><th scope='col'>After</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='quiet'>Of plain noise, 95 in 100 lie within ±{2 / side:.3f}.</p></div>"
    )


def _singular_values(noise: dict[str, Any]) -> str:
    before, after = noise["singular_values_before"], noise["singular_values_after"]
    change = [b - a for a, b in zip(before, after, strict=True)]
    numbers = list(range(1, len(before) + 1))
    most, least = max(numbers, key=lambda n: change[n - 1]), min(numbers, key=lambda n: change[n - 1])
    both = (
        f"The {len(before)} singular values of the four channels laid out as tiles. The largest goes from {before[0]:.2f} to "
        f"{after[0]:.2f}; the curves nearly lie on each other, so their difference has a chart of its own."
    )
    apart = (
        f"After minus before: the largest gain is {signed(change[most - 1], 3)} (value {most}), the largest loss "
        f"{signed(change[least - 1], 3)} (value {least})."
    )
    axes = ("number of the singular value", "singular value")
    return lines(
        "Singular values", both, numbers, [Line("before", before), Line("after", after, dashed=True)], axes
    ) + lines(
        "Difference of the singular values", apart, numbers, [Line("change", change)], (axes[0], "after − before"), 0.0
    )


def _spectrum(noise: dict[str, Any]) -> str:
    before, after, frequency = noise["spectrum_before"], noise["spectrum_after"], noise["frequency"]
    moved = max(range(len(before)), key=lambda i: abs(after[i] - before[i]))
    facts = (
        "Mean power in rings of spatial frequency, from whole-picture shifts (0) to every second cell (0.5); white noise "
        f"has about 1 in all of them. Most changed at {frequency[moved]:g}: from {before[moved]:.2f} to {after[moved]:.2f}."
    )
    curves = [Line("before", before), Line("after", after, dashed=True)]
    return lines("Radial spectrum", facts, frequency, curves, ("frequency, cycles per latent cell", "power"), 1.0, True)


TAB = Tab("Golden Noise", SLUG, 10, build, PAPER)
