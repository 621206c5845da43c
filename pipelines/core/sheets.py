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


def sheet(columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Columns of pictures, each below its name."""
    width, height = next(iter(columns.values()))[0].size
    line = max(TEXT_PX, height // 16)
    canvas = Image.new("RGB", (len(columns) * width, line + max(map(len, columns.values())) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (name, pictures) in enumerate(columns.items()):
        draw.text((column * width + 4, 1), name, fill="black", font=ImageFont.load_default(line * 3 / 4))
        for row, picture in enumerate(pictures):
            canvas.paste(picture, (column * width, line + row * height))
    return canvas
