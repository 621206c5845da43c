"""What is said of ProSpect where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.figures import Interval
from demos.core.talk import Evidence, Talk
from pipelines.prospect import MEASURED, STAGES
from pipelines.prospect.curve import order

SHOWN = {"backdrop": "Layout (the backdrop)", "floor": "Floor", "colour": "Colour", "shape": "Shape"}


def evidence(found: dict[str, Any]) -> Evidence:
    needed = found["needed"]
    listed = ", ".join(f"{words.lower()} in stage {needed[name]['mean']:.1f}" for name, words in SHOWN.items())
    rows = [
        Interval(
            words, one["mean"], one["low"], one["high"], f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"
        )
        for name, words in SHOWN.items()
        for one in (needed[name],)
    ]
    rule = f"{found['pairs']} unseen pairs of prompts, read by a judge that taught nobody. Spans are 95 % intervals."
    axis = f"stages of {STAGES} that the first prompt needs; fewer is earlier, neither is better"
    return Evidence(f"Decided, on average: {listed}. {order(found['found'])}", rows, axis, rule)


TALK = Talk(
    steers="time",
    moves="which prompt is read in which stage of denoising",
    when="at every step",
    learns="nothing for prompts; for a picture, the embeddings of a word or more in each of ten stages",
    claims=(
        "A picture is made out of noise from the coarse to the fine.",
        "What is decided early stays: a prompt that speaks later no longer moves it.",
        "So one prompt can say the layout, and another one the thing that stands there.",
    ),
    cannot=(
        "In between neither is there: red that turns blue in the middle is purple for a while.",
        "Colour and shape are decided close to one another, so that they do not always part.",
        "A thing that comes late takes the place and the size of the one that was there.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
