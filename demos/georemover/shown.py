"""Words, tables and pictures of a removal; everything that did not come from this file is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy
from PIL import Image

from demos.core.figures import data_uri, safe
from demos.core.quantities import ONE_RUN, Quantity, table, this_run
from pipelines.core import masks
from pipelines.georemover import Geometry, Outcome, views
from pipelines.georemover.metrics import BARS, SEEN

Measured = Mapping[str, Any]
Judge = Callable[..., tuple[str, bool]]
"""A value in words, and whether it is good."""
BASELINES = {"fill_only": "Mask only", "telea": "Telea"}
RESIDUAL_READ = (
    "Residual effect: what is left of shadow and reflection, 0 clean, 1 untouched; lower is better. One run."
)
UNDEFINED = "<b>not defined</b>"
NO_EFFECT = (
    "This object neither shades nor mirrors visibly, so there is nothing beyond it to remove: the rows of the effect area are not "
    "defined here."
)


def notes_html(notes: Sequence[str]) -> str:
    return "".join(f"<p class='remark'>{safe(note)}</p>" for note in notes)


def moved_words(outcome: Outcome | Geometry, peak: float) -> str:
    """How much the depth changed in each part of the mask."""
    assert outcome.depth_after is not None
    change = numpy.abs(outcome.depth_after - outcome.depth_before)
    parts = [float(change[part].mean()) for part in masks.components(outcome.mask, 12)]
    if not parts:
        return ""
    values = ", ".join(f"{value:.3f}" for value in parts)
    where = "in the mask" if len(parts) == 1 else f"in the {len(parts)} parts of the mask"
    return f"<p class='quiet'>Mean change {where}: {values}, of 1; at most {peak:.3f} anywhere.</p>"


def heat_of(outcome: Outcome, index: int, threshold: float) -> tuple[Image.Image, str]:
    """The change heat map of a variant and its sentence."""
    picture, share = views.change_picture(outcome.image, outcome.results[index], outcome.mask, threshold)
    words = (
        f"<p class='quiet'>In the raw result of stage 2, {100 * share:.1f} % of the picture outside the mask changed by more than "
        f"{threshold:g} (8-bit Lab, largest channel): shadow and mirror image should be among it, and little else.</p>"
    )
    return picture, words


# --- the measurements --------------------------------------------------------------------------------------------


# A tick stands only where the bar of the evaluation is met.


def verdict_residual(value: float, worst: Measured | None = None) -> tuple[str, bool]:
    """``worst``: of ``metrics.worst_place``. The mean over everything says nothing of one place that stands out."""
    if value <= BARS["residual"]:
        ghost = ghost_of(worst)
        return (f"gone but for {ghost}", False) if ghost else ("gone with its shadow and reflection", True)
    if value <= 0.3:
        return "mostly gone", False
    if value <= 0.9:
        return "partly gone", False
    return ("still there", False) if value <= 1.1 else ("worse than before", False)


def ghost_of(worst: Measured | None) -> str:
    """What is to be seen where the object, its shadow and its reflection were, in words; empty where it is nothing."""
    if worst is None or worst["difference"] < SEEN:
        return ""
    lighter = worst["lightness"]
    how = "lighter" if lighter >= 1 else "darker" if lighter <= -1 else "of another colour"
    return f"a ghost, {how}, on {_percent(worst['share'])} of the area"


def verdict_worst(worst: Measured) -> tuple[str, bool]:
    ghost = ghost_of(worst)
    return (ghost, False) if ghost else ("nothing to be seen", True)


def verdict_psnr(value: float, worst: Measured | None = None) -> tuple[str, bool]:
    if value >= BARS["psnr_effect"]:
        return ("like the truth on the whole, not everywhere", False) if ghost_of(worst) else ("like the truth", True)
    return ("near the truth", False) if value >= 24 else ("visibly off", False)


def verdict_iou(value: float) -> tuple[str, bool]:
    return (
        ("the right area", True)
        if value >= 0.6
        else ("partly the right area", False)
        if value >= 0.3
        else ("another area", False)
    )


def verdict_erased(value: float) -> tuple[str, bool]:
    if value <= BARS["over_erasure"]:
        return ("hardly anything else touched" if value else "nothing else touched"), True
    return "something else touched", False


def verdict_inserted(value: bool) -> tuple[str, bool]:
    return ("something new stands there", False) if value else ("nothing new stands there", True)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _at(row: Measured, path: str) -> Any:
    """The measure ``path`` of a row; None where there is none."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


RESIDUAL, PSNR, IOU, SSIM = "residual_effect", "regions.effect.psnr", "change_iou", "regions.effect.ssim"


