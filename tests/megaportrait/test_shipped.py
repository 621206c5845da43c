"""MegaPortrait with the weights that are shipped: a whole run, of a person and a reference that no model was trained on."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines import megaportrait
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.megaportrait import Request, Settings, learn, recipes
from pipelines.megaportrait.learn import Training

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_person_is_learnt_in_time_and_recognised_in_the_portrait():
    registry, recipe = Registry("cpu"), recipes.EXAMPLES[0]
    person = learn.train_person(Job(1e9), registry, recipe.pictures(5), Training.of("mini"), "Ada", rendered=True)
    assert person.facts["seconds"] <= 90
    request = Request(recipe.picture(), person, truth=recipe.truth(), rendered=True)
    bare = dataclasses.replace(request, settings=Settings(no_identity=True, candidates=1))
    best, without = (megaportrait.generate(Job(1e9), registry, one).best.metrics for one in (request, bare))
    identity = best["identity"]
    assert identity["result"]["mean"] > identity["reference"]["mean"]
    assert identity["result"]["mean"] > without["identity"]["result"]["mean"], "the Identity Net brings the person"
    assert best["outside_largest"] == 0
