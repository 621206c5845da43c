"""What a tab shows when it opens: the result that its button would draw with what the page holds, drawn earlier.

``python -m tests.openings`` draws them anew; a test says whether they are what is drawn now.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from PIL import Image

from demos.core.widgets import progress_line
from pipelines.core import asset_files

ASSETS = Path(__file__).parents[2] / "assets"
FILE = "opening.json"
SHOWN = (gr.HTML, gr.Image, gr.ImageSlider, gr.Gallery, gr.Chatbot, gr.DownloadButton, gr.Column)
"""Kinds of widgets that show a result; states, fields and the history stay as they are."""


@dataclass(frozen=True, eq=False)
class Opening:
    """A tab's first result: how it is drawn, and where it goes."""

    slug: str
    run: Callable[..., Iterator[Any]]
    event: Mapping[str, Any]
    """The event of the button, as `run_event` binds it."""
    line: gr.HTML
    words: str
    """What ``line`` says."""
    leave: tuple[gr.blocks.Block, ...]
    """Outputs that belong to the visitor: his history."""
    given: Mapping[str, Any]
    """Inputs by name in place of what their widgets hold."""

    @property
    def folder(self) -> Path:
        return ASSETS / self.slug / "opening"

    @property
    def widgets(self) -> dict[str, Any]:
        """The widgets that show the result, by their place and kind."""
        listed = enumerate(self.event["outputs"])
        return {
            f"{place} {type(one).__name__}": one
            for place, one in listed
            if isinstance(one, SHOWN) and one is not self.line and one not in self.leave
        }

    def draw(self, session: str) -> dict[str, dict[str, Any]]:
        """What the button draws now: properties of :attr:`widgets`."""
        named = {name: widget.value for name, widget in self.event["inputs_kwargs"].items()}
        drawn: dict[Any, Any] = {}
        inputs = copy.deepcopy([one.value for one in self.event["inputs"]])  # a run notes things in some
        for update in self.run(session, *inputs, **{**named, **self.given}):
            drawn |= update if isinstance(update, dict) and "__type__" not in update else {}
        found = {name: drawn[widget] for name, widget in self.widgets.items() if widget in drawn}
        return {name: _properties(value) for name, value in found.items()}

    def save(self, drawn: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """Write what was drawn, and its files, in place of all that is in ``folder``."""
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        record = {
            name: {key: _kept(value, folder, name) for key, value in properties.items()}
            for name, properties in drawn.items()
        }
        (folder / FILE).write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")

    def read(self) -> dict[str, dict[str, Any]]:
        """What lies in the assets, with the paths of its files."""
        record = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not record.keys() <= self.widgets.keys():
            raise ValueError(FILE)
        return {name: {key: _path(value, self.folder) for key, value in kept.items()} for name, kept in record.items()}

    def show(self) -> None:
        """Put it on the widgets, before the page is served; where it is missing or damaged, they stay empty."""
        found: dict[str, dict[str, Any]] = asset_files.reading(self.folder / FILE, self.read, dict)
        for name, properties in found.items():
            for key, value in properties.items():
                _put(self.widgets[name], key, value)
        if found:
            self.line.value = progress_line(self.words)


OPENINGS: dict[str, Opening] = {}
"""By the tab's slug, of the page that was built last."""


def opens_with_result(
    slug: str,
    run: Callable[..., Iterator[Any]],
    event: Mapping[str, Any],
    line: gr.HTML,
    how: str,
    leave: tuple[gr.blocks.Block, ...] | list[gr.blocks.Block] = (),
    **given: Any,
) -> None:
    """Let the tab open with what ``run``, the handler of ``event``, draws from what the page holds. ``how``: to do it now."""
    words = f"Drawn earlier from what stands here. {how}"
    OPENINGS[slug] = Opening(slug, run, event, line, words, tuple(leave), given)
    OPENINGS[slug].show()


def _properties(update: Any) -> dict[str, Any]:
    """Properties that an update changes: of a value alone, or of a widget that stands for several."""
    if isinstance(update, gr.blocks.Block):
        named = inspect.signature(type(update).__init__).parameters
        return {key: value for key, value in update.constructor_args.items() if key in named and value is not None}
    if isinstance(update, dict) and "__type__" in update:  # gr.update, gr.skip
        return {key: value for key, value in update.items() if key != "__type__"}
    return {"value": update}


def _kept(value: Any, folder: Path, name: str) -> Any:
    """``value`` with its files and pictures written to ``folder``, by name."""
    if isinstance(value, list | tuple):
        return [_kept(one, folder, f"{name} {place}") for place, one in enumerate(value)]
    if isinstance(value, Image.Image):
        file = folder / f"{name.replace(' ', '-').lower()}.png"
        value.save(file, optimize=True)
        return {"file": file.name}
    if isinstance(value, str) and len(value) < 4096 and Path(value).is_absolute() and Path(value).is_file():
        (folder / Path(value).name).write_bytes(Path(value).read_bytes())
        return {"file": Path(value).name}
    return value


def _path(kept: Any, folder: Path) -> Any:
    """The other way round."""
    if isinstance(kept, list):
        return [_path(one, folder) for one in kept]
    if isinstance(kept, dict) and kept.keys() == {"file"}:
        return folder / kept["file"]
    return kept


def _put(widget: Any, key: str, value: Any) -> None:
    """Set a property of a widget that is there already, as its constructor would have."""
    if key != "value":
        setattr(widget, key, value)
        return

    def cached(one: Any) -> Any:
        if isinstance(one, list):
            return tuple(map(cached, one)) if isinstance(widget, gr.ImageSlider) else list(map(cached, one))
        # A copy: the assets lie outside what Gradio serves.
        return processing_utils.save_file_to_cache(one, widget.GRADIO_CACHE) if isinstance(one, Path) else one

    made = widget.postprocess(cached(value))
    made = made.model_dump() if hasattr(made, "model_dump") else made
    widget.value = processing_utils.move_files_to_cache(made, widget, postprocess=True, keep_in_cache=True)
