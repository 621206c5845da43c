"""The public endpoint of the GeoRemover tab: two files in, three files and the measurements out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy

from demos.core.endpoint import FILE, MODEL_SET, SETTINGS, WHOLE, Endpoint, Parameter, parameters_of, publish
from demos.core.visitors import new_folder
from demos.georemover.files import SLUG
from demos.georemover.mask import read_mask
from pipelines import georemover
from pipelines.core import images
from pipelines.core.lane import Result, stream
from pipelines.core.registry import Registry
from pipelines.georemover import Outcome, Request, Settings, export, views
from pipelines.models import flux

API = "remove_object"
LIMIT_S = 900.0
FINE = tuple(name for name in Settings.fields() if name not in ("seed", "variants", "model_set"))
"""Settings that a program may send beside the seed: of several variants it would get one."""


def answer(outcome: Outcome, session: str) -> tuple[str, str, str, dict[str, Any]]:
    """The composite, both depth maps in inferno, and what there is to know."""
    with new_folder(session) as folder:
        record = export.facts(outcome)
        models = [str(model["key"]) for model in outcome.models]
        path = images.save_png(
            outcome.composites[0],
            folder / f"{SLUG}_{outcome.settings.seed}_composite.png",
            record["settings"],
            tab=SLUG,
            models=models,
        )
        paths = [str(path)]
        for name, depth in (("before", outcome.depth_before), ("after", outcome.depth_after)):
            paths.append(str(folder / f"depth_{name}.png"))
            views.depth_picture(numpy.asarray(depth)).save(paths[-1])
        return paths[0], paths[1], paths[2], record


def endpoint(model_set: str) -> Endpoint:
    """The public endpoint as it is declared."""
    parameters = (
        Parameter("image", FILE, required=True),
        Parameter("mask", FILE, required=True),
        *parameters_of(Settings.of(model_set), "seed"),
        Parameter("steps", WHOLE, 0),
        MODEL_SET,
        Parameter("settings", SETTINGS, {}, later=True),
    )
    outputs = (("file", "result"), ("file", "depth before"), ("file", "depth after"), ("json", "measurements"))
    description = (
        "An object taken out of a picture with its shadow and reflection. image and mask: files, white in the mask is what "
        f"goes; PNG, JPEG or WebP. The result is a PNG of 8 bits in sRGB, as large and as transparent as the picture, without its metadata; what else is lost is in the notes. The mask is grown by {Settings.of(model_set).grow} pixels at working size. settings: others of the page by their names ({', '.join(FINE)}). {_limits(model_set)}"
    )
    return Endpoint(API, parameters, outputs, description)


def build(registry: Registry, model_set: str) -> None:
    """The public endpoint."""

    def remove_object(session, image, mask, seed, steps, settings) -> Iterator[Any]:
        paces = {} if steps == 0 else {"steps_1": steps, "steps_2": steps}
        start = dataclasses.replace(Settings.of(model_set), seed=seed)
        settings = dataclasses.replace(start.changed(settings, FINE), **paces).validated()
        opened = images.open_upload(image)
        area = read_mask(mask, opened.image.size)
        asked = Request(opened.image, area, settings, layered=opened.layered, lost=opened.notes)
        for item in stream(georemover.generate, registry, asked, limit_s=LIMIT_S):
            if isinstance(item, Result):
                yield answer(item.value, session)
            else:
                yield gr.skip()

    publish(endpoint(model_set), remove_object, model_set)


def _limits(model_set: str) -> str:
    (low, high), (least, most) = Settings.field("seed").range, Settings.field("steps_1").range
    first, second = flux.BASES[model_set].steps
    return (
        f"Limits: seed {low} to {high}, steps of each stage {least} to {most} or 0 for the page's {first} and {second}."
    )
