"""A concept from the visitor's own lines or files: trained, saved, loaded, refused."""

from __future__ import annotations

import csv
import math
import pickle
from pathlib import Path

import gradio as gr
import pytest
import torch

from demos.concept_guidance import make
from pipelines.concept_guidance import files
from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.examples import read_examples
from pipelines.worlds import crumpet
from tests.concept_guidance.test_tab import LINES, ROWS, ask, files_of, turns_of, values
from tests.core.test_app import handler, shown, visit
from tests.toys.language import LAYERS, WIDTH, concept


def train_own(text=LINES, path=None, name="warm", probe="dim", place="hiddens"):
    values = {"name": name, "probe": probe, "representation": place, "context": 16, "validation": 0.2}
    return handler("train_own")(visit("make"), text, path, {}, "mini-llama", **values)


def own_of(updates: list) -> dict[str, Concept]:
    found = [
        v for v in values(updates) if isinstance(v, dict) and v and all(isinstance(c, Concept) for c in v.values())
    ]
    return found[-1]


def test_ten_lines_become_a_concept_that_guides_is_saved_and_loads(page_toys, tmp_path: Path, monkeypatch):
    run = list(train_own())
    page = shown(run)
    for words in ("Made: warm", "held out", "Nearest shipped", "A sample", "+0.3", "few: 32 of each kind"):
        assert words in page or words == "Nearest shipped", words
    made = own_of(run)["warm"]
    saved, gguf = files_of(run)[:2]
    assert saved.endswith("warm.safetensors") and gguf.endswith("warm.gguf")
    answer = list(ask("make", own={"warm": made}, rows=[["warm", "", 0.5, True], *ROWS[1:]]))
    assert turns_of(answer)[0].outcome.applied.startswith("warm +0.50")

    monkeypatch.setattr("demos.concept_guidance.make.size", lambda *which: (LAYERS, WIDTH))
    for path in (saved, gguf):
        back = handler("load")(path, {}, "mini-llama", visit("make"))
        loaded = own_of([back])["warm"]
        torch.testing.assert_close(loaded.unit()[1:], made.unit()[1:])
        assert "Loaded warm." in shown([back])

    at_attention = list(train_own(place="pre-attn", name="humour"))
    assert "No .gguf" in shown(at_attention) and "my humour" in own_of(at_attention), "shipped names stay free"
    detects = list(train_own(place="mlp"))
    assert "can detect but not guide" in shown(detects)


def test_files_of_examples_work_too(page_toys, tmp_path: Path):
    path = tmp_path / "pirates.csv"
    rows = [
        {"prompt": "why", "completion": f"hello {n} marvel" if n % 2 else f"green {n} sky", "label": n % 2}
        for n in range(10)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "label"])
        writer.writeheader()
        writer.writerows(rows)
    run = list(train_own("", str(path), ""))
    assert "pirates" in own_of(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": " "}, "There are no examples"),
        ({"text": "+ a => b\n- a => c\n+ d"}, "Need at least 4 examples"),
        ({"text": "\n".join(["+ a => b"] * 9)}, "got 9 and 0"),
        ({"text": "hello"}, "neither + nor -"),
        ({"text": LINES, "name": " "}, "no name"),
        ({"name": "x" * 60}, "60 characters"),
    ],
)
def test_examples_that_teach_nothing_get_a_sentence(change: dict, words: str):
    with pytest.raises(gr.Error) as caught:
        next(train_own(**change))
    assert words in caught.value.message and caught.value.message.endswith((".", "!"))


def test_files_that_are_no_vectors_are_refused_in_one_sentence(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("demos.concept_guidance.make.size", lambda *which: (6, 192))
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda words, **more: said.append(words))
    small, bad = concept(), concept()
    bad.weights[0, 0] = math.nan
    paths = {
        name: tmp_path / name
        for name in ("a.pkl", "small.safetensors", "nan.safetensors", "text.safetensors", "x.gguf")
    }
    paths["a.pkl"].write_bytes(pickle.dumps({"W": 1}))
    files.write_safetensors(paths["small.safetensors"], small)
    files.write_safetensors(paths["nan.safetensors"], bad)
    paths["text.safetensors"].write_text("hello")
    paths["x.gguf"].write_bytes(b"GGUF\x03\0\0\0")
    words = {
        "a.pkl": "is a pickle",
        "small.safetensors": "do not fit",
        "nan.safetensors": "NaN",
        "text.safetensors": "not a safetensors file",
        "x.gguf": "not a complete GGUF",
    }
    for name, path in paths.items():
        (update,) = handler("load")(str(path), {}, "mini-llama", visit("make")).values()
        assert update is None, "the zone is empty again"
        assert words[name] in said[-1] and said[-1].endswith(".") and str(tmp_path) not in said[-1]


def test_the_example_has_only_words_that_the_model_knows():
    examples = read_examples(make.EXAMPLE)
    assert len(examples) == 10 and sum(example.label for example in examples) == 5
    lost = {word for e in examples for word in crumpet.unknown_words(f"{e.prompt} {e.completion}")}
    assert not lost
    assert len(read_examples(make.PLAIN_EXAMPLE)) == 10
