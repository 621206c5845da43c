"""Files of a visitor, in and out: what every tab with pictures of one's own needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from demos import LIGHT, TALKS, explain
from pipelines import limits

SAVE = """(file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""


def download(button: gr.Button, make: Callable[..., str], inputs: Any) -> None:
    """Let ``button`` save the file that ``make`` writes when it is pressed; a DownloadButton wants its file before."""
    file = gr.DownloadButton(visible=False)
    button.click(make, inputs, file, **TALKS).success(None, file, None, js=SAVE, **LIGHT)


@contextmanager
def told(title: str) -> Iterator[None]:
    """What a visitor can do something about becomes a message; the page stays as it is."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(explain(error), title=title, print_exception=False) from None


def emptied(drop: gr.File, event: Any) -> None:
    """A file that was refused does not stay in its zone, where it would be in the way of the next one."""
    event.failure(lambda: None, None, drop, **LIGHT)


def sent(value: Any, name: str) -> Path:
    """The file that a program sent. Only what was uploaded to this server is read, whatever the message claims.

    Raises:
        ValueError: it is none, in one sentence.
    """
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise ValueError(f"The {name} is {limits.described(value)} but must be a file: send it with handle_file(...).")
    inside = Path(path).resolve()
    if not inside.is_relative_to(Path(get_upload_folder()).resolve()) or not inside.is_file():
        raise ValueError(f"The {name} is no file that was sent here: send it with handle_file(...).")
    return inside
