"""The sweep lab of the Concept Guidance tab: what each strength does to the answers, and what it costs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.concept_guidance.facts import Own, Page, full_name
from demos.concept_guidance.shown import display
from demos.core.figures import Series, plot, safe, signed
from demos.core.form import Form
from demos.core.handlers import LIGHT, halt, on_gpu
from demos.core.page import ends, pump, run_event, run_row
from demos.core.visitors import new_folder
from demos.core.widgets import progress_line
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.lab import Curve, SweepSettings
from pipelines.core.lane import live
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from pipelines.concept_guidance.pnes import Pnes

LIMIT_S = 1800.0
READY = "Choose a concept, then press Run the sweep."
BROKE = "This sweep ended early; the message says why. What was measured stays."
STOPPED = "Stopped. What was measured stays, and its files can be downloaded."
INTRO = """<p>A sweep asks the same new questions at every strength, from − to +, and reads every answer: how far does the
concept go, and what does it cost in fluency? It begins at 0 and works outwards, so that Stop leaves a narrower sweep.</p>"""
COLUMNS = ("strength", "score", "spread", "perplexity", "perplexity_ratio", "grammatical", "facts_right")


def build(page: Page) -> None:
    """The widgets of the lab and what they do."""
    asked = Form(SweepSettings("", model_set=page.model_set))
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    with gr.Row(elem_classes="heat-choice"):
        concept = page.picker(SweepSettings.field("concept").label, min_width=150)
        probe = page.probe_picker(min_width=150)
    with gr.Row(elem_classes="lab-seeds"):
        asked.add("limit", "points", "prompts", min_width=190)
    words = asked.add("words", visible=page.model_set != "mini", lines=1, max_lines=2)
    run, stop = run_row("Run the sweep", "Stop the sweep", "lab-row")
    line = gr.HTML(progress_line(READY), padding=False, elem_classes="sweep-line")
    board = gr.HTML(padding=False)
    with gr.Row(elem_classes="run-row"):
        save = [
            gr.DownloadButton(f"Download {kind}", size="md", interactive=False, min_width=120)
            for kind in ("CSV", "JSON")
        ]

    def sweep(session, name, probe_key, own, swept, model, **values) -> Iterator[Any]:
        chosen = full_name(name or "", probe_key, own)
        if not needs_words(page.model_set, chosen, own):
            values["words"] = ""
        settings = asked.settings(values, concept=chosen, model=model or "")
        yield {line: progress_line("Starting…", 0.0, "running"), board: ""}

        def show(curve: Curve) -> dict[Any, Any]:
            paths = write_files(curve, session)
            files = {
                button: gr.DownloadButton(value=path, interactive=True)
                for button, path in zip(save, paths, strict=True)
            }
            return {board: board_html(curve), **files}

        def done(curve: Curve, seconds: float) -> dict[Any, Any]:
            text = f"Done: {len(curve.points)} strengths in {seconds:.0f} s"
            known = {**swept, chosen: curve.points}
            return {**show(curve), line: progress_line(text, 1.0, "done"), page.swept: known}

        try:
            items = live(lab.run, page.registry, settings, own, limit_s=LIMIT_S)
            yield from pump(items, line, done, {Curve: show}, digits=0)
        except TimeoutError:
            text = f"Stopped after {LIMIT_S / 60:.0f} minutes, the limit of one run. What was measured stays."
            yield {line: progress_line(text, 0.0, "stopped")}

    handler = on_gpu(sweep, **ends(line, STOPPED, BROKE))
    inputs = [concept, probe, page.own, page.swept, page.model]
    run.click(**run_event(handler, line, board, *save, page.swept, inputs=inputs, **asked.widgets))
    stop.click(halt, **LIGHT)

    def ask_for_words(name: str | None, own: Own) -> gr.Textbox:
        return gr.Textbox(visible=needs_words(page.model_set, name or "", own))

    concept.change(ask_for_words, [concept, page.own], words, **LIGHT)


def needs_words(model_set: str, name: str, own: Mapping[str, Any]) -> bool:
    """Whether nothing but counted words can judge a concept."""
    return model_set != "mini" or name in own or name.split(".")[0] not in crumpet.CONCEPTS


# --- files -------------------------------------------------------------------------------------------------------


def ratios(points: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Perplexity of every point against that of the strength nearest 0."""
    known = [point for point in points if point["perplexity"]]
    base = min(known, key=lambda point: abs(point["strength"]))["perplexity"] if known else None
    return [point["perplexity"] / base if point["perplexity"] and base else None for point in points]


