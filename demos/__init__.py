"""What every tab shares: discovery, the one GPU queue, errors in one sentence, and the common widgets.

A tab is a module here with `TAB = Tab(...)`; `discover()` finds it. Its `build(registry, model_set)` makes the
widgets and binds one handler through `on_gpu`, which

- lets one run per visitor go at a time (a new one may start the moment Stop was pressed),
- turns the errors that a visitor can do something about into one sentence, and all others into a log entry
  with a reference, so that nothing on the page is lost and nothing internal is shown.

Waiting in line happens in `pipelines/lane.py`, on one thread; `demos/readers.py` says how many may wait, and ends what nobody reads.
"""

from __future__ import annotations

import html
import importlib
import inspect
import logging
import pkgutil
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from demos import readers, visitors
from demos.figures import safe
from demos.page_state import before, shared
from demos.runs import PLACES, runs
from pipelines import asset_files, lane, troubles
from pipelines.papers import Paper
from pipelines.registry import Registry

log = logging.getLogger(__name__)

GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": PLACES}
"""For every event that needs a model: all that may wait hold a line to the lane, which runs one."""
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For events that only change the page."""
TALKS: dict[str, Any] = {**LIGHT, "queue": True, "concurrency_limit": 8}
"""For light events that may show a message: Gradio sends those through the queue only."""


@dataclass(frozen=True)
class Tab:
    """One page of the studio."""

    name: str
    slug: str
    """The paper's file name, "golden_noise": pipelines/<slug>.py, demos/<slug>.py, tests/test_<slug>.py."""
    order: int
    build: Callable[[Registry, str], None]
    paper: Paper


def discover() -> list[Tab]:
    """The tabs of all modules here that have one, in their order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return sorted((module.TAB for module in modules if hasattr(module, "TAB")), key=lambda tab: tab.order)


# --- one run per visitor, errors in one sentence ----------------------------------------------------------------


_END = object()
BROKE = "This run ended early; the message says why."
"""For a tab's `broken` line."""


GOES_ON = "One run at a time: the one that this page began before it was loaded again still goes on, so press Stop or wait for it."
INTERRUPTED = "Interrupted: the connection or the server went away before this was done."
"""Of a run that ended without a word, when its page comes back."""


def on_gpu(
    handler: Callable[..., Iterator[Any]], stopped: Any = None, broken: Any = None
) -> Callable[..., Iterator[Any]]:
    """Wrap a generator `handler(visitor, *inputs)` that reads `lane.stream` for an event of the GPU queue.

    `stopped` is the last update of a run that `stop_run` ended. It comes down the run's own stream, so that no
    late progress can overtake it; Gradio's `cancels=` cannot promise that. `broken` is the last update of a run
    that an error ended after it had shown something, so that the page does not look as if it went on.
    """

    def guarded(request: gr.Request, *inputs: Any) -> Iterator[Any]:
        public = getattr(guarded, "public", False)
        session = request.session_hash or secrets.token_hex(8)
        sender = getattr(request, "request", None)
        try:
            if any(one in runs.by_session for one in before(visitors.visitor(request), session)):
                raise ValueError(GOES_ON)
            run = runs.enter(session, readers.client_of(sender).name if sender is not None else "")
        except ValueError as error:
            raise refusal(error, "Already running", public) from None
        began = False
        try:
            with closing(handler(visitors.visitor(request), *inputs)) as updates:
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
            raise refusal(error, "This did not work", public) from None
        finally:
            runs.leave(session, run)
        if run.gone and stopped is not None:
            yield stopped

    # Gradio reads names, hints and the docstring for the API page; *inputs would hide them.
    names = list(inspect.signature(handler).parameters.values())[1:]
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    guarded.__signature__ = inspect.Signature([request, *names])
    guarded.__annotations__ = {"request": gr.Request}
    guarded.__name__, guarded.__doc__ = handler.__name__, handler.__doc__
    guarded.needs_gpu = True
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


def name_public(page: gr.Blocks) -> None:
    """Let the handlers of the public endpoints know that a program reads their messages."""
    for event in page.fns.values():
        if event.api_visibility == "public" and getattr(event.fn, "needs_gpu", False):
            event.fn.public = True


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


# --- files of one visitor ---------------------------------------------------------------------------------------


def workspace(session: str) -> Path:
    """This visitor's folder for results: see :mod:`demos.visitors`."""
    return visitors.workspace(session)


def forget_visitor(request: gr.Request) -> None:
    """Stop what runs and remove everything that this visitor sent or made."""
    stop_run(request)
    visitors.forget(visitors.visitor(request))


# --- widgets ----------------------------------------------------------------------------------------------------


def paper_card(paper: Paper) -> gr.HTML:
    """The head of a tab: what the paper is, its idea, and what here is whose."""
    text = {name: html.escape(value) for name, value in vars(paper).items() if isinstance(value, str)}
    code = f'<a href="{text["code_url"]}" target="_blank" rel="noopener">Authors’ code</a>' if paper.code_url else ""
    return gr.HTML(
        f"""<article class="paper-card">
  <div><p class="eyebrow">The paper · {text["venue"]}</p>
  <h2>{text["title"]}</h2>
  <p class="authors">{html.escape(", ".join(paper.authors))}</p></div>
  <div><p class="idea">{text["idea"]}</p>
  <p class="links"><a href="{text["url"]}" target="_blank" rel="noopener">Read the paper</a>{code}</p></div>
  <details><summary>What is ours, what is the paper’s, and the licences</summary>
  <dl><div><dt>Ours</dt><dd>{text["ours"]}</dd></div><div><dt>The paper’s</dt><dd>{text["theirs"]}</dd></div>
  <div><dt>Licence</dt><dd>{text["licence"]}</dd></div></dl></details>
</article>""",
        elem_classes="card-host",
        padding=False,
    )


