"""Our small NPNet: a FiLM U-Net that predicts the change of the noise from the noise and the prompt.

The published network (``pipelines/golden_noise/npnet.py``) hears the prompt through eight numbers, a scale and a shift of each
channel. That cannot say *where* a red cube should be. This one has the same job and the same call, but the prompt
modulates every layer (FiLM, arXiv 1709.07871) and writes its own low-resolution map, so that it can move the
noise at places. The output convolution starts at zero: an untrained network returns the noise as it came.

Imports torch and diffusers; only code that is about to load a network imports it.
"""

import pipelines.core.libraries  # noqa: F401

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from pipelines.golden_noise.npnet import check_inputs


class Reader(nn.Module):
    """Prompt embeddings (B, T, D) to one vector (B, width): learnt queries look for their tokens, wherever they stand."""

    def __init__(self, text_dim: int, width: int, queries: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.score = nn.Linear(text_dim, queries)
        self.value = nn.Linear(text_dim, width)
        self.mix = nn.Sequential(nn.Linear(queries * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, prompt_embeds: Tensor) -> Tensor:
        states = self.norm(prompt_embeds)
        looked = self.score(states).softmax(1).mT @ self.value(states)  # (B, queries, width)
        return self.mix(looked.flatten(1))


class Block(nn.Module):
    """Two convolutions with a residual path; the prompt scales and shifts the features in between."""

    def __init__(self, before: int, after: int, text: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(8, after)
        self.film = nn.Linear(text, 2 * after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.film(text).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        inner = self.norm(self.first(functional.silu(x))) * (1 + scale) + shift
        return self.skip(x) + self.second(functional.silu(inner))


class FilmNPNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers declares config_name twice
    """Noise and prompt in, golden noise out, in float32; called like :class:`pipelines.golden_noise.npnet.NPNet`.

    ``resolution``: side of the latent, a multiple of 4. ``tokens``, ``text_dim``: size of the prompt embedding.
    ``width``: features at full resolution (twice and three times as many below). ``queries``: of the prompt reader.
    ``bound``: the change's root mean square is at most this, per sample (0: no bound); a trust region by construction.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int,
        tokens: int,
        text_dim: int,
        channels: int = 4,
        width: int = 32,
        text_width: int = 128,
        queries: int = 8,
        bound: float = 0.0,
    ) -> None:
        super().__init__()
        if resolution % 4:
            raise ValueError(
                f"resolution is {resolution} but must be a multiple of 4: choose {resolution // 4 * 4 + 4}"
            )
        small = resolution // 4
        self.reader = Reader(text_dim, text_width, queries)
        self.layout = nn.Linear(text_width, width * small * small)  # what the prompt says about places
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            [
                Block(width, width, text_width),
                Block(width, 2 * width, text_width),
                Block(3 * width, 3 * width, text_width),
            ]
        )
        self.up = nn.ModuleList([Block(5 * width, 2 * width, text_width), Block(3 * width, width, text_width)])
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)
        self.eval()

    def forward(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Golden noise in float32, for ``noise`` (B, channels, R, R) and ``prompt_embeds`` (B or 1, tokens, text_dim).

        Raises:
            ValueError: sizes that do not fit, or values that are not finite.
        """
        check_inputs(self.config, noise, prompt_embeds)
        with torch.autocast(noise.device.type, enabled=False):
            noise, prompt_embeds = noise.to(self.dtype), prompt_embeds.to(self.dtype)
            return (noise + self._change(noise, prompt_embeds)).float()

    def _change(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        text = self.reader(prompt_embeds).expand(len(noise), -1)
        full = self.down[0](self.enter(noise), text)
        half = self.down[1](functional.avg_pool2d(full, 2), text)
        quarter = functional.avg_pool2d(half, 2)
        places = self.layout(text).unflatten(1, (-1, *quarter.shape[2:]))
        quarter = self.down[2](torch.cat((quarter, places), 1), text)
        half = self.up[0](torch.cat((half, functional.interpolate(quarter, scale_factor=2.0)), 1), text)
        full = self.up[1](torch.cat((full, functional.interpolate(half, scale_factor=2.0)), 1), text)
        change = self.leave(functional.silu(full))
        if self.config["bound"]:
            size = change.square().mean((1, 2, 3), keepdim=True).add(1e-12).sqrt()
            change = change * (self.config["bound"] / size).clamp_max(1.0)
        return change
