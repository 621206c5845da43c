"""The widgets that every tab shares."""

from __future__ import annotations

import html
import importlib.resources
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
import psutil

from demos.core import compare
from demos.core.handlers import LIGHT, TALKS
from demos.core.page_state import shared
from demos.core.uploads import download, errors_shown
from demos.core.visitors import new_folder, visitor
from pipelines.core import asset_files, lane, workers
from pipelines.core.paper import Paper
from pipelines.core.registry import Registry
from pipelines.core.settings import Declared

INTERRUPTED = "Interrupted: the connection or the server went away before this was done."
"""Of a run that ended without a word, when its page comes back."""


def words_of(package: str, name: str) -> str:
    """The text of a file that lies beside the code of ``package``."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def paper_card(paper: Paper) -> gr.HTML:
    """The head of a tab: what the paper is; on a click its idea, and what here is whose."""
    text = {name: html.escape(value) for name, value in vars(paper).items() if isinstance(value, str)}
    code = f'<a href="{text["code_url"]}" target="_blank" rel="noopener">Authors’ code</a>' if paper.code_url else ""
    return gr.HTML(
        f"""<article class="paper-card">
  <h2>{text["title"]}</h2>
  <p class="links"><span>{text["venue"]}</span><a href="{text["url"]}" target="_blank" rel="noopener">Read the paper</a>{code}</p>
  <p class="summary">{text["summary"]}</p>
  <details><summary>The idea, the authors, the licences</summary>
  <p class="idea">{text["idea"]}</p><p class="authors">{html.escape(", ".join(paper.authors))}</p>
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


def interrupted(shown: object) -> Any:
    """In place of a `progress_line` that says something is running, when nothing is any more."""
    if isinstance(shown, str) and 'class="progress-line running"' in shown:
        return progress_line(INTERRUPTED, 0.0, "stopped")
    return shown


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
    if isinstance(registry, workers.PageRegistry):
        facts += registry.pool.facts()
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
        f'<span class="{name.split()[0].lower()}"{f""" title="{names}" """ if name == "Loaded" and names else ""}>'
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
    return round(psutil.Process().memory_info().rss / step) * step


@dataclass(frozen=True)
class Made:
    """What a result was made with, as far as a link holds it."""

    settings: Declared
    more: Mapping[str, str] = field(default_factory=dict)
    """What a tab has beside its declared settings."""
    lacking: str = ""
    """A sentence about what no link holds, such as a visitor's own picture."""
    models: tuple[tuple[str, str], ...] = ()
    """The models that answered, each with its licence."""

    def by(self, models: Sequence[Mapping[str, Any]]) -> Made:
        """The same, with the models that a run lists."""
        return replace(self, models=tuple((str(one["key"]), str(one["licence"])) for one in models))


@dataclass(frozen=True)
class Entry:
    """One result of this visitor."""

    picture: str
    """Path of the picture that stands for it in the strip."""
    caption: str
    outcome: Any
    """Whatever the tab needs to show it again."""
    made: Made | None = None
    words: str = ""
    """What the picture says, where it is one of words."""


