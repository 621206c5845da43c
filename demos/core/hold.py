"""A run takes what the page shows: while another picture, prompt or person is on its way, nothing starts (`hold.js`), and a run
whose picture has gone meanwhile shows nothing more."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.events import Dependency

from demos.core.handlers import LIGHT
from demos.core.widgets import progress_line

STARTS = "starts-run"
"""Class of a button, or of a field with Enter, that starts a run, beside `studio-run` and `example`."""
ASIDE = "Done, and in “Your results”: the page shows something else by now."
UNSEEN = "Done, but not shown: the page shows something else by now."

_numbers = itertools.count(1)


def paper_id(slug: str) -> str:
    """The element of a tab's page."""
    return f"paper-{slug}"


def hold(slug: str, *triggers: Callable[..., Any]) -> Callable[[Dependency], Dependency]:
    """Keep the tab's runs from starting from one of ``triggers``, such as ``dice.click``, to the end of the event that is given to
    the function which comes back, however that ends. To be called before the event is bound: listeners go in their order.

    In the browser, because an answer of the server would come too late.
    """
    name = f"{slug}-{next(_numbers)}"
    gr.on(list(triggers), None, None, None, js=f'() => window.studioHold("{name}", "{paper_id(slug)}")', **LIGHT)

    def until(event: Dependency) -> Dependency:
        for over in (event.then, event.failure):  # Gradio leaves `then` out where an event fails
            over(None, None, None, js=f'() => window.studioRelease("{name}")', **LIGHT)
        return event

    return until


def held(slug: str, trigger: Callable[..., Any], *bound: object, **how: object) -> Any:
    """Bind ``trigger`` as it would be bound itself, and :func:`hold` the tab's runs for as long as the event takes."""
    until = hold(slug, trigger)
    return until(trigger(*bound, **how))


@dataclasses.dataclass(eq=False)
class OnPage:
    """What the page shows now. The value of a ``gr.State``: changed in place, so that a run that is going sees it."""

    key: Any = None


def belonging(
    updates: Generator[Any], page: OnPage, key: object, line: gr.HTML, kept: Collection[gr.blocks.Block]
) -> Iterator[Any]:
    """The updates of a run that began with ``key`` on the page for as long as that is there; then those of ``kept``, the history,
    and of ``line`` alone."""
    page.key = key
    with closing(updates):
        for update in updates:
            if page.key == key or not isinstance(update, dict) or "__type__" in update:
                yield update
                continue
            left = {block: value for block, value in update.items() if block in kept}
            if line in update:
                over = 'progress-line done"' in update[line]
                words = ASIDE if left else UNSEEN
                left[line] = progress_line(words, 1.0, "done") if over else update[line]
            yield left or gr.skip()
