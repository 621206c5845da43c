"""What every handler of the page goes through."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core import readers, visitors
from demos.core.figures import safe
from demos.core.page_state import before
from demos.core.runs import PLACES, runs
from pipelines.core import lane, troubles

log = logging.getLogger(__name__)
GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": PLACES}
"""For every event that needs a model: all that may wait hold a line to the lane, which runs one."""
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For events that only change the page."""
TALKS: dict[str, Any] = {**LIGHT, "queue": True, "concurrency_limit": 8}
"""For light events that may show a message: Gradio sends those through the queue only."""
_END = object()
BROKE = "This run ended early; the message says why."
"""For a tab's `broken` line."""
GOES_ON = "One run at a time: the one that this page began before it was loaded again still goes on, so press Stop or wait for it."


def let_wait(places: int) -> None:
    """Let so many runs go or wait at once; before the page is built."""
    GPU["concurrency_limit"] = places
    readers.SHARE[True] = replace(readers.SHARE[True], all=places)


def on_gpu(
    handler: Callable[..., Iterator[Any]], stopped: object = None, broken: object = None, gives_way: bool = False
) -> Callable[..., Iterator[Any]]:
    """Wrap a generator `handler(visitor, *inputs, **named)` that reads `lane.stream` for an event of the GPU queue.

    `stopped` is the last update of a run that `stop_run` ended. It comes down the run's own stream, so that no
    late progress can overtake it; Gradio's `cancels=` cannot promise that. `broken` is the last update of a run
    that an error ended after it had shown something, so that the page does not look as if it went on. A run that ``gives_way``
    does not begin beside another of its visitor's page, without a word, and ends where one begins.
    """

    def guarded(request: gr.Request, *inputs: object, **named: object) -> Iterator[Any]:
        public = getattr(guarded, "public", False)
        session = request.session_hash or secrets.token_hex(8)
        sender = getattr(request, "request", None)
        earlier = before(visitors.visitor(request), session)
        if gives_way and any(map(runs.goes, [session, *earlier])):
            return
        try:
            if any(map(runs.goes, earlier)):
                raise ValueError(GOES_ON)
            owner = readers.client_of(sender).name if sender is not None else ""
            run = runs.enter(session, owner, gives_way)
        except ValueError as error:
            raise refusal(error, "Already running", public) from None
        began = False
        try:
            updates = handler(visitors.visitor(request), *inputs, **named)
            assert isinstance(updates, Generator)
            with closing(updates):
                while True:
                    with lane.read_by(run):
                        update = next(updates, _END)
                    if update is _END or run.gone:
                        break
                    began = True
                    yield update
        except lane.Cancelled:
            pass
        except gr.Error:
            raise
        except Exception as error:
            if began and broken is not None:
                yield broken
            raise refusal(error, "Ended early" if began else "Not started", public) from None
        finally:
            runs.leave(session, run)
        if run.gone and stopped is not None:
            yield stopped

    # Gradio reads names, hints and the docstring for the API page; *inputs would hide them.
    names = list(inspect.signature(handler).parameters.values())[1:]
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    shown: Any = guarded
    shown.__signature__ = inspect.Signature([request, *names])
    shown.__annotations__ = {"request": gr.Request}
    shown.__name__, shown.__doc__ = handler.__name__, handler.__doc__
    shown.needs_gpu = True
    return guarded


def stop_run(request: gr.Request) -> bool:
    """End this visitor's run at its next step. True when there was one."""
    session = request.session_hash or ""
    return any([runs.stop(one) for one in (session, *before(visitors.visitor(request), session))])


def halt(request: gr.Request) -> None:
    """For a Stop button: `stop_run` without an answer."""
    stop_run(request)


def refusal(error: BaseException, title: str, public: bool = False) -> gr.Error:
    """:func:`explain` as a message. The page takes messages for HTML, so that what a visitor typed is escaped; a program (``public``)
    gets the sentence itself."""
    sentence = explain(error)
    return gr.Error(sentence if public else safe(sentence, quotes=False), title=title, print_exception=False)


def show_on_nothing(page: gr.Blocks) -> None:
    """Take the outputs of events that hide Gradio's progress from what it is shown on.

    Gradio 6.31 looks for each of them among all components of the page at every message of a run, also where nothing is to be shown: two
    thirds of the browser's time while an answer is written.
    """
    for function in page.fns.values():
        if function.show_progress == "hidden":
            function.show_progress_on = []


def name_public(page: gr.Blocks) -> None:
    """Let the handlers of the public endpoints know that a program reads their messages."""
    for event in page.fns.values():
        handler: Any = event.fn
        if event.api_visibility == "public" and getattr(handler, "needs_gpu", False):
            handler.public = True


def explain(error: BaseException) -> str:
    """One sentence for the visitor: what is wrong with the machine, else what our own checks said.

    What nobody foresaw is logged in full and shown as a reference only; so are the words of libraries.
    """
    machine = troubles.sentence(error)
    if machine is not None:
        log.warning("the machine is short of something: %s", machine, exc_info=error)
        return machine
    foreseen = isinstance(error, ValueError | MemoryError | TimeoutError | FileNotFoundError | ConnectionError)
    if foreseen and troubles.ours(error) and str(error).strip():
        text = str(error).strip()
        if text.split()[0].isalpha():  # not the key of a model
            text = text[:1].upper() + text[1:]
        return text + ("" if text.endswith((".", "!", "?")) else ".")
    reference = secrets.token_hex(3)
    log.error("unexpected error, reference %s", reference, exc_info=error)
    return f"Something went wrong on our side; your settings are still here. The log has it as reference {reference}."


def workspace(session: str) -> Path:
    """This visitor's folder for results: see :mod:`demos.core.visitors`."""
    return visitors.workspace(session)


def forget_visitor(request: gr.Request) -> None:
    """Stop what runs and remove everything that this visitor sent or made."""
    stop_run(request)
    visitors.forget(visitors.visitor(request))


def is_running(session: str) -> bool:
    """Whether a run of this session goes on."""
    return session in runs.by_session
