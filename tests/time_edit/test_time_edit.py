"""TIME: the formula, twins of words, an edit that changes what it should and leaves no trace, and the tab."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from demos.time_edit import figures
from pipelines import time_edit
from pipelines.core.lane import Job, Progress, live
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.stages import Cache
from pipelines.time_edit import EXAMPLES, Settings
from pipelines.time_edit.editing import TimeEdit, edited, projections, twins, wearing


def test_the_edit_is_the_least_of_the_papers_objective():
    generator = torch.Generator().manual_seed(0)
    w, c, twin = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 7), (3, 7), (3, 7)))

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ((x @ c.mT - w @ twin.mT) ** 2).sum() + 0.4 * ((x - w) ** 2).sum()

    found = edited(w, c, twin, 0.4 * torch.eye(7, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(loss(found), found)
    assert slope.abs().max() < 1e-10, "nothing near it is better"
    assert loss(found) < loss(w)


def test_a_large_lambda_leaves_the_weights_and_a_small_one_makes_source_and_twin_read_alike():
    w, c, twin = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3, 7)
    assert torch.allclose(edited(w, c, twin, 1e9 * torch.eye(7)), w, atol=1e-5)
    assert torch.allclose(edited(w, c, twin, 1e-9 * torch.eye(7)) @ c.mT, w @ twin.mT, atol=1e-3)


def test_what_is_protected_reads_as_before():
    w, c, twin, kept = torch.randn(5, 9), torch.randn(1, 9), torch.randn(1, 9), torch.randn(4, 9)
    free, firm = (edited(w, c, twin, 0.1 * torch.eye(9) + mu * kept.mT @ kept) for mu in (0.0, 1e4))
    moved = [((one - w) @ kept.mT).abs().max() for one in (free, firm)]
    assert moved[1] < 0.01 * moved[0]


@pytest.mark.parametrize(
    ("source", "destination", "found"),
    [
        ([0, 5, 7, 1, 1], [0, 5, 6, 7, 1], [0, 1, 3, 4, 4]),  # a word came in
        ([0, 5, 1], [0, 5, 5, 1], [0, 2, 3]),  # twice: its last copy
        ([0, 5, 7, 1], [0, 5, 8, 1], [0, 1, 2, 3]),  # another word in its place
        ([0, 1], [0, 1], [0, 1]),
    ],
)
def test_words_find_their_twins(source: list[int], destination: list[int], found: list[int]):
    made = twins(source, destination)
    assert made[: len(found)] == found or made == found


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


SMALL = dataclasses.replace(
    Settings.of("mini"),
    edits="a cube => a red cube",
    related="a cube on tiles",
    unrelated="a ball",
    contradicting="",
    steps=8,
    count=2,
    seed=4,
)


@pytest.fixture(scope="module")
def outcome(registry: Registry) -> time_edit.Outcome:
    return time_edit.generate(Job(1e9), registry, SMALL)


def test_a_cube_becomes_red_and_a_ball_keeps_its_colour(outcome: time_edit.Outcome):
    measured = outcome.measurements
    assert measured["efficacy"]["after"] == [2, 2] and measured["efficacy"]["before"][0] < 2
    assert measured["generality"]["after"] == [2, 2] and measured["specificity"]["after"] == [2, 2]
    assert 0.02 < measured["share_of_weights"] < 0.1 and measured["matrices"] == len(outcome.weights)
    assert outcome.edited.size == (512, 3 * 272) and outcome.related.size == (512, 2 * 272)
    assert figures(outcome)["Efficacy, higher is better"].startswith("2 of 2, before ")


def test_the_model_is_as_it_was_and_a_second_run_gives_the_same_pictures(registry, outcome):
    with registry.lease(time_edit.parts("mini")["unet"]) as (unet,):
        before = fingerprint(unet)
        again = time_edit.generate(Job(1e9), registry, SMALL)
        assert fingerprint(unet) == before
        held = dict(unet.named_modules())
        with wearing(unet, again.weights):
            assert fingerprint(unet) != before
        assert fingerprint(unet) == before and held == dict(unet.named_modules())
    for kind in ("edited", "related", "unrelated"):
        assert getattr(again, kind).tobytes() == getattr(outcome, kind).tobytes()


def test_other_weights_are_tried_without_drawing_the_unedited_pictures_again(registry, outcome, monkeypatch):
    drawn, painted = [], TimeEdit.painted

    def counted(self, settings, prompts, *more):
        drawn.extend(prompts)
        return painted(self, settings, prompts, *more)

    monkeypatch.setattr(TimeEdit, "painted", counted)
    cache, other = Cache(), dataclasses.replace(SMALL, regularisation=30.0)
    time_edit.generate(Job(1e9), registry, SMALL, cache=cache)
    drawn.clear()
    again = time_edit.generate(Job(1e9), registry, other, cache=cache)
    assert sorted(drawn) == sorted(2 * ["a cube", "a cube on tiles", "a ball"])
    alone = time_edit.generate(Job(1e9), registry, other)
    for kind in ("edited", "related", "unrelated"):
        assert getattr(again, kind).tobytes() == getattr(alone, kind).tobytes()
    assert again.edited.tobytes() != outcome.edited.tobytes()


def test_a_run_that_is_stopped_leaves_the_model_as_it_was(registry):
    with registry.lease(time_edit.parts("mini")["unet"]) as (unet,):
        before = fingerprint(unet)
    items = live(time_edit.generate, registry, dataclasses.replace(SMALL, steps=40))
    for item in items:
        if isinstance(item, Progress) and item.fraction > 0.4:  # the edited pictures are being drawn
            break
    items.close()
    with registry.lease(time_edit.parts("mini")["unet"]) as (unet,):
        assert fingerprint(unet) == before


def test_keys_or_values_alone_are_fewer_matrices(registry):
    with registry.lease(time_edit.parts("mini")["unet"]) as (unet,):
        both, keys, values = (set(projections(unet, which)) for which in ("keys and values", "keys", "values"))
    assert both == keys | values and not keys & values and len(keys) == len(values)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"edits": ""}, "There is no edit"),
        ({"edits": "a cube"}, "“a cube” is not of the form source => destination"),
        ({"edits": "a cube => a cube"}, "is not of the form"),
        ({"edits": "\n".join(["a => b"] * 5)}, "There are 5 edits and at most 4"),
        ({"related": "\n".join("a" * 9)}, "There are 9 prompts that should change and at most 8"),
        ({"regularisation": 0}, "λ is 0"),
        ({"count": 9}, "number of pictures is 9"),
    ],
)
def test_wrong_settings_get_one_sentence(wrong: dict, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        dataclasses.replace(SMALL, **wrong).validated()
    assert str(caught.value).endswith(".")


def test_what_is_protected_shares_no_word_with_a_source():
    for model_set in EXAMPLES:
        prompts = time_edit.protected(model_set, ["a cube", "a person"])
        assert len(prompts) > 30 and not [p for p in prompts if {"cube", "person"} & set(p.split())]
