"""What our small model sees of a picture, in the space in which its second text encoder says a prompt: a small CLIP of our own.

Its text side is that encoder's pooled embedding, so a text's feature can be taken out of a picture's, as in InstantStyle, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pipelines.core.libraries  # noqa: F401

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)
"""Pictures are normalised with these, to [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The part of ``CLIPVisionModelOutput`` that is read."""

    image_embeds: Tensor
    """(B, projection_dim)."""


class PictureEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers declares config_name twice
    """A ResNet and a linear projection, called as ``CLIPVisionModelWithProjection`` is.

    Args:
        widths: channels of the four stages; the picture is reduced by 32.
        image_size: side of the pictures in pixels.
        projection_dim: width of the text encoder's pooled embedding.
    """

    @register_to_config
    def __init__(
        self, widths: Sequence[int] = (32, 64, 96, 128), image_size: int = 128, projection_dim: int = 128
    ) -> None:
        super().__init__()
        widths, cells = list(widths), (image_size // 32) ** 2
        shape = ResNetConfig(embedding_size=24, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic")
        self.backbone: nn.Module = ResNetModel(shape)
        self.squeeze = nn.Sequential(nn.Conv2d(widths[-1], 64, 1), nn.Flatten(), nn.Linear(64 * cells, 192), nn.GELU())
        self.visual_projection = nn.Linear(192, projection_dim)

    def forward(self, pixel_values: Tensor) -> Seen:
        """Of pictures (B, 3, image_size, image_size) in [-1, 1]."""
        states = self.backbone(pixel_values * 2).last_hidden_state
        return Seen(self.visual_projection(self.squeeze(states)))

    @torch.no_grad()
    def begin_as(self, verifier: nn.Module) -> None:
        """Take backbone and read-out of a ``SceneVerifier`` of the same widths, which knows what stands in our pictures."""
        self.backbone.load_state_dict(verifier.get_submodule("backbone").state_dict())
        self.squeeze.load_state_dict(verifier.get_submodule("squeeze").state_dict())
