"""An edit is kept as a small file, and comes back from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from demos.core.endpoint import Endpoint, parameters_of, publish
from demos.core.handlers import TALKS, on_gpu
from demos.core.hold import STARTS, held
from demos.core.page import Files, Widgets, ends, pump, run_event
from demos.core.uploads import errors_shown
from demos.core.visitors import new_folder
from demos.core.widgets import progress_line
from pipelines import time_edit
from pipelines.core.lane import Result, live
from pipelines.core.registry import Registry
from pipelines.time_edit import EDITS_MOST, saved
from pipelines.time_edit.saved import Edit

SLUG, API = "time_edit", "save_edit"
KIND = ".safetensors"
DECIDE = ("edits", "regularisation", "protect", "layers")
"""Settings that decide an edit."""


def came(model_set: str) -> Files:
    """The saved edits that may come with a run."""

    def read(paths: Sequence[str]) -> list[Edit]:
        if len(paths) > EDITS_MOST:
            raise ValueError(f"There are {len(paths)} saved edits and at most {EDITS_MOST} are read: leave some out.")
        return [saved.read(path, model_set) for path in paths]

    return Files("Saved edits (.safetensors)", KIND, read)


def build(registry: Registry, page: Widgets) -> None:
    """What saves the edit of the page, and fills the page in with a saved one."""
    asked, files = page.asked, page.brought["saved"]
    with gr.Accordion("Keep this edit as a file", open=False):
        make = gr.Button("Work it out and save it", size="md", elem_classes=STARTS)
        line = gr.HTML(progress_line("A small file that this page, and /time_edit, take back."), padding=False)
        file = gr.DownloadButton("Download .safetensors", size="md", interactive=False)

    def time_edit_save(session: str, **values: object) -> Iterator[Any]:
        settings = asked.settings(values)
        yield {line: progress_line("Starting…", 0.0, "running")}

        def done(made: Edit, seconds: float) -> dict[Any, Any]:
            words = progress_line(f"Worked out in {seconds:.1f} s: {len(settings.pairs)} together", 1.0, "done")
            return {line: words, file: gr.DownloadButton(value=write(made, session), interactive=True)}

        yield from pump(live(time_edit.make, registry, settings), line, done)

    def fill(paths: list[str] | None) -> dict[Any, Any]:
        with errors_shown("Nothing was taken from the file"):
            edits = came(asked.start.model_set).read(paths or [])
            if not edits:
                return {}
            told = {name: getattr(edits[-1], name) for name in DECIDE[1:]}
            lines = "\n".join(dict.fromkeys(line for one in edits for line in one.edits.splitlines()))
            return {asked["edits"]: lines, **{asked[name]: value for name, value in told.items()}}

    named: dict[str, Any] = asked.widgets
    make.click(**run_event(on_gpu(time_edit_save, **ends(line)), line, file, **named))
    held(SLUG, files.upload, fill, files, [asked[name] for name in DECIDE], **TALKS)
    publish_save(registry, asked.start)


def write(edit: Edit, session: str) -> str:
    """The file of an edit."""
    with new_folder(session) as folder:
        return str(saved.write(edit, folder / f"edit{KIND}"))


def publish_save(registry: Registry, start: time_edit.Settings) -> None:
    """The public endpoint."""
    words = start.limits_in_words(DECIDE)
    about = "An edit of the form “source => destination”, one a line, as a file that /time_edit takes among its saved ones, and what is in it."
    taken = parameters_of(start, *DECIDE, "model_set", edits=start.edits)

    def answer(session: str, **values: Any) -> Iterator[Any]:
        settings = time_edit.Settings(**values, model_set=start.model_set).validated()
        for item in live(time_edit.make, registry, settings):
            made = item.value if isinstance(item, Result) else None
            told = {"lines": len(settings.pairs), "rows": len(made.shift), "model": made.mark} if made else {}
            yield gr.skip() if made is None else (write(made, session), told)

    publish(Endpoint(API, taken, (("file", "edit"), ("json", "about")), f"{about} {words}"), answer, start.model_set)
