"""Who paints what: the measured matrix, and a lab that measures it anew with pairs of prompts of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from demos.core.counting import Lab
from demos.core.figures import measured, safe
from demos.core.form import Form
from pipelines.core.registry import Registry
from pipelines.core.scores import wilson
from pipelines.instant_style import matrix, parts, places, short
from pipelines.instant_style.matrix import ALONE, HALF, OTHERS, WORDS, WORLDS, LabSettings, Tally
from pipelines.instant_style.measured import MEASURED, best, claim, evaluation

NEEDS_JUDGE = "Only the world of the mini set has a judge that can tell who paints what: these are figures of our small model, not of SDXL."
HOW = (
    "<p>Two prompts that say everything of a picture and agree in nothing, A and B, from one noise. Each cell: B speaks in that place only; how "
    "often is the attribute B’s then? The last column: B speaks everywhere <b>but</b> in the framed place.</p><p class='quiet'>Below each share its "
    "95 % interval. Only attributes that the judge sees right in A’s and in B’s own picture count.</p>"
)
CLEAN = (
    "What a sceptic would do instead. Counted: the attribute is B’s and <b>all else</b> is still A’s, as the judge sees it. A place that paints "
    "several attributes changes them together, so whoever can name what he wants does better to say it."
)


def build(registry: Registry, model_set: str) -> None:
    """The part of the page."""
    gr.HTML(f"<div class='lab-intro'>{HOW}</div>", padding=False)
    if model_set != "mini":
        gr.HTML(f"<p class='remark'>{NEEDS_JUDGE}</p>", padding=False)
    gr.HTML(measured(MEASURED, evaluation_html), padding=False)
    if model_set == "mini":
        with gr.Accordion("Measure it yourself", open=False):
            lab(registry)


def lab(registry: Registry) -> None:
    """A live measurement; a stopped one keeps what was counted."""
    registry.declare(*parts("mini").values())
    own = Form(LabSettings())
    with gr.Row(elem_classes="lab-seeds"):
        own.add("world", "count", "seed", "steps", "words")
    Lab(
        "who_paints_what",
        matrix.measure,
        Tally,
        lambda tally: table_html(tally.table()),
        "A pair is 18 pictures.",
        "Measure",
        "Stop",
    ).build(registry, own)


# --- tables -----------------------------------------------------------------------------------------------------


def evaluation_html() -> str:
    """What the evaluation measured, a matrix a world, and the sceptic's baselines."""
    worlds = evaluation().get("worlds", {})
    tables = "".join(
        f"<h3>{safe(words.capitalize())}: {worlds[name]['pairs']} pairs</h3>{table_html(worlds[name], words)}"
        for name, words in WORLDS.items()
        if name in worlds
    )
    return f"<div class='board'><p>{safe(claim())}</p>{tables}</div>"


def table_html(table: Mapping[str, Any], of: str = "your pairs") -> str:
    """The matrix of one world: a row an attribute, a column a place; what paints it most often is framed. ``of``: what was drawn."""
    columns = [place for place in places("mini") if place in table[ALONE]]
    rows = {}
    for name in table["attributes"]:
        painter = best(table, name)
        cells = [cell(table[ALONE][place][name], place == painter) for place in columns]
        rows[name.replace("_", " ")] = [*cells, cell(table[OTHERS][painter][name])]
    heads = [*map(short, columns), "all but the framed"]
    return grid(f"Who paints what: {of}", "attribute", heads, rows) + sceptics_html(table, of)


def sceptics_html(table: Mapping[str, Any], of: str) -> str:
    """What a sceptic would do instead, attribute by attribute; nothing where it was not drawn."""
    if WORDS not in table:
        return ""
    names = table["attributes"]
    rows = {
        "B in the framed place": [table[ALONE][best(table, name)][name] for name in names],
        "Said in words": [table[WORDS][name][name] for name in names],
        "Half of each, everywhere": [table[HALF][""][name] for name in names],
    }
    heads = [name.replace("_", " ") for name in names]
    cells = {title: [cell(clean(share)) for share in row] for title, row in rows.items()}
    return f"<p class='quiet'>{CLEAN}</p>{grid(f'What a sceptic would do instead: {of}', 'way', heads, cells)}"


def clean(share: Mapping[str, Any]) -> dict[str, Any]:
    """The share of those with all else still A's."""
    low, high = wilson(share["clean"], share["of"])
    return {**share, "right": share["clean"], "share": share["clean"] / max(share["of"], 1), "interval": (low, high)}


def grid(label: str, corner: str, heads: list[str], rows: Mapping[str, list[str]]) -> str:
    """A table of cells that scrolls inside itself."""
    head = "".join(f"<th scope='col'>{safe(one)}</th>" for one in (corner, *heads))
    lines = "".join(f"<tr><th scope='row'>{safe(name)}</th>{''.join(cells)}</tr>" for name, cells in rows.items())
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{safe(label)}'><table class='paints'>"
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def cell(share: Mapping[str, Any], framed: bool = False) -> str:
    """One share with its interval; its ground says how much."""
    if not share["of"]:
        return "<td>–</td>"
    low, high = (100 * end for end in share["interval"])
    style = f"style='--share:{share['share']:.2f}' title='{share['right']} of {share['of']}'"
    return f"<td{' class=framed' if framed else ''} {style}>{100 * share['share']:.0f} %<small>{low:.0f}–{high:.0f}</small></td>"
