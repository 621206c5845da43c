"""An answer as a picture: what stands for it in the strip of results and on a sheet."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from PIL import Image

from demos.concept_guidance.shown import Turn, display
from demos.core import compare

if TYPE_CHECKING:
    from pathlib import Path

EDGE = 24
MOST = 560
"""Characters of a text that are printed."""


def card(turn: Turn, model_set: str) -> Image.Image:
    """The question and both answers in print, as wide as the pictures of a sheet and at least as high."""
    lines = [(_short(turn.message), 24, compare.INK)]
    for name, answer in _answers(turn, model_set):
        lines += [(name, 18, compare.MARK), (answer, 22, compare.INK)]
    text = compare.printed(lines, compare.CELL - 2 * EDGE)
    made = Image.new("RGB", (compare.CELL, max(compare.CELL, text.height + 2 * EDGE)), compare.PAPER_WHITE)
    made.paste(text, (EDGE, EDGE))
    return made


def words(turn: Turn, model_set: str) -> str:
    """What a card says, for those who have the page read to them."""
    return " ".join([_short(turn.message), *(f"{name}: {answer}" for name, answer in _answers(turn, model_set))])


def save(turn: Turn, model_set: str, folder: Path) -> str:
    """The card as a file in ``folder``."""
    path = folder / "concept_guidance_answer.png"
    card(turn, model_set).save(path)
    return str(path)


def _answers(turn: Turn, model_set: str) -> list[tuple[str, str]]:
    sides = zip(("Unguided", "Guided"), turn.texts, strict=True)
    return [(name, _short(display(text, model_set)) or "(nothing)") for name, text in sides]


def _short(text: str) -> str:
    return textwrap.shorten(text, MOST, placeholder=" …")