class History:
    """A strip of this visitor's results. Clicking one gives its `Entry` back to the tab."""

    keep = 24

    def __init__(self, title: str = "", made: str = "pictures") -> None:
        """``title`` stands over the sheets of compared results; ``made`` is what they are."""
        self.title = title
        self.entries = shared([])
        with gr.Column(elem_classes="history"):
            gr.HTML(
                f'<h3>Your results</h3><p class="quiet">Click one to bring back its settings and {made}. '
                "They stay for a day after your last visit, on this server; download what you want to keep.</p>",
                padding=False,
            )
            self.gallery = _strip("Your results")
            self._comparing()

    def _comparing(self) -> None:
        """The widgets that put results side by side, and what they do."""
        with gr.Accordion("Compare results", open=False, visible=False, elem_classes="compare") as self.box:
            self.picks = _strip("Results to compare")
            self.board = gr.HTML(PICK, padding=False)
            with gr.Row(elem_classes="saves-row"):
                self.saves = [gr.Button(f"Download sheet ({kind})", interactive=False) for kind in ("PNG", "PDF")]
        self.picked = gr.State([])
        self.picks.select(
            self._pick, [self.entries, self.picked], [self.picked, self.picks, self.board, *self.saves], **TALKS
        )
        for button, make in zip(self.saves, (self._png, self._pdf), strict=True):
            download(button, make, [self.entries, self.picked])

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [self.entries, self.gallery, self.box, self.picks, self.picked, self.board, *self.saves]

    def add(self, entries: list[Entry], entry: Entry) -> dict[gr.blocks.Block, Any]:
        """The updates that put `entry` first."""
        entries = [entry, *entries][: self.keep]
        return {
            self.entries: entries,
            self.gallery: _filled(entries),
            self.box: gr.Accordion(visible=len(entries) >= compare.LEAST),
            self.picks: _filled(entries),
            **self._side_by_side(entries, []),
        }

    def _side_by_side(self, entries: list[Entry], picked: list[str]) -> dict[gr.blocks.Block, Any]:
        """The updates that compare the entries of ``picked`` pictures, in the order in which they were picked."""
        chosen, enough = _chosen(entries, picked), len(picked) >= compare.LEAST
        return {
            self.picked: picked,
            self.board: compare.board(chosen) if enough else PICK,
            **{button: gr.Button(interactive=enough) for button in self.saves},
        }

    def _pick(self, entries: list[Entry], picked: list[str], event: gr.SelectData) -> Any:
        if not isinstance(event.index, int) or not 0 <= event.index < len(entries):
            return gr.skip()
        path = entries[event.index].picture
        there = {entry.picture for entry in entries}
        picked = [one for one in picked if one in there and one != path] + ([] if path in picked else [path])
        if len(picked) > compare.MOST:
            gr.Info(f"At most {compare.MOST} are compared: click one of those again to leave it out.", title="Enough")
            picked = picked[: compare.MOST]
        with errors_shown("Not compared"):
            return {self.picks: _filled(entries, picked), **self._side_by_side(entries, picked)}

    def _png(self, entries: list[Entry], picked: list[str], request: gr.Request) -> str:
        return self._sheet("png", entries, picked, request)

    def _pdf(self, entries: list[Entry], picked: list[str], request: gr.Request) -> str:
        return self._sheet("pdf", entries, picked, request)

    def _sheet(self, kind: str, entries: list[Entry], picked: list[str], request: gr.Request) -> str:
        with errors_shown("There is no sheet to save"), new_folder(visitor(request)) as folder:
            made = compare.sheet(_chosen(entries, picked), self.title or "Latent Studio")
            return compare.save(made, folder / f"compared.{kind}")

    def on_pick(
        self, show: Callable[..., Any], outputs: Sequence[gr.blocks.Block], inputs: Sequence[gr.blocks.Block] = ()
    ) -> None:
        """Call `show(entry, *values)` with those of `inputs` when one is clicked."""

        def pick(event: gr.SelectData, entries: list[Entry], *values: object) -> Any:
            index = event.index
            return show(entries[index], *values) if isinstance(index, int) and 0 <= index < len(entries) else gr.skip()

        self.gallery.select(pick, [self.entries, *inputs], list(outputs), **LIGHT)


PICK = f"<p class='quiet'>Click {compare.LEAST} to {compare.MOST} results: they stand side by side, and what differs is marked.</p>"


def _strip(label: str) -> gr.Gallery:
    """A row of small pictures to click, unseen until there are some."""
    return gr.Gallery(
        label=label,
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


def _filled(entries: Sequence[Entry], picked: Sequence[str] = ()) -> gr.Gallery:
    """The update of a strip; those that were picked say as which."""
    captions = [
        (one.picture, f"✓ {picked.index(one.picture) + 1} · {one.caption}" if one.picture in picked else one.caption)
        for one in entries
    ]
    return gr.Gallery(value=captions, selected_index=None, visible=True)


def _chosen(entries: Sequence[Entry], picked: Sequence[str]) -> list[Entry]:
    """The entries of these pictures, as far as they are still there."""
    known = {entry.picture: entry for entry in entries}
    return [known[path] for path in picked if path in known]
