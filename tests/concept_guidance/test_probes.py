"""The three probes and PNES against plain transcriptions, their minima and scipy."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.concept_guidance import probes
from pipelines.concept_guidance.pnes import pnes


def samples(seed: int = 0, examples: int = 24, width: int = 6, layers: int = 2, strength: float = 0.7):
    """Token vectors with a planted direction in layer 0 and none in layer 1; (xs, labels, direction)."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    labels = [n % 2 for n in range(examples)]
    xs = []
    for label in labels:
        x = torch.randn(3 + int(torch.randint(4, (1,), generator=generator)), layers, width, generator=generator) + 0.5
        x[:, 0] += strength * (2 * label - 1) * direction
        xs.append(x)
    return xs, labels, direction


def test_difference_in_means_by_hand():
    xs = [torch.tensor([[[2.0, 1.0]], [[2.0, 3.0]]]), torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]])]
    fit = probes.dim(xs, [1, 0])
    # Mean (1, 2); centred (±1, ±1), unit (±1, ±1)/√2; signed means: (1/√2, 0); unit norm: (1, 0).
    torch.testing.assert_close(fit.weights, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(fit.mean, torch.tensor([[1.0, 2.0]]))
    assert fit.a > 0 and abs(fit.b) < 1e-4
    assert torch.equal(probes.accuracy([fit.predict(x) for x in xs], [1, 0]), torch.ones(1))


def test_difference_in_means_is_the_transcription():
    xs, labels, direction = samples()
    x = torch.cat(xs)
    signs = torch.cat([torch.full((len(part),), 2.0 * label - 1) for part, label in zip(xs, labels, strict=True)])
    x = x - x.mean(0)
    x = x / x.norm(dim=-1, keepdim=True)
    wanted = (x * signs[:, None, None]).mean(0)
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    fit = probes.dim(xs, labels)
    torch.testing.assert_close(fit.weights, wanted, atol=1e-6, rtol=1e-5)
    assert fit.weights[0] @ direction > 0.9


def test_means_of_chunks_are_those_of_the_published_code():
    x = torch.randn(3104, 3, dtype=torch.float64)
    wanted = (x[:1024].mean(0) + x[1024:2048].mean(0) + x[2048:3072].mean(0) + x[3072:].mean(0)) / 4
    torch.testing.assert_close(probes._mean(x, 1024), wanted)
    torch.testing.assert_close(probes._mean(x, None), x.mean(0))
    assert (probes._mean(x, 1024) - x.mean(0)).abs().max() > 1e-4


def test_logistic_regression_is_at_its_minimum():
    xs, labels, direction = samples()
    fit = probes.logistic(xs, labels)
    x = torch.cat(xs).double()
    x = x / x.norm(dim=-1, keepdim=True)
    signs = torch.cat([torch.full((len(part),), 2.0 * label - 1) for part, label in zip(xs, labels, strict=True)])
    for layer in range(2):
        w = fit.weights[layer].double().requires_grad_()
        loss = 0.5 * w.square().sum() + torch.log1p(torch.exp(-signs * (x[:, layer] @ w))).sum()
        (gradient,) = torch.autograd.grad(loss, w)
        assert gradient.abs().max() < 1e-5
    assert fit.a is None and not fit.b.any()
    assert torch.nn.functional.normalize(fit.weights[0], dim=0) @ direction > 0.9


def test_the_one_number_classifier_is_at_its_minimum_and_ends_on_separable_data():
    projection = torch.tensor([-1.0, 0.5, 0.2, -0.3, 1.5, 0.1]).double()
    signs = torch.tensor([-1.0, -1, 1, -1, 1, 1]).double()
    weights = torch.ones(6).double()
    a, b = (value.requires_grad_() for value in probes._classifier(projection, signs, weights))
    torch.log1p(torch.exp(-signs * (a * projection + b))).sum().backward()
    assert abs(a.grad) < 1e-6 and abs(b.grad) < 1e-6
    a, b = probes._classifier(signs * 2, signs, weights)
    assert 1 < a < 50 and a.isfinite() and abs(b) < 1e-6
    a, b = probes._classifier(torch.zeros(6).double(), torch.tensor([1.0, 1, 1, 1, 1, -1]).double(), weights)
    torch.testing.assert_close(torch.stack((a, b)), torch.tensor([0.0, math.log(5)]).double(), atol=1e-6, rtol=1e-6)


def test_principal_component_is_the_transcription_and_its_sign_means_the_label():
    xs, labels, direction = samples(strength=2.5)
    fit = probes.pca(xs, labels, seed=4, repair_signs=False)
    x = torch.cat(xs).double()
    generator = torch.Generator().manual_seed(4)
    order = torch.randperm(len(x), generator=generator)
    pairs = len(x) // 2
    flips = torch.randint(2, (pairs,), generator=generator) * 2 - 1
    shuffled = x[order]
    for layer in range(2):
        rows = torch.stack([(shuffled[2 * n, layer] - shuffled[2 * n + 1, layer]) * flips[n] for n in range(pairs)])
        first = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[0]
        first = first * (1 if first[first.abs().argmax()] > 0 else -1)
        torch.testing.assert_close(fit.weights[layer].double(), first, atol=1e-5, rtol=1e-5)
    right = probes.pca(xs, labels, seed=4)
    assert (right.a >= 0).all() and right.weights[0] @ direction > 0.9
    torch.testing.assert_close(right.weights, fit.weights * torch.where(fit.a < 0, -1, 1)[:, None])
    wide = [torch.randn(2, 1, 40) for _ in range(6)]
    assert abs(probes.pca(wide, [0, 1] * 3).weights.norm() - 1) < 1e-5, "more numbers than differences"


def test_accuracy_is_a_mean_of_examples_not_of_tokens():
    p = [torch.tensor([[0.9], [0.9], [0.9], [0.1]]), torch.tensor([[0.6]]), torch.empty(0, 1)]
    # First example (label 1): 3 of 4 right; second (label 0): none; the third has no tokens.
    torch.testing.assert_close(probes.accuracy(p, [1, 0, 1]), torch.tensor([0.375]))


def test_probabilities_are_the_transcription():
    xs, labels, _ = samples()
    for name, fit in ((name, probe(xs, labels)) for name, probe in probes.PROBES.items()):
        x = xs[0]
        if name == "dim":
            x = x - fit.mean
        if name != "pca":
            x = x / x.norm(dim=-1, keepdim=True)
        a = torch.ones(2) if fit.a is None else fit.a
        wanted = 1 / (1 + torch.exp(-(a * (x * fit.weights).sum(-1) + fit.b)))
        torch.testing.assert_close(fit.predict(xs[0]), wanted)
        assert probes.accuracy([fit.predict(x) for x in xs], labels)[0] > (0.5 if name == "pca" else 0.7)


def test_balanced_classes_weigh_the_same():
    xs, labels, _ = samples(examples=30)
    kept = [n for n, label in enumerate(labels) if label or n < 6]
    few, counts = [xs[n] for n in kept], [labels[n] for n in kept]
    fit = probes.dim(few, counts, balanced=True)
    x = torch.cat(few)
    ones = torch.cat([torch.full((len(part),), bool(label)) for part, label in zip(few, counts, strict=True)])
    x = x - x.mean(0)
    x = x / x.norm(dim=-1, keepdim=True)
    wanted = torch.nn.functional.normalize(x[ones].mean(0) - x[~ones].mean(0), dim=-1)
    torch.testing.assert_close(fit.weights, wanted, atol=1e-6, rtol=1e-5)
    plain = probes.dim(few, counts).predict(few[0]).mean()
    assert probes.dim(few, counts, balanced=True).predict(few[0]).mean() < plain, "the rarer label counts more"


def test_pnes_finds_the_curve_that_made_the_points():
    x = [n / 4 for n in range(-4, 5)]
    b, a, c = 0.8, 1.7, 0.1
    ppl = [5 * math.exp(b * s * s) for s in x]
    # p such that PNE(x) = (tanh(ax) + c)·exp(-bx²) - c at x = 0 ... the baseline is zero by definition, so c = 0 here.
    p = [0.5 + math.tanh(a * s) for s in x]
    found = pnes(x, p, ppl)
    assert found.b == pytest.approx(b) and found.a == pytest.approx(a, rel=1e-6) and abs(found.c) < 1e-7
    assert found.r_squared == pytest.approx(1) and found.notice == ""
    grid = [-1 + 2 * n / 199 for n in range(200)]
    curve = [math.tanh(a * s) * math.exp(-b * s * s) for s in grid]
    assert found.value == pytest.approx(max(curve) - min(curve), rel=1e-6)
    assert found.x_max == pytest.approx(grid[curve.index(max(curve))])
    assert found.effects[4] == 0 and found.ratios[4] == 1
    assert found.p_low is not None and found.alpha_max == max(s for s, q in zip(x, ppl, strict=True) if q < 10)
    assert c  # named for the formula above


def test_pnes_fits_like_a_search_over_a_grid():
    x = [-1, -0.7, -0.3, 0, 0.4, 0.8, 1.0]
    p = [0.2, 0.15, 0.45, 0.5, 0.8, 0.7, 0.75]
    ppl = [9, 6, 4, 3, 3.4, 5, 3000]
    found = pnes(x, p, ppl)
    few = [(s, math.log(q / 3)) for s, q in zip(x, ppl, strict=True) if q < 2000]
    best = min((sum((y - b * s * s) ** 2 for s, y in few), b) for b in (n / 1e4 for n in range(-20000, 40000)))
    assert found.b == pytest.approx(best[1], abs=1e-4)

    def loss(a, c):
        points = zip(x, found.effects, strict=True)
        return sum((y - (math.tanh(a * s) + c) * math.exp(-found.b * s * s)) ** 2 for s, y in points)

    searched = min(loss(n / 50, m / 100) for n in range(-150, 150) for m in range(-50, 50))
    assert loss(found.a, found.c) <= searched
    mean = sum(found.effects) / 7
    rest = sum((y - mean) ** 2 for y in found.effects)
    assert found.r_squared == pytest.approx(1 - loss(found.a, found.c) / rest)


def test_pnes_agrees_with_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    numpy = pytest.importorskip("numpy")
    random = numpy.random.default_rng(0)
    x = numpy.linspace(-1, 1, 9)
    for _ in range(10):
        p = 0.5 + 0.4 * numpy.tanh(random.uniform(-2, 2) * x) + random.normal(0, 0.05, 9)
        ppl = 4 * numpy.exp(random.uniform(0.2, 2) * x**2 + random.normal(0, 0.05, 9))
        found = pnes(x.tolist(), p.tolist(), ppl.tolist())
        (b,), _ = optimize.curve_fit(lambda s, b: b * s**2, x, numpy.log(ppl / ppl[4]), p0=[0.05])
        (a, c), _ = optimize.curve_fit(
            lambda s, a, c, b=b: (numpy.tanh(a * s) + c) / numpy.exp(b * s**2),
            x,
            found.effects,
            p0=[0, 0],
            maxfev=20000,
        )
        assert (found.a, found.b, found.c) == pytest.approx((a, b, c), abs=1e-5)


def test_pnes_of_nothing_is_zero_and_bad_numbers_get_a_sentence():
    flat = pnes([-1, 0, 1], [0.5, 0.5, 0.5], [3, 3, 3])
    assert flat.value == 0 and math.isnan(flat.r_squared) and "fit is poor" in flat.notice
    assert pnes([-1, 0, 1], [0.1, 0.5, 0.6], [30, 20, 50]).p_low is None
    with pytest.raises(ValueError, match="three strengths or more"):
        pnes([0, 1], [0.5, 0.6], [3, 3])
    with pytest.raises(ValueError, match="finite scores"):
        pnes([-1, 0, 1], [0.5, math.nan, 0.5], [3, 3, 3])
