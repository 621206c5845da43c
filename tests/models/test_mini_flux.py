"""The small fill model, its adapters and its depth estimator, as shipped: what the card says of them, and how they were taught."""

from __future__ import annotations

import dataclasses
import json

import numpy
import pytest
import torch
from diffusers import AutoencoderTiny, FluxFillPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from transformers import DepthAnythingForDepthEstimation

from assets.georemover import evaluate
from assets.lab import cards
from assets.mini_flux import data, examples, train
from pipelines import georemover
from pipelines.core import depth as depth_maps
from pipelines.core import masks
from pipelines.core.lane import run_blocking
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT
from pipelines.georemover import Cache, Request, Settings, metrics
from pipelines.georemover.stages import Stages
from pipelines.models import flux, flux_parts, flux_tiny
from pipelines.worlds import removal

FOLDER = ROOT / "assets/mini_flux"
trained = pytest.mark.skipif(not (FOLDER / "stage2").exists(), reason="the model is not trained yet")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


@pytest.fixture(scope="module")
def model():
    base = flux.BASES["mini"]
    with Registry("cpu").lease(*base.parts) as parts:  # a registry of its own: a lease keeps the lane out
        yield Stages(base, **flux.by_part(parts))


# ------------------------------------------------------------------------------------- how it was taught


def test_tokens_masks_and_ids_are_those_of_the_published_pipeline():
    rng = numpy.random.default_rng(0)
    mask = rng.random((2, 128, 192)) < 0.5
    pipe = object.__new__(FluxFillPipeline)
    pipe.vae_scale_factor = 8
    latents = torch.randn(2, 16, 16, 24)
    vae = type("Vae", (), {"config": type("C", (), {"shift_factor": 0.0, "scaling_factor": 1.0})()})()
    object.__setattr__(pipe, "vae", vae)
    wanted, packed = pipe.prepare_mask_latents(
        torch.from_numpy(mask)[:, None].float(), latents, 2, 16, 1, 128, 192, torch.float32, "cpu", None
    )
    assert torch.equal(examples.fold_mask(mask, "cpu"), wanted) and torch.equal(examples.pack(latents), packed)
    assert torch.equal(
        train.image_ids(1, "cpu"), FluxFillPipeline._prepare_latent_image_ids(1, 8, 12, "cpu", torch.float32)
    )
    table = train.image_ids(3, "cpu")
    assert table[[0, 11, 12, 23, 24, 35, 36]].tolist() == [
        [0, 0, 0],
        [0, 0, 11],
        [1, 0, 0],
        [1, 0, 11],
        [2, 0, 0],
        [2, 0, 11],
        [0, 1, 0],
    ]


def test_panels_change_places():
    strip = torch.arange(288.0).view(1, 288, 1).expand(2, 288, 64)
    swapped, same = train.exchanged(strip), train.unchanged(strip)
    # tokens of the first row: panel 0 is 0..11, panel 1 is 12..23, panel 2 is 24..35
    assert swapped[0, :36, 0].tolist() == [*range(12), *range(24, 36), *range(12, 24)]
    assert same[0, :36, 0].tolist() == [*range(12), *range(24, 36), *range(24, 36)]
    assert torch.equal(train.exchanged(swapped), strip)
    assert train.first_panel(strip)[0, :13, 0].tolist() == [*range(12), 36.0]


def test_the_preference_term_wants_the_depth_without_the_object_to_be_the_easier_one():
    torch.manual_seed(0)
    latents = torch.randn(2, 16, 16, 24)
    across, down = train.gradients(examples.pack(latents))
    assert torch.equal(across, latents[..., 1:] - latents[..., :-1]) and torch.equal(down, latents.diff(dim=2))
    good_truth, bad_truth, error = torch.randn(2, 96, 64), torch.randn(2, 96, 64), torch.randn(2, 96, 64)
    right = train.preference(good_truth, good_truth, bad_truth + error, bad_truth)
    wrong = train.preference(good_truth + error, good_truth, bad_truth, bad_truth)
    level = train.preference(good_truth + error, good_truth, bad_truth + error, bad_truth)
    assert right < level < wrong and level.item() == pytest.approx(numpy.log(2), abs=1e-5)


def test_a_visitors_mask_holds_the_object():
    mask = removal.masks(removal.sample(3, count=1))[0]
    kinds = [examples.visitor_mask(mask, numpy.random.default_rng(seed)) for seed in range(40)]
    assert all((kind >= mask).all() for kind in kinds) and len({int(kind.sum()) for kind in kinds}) > 10
    holes = [examples.random_mask(numpy.random.default_rng(seed)) for seed in range(40)]
    assert all(0 < hole.mean() < 0.6 for hole in holes)


def test_views_and_removals_of_a_scene():
    kept, removals = data.views(removal.sample(0, count=2))
    assert kept == [(0, 1), (1,), (0,), ()]
    assert removals == [(0, 1, 0), (0, 2, 1), (1, 3, 1), (2, 3, 0)]
    assert len(data.views(removal.sample(0, count=3))[1]) == 3


# ----------------------------------------------------------------------------------------- as shipped


