"""Every file of a batch gets a row: used, or why not."""

from __future__ import annotations

import io
import unicodedata
import zipfile

import pytest

from pipelines.core.archives import open_archive
from pipelines.core.batch_files import entries


def rows(*names: str) -> dict[str, str]:
    """Files of each row, joined -> why nothing can be made of it. Every file is in exactly one row."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with open_archive(data, 600) as opened:
        found = entries(opened.members)
        assert sorted(id(member) for row in found for member in row.files) == sorted(map(id, opened.members))
    return {", ".join(member.name for member in row.files): row.problem for row in found}


def test_pairs_are_told_by_names_in_one_folder():
    assert rows("B.PNG", "b_MASK.jpg", "b_Gt.webp", "x/c.png", "x/c_mask.png") == {
        "B.PNG, b_MASK.jpg, b_Gt.webp": "", "x/c.png, x/c_mask.png": "",
    }  # fmt: skip


def test_both_ways_to_write_an_umlaut_are_one_name():
    one, other = (unicodedata.normalize(form, "Tür") for form in ("NFC", "NFD"))
    assert list(rows(f"{one}.png", f"{other}_mask.png").values()) == [""]


@pytest.mark.parametrize(
    ("names", "row", "says"),
    [
        (["a.png"], "a.png", "There is no a_mask.png in its folder"),
        (["a_mask.png"], "a_mask.png", "the picture a is not in its folder"),
        (["a_gt.png"], "a_gt.png", "This is a truth, and the picture a is not"),
        (["x/a.png", "y/a_mask.png"], "y/a_mask.png", "is not in its folder: put both into one"),
        (["a.png", "A.jpg", "a_mask.png"], "a.png, A.jpg, a_mask.png", "2 files where one is expected, a.png, A.jpg"),
        (["a.png", "a_mask.png", "a_MASK.png"], "a.png, a_mask.png, a_MASK.png", "a_mask.png, a_MASK.png: keep one"),
        (["a.png", "a_mask.png", "a_gt.png", "a_gt.jpg"], "a.png, a_mask.png, a_gt.png, a_gt.jpg", "a_gt.png, a_gt.jpg"),
        (["notes.txt"], "notes.txt", "by its name this is no picture"),
        (["noending"], "noending", "by its name this is no picture"),
        (["__MACOSX/._a.png"], "__MACOSX/._a.png", "macOS put this file there"),
        (["x/.DS_Store"], "x/.DS_Store", "macOS put this file there"),
        (["Thumbs.db"], "Thumbs.db", "Windows put this file there"),
        ([".hidden/a.png"], ".hidden/a.png", "begins with a dot"),
        (["../a.png", "../a_mask.png"], "../a.png, ../a_mask.png", "leads out of the zip"),
    ],
)  # fmt: skip
def test_every_other_file_says_why_not(names, row, says):
    assert says in rows(*names)[row]


def test_a_picture_may_be_called_a_mask():
    assert rows("face_mask.png", "face_mask_mask.png") == {"face_mask.png, face_mask_mask.png": ""}
    found = rows("face.png", "face_mask.png", "face_mask_mask.png")
    assert found["face.png, face_mask.png"] == "" and "This is a mask" in found["face_mask_mask.png"]


def test_pictures_of_kinds_that_are_not_read_are_looked_at():
    """Their content is named when they are opened; a PNG under such a name is used."""
    assert rows("a.tif", "a_mask.bmp") == {"a.tif, a_mask.bmp": ""}
