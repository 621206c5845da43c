"""The public endpoint of the GeoRemover tab: two files in, three files and the measurements out."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy
from gradio.components.api_component import Api
from gradio.data_classes import FileData

from demos import GPU, on_gpu, workspace
from demos.removal_files import SLUG
from demos.removal_mask import read_mask
from demos.uploads import sent
from pipelines import flux_fill, georemover, images, removal_views
from pipelines.georemover import Outcome, Request, Settings
from pipelines.lane import Result, stream
from pipelines.registry import Registry

API = "remove_object"
INPUTS = ("image", "mask", "seed", "steps", "model_set")
LIMIT_S = 900.0


def answer(outcome: Outcome, session: str) -> tuple[str, str, str, dict[str, Any]]:
    """The composite, both depth maps in inferno, and what there is to know."""
    folder = workspace(session) / secrets.token_hex(6)
    folder.mkdir()
    told = georemover.facts(outcome)
    models = [str(model["key"]) for model in outcome.models]
    path = images.save_png(
        outcome.composites[0],
        folder / f"{SLUG}_{outcome.settings.seed}_composite.png",
        told["settings"],
        tab=SLUG,
        models=models,
    )
    paths = [str(path)]
    for name, depth in (("before", outcome.depth_before), ("after", outcome.depth_after)):
        paths.append(str(folder / f"depth_{name}.png"))
        removal_views.depth_picture(numpy.asarray(depth)).save(paths[-1])
    return paths[0], paths[1], paths[2], told


def build(registry: Registry, model_set: str) -> None:
    """The public endpoint. Its inputs arrive as they were sent, so that our own checks answer."""
    base = flux_fill.BASES[model_set]

    def remove_object(session, image, mask, seed=0, steps=0, model_set=model_set) -> Iterator[Any]:
        own = type(steps) in (int, float) and steps == 0
        paces = {} if own else {"steps_1": steps, "steps_2": steps}
        settings = dataclasses.replace(Settings.of(model_set), seed=seed, **paces).validated()
        if model_set != base.name:  # another would be fetched, 25 GB of it, for whoever asks
            raise ValueError(
                f"This server runs the model set {base.name}, not {model_set}: ask for that, or start it with --model-set {model_set}."
            )
        opened = images.open_upload(sent(image, "image"))
        area = read_mask(sent(mask, "mask"), opened.image.size)
        asked = Request(opened.image, area, settings, layered=opened.layered, lost=opened.notes)
        for item in stream(georemover.remove, registry, asked, limit_s=LIMIT_S):
            if isinstance(item, Result):
                yield answer(item.value, session)
            else:
                yield gr.skip()

    file = FileData.model_json_schema()
    kinds = [file, file, {"type": "integer"}, {"type": "integer"}, {"type": "string"}]
    values: list[Any] = [None, None, 0, 0, model_set]
    trigger = gr.Button(visible=False)
    trigger.click(
        on_gpu(remove_object),
        [Api(value, kind, name) for value, kind, name in zip(values, kinds, INPUTS, strict=True)],
        [
            gr.File(visible=False, label="result"),
            gr.File(visible=False, label="depth before"),
            gr.File(visible=False, label="depth after"),
            gr.JSON(visible=False, label="measurements"),
        ],
        api_name=API,
        api_description="An object taken out of a picture with its shadow and reflection. image and mask: files, white in the mask is what "
        f"goes; PNG, JPEG or WebP. The result is a PNG of 8 bits in sRGB, as large and as transparent as the picture, without its metadata; what else is lost is in the notes. The mask is grown by {Settings.of(model_set).grow} pixels at working size. {_limits(model_set)}",
        show_progress="hidden",
        **GPU,
    )


def _limits(model_set: str) -> str:
    (low, high), (least, most) = Settings.SEED, Settings.STEPS
    first, second = flux_fill.BASES[model_set].steps
    return f"Limits: seed {low} to {high}, steps of each stage {least} to {most} or 0 for the page's {first} and {second}, model set {model_set}."
