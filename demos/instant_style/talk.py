"""What is said of InstantStyle where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.talk import Evidence, Talk, share
from pipelines.instant_style.measured import MEASURED


def evidence(found: dict[str, Any]) -> Evidence:
    bars = {name: bar for world in found["worlds"].values() for name, bar in world["bars"].items()}
    alone, others = (
        100 * sum(bar[key]["share"] for bar in bars.values()) / len(bars) for key in ("alone", "all others")
    )
    headline = (
        f"The place that paints an attribute changes it alone in {alone:.0f} % of the pictures, all other places together in {others:.0f} %: "
        f"the mean of {len(bars)} attributes."
    )
    best = sorted(bars.items(), key=lambda item: -item[1]["alone"]["share"])[:6]
    rows = [share(f"{name.replace('_', ' ').capitalize()}, in {bar['place']}", bar["alone"]) for name, bar in best]
    pairs = sum(world["pairs"] for world in found["worlds"].values())
    rule = f"The {len(rows)} attributes that one place paints most surely, over {pairs} unseen pairs of prompts. Spans are 95 % intervals."
    return Evidence(headline, rows, "% of the pictures that one place alone changes; higher is better", rule)


TALK = Talk(
    steers="conditioning",
    moves="which layers hear which prompt",
    when="at every step, in chosen attentions",
    learns="nothing for prompts; for pictures, the adapter’s own layers",
    claims=(
        "A model hears what is wanted in many attentions, and they paint different things.",
        "Single blocks carry the style, others the layout.",
        "So a picture that speaks in the style’s block alone gives its style and not its content.",
    ),
    cannot=(
        "Some attributes are painted in several places: no single one decides them.",
        "The map is one model’s own: another model, or the same one trained longer, has another.",
        "Where one place paints two attributes, one cannot be changed without the other.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