def write_files(curve: Curve, session: str) -> tuple[str, str]:
    """The sweep as CSV and as JSON, named after the concept."""
    with new_folder(session) as folder:
        name = re.sub(r"\W+", "_", curve.settings.concept).strip("_") or "concept"
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for point, ratio in zip(curve.points, ratios(curve.points), strict=True):
            writer.writerow({**point, "perplexity_ratio": None if ratio is None else round(ratio, 4)})
        paths = folder / f"sweep_{name}.csv", folder / f"sweep_{name}.json"
        paths[0].write_text(out.getvalue(), encoding="utf-8")
        paths[1].write_text(json.dumps(curve.as_dict(), ensure_ascii=False, indent=1), encoding="utf-8")
        return str(paths[0]), str(paths[1])


# --- words and charts --------------------------------------------------------------------------------------------


def board_html(curve: Curve) -> str:
    """Everything that the lab shows of a sweep, done or not."""
    settings, points = curve.settings, curve.points
    measure = "share of answers with a counted word" if settings.counted else "trait rate"
    head = (
        f"<h3>{safe(settings.concept)}: {len(points)} of {settings.points} strengths measured</h3>"
        f"<p class='quiet'>{settings.prompts} questions at each strength · {safe(curve.applied)}</p>"
    )
    charts = [score_chart(points, measure), fluency_chart(points)]
    fitted = curve.fit()
    if fitted is not None:
        at: list[Any] = [p["strength"] for p in points if p["score"] is not None and p["perplexity"]]
        charts.append(pne_chart(at, fitted))
    items = "".join(f"<li>{sentence}</li>" for sentence in sentences(curve, fitted))
    return (
        f"<div class='board'>{head}<ul class='meaning'>{items}</ul><div class='inspect-grid'>{''.join(charts)}</div>"
        f"{answers_html(curve)}</div>"
    )


def sentences(curve: Curve, fitted: Pnes | None) -> list[str]:
    """What a sweep says so far."""
    lines = []
    scored: list[dict[str, Any]] = [point for point in curve.points if point["score"] is not None]
    if len(scored) > 1:
        low, high = (pick(scored, key=lambda point: point["score"]) for pick in (min, max))
        lines.append(
            f"The score, of 1, goes from {_score(low)} (at {signed(low['strength'], 2)}) to {_score(high)} "
            f"(at {signed(high['strength'], 2)}){', ± its 95 % interval' if low['spread'] or high['spread'] else ''}."
        )
    if len(curve.points) > 1:
        ends = curve.safe()
        lines.append(f"Safe (perplexity at most 1.25 times the unguided, 0.9 of its grammar left): {_span(ends)}.")
    if fitted is not None:
        lines.append(pnes_words(fitted.value, fitted.r_squared) + (f" {fitted.notice}" if fitted.notice else ""))
    return lines


def _score(point: Mapping[str, Any]) -> str:
    return f"{point['score']:.2f}" + (f" ± {point['spread']:.2f}" if point["spread"] else "")


def pnes_words(value: float, r_squared: float | None) -> str:
    shown = "undefined" if r_squared is None or r_squared != r_squared else f"{r_squared:.2f}"
    return f"<b>PNES {value:.2f}</b> (higher is better; one sweep), r² of its fit {shown}."