def progress_line(text: str, fraction: float | None = None, state: str = "idle") -> str:
    """A line of text over a thin bar. `fraction` in [0, 1] or None; `state` is idle, running, done or stopped."""
    percent = 0 if fraction is None else round(100 * min(max(fraction, 0.0), 1.0))
    bar = f'<div class="bar"><span style="width:{percent}%"></span></div>'
    return f'<div class="progress-line {html.escape(state)}" role="status"><p>{html.escape(text)}</p>{bar}</div>'


def running_line(item: lane.Progress, began: float, digits: int = 1) -> str:
    """A job's progress as a `progress_line`, with the seconds since `began` (of `time.monotonic`)."""
    text = f"{item.text[:1].upper()}{item.text[1:]} · {time.monotonic() - began:.{digits}f} s"
    return progress_line(text, item.fraction, "running")


def interrupted(shown: Any) -> Any:
    """In place of a `progress_line` that says something is running, when nothing is any more."""
    if isinstance(shown, str) and 'class="progress-line running"' in shown:
        return progress_line(INTERRUPTED, 0.0, "stopped")
    return shown


def is_running(session: str) -> bool:
    """Whether a run of this session goes on."""
    return session in runs.by_session


def status_text(registry: Registry, model_set: str) -> str:
    """Model set, device, loaded models, memory and the queue, as one line. Takes no lock and loads nothing."""
    parts = registry.status()
    loaded = [part for part in parts if part["state"] in ("ram", "gpu")]
    loading = [part["key"] for part in parts if part["state"] == "loading"]
    failed = [part["key"] for part in parts if part["state"] == "failed"]
    device = registry.summary()["device"] or "not chosen yet"
    ahead = lane.waiting()
    facts = [
        ("Models", model_set),
        ("Device", {"cpu": "CPU", "cuda": "GPU"}.get(device, device)),
        ("Loaded", _loaded_text(loaded) if loaded else "nothing yet"),
        ("Memory", f"{_resident_bytes() / 2**20:,.0f} MiB"),
        ("Queue", "free" if ahead == 0 else f"{ahead} {'run' if ahead == 1 else 'runs'}"),
    ]
    if loading:
        facts.insert(3, ("Loading", ", ".join(loading)))
    damaged = asset_files.problems()
    if damaged:
        named = ", ".join(sorted(damaged)[:3]) + (f" and {len(damaged) - 3} more" if len(damaged) > 3 else "")
        facts.insert(3, ("Missing or damaged", named))
    if failed:
        facts.insert(3, ("Failed to load", ", ".join(failed)))
    names = html.escape(", ".join(part["key"] for part in loaded))
    cells = "".join(
        f'<span{f""" title="{names}" """ if name == "Loaded" and names else ""}>'
        f"<b>{html.escape(name)}</b> {html.escape(value)}</span>"
        for name, value in facts
    )
    return f'<div class="status-line" aria-label="State of the studio">{cells}</div>'


def status_line(registry: Registry, model_set: str) -> None:
    """`status_text` on the page. `connection.js` renews it every few seconds, by the address of `app.status`."""
    gr.HTML(status_text(registry, model_set), elem_classes="status-host", padding=False)


def _loaded_text(parts: Sequence[dict[str, Any]]) -> str:
    size = sum(part["bytes"] for part in parts) / 2**20
    return f"{len(parts)} {'part' if len(parts) == 1 else 'parts'}, {size:,.0f} MiB"


def _resident_bytes() -> int:
    """Memory of this process, to the nearest 5 MiB so that the line does not flicker."""
    step = 5 * 2**20
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return round(pages * resource.getpagesize() / step) * step
    except (ImportError, OSError, ValueError):
        pass
    try:
        import psutil
    except ImportError:
        return 0
    return round(psutil.Process().memory_info().rss / step) * step


@dataclass(frozen=True)
class Entry:
    """One result of this visitor."""

    picture: str
    """Path of the picture that stands for it in the strip."""
    caption: str
    outcome: Any
    """Whatever the tab needs to show it again."""


class History:
    """A strip of this visitor's results. Clicking one gives its `Entry` back to the tab."""

    keep = 24

    def __init__(self) -> None:
        self.entries = shared([])
        with gr.Column(elem_classes="history"):
            gr.HTML(
                '<h3>Your results</h3><p class="quiet">Click one to bring back its settings and pictures. '
                "They stay for a day after your last visit, on this server; download what you want to keep.</p>",
                padding=False,
            )
            self.gallery = gr.Gallery(
                label="Your results",
                show_label=False,
                columns=8,
                fit_columns=False,
                height="auto",
                visible=False,
                allow_preview=False,
                object_fit="cover",
                buttons=[],
                elem_classes="history-strip",
                container=False,
            )

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.entries, self.gallery]

    def add(self, entries: list[Entry], entry: Entry) -> dict[gr.blocks.Block, Any]:
        """The updates that put `entry` first."""
        entries = [entry, *entries][: self.keep]
        return {
            self.entries: entries,
            self.gallery: gr.Gallery(
                value=[(e.picture, e.caption) for e in entries], selected_index=None, visible=True
            ),
        }

    def on_pick(self, show: Callable[[Entry], Any], outputs: Sequence[gr.blocks.Block]) -> None:
        """Call `show(entry)` when one is clicked."""

        def pick(entries: list[Entry], event: gr.SelectData) -> Any:
            index = event.index
            return show(entries[index]) if isinstance(index, int) and 0 <= index < len(entries) else gr.skip()

        self.gallery.select(pick, self.entries, list(outputs), **LIGHT)
