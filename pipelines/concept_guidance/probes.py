"""The three probes of Concept Guidance (arXiv 2402.14433): a direction per layer from labelled token vectors.

    fit = dim(xs, labels)           # or logistic(...), pca(...); PROBES maps the names
    p = fit.predict(xs[0])          # (tokens, layers): probability of label 1
    accuracy([fit.predict(x) for x in xs], labels)

``xs`` is one tensor (tokens, layers, width) per example, ``labels`` 0 or 1 per example; every token is a sample of
its own with its example's label, and layers do not know of each other. What each probe does to a vector before it
looks at it (centre, unit norm), and which classifier sits on the projection, follows the published code; it was
written with scikit-learn, this is torch and scipy, float64 inside, solved to convergence.

Imports torch at module level: for code that runs on the lane only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from pipelines.core import lane

Numbers = NDArray[numpy.float64]

_SMALL = 1e-6
"""Directions shorter than this, as a mean over unit vectors, are rounding noise: the layer then has none (zeros)."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A direction per layer and the classifier on the projection.

    ``weights`` (layers, width) float32: unit rows for dim and pca, raw coefficients for logistic. ``a``, ``b``
    (layers,): slope and offset of the classifier; ``a`` is None for logistic, whose coefficients are the slope.
    ``mean`` (layers, width): the centre that dim takes off first, otherwise None.
    """

    probe: str
    weights: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    mean: Tensor | None = None

    def logits(self, x: Tensor) -> Tensor:
        """Log odds (tokens, layers) of label 1 for token vectors ``x`` (tokens, layers, width)."""
        projection = torch.einsum("tld,ld->tl", prepared(self.probe, x, self.mean), self.weights.to(x.device))
        if self.a is not None:
            projection = projection * self.a.to(x.device)
        return projection if self.b is None else projection + self.b.to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        """Probability (tokens, layers) of label 1."""
        return self.logits(x).sigmoid()


def prepared(probe: str, x: Tensor, mean: Tensor | None = None) -> Tensor:
    """``x`` (..., width) as the probe sees it: dim centres and scales to unit norm, logistic scales, pca takes it as is."""
    if probe == "pca":
        return x
    if probe == "dim" and mean is not None:
        x = x - mean.to(x.device, x.dtype)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def dim(
    xs: Sequence[Tensor],
    labels: Sequence[int] | Tensor,
    balanced: bool = False,
    chunk: int | None = None,
    seed: int = 0,
) -> Fit:
    """Difference in means: the mean over tokens of ±x, x centred on all tokens' mean and of unit norm; then unit norm.

    Equals the difference of the class means only when classes are balanced; ``balanced`` makes them count alike.
    ``chunk=1024`` takes means as the published code does, whose last chunk counts like a full one: for comparison
    with it. ``seed`` is not used.
    """
    signs, weights = _signs_and_weights(xs, labels, balanced)
    shares = weights / weights.mean()
    rows, means, slopes, offsets = [], [], [], []
    for x in _layers(xs):
        centre = _mean(x, chunk)
        x = prepared("dim", x, centre)
        direction = _mean(x * (signs * shares)[:, None], chunk)
        length = direction.norm()
        direction = direction / length if length > _SMALL else torch.zeros_like(direction)
        slope, offset = _classifier(x @ direction, signs, weights)
        rows.append(direction)
        means.append(centre)
        slopes.append(slope)
        offsets.append(offset)
    return Fit("dim", _stack(rows), _stack(slopes), _stack(offsets), _stack(means))


def logistic(xs: Sequence[Tensor], labels: Sequence[int] | Tensor, balanced: bool = False, seed: int = 0) -> Fit:
    """L2-penalised logistic regression (C = 1, no intercept) on vectors of unit norm; the coefficients are kept raw."""
    signs, weights = _signs_and_weights(xs, labels, balanced)
    rows = [_regression(prepared("logistic", x), signs, weights) for x in _layers(xs)]
    stacked = _stack(rows)
    return Fit("logistic", stacked, None, torch.zeros(len(stacked)))


def pca(
    xs: Sequence[Tensor],
    labels: Sequence[int] | Tensor,
    balanced: bool = False,
    seed: int = 0,
    repair_signs: bool = True,
) -> Fit:
    """First principal component of differences between neighbours of the shuffled tokens, under random signs.

    Labels play no part in the direction, so its sign is arbitrary (largest coefficient positive, as scikit-learn has
    it). ``repair_signs`` turns each layer so that the classifier's slope is positive, that is, so that + means label 1
    in every layer; the published code does not, and its layers push against each other.
    """
    signs, weights = _signs_and_weights(xs, labels, balanced)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(signs), generator=generator)
    pairs = len(order) // 2
    flips = (torch.randint(2, (pairs,), generator=generator) * 2 - 1).to(signs)
    order = order.to(signs.device)
    rows, slopes, offsets = [], [], []
    for x in _layers(xs):
        differences = (x[order[: 2 * pairs : 2]] - x[order[1 : 2 * pairs : 2]]) * flips[:, None]
        direction = _first_component(differences)
        slope, offset = _classifier(x @ direction, signs, weights)
        if repair_signs and slope < 0:
            direction, slope = -direction, -slope
        rows.append(direction)
        slopes.append(slope)
        offsets.append(offset)
    return Fit("pca", _stack(rows), _stack(slopes), _stack(offsets))


PROBES: dict[str, Callable[..., Fit]] = {"dim": dim, "logistic": logistic, "pca": pca}


def accuracy(probabilities: Sequence[Tensor], labels: Sequence[int] | Tensor) -> Tensor:
    """Share of tokens on the right side of 0.5, per example, then the mean over examples: (layers,).

    ``probabilities`` is one (tokens, layers) per example; examples without tokens do not count.
    """
    shares = [
        ((p > 0.5) == bool(label)).double().mean(0) for p, label in zip(probabilities, labels, strict=True) if len(p)
    ]
    return torch.stack(shares).mean(0).float()


def median_norms(xs: Sequence[Tensor]) -> Tensor:
    """Median length of the token vectors, (layers,): what a strength of 1 means in the paper's raw scale."""
    return torch.cat([torch.linalg.vector_norm(x, dim=-1) for x in xs]).median(0).values.float()


