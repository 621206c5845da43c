"""Saved edits: the two small matrices make the same weights, their file is checked, and the lab counts what λ costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import save_file

from demos.time_edit import lab
from demos.time_edit import saved as page
from pipelines import time_edit
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.models import sdxl
from pipelines.time_edit import EVERYTHING, Settings, saved, sweep
from pipelines.time_edit.cases import cases
from pipelines.time_edit.editing import POOLED, TimeEdit, about, applied, edited, factors, projections, shown
from pipelines.time_edit.saved import METADATA, TENSORS, Edit
from pipelines.time_edit.sweep import LAMBDAS, MEASURES, SweepSettings, Tally

SMALL = dataclasses.replace(
    Settings.of("mini"),
    edits="a cube => a red cube",
    related="",
    unrelated="a ball",
    contradicting="a blue cube",
    steps=4,
    seed=4,
)
WIDTH = 192


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


@pytest.fixture(scope="module")
def edit(registry: Registry) -> Edit:
    return time_edit.make(Job(1e9), registry, SMALL)


def test_the_two_small_matrices_make_what_the_papers_formula_makes():
    generator = torch.Generator().manual_seed(0)
    w, c, twin = (torch.randn(*shape, generator=generator) for shape in ((5, 7), (3, 7), (3, 7)))
    other = torch.randn(4, 7, generator=generator)
    held = 0.4 * torch.eye(7) + other.mT @ other
    assert torch.allclose(applied(w, *factors(c, twin, held)), edited(w, c, twin, held), atol=1e-6)


def test_a_file_holds_the_edit(edit: Edit, tmp_path: Path):
    path = saved.write(edit, tmp_path / "red.safetensors")
    found = saved.read(path, "mini")
    assert all(getattr(found, name).tobytes() == getattr(edit, name).tobytes() for name in TENSORS)
    assert len(edit.shift) > len(edit.whole_shift) == 1, "all tokens, and the prompt as a whole"
    assert (found.edits, found.layers, found.regularisation, found.protect) == (
        "a cube => a red cube",
        EVERYTHING,
        SMALL.regularisation,
        SMALL.protect,
    )
    assert path.stat().st_size < 150_000


def test_a_saved_edit_draws_the_same_pictures_as_the_one_that_is_worked_out(
    registry: Registry, edit: Edit, tmp_path: Path
):
    again = saved.read(saved.write(edit, tmp_path / "red.safetensors"), "mini")
    settings = dataclasses.replace(SMALL, regularisation=9999.0)  # of no matter: the line is among the saved ones
    kept = time_edit.generate(Job(1e9), registry, settings, [again])
    made = time_edit.generate(Job(1e9), registry, SMALL)
    assert kept.edited.tobytes() == made.edited.tobytes() and kept.related.tobytes() == made.related.tobytes()
    assert kept.related.size[1] == 272, "what says otherwise, before and after, side by side"
    assert made.measurements["contradiction"]["before"] == [1, 1]


def test_what_is_saved_joins_what_is_on_the_page(edit: Edit):
    both = time_edit.together(dataclasses.replace(SMALL, edits="a ball => a green ball"), [edit])
    assert both.pairs == (("a cube", "a red cube"), ("a ball", "a green ball"))
    assert time_edit.together(SMALL, [edit]).edits == SMALL.edits
    many = dataclasses.replace(SMALL, edits="\n".join(f"a {n} => b" for n in "wxyz"))
    with pytest.raises(ValueError, match="There are 5 edits and at most 4"):
        time_edit.together(many, [edit]).validated()


def test_several_edits_add_up(registry: Registry, edit: Edit):
    other = time_edit.make(
        Job(1e9), registry, dataclasses.replace(SMALL, edits="a ball => a green ball", layers="values")
    )
    assert len(other.whole_shift) == 0

    def work(**parts):
        editor = TimeEdit(parts)
        before = {name: part.weight for name, part in projections(editor.unet, EVERYTHING).items()}
        return before, *(editor.weights(some) for some in ([edit], [other], [edit, other]))

    before, first, second, both = registry.run(sdxl.BASES["mini"].named, work)
    assert len(second) == (len(first) - 1) / 2 and set(both) == set(first)
    assert torch.equal(both[POOLED], first[POOLED]) and not torch.equal(first[POOLED], before[POOLED])
    assert torch.equal(first[POOLED][:, -96:], before[POOLED][:, -96:]), "what reads the picture's size is let alone"
    name = next(iter(second))
    summed = first[name] + second[name] - before[name]
    assert torch.allclose(both[name], summed, atol=1e-5)
    assert torch.equal(both[name.replace("to_v", "to_k")], first[name.replace("to_v", "to_k")]), "values only"


def test_an_edit_of_another_width_is_refused(registry: Registry, edit: Edit):
    narrow = dataclasses.replace(edit, shift=edit.shift[:, :9], reading=edit.reading[:, :9])
    with pytest.raises(ValueError, match="does not fit this model's prompts"):
        registry.run(sdxl.BASES["mini"].named, lambda **parts: TimeEdit(parts).weights([narrow]))


FACTS = {"format": 2, "edits": "a => b", "layers": "values", "regularisation": 1.0, "protect": 0.0, "model_set": "mini"}


@pytest.mark.parametrize(
    ("tensors", "facts", "says"),
    [
        ({"shift": None}, {}, "holds no edit that can be read"),
        ({name: None for name in TENSORS}, {}, "holds no edit that can be read"),
        (None, None, "holds no edit that can be read"),
        (None, {"format": 1}, "holds no edit that can be read"),
        (None, {"format": 7}, "holds no edit that can be read"),
        (None, {"mark": "another"}, "is of another model than mini-sdxl"),
        (None, {"layers": "all"}, "says what cannot be"),
        (None, {"edits": "a cube"}, "says what cannot be"),
        (None, {"regularisation": -1.0}, "says what cannot be"),
        ({"reading": numpy.zeros((2, 4))}, {}, "not pairs of tables of finite numbers"),
        ({"whole_shift": numpy.full((1, 4), numpy.inf)}, {}, "not pairs of tables of finite"),
        ({"shift": numpy.zeros((2, 3), numpy.float32)}, {}, "not pairs of tables"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, tensors: dict | None, facts: dict | None, says: str):
    path = tmp_path / "mine.safetensors"
    whole = {name: numpy.zeros((1, 4)) if name.startswith("whole") else numpy.zeros((2, 3)) for name in TENSORS}
    held = {name: table for name, table in {**whole, **(tensors or {})}.items() if table is not None}
    told = None if facts is None else {METADATA: json.dumps({**FACTS, "mark": sdxl.mark(sdxl.BASES["mini"]), **facts})}
    save_file(held, path, told)
    with pytest.raises(ValueError, match=says) as caught:
        saved.read(path, "mini")
    assert str(caught.value).endswith(".") and "mine.safetensors" in str(caught.value)


def test_no_safetensors_at_all_and_too_many_are_refused(tmp_path: Path, edit: Edit):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x02 something else entirely")
    with pytest.raises(ValueError, match="holds no edit"):
        saved.read(path, "mini")
    with pytest.raises(ValueError, match="5 saved edits and at most 4"):
        page.came("mini").read([str(path)] * 5)


# --- what says otherwise ---


def test_what_says_otherwise_is_asked_for_what_the_edit_is_about():
    assert about("a blue cube", ["0 colour"]) == {"0 colour": "blue"} and about("a cube", ["0 colour"]) == {}
    rows = shown({"related": {"before": []}, "contradicting": {"before": [], "after": []}})
    assert list(rows["related"]) == ["before", "says otherwise, before", "says otherwise, after"]


def test_cases_are_steady_and_contradict_their_edits():
    some = cases("test", 12, 50_000)
    assert some == cases("test", 12, 50_000)
    for one in some:
        one.validated()
        ((source, destination),) = one.pairs
        for prompt in one.prompts["contradicting"]:
            assert prompt not in (source, destination)


# --- the lab ---


def tally() -> Tally:
    made = Tally(SweepSettings())
    shares = {strength: (4 - n % 2, 4, min(n, 4)) for n, strength in enumerate(LAMBDAS)}
    made.add(
        {
            s: {name: {"after": [right, 4]} for name, right in zip(MEASURES, one, strict=True)}
            for s, one in shares.items()
        }
    )
    return made


def test_the_best_lambda_is_the_one_whose_worst_measure_is_best():
    found = tally()
    assert sweep.best(found.found) == LAMBDAS[4] and found.done == 1
    found.add({s: {name: {"after": [4, 4]} for name in MEASURES} for s in LAMBDAS})
    assert found.found[LAMBDAS[0]]["specificity"] == [4, 8]
    board = lab.board_html(found)
    assert board.count("<svg role") == 1 and "λ = 1000" in board and "[" in lab.sentence(found)


def test_the_lab_needs_a_judge_and_an_edit():
    with pytest.raises(ValueError, match="only the mini set's world has a judge"):
        SweepSettings(model_set="full").validated()
    with pytest.raises(ValueError, match="There is no edit"):
        SweepSettings("mine").validated()
    mine = SweepSettings("mine", count=2, edits="a cube => a red cube", unrelated="a ball", seed=3).validated()
    assert [one.seed for one in mine.cases] == [3, 4]


@pytest.mark.slow
def test_the_lab_counts_an_edit_at_every_lambda(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweep, "LAMBDAS", (10.0, 100_000_000.0))
    asked = SweepSettings(
        "mine", count=1, steps=4, edits="a cube => a red cube", related="a cube on tiles", unrelated="a ball", seed=4
    )
    found = sweep.measure(Job(1e9), registry, asked)
    assert found.done == 1 and found.found[1e8]["specificity"] == [1, 1], "so firm that nothing moves"
    assert found.found[1e8]["efficacy"] == found.before["efficacy"]
    assert found.found[10.0]["generality"][1] == 1
