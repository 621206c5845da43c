"""Persons of toy size: learnt, kept in files, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.megaportrait import (
    learn,
    trainer,
)
from pipelines.megaportrait import person as portrait_person
from pipelines.megaportrait.learn import Checkpoint, Lesson, Training
from tests.toys.portrait_runs import TRAINING, StopsAt, drained, run


def test_training_tells_its_course_and_keeps_the_best(trained):
    person, items = trained
    lessons = [item for item in items if isinstance(item, Lesson)]
    checkpoints = [item for item in items if isinstance(item, Checkpoint)]
    assert [lesson.step for lesson in lessons] == [2, 4] and lessons[0].picture.size == (256, 128)
    assert checkpoints and checkpoints[-1].step == person.facts["best_step"]
    best = max(lessons, key=lambda lesson: lesson.score)
    assert next(
        check["score"] for check in person.facts["checks"] if check["step"] == person.facts["best_step"]
    ) == round(best.score, 5)
    texts = [item.text for item in items if isinstance(item, Progress)]
    assert any(text.startswith("step 3, loss ") and "s left" in text for text in texts)
    assert len(person.facts["losses"]) == person.facts["steps"] == 4


def test_training_gives_the_same_adapter_again_and_the_model_back(registry, pictures, unet):
    before = fingerprint(unet)
    settings = dataclasses.replace(TRAINING, steps=2, checks=1)
    first, second = (learn.train_person(Job(1e9), registry, pictures, settings, rendered=True) for _ in range(2))
    assert fingerprint(unet) == before and first.key == second.key
    assert all(torch.equal(first.adapter[name], second.adapter[name]) for name in first.adapter)
    assert {value.shape[0] if ".lora_A." in name else value.shape[1] for name, value in first.adapter.items()} == {2}


def test_learning_lowers_the_loss(registry, pictures):
    person = learn.train_person(
        Job(1e9), registry, pictures, Training(seconds=600, steps=24, checks=1, rank=16, rate=1e-2), rendered=True
    )
    losses = person.facts["losses"]
    assert sum(losses[-8:]) < 0.97 * sum(losses[:8])


def test_a_stopped_training_leaves_its_last_checkpoint_and_the_model(registry, pictures, unet):
    before, job = fingerprint(unet), StopsAt("step 3,")
    with pytest.raises(Cancelled):
        learn.train_person(job, registry, pictures, TRAINING, rendered=True)
    kept = [item for item in drained(job) if isinstance(item, Checkpoint)]
    assert [one.step for one in kept] == [2] and kept[0].person.trained
    assert "score_before" in kept[0].person.facts
    assert fingerprint(unet) == before


def test_enough_ends_training_with_a_person(registry, pictures):
    person = learn.train_person(Job(1e9), registry, pictures, TRAINING, rendered=True, enough=lambda: True)
    assert person.facts["steps"] == 1 and person.trained


def test_a_saved_person_makes_the_same_portrait(registry, request_, person, plain, tmp_path):
    portrait_person.save(person, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Ada.json", "Ada.safetensors"]
    loaded = portrait_person.load(tmp_path, "Ada")
    assert loaded.key == person.key and loaded.mean == pytest.approx(person.mean)
    again = run(registry, dataclasses.replace(request_, person=loaded))
    assert again.best.result.tobytes() == plain.best.result.tobytes()
    (row,) = portrait_person.listed(tmp_path)
    assert row["name"] == "Ada" and row["pictures"] == 2 and row["trained"]
    assert json.loads((tmp_path / "Ada.json").read_text())["mean"] == pytest.approx(person.mean.tolist())
    assert portrait_person.delete(tmp_path, "Ada") and not list(tmp_path.iterdir())
    assert not portrait_person.delete(tmp_path, "Ada")


def test_foreign_files_are_no_persons(person, tmp_path):
    path = portrait_person.save(person, tmp_path)
    good, facts = load_file(path), path.with_suffix(".json").read_text()

    def refused() -> None:
        with pytest.raises(ValueError, match="'Ada' are not a saved person"):
            portrait_person.load(tmp_path, "Ada")

    lora = next(name for name in good if name.startswith("lora."))
    for change in (
        {"crops": good["crops"][:, :64].contiguous()},
        {"points": good["points"][:1].clone()},
        {lora: torch.full_like(good[lora], float("nan"))},
        {"extra": good["points"].clone()},
    ):
        save_file({**good, **change}, path)
        refused()
    path.write_bytes(b"no safetensors")
    refused()
    save_file(good, path)
    for text in (
        "{",
        "[]",
        json.dumps(json.loads(facts) | {"format": 9}),
        json.dumps(json.loads(facts) | {"attributes": {"a": 1}}),
    ):
        path.with_suffix(".json").write_text(text)
        refused()
    path.with_suffix(".json").write_text("no json")
    assert portrait_person.listed(tmp_path) == []


def test_a_person_of_another_model_is_refused_and_nothing_is_changed(registry, request_, person, unet):
    before = fingerprint(unet)
    kernels = {name: value for name, value in person.adapter.items() if value.ndim == 4}
    wide = {name: torch.cat([value, value], 1) for name, value in person.adapter.items()}
    flat = {name: value[..., :1] for name, value in kernels.items() if value.shape[-1] == 3}
    sums = {name: value.flatten(1) for name, value in kernels.items()}
    for adapter in (wide, flat, sums):
        other = dataclasses.replace(person, adapter=person.adapter | adapter)
        with pytest.raises(ValueError, match="'Ada' was trained for another model"):
            run(registry, dataclasses.replace(request_, person=other))
    assert fingerprint(unet) == before


def test_the_small_model_learns_beside_its_convolutions_and_the_full_one_beside_its_attention(person, unet):
    """The small UNet has no attention at its finest level, where a face's features are."""
    places = {name.rpartition(".lora_")[0] for name in person.adapter}
    layers = {name for name, part in unet.named_modules() if isinstance(part, torch.nn.Conv2d)}
    assert layers <= places and {name for name in places if name.endswith("to_q")}
    assert any("down_blocks.0.resnets" in name for name in places)
    assert set(trainer.TARGETS["full"]) == set(trainer.ATTENTION) < set(trainer.TARGETS["mini"])


@pytest.mark.parametrize("name", ["", " ", "../Ada", "a/b", "a" * 41, None, "-x", ".hidden"])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    for act in (portrait_person.load, portrait_person.delete):
        with pytest.raises(ValueError, match="cannot be used: take 1 to 40 letters"):
            act(tmp_path, name)