# ---------------------------------------------------------------------------------------------- parts


def _layers(xs: Sequence[Tensor]) -> Iterator[Tensor]:
    """One layer's token vectors (all tokens, width) after the other, float64: all at once would not fit for 7 B."""
    for layer in range(xs[0].shape[1]):
        lane.check()
        yield torch.cat([x[:, layer] for x in xs]).double()


def _signs_and_weights(xs: Sequence[Tensor], labels: Sequence[int] | Tensor, balanced: bool) -> tuple[Tensor, Tensor]:
    """Per token: its label as ±1, and its weight (1, or such that both classes weigh half)."""
    device = xs[0].device
    counts = torch.tensor([len(x) for x in xs], device=device)
    signs = (torch.as_tensor(labels, device=device).double() * 2 - 1).repeat_interleave(counts)
    weights = torch.ones_like(signs)
    if balanced:
        for sign in (-1, 1):
            weights[signs == sign] = len(signs) / (2 * max(int((signs == sign).sum()), 1))
    return signs, weights


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows)).float().cpu()


def _mean(x: Tensor, chunk: int | None) -> Tensor:
    if chunk is None or len(x) < chunk:
        return x.mean(0)
    return torch.stack([part.mean(0) for part in x.split(chunk)]).mean(0)


def _first_component(x: Tensor) -> Tensor:
    """Unit vector (width,) of the largest variance of ``x`` (n, width), its largest coefficient positive.

    By the smaller of the two Gram matrices, which gives the same vector as a singular value decomposition.
    """
    x = x - x.mean(0)
    if len(x) < x.shape[1]:
        direction = x.T @ torch.linalg.eigh(x @ x.T).eigenvectors[:, -1]
    else:
        direction = torch.linalg.eigh(x.T @ x).eigenvectors[:, -1]
    direction = direction / direction.norm().clamp_min(torch.finfo(x.dtype).tiny)
    return direction * (1 if direction[direction.abs().argmax()] >= 0 else -1)


def _classifier(projection: Tensor, signs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the unpenalised logistic regression on one number, by damped Newton steps.

    Separable data have no minimum: there, as in the published code, a mean gradient of 1e-3 is enough.
    """
    x = torch.stack((projection, torch.ones_like(projection)), dim=1)
    weights = weights / weights.sum()
    theta = x.new_zeros(2)
    ridge = 1e-12 * torch.eye(2, dtype=x.dtype, device=x.device)

    def loss(theta: Tensor) -> Tensor:
        return (weights * torch.nn.functional.softplus(-signs * (x @ theta))).sum()

    for _ in range(100):
        margins = signs * (x @ theta)
        gradient = -(x.T @ (weights * signs * torch.sigmoid(-margins)))
        size = gradient.abs().max()
        if size < 1e-10 or (size < 1e-3 and margins.min() > 0):
            break
        curvature = weights * torch.sigmoid(margins) * torch.sigmoid(-margins)
        step = torch.linalg.solve(x.T @ (curvature[:, None] * x) + ridge, gradient)
        before, slope, share = loss(theta), gradient @ step, 1.0
        while share > 1e-6 and loss(theta - share * step) > before - 1e-4 * share * slope + 1e-14 * before.abs():
            share /= 2  # until the loss falls enough (Armijo)
        theta = theta - share * step
    return theta[0], theta[1]


def _regression(x: Tensor, signs: Tensor, weights: Tensor) -> Tensor:
    """argmin ½‖w‖² + Σ weight·log(1 + exp(-sign·w·x)), (width,).

    By products with the curvature only: a width × width matrix would cost most of the time at the width of a 7 B model.
    """
    z, weight = (x * signs[:, None]).cpu().numpy(), weights.cpu().numpy()
    seen: dict[bytes, Numbers] = {}

    def margins(theta: Numbers) -> Numbers:
        """z·theta; the last is kept, because the curvature is asked for many times at one place."""
        key = theta.tobytes()
        if key not in seen:
            lane.check()
            seen.clear()
            seen[key] = z @ theta
        return seen[key]

    def loss(theta: Numbers) -> tuple[float, Numbers]:
        m = margins(theta)
        return 0.5 * theta @ theta + weight @ numpy.logaddexp(0, -m), theta - z.T @ (weight * expit(-m))

    def curved(theta: Numbers, v: Numbers) -> Numbers:
        m = margins(theta)
        return v + z.T @ (weight * expit(m) * expit(-m) * (z @ v))

    start = numpy.zeros(z.shape[1])
    precision = {"gtol": 1e-8 * max(float(numpy.linalg.norm(loss(start)[1])), 1.0)}
    found = minimize(loss, start, method="trust-ncg", jac=True, hessp=curved, options=precision)
    return torch.from_numpy(found.x).to(x.device)
