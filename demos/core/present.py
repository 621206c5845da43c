"""The papers as a talk, and the map of where they steer: HTML that is made of what each paper declares (:mod:`demos.core.talk`).

`present.js` shows the slides, one after another; the live ones are the paper's own tab. No paper is named here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from starlette.responses import HTMLResponse
from starlette.routing import Route

from demos.core.figures import intervals, safe
from demos.core.tabs import Tab
from demos.core.talk import PLACES, Talk

ADDRESS = "/studio/slides"
LIVE_S = 13
"""Seconds for which a tour shows a tab; it waits longer for a run."""
TOUR_S = 600
"""A tour of all papers takes no longer; with many of them, each slide is shown more briefly."""
MAP = "Where each paper steers"
KINDS = {
    "claim": "What the paper claims",
    "live": "Live",
    "evidence": "What we measured",
    "limits": "What it cannot do",
}
OTHER_SET = "These are figures of the small models that come along, not of the published ones that answer here."
NOT_MEASURED = "The figures are not there: the evaluation is missing or damaged."
ARROW = (
    "<svg class='arrow {}' viewBox='0 0 40 24' aria-hidden='true'><path d='M2 12h32m-9-8 9 8-9 8' fill='none' "
    "stroke='currentColor' stroke-width='2.500' stroke-linecap='round' stroke-linejoin='round'/></svg>"
)


# --- the map --------------------------------------------------------------------------------------------------------


def map_html(tabs: Sequence[Tab], here: str = "") -> str:
    """A run of a generative model as a drawing, with each paper at the place where it steers. ``here``: the slug of the one paper
    to show, alone and without words."""

    def place(key: str) -> str:
        name, meaning = PLACES[key]
        papers = [(tab, tab.talk) for tab in tabs if tab.talk and tab.talk.steers == key]
        if here:
            lit = any(tab.slug == here for tab, _ in papers)
            return f"<div class='place {key}{' lit' if lit else ''}'><b>{name}</b></div>"
        listed = "".join(
            f"<li><button type='button' data-paper='{tab.slug}'>{safe(tab.name)}</button> {safe(talk.moves)}</li>"
            for tab, talk in papers
        )
        inside = f"<ul>{listed}</ul>" if papers else ""
        return f"<div class='place {key}'><b>{name}</b><span>{meaning}</span>{inside}</div>"

    outside = "".join(place(key) + ARROW.format(f"from-{key}") for key in ("conditioning", "noise", "geometry"))
    model = (
        f"<div class='model'><b>The model</b><div>{place('time')}{place('activations')}{place('weights')}</div></div>"
    )
    end = f"{ARROW.format('out')}<div class='place result'><b>{'Result' if here else 'Picture or answer'}</b></div>"
    return f"<div class='steering{' small' if here else ''}'{' aria-hidden=true' if here else ''}>{outside}{model}{end}</div>"


def table_html(tabs: Sequence[Tab]) -> str:
    """A row for each paper, in the order of :data:`PLACES`."""
    rows = ""
    for tab in sorted((tab for tab in tabs if tab.talk), key=_along):
        assert tab.talk is not None
        cells = {
            "Steers": f"{PLACES[tab.talk.steers][0]}: {tab.talk.moves}",
            "When": tab.talk.when,
            "To be learnt": tab.talk.learns,
        }
        inside = "".join(f"<td role='cell' data-label='{head}'>{safe(cell)}</td>" for head, cell in cells.items())
        rows += f"<tr role='row'><th role='rowheader' scope='row'>{safe(tab.name)}</th>{inside}</tr>"
    heads = ("Paper", "Steers", "When", "To be learnt")
    head = "".join(f"<th role='columnheader' scope='col'>{name}</th>" for name in heads)
    return (
        f"<table class='tally compare' role='table'><thead role='rowgroup'><tr role='row'>{head}</tr></thead>"
        f"<tbody role='rowgroup'>{rows}</tbody></table>"
    )


def _along(tab: Tab) -> tuple[int, int]:
    return (list(PLACES).index(tab.talk.steers) if tab.talk else len(PLACES), tab.order)


def header_html(tabs: Sequence[Tab]) -> str:
    """For the page's head: what opens the map over the page, and what begins the talk."""
    return (
        "<nav class='show' aria-label='Overview'><button type='button' popovertarget='studio-map'>Where they steer</button>"
        "<button type='button' data-present>Present</button></nav>"
        f"<div id='studio-map' class='map-sheet' popover role='dialog' aria-label='{MAP}'><div class='map-head'>"
        f"<h2>{MAP}</h2><button type='button' popovertarget='studio-map' popovertargetaction='hide'>Close</button>"
        f"</div>{map_html(tabs)}{table_html(tabs)}</div>"
    )


