"""What is said of Concept Guidance where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.figures import Interval
from demos.core.talk import Evidence, Talk
from pipelines.concept_guidance.lab import MEASURED


def evidence(found: dict[str, Any]) -> Evidence:
    used = {name: found["concepts"][name][probe] for name, probe in found["best"].items()}
    least, most = (pick(row["range"] for row in used.values()) for pick in (min, max))
    headline = (
        f"Guidance moves how often each of {len(used)} traits shows by {100 * least:.0f} to {100 * most:.0f} percentage points, "
        "while the answers stay grammatical."
    )
    rows = []
    for name, row in sorted(used.items(), key=lambda item: -item[1]["pnes"]["value"]):
        value, (low, high) = row["pnes"]["value"], row["pnes_interval"]
        rows.append(Interval(name.capitalize(), value, low, high, f"{value:.2f} [{low:.2f}, {high:.2f}]"))
    rule = (
        f"The probe that the chat uses, on {found['prompts']} new questions at each of {len(found['strengths'])} strengths. "
        "Spans are 95 % intervals."
    )
    return Evidence(headline, rows, "PNES: the effect for its price in fluency; higher is better", rule)


TALK = Talk(
    steers="activations",
    moves="a language model’s hidden states",
    when="at every token, in a few layers",
    learns="a direction for each concept, from labelled answers",
    claims=(
        "In a language model’s hidden states, a concept such as humour is a direction.",
        "Labelled answers show it; added while the model writes, it changes what the model says.",
        "A direction that detects a concept best need not be the one that guides best.",
    ),
    cannot=(
        "Pushed too hard, the model talks gibberish: how far one can go differs from concept to concept.",
        "A direction is an average: some questions answer to it, some do not, a few go the other way.",
        "The small model speaks a little language of its own, and says little about large ones.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
