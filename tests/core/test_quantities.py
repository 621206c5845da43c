"""Every number on the page says what it is: its unit, which way is better, and its interval or that it is of one run."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import gradio as gr
import pytest

import app
from demos.core.quantities import ONE_RUN, Quantity, this_run, ways


def test_a_value_has_its_unit_and_its_interval():
    share = Quantity("Right", "higher", " %", 1, 100)
    assert share.write(0.5, (0.25, 0.756)) == "50.0 % <span>[25.0, 75.6]</span>"
    assert share.text(0.5, (0.25, 0.756)) == "50.0 % [25.0, 75.6]" and share.write(0.5) == "50.0 %"
    assert share.write(None) == "" and share.write(None, (0, 1)) == ""
    assert Quantity("x", "lower", digits=3, spread=1).write(0.1234, (0.1, 0.26)) == "0.123 <span>[0.1, 0.3]</span>"


@pytest.mark.parametrize(
    ("value", "signs", "shown"),
    [(1.25, False, "1.2"), (1.25, True, "+1.2"), (-1.25, False, "−1.2"), (-0.01, True, "0.0"), (0.0, True, "0.0")],
)
def test_signs_are_those_of_print(value: float, signs: bool, shown: str):
    assert Quantity("x", "neither", digits=1, signs=signs).write(value) == shown


def test_a_head_says_which_way_is_better_and_a_cell_says_it_on_a_phone():
    error = Quantity("Error", "lower", about="of <1>")
    assert "<span>of &lt;1&gt;; lower is better</span>" in error.head("row")
    assert error.cell("1") == "<td role='cell' data-label='Error' data-way=', lower is better'>1</td>"
    assert "better</span>" not in Quantity("Count", "neither").head("col")
    assert "class=none" in error.cell("")
    table = ways([("one", ["1"])], [error], "All", "Told.", "tally")
    assert table.count("lower is better") == 2 and "data-better='lower'" in table


def test_a_run_says_that_it_is_one():
    told = this_run({"Time": "<1 s"}, [{"key": "m", "source": "assets", "licence": "MIT"}])
    assert ONE_RUN in told and "&lt;1 s" in told and "m (assets), MIT" in told
    assert "Models" not in this_run({}, [])


class Tables(HTMLParser):
    """Numbers in the tables of measures that no head tells of, and figures that are not said to be of one run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.untold: list[str] = []
        self.columns: list[bool] = []
        self.inside = self.row = self.cell = ""
        self.place = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "table":
            self.inside, self.columns = given.get("class") or "", []
        elif tag == "tr":
            self.place, self.row = 0, ""
        elif tag in ("th", "td"):
            told = "data-better" in given
            if given.get("scope") == "col":
                self.columns.append(told)
            elif tag == "th" and told:
                self.row = "told"
            self.cell = (
                tag if tag == "td" and not (self.row or self.columns[self.place : self.place + 1] == [True]) else ""
            )
            self.place += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == "table" else self.inside
        self.cell = "" if tag == "td" else self.cell

    def handle_data(self, data: str) -> None:
        if "tally" in self.inside and self.cell and re.search(r"\d", data):
            self.untold.append(data)


def shown() -> list[str]:
    """All HTML that the page holds as it opens, with its results and its measured figures."""
    parts = [block for block in app.demo.blocks.values() if isinstance(block, gr.HTML) and isinstance(block.value, str)]
    return [part.value for part in parts]


def test_no_table_has_a_number_that_no_head_tells_of():
    pages = [page for page in shown() if "<table" in page]
    assert len(pages) >= 6
    for page in pages:
        assert not Tables(page).untold, page[:300]


def test_the_figures_of_a_run_say_so():
    figures = [page for page in shown() if "<div class='figures'>" in page]
    assert len(figures) >= 3 and all(ONE_RUN in page for page in figures)


def test_the_reader_of_tables_sees_what_is_missing():
    assert Tables("<table class='tally'><tr><th scope='col'>a</th></tr><tr><td>1</td></tr></table>").untold == ["1"]
    assert not Tables(
        "<table class='tally'><tr><th scope='col' data-better='lower'>a</th></tr><tr><td>1</td></tr></table>"
    ).untold
