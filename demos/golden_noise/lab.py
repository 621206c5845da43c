"""The Golden Noise tab's second and third part: the win-rate lab, and the table of the measured figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demos.core.figures import Interval, data_uri, intervals, safe, signed
from demos.core.form import Form
from demos.core.handlers import BROKE, LIGHT, halt, on_gpu
from demos.core.hold import STARTS
from demos.core.page import ends, pump, run_event
from demos.core.quantities import Quantity, ways
from demos.core.widgets import progress_line
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.golden_noise import EXAMPLES, Settings
from pipelines.golden_noise import lab as noise_lab
from pipelines.golden_noise.lab import ARMS, LabSettings, Tally

LIMIT_S = 1800.0
"""A lab run may take this long; Continue starts another one."""
CHOSEN = ["npnet", "first_step"]

INTRO = """
<p>One pair of pictures is an anecdote. The lab draws your prompt from one seed after another, each in several ways,
lets the judge say which pictures have <b>everything</b> that the prompt asks for, and counts. A seed is
<b>won</b> by a way when its picture is right and the one from standard noise is wrong, <b>lost</b> when it is the other way
round, and <b>tied</b> else.</p><p class="quiet">Prompt, steps, guidance and golden strength are those of the page’s controls.
A run may take {minutes:.0f} minutes; what was counted stays, and Continue goes on at the next seed.</p>
"""
NEEDS_JUDGE = """
<p class='remark'>The lab counts right pictures, and only the world of the mini set has a judge that can tell: start
the studio with <code>--model-set mini</code> to use it.</p>
"""
READY = "Choose what to compare, then press Run the lab."
STOPPED = "Stopped. What was counted stays; Continue goes on at the next seed."
REMINDER = (
    "Decide how many seeds you want to see, and read the table then. Where nothing differs, a visitor who looks all the "
    "time and stops at the first p below 0.05 finds “an effect” in about one lab of 200 seeds in six, instead of one in "
    "twenty; and several ways compared are several chances. So this page believes nothing above 0.01, "
    "and nothing here speaks of other prompts."
)
NOT_MEASURED = (
    "Golden noise and its baselines have not been measured over many prompts yet: use the lab on a prompt of your own."
)
MEASURED = """
<p>All ways on the same {pairs:,} held-out prompts, a seed each, with {steps} steps, guidance {guidance:g} and golden strength {strength:g}: other
prompts and other seeds than those of training, judged by a network that taught nobody. Beside golden noise stand what the
same or more compute buys otherwise, and controls that must not help.{fewer}</p>
"""
FEWER = " Ways on which no claim stands drew the first {others:,} of these prompts, and are compared on those."


def build(registry: Registry, model_set: str, asked: Form[Settings]) -> None:
    """The lab; prompt, steps, guidance and golden strength are the page's, ``asked``."""
    if model_set != "mini":
        gr.HTML(NEEDS_JUDGE, padding=False)
        return
    registry.declare(*noise_lab.parts().values())
    own = Form(LabSettings(EXAMPLES[0][0], seed=1))
    gr.HTML(f"<div class='lab-intro'>{INTRO.format(minutes=LIMIT_S / 60)}</div>", padding=False)
    arms = gr.CheckboxGroup(
        [
            (f"{arm.title}: {arm.about}{' (control)' if arm.control else ''}", arm.key)
            for arm in list(ARMS.values())[1:]
        ],
        value=CHOSEN,
        label="Compared with standard noise",
        info="A control must not help: if it wins, something is wrong. Each way costs its share of the time.",
        elem_classes="arms",
    )
    with gr.Row(elem_classes="lab-seeds"):
        own.add("seed", label="First seed", min_width=130, scale=1)
        own.add("count", min_width=200, scale=2)
    with gr.Row(elem_classes="run-row lab-row"):
        run = gr.Button("Run the lab", variant="primary", size="lg", scale=3, min_width=110, elem_classes=STARTS)
        stop = gr.Button("Stop the lab", size="lg", scale=2, min_width=90)
        further = gr.Button("Continue", size="lg", scale=2, min_width=90, elem_classes=STARTS)
    line = gr.HTML(progress_line(READY), padding=False, elem_classes="lab-line")
    board = gr.HTML(padding=False)
    tally = gr.State(None)
    _bind(registry, asked, own, Board(arms, run, stop, further, line, board, tally))


