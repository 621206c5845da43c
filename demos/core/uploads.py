"""Files of a visitor, in and out: what every tab with pictures of one's own needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from gradio.utils import get_upload_folder

from demos.core.handlers import LIGHT, TALKS, refusal
from pipelines.core import limits

SAVE = """(file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""


def download(button: gr.Button, make: Callable[..., str], inputs: Component | Sequence[Component]) -> None:
    """Let ``button`` save the file that ``make`` writes when it is pressed; a DownloadButton wants its file before."""
    file = gr.DownloadButton(visible=False)
    button.click(make, inputs, file, **TALKS).success(None, file, None, js=SAVE, **LIGHT)


@contextmanager
def errors_shown(title: str) -> Iterator[None]:
    """What a visitor can do something about becomes a message; the page stays as it is."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise refusal(error, title) from None


def clear_on_refusal(drop: gr.File, event: Dependency) -> None:
    """A file that was refused does not stay in its zone, where it would be in the way of the next one."""
    event.failure(lambda: None, None, drop, **LIGHT)


def uploaded_path(value: object, words: str) -> Path:
    """The file that a program sent. Only what was uploaded to this server is read, whatever the message claims.

    ``words`` is what the sentence calls it: "reference".

    Raises:
        ValueError: it is none, in one sentence.
    """
    send = "send it with handle_file(...)"
    path = value.get("path") if isinstance(value, dict) else None
    address = value.get("url") if isinstance(value, dict) and path is None else path
    if isinstance(address, str) and is_address(address):
        raise ValueError(f"The {words} is an address, and this server fetches nothing from other places: {send}.")
    if not isinstance(path, str) or not path:
        raise ValueError(f"The {words} is {limits.described(value)} but must be a file: {send}.")
    inside = _inside(path)
    if inside is None:
        raise ValueError(f"The {words} is no file that was sent here: {send}.")
    return inside


def is_address(path: str) -> bool:
    """Whether somebody else would have to be asked for it: "https://…", "//host/share", "data:…"."""
    return bool(re.match(r"\s*([a-zA-Z][a-zA-Z0-9+.\-]+:|[/\\]{2})", path))


def _inside(path: str) -> Path | None:
    """The file itself where it lies in the upload folder, with all links followed."""
    folder = Path(get_upload_folder()).resolve()
    try:
        file = Path(path).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a name too long; NUL or half a character inside; links in a circle
        return None
