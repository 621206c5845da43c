"""What a run would fetch and need, on the page of a tab of the full set before anything is started: see ``pipelines/core/preflight.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import Context

from demos.core.figures import safe
from demos.core.handlers import LIGHT
from pipelines.core import lane, preflight
from pipelines.core.downloads import in_bytes
from pipelines.core.preflight import Checkpoint, Leases, Memory, Preflight, in_gib
from pipelines.core.registry import Registry

LOOKING = "<p class='remark'>Looking at what a run would fetch and need…</p>"


class PreflightPanel:
    """The panel, here in the layout; :meth:`bind` says what it looks at. The small set has none: it fetches nothing."""

    def __init__(self, registry: Registry, model_set: str) -> None:
        self.registry, self.shown = registry, None
        if model_set != "mini":
            with gr.Row(elem_classes="preflight-row"):
                self.shown = gr.HTML(LOOKING, padding=False, elem_classes="preflight-host")
                self.again = gr.Button("Check again", size="sm", min_width=110, scale=0)

    def bind(
        self, leases: Callable[..., Leases], generate: Callable[..., Any], *inputs: gr.components.Component
    ) -> None:
        """Look when the page opens and when one of ``inputs`` changes.

        ``leases(*values)`` gives what a run would lease with the values of ``inputs``, or raises a ``ValueError`` that says why none
        would start; ``generate`` is the run, whose earlier seconds are told.
        """
        if self.shown is None:
            return

        def look(*values: object) -> str:
            try:
                wanted = leases(*values)
            except ValueError as error:
                return f"<p class='remark'>{safe(error)}</p>"
            return panel_html(preflight.look(self.registry, wanted), lane.typical_s(generate))

        def look_anew(*values: object) -> str:
            preflight.forget()
            return look(*values)

        page = Context.root_block
        assert isinstance(page, gr.Blocks)
        given: dict[str, Any] = {"inputs": list(inputs), "outputs": self.shown, **LIGHT}
        chosen: list[Any] = list(inputs)  # each with events of its own
        gr.on([page.load, *(one.change for one in chosen)], look, **given)
        self.again.click(look_anew, **given)


def panel_html(found: Preflight, seconds: float | None) -> str:
    """One line that opens: what a run fetches and needs, and above it what stands in its way."""
    obstacles = "".join(f"<li>{safe(one)}</li>" for one in found.obstacles)
    stopped = f"<div class='obstacles'><b>A run cannot start yet</b><ul>{obstacles}</ul></div>" if obstacles else ""
    facts = [_fetching(found), *map(_memory, found.memory), f"{in_bytes(found.free)} free on the disk", _time(seconds)]
    rows = "".join(map(_row, found.checkpoints))
    table = (
        "<table><thead><tr><th>From the Hub</th><th>Licence</th><th>To fetch</th><th>Access</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        "<p class='quiet'>Memory is that of the weights; the work takes some more. Budgets: LATENT_STUDIO_GPU_GIB and LATENT_STUDIO_RAM_GIB.</p>"
    )
    line = " ".join(f"<span>{safe(one)}</span>" for one in facts)
    return (
        f"<div class='preflight'>{stopped}<details><summary><b>Before a run</b> {line}</summary>{table}</details></div>"
    )


def _fetching(found: Preflight) -> str:
    if not found.reached and any(one.to_fetch is None for one in found.checkpoints):
        about = sum(one.declared for one in found.checkpoints if one.to_fetch is None)
        return f"the Hub cannot be reached; about {in_bytes(found.to_fetch + about)} are not here"
    unknown = sum(one.declared for one in found.checkpoints if one.to_fetch is None)
    if unknown:
        return f"about {in_bytes(found.to_fetch + unknown)} to fetch"
    return f"{in_bytes(found.to_fetch)} to fetch" if found.to_fetch else "nothing to fetch"


def _memory(one: Memory) -> str:
    there = "not known before a run" if one.there is None else f"of {in_gib(one.there)}"
    return f"{one.name}: {in_gib(one.needed)} {there}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "time: not measured here yet"
    return f"time: about {seconds:.0f} s, as earlier runs here took"


def _row(one: Checkpoint) -> str:
    fetch = (
        f"about {in_bytes(one.declared)}"
        if one.to_fetch is None
        else in_bytes(one.to_fetch)
        if one.to_fetch
        else "here"
    )
    cells = (one.source, ", ".join(one.licences), fetch, one.access)
    names = ("From the Hub", "Licence", "To fetch", "Access")
    return (
        "<tr>"
        + "".join(f"<td data-name='{n}'>{safe(cell)}</td>" for n, cell in zip(names, cells, strict=True))
        + "</tr>"
    )
