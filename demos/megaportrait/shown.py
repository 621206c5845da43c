"""Words, tables and pictures of a portrait, of its person and of their training; what did not come from this file is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from PIL import Image

from demos.core.figures import Series, data_uri, plot, safe
from pipelines.megaportrait import HARMONISED, IDENTITY, PASTED, REFERENCE, RING, SHADED, tools
from pipelines.megaportrait.intake import Intake, Photo, Verdict
from pipelines.megaportrait.learn import Lesson
from pipelines.megaportrait.metrics import BARS
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.place import Analysis
from pipelines.megaportrait.results import Candidate, Outcome

Measured = Mapping[str, Any]
Verdicts = tuple[str, bool | None]
"""Plain words, and whether the bar is met: True a tick, False a cross, None neither."""
UNKNOWN, UNDEFINED = "<b>not known</b>", "<b>not defined</b>"
THUMB, SIDE = 96, 256
"""Longest sides of a thumbnail and of a picture in a strip, in pixels."""
PARSED = tools.PARSED


def notes_html(notes: Sequence[str]) -> str:
    return "".join(f"<p class='remark'>{safe(note)}</p>" for note in notes)


# --- verdicts: a tick stands only where the bar is met, by the raw value ---------------------------------------------


def verdict_identity(value: float, bar: float | None, before: float | None = None) -> Verdicts:
    """``before``: the reference's own similarity; one that passes already makes the result's say little."""
    if bar is None:
        return "no bar was measured yet", None
    if not value >= bar:
        return "not taken for the person", False
    if before is not None and before >= bar:
        return "says little: the reference passes already", None
    return "taken for the person", True


def verdict_outside(value: float) -> Verdicts:
    return ("untouched", True) if value == 0 else ("changed", False)


def verdict_seam(value: float) -> Verdicts:
    good, poor = BARS["seam_excess"]
    if value <= good:
        return "no new seam", True
    return ("a faint seam", False) if value <= poor else ("a visible seam", False)


def verdict_ring(value: float) -> Verdicts:
    good, poor = BARS["ring_difference"]
    if value <= good:
        return "no colour step", True
    return ("a slight colour step", False) if value <= poor else ("a visible colour step", False)


def verdict_shading(value: float) -> Verdicts:
    good, poor = BARS["shading_agreement"]
    if value >= good:
        return "the reference’s light", True
    return ("partly the reference’s light", False) if value >= poor else ("another light", False)


def verdict_sharpness(value: float) -> Verdicts:
    low, high = BARS["sharpness_ratio"]
    if value < low:
        return "softer than the reference", False
    return ("sharper than the reference", False) if value > high else ("as sharp as the reference", True)


def verdict_points(value: float) -> Verdicts:
    good, poor = BARS["landmark_error"]
    if value <= good:
        return "eyes, nose and mouth in place", True
    return ("slightly out of place", False) if value <= poor else ("out of place", False)


# --- the measurements --------------------------------------------------------------------------------------------


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _two_digits(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _levels(value: float) -> str:
    return f"{value:.0f} of 255"


SITS: tuple[tuple[str, str, str, Callable[[Any], str], Callable[[float], Verdicts]], ...] = (
    ("Outside the mask", "largest difference from the reference", "outside_largest", _levels, verdict_outside),
    ("Seam", "colour jump at the border, beyond the reference’s own", "seam_excess", _signed, verdict_seam),
    (
        "Colours at the ring",
        "inside against outside, beyond the reference’s own; Lab units",
        "ring_difference",
        _signed,
        verdict_ring,
    ),
    (
        "Light on the face",
        "agreement with the reference’s: 1 the same, 0 unrelated",
        "shading_agreement",
        _two_digits,
        verdict_shading,
    ),
    (
        "Sharpness",
        "of the face, against the reference’s: 1 the same",
        "sharpness_ratio",
        "{:.2f}".format,
        verdict_sharpness,
    ),
)
"""Name, what it says, its key, how to print it and its verdict in words."""
REGIONS = {
    "face": "in the face",
    "core": "in what was replaced",
    "ring": "in the ring around it",
    "rest": "of the rest",
}


def metrics_html(outcome: Outcome, index: int = 0) -> str:
    """The measurements of a candidate with their verdicts, against the truth where it is known."""
    ours = outcome.candidates[index].metrics
    sits = [
        _row(name, about, [("This portrait", _value(ours.get(key), write, judge, UNDEFINED))])
        for name, about, key, write, judge in SITS
    ]
    return (
        "<div class='board removal-board portrait-board'><h4>Who it is</h4>"
        f"{_who(outcome, ours)}<h4>How it sits in the picture</h4>{_table(('This portrait',), sits, 'How it sits in the picture')}"
        f"{_against_truth(ours) if ours.get('truth') else ''}</div>"
    )


def _who(outcome: Outcome, ours: Measured) -> str:
    """Similarities to the person, with what makes the first one readable."""
    table, bar = ours["identity"], ours.get("threshold")
    after, before, among = table["result"]["mean"], table["reference"]["mean"], table["among"]["mean"]
    best = "" if table["result"]["best"] is None else f"; the nearest {_cosine(table['result']['best'])}"

    def cell(value: float | None, judge: Callable[[float], Verdicts] | None = None) -> list[tuple[str, str]]:
        return [("Similarity", _value(value, _cosine, judge, UNKNOWN))]

    rows = [
        _row(
            "This portrait",
            f"to the person’s pictures, mean{best}",
            cell(after, lambda v: verdict_identity(v, bar, before)),
        ),
        _row("The reference before", "how like the person its own face was", cell(before)),
        _row("The person’s pictures", f"among themselves{_worst(table['among']['worst'])}", cell(among)),
    ]
    if ours.get("truth"):
        exact = (table.get("truth") or {}).get("mean")
        rows.append(
            _row("The truth", "the person rendered in the reference’s place: what a perfect result has", cell(exact))
        )
    note = "" if after is not None else f"<p class='remark'>{_unknown(outcome, table)}</p>"
    told = (
        "From which similarity on two pictures show one person was not measured yet."
        if bar is None
        else f"1 is the same face. Two pictures are taken for one person from {bar:.3f} on."
    )
    return f"<p class='quiet'>{told}</p>{note}{_table(('Similarity',), rows, 'Who it is')}"


def _worst(value: float | None) -> str:
    return "" if value is None else f", mean; the least alike two {_cosine(value)}"


def _unknown(outcome: Outcome, table: Measured) -> str:
    """Why no number says who it is."""
    if table["reference"]["mean"] is not None:
        return "Who it is cannot be said: no face was found in the result where the reference’s was."
    if outcome.settings.model_set != "mini":
        return "Who it is cannot be said: the model that knows photographed faces is not here, or a face has no points. Judge by eye."
    if outcome.analysis.face.backend != PARSED:
        return "Who it is cannot be said of a photograph: the small models know rendered people only. Judge by eye."
    return "Who it is cannot be said: the person’s pictures are photographs, and the small models know rendered people only."


def _against_truth(ours: Measured) -> str:
    """Nearness to the exact picture, beside that of the untouched reference."""
    regions, before, heads = ours["regions"], ours["before"], ("This portrait", "The reference before")

    def both(region: str, score: str, write: Callable[[Any], str]) -> list[tuple[str, str]]:
        made = (regions, before)
        return [(head, _value(of[region][score], write, None, "–")) for head, of in zip(heads, made, strict=True)]

    error = _value(ours.get("landmark_error"), "{:.1f} %".format, verdict_points, UNKNOWN)
    rows = [
        _row("Landmark error", "eyes, nose and mouth, in % of the face’s width", [(heads[0], error), (heads[1], "–")])
    ]
    rows += [
        _row(f"PSNR {words}", "dB, more is nearer", both(name, "psnr", "{:.1f} dB".format))
        for name, words in REGIONS.items()
        if name != "rest"
    ]
    more = [
        _row(f"SSIM {words}", "1 is the same", both(name, "ssim", "{:.3f}".format)) for name, words in REGIONS.items()
    ]
    more.append(_row(f"PSNR {REGIONS['rest']}", "dB, more is nearer", both("rest", "psnr", "{:.1f} dB".format)))
    return (
        "<h4>Measured against the truth</h4><p class='quiet'>The same person was rendered in the reference’s pose, light, clothes and place.</p>"
        f"{_table(heads, rows, 'Measured against the truth')}"
        f"<details><summary>All measures</summary>{_table(heads, more, 'All measures')}</details>"
    )


def _value(
    value: float | None, write: Callable[[Any], str], judge: Callable[[float], Verdicts] | None, missing: str
) -> str:
    if value is None or not math.isfinite(value):
        return missing
    if judge is None:
        return write(value)
    words, met = judge(value)
    if met is None:
        return f"{write(value)} <span>{words}</span>"
    return f"{write(value)} <span><b class='{'yes' if met else 'no'}'>{'✓' if met else '✗'} {words}</b></span>"


def _row(name: str, about: str, cells: Sequence[tuple[str, str]]) -> str:
    told = "".join(f"<td role='cell' data-label='{head}'>{cell}</td>" for head, cell in cells)
    return f"<tr role='row'><th role='rowheader' scope='row'>{name}<span>{about}</span></th>{told}</tr>"


def _table(heads: Sequence[str], rows: Sequence[str], label: str, first: str = "Measure") -> str:
    named = "".join(f"<th role='columnheader' scope='col'>{head}</th>" for head in (first, *heads))
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'><table class='tally removal-table portrait-table' role='table'>"
        f"<thead role='rowgroup'><tr role='row'>{named}</tr></thead><tbody role='rowgroup'>{''.join(rows)}</tbody></table></div>"
    )


# --- pictures ----------------------------------------------------------------------------------------------------


CAPTIONS: dict[str, str] = {
    REFERENCE: "the square around its face",
    IDENTITY: "the person, in the reference’s pose",
    SHADED: "in the reference’s light",
    PASTED: "laid into the reference",
    RING: "white is painted anew",
    HARMONISED: "melted into the reference",
}
PREVIEWED: dict[str, str] = {
    IDENTITY: "the person’s nearest picture",
    SHADED: "in the reference’s light, without a network",
}


def strip_html(candidate: Candidate, analysis: Analysis, mode: str = "trained") -> str:
    """The stages of a candidate, one after another; those that were left out are named below."""
    captions = CAPTIONS | (PREVIEWED if mode == "preview" else {})
    made = {REFERENCE: analysis.square, **candidate.stages}
    items = "".join(
        _picture(made[name], f"{number}. {name}", captions[name])
        for number, name in enumerate(CAPTIONS, 1)
        if name in made
    )
    missing = [name for name in CAPTIONS if name not in made]
    left = f"<p class='quiet'>Left out in this run: {', '.join(missing)}.</p>" if missing else ""
    return f"<div class='removal-beside portrait-strip'><h4>Stage by stage</h4><ul>{items}</ul>{left}</div>"


def beside_html(outcome: Outcome, index: int = 0, person: Person | None = None) -> str:
    """The reference, the result, the truth where it is known, and of ``person`` the picture turned most like the reference."""
    made = outcome.candidates[index]
    before = made.metrics["identity"]["reference"]["mean"]
    shown: list[tuple[str, Any, str]] = [
        ("The reference", outcome.analysis.picture, _alike(before)),
        ("This portrait", made.result, _alike(made.identity)),
    ]
    if outcome.truth is not None:
        exact = (made.metrics["identity"].get("truth") or {}).get("mean")
        shown.append(("The truth, rendered", outcome.truth, _alike(exact)))
    if person is not None:
        near = person.crops[person.nearest(outcome.analysis.points)]
        shown.append(("The person’s nearest picture", near, ""))
    items = "".join(_picture(picture, name, told) for name, picture, told in shown)
    return f"<div class='removal-beside portrait-beside'><h4>Beside each other</h4><ul>{items}</ul></div>"


def _alike(value: float | None) -> str:
    return "similarity not known" if value is None else f"similarity {_two_digits(value)}"


def _picture(picture: Any, name: str, told: str) -> str:
    alt = name + (f": {told}" if told else "")
    return f"<li><img src='{_uri(picture, SIDE)}' alt='{safe(alt)}'><b>{safe(name)}</b><span>{safe(told)}</span></li>"


def _uri(picture: Any, side: int) -> str:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(numpy.ascontiguousarray(picture))
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    return data_uri(image.convert("RGB"), "WEBP")


# --- the run -----------------------------------------------------------------------------------------------------


def figures_html(outcome: Outcome) -> str:
    """How long each stage took, how many steps the nets really made, and which models answered under which licence."""
    names = {"analysis": "Looking at the faces", "metrics": "Measuring"}
    seconds = "".join(
        f"<div><dt>{safe(names.get(name, name))}</dt><dd>{value:.2f} s</dd></div>"
        for name, value in outcome.seconds.items()
    )
    ran = {name: count for name, count in outcome.steps.items() if count}
    told = ", ".join(f"{safe(name)} {count}" for name, count in ran.items())
    steps = (
        f"Steps that were really made, per candidate: {told}. A net begins part of the way, at its strength."
        if ran
        else "No net made a step."
    )
    answered = "".join(
        f"<li>{safe(model['key'])} ({safe(model['source'])}), {safe(model['licence'])}</li>" for model in outcome.models
    )
    models = f"<h4>Models that answered</h4><ul>{answered}</ul>" if answered else ""
    return (
        f"<div class='figures'><h4>This run</h4><dl>{seconds}</dl><p class='quiet'>{steps} "
        f"A stage whose inputs did not change is not run again, and takes no time.</p>{models}</div>"
    )


# --- the person --------------------------------------------------------------------------------------------------


def verdicts_html(intake: Intake) -> str:
    """A row for each picture of a person: used, or rejected because of what."""
    rows = "".join(_judged(photo, verdict) for photo, verdict in zip(intake.photos, intake.verdicts, strict=True))
    used = len(intake.used)
    return (
        f"{notes_html(intake.remarks)}<div class='verdicts portrait-verdicts'><h4>{used} of {len(intake.photos)} pictures used</h4>"
        "<table><thead><tr><th scope='col'>Picture</th><th scope='col'>Name</th><th scope='col'>Verdict</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _judged(photo: Photo, verdict: Verdict) -> str:
    told = " ".join(part for part in (verdict.reason, *verdict.notes) if part)
    word = "<b class='yes'>✓ used</b>" if verdict.used else "<b class='no'>✗ rejected</b>"
    why = f" <span>{safe(told)}</span>" if told else ""
    return (
        f"<tr><td><img src='{_uri(photo.picture, THUMB)}' alt='' width='56'></td>"
        f"<th scope='row'>{safe(photo.name)}</th><td>{word}{why}</td></tr>"
    )


def lesson_html(lessons: Sequence[Lesson], bar: float | None = None) -> str:
    """How a training run goes: loss and similarity at each check. ``bar``: similarity from which on two pictures show one person."""
    if not lessons:
        return ""
    kept = [one for one in lessons if one.best][-1:]
    told = f"Kept: step {kept[0].step}{_scored(kept[0])}." if kept else ""
    charts = "".join(
        _curve(title, name, [(one.step, value) for one, value in zip(lessons, values, strict=True)], rule)
        for title, name, values, rule in (
            ("Loss", "loss", [one.loss for one in lessons], None),
            ("Similarity to the person", "similarity", [one.score for one in lessons], bar),
        )
    )
    unknown = (
        "<p class='remark'>Who the drawings show is not known, so the step of the least loss is kept.</p>"
        if all(one.score is None for one in lessons)
        else ""
    )
    return f"<div class='portrait-lesson'>{unknown}<p class='quiet'>{told}</p><div class='inspect-grid'>{charts}</div></div>"


def _scored(lesson: Lesson) -> str:
    return "" if lesson.score is None else f", similarity {lesson.score:.3f}"


def _curve(title: str, name: str, points: Sequence[tuple[int, float | None]], rule: float | None) -> str:
    """A chart from two points on; of one, its number."""
    known = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    if not known:
        return ""
    if len({step for step, _value in known}) < 2:
        return f"<p>{title} {known[-1][1]:.3f} at step {known[-1][0]}.</p>"
    facts = f"From {known[0][1]:.3f} at step {known[0][0]} to {known[-1][1]:.3f} at step {known[-1][0]}."
    facts += "" if rule is None else f" The line marks {rule:.3f}, from which on two pictures show one person."
    steps, values = zip(*known, strict=True)
    return plot(title, facts, [Series(name, steps, values)], ("training step", name), rule)
