"""What λ costs: a lab that draws efficacy, generality and specificity over it, live."""

from __future__ import annotations

import math

import gradio as gr

from demos.core.counting import Lab
from demos.core.figures import Series, plot, safe
from demos.core.form import Form
from demos.core.page import Widgets
from pipelines.core.registry import Registry
from pipelines.time_edit import sweep
from pipelines.time_edit.sweep import LAMBDAS, MEASURES, SweepSettings, Tally

STYLES = ("line", "dashed", "thin")
MINE = ("edits", "related", "unrelated")
"""Settings of the page that are the lab's too."""


def build(registry: Registry, model_set: str, page: Widgets) -> None:
    """The lab, in a fold; only the mini set has a judge."""
    if model_set != "mini":
        return
    own = Form(SweepSettings())
    with gr.Accordion("What does λ cost? Sweep it", open=False):
        own.add("source")
        with gr.Row():
            own.add("count", "protect", "layers")
        with gr.Row():
            own.add("seed", "steps")
        lab = Lab(
            "time_edit_sweep",
            sweep.measure,
            Tally,
            board_html,
            "An edit takes about a minute on a CPU.",
            "Sweep λ",
            "Stop the sweep",
            "edits",
            3600.0,
        )
        lab.build(registry, own, {name: page.asked[name] for name in MINE})


def board_html(tally: Tally) -> str:
    """The chart of the trade, and its sentence."""
    across = [math.log10(strength) for strength in LAMBDAS]
    series = []
    for name, style in zip(MEASURES, STYLES, strict=True):
        shares = [sweep.share(tally.found[strength][name]) for strength in LAMBDAS]
        means, lows, highs = ([100 * one[n] for one in shares] for n in range(3))
        series += [Series(name, across, means, style), Series("", across, means, "points", lows, highs)]
    edits = f"{tally.done} {'edit' if tally.done == 1 else 'edits'}, μ = {tally.settings.protect:g}"
    title, facts = "Efficacy against specificity", f"{edits}, 95 % intervals; higher is better."
    drawn = plot(title, facts, series, ("λ, as a power of ten", "% of the pictures"))
    return f"<div class='board'><p>{safe(sentence(tally))}</p>{drawn}</div>"


def sentence(tally: Tally) -> str:
    """The best trade so far, in words."""
    strength = sweep.best(tally.found)
    told = []
    for name in MEASURES:
        share, low, high = sweep.share(tally.found[strength][name])
        told.append(f"{name} {share:.0%} [{low:.0%}, {high:.0%}]")
    return f"The lowest of the three is highest at λ = {strength:g}: {', '.join(told)}."
