"""The papers as a talk: each declares its own slides, figures are read and not typed, and none is named in between."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from demos.core import present, tabs
from demos.core.figures import Interval
from demos.core.talk import PLACES, Evidence, Talk

TALKS = [tab for tab in tabs.discover() if tab.talk]


def talk_of(tab: tabs.Tab) -> Talk:
    assert tab.talk is not None
    return tab.talk


def changed(value: Any) -> Any:
    """The same figures, each a little smaller; of what is told in letters, "BBAAA", each a place further."""
    if isinstance(value, dict):
        return {key: changed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [changed(one) for one in value]
    if isinstance(value, str) and value.isupper():
        return value[1:] + value[-1]
    return value * 0.9 if isinstance(value, float) else value


def test_every_place_has_its_paper():
    assert {talk_of(tab).steers for tab in TALKS} == set(PLACES)


@pytest.mark.parametrize("tab", TALKS, ids=lambda tab: tab.slug)
def test_figures_are_read_and_never_typed(tab: tabs.Tab):
    talk = talk_of(tab)
    found = json.loads(talk.measured.read_text())
    now, other = talk.read(), talk.evidence(changed(found))
    assert now is not None and now == talk.evidence(found)
    assert now.headline != other.headline and now.rows != other.rows
    assert all(row.low <= row.value <= row.high for row in now.rows)
    assert "better" in now.axis and ("95 % interval" in now.rule or "quartile" in now.rule)
    words = " ".join((*talk.claims, *talk.cannot, talk.moves, talk.when, talk.learns))
    assert not re.search(r"\d", words), words


def test_slides_come_in_their_order_and_end_on_the_map():
    slides = re.findall(r"data-slide='(\w+)'(?: data-paper='(\w+)')?", present.slides_html(TALKS, "mini"))
    kinds = ["claim", "live", "evidence", "limits"]
    assert slides == [(kind, tab.slug) for tab in TALKS for kind in kinds] + [("table", ""), ("map", "")]


def test_a_tour_takes_less_than_ten_minutes_however_many_papers_there_are():
    found = tabs.discover()
    for papers in (found, found * 3):
        seconds = [int(one) for one in re.findall(r"data-seconds='(\d+)'", present.slides_html(papers, "mini"))]
        assert 120 < sum(seconds) <= 600 and min(seconds) >= 4


def test_a_new_paper_is_there_without_being_named(tmp_path: Path):
    (tmp_path / "evaluation.json").write_text('{"share": 0.25}')

    def evidence(found: dict[str, Any]) -> Evidence:
        rows = [Interval("This", 100 * found["share"], 20, 30, f"{100 * found['share']:.0f} %")]
        return Evidence("A <new> figure", rows, "%, higher is better", "Spans are 95 % intervals.")

    measured = tmp_path / "evaluation.json"
    said = Talk("weights", "all of them", "for ever", "much", ("It is new.",), ("Old things.",), measured, evidence)
    new = dataclasses.replace(tabs.discover()[0], name="New & odd", slug="new_and_odd", order=99, talk=said)
    slides = present.slides_html([*TALKS, new], "full")
    assert slides.count("data-paper='new_and_odd'") == 4 + 1, "four slides, and on the map"
    assert "A &lt;new&gt; figure" in slides and "25 %" in slides and present.OTHER_SET in slides
    assert "New &amp; odd" in present.header_html([new]) and "all of them" in present.table_html([new])
    for text in ("", "[]", '{"share": "x"}'):
        measured.write_text(text)
        assert present.NOT_MEASURED in present.slides_html([new], "mini")
    plain = dataclasses.replace(new, talk=None)
    kinds = re.findall(r"data-slide='(\w+)' data-paper", present.slides_html([plain], "mini"))
    assert kinds == ["claim", "live"], "what every paper has, its card and its page"
