"""Make the contact sheet: python -m pipelines.worlds.portrait --out assets/contact_sheets/portrait.png"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from . import render, sample


def contact_sheet(seed: int, columns: int, rows: int, size: int) -> Image.Image:
    """Portraits of the seeds from `seed` on, left to right and top to bottom."""
    portraits = [sample(seed + place) for place in range(columns * rows)]
    image = render(portraits, size, supersample=3).image
    image = image.reshape(rows, columns, 3, size, size).permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3)
    return Image.fromarray((image * 255).round().byte().numpy())


def main() -> None:
    """Read the arguments and write the sheet."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of portraits.")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--size", type=int, default=160, help="side of one portrait in pixels")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(given.seed, given.columns, given.rows, given.size).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
