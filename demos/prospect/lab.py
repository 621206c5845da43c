"""When is what decided? The measured curve, and a lab that draws it live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from demos.core.counting import Lab
from demos.core.figures import Interval, Series, data_uri, intervals, measured, plot, safe
from demos.core.form import Form
from pipelines import prospect
from pipelines.core.registry import Registry
from pipelines.prospect import STAGES, curve
from pipelines.prospect.curve import KINDS, LabSettings, Tally

READY = "Choose how many pairs, then press Run the lab."
STYLES = ("line", "dashed", "thin")
HOW = "The more stages A needs, the later the attribute is decided. Intervals of 95 %."
START_PROMPTS = "\n".join(prospect.EXAMPLES["mini"][0][1])


def build(registry: Registry, model_set: str) -> None:
    """The measured curve and the lab, in a fold."""
    with gr.Accordion("Which attribute is decided when?", open=False):
        other = "" if model_set == "mini" else "<p class='remark'>These are figures of the mini set, not of SDXL.</p>"
        gr.HTML(other + measured(prospect.MEASURED, lambda: curves(*curve.measured())), padding=False)
        if model_set != "mini":
            return
        own = Form(LabSettings(START_PROMPTS))
        with gr.Row():
            own.add("source", label="What is drawn")
            own.add("prompts", label="Prompts A and B", lines=2)
        with gr.Row():
            own.add("count", "seed", "steps")
        Lab("prospect_lab", curve.measure, Tally, board_html, READY).build(registry, own)


def board_html(tally: Tally) -> str:
    """Everything that the lab shows of a tally."""
    return f"<div class='board'>{curves(tally.found, tally.done)}{strip(tally)}</div>"


def curves(found: Mapping[str, Sequence[str]], pairs: int) -> str:
    """The sentence, the curve of layout, colour and shape, and the stages that each attribute needs."""
    told = curve.told(found)
    if not told:
        return f"<p class='remark'>{'Not measured yet.' if not pairs else curve.sentence(found, pairs)}</p>"
    sentence = curve.sentence(told, pairs)
    named = [name for name in KINDS if name in told] or list(told)[: len(STYLES)]
    across = list(range(STAGES + 1))
    series = []
    for name, style in zip(named, STYLES, strict=False):
        shares = [curve.share(told[name], border) for border in across]
        means, lows, highs = ([100 * one[n] for one in shares] for n in range(3))
        title = "layout" if name == "backdrop" else name.replace("_", " ")
        series += [Series(title, across, means, style), Series("", across, means, "points", lows, highs)]
    rows = [
        Interval(
            name.replace("_", " "),
            mean,
            low,
            high,
            f"{mean:.1f} [{low:.1f}, {high:.1f}], {sum(curve.counted(letters))} pairs",
        )
        for name, letters in told.items()
        for mean, low, high in (curve.needed(letters),)
    ]
    drawn = plot(
        "Whose is it?",
        f"A speaks first. {pairs} pairs, 95 % intervals.",
        series,
        ("stages of A", "pairs in which it is A’s, %"),
    )
    needs = intervals("Stages that A needs", HOW, sentence, rows, f"stages, of {STAGES}", signs=False)
    return f"<p>{safe(sentence)}</p>{drawn}{needs}"


def strip(tally: Tally) -> str:
    """The pictures of the last pair."""
    if tally.shown is None:
        return ""
    first, second, sheet = tally.shown
    return (
        f"<div class='last'><h4>The last pair</h4><p class='quiet'>A: {safe(first)}. B: {safe(second)}.</p>"
        f"<img src='{data_uri(sheet, 'WEBP')}' alt='Pictures with A in 0 to {STAGES} stages, then B' style='width: 100%'></div>"
    )
