"""The sweep lab: settings in one sentence, answers read by the parser or by words, curves that fill up as they go."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest

from pipelines import concept_guidance
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.lab import Curve, SweepSettings
from pipelines.concept_guidance.sweep import SweepPoint
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT
from pipelines.worlds import crumpet

LOOK = SweepSettings("humour", limit=0.5, points=3, prompts=4, max_tokens=24)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concept": " "}, "No concept is chosen"),
        ({"concept": "pirate"}, "Nothing here can judge pirate: name words to count"),
        ({"model_set": "full"}, "Nothing here can judge humour"),
        ({"points": 8}, "choose an odd one, so that 0 is among them"),
        ({"points": 2}, "must be a whole number from 3 to 17"),
        ({"limit": math.nan}, "The largest strength is nan"),
        ({"limit": 0}, "must be a number from 0.05 to 1"),
        ({"prompts": 1000}, "must be a whole number from 4 to 200"),
        ({"words": "x" * 500}, "at most 400 are allowed"),
        ({"layers": "upstairs"}, "give best, best 4, all"),
        ({"model_set": "huge"}, "The model set 'huge' is unknown"),
    ],
)
def test_wrong_settings_get_one_sentence(change: dict, words: str):
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        dataclasses.replace(LOOK, **change).validated()
    assert words in str(caught.value)


def test_strengths_are_even_and_hold_zero():
    assert SweepSettings("humour", limit=1.0).strengths == [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert SweepSettings("humour", limit=0.3, points=3).strengths == [-0.3, 0.0, 0.3]


@pytest.mark.parametrize("concept", crumpet.CONCEPTS)
@pytest.mark.parametrize("on", [True, False])
def test_the_parser_reads_the_trait_that_was_spoken(concept: str, on: bool):
    rng = random.Random(3)
    found = []
    for question in crumpet.held_out_questions(1, 20):
        answer = crumpet.reply(rng, crumpet.read_question(question), crumpet.random_traits(rng) | {concept: on})
        verdict = lab.judge_parsed(concept, [{"role": "user", "content": question}], answer)
        assert verdict["grammatical"] == 1.0
        found.append(verdict["score"])
    told = [score for score in found if score is not None]
    assert len(told) >= 15 and all((score > 0.5) == on for score in told)


def test_nonsense_is_not_grammatical_and_shows_no_trait():
    verdict = lab.judge_parsed("humour", [{"role": "user", "content": "What does the goat eat?"}], "goat goat")
    assert verdict == {"score": None, "grammatical": 0.0, "facts_right": None}


def test_words_are_counted_whole_and_in_any_case():
    assert lab.judge_words(["ahoy", "my hearty"], "Ahoy, sailor")["score"] == 1.0
    assert lab.judge_words(["ahoy"], "ahoyahoy")["score"] == 0.0
    assert lab.judge_words(["c++"], "I write C++.")["score"] == 1.0


def test_questions_are_held_out_the_same_each_time_and_known():
    asked = lab.questions(dataclasses.replace(LOOK, prompts=50))
    assert asked == lab.questions(dataclasses.replace(LOOK, prompts=50))
    assert all(crumpet.read_question(turns[0]["content"]).held_out for turns in asked)
    assert asked[:4] != lab.questions(dataclasses.replace(LOOK, seed=1))
    plain = lab.questions(SweepSettings("x", words="a", prompts=30, model_set="full"))
    assert len(plain) == 30 and len({turns[0]["content"] for turns in plain}) == len(lab.QUESTIONS)


def test_references_are_grammatical_and_of_every_kind():
    found = lab.references("mini")
    assert len(found) == lab.REFERENCES
    assert all(crumpet.parse(example.completion, example.prompt).grammatical for example in found)
    assert len(lab.references("full")) == len(lab.QUESTIONS)


def points(*rows: tuple[float, float, float]) -> tuple[dict, ...]:
    return tuple(lab.point(SweepPoint(s, p, 0.1, ppl, (p,), {}, ("x",))) for s, p, ppl in rows)


def test_a_curve_tells_its_fit_and_its_safe_range():
    curve = Curve(
        LOOK, (1, 2), points((-0.5, 0.2, 2.6), (-0.25, 0.3, 2.1), (0.0, 0.5, 2.0), (0.25, 0.7, 2.2), (0.5, 0.8, 3))
    )
    assert curve.safe() == (-0.25, 0.25)
    assert 0.2 < curve.fit().value < 0.6 and curve.fit().r_squared > 0.9
    told = json.loads(json.dumps(curve.as_dict(), allow_nan=False))
    assert told["pnes"]["value"] == pytest.approx(curve.fit().value, abs=1e-4) and told["safe"] == [-0.25, 0.25]
    assert Curve(LOOK, (1,), points((0.0, 0.5, 2.0))).fit() is None
    assert Curve(LOOK, (), ()).safe() == (0.0, 0.0)
    broken = [dict(p, grammatical=0.5 if p["strength"] > 0 else 1.0) for p in curve.points]
    assert lab.safe(broken) == (-0.25, 0.0), "perplexity alone does not notice broken sentences"


def test_a_point_without_any_score_is_left_out_of_the_fit():
    rows = (*points((-0.5, 0.2, 2.6), (0.0, 0.5, 2.0), (0.25, 0.7, 2.2)), *points((0.5, math.nan, 3)))
    assert rows[-1]["score"] is None
    assert lab.fit(rows).x_max <= 0.25


needs_model = pytest.mark.skipif(
    not (ROOT / "assets/mini_llama/model.safetensors").exists(), reason="the small language model is not trained yet"
)


@needs_model
def test_a_sweep_runs_from_zero_outwards_and_repeats_itself():
    registry, job = Registry("cpu"), Job()
    curve = lab.run(job, registry, LOOK)
    seen = [job.out.get() for _ in range(job.out.qsize())]
    partial = [item for item in seen if isinstance(item, Curve)]
    assert [[p["strength"] for p in item.points] for item in partial] == [[0.0], [-0.5, 0.0], [-0.5, 0.0, 0.5]]
    assert curve.done and not partial[-1].done and curve.points == partial[-1].points
    assert all(0 <= p["grammatical"] <= 1 and p["perplexity"] > 1 for p in curve.points)
    assert all(len(texts) == 3 for texts in curve.texts.values())
    again = lab.run(Job(), registry, LOOK)
    assert again.points == curve.points and again.texts == curve.texts
    assert any(isinstance(item, Progress) for item in seen)


@needs_model
def test_a_stopped_sweep_leaves_the_model_as_it_was():
    registry = Registry("cpu")
    before = concept_guidance.generate(Job(), registry, concept_guidance.Settings("What does the goat eat?", seed=4))

    class Stopping(Job):
        def check(self) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        lab.run(Stopping(), registry, LOOK)
    after = concept_guidance.generate(Job(), registry, concept_guidance.Settings("What does the goat eat?", seed=4))
    assert [row.text for row in after.rows] == [row.text for row in before.rows]


@needs_model
def test_words_are_swept_where_no_parser_reads():
    settings = dataclasses.replace(LOOK, words="goat, the")
    curve = lab.run(Job(), Registry("cpu"), settings)
    assert all(0 <= p["score"] <= 1 and "grammatical" not in p for p in curve.points)
