"""Pictures of one size in columns, each under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TEXT_PX = 16
"""Height of a line of words on a sheet of small pictures."""


@dataclass
class Preview:
    """One sheet so far."""

    kind: str
    """Which of a run's sheets."""
    sheet: Image.Image


def line_of(width: int) -> int:
    """Height of a line of words on a sheet so many pixels wide, which a page shows at some 700."""
    return max(TEXT_PX, width // 48)


def caption(draw: ImageDraw.ImageDraw, words: str, left: float, top: float, line: int) -> None:
    """A line of words, ``line`` pixels high."""
    draw.text((left + 4, top + 1), words, fill="black", font=ImageFont.load_default(line * 3 / 4))


def sheet(columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Columns of pictures, each below its name."""
    width, height = next(iter(columns.values()))[0].size
    line = line_of(len(columns) * width)
    canvas = Image.new("RGB", (len(columns) * width, line + max(map(len, columns.values())) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (name, pictures) in enumerate(columns.items()):
        caption(draw, name, column * width, 0, line)
        for row, picture in enumerate(pictures):
            canvas.paste(picture, (column * width, line + row * height))
    return canvas
