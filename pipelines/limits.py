"""The checks that every paper's ``Settings.validated()`` makes: text, choice, number; a refusal is one sentence.

Each returns the value as it came and raises ``ValueError`` that says what came, what was wanted and what to do.
No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any


def text(name: str, value: Any, most: int, empty: str) -> str:
    """A string with something in it, of at most ``most`` characters; ``empty`` is the sentence for one without."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(empty)
    if len(value) > most:
        raise ValueError(f"The {name} has {len(value):,} characters, at most {most:,} are allowed: shorten it.")
    return value


def choice(label: str, value: Any, known: Collection[str]) -> str:
    """One of ``known``; ``label`` opens the sentence: "The mode", "Model set"."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{label} {repr(value)[:40]} is unknown: choose one of {', '.join(known)}.")
    return value


def number(name: str, value: Any, low: float, high: float, whole: bool = False) -> float:
    """A number within [low, high], a whole one if asked for; True and NaN are none."""
    kind = "a whole number" if whole else "a number"
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or (whole and value != int(value)) or not low <= value <= high:
        shown = repr(value)[:40]
        raise ValueError(
            f"The {name} is {shown} but must be {kind} from {low:g} to {high:.10g}: choose one in that range."
        )
    return value
