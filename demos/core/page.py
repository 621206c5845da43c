"""What the page of a paper is made of: a run, its events and, for papers that draw pictures from settings, the whole page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from demos.core.handlers import BROKE, GPU
from demos.core.widgets import progress_line, running_line
from pipelines.core import lane

STOPPED = "Stopped. What was drawn so far stays; Run starts anew."


def pump(
    items: Iterator[Any],
    line: gr.HTML,
    done: Callable[[Any, float], Any],
    shows: Mapping[type, Callable[[Any], Any]] = MappingProxyType({}),
    digits: int = 1,
) -> Iterator[Any]:
    """The updates of a run from the items of `lane.live`: its progress on ``line``, what it emits through ``shows`` by type, and
    at the end ``done(result, seconds)``, one update or an iterator of several."""
    began = time.monotonic()
    for item in items:
        if isinstance(item, lane.Progress):
            yield {line: running_line(item, began, digits)}
        elif isinstance(item, lane.Result):
            last = done(item.value, time.monotonic() - began)
            yield from last if isinstance(last, Iterator) else (last,)
        elif type(item) in shows:
            yield shows[type(item)](item)
        else:
            yield gr.skip()


def run_event(handler: Callable[..., Any], *outputs: Any, inputs: Any = (), **named: Any) -> dict[str, Any]:
    """How the event of a run is bound: ``button.click(**run_event(on_gpu(compare), ...))``; ``named`` are inputs by name."""
    return {
        "fn": handler,
        "inputs": list(inputs),
        "inputs_kwargs": named,
        "outputs": list(outputs),
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
        **GPU,
    }


def ends(line: gr.HTML, stopped: str = STOPPED, broken: str = BROKE) -> dict[str, Any]:
    """The last updates of a run that was stopped, or that an error ended, for :func:`demos.core.handlers.on_gpu`."""
    return {
        "stopped": {line: progress_line(stopped, 0.0, "stopped")},
        "broken": {line: progress_line(broken, 0.0, "stopped")},
    }
