"""Quick runs of the toy MegaPortrait, for its tests."""

from __future__ import annotations

import dataclasses

import numpy

from pipelines import megaportrait
from pipelines.core.lane import Job, Progress
from pipelines.megaportrait import (
    Settings,
)
from pipelines.megaportrait.learn import Training
from pipelines.megaportrait.recipes import Recipe

QUICK = Settings(
    candidates=1,
    identity_steps=6,
    identity_strength=0.55,
    shading_steps=6,
    shading_strength=0.35,
    harmonise_steps=7,
    seed=3,
)
"""3, 2 and 2 effective steps."""
TRAINING = Training(seconds=600, steps=4, checks=2, rank=2)
RECIPE = Recipe(11, 203)


def drained(job: Job) -> list:
    return [job.out.get_nowait() for _ in range(job.out.qsize())]


def run(registry, request, cache=None, job=None, **changes):
    settings = dataclasses.replace(request.settings, **changes)
    return megaportrait.generate(job or Job(1e9), registry, dataclasses.replace(request, settings=settings), cache)


def pixels(image) -> numpy.ndarray:
    return numpy.asarray(image)


class StopsAt(Job):
    """A job whose reader goes away when a progress text contains a word."""

    def __init__(self, word: str) -> None:
        super().__init__(1e9)
        self.word = word

    def emit(self, item):
        if isinstance(item, Progress) and self.word in item.text:
            self.stop.set()
        super().emit(item)
