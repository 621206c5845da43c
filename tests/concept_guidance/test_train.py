"""Concepts of one's own and sweeps, on a toy model of the real class."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pipelines.concept_guidance import conversation, probes, steering
from pipelines.concept_guidance.conversation import Sampling
from pipelines.concept_guidance.examples import Example
from pipelines.concept_guidance.pnes import pnes
from pipelines.concept_guidance.sweep import SweepPoint, safe_range, sweep
from pipelines.concept_guidance.train import TrainSettings, split_by_prompt, train, train_concept
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from tests.bench import guided_speed
from tests.toys.language import (
    LAYERS,
    WIDTH,
    concept,
)


def examples(count: int = 12) -> list[Example]:
    return [
        Example(f"why w{40 + n // 2} ?", "you marvel it blushes" if n % 2 else "the moon is stone", n % 2)
        for n in range(count)
    ]


@pytest.mark.parametrize("probe", ["dim", "logistic", "pca"])
def test_a_concept_is_made_from_examples(llama, tokenizer, probe):
    job, before = Job(), fingerprint(llama)
    made = train_concept(job, llama, tokenizer, examples(20), TrainSettings((), "marvel", probe, seed=1))
    assert made.concept.weights.shape == (LAYERS, WIDTH) and made.concept.name == "marvel"
    assert len(made.concept.validation_accuracy) == LAYERS and made.seconds < 20
    if probe != "pca":
        assert max(made.concept.validation_accuracy) > 0.9
    assert made.counts == {"with": 10, "without": 10, "training": 16, "validation": 4, "skipped": 0}
    assert made.majority == 0.5 and "20 examples are few" in made.notices[-1]
    assert fingerprint(llama) == before
    assert any(isinstance(job.out.get_nowait(), Progress) for _ in range(job.out.qsize()))
    again = train_concept(Job(), llama, tokenizer, examples(20), TrainSettings((), "marvel", probe, seed=1))
    assert torch.equal(again.concept.weights, made.concept.weights)


def test_accuracies_are_those_of_the_split(llama, tokenizer):
    used = examples(20)
    made = train_concept(Job(), llama, tokenizer, used, TrainSettings((), seed=1))
    training, held = split_by_prompt(used, 0.2, 1)
    spans = [conversation.cut(conversation.reply_span(tokenizer, e.messages(), e.completion)) for e in used]
    xs = steering.activations(llama, spans)
    fit = probes.dim([xs[n] for n in training], [used[n].label for n in training])
    wanted = probes.accuracy([fit.predict(xs[n]) for n in held], [used[n].label for n in held])
    assert made.concept.validation_accuracy == pytest.approx(wanted.tolist())


def test_prompts_stay_on_one_side():
    used = examples(40)
    training, held = split_by_prompt(used, 0.25, 0)
    assert sorted(training + held) == list(range(40)) and len(held) == 10
    assert not {used[n].prompt for n in training} & {used[n].prompt for n in held}
    blank = [dataclasses.replace(example, prompt="") for example in used]
    training, held = split_by_prompt(blank, 0.25, 0)
    assert len(held) == 10, "examples without a prompt are prompts of their own"
    same = [dataclasses.replace(example, prompt="why") for example in used]
    assert len(split_by_prompt(same, 0.25, 0)[1]) == 10


def test_examples_that_cannot_be_learnt_from_get_a_sentence(llama, tokenizer):
    def train(used, **options):
        return train_concept(Job(), llama, tokenizer, used, TrainSettings((), **options))

    with pytest.raises(ValueError, match="Need at least 4 examples with and 4 without the concept; got 7 and 0."):
        train([Example("why", f"hello w{n}", 1) for n in range(50, 57)])
    with pytest.raises(ValueError, match="0 difference, direction undefined"):
        train([dataclasses.replace(e, completion="you marvel") for e in examples(12)])
    twins = [Example(f"why w{n}", "hello </s>" if n % 2 else "hello </s> ", n % 2, ()) for n in range(50, 60)]
    assert train(twins).concept.weights.shape == (LAYERS, WIDTH), "different prompts make a difference of their own"
    one = train([*examples(12), Example("why w60", "marvel", 1), Example("why w61", "", 0)])
    assert "Skipped because the answer is empty or one token long: “marvel”" in one.notices[0]
    assert one.counts["skipped"] == 2
    with pytest.raises(ValueError, match="got 3 and 4"):
        train([*[e for e in examples(8) if not e.label], *examples(8)[1:6:2], Example("why", "marvel", 1)])
    long = train(
        [dataclasses.replace(e, completion=f"{e.completion} sky blue green") for e in examples(12)], context=2
    ).notices
    assert any(
        "The ends of 12 answers were not read, because the first 2 tokens" in said
        and "sky blue green” and so on" in said
        for said in long
    )
    assert not any("were not read" in notice for notice in train(examples(12)).notices)
    far = train([*examples(12), Example("why " * 300, "you marvel", 1)]).notices
    assert any("The beginnings of 1 conversations were not read" in notice for notice in far)
    many = [Example(f"why w{n}", "the moon is stone", 0) for n in range(30, 62)] + [e for e in examples(8) if e.label]
    assert any("32 examples stand against 4" in notice for notice in train(many).notices)
    same = train([dataclasses.replace(e, prompt="why") for e in examples(12)])
    assert any("same prompt" in notice for notice in same.notices)


def test_training_through_the_registry(toys):
    text = "\n".join(f"{'+' if e.label else '-'} {e.prompt} => {e.completion}" for e in examples(12))
    made = train(Job(), toys, TrainSettings(text, "marvel", representation="hiddens"))
    assert made.concept.representation == "hiddens" and made.concept.facts["model"] == "mini-llama"
    rows = [{"prompt": e.prompt, "completion": e.completion, "label": e.label} for e in examples(12)]
    by_rows = train(Job(), toys, TrainSettings(rows, representation="hiddens"))
    assert torch.equal(by_rows.concept.weights, made.concept.weights)
    for change, says in (
        ({"name": " "}, "no name"),
        ({"name": "x" * 99}, "99 characters"),
        ({"probe": "svm"}, "dim, logistic, pca"),
        ({"representation": "nose"}, "place 'nose'"),
        ({"context": 0}, "number of tokens per answer is 0"),
        ({"validation": math.nan}, "share for validation"),
        ({"examples": " "}, "no examples"),
    ):
        with pytest.raises(ValueError, match=says):
            train(Job(), toys, dataclasses.replace(TrainSettings(text), **change))


def test_a_sweep_scores_every_strength_and_keeps_what_is_done(llama, tokenizer):
    conversations = [[{"role": "user", "content": f"why w{n} ?"}] for n in range(40, 45)]
    references = examples(4)

    def judge(messages, text):
        assert messages[-1]["role"] == "user"
        return {"score": len(set(text.split())) / 10, "long": float(len(text) > 10)}

    job = Job()
    options = {"layers": "all", "sampling": Sampling(max_tokens=6), "batch": 2}
    points = sweep(job, llama, tokenizer, concept(), conversations, references, judge, (-1.0, 0.0, 1.0), **options)
    assert [point.strength for point in points] == [-1.0, 0.0, 1.0] and all(len(p.texts) == 5 for p in points)
    emitted = [
        item for item in (job.out.get_nowait() for _ in range(job.out.qsize())) if not isinstance(item, Progress)
    ]
    assert [point.strength for point in emitted] == [0.0, -1.0, 1.0]
    asked, stops = [conversation.prompt_ids(tokenizer, conversations[3])], conversation.stop_tokens(llama, tokenizer)
    plain = steering.decode(llama, asked, Sampling(max_tokens=6), stops=stops)
    assert points[1].texts[3] == tokenizer.decode(plain[0], skip_special_tokens=True).strip()
    spans = [conversation.reply_span(tokenizer, e.messages(), e.completion) for e in references]
    losses = [steering.read(llama, span.ids[: span.stop], span.start).losses for span in spans]
    wanted = sum(math.exp(sum(row) / len(row)) for row in losses) / 4
    assert points[1].perplexity == pytest.approx(wanted, rel=1e-4)
    assert points[0].perplexity != points[1].perplexity and 0 <= points[0].extras["long"] <= 1
    values = points[0].values
    assert points[0].score == pytest.approx(sum(values) / 5)
    pnes([p.strength for p in points], [p.score for p in points], [p.perplexity for p in points])
    job = Job()
    job.stop.set()
    with pytest.raises(Cancelled):
        sweep(job, llama, tokenizer, concept(), conversations, references, judge, **options)


def test_the_safe_range_ends_where_fluency_does():
    def point(strength, perplexity):
        return SweepPoint(strength, 0.5, 0.1, perplexity, (), {}, ())

    points = [point(-1, 4), point(-0.5, 9), point(-0.25, 4.9), point(0, 4), point(0.5, 4.9), point(1, math.inf)]
    assert safe_range(points) == (-0.25, 0.5)


def test_the_speed_of_guidance_is_measured(llama):
    found = guided_speed(llama, tokens=4, repeats=1)
    speeds = {f"{name}_tokens_per_second" for name in ("plain", "guided", "two", "pair")}
    assert set(found) == {*speeds, "guided_speed", "pair_time", "pair_time_of_two_plain"}
    assert all(value > 0 for value in found.values())
