"""What is said of Golden Noise where it is presented."""

from __future__ import annotations

from typing import Any

from demos.core.figures import Interval, signed
from demos.core.talk import Evidence, Talk
from pipelines.golden_noise import MEASURED
from pipelines.golden_noise.lab import ARMS

SHOWN = ("npnet", "npnet_paper", "first_step", "guidance", "best_of_two")


def evidence(found: dict[str, Any]) -> Evidence:
    counted = found["evaluation"]["arms"]
    ours, plain = counted["npnet"], counted["standard"]
    headline = (
        f"All that the prompt asks for stands in {100 * plain['share']:.1f} % of the pictures from standard noise and in "
        f"{100 * ours['share']:.1f} % of those from golden noise."
    )
    rows = []
    for arm in SHOWN:
        points, (low, high) = counted[arm]["points"], counted[arm]["points_interval"]
        words = f"{signed(points)} [{signed(low)}, {signed(high)}]"
        rows.append(Interval(ARMS[arm].title, points, low, high, words))
    rule = (
        f"Against standard noise at 0, the same prompts and seeds: {ours['of']:,} held-out prompts "
        f"({counted[SHOWN[-1]]['of']:,} for the last row). Spans are 95 % intervals."
    )
    return Evidence(headline, rows, "percentage points more right pictures; higher is better", rule)


TALK = Talk(
    steers="noise",
    moves="the starting noise",
    when="once, before the first step",
    learns="a small network, from pairs of noises",
    claims=(
        "Some random noises give better pictures than others, for the same prompt.",
        "A small network, NPNet, turns any noise into a golden one: one pass, led by the prompt.",
        "The image model itself stays as it is, and drawing takes hardly longer.",
    ),
    cannot=(
        "It also spoils pictures that were right; whether it gains more than it loses hangs on the image model.",
        "Whoever pays for two drawings and keeps the better one may gain more.",
        "It hangs on how much signal a model’s last noise level leaves, so nothing here speaks of SDXL.",
    ),
    measured=MEASURED,
    evidence=evidence,
)
