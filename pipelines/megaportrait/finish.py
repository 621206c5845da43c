"""The small set's last net: what the drawing nets leave soft is drawn at full size, from the person's own pictures; torch at import.

SDXL's refiner in small, and of pixels: diffusers' ``UNet2DModel`` without attention looks once, at cells of 2 x 2 pixels, and adds to what was
drawn. It learnt from rendered truth (``assets/mini_portraits``). Ours, and no part of MegaPortrait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from pipelines.core.images import Picture
from pipelines.core.weights import ModelSpec, part_folder, placement

SHOWN = 4
"""Pictures that it is shown: what was drawn, two of the person's laid over the reference, and the reference."""
CELL = 2
"""Pixels of a cell's side."""


def load(spec: ModelSpec) -> UNet2DModel:
    """The net in the spec's folder."""
    options = {"torch_dtype": getattr(torch, spec.dtype), "use_safetensors": True, **placement()}
    return UNet2DModel.from_pretrained(part_folder(spec), **options).eval()


class Finish(nn.Module):
    """The net as a function of pictures."""

    def __init__(self, net: Any) -> None:
        """``net``: a ``UNet2DModel`` of ``SHOWN`` x 12 channels in and 12 out."""
        super().__init__()
        self.net = net

    def forward(self, shown: Sequence[Tensor]) -> Tensor:
        """The first of ``shown``, batches (B, 3, H, W) in [-1, 1], as the truth would be; not clipped. Sides are multiples of 16."""
        told = F.pixel_unshuffle(torch.cat(list(shown), 1), CELL).contiguous(memory_format=torch.channels_last)
        return shown[0] + F.pixel_shuffle(self.net(told, 0).sample.float(), CELL)

    def picture(self, *shown: Picture) -> Picture:
        """The same of pictures (H, W, 3)."""
        return of_pictures(self.net, lambda *given: self(given), *shown)


@torch.inference_mode()
def of_pictures(net: nn.Module, function: Callable[..., Tensor], *pictures: Picture) -> Picture:
    """What a ``function`` of batches in [-1, 1] makes of pictures (H, W, 3), where ``net`` is and in its numbers."""
    weight = next(net.parameters())
    given = [torch.tensor(one, device=weight.device).permute(2, 0, 1)[None].to(weight.dtype) for one in pictures]
    made = function(*(one / 127.5 - 1 for one in given))
    levels = ((made[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    found: Picture = levels.permute(1, 2, 0).cpu().numpy()
    return found
