"""A shadow leaves the texture under it in the picture: the original is recoloured there, instead of being painted anew.

The render of stage 2 comes through an autoencoder and is soft; what it says is *where* the picture changes and by about how much.
A small network (diffusers' ``UNet2DModel`` without attention, on cells of 2 x 2 pixels) sees the original, the render and the original as
the autoencoder gives it back, and answers with a slope and an offset for every pixel and channel:

    new = (1 + slope) * original + offset

It sees neither the mask nor the depth, so it cannot decide what goes: where the render changes nothing it has nothing to go by. The
idea, a decoder that is also given the picture, is that of the asymmetric VQGAN (Zhu et al. 2023, arXiv 2306.04632); two factors that can be
enlarged are those of the guided filter (He et al., PAMI 2013). It is ours and no part of GeoRemover.
"""

from __future__ import annotations

from typing import Any

import pipelines.core.libraries  # noqa: F401

import numpy
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor

from pipelines.core.images import Picture
from pipelines.georemover.composite import texture_weight

CELL = 2
"""Pixels of a cell's side: the network works on cells, its answer is for pixels."""
LEVELS = (32, 48, 64, 96)
SLOPES = (-1.0, 9.0)
"""What a slope may be: nothing of the original stays, or light rises to ten times what it was."""


def network(levels: tuple[int, ...] = LEVELS) -> Any:
    """A new network, which answers 0 everywhere: then the render is given back the texture that the autoencoder lost."""
    unet: Any = UNet2DModel(
        in_channels=10 * CELL**2,
        out_channels=6 * CELL**2,
        block_out_channels=levels,
        down_block_types=("DownBlock2D",) * len(levels),
        up_block_types=("UpBlock2D",) * len(levels),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def predicted(
    unet: UNet2DModel, picture: Tensor, render: Tensor, through: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope and offset, both (B, 3, H, W), of pictures (B, 3, H, W) in [0, 1] with their :func:`texture_weight` (B, 1, H, W); any H and W.

    They are what gives back the lost texture, weight * (picture - through) + render, plus the network's answer.
    """
    height, width = picture.shape[-2:]
    whole = CELL * 2 ** (len(unet.config["block_out_channels"]) - 1)
    right, below = -width % whole, -height % whole
    seen = torch.cat((picture * 2 - 1, render * 2 - 1, (render - through) * 2, weight * 2 - 1), 1)
    seen = F.pad(seen, (0, right, 0, below), mode="replicate")
    answer = F.pixel_shuffle(unet(F.pixel_unshuffle(seen, CELL), 0, return_dict=False)[0].float(), CELL)
    slope, offset = answer[..., :height, :width].chunk(2, 1)
    return slope + weight - 1, offset + render - weight * through


def factors(
    unet: UNet2DModel, picture: Picture, render: Picture, through: Picture
) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    """Slope and offset for an original, stage 2's render of it and its round trip through the autoencoder: the mean of what the network
    says to them and to their mirror images.

    All (h, w, 3); the offset is in grey levels of 255.
    """
    place = next(unet.parameters()).device
    given = [
        torch.from_numpy(numpy.ascontiguousarray(part)).to(place).permute(2, 0, 1)[None].float() / 255
        for part in (picture, render, through)
    ]
    weight = torch.from_numpy(texture_weight(render, through)).to(place)[None, None]
    with torch.inference_mode():
        both = predicted(unet, *(torch.cat((part, part.flip(-1))) for part in (*given, weight)))
        slope, offset = ((part[:1] + part[1:].flip(-1)) / 2 for part in both)
    back = [part[0].permute(1, 2, 0).cpu().numpy() for part in (slope.clamp(*SLOPES), offset * 255)]
    return back[0], back[1]
