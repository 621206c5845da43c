"""Where the person's picture shows what was drawn: the small set's net of correspondence, which lays a picture over a drawing; torch at import.

Optical flow between a soft drawing and a sharp picture of the same person in another pose and light: for every place of the drawing, where it
lies in the picture, and whether it is seen there. diffusers' ``UNet2DModel`` looks at both, at cells of 8 x 8 pixels, and once more at what it
has laid so far. It learnt from the renderer, which knows every place of a head (``assets/mini_portraits/aligning.py``). Ours, and no part of
MegaPortrait.
"""

from __future__ import annotations

from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core.images import Picture
from pipelines.megaportrait.finish import of_pictures

CELL = 8
"""Pixels of a cell's side."""
UNIT = 16.0
"""Pixels of a shift for which the net says 1."""
PASSES = 2
"""Times that it looks."""


class Align(nn.Module):
    """The net as a function of pictures, batches (B, 3, H, W) in [-1, 1], whose sides are multiples of 32."""

    def __init__(self, net: Any) -> None:
        """``net``: a ``UNet2DModel`` of 384 channels in and 3 out."""
        super().__init__()
        self.net = net

    def forward(self, drawn: Tensor, picture: Tensor, passes: int = PASSES) -> tuple[Tensor, Tensor]:
        """For each cell of ``drawn`` by how many pixels (B, 2, h, w), across and down, its place lies off in ``picture``, and the logit
        (B, 1, h, w) that it is seen there. Only the last of the ``passes`` is taught."""
        height, width = (side // CELL for side in drawn.shape[2:])
        shift = drawn.new_zeros(len(drawn), 2, height, width, dtype=torch.float32)
        for turn in range(passes):
            with torch.set_grad_enabled(torch.is_grad_enabled() and turn == passes - 1):
                laid = moved(picture, shift) if turn else picture
                told = F.pixel_unshuffle(torch.cat((drawn, laid), 1), CELL)
                said = self.net(told.contiguous(memory_format=torch.channels_last), 0).sample.float()
                shift = shift + UNIT * said[:, :2]
        return shift, said[:, 2:]

    def laid(self, drawn: Tensor, picture: Tensor) -> Tensor:
        """``picture`` laid over ``drawn`` where it shows the same, and elsewhere ``drawn`` itself."""
        shift, seen = self(drawn, picture)
        share = F.interpolate(seen, scale_factor=CELL, mode="bilinear").sigmoid()
        return drawn + share * (moved(picture, shift) - drawn)

    def picture(self, drawn: Picture, picture: Picture) -> Picture:
        """The same of pictures (H, W, 3)."""
        return of_pictures(self.net, self.laid, drawn, picture)


def moved(picture: Tensor, shift: Tensor) -> Tensor:
    """``picture`` (B, 3, H, W), each pixel taken from where a ``shift`` (B, 2, h, w) in pixels says; beyond the border its edge is repeated."""
    height, width = picture.shape[2:]
    fine = F.interpolate(shift, (height, width), mode="bilinear")
    rows, columns = (torch.arange(side, device=shift.device) + 0.5 for side in (height, width))
    across = (columns + fine[:, 0]) * 2 / width - 1
    down = (rows[:, None] + fine[:, 1]) * 2 / height - 1
    places = torch.stack((across, down), -1).to(picture.dtype)
    return F.grid_sample(picture, places, mode="bicubic", padding_mode="border", align_corners=False)
