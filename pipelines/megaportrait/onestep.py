"""The small set's three nets: one ControlNet of the shared SDXL that is shown people as latents and draws in one step or a few; torch at import.

It learnt from renders that know the answer (``assets/mini_portraits``), in the very step in which it runs. Which of its tasks is wanted it is
told by a plane of ones among what it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
from torch import Tensor, nn

TASKS = ("portrait", "identity", "shading", "harmonise")
"""What a net may be told to draw, and what it is shown of each; pictures of the person lie over the reference by the points of the faces:

    portrait   two pictures of the person, the reference                            -> the person in the reference's place and light
    identity   the same                                                             -> the same in plain light
    shading    what the Identity Net drew, one picture of the person, the reference -> the same in the reference's light
    harmonise  the pasted composite, one picture of the person, the reference       -> the same without the faults of a paste
"""
SHOWN = 3
"""Pictures that a net is shown."""
LEVELS = (600,)
"""Levels of noise, of the scheduler's 1,000, at which it draws one after the other: of the signal a sixth is left at 600."""


class OneStep(nn.Module):
    """A net and the UNet that it leads, as one function of what is shown. Only what is taught is a part of it."""

    def __init__(self, net: Any, unet: Any, shares: Tensor, size: int) -> None:
        """``net``: a ``ControlNetModel``; ``unet``: a ``UNet2DConditionModel``; ``shares``: of the signal in each level of noise (the scheduler's ``alphas_cumprod``); ``size``: side of a picture in pixels."""
        super().__init__()
        self.net, self.size = net, float(size)
        self._unet = [unet]  # not a part: it is neither trained nor averaged
        self._shares = [shares]

    def forward(self, tasks: Tensor, shown: Tensor, start: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Clean latents (B, C, H, W) from what is ``shown`` (B, 3 C, H, W), a ``start`` and standard normal ``noise``, both (B, C, H, W);
        ``tasks`` (B,) are places in :data:`TASKS`, ``levels`` (B,) of noise."""
        unet, (count, _channels, height, width) = self._unet[0], start.shape
        share = self._shares[0].to(start)[levels].view(-1, 1, 1, 1)
        noisy = share.sqrt() * start + (1 - share).sqrt() * noise
        planes = torch.eye(len(TASKS), device=start.device, dtype=start.dtype)[tasks]
        told = torch.cat((shown, planes[..., None, None].expand(-1, -1, height, width)), 1)
        noisy, told = (one.contiguous(memory_format=torch.channels_last) for one in (noisy, told))
        config, size = unet.config, self.size
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": noisy.new_zeros(count, pooled),
            "time_ids": noisy.new_tensor([size, size, 0.0, 0.0, size, size]).expand(count, -1),
        }
        words = noisy.new_zeros(count, 1, config.cross_attention_dim)
        down, middle = self.net(noisy, levels, words, told, added_cond_kwargs=added, return_dict=False)
        velocity = unet(
            noisy,
            levels,
            words,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample.float()
        return share.sqrt() * noisy - (1 - share).sqrt() * velocity

    def draw(
        self, task: str, shown: Tensor, start: Tensor, generator: torch.Generator, levels: Sequence[int] = LEVELS
    ) -> Tensor:
        """Clean latents (B, C, H, W) of a task, from one level of noise to the next."""
        count = len(start)
        tasks = torch.full((count,), TASKS.index(task), device=start.device)
        for level in levels:
            noise = torch.randn(start.shape, generator=generator).to(start)
            start = self(tasks, shown, start, noise, torch.full((count,), level, device=start.device))
        return start
