"""Each tab opens with a finished result, which is the one that its button draws now."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import numpy
import pytest
from PIL import Image

import app  # noqa: F401  (builds the page)
from demos.core import opening, tabs
from demos.core.opening import FILE, OPENINGS
from tests.openings import alike_everywhere

OFF = 8
"""Of 255: with another number of threads sums are added up in another order."""
MOST_BYTES = 3_500_000
"""Of all tabs together: a visitor's first look is part of every installation. TIME's three sheets of 256-pixel pictures are a third of it."""


def test_every_tab_opens_with_a_result_that_says_when_it_was_drawn():
    assert len(OPENINGS) >= 4 and set(OPENINGS) <= {tab.slug for tab in tabs.discover()}
    for slug, one in OPENINGS.items():
        drawn = one.read()
        assert drawn and "Drawn earlier" in one.line.value, slug
        shown = [one.widgets[name] for name in drawn]
        assert all(widget.value for widget in shown if isinstance(widget, gr.Image | gr.ImageSlider | gr.Chatbot)), slug
        assert any(isinstance(widget, gr.Image | gr.ImageSlider | gr.Chatbot) for widget in shown), slug
    sizes = [file.stat().st_size for one in OPENINGS.values() for file in one.folder.iterdir()]
    assert sum(sizes) <= MOST_BYTES


def test_a_result_that_is_damaged_or_of_another_page_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = OPENINGS["golden_noise"]
    monkeypatch.setattr(opening, "ASSETS", tmp_path)
    before = one.line.value
    (tmp_path / one.slug).mkdir()
    for text in ("", "[]", '{"99 Image": {"value": "x"}}'):
        one.folder.mkdir(exist_ok=True)
        (one.folder / FILE).write_text(text)
        one.show()
        assert one.line.value == before


@pytest.mark.long
@pytest.mark.parametrize("slug", OPENINGS)
def test_it_is_what_the_button_draws_now(slug: str, tmp_path: Path):
    """`python -m tests.openings` draws it anew where this fails."""
    one = OPENINGS[slug]
    with alike_everywhere():
        one.save(one.draw("opening"), tmp_path / "now")
    names = {file.name for file in one.folder.iterdir()}
    assert {file.name for file in (tmp_path / "now").iterdir()} == names
    for name in names:
        kept, now = one.folder / name, tmp_path / "now" / name
        if name.endswith(".png"):
            pixels = [numpy.asarray(Image.open(file).convert("RGB"), int) for file in (kept, now)]
            assert pixels[0].shape == pixels[1].shape and abs(pixels[0] - pixels[1]).max() <= OFF, name
    assert words((one.folder / FILE).read_text()) == words((tmp_path / "now" / FILE).read_text())


def words(text: str) -> str:
    """Without pictures and numbers: times are others each time."""
    return re.sub(r"""data:image[^'"\\ ]+|[\d.,]+""", "", text)
