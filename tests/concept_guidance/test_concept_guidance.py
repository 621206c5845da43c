"""Concept guidance: settings, layers and whole runs, on toy models of the real classes."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from pipelines import concept_guidance
from pipelines.concept_guidance import Outcome, Partial, Settings, conversation
from pipelines.concept_guidance.layers import choose_layers
from pipelines.concept_guidance.vectors import parts
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.models import language
from tests.toys.language import (
    LAYERS,
    concept,
)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("best", (1, 4, 5)),
        ("best 2", (1, 4)),
        (2, (1, 4)),
        ("all", (0, 1, 2, 3, 4, 5)),
        ("2-4", (2, 3, 4)),
        ("2–4", (2, 3, 4)),
        (" 1, 3,5 ", (1, 3, 5)),
        ([3, 1], (1, 3)),
        ("0", (0,)),
    ],
)
def test_layers_are_chosen(choice, wanted):
    assert choose_layers(choice, 6, (0.99, 0.8, 0.5, 0.6, 0.9, 0.7)) == wanted


@pytest.mark.parametrize("choice", ["", "worst", "5-2", "7", "best 6", "best 0", None, 1.5, True, "1-2-3", "-1"])
def test_wrong_layers_get_one_sentence(choice):
    with pytest.raises(ValueError, match="layers"):
        choose_layers(choice, 6)


def test_without_accuracies_the_last_layers_are_taken():
    assert choose_layers("best", 6) == (3, 4, 5) and choose_layers("best", 1) == (0,)


MESSAGE = "why is the sky blue"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"message": ""}, "message is empty"),
        ({"message": "  \n"}, "message is empty"),
        ({"message": None}, "message is nothing .null. but must be a text"),
        ({"message": [{"type": "image", "image": "x"}]}, "holds a block of the type 'image'"),
        ({"message": "a" * 100_000}, "100,000 characters"),
        ({"concepts": (("humour", math.nan),)}, "strength of humour is nan"),
        ({"concepts": (("humour", 1.5),)}, "from -1 to 1"),
        ({"concepts": (("humour", "lots"),)}, "strength of humour is 'lots'"),
        ({"concepts": ("humour",)}, "give pairs of a name and a strength"),
        ({"concepts": 5}, "give pairs of a name and a strength"),
        ({"concepts": (("humour", 0.1), ("humour", 0.2))}, "there twice"),
        ({"concepts": tuple((str(n), 0.1) for n in range(5))}, "at most 4 can be mixed"),
        ({"concepts": (("humour", 1000.0),), "mode": "raw"}, "from -512 to 512"),
        ({"mode": "loud"}, "mode 'loud' is unknown: choose one of share, raw"),
        ({"positions": "first"}, "choose one of all, answer, last"),
        ({"layers": "nine"}, "The layers are 'nine'"),
        ({"levels": ()}, "There are 0 levels"),
        ({"levels": (2.0,)}, "level is 2.0"),
        ({"history": "hello"}, "give a list of turns"),
        (
            {"history": ({"role": "robot", "content": "x"},)},
            "turn 1 of the history 'robot' is unknown: choose one of system",
        ),
        ({"history": ({"role": "user", "content": "x" * 200_000},)}, "turn 1 of the history has 200,000"),
        ({"guided_history": ({"role": "user"},)}, "turn 1 of the history is nothing"),
        ({"history": [{"role": "user", "content": "x" * 60_000}] * 2}, "start a new conversation"),
        ({"layers": 0.5}, "layers are 0.5"),
        ({"layers": []}, "layers are an empty list"),
        ({"concepts": ((["humour"], 0.1),)}, "name is a list of 1 but must be a text"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0}, "top-p is 0"),
        ({"max_tokens": 2.5}, "whole number"),
        ({"model_set": "huge"}, "choose one of mini, full"),
        ({"model": "gpt-5"}, "not in the set mini: choose one of mini-llama"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        Settings(**{"message": MESSAGE, **change}).validated()
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 220


def test_right_settings_come_back_with_exact_types():
    settings = Settings(
        MESSAGE + " ",
        [["humour", 1]],
        [{"role": "user", "content": "hello", "metadata": {}}],
        layers=2,
        levels=[1],
        seed=3.0,
        max_tokens=8.0,
    ).validated()
    assert settings == Settings(
        MESSAGE,
        (("humour", 1.0),),
        ({"role": "user", "content": "hello"},),
        layers="best 2",
        seed=3,
        max_tokens=8,
        model="mini-llama",
    )
    assert type(settings.seed) is int and type(settings.concepts[0][1]) is float
    assert Settings(MESSAGE, {"humour": 0.2}).validated().concepts == (("humour", 0.2),)
    assert settings.validated() == settings
    json.dumps(dataclasses.asdict(settings))


def test_importing_the_method_imports_no_model_library():
    code = "import pipelines.concept_guidance, pipelines.concept_guidance.files, sys; print([m for m in ('torch', 'transformers', 'safetensors.torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_smaller_forms_are_offered_where_they_can_be_loaded():
    full = [model for model in language.MODELS["full"] if "bit" not in model.name]
    assert language.with_quantised(full, installed=False) == tuple(full)
    offered = language.with_quantised(full, installed=True)
    assert [model.name for model in offered[:3]] == [full[0].name, f"{full[0].name}-8bit", f"{full[0].name}-4bit"]
    plain, eight, four = (model.parts["model"] for model in offered[:3])
    assert len({plain.key, eight.key, four.key}) == 3 and (eight.dtype, four.dtype) == ("int8", "int4")
    assert plain.bytes == 2 * eight.bytes + plain.bytes % 2 == 4 * four.bytes + plain.bytes % 4
    assert len({parts(model)[name] for model in offered[:3] for name in ("tokenizer", "vectors")}) == 2, (
        "they are shared"
    )
    assert "experimental" in offered[1].title


@pytest.mark.parametrize("dtype", language.QUANTISED)
def test_a_quantised_model_is_guided_too(dtype, monkeypatch):
    pytest.importorskip("bitsandbytes")
    model = language.quantised(language.MODELS["mini"][0], dtype)
    monkeypatch.setitem(language.MODELS, "mini", (model,))
    settings = Settings("What does the goat eat?", (("politeness.dim", -0.4),), max_tokens=40)
    outcome = concept_guidance.generate(Job(), Registry("cpu"), settings)
    assert outcome.rows[0].text != outcome.rows[1].text and "-" + dtype[3:] + "bit" in model.name


def run(registry, job=None, **changes) -> Outcome:
    settings = Settings(**{"message": MESSAGE, "concepts": (("humour", 0.6),), "max_tokens": 10, **changes})
    return concept_guidance.generate(job or Job(), registry, settings)


def test_the_same_settings_give_the_same_texts(toys, llama):
    before = fingerprint(llama)
    first, second = run(toys, seed=7), run(toys, seed=7)
    assert [row.text for row in first.rows] == [row.text for row in second.rows]
    assert first.rows[0].text != first.rows[1].text and first.rows[0].strengths == {"humour": 0.0}
    assert run(toys, seed=6).rows[0].text != first.rows[0].text
    one, two = (concept_guidance.noise_seed(Settings(text, seed=7)) for text in ("one", "two"))
    assert one != two, "another question, other words"
    assert fingerprint(llama) == before
    row = first.rows[1]
    special = ("<s>", "<pad>", "<unk>")
    assert "".join(piece for piece in row.tokens if piece.strip() not in special).strip() == row.text
    assert len(row.scores["humour"]) == LAYERS and len(row.scores["humour"][0]) == len(row.tokens)
    assert all(-1 <= value <= 1 for layer in row.scores["humour"] for value in layer) and row.perplexity > 1
    assert first.applied == "humour +0.60 · layers 2 · pre-attn"
    assert first.measurements["tokens"][0] <= 10 and first.measurements["device"] == "cpu"
    json.dumps(first.measurements)


def test_strength_zero_gives_the_same_answer_twice(toys):
    outcome = run(toys, concepts=(("humour", 0.0),), temperature=1.0)
    assert outcome.rows[0].text == outcome.rows[1].text
    moved = run(toys, concepts=(("humour", 0.9),), temperature=1.0)
    assert moved.rows[0].text == outcome.rows[0].text, "the plain answer does not depend on the guidance"
    silent = run(toys, concepts=())
    assert silent.rows[0].text == silent.rows[1].text and "No concept is chosen" in silent.notices[0]


def test_several_strengths_places_and_own_concepts_run_as_rows(toys):
    outcome = run(toys, concepts=(("humour", 0.4), ("hidden", 0.2)), levels=(0.5, 1.0, -1.0), layers="all")
    assert [row.level for row in outcome.rows] == [0.0, 0.5, 1.0, -1.0]
    assert outcome.rows[3].strengths == {"humour": -0.4, "hidden": -0.2}
    assert "hiddens and pre-attn" in outcome.applied
    mine = {"pirate": concept(9, "pirate")}
    own = concept_guidance.generate(Job(), toys, Settings(MESSAGE, (("pirate", 0.6),), max_tokens=6), mine)
    assert set(own.rows[1].scores) == {"pirate"}
    raw = run(toys, concepts=(("humour", 4.0),), mode="raw", positions="answer")
    assert raw.applied.endswith("answer only") and "+4.00 raw" in raw.applied


def test_notices_tell_what_was_changed(toys):
    outcome = run(toys, concepts=(("humour", 0.9), ("truth", -0.6)))
    assert "add up to 1.50" in outcome.notices[0]
    assert sum(abs(value) for value in outcome.rows[1].strengths.values()) == pytest.approx(1.0)
    twin = {"twin": concept(0, "twin")}
    settings = Settings(MESSAGE + " zeppelin chese", (("humour", 0.3), ("twin", 0.3)), max_tokens=3)
    notices = concept_guidance.generate(Job(), toys, settings, twin).notices
    assert any("humour and twin overlap (cosine +1.00)" in notice for notice in notices)
    assert any("“zeppelin”" in notice and "“chese” (nearest: cheese" in notice for notice in notices)
    with pytest.raises(ValueError, match="'gravity' is unknown to this model: it knows hidden, humour, truth"):
        run(toys, concepts=(("gravity", 0.3),))


def test_a_conversation_longer_than_the_context_loses_its_oldest_turns(toys, tokenizer):
    turns = [{"role": "user", "content": "why " * 20}, {"role": "assistant", "content": "because " * 20}] * 10
    outcome = run(toys, history=[{"role": "system", "content": "hello"}, *turns], guided_history=())
    # 256 positions less 10 to come; 44 tokens each pair, 8 for the rest: five pairs stay.
    assert (
        "oldest 10 turns were left out, from “why why" in outcome.notices[-1] and "to “because" in outcome.notices[-1]
    )
    assert outcome.measurements["prompt_tokens"][0] <= 246 and outcome.measurements["prompt_tokens"][1] < 12
    kept, _, dropped = conversation.fit_history(
        tokenizer, [{"role": "system", "content": "hello"}, *turns, {"role": "user", "content": "why"}], 100
    )
    assert kept[0]["role"] == "system" and kept[1]["role"] == "user" and len(kept) + dropped == 22
    long = run(toys, history=turns, max_tokens=1024, temperature=0.0)
    assert long.measurements["prompt_tokens"][0] + len(long.rows[0].tokens) <= 256, (
        "half is kept for the answer, no more"
    )
    with pytest.raises(ValueError, match="The message has 303 tokens, this model reads at most 246"):
        run(toys, message="why " * 300)


def test_partial_texts_and_progress_arrive_and_stop_ends_within_a_token(toys, llama, monkeypatch):
    monkeypatch.setattr(concept_guidance, "EMIT_EVERY_S", 0.0)
    job = Job()
    outcome = run(toys, job, temperature=0.0)
    items = [job.out.get_nowait() for _ in range(job.out.qsize())]
    partials = [item for item in items if isinstance(item, Partial)]
    assert len(partials) >= 5 and all(len(partial.texts) == 2 for partial in partials)
    assert partials[-1].texts[1].strip() == outcome.rows[1].text
    assert any(isinstance(item, Progress) for item in items)

    class Stopping(Job):
        def emit(self, item):
            super().emit(item)
            if isinstance(item, Partial) and item.tokens == 3:
                self.stop.set()

    job, before = Stopping(), fingerprint(llama)
    with pytest.raises(Cancelled):
        run(toys, job, temperature=0.0)
    items = [job.out.get_nowait() for _ in range(job.out.qsize())]
    assert max(item.tokens for item in items if isinstance(item, Partial)) == 3, "what was written is with the reader"
    assert fingerprint(llama) == before
