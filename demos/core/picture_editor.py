"""Gradio's picture editor, opening what a client sends as everything else here is opened.

``gr.ImageEditor`` decodes pictures before a handler sees them, and keeps what a client sends in parts in memory, without bounds.
The class itself is changed: Gradio makes new editors of it for each visitor, and writes a file beside any subclass.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from gradio.data_classes import FileData

from demos.core.uploads import errors_shown
from pipelines.core import images

MOST_BYTES = 8 * 2**20
"""Of a part; the editor's own are below 2 MB."""
MOST_LAYERS = 4
MOST_KEPT = 32
"""Drawings that wait for their event at a time; the oldest goes."""
MOST_SIDE = 4096

_accept_blobs = gr.ImageEditor.accept_blobs


def _small_enough(size: tuple[int, int]) -> None:
    if max(size) > MOST_SIDE:
        raise ValueError(
            f"The drawing is {size[0]:,} x {size[1]:,} pixels and the editor takes {MOST_SIDE:,} a side: make it smaller."
        )


def _opened(self: gr.ImageEditor, file: FileData | bytes | None, flatten_on_white: bool = False) -> Any:
    """In place of ``ImageEditor.convert_and_format_image``, for ``type="pil"`` with an alpha channel."""
    if file is None:
        return None
    with errors_shown("This drawing was not taken"):
        source = file.path if hasattr(file, "path") else bytes(file)
        return images.opened(source, _small_enough).convert(self.image_mode)


@server
def _accepted(self: gr.ImageEditor, data: AcceptBlobs) -> Any:
    """In place of ``ImageEditor.accept_blobs``."""
    about, index = data.data, data.data.get("index")
    layers = [None, "", "null", *map(str, range(MOST_LAYERS))]
    known = (
        about.get("type") in ("background", "layer", "composite") and (None if index is None else str(index)) in layers
    )
    name = about.get("id")
    if not known or len(data.files) != 1 or not isinstance(name, str) or len(name) > 64:
        raise HTTPException(400, "This is no part of a drawing: reload the page.")
    if len(data.files[0][1]) > MOST_BYTES:
        raise HTTPException(413, f"This part of a drawing has more than {MOST_BYTES >> 20} MiB: make it smaller.")
    kept = self.blob_storage
    while name not in kept and len(kept) >= MOST_KEPT:
        kept.pop(next(iter(kept)))
    return _accept_blobs(self, data)


def guard() -> None:
    """Every editor of this process opens pictures our way from here on."""
    editor: Any = gr.ImageEditor
    editor.convert_and_format_image = _opened
    editor.accept_blobs = _accepted