@dataclass(frozen=True, eq=False)
class Board:
    """The lab's widgets."""

    arms: gr.CheckboxGroup
    run: gr.Button
    stop: gr.Button
    further: gr.Button
    line: gr.HTML
    board: gr.HTML
    tally: gr.State


def _bind(registry: Registry, asked: Form[Settings], own: Form[LabSettings], page: Board) -> None:
    line, board, tally = page.line, page.board, page.tally

    def count_up(settings: LabSettings, before: Tally | None) -> Iterator[Any]:
        yield {line: progress_line("Starting…", 0.0, "running"), **({board: "", tally: None} if before is None else {})}

        def done(counted: Tally, _seconds: float) -> dict[Any, Any]:
            return {line: progress_line(f"Done: {counted.done} seeds, {counted.seconds:.0f} s of drawing", 1.0, "done")}

        items = live(noise_lab.compare, registry, settings, before, limit_s=LIMIT_S)
        try:
            yield from pump(items, line, done, {Tally: lambda one: {tally: one, board: board_html(one)}}, digits=0)
        except TimeoutError:
            text = f"Stopped after {LIMIT_S / 60:.0f} minutes, the limit of one run. What was counted stays: press Continue."
            yield {line: progress_line(text, 0.0, "stopped")}

    def lab(session: str, arms: list[str], **values: object) -> Iterator[Any]:
        yield from count_up(own.settings(values, arms=tuple(arms)), None)

    def lab_continued(session: str, arms: list[str], before: Tally | None, **values: object) -> Iterator[Any]:
        settings = own.settings(values, arms=tuple(arms))
        if before is not None and not before.fits(settings):
            gr.Info(
                "The prompt or the settings are not those of the count on the page, so it starts anew.", title="Lab"
            )
            before = None
        elif before is not None and before.done >= settings.count:
            gr.Info(f"All {before.done} seeds are counted: raise the number of seeds to go on.", title="Lab")
            yield gr.skip()
            return
        yield from count_up(settings, before)

    ending = ends(line, STOPPED, f"{BROKE} What was counted stays.")
    named = {name: asked[name] for name in ("prompt", "steps", "guidance", "strength")} | own.widgets
    page.run.click(**run_event(on_gpu(lab, **ending), line, board, tally, inputs=[page.arms], **named))
    page.further.click(
        **run_event(on_gpu(lab_continued, **ending), line, board, tally, inputs=[page.arms, tally], **named)
    )
    page.stop.click(halt, **LIGHT)


def measured_html(model_set: str) -> str:
    """The table of the evaluation, read from the manifest of the shipped weights."""
    found = noise_lab.measured()
    if found is None:
        return f"<p class='remark'>{NOT_MEASURED}</p>"
    told = "".join(f"<li>{safe(sentence)}</li>" for sentence in noise_lab.findings(found["arms"]))
    other = "" if model_set == "mini" else "<p class='remark'>These are figures of the mini set, not of SDXL.</p>"
    fewer = FEWER.format(**found) if found.get("others", found["pairs"]) < found["pairs"] else ""
    return (
        f"<div class='board'>{other}<div class='lab-intro'>{MEASURED.format(fewer=fewer, **found)}</div><ul class='meaning'>{told}</ul>"
        f"{arms_table(found['arms'], found['steps'])}{points_chart(found['arms'])}</div>"
    )


# --- words, tables and pictures ---------------------------------------------------------------------------------


def board_html(tally: Tally) -> str:
    """Everything that the lab shows of a tally."""
    rows = tally.rows()
    told = "".join(
        f"<li><b>{safe(ARMS[key].title)}.</b> {safe(noise_lab.meaning(key, row))}</li>"
        for key, row in rows.items()
        if key != "standard"
    )
    return (
        f"<div class='board'><h3>{tally.done} of {tally.settings.count} seeds counted</h3>"
        f"<p class='quiet'>“{safe(tally.settings.prompt)}” from seed {tally.settings.seed} on. "
        f"Standard noise, fully right: {_right(rows['standard'])}. {noise_lab.room(rows['standard'])}</p>"
        f"<ul class='meaning'>{told}{duels(tally)}</ul>{arms_table(rows, tally.settings.steps)}"
        f"{points_chart(rows)}{strip(tally)}<p class='remark'>{REMINDER}</p></div>"
    )


