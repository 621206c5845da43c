"""Two to six results of a tab side by side: what differs in their settings is marked, and all of it is one sheet to take away."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from demos.core.figures import data_uri, safe
from pipelines.core import images
from pipelines.core.settings import Declared, Field

if TYPE_CHECKING:
    from demos.core.widgets import Entry, Made

LEAST, MOST = 2, 6
SIDE = 360
"""Long side of a picture on the page."""
CELL, GAP, LINE = 520, 36, 26
"""Pixels of the sheet: width of a picture, room around it, height of a line of words."""
INK, QUIET, MARK, PAPER_WHITE = "#1d1b17", "#5c564b", "#775200", "#ffffff"
SPELLED = {
    "ß": "ss",
    "–": "-",
    "—": "-",
    "λ": "lambda",
    "μ": "mu",
    "→": "->",
    "⇒": "=>",
    "’": "'",
    "“": '"',
    "”": '"',
    "…": "...",
}
"""What is written where the sheet's font has no such letter."""


def setting(field: Field, value: object) -> str:
    """The value of a setting as a reader takes it."""
    if field.kind == "switch":
        return "on" if value else "off"
    if isinstance(field.options, Mapping):
        words = field.options.get(str(value))
        return words if isinstance(words, str) else str(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def settings_of(made: Made) -> dict[str, str]:
    """Everything that a result was made with, by the labels of the page."""
    declared: Declared = made.settings
    shown = {one.label: setting(one, getattr(declared, name)) for name, one in declared.fields().items()}
    return {**shown, **{name.capitalize(): text for name, text in made.more.items()}}


def compared(entries: Sequence[Entry]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """(label -> value of each entry, where they differ; label -> value, where they do not)."""
    each = [settings_of(entry.made) for entry in entries if entry.made is not None]
    labels = dict.fromkeys(label for one in each for label in one)
    values = {label: [one.get(label, "–") for one in each] for label in labels}
    differs = {label: row for label, row in values.items() if len(set(row)) > 1}
    return differs, {label: row[0] for label, row in values.items() if label not in differs}


def prompt_of(entry: Entry) -> str:
    """What was asked for, in words; its caption where the settings have no text."""
    declared = None if entry.made is None else entry.made.settings
    texts = [] if declared is None else [name for name, one in declared.fields().items() if one.kind == "text"]
    return str(getattr(declared, texts[0])) if texts else entry.caption


def models_of(entry: Entry) -> list[str]:
    """The models that answered, each with its licence."""
    return [] if entry.made is None else [f"{key} ({licence})" for key, licence in entry.made.models]


def board(entries: Sequence[Entry]) -> str:
    """The entries in columns, and a row for each setting that differs."""
    differs, same = compared(entries)
    pictures, heads = "", ""
    for number, entry in enumerate(entries, 1):
        small = images.open_picture(entry.picture)
        small.thumbnail((SIDE, SIDE))
        pictures += f"<td><img src='{data_uri(small, 'WEBP')}' alt='Result {number}: {safe(entry.words or entry.caption)}'></td>"
        heads += f"<th scope='col'>{number}. {safe(entry.caption)}</th>"
    rows = "".join(
        f"<tr><th scope='row'>{safe(label)}</th>{''.join(f'<td><mark>{safe(text)}</mark></td>' for text in row)}</tr>"
        for label, row in differs.items()
    )
    alike = ", ".join(f"{label}: {text}" for label, text in same.items() if text)
    none = "" if differs else "<p>Their settings are the same.</p>"
    return (
        f"<div class='compare-board' tabindex='0' role='group' aria-label='Results side by side'><table>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody><tr><th scope='row'>Picture</th>{pictures}</tr>{rows}</tbody></table></div>"
        f"{none}<p class='quiet'>The same in all: {safe(alike)}.</p>"
    )


# --- the sheet -------------------------------------------------------------------------------------------------------


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own letters: no file of the machine is looked for."""
    made = ImageFont.load_default(size)
    assert isinstance(made, ImageFont.FreeTypeFont)
    return made


def drawable(text: str) -> str:
    """``text`` in letters that the sheet's font has."""
    none = bytes(font(LINE).getmask("\U0010fffd"))

    def letter(one: str) -> str:
        if one.isascii() or bytes(font(LINE).getmask(one)) != none:
            return one
        plain = "".join(part for part in unicodedata.normalize("NFKD", one) if part.isascii())
        return SPELLED.get(one) or plain or "?"

    return "".join(map(letter, " ".join(text.split())))


def lines(text: str, size: int, width: int) -> list[str]:
    """``text`` broken between words so that each line fits."""
    made = [""]
    for word in drawable(text).split(" "):
        longer = f"{made[-1]} {word}".strip()
        if made[-1] and font(size).getlength(longer) > width:
            made.append(word)
        else:
            made[-1] = longer
    return [cut(line, size, width) for line in made]


def cut(line: str, size: int, width: int) -> str:
    """``line`` as far as it fits."""
    while font(size).getlength(line) > width:
        line = line[:-1]
    return line


def sheet(entries: Sequence[Entry], title: str) -> Image.Image:
    """All of it as one picture: a caption under each, the settings that differ in another colour, what is the same at the end."""
    differs, same = compared(entries)
    columns = len(entries) if len(entries) <= 3 else 2 if len(entries) == 4 else 3
    cells = []
    for number, entry in enumerate(entries, 1):
        words = [(f"{number}. {prompt_of(entry)}", 20, INK)]
        differing = [(label, row[number - 1]) for label, row in differs.items()]
        words += [(f"{label}: {text}", 18, MARK) for label, text in differing if text != prompt_of(entry)]
        seed = getattr(entry.made.settings, "seed", None) if entry.made is not None else None
        words += [(f"seed {seed}", 18, QUIET)] if seed is not None and "Seed" not in differs else []
        words += [(model, 16, QUIET) for model in models_of(entry)]
        cells.append(_cell(images.open_picture(entry.picture), words))
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    head = printed([(title, 26, INK)], columns * (CELL + GAP) - GAP)
    alike = ", ".join(f"{label} {text}" for label, text in same.items() if text)
    foot = printed([(f"The same in all: {alike}.", 16, QUIET)], columns * (CELL + GAP) - GAP)
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (CELL + GAP) + GAP, sum(heights) + head.height + foot.height + GAP * (len(rows) + 3))
    made = Image.new("RGB", size, PAPER_WHITE)
    made.paste(head, (GAP, GAP))
    top = head.height + 2 * GAP
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            made.paste(cell, (GAP + place * (CELL + GAP), top))
        top += height + GAP
    made.paste(foot, (GAP, top))
    return made


def _cell(picture: Image.Image, words: Sequence[tuple[str, int, str]]) -> Image.Image:
    scale = CELL / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    under = printed(words, CELL)
    made = Image.new("RGB", (CELL, picture.height + 12 + under.height), PAPER_WHITE)
    made.paste(picture, (0, 0))
    made.paste(under, (0, picture.height + 12))
    return made


def printed(words: Sequence[tuple[str, int, str]], width: int) -> Image.Image:
    """Paragraphs (text, size, colour), broken to ``width`` pixels, on white."""
    broken = [(line, size, colour) for text, size, colour in words for line in lines(text, size, width)]
    made = Image.new("RGB", (width, max(sum(size + 8 for _line, size, _colour in broken), 1)), PAPER_WHITE)
    top, draw = 0, ImageDraw.Draw(made)
    for line, size, colour in broken:
        draw.text((0, top), line, colour, font(size))
        top += size + 8
    return made


def save(made: Image.Image, path: Path) -> str:
    """The sheet as a file: PNG or PDF, by the name."""
    made.save(path, resolution=150.0)  # which a PNG has no use for
    return str(path)
