"""NPNet: one small network that turns random noise into "golden" noise for a prompt.

Golden Noise for Diffusion Models: A Learning Framework (Zhou et al., ICCV 2025, arXiv 2411.09502),
https://arxiv.org/abs/2411.09502. NPNet is a sum of three terms (:class:`Terms`):

    golden = spectrum(x) + (2 * sigmoid(alpha) - 1) * text(x, prompt) + beta * residual(x + text)

``spectrum`` rewrites the singular values of the noise, ``text`` scales and shifts its channels by the
prompt, and ``residual`` is a Swin transformer. Sizes are parameters, so that one class holds the published
checkpoints (:func:`load_official`) and our small network; parameter names, ``embeeding`` among them, are
those of the published files.

Two differences from the published code, on purpose. NPNet is in eval mode unless ``train()`` is called: the
published code leaves DropPath on, so that the same seed gives another noise at each call. And every sample
has its own text: the published training gives the first prompt to the whole batch.
"""

import logging
import math
import pickle
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import pipelines.core.libraries  # noqa: F401

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaGroupNorm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

# Lists, not tuples: these settings are written to config.json and must come back equal.
SWIN_TINY: dict[str, Any] = {
    "image": 224,
    "patch": 4,
    "window": 7,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "heads": [3, 6, 12, 24],
    "classes": 1000,
    "drop_path": 0.1,
}
SWIN_SMALL: dict[str, Any] = {
    "image": 64,
    "patch": 4,
    "window": 4,
    "embed_dim": 24,
    "depths": [1, 1],
    "heads": [2, 4],
    "classes": 0,
    "drop_path": 0.0,
}
OFFICIAL_SDXL: dict[str, Any] = {
    "resolution": 128,
    "channels": 4,
    "tokens": 77,
    "text_dim": 2048,
    "bottleneck": 64,
    "hidden": 1024,
    "heads": 8,
    "swin": SWIN_TINY,
}
OFFICIAL_HUNYUAN_DIT: dict[str, Any] = {**OFFICIAL_SDXL, "text_dim": 1024}
OFFICIAL: dict[str, dict[str, Any]] = {"SDXL": OFFICIAL_SDXL, "Hunyuan-DiT": OFFICIAL_HUNYUAN_DIT}
SMALL: dict[str, Any] = {
    "resolution": 16,
    "channels": 4,
    "tokens": 32,
    "text_dim": 160,
    "bottleneck": 64,
    "hidden": 256,
    "heads": 4,
    "fix_signs": True,
    "zero_init": True,
    "swin": SWIN_SMALL,
}


class Terms(NamedTuple):
    """The three parts that add up to the golden noise, each (batch, channels, R, R) in float32."""

    spectrum: Tensor
    text: Tensor
    residual: Tensor


def to_matrix(latent: Tensor) -> Tensor:
    """(batch, n·n, R, R) to (batch, n·R, n·R): the channels as n x n tiles, row by row; of four, 0 and 1 above, 2 and 3 below."""
    batch, channels, height, width = latent.shape
    tiles = math.isqrt(channels)
    return latent.unflatten(1, (tiles, tiles)).transpose(2, 3).reshape(batch, tiles * height, tiles * width)


