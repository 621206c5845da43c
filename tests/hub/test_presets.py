"""Every way to hold the full set in memory, run on the hub of random weights as far as a CPU can: the same pictures, twice, and nothing left.

On a CPU a model that is offloaded would stay where it is; here its layers visit the CPU, so that the very hooks run that move them to a GPU
and back. What only a GPU shows is the moving itself: the tensors' places, bitsandbytes' 8 and 4 bits, seconds and memory.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
from typing import Any

import numpy
import pytest
import torch
from diffusers import ControlNetModel, FluxTransformer2DModel
from diffusers.hooks.group_offloading import ModuleGroup
from PIL import Image

from pipelines import georemover, megaportrait
from pipelines.core import images
from pipelines.core.lane import Job
from pipelines.core.offload import Offloaded
from pipelines.core.registry import Registry
from pipelines.megaportrait.parts import PRESETS
from pipelines.models import flux
from pipelines.worlds import portrait as heads
from tests.hub.server import Hub
from tests.hub.test_tabs import small_portraits
from tests.toys.portrait_full import marked

pytestmark = pytest.mark.long

REMOVAL = georemover.Settings.of("full")
REMOVAL = dataclasses.replace(REMOVAL, steps_1=2, steps_2=2, seed=3)
INSTANT = megaportrait.Settings.of("full")
INSTANT = dataclasses.replace(
    INSTANT, mode="instant", candidates=1, identity_steps=2, shading_steps=3, harmonise_steps=4, seed=3
)


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """Layers visit the CPU, and every visit is counted: how many came and went, and how many were there at once."""
    counted: collections.Counter[str] = collections.Counter()
    here: set[int] = set()

    def on(self: Offloaded, device: torch.device) -> Any:
        if self._device != device:
            self.visit(device)
        return self.transformer

    def counting(name: str, method: Any) -> Any:
        def call(group: ModuleGroup) -> None:
            counted[name] += 1
            (here.add if name == "came" else here.discard)(id(group))
            counted["at once"] = max(counted["at once"], len(here))
            method(group)

        return call

    monkeypatch.setattr(Offloaded, "on", on)
    monkeypatch.setattr(ModuleGroup, "onload_", counting("came", ModuleGroup.onload_))
    monkeypatch.setattr(ModuleGroup, "offload_", counting("went", ModuleGroup.offload_))
    return counted


def removal(registry: Registry, preset: str) -> georemover.Outcome:
    noise = numpy.random.default_rng(0).integers(0, 255, (128, 192, 3), dtype=numpy.uint8)
    mask = numpy.zeros((128, 192), bool)
    mask[40:80, 60:110] = True
    request = georemover.Request(Image.fromarray(noise), mask)
    return georemover.generate(
        Job(1e9), registry, dataclasses.replace(request, settings=dataclasses.replace(REMOVAL, preset=preset))
    )


@pytest.fixture(scope="module")
def people() -> list[Any]:
    shots = [heads.Portrait(heads.sample_identity(11), heads.sample_shot(seed)) for seed in (1, 2)]
    made = heads.render([*shots, heads.sample(203)], (320, 320)).image
    return [marked(numpy.asarray(one)) for one in images.to_pil(made)]


def portrait(registry: Registry, people: list[Any], preset: str, lines: str = "canny") -> megaportrait.results.Outcome:
    settings = dataclasses.replace(INSTANT, preset=preset, lines=lines)
    pictures = [(f"picture {number}", one) for number, one in enumerate(people[:2])]
    with small_portraits():
        return megaportrait.generate(
            Job(1e9),
            registry,
            megaportrait.Request(people[2], pictures=pictures, settings=settings, consent=True),
        )


def same(first: Any, second: Any) -> bool:
    return bool((numpy.asarray(first) == numpy.asarray(second)).all())


def alive(kind: type) -> int:
    """How many models of a kind there are: other tests of this process may keep some."""
    gc.collect()
    return sum(type(one) is kind for one in gc.get_objects())


def test_object_removal_with_layers_that_visit_makes_the_same_picture(hub: Hub, visits: collections.Counter[str]):
    others, registry = alive(FluxTransformer2DModel), Registry("cpu")
    whole = removal(registry, "bf16")
    assert not visits
    offloaded = removal(registry, "offload")
    assert same(offloaded.composites[0], whole.composites[0])
    assert "flux-fill-dev-offload/transformer" in {model["key"] for model in offloaded.models}
    # Two double and two single blocks, and what is in none, in each step of both stages; at first all of them are sent away.
    assert visits["came"] == 5 * (REMOVAL.steps_1 + REMOVAL.steps_2) == visits["went"] - 5
    assert visits["at once"] <= 2
    assert same(removal(registry, "offload").composites[0], whole.composites[0]), "a second time"
    registry.free()
    assert alive(FluxTransformer2DModel) == others


@pytest.mark.parametrize("preset", ["8-bit", "4-bit"])
def test_a_preset_that_needs_bitsandbytes_says_so_without_it(hub: Hub, preset: str):
    with pytest.raises((ValueError, FileNotFoundError), match="bitsandbytes"):
        removal(Registry("cpu"), preset)


@pytest.mark.parametrize("preset", list(PRESETS["full"]))
def test_a_portrait_in_each_preset(hub: Hub, people: list[Any], visits: collections.Counter[str], preset: str):
    others, registry = alive(ControlNetModel), Registry("cpu")
    made = portrait(registry, people, preset)
    offload = PRESETS["full"][preset].offload
    assert sum("-offload/" in model["key"] for model in made.models) == (3 if offload else 0)
    assert bool(visits["came"]) == offload and visits["at once"] <= 2 * 3, (
        "of each of three ControlNets two groups at most"
    )
    assert made.analysis.square.shape[0] == {"12 GB": 192}.get(preset, 256)
    assert same(portrait(registry, people, preset).best.result, made.best.result), "a second time"
    registry.free()
    assert alive(ControlNetModel) == others


def test_visiting_layers_paint_the_portrait_that_resting_ones_paint(
    hub: Hub, people: list[Any], visits: collections.Counter[str], monkeypatch: pytest.MonkeyPatch
):
    visited = portrait(Registry("cpu"), people, "16 GB", "anyline")
    assert visits["came"]
    monkeypatch.setattr(Offloaded, "on", lambda self, device: self.transformer)
    rested = portrait(Registry("cpu"), people, "16 GB", "anyline")
    assert same(visited.best.result, rested.best.result)
    assert "sdxl-controlnet-offload/MistoLine" in {model["key"] for model in visited.models}


def test_every_preset_of_the_full_set_is_run_here():
    assert list(flux.FULL.presets) == ["bf16", "8-bit", "4-bit", "offload"]
    assert list(PRESETS["full"]) == ["24 GB", "16 GB", "12 GB"]