@trained
def test_the_parts_load_by_their_own_classes_and_have_the_published_shapes():
    transformer = FluxTransformer2DModel.from_pretrained(FOLDER / "transformer")
    vae = AutoencoderTiny.from_pretrained(FOLDER / "vae")
    DepthAnythingForDepthEstimation.from_pretrained(FOLDER / "depth")
    assert (transformer.config.in_channels, transformer.config.out_channels) == (384, 64)
    assert vae.config.latent_channels == 16 and vae.encode(torch.zeros(1, 3, 64, 128)).latents.shape == (1, 16, 8, 16)
    for stage in ("stage1", "stage2"):
        adapter = load_file(FOLDER / stage / flux.ADAPTER_FILE)
        flux_parts.check_adapter(adapter, 384, transformer.inner_dim)
        places = {key.split(".lora_")[0].removeprefix("transformer.") for key in adapter}
        assert all(any(place.endswith(end) for end in flux_tiny.TARGETS) for place in places)
        assert {v.shape[0] for k, v in adapter.items() if ".lora_A." in k} == {flux_tiny.RANK}


@trained
def test_shadow_and_mirror_image_go_and_a_fill_leaves_them(registry):
    """Four scenes of a stream of their own, against what the card says of them, with room for so few."""
    ours, fill, decibels = [], [], []
    for number in range(8):
        pair = evaluate.case("first", number)
        if not metrics.defined(metrics.effect_area(pair.image, pair.clean, pair.mask)):
            continue
        rows = evaluate.run_arm(registry, "ours", pair)
        ours.append(rows["ours"]["residual_effect"])
        decibels.append(rows["ours"]["psnr_effect"])
        fill.append(rows["fill_only"]["residual_effect"])
        if len(ours) == 4:
            break
    told = json.loads((evaluate.HERE / "evaluation.json").read_text())["rows"]
    assert numpy.mean(ours) < told["ours"]["residual"]["mean"] + 0.12 and numpy.mean(fill) > numpy.mean(ours) + 0.25
    assert numpy.mean(decibels) > 25


@trained
def test_nothing_changes_where_the_depth_does_not(model):
    """The third finding of the code's readers: stage 2 knows of the object only by the difference of the depth maps."""
    settings, kept, removed = dataclasses.replace(Settings.of("mini"), steps_2=20), [], []
    for number in range(3):
        pair = evaluate.case("first", number, scale=1)
        for found, depth in ((kept, pair.depth), (removed, pair.depth_clean)):
            picture = model.render(pair.image, depth, pair.depth, settings).result
            found.append(metrics.difference(pair.image, picture)[pair.mask].mean())
    assert numpy.mean(kept) < 0.35 * numpy.mean(removed)


@trained
def test_stage_1_takes_the_object_out_of_the_depth(model):
    errors, before = [], []
    for number in range(4):
        pair = evaluate.case("first", number, scale=1)
        after, off = model.remove_from_depth(pair.depth, masks.grow(pair.mask, 2), Settings.of("mini"))
        errors.append(numpy.abs(after - pair.depth_clean)[pair.mask].mean())
        before.append(numpy.abs(pair.depth - pair.depth_clean)[pair.mask].mean())
        assert off < 25
    assert numpy.mean(errors) < 0.35 * numpy.mean(before)


@trained
def test_the_estimator_sees_solids_and_no_shadows(model):
    inside, effect = [], []
    for number in range(6):
        pair = evaluate.case("first", number, scale=1)
        found = model.estimate_depth(pair.image)
        inside.append(numpy.abs(found - pair.depth)[pair.mask].mean())
        caused = (pair.shadow | pair.reflection) & ~pair.mask & ~pair.others
        effect.append(numpy.abs(found - pair.depth)[caused].mean())
    assert numpy.mean(inside) < 0.09 and numpy.mean(effect) < 0.03


@trained
def test_the_autoencoder_keeps_pictures_and_depth(model):
    pair = evaluate.case("first", 2, scale=1)
    colours = depth_maps.to_colours(pair.depth)
    for picture, least in ((pair.image, 30), (colours, 36)):
        error = ((model.through_vae(picture).astype(float) - picture) ** 2).mean()
        assert 10 * numpy.log10(255**2 / error) > least
    read, _ = depth_maps.from_colours(model.through_vae(colours))
    assert numpy.abs(read - pair.depth).mean() < 0.006


@trained
def test_the_evaluation_is_what_the_card_says():
    """The plan's run has 200 scenes of the test stream and every arm; until it is made, the card must call its figures a first look."""
    found, card = json.loads((evaluate.HERE / "evaluation.json").read_text()), cards.CARDS["mini_flux"]()
    assert len(found["worst"]) == 10 and found["steps"] == list(flux.BASES["mini"].steps)
    rows = found["rows"]
    if found["stream"] == "test":
        assert found["scenes"] == 200 and set(rows) == set(evaluate.TITLES)
    else:
        assert "A first look" in card
    assert rows["fill_only"]["residual"]["mean"] > 1.5 * rows["ours"]["residual"]["mean"]
    assert f"{rows['ours']['residual']['mean']:.3f}" in card and f"{found['scenes']} " in card


def test_a_summary_leaves_out_what_is_not_defined():
    assert evaluate.summary([1.0, None, 2.0, 3.0]) == {"mean": 2.0, "median": 2.0, "q1": 1.0, "q3": 3.0, "n": 3}
    assert evaluate.summary([None, 1.0]) == {"n": 1}


@trained
def test_the_same_settings_give_the_same_bytes(registry):
    pair = evaluate.case("first", 0, scale=1)
    request = Request(Image.fromarray(pair.image), pair.mask, dataclasses.replace(Settings(), steps_1=4, steps_2=4))
    first, second = (run_blocking(georemover.generate, registry, request, Cache()) for _ in range(2))
    assert numpy.array_equal(first.results[0], second.results[0])