# --- the slides -----------------------------------------------------------------------------------------------------


def slides_html(tabs: Sequence[Tab], model_set: str) -> str:
    """All slides, as elements that stand beside one another: four for each paper, then all of them in a table and on the map."""
    slides = [slide for tab in tabs for slide in _slides(tab, tabs, model_set)]
    for kind, title, inside in (("table", "What each asks for", table_html(tabs)), ("map", MAP, map_html(tabs))):
        slides.append((kind, f"aria-label='{title}'", f"<h2 tabindex='-1'>{title}</h2>{inside}"))
    seconds = [LIVE_S if kind == "live" else _seconds(inside) for kind, _, inside in slides]
    shorter = min(1.0, TOUR_S / sum(seconds))
    return "".join(
        f"<section data-slide='{kind}' {attributes} data-seconds='{int(shorter * each)}'>{inside}</section>"
        for each, (kind, attributes, inside) in zip(seconds, slides, strict=True)
    )


def _slides(tab: Tab, tabs: Sequence[Tab], model_set: str) -> list[tuple[str, str, str]]:
    """(kind, attributes, inside) of a paper's."""
    insides = {"claim": _claim(tab, tabs), "live": _live(tab)}
    if tab.talk:
        insides |= {"evidence": _evidence(tab.talk, model_set), "limits": _listed(KINDS["limits"], tab.talk.cannot)}
    slides = []
    for kind, inside in insides.items():
        title = f"{safe(tab.name)} · {KINDS[kind]}"
        kicker = f"<p class='kicker'>{safe(tab.name) if kind == 'limits' else title}</p>"
        slides.append((kind, f"data-paper='{tab.slug}' aria-label='{title}'", kicker + inside))
    return slides


def _seconds(inside: str) -> int:
    """How long a slide is shown: what reading it takes."""
    words = len(re.sub("<[^>]+>", " ", inside).split())
    return min(max(5 + words // 4, 10), 24)


def _listed(head: str, sentences: Sequence[str]) -> str:
    return f"<h2 tabindex='-1'>{safe(head)}</h2><ul>{''.join(f'<li>{safe(one)}</li>' for one in sentences)}</ul>"


def _claim(tab: Tab, tabs: Sequence[Tab]) -> str:
    paper = tab.paper
    first = paper.authors[0] + (" et al." if len(paper.authors) > 1 else "")
    source = f"<p class='source'>{safe(paper.title)}. {safe(first)}, {safe(paper.venue)}</p>"
    claims = tab.talk.claims if tab.talk else (paper.idea,)
    return f"{_listed(paper.summary, claims)}{map_html(tabs, tab.slug) if tab.talk else ''}{source}"


def _live(tab: Tab) -> str:
    return f"<h2 tabindex='-1'>{safe(tab.name)}</h2><p>This is the tab itself: all of it works.<span> <kbd>→</kbd> goes on.</span></p>"


def _evidence(talk: Talk, model_set: str) -> str:
    found = talk.read()
    if found is None:
        return f"<h2 tabindex='-1'>{NOT_MEASURED}</h2>"
    headline = safe(found.headline).replace(" %", "\u00a0%")  # a number and its unit stay in one line
    facts = "; ".join(f"{row.name} {row.words}" for row in found.rows)
    gains = any(row.low < 0 for row in found.rows)
    chart = intervals("Measured", found.rule, facts, found.rows, found.axis, signs=gains)
    other = "" if model_set == "mini" else f"<p class='remark'>{OTHER_SET}</p>"
    return f"<h2 tabindex='-1'>{headline}</h2>{chart}{other}"


def route(tabs: Callable[[], Sequence[Tab]], model_set: str) -> Route:
    """Where the slides are, made when they are asked for: the figures are those that lie there then."""
    return Route(ADDRESS, lambda _: HTMLResponse(slides_html(tabs(), model_set)))
