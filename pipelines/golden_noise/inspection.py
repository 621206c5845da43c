"""What a change did to a noise: moments, singular values, radial spectrum, and where it happened."""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from PIL import Image as Images
from PIL.Image import Image
from torch import Tensor

from pipelines.golden_noise import HEAT
from pipelines.golden_noise.npnet import to_matrix


def rms(x: Tensor) -> Tensor:
    """Root mean square of each sample, (B, 1, 1, 1)."""
    return x.square().mean((1, 2, 3), keepdim=True).add(1e-20).sqrt()


def noise_statistics(noise: Tensor, golden: Tensor) -> dict[str, float]:
    """How the noise changed: mean and standard deviation before and after, root mean square of the change."""
    change = (golden - noise).float()
    return {
        "mean_before": round(noise.mean().item(), 6),
        "mean_after": round(golden.mean().item(), 6),
        "std_before": round(noise.std().item(), 6),
        "std_after": round(golden.std().item(), 6),
        "change_rms": round(change.square().mean().sqrt().item(), 6),
    }


def noise_portrait(noise: Tensor, golden: Tensor) -> dict[str, Any]:
    """What the change did to one noise (1, C, R, R), JSON-able: size, moments, singular values, radial spectrum.

    ``singular_values``: of the channels tiled as a square, as NPNet's first branch sees them; ``spectrum``: mean power per
    ring of spatial frequency (cycles per latent cell, up to 0.5), 1 everywhere for white noise; ``energy``: shares of
    the change that are one shift per channel, that are otherwise flat on 8 x 8 patches, and the rest (sum 1).
    """
    noise, golden = noise.float().cpu(), golden.float().cpu()
    change = golden - noise
    total = change.square().sum().item()
    mean = change.mean((2, 3), keepdim=True).expand_as(change)
    patch = math.gcd(8, change.shape[-1])
    flat = torch.nn.functional.avg_pool2d(change, patch).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    parts = [mean.square().sum().item(), (flat - mean).square().sum().item(), (change - flat).square().sum().item()]
    frequency, before = radial_power(noise)
    return {
        "channel_means_before": [round(x, 4) for x in noise.mean((2, 3))[0].tolist()],
        "channel_means_after": [round(x, 4) for x in golden.mean((2, 3))[0].tolist()],
        "energy": {
            name: round(part / total, 4) if total else 0.0
            for name, part in zip(("shift", "patches", "fine"), parts, strict=True)
        },
        "singular_values_before": [round(x, 3) for x in torch.linalg.svdvals(to_matrix(noise))[0].tolist()],
        "singular_values_after": [round(x, 3) for x in torch.linalg.svdvals(to_matrix(golden))[0].tolist()],
        "frequency": frequency,
        "spectrum_before": before,
        "spectrum_after": radial_power(golden)[1],
    }


def radial_power(noise: Tensor) -> tuple[list[float], list[float]]:
    """Ring frequencies in cycles per cell, and the mean power in each ring; white noise of variance 1 has power 1."""
    side = noise.shape[-1]
    power = torch.fft.fft2(noise.double(), norm="ortho").abs().square().mean((0, 1))
    axis = torch.fft.fftfreq(side, dtype=torch.float64)
    ring = (axis.view(-1, 1).square() + axis.view(1, -1).square()).sqrt().mul(side).round().long()
    rings = side // 2 + 1
    flat, where = power.flatten(), ring.flatten()
    inside = where < rings
    sums = torch.zeros(rings, dtype=torch.float64).index_add_(0, where[inside], flat[inside])
    counts = torch.bincount(where[inside], minlength=rings)
    return [round(r / side, 4) for r in range(rings)], [round(x, 4) for x in (sums / counts).tolist()]


def heat_map(noise: Tensor, golden: Tensor, pixels: int = 256) -> tuple[Image, float]:
    """Where the noise changed: root mean square over the channels of one noise (1, C, R, R), and its largest value."""
    size = (golden.float() - noise.float())[0].square().mean(0).sqrt().cpu().numpy()
    top = float(size.max())
    share = size / top if top else size
    stops = numpy.linspace(0, 1, len(HEAT))
    colours = numpy.stack([numpy.interp(share, stops, [stop[i] for stop in HEAT]) for i in range(3)], -1)
    picture = Images.fromarray(colours.round().astype("uint8"))
    return picture.resize((pixels, pixels), Images.Resampling.NEAREST), top
