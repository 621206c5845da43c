"""Words, tables and pictures of a portrait, of its person and of their training; what did not come from this file is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy
from PIL import Image

from demos.core.figures import Series, data_uri, plot, safe
from demos.core.quantities import ONE_RUN, Quantity, table, this_run
from pipelines.megaportrait import HARMONISED, IDENTITY, PASTED, REFERENCE, RING, SHADED, tools
from pipelines.megaportrait.intake import Intake, Photo, Verdict
from pipelines.megaportrait.learn import Lesson
from pipelines.megaportrait.metrics import BARS
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.place import Analysis
from pipelines.megaportrait.results import Candidate, Outcome
from pipelines.megaportrait.settings import LAID

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


def verdict_seam(value: float, worst: float | None = None) -> Verdicts:
    """``worst``: in the worst eighth of the border; a mean says nothing of one place that stands out."""
    good, poor = BARS["seam_excess"]
    if value <= good:
        return ("a seam in one place", False) if worst is not None and worst > poor else ("no new seam", True)
    return ("a faint seam", False) if value <= poor else ("a visible seam", False)


def verdict_ring(value: float, worst: float | None = None) -> Verdicts:
    """``worst``: as of :func:`verdict_seam`."""
    good, poor = BARS["ring_difference"]
    if value <= good:
        return ("a colour step in one place", False) if worst is not None and worst > poor else ("no colour step", True)
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


SIMILARITY = Quantity("Similarity", "higher", "", 3, about="1 is the same face")
SITS: tuple[tuple[str, Quantity, Callable[..., Verdicts]], ...] = (
    (
        "outside_largest",
        Quantity("Outside the mask", "lower", " of 255", 0, about="largest difference from the reference"),
        verdict_outside,
    ),
    (
        "seam_excess",
        Quantity(
            "Seam", "lower", about="colour jump at the border, beyond the reference’s own: 0 no new one", signs=True
        ),
        verdict_seam,
    ),
    (
        "ring_difference",
        Quantity(
            "Colours at the ring",
            "lower",
            about="inside against outside, beyond the reference’s own; Lab units",
            signs=True,
        ),
        verdict_ring,
    ),
    (
        "shading_agreement",
        Quantity("Light on the face", "higher", about="agreement with the reference’s: 1 the same, 0 unrelated"),
        verdict_shading,
    ),
    (
        "sharpness_ratio",
        Quantity(
            "Sharpness", "neither", about="of the face, against the reference’s: 1 the same; nearer to 1 is better"
        ),
        verdict_sharpness,
    ),
)
"""Its key, what it is, and its verdict in words."""
WORST = {"seam_excess": "seam_worst", "ring_difference": "ring_worst"}
"""Means along the border, and the same in its worst eighth, without which nothing is claimed."""
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
        _row(one.head("row"), [("This portrait", _value(ours.get(key), one, _with_worst(key, judge, ours), UNDEFINED))])
        for key, one, judge in SITS
    ]
    return (
        f"<div class='board facts-board megaportrait-board'><p class='quiet'>{ONE_RUN}</p><h3>Who it is</h3>"
        f"{_who(outcome, ours)}<h3>How it sits in the picture</h3>{_table(('This portrait',), sits, 'How it sits in the picture')}"
        f"{_against_truth(ours) if ours.get('truth') else ''}</div>"
    )


def _who(outcome: Outcome, ours: Measured) -> str:
    """Similarities to the person, with what makes the first one readable."""
    similar, bar = ours["identity"], ours.get("threshold")
    after, before, among = (similar[of]["mean"] for of in ("result", "reference", "among"))
    best = "" if similar["result"]["best"] is None else f"; the nearest {SIMILARITY.write(similar['result']['best'])}"

    def row(name: str, about: str, value: float | None, judge: Callable[[float], Verdicts] | None = None) -> str:
        head = replace(SIMILARITY, name=name, about=about).head("row")
        return _row(head, [(SIMILARITY.name, _value(value, SIMILARITY, judge, UNKNOWN))])

    rows = [
        row(
            "This portrait", f"to the person’s pictures, mean{best}", after, lambda v: verdict_identity(v, bar, before)
        ),
        row("The reference before", "how like the person its own face was", before),
        row("The person’s pictures", f"among themselves{_worst(similar['among']['worst'])}", among),
    ]
    if ours.get("truth"):
        exact = (similar.get("truth") or {}).get("mean")
        rows.append(row("The truth", "the person rendered in the reference’s place: what a perfect result has", exact))
    note = "" if after is not None else f"<p class='remark'>{_unknown(outcome, similar)}</p>"
    told = (
        "From which similarity on two pictures show one person was not measured yet."
        if bar is None
        else f"1 is the same face. Two pictures are taken for one person from {bar:.3f} on."
    )
    return f"<p class='quiet'>{told}</p>{note}{_table((SIMILARITY.name,), rows, 'Who it is')}"


def _worst(value: float | None) -> str:
    return "" if value is None else f", mean; the least alike two {SIMILARITY.write(value)}"


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

    def row(region: str, score: str, kind: Quantity) -> str:
        cells = [
            (head, _value(of[region][score], kind, None, "–"))
            for head, of in zip(heads, (regions, before), strict=True)
        ]
        return _row(replace(kind, name=f"{kind.name} {REGIONS[region]}").head("row"), cells)

    psnr, ssim = Quantity("PSNR", "higher", " dB", 1), Quantity("SSIM", "higher", "", 3, about="1 is the same")
    points = Quantity("Landmark error", "lower", " %", 1, about="eyes, nose and mouth, in % of the face’s width")
    error = _value(ours.get("landmark_error"), points, verdict_points, UNKNOWN)
    rows = [_row(points.head("row"), [(heads[0], error), (heads[1], "–")])]
    rows += [row(name, "psnr", psnr) for name in REGIONS if name != "rest"]
    more = [row(name, "ssim", ssim) for name in REGIONS] + [row("rest", "psnr", psnr)]
    return (
        "<h3>Measured against the truth</h3><p class='quiet'>The same person was rendered in the reference’s pose, light, clothes and place.</p>"
        f"{_table(heads, rows, 'Measured against the truth')}"
        f"<details><summary>All measures</summary>{_table(heads, more, 'All measures')}</details>"
    )


def _with_worst(key: str, judge: Callable[..., Verdicts], ours: Measured) -> Callable[[float], Verdicts]:
    """``judge`` with the worst eighth of the border, where it asks for it."""
    worst = ours.get(WORST.get(key, ""))
    return judge if worst is None else partial(judge, worst=worst)


def _value(value: float | None, quantity: Quantity, judge: Callable[[float], Verdicts] | None, missing: str) -> str:
    if value is None or not math.isfinite(value):
        return missing
    shown = quantity.write(value)
    if judge is None:
        return shown
    words, met = judge(value)
    if met is None:
        return f"{shown} <span>{words}</span>"
    return f"{shown} <span><b class='{'yes' if met else 'no'}'>{'✓' if met else '✗'} {words}</b></span>"


def _row(head: str, cells: Sequence[tuple[str, str]]) -> str:
    told = "".join(f"<td role='cell' data-label='{name}'>{cell}</td>" for name, cell in cells)
    return f"<tr role='row'>{head}{told}</tr>"


def _table(heads: Sequence[str], rows: Sequence[str], label: str, first: str = "Measure") -> str:
    named = "".join(f"<th role='columnheader' scope='col'>{head}</th>" for head in (first, *heads))
    return table(named, "".join(rows), label, "tally facts-table megaportrait-table")


# --- pictures ----------------------------------------------------------------------------------------------------


CAPTIONS: dict[str, str] = {
    REFERENCE: "the square around its face",
    IDENTITY: "the person, in the reference’s pose",
    LAID: "the person’s own picture, place by place",
    SHADED: "in the reference’s light",
    PASTED: "laid into the reference",
    RING: "white is painted anew",
    HARMONISED: "melted into the reference",
}
PREVIEWED: dict[str, str] = {
    IDENTITY: "the person’s nearest picture",
    SHADED: "in the reference’s light, without a network",
}


def numbered(made: Container[str]) -> dict[str, int]:
    """The stages that are there and their numbers; pictures are laid over a drawing in one way only, which the others do not leave out."""
    known = [name for name in CAPTIONS if name != LAID or name in made]
    return {name: number for number, name in enumerate(known, 1) if name in made}


def strip_html(candidate: Candidate, analysis: Analysis, mode: str = "trained") -> str:
    """The stages of a candidate, one after another; those that were left out are named below."""
    captions = CAPTIONS | (PREVIEWED if mode == "preview" else {})
    made = {REFERENCE: analysis.square, **candidate.stages}
    names = numbered(made)
    items = "".join(_picture(made[name], f"{number}. {name}", captions[name]) for name, number in names.items())
    missing = [name for name in CAPTIONS if name not in made and name != LAID]
    left = f"<p class='quiet'>Left out in this run: {', '.join(missing)}.</p>" if missing else ""
    return f"<div class='beside-each-other megaportrait-strip'><h3>Stage by stage</h3><ul>{items}</ul>{left}</div>"


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
        near = person.crops[person.nearest(outcome.analysis.points)[0]]
        shown.append(("The person’s nearest picture", near, ""))
    items = "".join(_picture(picture, name, told) for name, picture, told in shown)
    read = "<p class='quiet'>Similarity to the person: 1 is the same face; higher is better. One run.</p>"
    return f"<div class='beside-each-other megaportrait-beside'><h3>Beside each other</h3><ul>{items}</ul>{read}</div>"


def _alike(value: float | None) -> str:
    return "similarity not known" if value is None else f"similarity {replace(SIMILARITY, digits=2).write(value)}"


def _picture(picture: object, name: str, told: str) -> str:
    alt = f"{name}: {told}" if told else f"Picture: {name}"
    return f"<li><img src='{_uri(picture, SIDE)}' alt='{safe(alt)}'><b>{safe(name)}</b><span>{safe(told)}</span></li>"


def _uri(picture: object, side: int) -> str:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(numpy.ascontiguousarray(picture))
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    return data_uri(image.convert("RGB"), "WEBP")


# --- the run -----------------------------------------------------------------------------------------------------


def figures_html(outcome: Outcome) -> str:
    """How long each stage took, how many steps the nets really made, and which models answered under which licence."""
    names = {"analysis": "Looking at the faces", "metrics": "Measuring"}
    ran = {name: count for name, count in outcome.steps.items() if count}
    told = ", ".join(f"{safe(name)} {count}" for name, count in ran.items())
    steps = (
        f"Steps that were really made, per candidate: {told}. A net begins part of the way, at its strength."
        if ran
        else "No net made a step."
    )
    seconds = {names.get(name, name): f"{value:.2f} s" for name, value in outcome.seconds.items()}
    told = f"{steps} A stage whose inputs did not change is not run again, and takes no time."
    return this_run(seconds, outcome.models, told)


# --- the person --------------------------------------------------------------------------------------------------


def verdicts_html(intake: Intake) -> str:
    """A row for each picture of a person: used, or rejected because of what."""
    rows = "".join(_judged(photo, verdict) for photo, verdict in zip(intake.photos, intake.verdicts, strict=True))
    used = len(intake.used)
    return (
        f"{notes_html(intake.remarks)}<div class='verdicts megaportrait-verdicts'><h3>{used} of {len(intake.photos)} pictures used</h3>"
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
    return f"<div class='megaportrait-lesson'>{unknown}<p class='quiet'>{told}</p><div class='inspect-grid'>{charts}</div></div>"


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
    way = "lower" if name == "loss" else "higher"
    return plot(title, facts, [Series(name, steps, values)], ("training step", f"{name}, {way} is better"), rule)
