"""The small language model's vectors and sweeps: figures that follow from what was counted, files that match the card."""

from __future__ import annotations

import json
import math

import pytest

from assets.concept_guidance import evaluate
from assets.mini_llama import vectors
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.concepts import PROBES
from pipelines.concept_guidance.files import read_concept
from pipelines.core.weights import ROOT
from pipelines.worlds import crumpet

FOLDER = ROOT / "assets/mini_llama"
pytestmark = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="the model is not trained yet")


def point(strength: float, score: float, grammatical: float, perplexity: float = 2.0) -> dict:
    return {"strength": strength, "score": score, "spread": 0.05, "grammatical": grammatical, "perplexity": perplexity}


def test_only_fluent_strengths_count():
    points = [
        point(-1, 0.0, 0.2),
        point(-0.5, 0.3, 0.9),
        point(0, 0.5, 0.98),
        point(0.5, 0.7, 0.89),
        point(1, 1.0, 0.5),
    ]
    assert evaluate.fluent_range(points) == (0.4, [-0.5, 0.5])
    assert evaluate.fluent_range([point(-0.5, 0.3, 0.5), point(0, 0.5, 1.0), point(0.5, 0.9, 0.5)]) == (0.0, [0, 0])


def test_the_best_guide_moves_most_whatever_it_detects():
    rows = {
        "dim": {"range": 0.5, "accuracy": 0.6, "pnes": {"value": 0.3}},
        "logistic": {"range": 0.1, "accuracy": 0.9, "pnes": {"value": 0.4}},
        "pca": {"range": 0.5, "accuracy": 0.5, "pnes": {"value": 0.2}},
    }
    assert evaluate.best_of(rows) == "dim"


def test_the_interval_of_pnes_holds_its_value_and_narrows_with_more_answers():
    strengths, rates, costs = (-1, -0.5, 0, 0.5, 1), (0.1, 0.3, 0.5, 0.7, 0.9), (3.0, 2.2, 2.0, 2.2, 3.0)
    points = [point(s, r, 1.0, c) for s, r, c in zip(strengths, rates, costs, strict=True)]

    def interval(n: int) -> list[float]:
        return evaluate.bootstrap(points, [[1.0] * round(n * r) + [0.0] * (n - round(n * r)) for r in rates])

    value = lab.fit(points).value
    (low, high), (closer, nearer) = interval(20), interval(2000)
    assert low < value < high and nearer - closer < (high - low) / 4
    assert interval(20) == [low, high], "the same samples every time"
    silent = [*points, point(1.5, None, 0.0, 9.0)]
    assert len(evaluate.bootstrap(silent, [*([[0.2, 0.8]] * 5), []])) == 2, "no answer showed the trait at the last one"


def test_a_scan_has_what_a_row_needs():
    model, tokenizer = vectors.open_model()
    vector = vectors.fit(model, tokenizer, "humour", "dim", examples=16)
    assert vector.representation == vectors.PLACE and len(vector.validation_accuracy) == vector.layers
    piece = evaluate.scan(model, tokenizer, vector, "humour", prompts=4, layers="best 1", limit=0.4, points=3)
    row = evaluate.row(vector, piece)
    assert [p["strength"] for p in row["points"]] == [-0.4, 0.0, 0.4] and len(row["layers"]) == 1
    assert row["pnes_interval"][0] <= row["pnes_interval"][1] and 0 <= row["accuracy"] <= 1
    told = evaluate.report({("humour", "dim"): piece}, {"humour.dim": vector}, 4)
    assert told["best"] == {"humour": "dim"} and set(told["concepts"]) == {"humour"}
    assert "humour" in evaluate.in_words(told) and json.dumps(told, allow_nan=False)


def test_every_concept_has_its_three_vectors_and_they_fit_the_model():
    known = {path.stem: read_concept(path) for path in (FOLDER / "vectors").glob("*.safetensors")}
    assert set(known) == {f"{concept}.{probe}" for concept in crumpet.CONCEPTS for probe in PROBES}
    config = json.loads((FOLDER / "config.json").read_text())
    for stem, concept in known.items():
        assert concept.weights.shape == (config["num_hidden_layers"], config["hidden_size"]), stem
        assert concept.weights.isfinite().all() and concept.probe == stem.split(".")[1]
        assert concept.facts["examples"]["with"] == concept.facts["examples"]["without"] == vectors.EXAMPLES // 2


def test_the_shipped_sweeps_are_those_of_the_shipped_weights():
    told = lab.measured()
    assert told, "run python -m assets.concept_guidance.evaluate --write"
    assert set(told["concepts"]) == set(crumpet.CONCEPTS) and told["prompts"] >= 200
    best = json.loads((FOLDER / "manifest.json").read_text())["best"]
    assert best == told["best"]
    for concept, rows in told["concepts"].items():
        for probe, row in rows.items():
            vector = read_concept(FOLDER / "vectors" / f"{concept}.{probe}.safetensors")
            assert row["accuracies"] == [round(value, 4) for value in vector.validation_accuracy], (concept, probe)
            assert math.isclose(row["pnes"]["value"], lab.fit(row["points"]).value, abs_tol=2e-3)
            assert (row["range"], row["range_at"]) == evaluate.fluent_range(row["points"])
    assert told["resist"] == sorted(
        c for c, probe in best.items() if told["concepts"][c][probe]["range"] < evaluate.BAR
    )


def test_guiding_moves_at_least_four_concepts():
    told = lab.measured()
    moved = [concept for concept, probe in told["best"].items() if told["concepts"][concept][probe]["range"] >= 0.30]
    assert len(moved) >= 4, moved
