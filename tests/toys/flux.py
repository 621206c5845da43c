"""A random, untrained GeoRemover of toy size, for tests and for trying the page before there are weights.

    with installed():                # pipelines.models.flux.BASES["mini"] is the toy; also as a pytest fixture's body
        ...

Its parts are the real classes (spec: FluxTransformer2DModel with two peft adapters, AutoencoderTiny, DepthAnything), so
everything runs; what comes out is noise.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from pipelines.core.weights import ModelSpec
from pipelines.models import flux, flux_parts, flux_tiny
from pipelines.models.flux import PARTS, FillBase

TARGETS = re.compile("|".join(rf"(^|\.){re.escape(name)}$" for name in flux_tiny.TARGETS))


def transformer(seed: int = 0) -> Any:
    """A small FluxTransformer2DModel without adapters."""
    with seeded(seed):
        return flux_tiny.transformer(heads=2, double=1, single=1).eval().requires_grad_(False)


def adapter(model: Any, seed: int, rank: int = 4, scale: float = 0.3) -> dict[str, Tensor]:
    """Weights of an adapter for ``model`` in the published key layout, random in both factors."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, part in model.named_modules():
        name = name.replace(".base_layer", "")
        if isinstance(part, torch.nn.Linear) and TARGETS.search(name):
            shapes = {"A": (rank, part.in_features), "B": (part.out_features, rank)}
            for letter, shape in shapes.items():
                draw = torch.randn(shape, generator=generator) * scale / shape[1] ** 0.5
                weights[f"transformer.{name}.lora_{letter}.weight"] = draw
    return weights


def vae(seed: int = 0) -> Any:
    """An AutoencoderTiny that is awake: as its class initialises it, whatever goes in comes out nearly black."""
    with seeded(seed):
        model = flux_tiny.vae(8, (1, 1, 1, 1))
        _wake(model)
        pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        last = model.encoder.layers[-1]
        latents = model.encode(pictures).latents
        last.weight.div_(latents.std())
        last.bias.sub_(latents.mean()).div_(latents.std())
        last = model.decoder.layers[-1]
        drawn = model.decode(torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(seed))).sample
        scale = 0.5 / drawn.std((0, 2, 3))
        last.weight.mul_(scale.view(-1, 1, 1, 1))
        # The decoder's last step is 2 x - 1.
        last.bias.copy_((scale * (last.bias * 2 - 1 - drawn.mean((0, 2, 3))) + 1) / 2)
    return model.eval().requires_grad_(False)


def depth(seed: int = 0) -> Any:
    """A DepthAnythingForDepthEstimation whose maps are not flat."""
    with seeded(seed):
        model = flux_tiny.depth(hidden=32, layers=6, heads=2)
        _wake(model.neck)
        _wake(model.head)
    with torch.no_grad():
        model.head.conv3.weight.abs_().mul_(0.05)
        model.head.conv3.bias.fill_(0.2)
    return model.eval().requires_grad_(False)


def _wake(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(part.weight)


def scheduler() -> Any:
    return FlowMatchEulerDiscreteScheduler(**flux_tiny.scheduler())


def prompt(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, flux_tiny.TOKENS, flux_tiny.TEXT_WIDTH), (1, flux_tiny.TEXT_WIDTH))
    return {key: torch.randn(shape, generator=generator) for key, shape in zip(flux.PROMPT_KEYS, shapes, strict=True)}


def parts(seed: int = 0) -> dict[str, Any]:
    """All parts by their names, with adapters geo1 and geo2 on the transformer."""
    return {part: _load(part, seed) for part in PARTS}


def _load(part: str, seed: int) -> Any:
    if part != "transformer":
        return {"vae": vae, "prompt": prompt, "depth": depth}[part](seed) if part != "scheduler" else scheduler()
    model = transformer(seed)
    adapters = [adapter(model, seed + number) for number in (1, 2)]
    for name, weights in zip(flux.STAGES, adapters, strict=True):
        flux_parts.add_adapter(model, weights, name)
    return model


def toy_base(seed: int = 0) -> FillBase:
    """A :class:`FillBase` named "mini" whose parts are made, not read."""

    def load(spec: ModelSpec) -> Any:
        return _load(spec.key.rsplit("/", 1)[1], seed)

    specs = tuple(
        ModelSpec(f"toy-flux-{seed}/{part}", "tests", load, "Apache-2.0", 1 << 20, card="random weights")
        for part in PARTS
    )
    return replace(flux.MINI, title="toy (random weights)", parts=specs, by_preset={})


@contextlib.contextmanager
def installed(base: FillBase | None = None) -> Iterator[FillBase]:
    """Inside the block the mini set is a toy."""
    base = base or toy_base()
    before = dict(flux.BASES)
    flux.BASES[base.name] = base
    try:
        yield base
    finally:
        flux.BASES.clear()
        flux.BASES.update(before)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
