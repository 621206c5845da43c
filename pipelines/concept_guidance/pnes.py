"""PNES, the perplexity-normalised effect size of Concept Guidance (arXiv 2402.14433), and its two fits.

How much a concept's score moves with guidance, divided by what the guidance costs in perplexity; as one number for a
whole range of strengths. Fitted with scipy, as in the published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
import scipy
from numpy.typing import NDArray

Numbers = NDArray[numpy.float64]


@dataclass(frozen=True)
class Pnes:
    """The paper's perplexity-normalised effect size, with its fit; see :func:`pnes`."""

    value: float
    r_squared: float
    """nan when the effect does not vary."""
    a: float
    b: float
    c: float
    x_min: float
    x_max: float
    """Strengths of the fitted curve's lowest and highest point."""
    effects: tuple[float, ...]
    """PNE at every strength that was measured."""
    ratios: tuple[float, ...]
    """Perplexity against that of the baseline."""
    p_low: float | None
    p_high: float | None
    alpha_min: float | None
    alpha_max: float | None
    """Lowest and highest score among strengths of perplexity below 10, and the range of these; None without any."""
    curve: tuple[tuple[float, float], ...] = field(repr=False)
    """200 points (strength, fitted PNE) over the scanned range."""

    @property
    def notice(self) -> str:
        """What to say beside a fit that does not describe its points; otherwise empty."""
        return "" if self.r_squared >= 0.5 else "The fit is poor: read the points, not the number."


def pnes(strengths: Sequence[float], scores: Sequence[float], perplexities: Sequence[float]) -> Pnes:
    """Perplexity-normalised effect size, as the published code has it.

    1. PNE(α) = (p(α) - p(0)) / (ppl(α) / ppl(0)), where 0 stands for the strength nearest to it.
    2. b: least squares of ln(ppl(α) / ppl(0)) on b·α², where ppl < 2,000.
    3. a, c: least squares of PNE(α) on (tanh(aα) + c)·exp(-bα²) with that b, from (0, 0).
    4. PNES = highest - lowest point of that curve on 200 points over the scanned range.

    Raises:
        ValueError: fewer than three strengths, lists of different lengths, or numbers that are not finite.
    """
    if not len(strengths) == len(scores) == len(perplexities) or len(set(strengths)) < 3:
        raise ValueError(
            f"PNES needs three strengths or more with a score and a perplexity each, got {len(strengths)}."
        )
    x, p, ppl = (numpy.array(values, dtype=float) for values in (strengths, scores, perplexities))
    if not (numpy.isfinite(x).all() and numpy.isfinite(p).all() and (ppl > 0).all()):
        raise ValueError("PNES needs finite scores and positive perplexities: measure again with smaller strengths.")
    base = numpy.abs(x).argmin()
    ratio = ppl / ppl[base]
    effect = (p - p[base]) / ratio
    usable = ppl < 2000
    squares = x[usable] ** 2
    # One parameter, linear in it: the least squares solution in closed form.
    b = float(squares @ numpy.log(ratio[usable]) / max(squares @ squares, 1e-300))
    a, c = _fit_tanh(x, effect, b)
    grid = numpy.linspace(x.min(), x.max(), 200)
    curve, total = _pne_curve(grid, a, b, c), ((effect - effect.mean()) ** 2).sum()
    flat = total <= 1e-24
    fluent = ppl < 10
    return Pnes(
        value=0.0 if flat else float(curve.max() - curve.min()),
        r_squared=math.nan if flat else float(1 - ((effect - _pne_curve(x, a, b, c)) ** 2).sum() / total),
        a=a,
        b=b,
        c=c,
        x_min=math.nan if flat else float(grid[curve.argmin()]),
        x_max=math.nan if flat else float(grid[curve.argmax()]),
        effects=tuple(effect.tolist()),
        ratios=tuple(ratio.tolist()),
        p_low=float(p[fluent].min()) if fluent.any() else None,
        p_high=float(p[fluent].max()) if fluent.any() else None,
        alpha_min=float(x[fluent].min()) if fluent.any() else None,
        alpha_max=float(x[fluent].max()) if fluent.any() else None,
        curve=tuple(zip(grid.tolist(), curve.tolist(), strict=True)),
    )


def _pne_curve(x: Numbers, a: float, b: float, c: float) -> Numbers:
    return (numpy.tanh(a * x) + c) * numpy.exp(numpy.clip(-b * x**2, -700, 700))


def _fit_tanh(x: Numbers, y: Numbers, b: float) -> tuple[float, float]:
    """a and c of step 3 of :func:`pnes`."""
    decay = _pne_curve(x, 0.0, b, 1.0)

    def jacobian(theta: Numbers) -> Numbers:
        return numpy.stack((x * decay / numpy.cosh(numpy.clip(theta[0] * x, -300, 300)) ** 2, decay), axis=1)

    exact = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": 1000}
    found = scipy.optimize.least_squares(
        lambda theta: _pne_curve(x, theta[0], b, theta[1]) - y, (0.0, 0.0), jacobian, method="lm", **exact
    )
    return float(found.x[0]), float(found.x[1])
