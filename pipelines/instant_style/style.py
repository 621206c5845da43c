"""A picture that speaks in chosen blocks, through diffusers' IP-Adapter. A net file: torch at the top."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pipelines.core.libraries  # noqa: F401

import numpy
import torch
from PIL import Image
from torch import Tensor

from pipelines.core.patching import building, frozen
from pipelines.core.registry import LOAD_LOCK
from pipelines.core.run import Run
from pipelines.core.sheets import sheet
from pipelines.instant_style import Outcome, Preview
from pipelines.instant_style.layers import Painter, Row, counted, cross_attentions, see
from pipelines.instant_style.matrix import ATTRIBUTES, head
from pipelines.instant_style.picture import STRATEGIES, PictureSettings
from pipelines.models import sdxl
from pipelines.models.picture_encoder import IMAGE_MEAN, IMAGE_STD, PictureEncoder
from pipelines.models.sdxl_parts import pixels_of
from pipelines.models.verifier import SceneVerifier, readings
from pipelines.worlds.prompts import read_prompt

GIVEN = "the picture"
ALONE, ADAPTER, WITHOUT = "the prompt alone", "IP-Adapter everywhere", "without the content"
"""Columns of the sheet; the last is the chosen strategy, by its words."""


@torch.inference_mode()
def seen_in(encoder: Any, picture: Image.Image) -> Tensor:
    """CLIP's feature of a picture, (width), on the CPU, or what our own small encoder has in its place."""
    ours: dict[str, Any] = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}
    how = ours if isinstance(encoder, PictureEncoder) else {}
    return encoder(pixels_of(encoder, [numpy.array(picture.convert("RGB"))], **how)).image_embeds[0].cpu()


@contextlib.contextmanager
def adapted(unet: Any, weights: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block the UNet has an IP-Adapter; afterwards it is as before, to the byte."""
    kind = unet.config.encoder_hid_dim_type
    with frozen(unet):  # puts back the attention processors and the projection
        try:
            with LOAD_LOCK, building():  # diffusers builds the new layers without memory, for the whole process
                unet._load_ip_adapter_weights([weights])
            yield
        finally:
            unet.config.encoder_hid_dim_type = kind


def speak(unet: Any, blocks: Collection[str] | None, strength: float) -> None:
    """Let the picture speak with ``strength`` in the cross-attentions of ``blocks`` and nowhere else, None is everywhere; for a UNet that
    is :func:`adapted`."""
    chosen = None if blocks is None else {id(part.processor) for one in blocks for part in cross_attentions(unet, one)}
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [strength if chosen is None or id(processor) in chosen else 0.0]


class PictureStyle:
    """A prompt drawn with what was ``seen`` of a ``picture``. Holds leased models only."""

    def __init__(
        self,
        parts: Mapping[str, Any],
        weights: Mapping[str, Any],
        picture: Image.Image,
        seen: Tensor,
        judge: SceneVerifier | None = None,
    ) -> None:
        self.painter, self.weights, self.judge = Painter(parts), weights, judge
        self.picture = square(picture)
        self.seen = seen.to(self.painter.unet.device, self.painter.unet.dtype)

    def __call__(self, run: Run[PictureSettings]) -> Outcome:
        settings = run.settings
        for prompt in filter(None, (settings.prompt, settings.content)):
            run.note(sdxl.unread_note(prompt, sdxl.unread(self.painter.pipe, prompt)))
        with run.stage("pictures"), adapted(self.painter.unet, self.weights):
            drawn = self.pictures(run)
        measurements = run.measurements(
            seconds=round(sum(run.seconds.values()), 3),
            strategy=settings.strategy,
            attributes=whose(settings.prompt, self.picture, drawn, self.judge) if self.judge is not None else {},
        )
        return Outcome(settings, self.sheet(drawn), measurements)

    def sheet(self, drawn: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
        """The columns after the picture."""
        size = next(iter(drawn.values()))[0].size
        return sheet({GIVEN: [self.picture.resize(size)], **drawn})

    def rows(self, settings: PictureSettings) -> dict[str, tuple[Collection[str] | None, Tensor]]:
        """Column of the sheet -> where the picture speaks, None is everywhere, and with which feature."""
        rows: dict[str, tuple[Collection[str] | None, Tensor]] = {ALONE: ((), self.seen), ADAPTER: (None, self.seen)}
        feature = self.seen
        if settings.content:
            (content,) = self.painter.encode(settings.content)
            feature = self.seen - content.pooled.to(self.seen)
            rows[WITHOUT] = None, feature
        if settings.blocks is not None:
            rows[STRATEGIES[settings.strategy]] = settings.blocks, feature
        return rows

    def pictures(self, run: Run[PictureSettings]) -> dict[str, list[Image.Image]]:
        """Column of the sheet -> its pictures."""
        settings, unet = run.settings, self.painter.unet
        (words,) = self.painter.encode(settings.prompt)
        noises = [Row(words, settings.seed + n) for n in range(settings.count)]
        drawn: dict[str, list[Image.Image]] = {}
        rows = self.rows(settings)
        for name, (blocks, feature) in rows.items():

            def on_step(done: float, before: int = len(drawn) * settings.count, name: str = name) -> None:
                run.progress((before + done) / (len(rows) * settings.count), name)

            speak(unet, blocks, settings.strength)
            both = torch.stack([torch.zeros_like(feature), feature])[:, None]
            more = {"ip_adapter_image_embeds": [both]}
            drawn[name] = self.painter.draw(
                noises, settings.steps, sdxl.FIRST[settings.model_set].guidance, on_step, more
            )
            run.show(Preview(self.sheet(drawn)))
        return drawn


def whose(
    prompt: str, picture: Image.Image, drawn: Mapping[str, Sequence[Image.Image]], judge: SceneVerifier
) -> dict[str, dict[str, dict[str, int]]]:
    """Of each attribute of one thing, its floor and backdrop that the prompt does not say as the square picture has it: how many pictures of
    each column have the prompt's, and the picture's."""
    asked, (shown,) = readings(read_prompt(prompt))[0].wanted, see(judge, [picture])
    heads = [head(name) for name in ATTRIBUTES[shown["world"]]]
    otherwise = [one for one in heads if asked.get(one) != shown[one]]
    return counted(judge, drawn, otherwise, {"prompt": asked, "picture": shown})


def square(picture: Image.Image) -> Image.Image:
    """The largest square in the middle, which is what the encoder sees."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.convert("RGB").crop((left, top, left + side, top + side))