def _psnr(where: str, about: str = "") -> Quantity:
    return Quantity(f"PSNR {where}", "higher", " dB", 1, about=about)


def _ssim(where: str) -> Quantity:
    return Quantity(f"SSIM {where}", "higher", "", 3, about="1 is the same")


ROWS: tuple[tuple[str, Quantity, Any], ...] = (
    (
        RESIDUAL,
        Quantity("Residual effect", "lower", "", 3, about="shadow and reflection left: 0 clean, 1 untouched"),
        verdict_residual,
    ),
    (PSNR, _psnr("in the effect area", "where shadow and reflection were"), verdict_psnr),
    (
        "worst",
        Quantity(
            "Worst place", "lower", about="largest difference of colour, ΔE, in a small square of it: 2.3 is just seen"
        ),
        verdict_worst,
    ),
    (IOU, Quantity("Change IoU", "higher", about="changed area against the true one: 1 the same"), verdict_iou),
    (
        "over_erasure",
        Quantity("Over-erasure", "lower", " %", 1, 100, "changed of what has nothing to do with the object"),
        verdict_erased,
    ),
    (
        "inserted",
        Quantity(
            "New structure", "lower", about="seen by the depth model where the object stood, of ours in the raw result"
        ),
        verdict_inserted,
    ),
    (SSIM, _ssim("in the effect area"), None),
    (
        "depth.error",
        Quantity("Depth error in the mask", "lower", "", 3, about="of 1, stage 1 against the renderer’s depth"),
        None,
    ),
    (
        "depth.untouched",
        Quantity("… with the object still there", "neither", "", 3, about="of 1, if nothing had been removed"),
        None,
    ),
    ("regions.mask.psnr", _psnr("in the mask", "where the object stood"), None),
    ("regions.mask.ssim", _ssim("in the mask"), None),
    ("regions.rest.psnr", _psnr("of the rest", "everything else"), None),
    ("regions.rest.ssim", _ssim("of the rest"), None),
    ("regions.whole.psnr", _psnr("of the whole"), None),
)
"""Where a measure stands, what it is, and its verdict in words."""
SHOWN_FIRST = 6
"""Rows that are not folded away."""
BEYOND = (RESIDUAL, PSNR, IOU, SSIM)
"""Rows that need an effect area."""
CHECKS = {
    "changed_outside": Quantity(
        "Changed outside the mask",
        "neither",
        " %",
        1,
        100,
        "of the raw result’s pixels; shadow and reflection are among it",
    ),
    "depth_change_inside": Quantity(
        "Depth changed inside the mask", "neither", "", 3, about="of 1; below 0.03 there is nothing to render"
    ),
    "depth_change_outside": Quantity("Depth changed outside the mask", "lower", "", 3, about="of 1"),
    "off_palette": Quantity("Stage 1 off the palette", "lower", "", 1, about="mean distance of its colours, of 441"),
    "panels": Quantity("Stage 2’s depth panels off", "lower", "", 3, about="mean difference from the maps above, of 1"),
}


def metrics_html(outcome: Outcome, index: int = 0) -> str:
    """The measurements of a variant: against the truth where it is known, otherwise the self-checks."""
    if not outcome.metrics:
        return ""
    ours = outcome.metrics[index]
    return _truth_table(outcome, ours) if ours["truth"] else _check_table(ours)


def _truth_table(outcome: Outcome, ours: Measured) -> str:
    columns = [("Ours", composed(ours)), ("Ours, raw", ours)] if ours.get("composite") else [("Ours", ours)]
    columns += [(words, outcome.baselines[key]) for key, words in BASELINES.items() if key in outcome.baselines]
    lines = []
    for path, quantity, judge in ROWS:
        if _at(ours, path) is None and path not in BEYOND:
            continue
        cells = "".join(
            f"<td role='cell' data-label='{head}'>{_cell(_at(row, path), quantity, _judged(judge, row), path in BEYOND)}</td>"
            for head, row in columns
        )
        lines.append(f"<tr role='row'>{quantity.head('row')}{cells}</tr>")
    heads = "".join(f"<th role='columnheader' scope='col'>{head}</th>" for head, _ in columns)
    note = "" if ours["residual_effect"] is not None else f"<p class='remark'>{NO_EFFECT}</p>"
    seen = lines[:SHOWN_FIRST], lines[SHOWN_FIRST:]
    return (
        "<div class='board facts-board'><h3>Measured against the truth</h3><p class='quiet'>The scene was rendered once more without the object. "
        f"{_columns_explained(columns)} {ONE_RUN}</p>{note}{_table(heads, seen[0], 'Measured against the truth')}"
        f"<details><summary>All measures</summary>{_table(heads, seen[1], 'All measures')}</details></div>"
    )


