"""The measured figures of MegaPortrait: unseen people in unseen references, beside ablations, and how well the face models see."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demos.core.figures import Interval, Series, bars, data_uri, intervals, measured, plot, safe
from demos.core.quantities import Quantity, quartiles, ways
from pipelines.core import asset_files, images
from pipelines.core.weights import ROOT
from pipelines.megaportrait import results
from pipelines.megaportrait.metrics import BARS

SHEETS = ROOT / "assets/megaportrait"
FACES = ROOT / "assets/mini_faces/evaluation.json"
PLAN = {"stream": "test", "pairs": 50, "people": 10}
"""The full run; anything else is called a first look."""
NOT_MEASURED = (
    "There are no figures over many portraits yet: roll a person and a reference, and look at what each run measures."
)
FACES_NOT_MEASURED = "How well the face models see was not measured yet."
INTRO = """<p>{pairs} pairs of a person and a reference portrait of somebody else; no model has seen either. The truth is the same person rendered in
the reference’s pose, light, clothes and place. <b>Identity</b> is the similarity to the person’s pictures; from {bar} on two pictures are taken for one
person.</p>"""
HOW_TO_READ = (
    "Passes: share of all pairs with its 95 % interval; a face that is not found does not pass. Other columns: medians, of identity the mean, and in "
    "brackets the quartiles over the pairs. Seam and ring colours: beyond the reference’s own. Landmarks: in % of the face’s width. Seconds: a "
    "portrait on one CPU core that shared its machine, median."
)
COLUMNS = {
    "passes": Quantity("Passes", "higher", " %", 1, 100),
    "identity": Quantity("Identity", "higher", "", 3, about="1 the same face", spread=2),
    "seam_excess": Quantity("Seam", "lower", "", 2, about="0 no new one"),
    "ring_difference": Quantity("Ring colours", "lower", "", 2, about="Lab units"),
    "shading_agreement": Quantity("Light", "higher", "", 2, about="1 the same"),
    "landmark_error": Quantity("Landmarks", "lower", " %", 1),
    "psnr_face": Quantity("PSNR of the face", "higher", " dB", 1),
    "seconds": Quantity("Seconds", "lower", " s", 1),
}
SHOWN = {"best": "Best five", "median": "Middle five", "worst": "Worst five"}
SHEET = "five pairs by identity, each from top to bottom: the person, the reference, the result, the truth"
SIDE = 480
"""Width of a sheet on the page, in pixels."""
WORDS = {
    "identity": "the identity",
    "shading_agreement": "the agreement with the reference’s light",
    "seam_excess": "the seam excess",
    "ring_difference": "the colour step at the ring",
}
NETS = {
    "no_identity": "Without the person’s fine-tune and picture",
    "instant": "Without the fine-tune alone",
    "no_shading": "Without the Shading Net",
    "no_harmonisation": "Without the Harmonization Net",
}


def measured_html(
    model_set: str, found: Mapping[str, Any] | None = None, faces: Mapping[str, Any] | None = None
) -> str:
    """The part of the page; one sentence for what was not measured."""
    found = results.measured() if found is None else found
    faces = _read(FACES) if faces is None else faces
    other = (
        ""
        if model_set == "mini"
        else "<p class='remark'>These are figures of the mini set, not of SDXL and real people.</p>"
    )
    return f"<div class='board'>{other}{_portraits(found)}{measured(FACES, lambda: _faces(faces))}</div>"


def _read(path: Path) -> dict[str, Any]:
    return asset_files.facts(path, "identity")


def _portraits(found: Mapping[str, Any] | None) -> str:
    if not found or "ours" not in found.get("rows", {}):
        return f"<p class='remark'>{NOT_MEASURED}</p>"
    bar = "a bar that was not measured yet" if found["threshold"] is None else f"{found['threshold']:.3f}"
    first = (
        ""
        if all(found.get(name) == value for name, value in PLAN.items())
        else "<p class='remark'>A first look, not the full run of the plan.</p>"
    )
    told = "".join(f"<li>{sentence}</li>" for sentence in findings(found))
    rows = {arm: found["rows"][arm] for arm in found.get("order", found["rows"])}
    return (
        f"<h3>Portraits</h3>{first}<div class='lab-intro'>{INTRO.format(pairs=found['pairs'], bar=bar)}</div>"
        f"<div class='verdicts'><ul class='meaning'>{told}</ul></div>{table(rows)}{chart(found)}{sheets()}"
    )


# --- sentences -----------------------------------------------------------------------------------------------------


def _bar(met: bool, asked: str) -> str:
    """A tick stands only where the bar is met."""
    mark, word, style = ("✓", "met", "yes") if met else ("✗", "missed", "no")
    return f"Asked for: {asked}, <b class='{style}'>{mark} {word}</b>."


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


MEDIANS = {
    "seam_excess": ("The colour jump at the border is {:+.2f} beyond the reference’s own in the median", ""),
    "ring_difference": (
        "The colours inside and outside of the border differ by {:+.2f} Lab units more than the reference’s",
        "",
    ),
    "landmark_error": (
        "Eyes, nose and mouth are {:.1f} % of the face’s width from where they belong in the median",
        " %",
    ),
}
"""What is said of a median that has a bar, and the unit of the bar."""


def findings(found: Mapping[str, Any]) -> list[str]:
    """What the figures say, in sentences made from them."""
    ours, before, told = found["rows"]["ours"], found["before"], []
    passes, earlier = ours["passes"]["share"], before["passes"]["share"]
    told.append(
        f"{_percent(passes)}{_within(ours['passes'])} of the results pass as the person. {_bar(passes >= 0.9, 'at least 90 %')}"
    )
    told.append(
        f"Before the swap {_percent(earlier)}{_within(before['passes'])} of the references do. {_bar(earlier <= 0.05, 'at most 5 %')} "
        f"The truth itself passes in {_percent(found['truth']['passes']['share'])}."
    )
    if ours["outside"] is not None:
        words = (
            "No pixel outside the mask differs from the reference"
            if ours["outside"] == 0
            else f"Outside the mask a pixel differs by up to {ours['outside']:.0f} of 255"
        )
        told.append(f"{words}. {_bar(ours['outside'] == 0, 'none')}")
    for name, (words, unit) in MEDIANS.items():
        value, most = ours[name].get("median"), BARS[name][0]
        if value is not None:
            asked = f"at most {most:g}{unit}"
            half = quartiles(ours[name])
            within = "" if half is None else f" ({half[0]:.2f} to {half[1]:.2f} in the middle half of the pairs)"
            told.append(f"{words.format(value)}{within}. {_bar(value <= most, asked)}".replace("-", "−"))
    told += _drawn(found["rows"]) + _nets(found.get("ablations", {})) + _seconds(found.get("speed"))
    return told


def _drawn(rows: Mapping[str, Any]) -> list[str]:
    """The nets that nobody is trained for, beside those that a person is."""
    if "drawn" not in rows or "psnr_core" not in rows["ours"]:
        return []
    drawn, ours = rows["drawn"], rows["ours"]
    return [
        f"Drawn from the pictures, with nobody trained, {_percent(drawn['passes']['share'])}{_within(drawn['passes'])} pass; the head is {drawn['psnr_core']['mean']:.1f} dB "
        f"from the truth instead of {ours['psnr_core']['mean']:.1f} (higher is nearer), the similarity {drawn['identity']['mean']:.2f} instead of "
        f"{ours['identity']['mean']:.2f}, and the sharpness {drawn['sharpness_ratio']['mean']:.2f} of the reference’s instead of {ours['sharpness_ratio']['mean']:.2f}."
    ]


def _within(share: Mapping[str, Any]) -> str:
    """The 95 % interval of a share."""
    ends = share.get("interval")
    return "" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _nets(ablations: Mapping[str, Any]) -> list[str]:
    """What each net is there for, with it and without it."""
    return [
        f"{NETS[arm]} {WORDS[one['measure']]} is {one['without']['mean']:.2f} instead of {one['with']['mean']:.2f}, worse in "
        f"{one['better']} and better in {one['worse']} pairs. {_bar(one['difference'] > 0 and one['better'] > one['worse'], 'that it becomes worse')}".replace(
            " -", " −"
        )
        for arm, measures in ablations.items()
        for one in measures
        if one["difference"] is not None
    ]


def _seconds(speed: Mapping[str, Any] | None) -> list[str]:
    if not speed:
        return []
    learning, portrait = speed["training"]["median_s"], speed["portrait"]["median_s"]
    cores = f"{speed['threads']} CPU {'core' if speed['threads'] == 1 else 'cores'}"
    return [
        f"A person is learnt from five pictures in {learning:.0f} s on {cores}. {_bar(learning <= 90, 'at most 90 s')}",
        f"A portrait after it takes {portrait:.1f} s. {_bar(portrait <= 15, 'at most 15 s')}",
    ]


# --- tables, charts, pictures --------------------------------------------------------------------------------------


def table(rows: Mapping[str, Any]) -> str:
    """A row per way. On a phone each becomes a card, so every cell carries the name of its column."""
    lines = []
    for row in rows.values():
        cells = [column.write(*_figure(row[key], key)) for key, column in COLUMNS.items()]
        lines.append((safe(row["title"]), cells))
    return ways(
        lines,
        list(COLUMNS.values()),
        "Every way on the same pairs",
        HOW_TO_READ,
        "tally facts-table megaportrait-table",
    )


def _figure(found: Mapping[str, Any] | float | None, key: str) -> tuple[float | None, Sequence[float] | None]:
    """What stands in a cell, and its interval: shares with theirs, means and medians with quartiles."""
    if not isinstance(found, Mapping):
        return found, None
    if key == "passes":
        return found["share"], found.get("interval")
    return found.get("mean" if key == "identity" else "median"), quartiles(found)


def chart(found: Mapping[str, Any]) -> str:
    """Identities with their quartiles: every way, and what makes them readable."""
    told = [
        ("The reference before", found["before"]["identity"]),
        *((row["title"], row["identity"]) for row in found["rows"].values()),
        ("The truth", found["truth"]["identity"]),
        ("The person’s pictures among themselves", found["among"]),
    ]
    lines = [
        Interval(name, r["mean"], r["q1"], r["q3"], f"{r['mean']:.2f} [{r['q1']:.2f}, {r['q3']:.2f}]")
        for name, r in told
        if "q1" in r
    ]
    if not lines:
        return ""
    rule = "Dots are means, spans go from the lower to the upper quartile. 1 is the same face: higher is better."
    if found["threshold"] is not None:
        rule += f" Two pictures are taken for one person from {found['threshold']:.3f} on."
    facts = "; ".join(f"{line.name} {line.value:.2f}" for line in lines)
    return intervals("Identity", rule, facts, lines, "similarity to the person, higher is better")


def sheets() -> str:
    """The best, middle and worst pairs as pictures, small."""
    told = []
    for name, words in SHOWN.items():
        path = SHEETS / f"{name}.webp"
        small = asset_files.reading(path, functools.partial(images.open_picture, path), lambda: None)
        if small is not None:
            small.thumbnail((SIDE, 2 * SIDE))
            told.append(
                f"<figure class='worst-sheet megaportrait-sheet'><p class='title'>{words}</p><img src='{data_uri(small, 'WEBP')}' alt='{words}: {SHEET}'>"
                f"<figcaption>{SHEET[0].upper()}{SHEET[1:]}.</figcaption></figure>"
            )
    return f"<div class='inspect-grid'>{''.join(told)}</div>" if told else ""


# --- the face models -----------------------------------------------------------------------------------------------


def _faces(found: Mapping[str, Any]) -> str:
    if not found:
        return f"<h3>Face models</h3><p class='remark'>{FACES_NOT_MEASURED}</p>"
    told = "".join(f"<li>{sentence}</li>" for sentence in face_findings(found))
    seen = found["detection"]
    shares = [("in plain portraits", seen["found"]["share"])]
    shares += [(name, one["share"]) for name, one in seen["hard"].items() if one["share"] is not None]
    alarms = seen["false alarms"]["share"]
    facts = "Shares in which exactly the faces that are there were found, each face rightly in the plain portraits."
    facts += "" if alarms is None else f" In pictures without a face one was seen in {_percent(alarms)}."
    shown = bars("Faces found", facts, [(name, share) for name, share in shares if share is not None])
    return (
        f"<h3>Face models</h3><div class='lab-intro'><p>{found['people']} people that no training saw, {found['shots']} pictures of each.</p></div>"
        f"<div class='verdicts'><ul class='meaning'>{told}</ul></div><div class='inspect-grid'>{roc(found['identity'])}{shown}</div>"
    )


def face_findings(found: Mapping[str, Any]) -> list[str]:
    """What the face models' figures say."""
    identity, points = found["identity"], found["landmarks"]["all"]
    rate, (low, high) = identity["equal_error_rate"], identity["interval"]
    told = [
        f"Equal error rate of the identity: {100 * rate:.2f} % [{100 * low:.2f}, {100 * high:.2f}], over {identity['pairs']['same']:,} pairs of one person and "
        f"{identity['pairs']['different']:,} of two. {_bar(rate <= 0.03, 'at most 3 %')}",
        f"At the bar of {identity['threshold']:.3f} {_percent(identity['true_match_at_threshold'])} of the pairs of one person pass, and "
        f"{_percent(identity['false_match_at_threshold'])} of those of two.",
    ]
    if "median" in points:
        told.append(
            f"The five points of a face are {points['median']:.1f} % of its width from the truth in the median, and at most {points['p95']:.1f} % in 95 of 100 pictures."
        )
    return told


def roc(identity: Mapping[str, Any]) -> str:
    """Pairs of one person that pass, over pairs of two that pass too."""
    points = sorted({(match, passed) for match, passed in identity["roc"] if match > 0})
    if len({match for match, _ in points}) < 2:
        return ""
    across, up = zip(*((math.log10(match), 100 * passed) for match, passed in points), strict=True)
    facts = (
        f"Across, how many pairs of two persons pass, as a power of ten: −2 is 1 %. From {up[0]:.1f} % at 10^{across[0]:.1f} to {up[-1]:.1f} %."
    ).replace("^-", "^−")
    curve = Series("one person", across, up)
    return plot("Who is taken for one person", facts, [curve], ("two persons, power of ten", "one person, %"))
