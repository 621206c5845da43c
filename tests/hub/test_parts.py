"""Every part of the full set, fetched by the real client from a hub of random weights, by its own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.concept_guidance.conversation import stop_tokens
from pipelines.core.registry import Registry
from pipelines.core.weights import from_hub
from pipelines.models import language, sdxl
from tests.hub.make import REPOSITORIES
from tests.hub.parts import full_set
from tests.hub.server import Hub

pytestmark = pytest.mark.long


def test_the_hub_has_the_layout_s_size(whole_hub: Path):
    files = [path for path in whole_hub.rglob("*") if path.is_file()]
    assert len(files) > 90 and sum(path.stat().st_size for path in files) < 300e6
    published = {one.source for spec in full_set() for one in from_hub(spec)} | {one.source for one in full_set()}
    assert published == set(REPOSITORIES)


def test_every_part_loads_by_its_own_loader(hub: Hub):
    registry, specs = Registry("cpu"), full_set()
    assert len(specs) >= 33
    for spec in specs:
        with registry.lease(spec) as (part,):
            assert part is not None, spec.key
    assert {row["state"] for row in registry.status()} == {"ram"}
    asked = set(hub.fetched())
    assert not [name for name in asked if name.endswith((".bin", "sd_xl_base_1.0.safetensors", "ae.safetensors"))]
    assert not [name for name in asked if "unet/diffusion_pytorch_model.safetensors" in name], "half precision only"
    assert registry.free() > 0 and registry.summary()["ram_bytes"] == 0


def test_what_is_fetched_once_is_not_fetched_again(hub: Hub):
    before = len(hub.fetched())
    with Registry("cpu").lease(*full_set()[:7]):
        pass
    assert len(hub.fetched()) == before


def test_weights_under_the_names_of_their_time_arrive(hub: Hub):
    named = sdxl.FIRST["full"].named
    for part in ("text_encoder", "text_encoder_2"):
        file = load_file(hub.folder / named[part].source / part / "model.fp16.safetensors")
        with Registry("cpu").lease(named[part]) as (encoder,):
            found = dict(encoder.named_parameters())
        loaded = {name.removeprefix("text_model."): value for name, value in found.items()}
        published = {name.removeprefix("text_model."): value for name, value in file.items()}
        published.pop("embeddings.position_ids")
        assert loaded.keys() == published.keys()
        assert all(torch.equal(value.half(), published[name]) for name, value in loaded.items())


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("qwen2.5-1.5b", {256, 258}),
        ("qwen2.5-0.5b", {256, 258}),
        ("mistral-7b-instruct", {2}),
        ("llama-2-7b-chat", {2}),
    ],
)
def test_a_language_model_knows_all_its_stop_tokens(hub: Hub, name: str, stops: set[int]):
    with Registry("cpu").lease(*language.language_model("full", name).parts.values()) as (model, tokenizer):
        assert stop_tokens(model, tokenizer) == stops
