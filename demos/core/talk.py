"""What is said of a paper where it is presented: each declares it in its own folder (``demos/<paper>/talk.py``), and
:mod:`demos.core.present` makes slides and the map of it without knowing any paper by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos.core.figures import Interval, signed
from pipelines.core import asset_files

PLACES = {
    "noise": ("Noise", "what a picture begins from"),
    "geometry": ("Geometry", "the shape of the scene that is shown to the model"),
    "conditioning": ("Conditioning", "what the model is told: words, points, light"),
    "time": ("Time", "which step of the way is told what"),
    "activations": ("Activations", "what passes through the model while it works"),
    "weights": ("Weights", "the model’s own numbers"),
}
"""Where a model can be steered, in the order of a run -> its name, and what lies there."""


@dataclass(frozen=True)
class Evidence:
    """Measured figures with their intervals, all read from an evaluation."""

    headline: str
    """What they say, in one sentence that is made from them."""
    rows: Sequence[Interval]
    axis: str
    """What is counted, its unit and its direction: "points more right pictures, higher is better"."""
    rule: str
    """How to read the rows: what the spans are, and over how much was counted."""


@dataclass(frozen=True)
class Talk:
    """A paper's slides, in words. All texts are plain."""

    steers: str
    """One of :data:`PLACES`."""
    moves: str
    """What of it, "the starting noise"."""
    when: str
    """ "once, before the first step"."""
    learns: str
    """What has to be learnt for it, "a small network"."""
    claims: tuple[str, ...]
    """What the paper claims, in two or three sentences of ours; without figures, which are the evidence's."""
    cannot: tuple[str, ...]
    """What it cannot do, here or at all."""
    measured: Path
    """The evaluation that the evidence reads."""
    evidence: Callable[[dict[str, Any]], Evidence]
    """What it says, from what is in it."""

    def __post_init__(self) -> None:
        assert self.steers in PLACES, self.steers

    def read(self) -> Evidence | None:
        """The evidence; None, and noted, where the evaluation is missing or holds something else."""
        found = asset_files.facts(self.measured)
        return asset_files.reading(self.measured, lambda: self.evidence(found), lambda: None) if found else None


def share(name: str, counted: dict[str, Any]) -> Interval:
    """A counted share with its 95 % interval, {"share": 0.85, "interval": [0.73, 0.93]}, in percent."""
    low, high = (100 * end for end in counted["interval"])
    value = 100 * counted["share"]
    return Interval(name, value, low, high, f"{value:.0f} % [{low:.0f}, {high:.0f}]")


def spread(name: str, found: dict[str, Any], digits: int = 2) -> Interval:
    """A mean with the quartiles of what it is the mean of."""
    low, high, value = found["q1"], found["q3"], found["mean"]
    ends = ", ".join(signed(end, digits).removeprefix("+") for end in (low, high))
    return Interval(name, value, low, high, f"{signed(value, digits).removeprefix('+')} [{ends}]")
