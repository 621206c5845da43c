"""Ways to hold the full set in memory, on cards that are pretended: declared sizes, budgets as they are, weights of a few bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from pipelines.core.offload import Offloaded
from pipelines.core.registry import GIB, OutOfBudget, Registry
from pipelines.core.weights import ModelSpec
from pipelines.georemover import checks
from pipelines.megaportrait import parts as portrait
from pipelines.models import flux, language

RESERVE = 4
CARDS = (12, 16, 24, 32)


def light(spec: ModelSpec) -> ModelSpec:
    """The same part with weights of a few bytes; what stays in RAM is no module, as with the real loaders."""

    def load(spec: ModelSpec) -> Any:
        net = nn.Linear(2, 2)
        return Offloaded(net) if spec.stays_in_ram else net

    return dataclasses.replace(spec, load=load, files=(), fetch=lambda spec: None)


def card(gib: float, ram_gib: float = 64) -> Registry:
    """A machine whose card has so many GiB, and the usual reserve on it."""
    return Registry("cuda", int((gib - RESERVE) * GIB), int(ram_gib * GIB), move=lambda module, device: module)


def fits(parts: Mapping[str, ModelSpec], registry: Registry) -> bool:
    try:
        with registry.lease(*map(light, parts.values())):
            return True
    except OutOfBudget:
        assert all(row["state"] == "cold" for row in registry.status()), "nothing was loaded for nothing"
        return False


def portraits(preset: str) -> dict[str, ModelSpec]:
    return portrait.specs("full", "instant", preset)


@pytest.mark.parametrize(
    ("parts", "cards"),
    [
        (portraits("24 GB"), (24, 32)),
        (portraits("16 GB"), CARDS),
        (portraits("12 GB"), CARDS),
        (dict(flux.FULL.named("bf16")), (32,)),
        (flux.by_part(flux.FULL.by_preset["8-bit"]), (16, 24, 32)),
        (flux.by_part(flux.FULL.by_preset["4-bit"]), CARDS),
        (dict(flux.FULL.named("offload")), CARDS),
        (dict(language.language_model("full").parts), CARDS),
        (dict(language.language_model("full", "mistral-7b-instruct").parts), (24, 32)),
    ],
    ids=["24 GB", "16 GB", "12 GB", "bf16", "8-bit", "4-bit", "offload", "qwen", "mistral"],
)
def test_each_preset_fits_on_the_cards_that_it_is_for(parts: dict[str, ModelSpec], cards: tuple[int, ...]):
    assert tuple(gib for gib in CARDS if fits(parts, card(gib))) == cards


@pytest.mark.parametrize("parts", [portraits("12 GB"), dict(flux.FULL.named("offload"))], ids=["portrait", "removal"])
def test_what_stays_in_ram_counts_there_before_and_after_it_is_loaded(parts: dict[str, ModelSpec]):
    registry = card(12)
    for _ in range(2):
        assert fits(parts, registry)
        states = {row["key"]: row["state"] for row in registry.status()}
        assert {states[spec.key] for spec in parts.values()} == {"gpu", "ram"}
        assert all((states[spec.key] == "ram") == spec.stays_in_ram for spec in parts.values())
        assert registry.summary()["ram_bytes"] == sum(spec.bytes for spec in parts.values() if spec.stays_in_ram)


def test_the_tier_that_is_short_is_named_with_what_it_needs_and_has():
    offload, bf16 = flux.FULL.named("offload"), flux.FULL.named("bf16")
    with pytest.raises(OutOfBudget) as caught, card(12, ram_gib=16).lease(*map(light, offload.values())):
        pass
    told = checks.out_of_memory("stage 1", flux.FULL, "8-bit", caught.value)
    assert told is caught.value, "another preset takes less of the GPU, and RAM is short"
    assert str(told).startswith(
        "flux-fill-dev-offload/transformer + flux-fill-dev/prompt needs 22.8 GiB and the budget"
    )
    assert str(told).endswith("models in RAM is 16.0 GiB: raise LATENT_STUDIO_RAM_GIB or choose a smaller model set")
    with pytest.raises(
        OutOfBudget, match=r"flux-fill-dev/transformer \+ .* needs 23\.1 GiB and .* in the GPU is 20"
    ) as caught:
        with card(24).lease(*map(light, bf16.values())):
            pass
    assert "choose the preset" in str(checks.out_of_memory("stage 1", flux.FULL, "bf16", caught.value))


def test_what_goes_to_the_gpu_needs_little_ram():
    assert fits(flux.FULL.named("bf16"), card(32, ram_gib=1))
