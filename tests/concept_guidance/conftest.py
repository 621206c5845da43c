"""The toys of these tests."""

from __future__ import annotations

import pytest

from pipelines.core.registry import Registry
from tests.toys.language import concept, offer, toy, toy_tokenizer


@pytest.fixture(scope="session")
def llama():
    return toy()


@pytest.fixture(scope="session")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture
def toys(llama, tokenizer, monkeypatch):
    """The set "mini" with a toy in place of the shipped model, and a registry to run it with."""
    vectors = {"humour.dim": concept(0), "truth.dim": concept(1, "truth"), "hidden.pca": concept(2, "h", "hiddens")}
    offer(monkeypatch, llama, tokenizer, vectors)
    return Registry("cpu")
