"""The toys of these tests."""

from __future__ import annotations

import dataclasses

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


@pytest.fixture
def page_toys(llama, tokenizer, monkeypatch):
    """The page's model is a toy for the length of a test."""
    names = ("humour", "truthfulness", "politeness")
    vectors = {f"{name}.dim": dataclasses.replace(concept(n, name), name=name) for n, name in enumerate(names)}
    offer(monkeypatch, llama, tokenizer, vectors, neutral_prompt="hello")
