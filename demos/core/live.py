"""Pictures that follow the settings of a tab while somebody changes them: few steps, marked as such, never a result.

The switch is off until somebody wants it. `live.js` looks at it, and presses a button that nobody sees when a setting changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.events import Dependency

from demos.core.handlers import LIGHT, on_gpu
from demos.core.hold import paper_id
from demos.core.page import run_event


class LiveSwitch:
    """A switch with what it draws. Makes its widgets in the layout that is open, among the tab's settings."""

    def __init__(self, slug: str, info: str) -> None:
        self.slug = slug
        self.box = gr.Checkbox(False, label="Live", info=info, elem_classes="live-switch")
        self._draw = gr.Button("Draw live", elem_classes="live-draw")

    def bind(self, handler: Callable[..., Iterator[Any]], outputs: list[Any], **named: Any) -> None:
        """``handler(session, **values)`` draws from the settings ``named``. It gives way to a run, and never begins beside one; of
        changes that come while it draws, the last one counts."""
        event = run_event(on_gpu(handler, gives_way=True), *outputs, **named)
        self._draw.click(**{**event, "trigger_mode": "always_last"})

    def after(self, event: Dependency) -> None:
        """Draw when ``event``, which is not of the visitor's own hand, has changed a setting."""
        event.then(None, None, None, js=f'() => window.studioFollow("{paper_id(self.slug)}")', **LIGHT)
