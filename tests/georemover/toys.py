"""What the tests of GeoRemover share beside fixtures."""

from __future__ import annotations

import pytest

from pipelines.core.lane import Job
from pipelines.georemover import Settings, generate

FAST = Settings(seed=3, steps_1=4, steps_2=4)


def drain(job: Job) -> list:
    return [job.out.get() for _ in range(job.out.qsize())]


def one_sentence(text: str | None) -> bool:
    return text is not None and text.endswith(".") and "\n" not in text and len(text) < 230


def refused(registry, request) -> str:
    with pytest.raises(ValueError, match=r"[.]$") as caught:
        generate(Job(), registry, request)
    return str(caught.value)
