"""What λ costs: a lab that draws efficacy, generality and specificity over it, live."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demos.core.figures import Series, plot, safe
from demos.core.form import Form
from demos.core.handlers import BROKE, LIGHT, halt, on_gpu
from demos.core.hold import STARTS
from demos.core.page import Widgets, ends, pump, run_event, run_row
from demos.core.widgets import progress_line
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.time_edit import sweep
from pipelines.time_edit.sweep import LAMBDAS, MEASURES, SweepSettings, Tally

LIMIT_S = 3600.0
STOPPED = "Stopped. What was counted stays."
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
        run, stop = run_row("Sweep λ", "Stop the sweep", "lab-row", kind=STARTS)
        line = gr.HTML(progress_line("An edit takes about a minute on a CPU."), padding=False, elem_classes="lab-line")
        board = gr.HTML(padding=False)

    def time_edit_sweep(session: str, **values: object) -> Iterator[Any]:
        settings = own.settings(values)
        yield {line: progress_line("Starting…", 0.0, "running"), board: ""}

        def done(tally: Tally, seconds: float) -> dict[Any, Any]:
            return {line: progress_line(f"Done: {tally.done} edits in {seconds:.0f} s", 1.0, "done")}

        items = live(sweep.measure, registry, settings, limit_s=LIMIT_S)
        yield from pump(items, line, done, {Tally: lambda tally: {board: board_html(tally)}}, digits=0)

    handler = on_gpu(time_edit_sweep, **ends(line, STOPPED, f"{BROKE} What was counted stays."))
    named: dict[str, Any] = {**own.widgets, **{name: page.asked[name] for name in MINE}}
    run.click(**run_event(handler, line, board, **named))
    stop.click(halt, **LIGHT)


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