def duels(tally: Tally) -> str:
    """The first golden noise that was chosen against every baseline beside it, on the same seeds."""
    golden = [key for key in noise_lab.GOLDEN if key in tally.right]
    baselines = [key for key in tally.right if key not in (*noise_lab.GOLDEN, "standard") and not ARMS[key].control]
    if not golden or not baselines:
        return ""
    rows = {key: tally.against(golden[0], key) for key in baselines}
    return "".join(
        f"<li><b>Head to head</b>, {safe(ARMS[golden[0]].title)} against {safe(ARMS[key].title)}: "
        f"{row['wins']} won, {row['losses']} lost, p = {_chance(row['p'])}</li>"
        for key, row in rows.items()
    )


POINTS = Quantity("Points gained", "higher", "", 1, signs=True)
TIMED = Quantity("Seconds", "lower", " s", 2)
COLUMNS = [
    Quantity("Fully right", "higher"),
    Quantity("Won", "higher"),
    Quantity("Lost", "lower"),
    Quantity("Tied", "neither"),
    POINTS,
    Quantity("Exact p", "lower"),
    Quantity("UNet runs", "lower"),
]


def arms_table(rows: Mapping[str, Mapping[str, Any]], steps: int) -> str:
    """A row per way. On a phone each row becomes a card, so every cell carries the name of its column."""
    timed = any("seconds" in row for row in rows.values())
    columns = [*COLUMNS, TIMED] if timed else COLUMNS
    lines = []
    for key, row in rows.items():
        wins, losses, low_high = row["wins"], row["losses"], row["points_interval"]
        against = [
            str(wins),
            str(losses),
            str(row["of"] - wins - losses),
            POINTS.write(row["points"], low_high),
            _chance(row["p"]),
        ]
        cells = [_right(row), *([""] * 5 if key == "standard" else against)]
        cells.append(str(row.get("evaluations", ARMS[key].evaluations(steps))))
        cells += [TIMED.write(row.get("seconds"))] if timed else []
        name = f"<b title='{safe(ARMS[key].about)}'>{safe(ARMS[key].title)}</b>{'<span>control</span>' if ARMS[key].control else ''}"
        lines.append((name, cells))
    told = (
        "In brackets: 95 % intervals. Won, lost and tied: seeds. Points gained: percentage points more fully right pictures than from standard noise. Exact p: how "
        "often chance alone would do as much. UNet runs: for one picture; two a step, with the prompt and without."
        f"{' Seconds: for one picture, on the one machine that measured.' if timed else ''}"
    )
    return ways(lines, columns, "Every way against standard noise", told, "tally")


def points_chart(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The points gained by every way, with their intervals."""
    shown = [(key, row) for key, row in rows.items() if key != "standard"]
    if not shown:
        return ""
    rule = "What crosses the line at 0 is not told apart from standard noise."
    facts = "; ".join(f"{ARMS[key].title} {signed(row['points'])}" for key, row in shown)
    bars = [
        Interval(ARMS[key].title, row["points"], low, high, f"{signed(row['points'])} [{_range((low, high))}]")
        for key, row in shown
        for low, high in (row["points_interval"],)
    ]
    return intervals(
        "Points gained over standard noise", rule, facts, bars, "percentage points, 95 % intervals; higher is better"
    )


def strip(tally: Tally) -> str:
    """The pictures of the latest seeds, a row for each way; every mark has its word."""
    rows = []
    for key in tally.right:
        cells = "".join(
            f"<li><img src='{data_uri(picture, 'WEBP')}' alt='Seed {seed}, {safe(ARMS[key].title)}: {_word(right)}'>"
            f"<span>{seed}</span><b class='{'yes' if right else 'no'}'>{'✓' if right else '✗'} {_word(right)}</b></li>"
            for seed, arm, picture, right in tally.shown
            if arm == key
        )
        rows.append(f"<h4>{safe(ARMS[key].title)}</h4><ul class='strip'>{cells}</ul>")
    return f"<div class='last'><h3>The latest seeds</h3>{''.join(rows)}</div>"


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def _right(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    # A tenth of a percent means something among hundreds only; the count itself, where one could count along.
    digits, counted = (1, "") if row["of"] >= 500 else (0, f"{round(row['share'] * row['of'])} of {row['of']}, ")
    return f"{counted}{100 * row['share']:.{digits}f} % <span>[{100 * low:.{digits}f}, {100 * high:.{digits}f}]</span>"


def _range(interval: Sequence[float]) -> str:
    return ", ".join(signed(end) for end in interval)


def _chance(p: float) -> str:
    return "&lt; 0.0001" if p < 1e-4 else f"{p:.2g}"
