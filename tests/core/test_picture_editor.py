"""Gradio's own ways to decode a picture: the editor opens files as we do, and no other component of ours takes one in."""

from __future__ import annotations

import io

import gradio as gr
import pytest
from fastapi import HTTPException
from gradio.components.image_editor import AcceptBlobs, EditorData
from gradio.data_classes import FileData
from PIL import Image

import app
from demos.core import picture_editor

picture_editor.guard()


def editor() -> gr.ImageEditor:
    return gr.ImageEditor(type="pil", image_mode="RGBA", render=False)


def sent(tmp_path, data: bytes) -> EditorData:
    (tmp_path / "a.png").write_bytes(data)
    return EditorData(composite=FileData(path=str(tmp_path / "a.png"), orig_name="a.png"))


def drawing(size=(8, 8)) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", size, (10, 20, 30, 40)).save(data, "PNG")
    return data.getvalue()


def blob(type="composite", index=None, name="x", data=b"") -> AcceptBlobs:
    return AcceptBlobs(
        data={"type": type, "index": index, "file": b"", "id": name}, files=[("file", data or drawing())]
    )


def test_a_drawing_arrives_with_its_alpha(tmp_path):
    assert editor().preprocess(sent(tmp_path, drawing()))["composite"].getpixel((0, 0)) == (10, 20, 30, 40)
    one = editor()
    one.accept_blobs(blob())
    assert one.preprocess(EditorData(id="x"))["composite"].getpixel((0, 0)) == (10, 20, 30, 40)
    assert one.blob_storage == {}


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"), (drawing((5000, 4)), "make it smaller"), (drawing()[:60], "damaged")],
)  # fmt: skip
def test_what_is_no_drawing_gets_one_sentence(tmp_path, data: bytes, says: str):
    with pytest.raises(gr.Error, match=says):
        editor().preprocess(sent(tmp_path, data))
    one = editor()
    one.accept_blobs(blob(data=data))
    with pytest.raises(gr.Error, match=says):
        one.preprocess(EditorData(id="x"))


def test_parts_of_drawings_are_bounded():
    one = editor()
    for number in range(picture_editor.MOST_KEPT + 5):
        one.accept_blobs(blob(name=str(number)))
    assert len(one.blob_storage) == picture_editor.MOST_KEPT and "0" not in one.blob_storage
    for bad in (
        blob("layer", index=10**9), blob("layer", index=-1), blob("other"), blob(name="x" * 65), blob(data=bytes(picture_editor.MOST_BYTES + 1)),
    ):  # fmt: skip
        with pytest.raises(HTTPException):
            one.accept_blobs(bad)
    one.accept_blobs(blob("layer", index="1"))
    assert editor().server_fns[0].__name__ == "_accepted"


def test_no_other_component_that_decodes_pictures_takes_any_in():
    """A visitor may send any file as the value of an input; Gradio decodes those of these classes before a handler sees them."""
    decoding = (gr.Image, gr.ImageSlider, gr.Gallery, gr.AnnotatedImage, gr.Video, gr.Audio, gr.Model3D)
    taken = {type(one).__name__ for event in app.demo.fns.values() for one in event.inputs if isinstance(one, decoding)}
    assert taken == set()
    assert gr.ImageEditor.convert_and_format_image is picture_editor._opened
