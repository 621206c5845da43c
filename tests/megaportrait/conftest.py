"""A toy MegaPortrait, a person that it learnt, and a run."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.megaportrait import (
    Request,
    learn,
)
from pipelines.models import sdxl
from tests.toys import portrait as toy_portrait
from tests.toys.portrait_runs import QUICK, RECIPE, TRAINING, drained, run


@pytest.fixture(scope="module")
def toy():
    with toy_portrait.installed():
        yield


@pytest.fixture(scope="module")
def registry(toy):
    return Registry("cpu")


@pytest.fixture(scope="module")
def pictures():
    return RECIPE.pictures(2)


@pytest.fixture(scope="module")
def reference():
    return RECIPE.picture()


@pytest.fixture(scope="module")
def trained(registry, pictures):
    """(person, what the training emitted)"""
    job = Job(limit_s=1e9)
    person = learn.train_person(job, registry, pictures, TRAINING, "Ada", rendered=True)
    for value in person.adapter.values():  # four steps hardly move a LoRA: make its effect visible
        value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return person, drained(job)


@pytest.fixture
def person(trained):
    return trained[0]


@pytest.fixture(scope="module")
def plain(registry, reference, trained):
    """The outcome of the request as it is."""
    return run(registry, Request(reference, trained[0], settings=QUICK, rendered=True))


@pytest.fixture
def unet(registry):
    with registry.lease(sdxl.FIRST["mini"].parts[0]) as (model,):
        return model


@pytest.fixture
def request_(reference, person):
    return Request(reference, person, settings=QUICK, rendered=True)
