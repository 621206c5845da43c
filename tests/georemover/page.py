"""The page of GeoRemover without a browser: its handlers, and what they are given."""

from __future__ import annotations

import dataclasses

import gradio as gr
import numpy
from PIL import Image

from demos.core.hold import OnPage
from demos.georemover import painter, scenes
from demos.georemover.files import Shown
from demos.georemover.mask import CLICK
from demos.georemover.run import Held
from pipelines.core import images
from pipelines.georemover import Cache, Settings
from tests.core.test_app import visit
from tests.toys import flux as toy_flux

TOY = dataclasses.replace(toy_flux.toy_base(), steps=(4, 4), fast=(4, 4))


def handler(page: gr.Blocks, name: str):
    """The page's handler of that name, as Gradio calls it; not another tab's."""
    ours = (f.fn for f in page.fns.values() if getattr(f.fn, "__name__", "") == name)
    return next(fn for fn in ours if not fn.__module__.startswith(("demos.golden_noise", "demos.concept_guidance")))


def values(steps: int = 4, **changed) -> dict:
    """What the settings' widgets hold, by name."""
    held = dataclasses.asdict(Settings(steps_1=steps, steps_2=steps)) | changed
    return {name: value for name, value in held.items() if name != "model_set"}


def press(
    page: gr.Blocks,
    name: str,
    visitor: str,
    picture=None,
    mode=CLICK,
    drawn=None,
    *,
    own=None,
    known=None,
    compare=False,
    threshold=8,
    kept=None,
    **changed,
):
    """The updates of a run's handler for what the page holds."""
    picture = scenes.first() if picture is None else picture
    cache = Cache() if kept is None else kept
    held = Held(picture, mode, drawn, own, known, compare, "inferno", "composite", threshold, [], cache, OnPage())
    return handler(page, name)(visit(visitor), *held, **values(**changed))


def last(updates: list) -> Shown:
    """The run on the page after the last update."""
    found = [v for u in updates if isinstance(u, dict) for v in u.values() if isinstance(v, Shown)]
    return found[-1]


def own_picture(size=(300, 200)) -> painter.Picture:
    pixels = numpy.random.default_rng(0).integers(0, 255, (*size[::-1], 3), numpy.uint8)
    return scenes.own(images.open_upload(Image.fromarray(pixels)), "mine")


def box_mask(picture: painter.Picture, box=(40, 30, 90, 80)) -> numpy.ndarray:
    mask = numpy.zeros(picture.image.size[::-1], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def strokes(picture: painter.Picture) -> dict:
    """The painter's value after a visitor has brushed a box."""
    return painter.value_of(picture, box_mask(picture))


def put(page, name: str, *inputs) -> dict[type, list]:
    """What a handler of the page puts there, by its kind."""
    found: dict[type, list] = {}
    for value in handler(page, name)(*inputs).values():
        found.setdefault(type(value), []).append(value)
    return found
