"""What is said of GeoRemover where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.talk import Evidence, Talk, spread
from pipelines.georemover.export import MEASURED

SHOWN = {
    "ours": "GeoRemover: depth first, then the picture",
    "one_stage": "One stage, without depth",
    "fill_only": "The same base model fills the mask",
    "telea": "A classical fill (Telea)",
}


def evidence(found: dict[str, Any]) -> Evidence:
    rows = {arm: found["rows"][arm] for arm in SHOWN}
    left = rows["ours"]["residual"]
    headline = (
        f"Of shadow and mirror image {100 * left['mean']:.0f} % is left; where the same base model fills the mask alone, "
        f"{100 * rows['fill_only']['residual']['mean']:.0f} %."
    )
    spans = [spread(words, rows[arm]["residual"]) for arm, words in SHOWN.items()]
    rule = (
        f"Mean over {left['n']} held-out scenes in which the object shades or mirrors; spans go from the lower to the upper "
        "quartile. 0 is clean, 1 is untouched."
    )
    return Evidence(headline, spans, "share of shadow and mirror image that is left; lower is better", rule)


TALK = Talk(
    steers="geometry",
    moves="the depth map",
    when="before the picture is rendered anew",
    learns="two adapters of one fill model",
    claims=(
        "Whoever takes an object out has to take out what it caused: its shadow and its mirror image.",
        "Nobody need mark them: a depth map has neither, so the object goes out of the depth first.",
        "Then the picture is rendered from the changed depth, and what nothing casts is not painted.",
    ),
    cannot=(
        "Glass, mirrors and flat prints hardly show in depth, so there is little to take away.",
        "Where something glows, its glow stays; where a mask misses a part, the rest is completed.",
        "The small models know rendered solids on a floor, and no photographs.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
