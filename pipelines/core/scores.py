"""Counting with honesty: intervals for shares, and exact tests for pairs. No dependency, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share (95 % for z = 1.96); (0, 1) when nothing was counted."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)


def share(right: int, of: int) -> dict[str, Any]:
    """A share of counted cases with its 95 % interval, JSON-able, to four digits."""
    return {
        "right": right,
        "of": of,
        "share": round(right / max(of, 1), 4),
        "interval": [round(edge, 4) for edge in wilson(right, of)],
    }


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of ``wins`` against ``losses`` under a fair coin (McNemar's test on discordant pairs)."""
    total, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total) if total else 1.0


def paired_difference(wins: int, losses: int, total: int, z: float = 1.96) -> tuple[float, float, float]:
    """Difference of two paired shares and its interval, in [-1, 1].

    Bonett and Price (2012): Wald's interval after adding one to each kind of discordant pair, which keeps its
    coverage where few pairs differ.
    """
    if not total:
        return 0.0, -1.0, 1.0
    a, b = (wins + 1) / (total + 2), (losses + 1) / (total + 2)
    spread = z * math.sqrt((a + b - (a - b) ** 2) / (total + 2))
    return (wins - losses) / total, max(-1.0, a - b - spread), min(1.0, a - b + spread)


@dataclass(frozen=True)
class Paired:
    """One arm against the standard on the same cases: how often right, won and lost."""

    total: int
    right: int
    wins: int
    losses: int

    @classmethod
    def of(cls, arm: Sequence[bool], standard: Sequence[bool]) -> Paired:
        """Count two equally long lists of right (True) and wrong."""
        pairs = list(zip(arm, standard, strict=True))
        return cls(len(pairs), sum(arm), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))

    def as_dict(self) -> dict[str, object]:
        """JSON-able figures: share and interval, won, lost, exact p, difference in percentage points with interval."""
        low, high = wilson(self.right, self.total)
        points, bottom, top = (100 * x for x in paired_difference(self.wins, self.losses, self.total))
        return {
            "of": self.total,
            "share": round(self.right / max(self.total, 1), 4),
            "interval": [round(low, 4), round(high, 4)],
            "wins": self.wins,
            "losses": self.losses,
            "p": float(f"{mcnemar(self.wins, self.losses):.3g}"),
            "points": round(points, 2),
            "points_interval": [round(bottom, 2), round(top, 2)],
        }


PERFECT = 100.0
"""Decibels that stand for equal pictures: JSON has no infinity."""
