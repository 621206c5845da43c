"""A registry of toy models, and a rendered scene with its truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import gradio as gr
import pytest
from PIL import Image

import app
from pipelines import georemover
from pipelines.core.registry import Registry
from pipelines.georemover import Request
from tests.georemover.page import TOY
from tests.georemover.toys import FAST
from tests.toys import flux as toy_flux


@pytest.fixture(scope="module")
def base():
    with toy_flux.installed() as made:
        yield made


@pytest.fixture(scope="module")
def registry(base):
    return Registry("cpu")


@pytest.fixture(scope="module")
def pair():
    return dataclasses.replace(georemover.EXAMPLES[2], scale=1).pair()


@pytest.fixture
def request_(pair):
    return Request(Image.fromarray(pair.image), pair.mask, FAST, truth=pair)


@pytest.fixture
def steps(registry, base):
    """Rows of tokens in each call of the real transformer since the test began: 96 for one panel, 288 for a strip."""
    with registry.lease(*base.parts) as parts:
        transformer = parts[0]
    seen: list[int] = []
    handle = transformer.register_forward_hook(lambda _m, _a, out: seen.append(out[0].shape[1]))
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def page() -> Iterator[gr.Blocks]:
    with toy_flux.installed(TOY):
        yield app.build(app.from_environment())