def to_latent(matrix: Tensor, channels: int = 4) -> Tensor:
    """(batch, n·R, n·R) to (batch, n·n, R, R): undo :func:`to_matrix`."""
    batch, rows, columns = matrix.shape
    tiles = math.isqrt(channels)
    return matrix.reshape(batch, tiles, rows // tiles, tiles, columns // tiles).transpose(2, 3).flatten(1, 2)


@torch.no_grad()
def factorise(matrix: Tensor, fix_signs: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """U (batch, N, N), s (batch, N), Vh (batch, N, N) with matrix = U diag(s) Vh; no gradient, noise is data.

    A singular pair (u, v) may always be replaced by (-u, -v), and NPNet's output depends on that choice. The
    work is done on the CPU, because GPU libraries choose the algorithm, and with it the signs, by the batch
    size. ``fix_signs`` makes the entry of u that is largest in size positive, so that all machines agree. The
    published weights were trained without such a rule, so for them the signs stay as LAPACK gives them.
    """
    u, s, vh = torch.linalg.svd(matrix.cpu())
    if fix_signs:
        largest = u.gather(1, u.abs().argmax(dim=1, keepdim=True))  # (batch, 1, N): one entry of each column
        signs = torch.where(largest < 0, -1.0, 1.0).to(u.dtype)
        u, vh = u * signs, vh * signs.mT
    return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width), without bias on q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class SpectrumBranch(nn.Module):
    """Predicts new singular values of the tiled noise from its singular vectors and values. Sees no text."""

    def __init__(self, width: int, bottleneck: int, hidden: int, heads: int, fix_signs: bool) -> None:
        super().__init__()
        self.fix_signs = fix_signs
        self.mlp1 = _perceptron(width, bottleneck)
        self.mlp2 = _perceptron(width, bottleneck)
        self.mlp3 = nn.Sequential(nn.Linear(width, width))
        self.attention = Attention(width, heads)
        # In the published files but never used. Frozen: distributed training stops at unused parameters.
        self.bn = nn.BatchNorm2d(width).requires_grad_(False)
        self.mlp4 = _perceptron(width, hidden)

    def forward(self, noise: Tensor) -> Tensor:
        u, s, vh = factorise(to_matrix(noise), self.fix_signs)
        tokens = self.mlp1(u.mT) + self.mlp2(vh) + self.mlp3(s).unsqueeze(1)
        spectrum = s + self.mlp4(self.attention(tokens).mean(dim=1))
        return to_latent((u * spectrum.unsqueeze(1)) @ vh, noise.shape[1])  # U diag(s') Vh


class ResidualBranch(nn.Module):
    """Sends the noise through a Swin transformer at that network's own picture size; resizing is nearest.

    timm's Swin returns (batch, rows, columns, features). The published code reads that map as (batch,
    channels, height, width) all the same: its "channels" are the rows of patches, each a picture of columns
    by features. That is an oversight, but the weights were trained with it, so it is kept here: with the
    axes put right they would give other numbers than the authors'.
    """

    def __init__(self, resolution: int, channels: int, swin: Mapping[str, Any]) -> None:
        super().__init__()
        self.resolution, self.image = resolution, swin["image"]
        rows = swin["image"] // (swin["patch"] * 2 ** (len(swin["depths"]) - 1))
        self.upconv = nn.Conv2d(rows, channels, 1)
        self.downconv = nn.Conv2d(channels, 3, 1)
        self.swin = SwinTransformer(
            img_size=swin["image"],
            patch_size=swin["patch"],
            window_size=swin["window"],
            embed_dim=swin["embed_dim"],
            depths=tuple(swin["depths"]),
            num_heads=tuple(swin["heads"]),
            num_classes=swin["classes"],
            drop_path_rate=swin["drop_path"],
        )
        self.swin.head.requires_grad_(False)  # never used either, see SpectrumBranch.bn

    def forward(self, latent: Tensor) -> Tensor:
        picture = self.downconv(functional.interpolate(latent, [self.image, self.image]))
        features = self.swin.forward_features(picture)
        return self.upconv(functional.interpolate(features, [self.resolution, self.resolution]))


def check_inputs(config: Mapping[str, Any], noise: Tensor, prompt_embeds: Tensor) -> None:
    """Refuse, in one sentence, sizes that a network of this ``config`` does not take, and values that are not finite."""
    latent = (config["channels"], config["resolution"], config["resolution"])
    prompt = (config["tokens"], config["text_dim"])
    if noise.ndim != 4 or noise.shape[1:] != latent:
        raise ValueError(
            f"noise is {_sizes(noise.shape)} but this NPNet takes {_sizes(('batch', *latent))}: draw it at "
            f"that size, or use golden noise by re-denoising, which takes every size"
        )
    if prompt_embeds.ndim != 3 or prompt_embeds.shape[1:] != prompt:
        raise ValueError(
            f"prompt embedding is {_sizes(prompt_embeds.shape)} but this NPNet takes "
            f"{_sizes(('batch', *prompt))}: use the text encoder and the number of tokens of its training"
        )
    if prompt_embeds.shape[0] not in (1, noise.shape[0]):
        raise ValueError(
            f"there are {prompt_embeds.shape[0]} prompt embeddings for {noise.shape[0]} noises: "
            f"give one for each noise, or a single one for all"
        )
    if not (noise.isfinite().all() and prompt_embeds.isfinite().all()):
        raise ValueError("noise or prompt embedding has NaN or infinite values but must be finite: make both again")


class NPNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers declares config_name twice
    """Noise and prompt in, golden noise out. Weights and sums are float32 whatever dtype comes in.

    ``resolution``: height and width of the latent, which is square. ``channels``: 4, or another square number, laid out as n x n tiles.
    ``tokens``, ``text_dim``: the size of the prompt embedding. ``bottleneck``, ``hidden``, ``heads``: sizes
    inside the spectrum branch, whose width is n * resolution. ``swin``: as :data:`SWIN_TINY`.
    For networks of our own: ``fix_signs``, see :func:`factorise`; ``zero_init``, start as the identity.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int,
        tokens: int,
        text_dim: int,
        swin: Mapping[str, Any],
        channels: int = 4,
        bottleneck: int = 64,
        hidden: int = 1024,
        heads: int = 8,
        fix_signs: bool = False,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        tiles = math.isqrt(channels)
        if tiles**2 != channels:
            raise ValueError(
                f"channels is {channels} but NPNet lays them out as a square of tiles: use a latent with a square number, 4 or 16"
            )
        self.unet_svd = SpectrumBranch(tiles * resolution, bottleneck, hidden, heads, fix_signs)
        self.unet_embedding = ResidualBranch(resolution, channels, swin)
        self.embeeding = AdaGroupNorm(tokens * text_dim, channels, 1, eps=1e-6)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))
        if zero_init:
            for parameter in self.unet_svd.mlp4[2].parameters():
                nn.init.zeros_(parameter)
        self.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[Any] | None, **options: Any) -> Self:
        """Load what ``save_pretrained`` wrote, in eval mode and float32."""
        # diffusers would build on the meta device, where the masks of timm's shifted windows stay empty.
        options = {"low_cpu_mem_usage": False, **options, "torch_dtype": torch.float32}
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``.to(device)`` but no cast to half precision: the factorisation needs float32."""

        def keep_precision(tensor: Tensor) -> Tensor:
            changed = change(tensor)
            return tensor.to(changed.device) if changed.dtype in (torch.float16, torch.bfloat16) else changed

        return super()._apply(keep_precision, recurse)

    def forward(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Golden noise in float32, for standard normal ``noise`` (batch, channels, resolution, resolution).

        ``prompt_embeds``: (batch, tokens, text_dim) with its padding, or a batch of one for all samples.
        """
        golden = sum(self.terms(noise, prompt_embeds))
        assert isinstance(golden, Tensor)
        return golden

    def terms(self, noise: Tensor, prompt_embeds: Tensor) -> Terms:
        """The terms of the golden noise, factors included; arguments as for :meth:`forward`."""
        check_inputs(self.config, noise, prompt_embeds)
        with torch.autocast(noise.device.type, enabled=False):
            noise, prompt_embeds = noise.to(self.dtype), prompt_embeds.to(self.dtype)
            text = self.embeeding(noise, prompt_embeds.flatten(1))
            return Terms(
                spectrum=self.unet_svd(noise).float(),
                text=((2 * torch.sigmoid(self.alpha) - 1) * text).float(),
                residual=(self.beta * self.unet_embedding(noise + text)).float(),
            )


def load_official(path: str | Path, config: Mapping[str, Any] | None = None) -> NPNet:
    """An NPNet from a published checkpoint, in eval mode, on the CPU.

    Three layouts are in circulation and all are taken: the authors' nested ``.pth``, and safetensors with the
    text part under ``text_embedding.`` or ``embeeding.``; Swin's names from before timm 0.9 are understood.
    ``config``: the arguments of :class:`NPNet`; without it, one of :data:`OFFICIAL` is chosen by the size of
    the text part. Parts that NPNet never uses may be missing; keys that it does not know are listed in a
    warning. Raises FileNotFoundError or ValueError, in one sentence, when the file does not fit.
    """
    path = Path(path)
    found = _current_names(_flat(_read(path), path))
    net = NPNet(**(_guess_config(found, path) if config is None else config))
    wanted = net.state_dict()
    for key, tensor in wanted.items():
        if key in found or not key.startswith(_NEVER_USED):
            wanted[key] = _fitted(key, found, tensor, path)
    unknown = sorted(found.keys() - wanted.keys())
    if unknown:
        logger.warning("%s: ignored %d keys that NPNet lacks: %s", path, len(unknown), ", ".join(unknown))
    net.load_state_dict(wanted)
    return net


_NEVER_USED = ("unet_svd.bn.", "unet_embedding.swin.head.")
# Raised by torch.load and safetensors for a file that is cut off, something else, or more than tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)


def _read(path: Path) -> Any:
    if path.is_dir():
        raise ValueError(f"{path} is a folder but an NPNet checkpoint is one file: name the file in it")
    if not path.is_file():
        raise FileNotFoundError(f"there is no NPNet checkpoint at {path}: download it, or correct the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is not an NPNet checkpoint ({type(error).__name__} while reading it): "
            f"use a complete .pth or .safetensors file that holds nothing but tensors"
        ) from error


def _flat(content: object, path: Path) -> dict[str, Tensor]:
    """One level of ``part.name`` keys, the text part called ``embeeding``, from any of the layouts."""
    flat: dict[str, Any] = {}
    for part, value in content.items() if isinstance(content, Mapping) else ():
        flat |= (
            {f"{part}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {part: value}
        )
    tensors = {
        re.sub(r"^text_embedding\.", "embeeding.", str(key)): torch.as_tensor(value).detach()
        for key, value in flat.items()
        if isinstance(value, Tensor | float | int)
    }
    if not tensors:
        raise ValueError(f"{path} is not an NPNet checkpoint: it holds no named tensors; choose another file")
    return tensors


def _current_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin's names from before timm 0.9 as today's: downsampling opens the next stage, the head is ``fc``.

    Position indices and masks, which old files carry, are left out: timm works them out from the sizes.
    """
    old = any("swin.layers.0.downsample." in key for key in found)
    renamed = {}
    for key, tensor in found.items():
        if key.endswith((".relative_position_index", ".attn_mask")):
            continue
        if old:
            key = re.sub(r"layers\.(\d+)\.down", lambda stage: f"layers.{int(stage[1]) + 1}.down", key)
        renamed[re.sub(r"swin\.head\.(weight|bias)$", r"swin.head.fc.\1", key)] = tensor
    return renamed


def _guess_config(found: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    key = "embeeding.linear.weight"
    text = _present(key, found, path)
    for config in OFFICIAL.values():
        if text.shape == (8, config["tokens"] * config["text_dim"]):
            return config
    sizes = {name: (8, config["tokens"] * config["text_dim"]) for name, config in OFFICIAL.items()}
    known = " or ".join(f"{_sizes(size)} of {name}" for name, size in sizes.items())
    raise ValueError(f"{path}: {key} is {_sizes(text.shape)} but {known} was expected: pass the config of its training")


def _present(key: str, found: Mapping[str, Tensor], path: Path) -> Tensor:
    if key not in found:
        raise ValueError(f"{path} is not an NPNet checkpoint: it has no {key}; choose another file")
    return found[key]


def _fitted(key: str, found: Mapping[str, Tensor], wanted: Tensor, path: Path) -> Tensor:
    """The tensor of that key in the dtype of ``wanted``; alpha and beta come as (1,) or as a bare number."""
    tensor = _present(key, found, path)
    if key in ("alpha", "beta") and tensor.numel() == 1:
        tensor = tensor.reshape(1)
    if tensor.shape != wanted.shape:
        raise ValueError(
            f"{path}: {key} is {_sizes(tensor.shape)} but {_sizes(wanted.shape)} was expected: "
            f"choose a file of that configuration, or pass the config of its training"
        )
    if not tensor.isfinite().all():
        raise ValueError(f"{path}: {key} has NaN or infinite values: the file is damaged, get it again")
    return tensor.to(wanted.dtype)


def _sizes(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
