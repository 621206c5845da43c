"""A random, untrained MegaPortrait of toy size, for tests and for trying the page before there are weights.

    with installed():                # the mini set of pipelines.megaportrait is the toy; also as a pytest fixture's body
        ...

Text encoders, autoencoder, scheduler and verifier are the shipped ones (small already); UNet, ControlNets and embedder are the real
classes with random weights. A random parser would find no face, so :class:`Centred` stands in for the network: rendered portraits have
their head in the middle. What comes out is noise in the right places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from pipelines.core.geometry import POINTS
from pipelines.core.weights import ModelSpec
from pipelines.models import controlnets, face_nets, faces, sdxl, sdxl_tiny
from pipelines.models.controlnets import Control
from pipelines.models.faces import LABELS, STRIDE
from tests.toys.flux import seeded

NETS = ("landmarks", "line", "shading")
BAR = 0.5
"""Similarity from which on the toy's embedder is said to see one person."""


def unet(seed: int = 0) -> Any:
    pooled = sdxl_tiny.POOLED + sdxl_tiny.TIME_IDS * sdxl_tiny.TIME_ID_WIDTH
    with seeded(seed):
        return UNet2DConditionModel(
            sample_size=sdxl_tiny.LATENT,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 1),
            attention_head_dim=(1, 1, 2),
            use_linear_projection=True,
            cross_attention_dim=sum(sdxl_tiny.WIDTHS),
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=sdxl_tiny.TIME_ID_WIDTH,
            projection_class_embeddings_input_dim=pooled,
        )


def controlnet(seed: int) -> Any:
    """A ControlNet that is awake: as its class begins, it adds nothing."""
    with seeded(seed):
        made = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(4, 4, 8))
        ends = (*made.controlnet_down_blocks, made.controlnet_mid_block, made.controlnet_cond_embedding.conv_out)
        for part in ends:
            torch.nn.init.normal_(part.weight, std=0.1)
    return made


class Centred(torch.nn.Module):
    """A parser's network that says of every picture: a face in the middle; two, side by side, of one twice as wide as high.

    Of an even picture it says that there is none, and of every picture while ``blind``. ``nose`` moves that to the side, in radii.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blind, self.nose = False, 0.0
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Any:
        height, width = (side // STRIDE for side in images.shape[-2:])
        count = max(1, round(images.shape[-1] / images.shape[-2]))
        side = width / count
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        across = (columns % side - side / 2) / (0.27 * side)
        down = (rows - height / 2) / (0.27 * side)
        face, head = across**2 + down**2 <= 1, across**2 + (down + 0.2) ** 2 <= 1.6
        if self.blind or float(images.std()) < 0.02:
            face, head = torch.zeros_like(face), torch.zeros_like(head)
        logits = torch.full((len(images), len(LABELS) + len(POINTS), height, width), -4.0)
        logits[:, LABELS.index("background")] = 0.0
        logits[:, LABELS.index("hair"), head] = 4.0
        logits[:, LABELS.index("skin"), face] = 8.0
        places = ((-0.42, -0.3), (0.42, -0.3), (self.nose, 0.15), (-0.3, 0.5), (0.3, 0.5))
        for point, (x, y) in enumerate(places):
            near = (across - x) ** 2 + (down - y) ** 2
            logits[:, len(LABELS) + point] = -80 * near
        # The second picture is the first one mirrored: its nose stands on the other side.
        nose = len(LABELS) + 2
        logits[1::2, nose] = -80 * ((across + self.nose) ** 2 + (down - 0.15) ** 2)
        return SimpleNamespace(logits=logits)


def load(spec: ModelSpec) -> Any:
    """The toy's part of this key: random, and always the same."""
    name = spec.key.rsplit("/", 1)[1]
    if name in NETS:
        made = controlnet(1 + NETS.index(name))
    elif name == "embedder":
        with seeded(9):
            made = face_nets.FaceEmbedderNetwork(widths=(8, 16, 16, 32))
    else:
        made = {"unet": unet, "parser": Centred}[name]()
    return made.eval().requires_grad_(False)


def spec(name: str) -> ModelSpec:
    return ModelSpec(f"toy-portrait/{name}", "tests", load, "Apache-2.0", 1 << 20, card="random weights")


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Inside the block the mini set is a toy."""
    base = sdxl.FIRST["mini"]
    before = (
        dict(sdxl.FIRST),
        dict(controlnets.CONTROLS),
        faces.PARSER,
        faces.EMBEDDER,
        faces.threshold,
    )
    sdxl.FIRST["mini"] = replace(base, title="toy (random weights)", parts=(spec("unet"), *base.parts[1:]))
    controlnets.CONTROLS["mini"] = {name: Control(spec(name), name, name) for name in NETS}
    faces.PARSER, faces.EMBEDDER = spec("parser"), spec("embedder")
    faces.threshold = lambda: BAR
    try:
        yield
    finally:
        bases, kept, faces.PARSER, faces.EMBEDDER, faces.threshold = before
        for table, known in ((sdxl.FIRST, bases), (controlnets.CONTROLS, kept)):
            table.clear()
            table.update(known)
