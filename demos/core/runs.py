"""Who runs what: one run per session, which can be ended from any thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gradio.context import LocalContext

from pipelines.core import lane

PLACES = 24
"""So many runs may go or wait at once."""
CLOSES_S = 5.0
"""So long a new run waits for the one before, whose work is done and shown, to come to its end; more than that is none."""


@dataclass(eq=False)
class Run(lane.Reader):
    """A visitor's run, from the start of its handler to its end. Once it was told to end (``gone``) it no longer counts,
    even while its last step ends."""

    event_id: str | None = None
    """Gradio's event on `page`, by which `demos/core/readers.py` sees whether somebody still waits for it."""
    page: Any = None
    gives_way: bool = False
    """It ends when another begins."""


@dataclass(eq=False)
class Runs:
    """The runs of this process by their sessions."""

    by_session: dict[str, Run] = field(default_factory=dict)
    alive: weakref.WeakSet[Run] = field(default_factory=weakref.WeakSet)
    """Also those that were told to end and have not yet."""
    over: deque[str | None] = field(default_factory=lambda: deque(maxlen=4 * PLACES))
    """Events whose runs count no longer, though Gradio may still be busy with their last words."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, session: str, owner: str = "", gives_way: bool = False) -> Run:
        """
        Raises:
            ValueError: one is going already that does not give way.
        """
        until = time.monotonic() + CLOSES_S
        while (before := self.by_session.get(session)) is not None and before.done and time.monotonic() < until:
            time.sleep(0.02)
        with self.lock:
            before = self.by_session.get(session)
            if before is not None and before.gives_way:
                before.end()
            if before is not None and not before.gone:
                raise ValueError("One run at a time: yours is still going, so press Stop first or wait for it.")
            run = self.by_session[session] = Run(
                owner or session,
                event_id=LocalContext.event_id.get(None),
                page=LocalContext.blocks.get(None),
                gives_way=gives_way,
            )
            self.alive.add(run)
            return run

    def goes(self, session: str) -> bool:
        """Whether one is going that does not give way."""
        run = self.by_session.get(session)
        return run is not None and not run.gives_way

    def leave(self, session: str, run: Run) -> None:
        with self.lock:
            self.alive.discard(run)
            self.over.append(run.event_id)
            if self.by_session.get(session) is run:
                del self.by_session[session]

    def stop(self, session: str) -> bool:
        """End it at its next step. True when something was going."""
        with self.lock:
            run = self.by_session.get(session)
            if run is None or run.gone:
                return False
        run.end()
        return True

    def all(self) -> list[Run]:
        with self.lock:
            return list(self.alive)

    def of(self, event_id: str) -> Run | None:
        """The run of this event, if it goes."""
        return next((run for run in self.all() if run.event_id == event_id), None)

    def ended(self) -> set[str | None]:
        """The events of the latest runs that are over or were told to end."""
        with self.lock:
            return {*self.over, *(run.event_id for run in self.alive if run.gone)}


runs = Runs()
