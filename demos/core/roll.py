"""A scene of our renderer in place of a picture of one's own."""

from __future__ import annotations

import gradio as gr

from demos.core.handlers import TALKS
from demos.core.hold import held
from demos.core.uploads import errors_shown
from demos.core.visitors import new_folder, visitor
from pipelines.core import images, limits
from pipelines.worlds.rolled import rolled

START = 900_013
NUMBERS = 2**31


def roll_row(start: int = START) -> tuple[gr.Number, gr.Button]:
    """A number and the button that takes its scene; :func:`rolls_into` binds them."""
    with gr.Row(elem_classes="seed-row"):
        number = gr.Number(start, label="Scene of our renderer", precision=0, min_width=110)
        return number, gr.Button("Take this scene", size="md", min_width=120)


def rolls_into(slug: str, row: tuple[gr.Number, gr.Button], source: gr.File) -> None:
    """Let the button put the scene among the visitor's files, into ``source``."""
    number, roll = row

    def take(number: object, request: gr.Request) -> str:
        with errors_shown("No scene was taken"):
            scene = int(limits.number("scene", number, 0, NUMBERS, whole=True))
            with new_folder(visitor(request)) as folder:
                return str(images.save_png(rolled(scene), folder / f"scene_{scene}.png", {"scene": scene}, tab=slug))

    held(slug, roll.click, take, number, source, **TALKS)