def _span(ends: Sequence[float]) -> str:
    return f"from {signed(ends[0], 2)} to {signed(ends[1], 2)}"


def score_chart(points: Sequence[Mapping[str, Any]], measure: str) -> str:
    """Score over strength with 95 % intervals."""
    usable = [point for point in points if point["score"] is not None]
    if not usable:
        return "<p class='quiet'>No answer has told a score yet.</p>"
    at, values = [p["strength"] for p in usable], [p["score"] for p in usable]
    spread = [p["spread"] or 0.0 for p in usable]
    dots = Series(
        "score",
        at,
        values,
        "points",
        [max(v - s, 0.0) for v, s in zip(values, spread, strict=True)],
        [min(v + s, 1.0) for v, s in zip(values, spread, strict=True)],
    )
    facts = "; ".join(f"{signed(x, 2)}: {value:.2f}" for x, value in zip(at, values, strict=True))
    line = [Series("", at, values, "thin")] if len(at) > 1 else []
    return plot(
        "How much of the concept",
        f"{measure.capitalize()}, with 95 % intervals. {facts}.",
        [dots, *line],
        ("strength", measure),
    )


def fluency_chart(points: Sequence[Mapping[str, Any]]) -> str:
    """Perplexity against the unguided on a log axis, and the grammatical share where a parser read the answers."""
    costs = [(p["strength"], ratio) for p, ratio in zip(points, ratios(points), strict=True) if ratio is not None]
    charts = ""
    if costs:
        at, values = zip(*costs, strict=True)
        facts = "; ".join(f"{signed(x, 2)}: × {value:.2f}" for x, value in costs)
        series = [Series("ratio", at, values, "points"), *([Series("", at, values, "thin")] if len(at) > 1 else [])]
        charts = plot(
            "What it costs",
            f"Perplexity of fixed answers against the unguided model’s, log axis. {facts}.",
            series,
            ("strength", "perplexity ratio, lower is better"),
            1.0,
            True,
        )
    grammatical = [(p["strength"], p["grammatical"]) for p in points if p.get("grammatical") is not None]
    if grammatical:
        at, values = zip(*grammatical, strict=True)
        series = [Series("grammar", at, values, "points"), *([Series("", at, values, "thin")] if len(at) > 1 else [])]
        right = [(p["strength"], p["facts_right"]) for p in points if p.get("facts_right") is not None]
        if right:
            at, values = zip(*right, strict=True)
            series.append(Series("facts", at, values, "dashed" if len(right) > 1 else "points"))
        words = "; ".join(f"{signed(x, 2)}: {value:.2f}" for x, value in grammatical)
        charts += plot(
            "Does it still speak the language",
            f"Share of grammatical answers (dots) and of right facts. Grammatical: {words}.",
            series,
            ("strength", "share, higher is better"),
        )
    return charts


def pne_chart(strengths: Sequence[float], fitted: Pnes) -> str:
    """Effect divided by cost, with the paper's fitted curve."""
    at, curve = zip(*fitted.curve, strict=True)
    facts = (
        f"Change of the score divided by the perplexity ratio (PNE), and the paper’s curve through it. "
        f"PNES, the height of that curve, is {fitted.value:.2f}. {fitted.notice}"
    ).strip()
    return plot(
        "Effect for its price",
        facts,
        [Series("PNE", strengths, fitted.effects, "points"), Series("fit", at[::4], curve[::4])],
        ("strength", "PNE, higher is better"),
        0.0,
    )


def answers_html(curve: Curve) -> str:
    """The first answers at every strength, to read."""
    items = "".join(
        f"<dt>{signed(strength, 2)}</dt><dd>{safe(display(texts[0], curve.settings.model_set)) or '(empty)'}</dd>"
        for strength, texts in sorted(curve.texts.items())
        if texts
    )
    return f"<div class='readings'><h3>The same question at every strength</h3><dl>{items}</dl></div>" if items else ""