def composed(ours: Measured) -> Measured:
    """The measures of the composite where it has some; what it lacks is the raw result's."""
    return {**ours, **{key: value for key, value in (ours.get("composite") or {}).items() if value is not None}}


def _columns_explained(columns: Sequence[tuple[str, Measured]]) -> str:
    words = {
        "Ours": "<b>Ours</b> is the composite",
        "Ours, raw": "<b>raw</b> is the whole picture as stage 2 painted it",
        "Mask only": "<b>Mask only</b> is the same base model filling only the marked area, without geometry",
        "Telea": "<b>Telea</b> is a classical fill (OpenCV)",
    }
    return "; ".join(words[name] for name, _ in columns if name in words) + ("." if len(columns) > 1 else "")


def _judged(judge: Judge | None, row: Measured) -> Judge | None:
    """``judge`` with the worst place of ``row``, where it asks for it."""
    return partial(judge, worst=row.get("worst")) if judge in (verdict_residual, verdict_psnr) else judge


def _cell(value: Any, quantity: Quantity, judge: Judge | None, beyond: bool) -> str:
    if value is None:
        return UNDEFINED if beyond else "–"
    if isinstance(value, Mapping):  # the worst place
        shown = f"ΔE {value['difference']:.1f}"
    else:
        shown = ("yes" if value else "no") if isinstance(value, bool) else quantity.write(value)
    if judge is None:
        return shown
    words, good = judge(value)
    return f"{shown} <span><b class='{'yes' if good else 'no'}'>{'✓' if good else '✗'} {words}</b></span>"


def _table(heads: str, lines: Sequence[str], label: str) -> str:
    first = "<th role='columnheader' scope='col'>Measure</th>"
    return table(first + heads, "".join(lines), label, "tally facts-table")


def _check_table(checks: Measured) -> str:
    lines = [
        f"<tr role='row'>{quantity.head('row')}<td role='cell' data-label='Value'>{quantity.write(checks[key])}</td></tr>"
        for key, quantity in CHECKS.items()
        if checks.get(key) is not None
    ]
    return (
        "<div class='board facts-board'><h3>Self-checks</h3><p class='quiet'>What lay behind the object is not known for this picture, so nothing here "
        f"says that the result is good; it only says what was touched. {ONE_RUN}</p>"
        + _table("<th role='columnheader' scope='col'>Value</th>", lines, "Self-checks")
        + "</div>"
    )


# --- pictures beside each other ----------------------------------------------------------------------------------


def comparison_html(outcome: Outcome, clean: Image.Image | None, index: int = 0) -> str:
    """Ours, the fill of the marked area only, Telea, and the truth where it is known."""
    metrics = composed(outcome.metrics[index]) if outcome.metrics else {}
    shown: list[tuple[str, Any, Any]] = [("Ours, geometry first", outcome.composites[index], metrics)]
    if outcome.fill_only is not None:
        shown.append(("Same model, mask only", outcome.fill_only, outcome.baselines.get("fill_only")))
    shown.append(("Telea, classical", outcome.telea, outcome.baselines.get("telea")))
    if clean is not None:
        shown.append(("The truth, rendered", clean, None))
    items = "".join(
        f"<li><img src='{data_uri(Image.fromarray(numpy.asarray(picture)), 'WEBP')}' alt='Picture: {name}'>"
        f"<b>{name}</b><span>{_left(row)}</span></li>"
        for name, picture, row in shown
    )
    read = f"<p class='quiet'>{RESIDUAL_READ}</p>" if metrics else ""
    return f"<div class='beside-each-other'><h3>Beside each other</h3><ul>{items}</ul>{read}</div>"


def _left(row: Measured | None) -> str:
    if not row or "residual_effect" not in row:
        return ""
    value = row["residual_effect"]
    return "residual effect not defined" if value is None else f"residual effect {value:.2f}"


def figures_html(outcome: Outcome) -> str:
    """How long each stage took, and which models answered under which licence."""
    names = {
        "depth": "Depth",
        "stage 1": "Stage 1, geometry",
        "stage 2": "Stage 2, rendering",
        "fill only": "Mask-only fill",
    }
    names |= {"autoencoder": "Autoencoder", "composite": "Composite", "metrics": "Measuring"}
    seconds = {names.get(key, key): f"{value:.2f} s" for key, value in outcome.seconds.items()}
    return this_run(seconds, outcome.models, "A stage whose inputs did not change is not run again, and takes no time.")
