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

from pipelines.models.verifier import SceneVerifier, backbone, squeeze

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
        self.backbone, self.squeeze = backbone("resnet", widths), squeeze(widths, image_size)
        self.visual_projection = nn.Linear(192, projection_dim)

    def features(self, pixel_values: Tensor) -> Tensor:
        """What the projection reads from, (B, 192), of pictures (B, 3, image_size, image_size) in [-1, 1]."""
        return self.squeeze(self.backbone(pixel_values * 2).last_hidden_state)

    def forward(self, pixel_values: Tensor) -> Seen:
        """Of pictures as :meth:`features` takes them."""
        return Seen(self.visual_projection(self.features(pixel_values)))

    @torch.no_grad()
    def begin_as(self, verifier: SceneVerifier) -> None:
        """Take backbone and read-out of a verifier of the same widths, which knows what stands in our pictures."""
        self.backbone.load_state_dict(verifier.backbone.state_dict())
        self.squeeze.load_state_dict(verifier.squeeze.state_dict())
