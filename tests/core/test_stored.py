"""What a run found, as files and back."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy
import pytest
from PIL import Image

from demos.core.stored import TAG, Store, files_of
from demos.georemover.painter import Picture
from pipelines.georemover import Recipe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "objects")


def there_and_back(store: Store, value: object) -> object:
    return Store(store.folder).value(json.loads(json.dumps(store.record(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 2.5, math.inf, "Zoë ~", [1, [2]], (1, ("a",)), {"a": 1}, {1: "a", ("b", 2): None}, {TAG: "a"},
        {3, 1}, frozenset({"x"}), Path("a/b"), Recipe(3, count=2), {"deep": [(Recipe(1), {"~": 1})]},
    ],
)  # fmt: skip
def test_plain_values_come_back_as_they_were(store: Store, value: object):
    back = there_and_back(store, value)
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "float32", "int64", "complex64"])
def test_arrays_come_back_bit_by_bit(store: Store, dtype: str):
    value = (numpy.arange(12).reshape(3, 4) * 0.7).astype(dtype)
    back = there_and_back(store, [value, value[0, 0]])
    assert back[0].dtype == value.dtype and back[0].tobytes() == value.tobytes() and back[1] == value[0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pictures_come_back_pixel_by_pixel(store: Store, mode: str):
    value = Image.fromarray(numpy.arange(35, dtype="uint8").reshape(5, 7)).convert("L" if mode == "I;16" else mode)
    value = Image.fromarray(numpy.arange(35, dtype="uint16").reshape(5, 7) * 1800) if mode == "I;16" else value
    back = there_and_back(store, value)
    assert back.mode == value.mode and back.tobytes() == value.tobytes()


def test_tensors_come_back_bit_by_bit(store: Store):
    torch = pytest.importorskip("torch")
    for value in (torch.randn(3, 2), torch.randn(4).bfloat16(), torch.zeros(0, 3), torch.tensor(2.0)):
        back = there_and_back(store, {"weights": value})["weights"]
        assert back.dtype == value.dtype and torch.equal(back, value)


def test_our_objects_come_back_by_their_fields_and_share_files(store: Store):
    picture = Picture(Image.new("RGB", (9, 6), "red"), "key", Recipe(4), numpy.ones((2, 6, 9), bool), ("cube",), 1)
    back = there_and_back(store, [picture, dataclasses.replace(picture, index=0)])
    assert (back[0].key, back[0].recipe, back[0].index, back[1].index) == ("key", Recipe(4), 1, 0)
    assert back[0].image.tobytes() == picture.image.tobytes() and back[0].solids.all()
    assert len(list(store.folder.iterdir())) == 2


@pytest.mark.parametrize("value", [object(), print, numpy.array([object()]), Exception("x"), lambda: 0, type])
def test_what_cannot_be_kept_is_refused(store: Store, value: object):
    with pytest.raises(TypeError, match="cannot be kept"):
        store.record([value])


@pytest.mark.parametrize(
    "record",
    [
        {TAG: "class", "is": "os:system", "fields": {}},
        {TAG: "class", "is": "demos.core.stored:Store", "fields": {"folder": "x"}},
        {TAG: "class", "is": "pipelines.georemover:Recipe", "fields": {"command": "x"}},
        {TAG: "class", "is": "demos.core.visitors:os.system", "fields": {}},
        {TAG: "array", "is": "../../secret.npy"},
        {TAG: "pickle", "is": "x"},
    ],
)
def test_a_record_names_nothing_but_our_dataclasses_and_files_of_its_folder(store: Store, record: dict):
    with pytest.raises(ValueError, match="no (class|file|kind)|not what it was"):
        store.value(record)


def test_what_was_kept_before_a_class_had_a_field_comes_back_with_its_default(store: Store):
    record = store.record(Recipe(4))
    del record["fields"]["count"]
    assert store.value(record) == Recipe(4)
    del record["fields"]["seed"]
    with pytest.raises(ValueError, match="not what it was"):
        store.value(record)


def test_files_that_nobody_needs_go(store: Store):
    kept, gone = (store.record(numpy.full(3, number)) for number in (1, 2))
    store.clean([{"a": [kept]}])
    assert [path.name for path in store.folder.iterdir()] == list(files_of(kept)) != list(files_of(gone))
