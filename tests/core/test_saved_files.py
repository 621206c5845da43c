"""Files that visitors keep on their disks are read as they were, and programs call the endpoints as they did.

What `tests/saved/make.py` made is dropped on the served page, as a browser does it; nothing here names a module of the studio.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy
import pytest
from PIL import Image
from safetensors.numpy import load

from demos.core.page import drawn_by_another
from pipelines import golden_noise
from pipelines.core import images
from tests.saved.make import (
    CONCEPT,
    DROP,
    HERE,
    LOAD,
    MASK,
    PERSON,
    PORTRAIT,
    REMOVAL,
    SETTINGS,
    Visitor,
    api,
    restored,
)

RESTORED = json.loads((HERE / "restored.json").read_text(encoding="utf-8"))
API = json.loads((HERE / "api.json").read_text(encoding="utf-8"))


def picture(data: bytes, size: tuple[int, int] | None = None) -> numpy.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return numpy.asarray(image.resize(size or image.size), int)


def inside(data: bytes) -> list[Any]:
    """The tensors' bytes and the facts of a person."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in sorted(archive.namelist())}
    return [(name, json.loads(held) if name.endswith(".json") else held) for name, held in files.items()]


def test_a_picture_of_another_model_says_so():
    models = images.read_settings(HERE / "golden_noise.png")["models"]
    words = drawn_by_another(models, golden_noise.parts("mini"))
    assert "drawn by mini-sdxl/unet, and mini-sdxl2/unet draws here now" in words
    for same in ([], ["mini-sdxl2/unet", "verifier/judge"]):
        assert drawn_by_another(same, golden_noise.parts("mini")) == ""
    assert "<" not in drawn_by_another(["<b>/unet"], golden_noise.parts("mini"))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_saved_file_fills_in_what_it_was_made_with(served: str, name: str):
    now = restored(served, HERE / name)
    assert {label: now.get(label) for label in RESTORED[name]} == RESTORED[name]


@pytest.mark.parametrize(
    ("tab", "name", "shows"),
    [
        (REMOVAL, "georemover.png", "Click the object that is to go"),
        (PORTRAIT, "megaportrait.png", "Reference: its pose, light, clothes and place stay"),
    ],
)
def test_what_was_rendered_is_rendered_again(served: str, tab: str, name: str, shows: str):
    page, result = Visitor(served), Image.open(HERE / name)

    def unlike() -> float:
        """Share of the pixels that are others than in the result, where one object or face was changed."""
        shown = picture(page.fetch(page.value(tab, shows)), result.size)
        return float((numpy.abs(shown - numpy.asarray(result, int)).max(axis=-1) > 24).mean())

    assert unlike() > 0.5, "what the page opens with is another one"
    page.drop(tab, DROP, HERE / name)
    assert unlike() < 0.1


def test_a_person_is_taken_and_given_back_whole(served: str):
    page = Visitor(served)
    page.drop(PORTRAIT, PERSON, HERE / "person.zip")
    assert inside(page.download(PORTRAIT, "Download person")) == inside((HERE / "person.zip").read_bytes())


def test_a_concept_is_taken_and_given_back_whole(served: str):
    page, file = Visitor(served), HERE / "warm_welcome.safetensors"
    page.drop(CONCEPT, LOAD, file)
    assert page.fetch(page.value(CONCEPT, "Download .safetensors")) == file.read_bytes()


def test_a_concept_for_other_programs_is_taken_as_the_same_directions(served: str):
    page = Visitor(served)
    page.drop(CONCEPT, LOAD, HERE / "warm_welcome.gguf")
    taken = load(page.fetch(page.value(CONCEPT, "Download .safetensors")))["W"]
    made = load((HERE / "warm_welcome.safetensors").read_bytes())["W"]
    unit = [rows[1:] / numpy.linalg.norm(rows[1:], axis=1, keepdims=True) for rows in (taken, made)]
    numpy.testing.assert_allclose(*unit, atol=1e-6)
    assert not taken[0].any(), "these programs have no block 0"


def test_a_mask_is_taken_and_given_back_whole(served: str):
    page = Visitor(served)
    page.drop(REMOVAL, MASK, HERE / "mask.png")
    given, back = picture((HERE / "mask.png").read_bytes()), picture(page.download(REMOVAL, "Download mask"))
    times = len(back) // len(given)  # scenes are larger today
    assert back.shape == (times * given.shape[0], times * given.shape[1], 3)
    assert (back[times // 2 :: times, times // 2 :: times] == given).mean() > 0.999


@pytest.mark.parametrize("name", API)
def test_an_endpoint_takes_and_returns_what_it_did(served: str, name: str):
    """New parameters may come at the end, with a default."""
    was, now = API[name], api(served)[name]
    assert now["returns"] == was["returns"]
    assert now["parameters"][: len(was["parameters"])] == was["parameters"]
    assert not any(more["required"] for more in now["parameters"][len(was["parameters"]) :])
