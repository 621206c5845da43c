"""Rendered people as files, a visitor's pictures, and a person in one file."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from skimage import data

from demos.megaportrait import people
from demos.megaportrait.people import NO_PERSON, START, Chosen, Reference, own_pictures, person_file, read_person
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.recipes import Recipe
from tests.core.test_app import python


@pytest.fixture
def person() -> Person:
    """A trained person of two pictures, as `portrait_person` makes them."""
    rng = numpy.random.default_rng(0)
    vectors = rng.normal(size=(2, 128)).astype(numpy.float32)
    return Person(
        "Ada",
        rng.integers(0, 255, (2, 128, 128, 3), numpy.uint8),
        rng.uniform(30, 90, (2, 5, 2)).astype(numpy.float32),
        vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True),
        {"down.0.to_q.lora_A.weight": torch.randn(2, 8), "down.0.to_q.lora_B.weight": torch.randn(8, 2)},
        {
            "model_set": "mini",
            "attributes": {"hair_colour": "blond"},
            "pictures": ["a", "b"],
            "photographs": 0,
            "identity": 11,
            "best_step": 4,
            "steps": 8,
            "score_before": 0.2,
            "checks": [{"step": 4, "loss": 0.5, "score": 0.8}],
        },
    )


@pytest.fixture
def packed(person: Person, tmp_path: Path) -> Path:
    return person_file(person, tmp_path)


# --- rendered people -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_opens_with_a_person_and_a_reference_that_are_rendered_as_their_seeds_say():
    first, made = people.first_person(), people.roll_person(START.person)
    assert [name for name, _picture in first.pictures] == [name for name, _picture in made.pictures]
    pairs = [(mine[1], anew[1]) for mine, anew in zip(first.pictures, made.pictures, strict=True)]
    pairs.append((people.first_reference().picture, people.roll_reference(START.reference).picture))
    for mine, anew in pairs:
        assert numpy.abs(mine.astype(int) - anew).max() <= 2, "python -m demos.megaportrait.people writes it anew"
    assert (first.identity, first.name) == (made.identity, made.name) == (START.person, f"Person {START.person}")
    assert len({made.key, people.first_person().key}) == 2


def test_opening_the_page_renders_nothing():
    code = (
        "import sys; from demos.megaportrait import learn, people, step1; "
        "people.first_person(); people.first_reference(); print('torch' in sys.modules)"
    )
    assert python(code).strip() == "False"
    assert people.FIRST.stat().st_size < 100_000
    assert people.FIRST_REFERENCE.stat().st_size < 100_000


@pytest.mark.parametrize("seed", [-1, 1_000_000, 2.5, None, "11", True])
def test_a_seed_that_a_model_was_trained_on_is_not_rolled(seed):
    with pytest.raises(ValueError, match="The person seed is .* must be a whole number from 0 to 999999"):
        people.roll_person(seed)
    with pytest.raises(ValueError, match="The reference seed is "):
        people.roll_reference(seed)


def test_the_truth_is_known_only_where_both_were_rendered():
    someone, reference = people.first_person(), people.first_reference()
    assert people.truth_of(someone, reference) == Recipe(START.person, START.reference).truth()
    stranger = Chosen("k", "somebody", someone.pictures)
    assert people.truth_of(stranger, reference) is None
    assert people.truth_of(someone, Reference("k", "mine", reference.picture)) is None
    assert people.truth_of(None, reference) is None and people.truth_of(someone, None) is None


def test_learning_changes_the_end_of_the_key_only(person: Person):
    before = people.first_person()
    after = before.learnt(person, "run")
    assert (before.trained, after.trained) == (False, True)
    assert after.key != before.key and after.root == before.root == before.key
    assert after.learnt(person, "other").root == before.root
    assert after.pictures is before.pictures and after.rendered and after.name == "Ada"


# --- a visitor's pictures --------------------------------------------------------------------------------------


def test_files_that_cannot_be_read_get_a_sentence_each_and_the_others_are_taken(tmp_path: Path):
    good, damaged, none = tmp_path / "good.png", tmp_path / "damaged.png", tmp_path / "none.jpg"
    Image.fromarray(data.astronaut()).save(good)
    damaged.write_bytes(good.read_bytes()[:5000])
    none.write_bytes(b"no picture at all")
    pictures, refusals = own_pictures([damaged, good, none])
    assert [name for name, _picture in pictures] == ["good.png"] and (pictures[0][1] == data.astronaut()).all()
    assert refusals[0] == "damaged.png was left out. This picture is damaged or cut short: save or download it again."
    assert refusals[1] == "none.jpg was left out. This file is not a picture that can be read: use a PNG, JPEG or WebP."


def test_pictures_are_made_as_small_as_the_models_need_and_named_apart(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (3000, 1500), "red").save(tmp_path / folder / "image.jpg")
    paths = [tmp_path / "a" / "image.jpg", tmp_path / "b" / "image.jpg"]
    pictures, _refusals = own_pictures(paths, "mini", taken=["image.jpg"])
    assert [name for name, _picture in pictures] == ["image (2).jpg", "image (3).jpg"]
    assert pictures[0][1].shape == (512, 1024, 3)
    assert own_pictures(paths[:1], "full")[0][0][1].shape == (1024, 2048, 3)


@pytest.mark.parametrize(
    ("count", "taken", "words"), [(0, 0, "0 pictures came"), (21, 0, "21 pictures"), (5, 16, "16 are there")]
)
def test_one_to_twenty_pictures_are_taken(count: int, taken: int, words: str):
    with pytest.raises(ValueError, match=f"{words}.*give 1 to 20 of one person"):
        own_pictures(["x.png"] * count, "mini", ["y.png"] * taken)


# --- a person in one file --------------------------------------------------------------------------------------


def test_a_person_comes_back_from_its_file(person: Person, packed: Path):
    back = read_person(packed, "mini")
    assert back.key == person.key and back.name == "Ada" and back.trained
    assert (back.embeddings == person.embeddings).all() and back.facts == person.facts
    assert packed.name == "Ada.zip" and [path.name for path in packed.parent.iterdir()] == ["Ada.zip"]
    chosen = people.chosen_of(back)
    assert chosen.identity == 11 and chosen.rendered and chosen.trained and chosen.name == "Ada"
    assert len(chosen.pictures) == 2 and (chosen.pictures[1][1] == person.crops[1]).all()


def test_a_photograph_is_nobody_s_rendering(person: Person, tmp_path: Path):
    claims = dataclasses.replace(person, facts=person.facts | {"photographs": 1})
    back = read_person(person_file(claims, tmp_path))
    assert "identity" not in back.facts and not people.chosen_of(back).rendered


def test_facts_of_another_kind_are_left_out(person: Person, tmp_path: Path):
    odd = {
        "pictures": 7,
        "checks": [{"step": "<b>"}],
        "losses": "many",
        "identity": -3,
        "seconds": "soon",
        "best_step": True,
        "remarks": [["a"]],
        "readings": [{"a": "b"}],
        "score_before": [],
        "settings": {"seed": []},
        "own": "<script>",
    }
    odd |= {"score_before": 10**400}
    back = read_person(person_file(dataclasses.replace(person, facts=person.facts | odd), tmp_path))
    assert back.facts == {
        "model_set": "mini",
        "attributes": {"hair_colour": "blond"},
        "photographs": 0,
        "steps": 8,
    }


def members(packed: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(packed) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def refused(path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(NO_PERSON)}$"):
        read_person(path)


def test_a_file_that_is_no_person_is_refused_in_one_sentence(packed: Path, tmp_path: Path):
    files, odd = members(packed), tmp_path / "odd.zip"
    weights, facts = files["Ada.safetensors"], files["Ada.json"]
    odd.write_bytes(b"no zip")
    refused(odd)
    odd.write_bytes(packed.read_bytes()[:-200])
    refused(odd)
    for wrong in (
        {"Ada.safetensors": weights},
        {**files, "more.txt": b""},
        {"Ada.safetensors": weights, "Bob.json": facts},
        {"../Ada.safetensors": weights, "../Ada.json": facts},
        {"/tmp/Ada.safetensors": weights, "Ada.json": facts},
        {"A;da.safetensors": weights, "A;da.json": facts},
        {"Ada.safetensors": weights[:100], "Ada.json": facts},
        {"Ada.safetensors": b"", "Ada.json": facts},
        {"Ada.safetensors": weights, "Ada.json": b"[]"},
        {"Ada.safetensors": weights, "Ada.json": b"{" * 100_000},
        {"Ada.safetensors": weights, "Ada.json": facts.replace(b'"mini"', b'"maxi"')},
        {"Ada.safetensors": weights, "Ada.json": b" " * (2**20 + 1)},
    ):
        refused(written(wrong, odd))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Ada.zip", "odd.zip"], "nothing was unpacked beside it"


@pytest.mark.parametrize(
    "change",
    [
        {"crops": torch.zeros(2, 64, 64, 3, dtype=torch.uint8)},
        {"crops": torch.zeros(2, 128, 128, 3)},
        {"points": torch.full((2, 5, 2), torch.nan)},
        {"points": torch.zeros(2, 5, 2, dtype=torch.float64)},
        {"points": torch.zeros(2, 5, 2, dtype=torch.bfloat16)},
        {"embeddings": torch.zeros(2, 64)},
        {"embeddings": torch.zeros(3, 128)},
        {"lora.a.lora_A.weight": torch.zeros(2, 8, dtype=torch.int64)},
        {"lora.a.lora_A.weight": torch.full((2, 8), torch.inf)},
        {"more": torch.zeros(1)},
    ],
)
def test_tensors_of_another_kind_are_refused(packed: Path, tmp_path: Path, change: dict[str, torch.Tensor]):
    files = members(packed)
    files["Ada.safetensors"] = save(load(files["Ada.safetensors"]) | change)
    refused(written(files, tmp_path / "odd.zip"))


def test_a_file_that_unpacks_to_more_than_a_person_is_not_unpacked(packed: Path, tmp_path: Path, monkeypatch):
    files = members(packed)
    monkeypatch.setattr("pipelines.megaportrait.person.MOST_BYTES", len(files["Ada.safetensors"]) - 1)
    monkeypatch.setattr("pipelines.core.archives.Archive._unpacked", lambda *_given: pytest.fail("unpacked"))
    refused(packed)


def test_a_person_of_another_model_set_is_refused(person: Person, tmp_path: Path):
    facts = person.facts | {"model_set": "full"}
    other = dataclasses.replace(
        person,
        facts=facts,
        crops=numpy.zeros((2, 512, 512, 3), numpy.uint8),
        embeddings=numpy.zeros((0, 0), numpy.float32),
    )
    path = person_file(other, tmp_path)
    assert read_person(path).model_set == "full"
    with pytest.raises(ValueError, match="Ada was trained for the model set full and this page runs mini"):
        read_person(path, "mini")


def test_the_file_holds_both_files_of_a_saved_person(packed: Path):
    files = members(packed)
    assert set(files) == {"Ada.safetensors", "Ada.json"}
    assert json.loads(files["Ada.json"])["identity"] == 11
    assert zipfile.is_zipfile(io.BytesIO(packed.read_bytes()))
