"""A run takes what the page shows: while another picture, prompt or person is on its way, nothing starts (`hold.js`), and a run
whose picture has gone meanwhile shows nothing more."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import gradio as gr

from demos import LIGHT

STARTS = "starts-run"
"""Class of a button, or of a field with Enter, that starts a run, beside `studio-run` and `example`."""
ELSEWHERE = "It is in “Your results”: the page shows another one now."

_numbers = itertools.count(1)


def paper_id(slug: str) -> str:
    """The element of a tab's page."""
    return f"paper-{slug}"


def hold(slug: str, *triggers: Callable[..., Any]) -> Callable[[Any], Any]:
    """Keep the tab's runs from starting from one of ``triggers``, such as ``dice.click``, to the end of the event that is given to
    the function which comes back, however that ends. To be called before the event is bound: listeners go in their order.

    In the browser, because an answer of the server would come too late.
    """
    name = f"{slug}-{next(_numbers)}"
    gr.on(list(triggers), None, None, None, js=f'() => window.studioHold("{name}", "{paper_id(slug)}")', **LIGHT)

    def until(event: Any) -> Any:
        for over in (event.then, event.failure):  # Gradio leaves `then` out where an event fails
            over(None, None, None, js=f'() => window.studioRelease("{name}")', **LIGHT)
        return event

    return until


@dataclasses.dataclass(eq=False)
class OnPage:
    """What the page shows now. The value of a ``gr.State``: changed in place, so that a run that is going sees it."""

    key: Any = None


def belonging(
    updates: Iterator[Any], page: OnPage, key: Any, kept: Collection[Any], line: gr.HTML, aside: Callable[[str], str]
) -> Iterator[Any]:
    """The updates of a run that began with ``key`` on the page, for as long as it is there; then those of ``kept`` alone,
    and of ``line``, whose text ``aside`` makes."""
    page.key = key
    for update in updates:
        if page.key == key or not isinstance(update, dict):
            yield update
            continue
        left = {block: value for block, value in update.items() if block in kept}
        if line in update:
            left[line] = aside(update[line])
        yield left or gr.skip()
