"""The measured figures of GeoRemover: held-out scenes, ours beside baselines and ablations, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demos.core.figures import Interval, file_uri, intervals, safe
from demos.core.quantities import Quantity, quartiles, ways
from pipelines.core import asset_files, scores
from pipelines.georemover import export
from pipelines.georemover.metrics import BARS

WORST = export.MEASURED.with_name("worst.webp")
NOT_MEASURED = "There are no figures over many scenes yet: roll scenes and look at what each run measures."
INTRO = """<p>All ways on the same {scenes} held-out scenes of {width} x {height} pixels, each with one object to be removed, marked without its shadow and reflection. The
truth is the same scene rendered without the object. <b>Residual effect</b> is what is left where shadow and reflection were: 0 is clean, 1 is
untouched. Objects without a visible effect count in the other columns only.</p>"""
RESIDUAL = Quantity("Residual effect", "lower", "", 3, about="0 clean, 1 untouched", spread=2)
COLUMNS = {
    "residual": RESIDUAL,
    "psnr_effect": Quantity("PSNR in the effect area", "higher", " dB", 1),
    "change_iou": Quantity("Change IoU", "higher", "", 2, about="1 the same area"),
    "over_erasure": Quantity("Over-erasure", "lower", " %", 2, 100),
    "inserted": Quantity("New structures", "lower", " %", 1, 100),
    "depth_error": Quantity("Depth error", "lower", "", 3, about="of 1"),
    "seconds": Quantity("Seconds", "lower", " s", 2),
}
NOTE = (
    "Means over the scenes, and in brackets the quartiles. New structures: share of the scenes where the depth model sees something new "
    "standing in the mask, with its 95 % interval. Depth error: of stage 1 in the mask. Seconds: a removal on 2 CPU cores of one machine, median."
)
SHEET = (
    "The ten scenes of the highest residual effect: the picture with the mask, the depth after, the result, the truth."
)


def measured_html(model_set: str, figures: Mapping[str, Any] | None = None) -> str:
    """The part of the page; one sentence where nothing was measured."""
    figures = export.measured() if figures is None else figures
    if not figures or "ours" not in figures.get("rows", {}):
        return f"<p class='remark'>{NOT_MEASURED}</p>"
    rows = {arm: figures["rows"][arm] for arm in figures.get("order", figures["rows"])}
    other = (
        "" if model_set == "mini" else "<p class='remark'>These are figures of the mini set, not of FLUX.1-Fill.</p>"
    )
    said = [*findings(rows), *worst_words(figures.get("worst", ()))]
    listed = "".join(f"<li>{safe(sentence)}</li>" for sentence in said)
    sheet, (width, height) = "", figures["pixels"]
    worst = asset_files.reading(WORST, lambda: file_uri(WORST), str)
    if worst:
        sheet = (
            f"<figure class='worst-sheet'><p class='title'>Where it fails</p><img src='{worst}' alt='{SHEET}'>"
            f"<figcaption>{SHEET}</figcaption></figure>"
        )
    return (
        f"<div class='board'>{other}<div class='lab-intro'>{INTRO.format(scenes=figures['scenes'], width=width, height=height)}</div><ul class='meaning'>{listed}</ul>"
        f"{table(rows)}{chart(rows)}{sheet}</div>"
    )


def _mean(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return value.get("mean") if isinstance(value, Mapping) else value


def findings(rows: Mapping[str, Any]) -> list[str]:
    """What the figures say, in sentences made from them."""
    ours, sentences = rows["ours"], []
    left, sharp = _mean(ours, "residual"), _mean(ours, "psnr_effect")
    erased, new = _mean(ours, "over_erasure"), _mean(ours, "inserted")
    beside = _mean(rows.get("fill_only", {}), "residual")
    if left is not None:
        against = (
            "" if beside is None else f", against {beside:.3f} where the same base model fills the marked area only"
        )
        sentences.append(
            f"Of shadow and reflection {100 * left:.1f} % is left in the mean{_half(ours['residual'])}{against}. "
            f"{_bar(left <= BARS['residual'], 'at most 15 %')}"
        )
    if sharp is not None:
        sentences.append(
            f"Where they were, the result is {sharp:.1f} dB from the truth in the mean; higher is nearer. {_bar(sharp >= BARS['psnr_effect'], 'at least 27 dB')}"
        )
    if erased is not None:
        sentences.append(
            f"Of everything that has nothing to do with the object {100 * erased:.2f} % changed in the mean. {_bar(erased <= BARS['over_erasure'], 'at most 1 %')}"
        )
    if new is not None:
        sentences.append(
            f"Something new stands in the mask in {COLUMNS['inserted'].write(new)} of the scenes. {_bar(new <= BARS['inserted'], 'at most 3 %')}"
        )
    for key, words in (
        ("true_depth", "With the renderer’s own depth instead of stage 1"),
        ("no_preference", "Without the preference term in the training of stage 1"),
        ("one_stage", "In one stage, without any depth"),
        ("no_recolouring", "Composed without the recolouring network"),
        ("recolouring_alone", "By that network alone, where nothing was removed"),
        ("fast", "At the faster pace"),
    ):
        value = _mean(rows.get(key, {}), "residual")
        if value is not None and left is not None:
            seconds = rows[key].get("seconds")
            paid = f" in {seconds:.1f} s" if key == "fast" and seconds else ""
            sentences.append(f"{words}{paid}, {100 * value:.1f} % is left{_half(rows[key]['residual'])}.")
    return sentences


def _half(row: Mapping[str, Any] | float) -> str:
    """Within which bounds half of the scenes lie, in words."""
    ends = quartiles(row) if isinstance(row, Mapping) else None
    return "" if ends is None else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f} % in the middle half of the scenes)"


def worst_words(worst: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a mean does not say: how bad it gets."""
    if not worst:
        return []
    left = [100 * row["residual"] for row in worst]
    return [
        f"In the worst scene {max(left):.0f} % is left, in the ten worst {min(left):.0f} % or more: they are shown below."
    ]


def _bar(met: bool, asked: str) -> str:
    return f"Asked for: {asked}, {'which is met' if met else 'which is missed'}."


def table(rows: Mapping[str, Any]) -> str:
    """A row per way. On a phone each becomes a card, so every cell carries the name of its column."""
    lines = []
    for row in rows.values():
        cells = [column.write(_mean(row, key), _spread(row, key)) for key, column in COLUMNS.items()]
        lines.append((safe(row["title"]), cells))
    return ways(lines, list(COLUMNS.values()), "Every way on the same scenes", NOTE, "tally facts-table")


def _spread(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Quartiles over the scenes; of a share of the scenes its 95 % interval."""
    value = row.get(key)
    if key == "inserted" and value is not None and row.get("n"):
        return scores.wilson(round(value * row["n"]), row["n"])
    return quartiles(value) if isinstance(value, Mapping) else None


def chart(rows: Mapping[str, Any]) -> str:
    """Residual effects with their quartiles."""
    bars = [
        Interval(row["title"], r["mean"], r["q1"], r["q3"], f"{r['mean']:.3f} [{r['q1']:.2f}, {r['q3']:.2f}]")
        for row in rows.values()
        if "q1" in (r := row.get("residual", {}))
    ]
    if not bars:
        return ""
    facts = "; ".join(f"{bar.name} {bar.value:.3f}" for bar in bars)
    rule = "Dots are means, spans go from the lower to the upper quartile. 0 is clean, 1 is as if nothing had been done: lower is better."
    return intervals("Residual effect", rule, facts, bars, "residual effect, lower is better")
