"""A lab that counts while it is watched: settings, Run and Stop, a line, and a board of what was counted, which stays when it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demos.core.form import Form
from demos.core.handlers import BROKE, LIGHT, halt, on_gpu
from demos.core.hold import STARTS
from demos.core.page import ends, pump, run_event, run_row
from demos.core.widgets import progress_line
from pipelines.core.lane import live
from pipelines.core.registry import Registry

STAYS = "What was counted stays."


@dataclass(frozen=True)
class Lab:
    """``measure(job, registry, settings)`` emits tallies and returns the last one, each with how much is ``done``."""

    name: str
    """Of its event, as the server's log calls it."""
    measure: Callable[..., Any]
    tally: type
    board: Callable[[Any], str]
    """The markup of a tally."""
    ready: str
    """What the line says before the first run."""
    run: str = "Run the lab"
    stop: str = "Stop the lab"
    counts: str = "pairs"
    limit_s: float = 1800.0

    def build(
        self, registry: Registry, own: Form[Any], more: Mapping[str, gr.components.Component] | None = None
    ) -> None:
        """Put it here, below the settings; ``more``: widgets elsewhere on the page that are settings of it as well."""
        run, stop = run_row(self.run, self.stop, "lab-row", kind=STARTS)
        line = gr.HTML(progress_line(self.ready), padding=False, elem_classes="lab-line")
        board = gr.HTML(padding=False)

        def count(session: str, **values: object) -> Iterator[Any]:
            settings = own.settings(values)
            yield {line: progress_line("Starting…", 0.0, "running"), board: ""}

            def done(tally: Any, seconds: float) -> dict[Any, Any]:
                counts = self.counts.removesuffix("s") if tally.done == 1 else self.counts
                return {line: progress_line(f"Done: {tally.done} {counts} in {seconds:.0f} s", 1.0, "done")}

            items = live(self.measure, registry, settings, limit_s=self.limit_s)
            yield from pump(items, line, done, {self.tally: lambda tally: {board: self.board(tally)}}, digits=0)

        count.__name__ = self.name
        handler = on_gpu(count, **ends(line, f"Stopped. {STAYS}", f"{BROKE} {STAYS}"))
        run.click(**run_event(handler, line, board, inputs=[], **own.widgets, **(more or {})))
        stop.click(halt, **LIGHT)
