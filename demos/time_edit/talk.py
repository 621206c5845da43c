"""What is said of TIME where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.talk import Evidence, Talk, share
from pipelines.time_edit import MEASURED

SHOWN = {
    "efficacy, before": "The edited prompt shows it, before",
    "efficacy, after": "The edited prompt shows it, after",
    "efficacy, said in words": "The same said in words, no edit",
    "generality, after": "Prompts that contain it follow",
    "specificity, after": "Other prompts stay as they were",
}


def evidence(found: dict[str, Any]) -> Evidence:
    ours, papers = found["arms"]["protected"], found["arms"]["the paper's"]
    table = ours["table"]
    headline = (
        f"After the edit {100 * table['efficacy, after']['share']:.0f} % of the pictures show it, {100 * table['efficacy, before']['share']:.0f} % "
        f"before; {100 * table['specificity, after']['share']:.0f} % of all others stay "
        f"({100 * papers['table']['specificity, after']['share']:.0f} % by the paper’s formula alone)."
    )
    rule = f"{len(ours['edits'])} edits drawn by a seed, read by a judge that taught nobody. Spans are 95 % intervals."
    rows = [share(words, table[name]) for name, words in SHOWN.items()]
    return Evidence(headline, rows, "% of the pictures; higher is better", rule)


TALK = Talk(
    steers="weights",
    moves="two matrices in each cross-attention, and the one that reads the whole prompt",
    when="once, in a split second",
    learns="nothing: the answer is one formula",
    claims=(
        "Where a prompt does not say, a model assumes: roses are red.",
        "Such an assumption can be edited in the weights, by a sentence: “a cube => a red cube”.",
        "No training and no pictures: the new matrices are one formula of least squares.",
    ),
    cannot=(
        "On a small model an edit spills over; our second term, μ, holds the rest, and not all of it.",
        "A prompt that contradicts the edit (“a blue cube”) is overruled now and then; by the formula alone, nearly always.",
        "Who can say it in the prompt should: the edit is for whoever cannot change every prompt.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
