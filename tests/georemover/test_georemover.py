"""GeoRemover as a whole, on models of toy size: odd files, sizes, stages and their cache, composites, sentences, batches."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pickle
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy
import pytest
import torch
from PIL import Image, ImageCms

from pipelines import georemover
from pipelines.core import depth as depth_maps
from pipelines.core import images, lane, masks
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import OutOfBudget, Registry
from pipelines.core.stages import Preview, Stored, keeping
from pipelines.georemover import Cache, Outcome, Recipe, Request, Settings, batch, checks, composite, export, remove
from pipelines.georemover import metrics as removal_metrics
from pipelines.georemover.depth import assisted, open_depth, panels_error
from pipelines.georemover.stages import Stages
from pipelines.models import flux
from tests.toys import flux as toy_flux

FAST = Settings(seed=3, steps_1=4, steps_2=4)


@pytest.fixture(scope="module")
def base():
    with toy_flux.installed() as made:
        yield made


@pytest.fixture(scope="module")
def registry(base):
    return Registry("cpu")


@pytest.fixture(scope="module")
def pair():
    return georemover.EXAMPLES[2].pair()


@pytest.fixture
def request_(pair):
    return Request(Image.fromarray(pair.image), pair.mask, FAST, truth=pair)


@pytest.fixture
def steps(registry, base):
    """Rows of tokens in each call of the real transformer since the test began: 96 for one panel, 288 for a strip."""
    with registry.lease(*base.parts) as parts:
        transformer = parts[0]
    seen: list[int] = []
    handle = transformer.register_forward_hook(lambda _m, _a, out: seen.append(out[0].shape[1]))
    yield seen
    handle.remove()


def photograph(size: tuple[int, int] = (300, 200), seed: int = 0) -> Image.Image:
    """A smooth picture without symmetry."""
    rng = numpy.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=numpy.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    data = io.BytesIO()
    image.save(data, kind, **options)
    data.seek(0)
    return data


def near(first: Image.Image, second: Image.Image, tolerance: float = 3.0) -> bool:
    if first.size != second.size or first.mode != "RGB":
        return False
    return numpy.abs(numpy.asarray(first, float) - numpy.asarray(second.convert("RGB"), float)).mean() < tolerance


# ---------------------------------------------------------------------------------------- pictures


def turned() -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photograph().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def cmyk() -> io.BytesIO:
    return saved(photograph().convert("CMYK"), "JPEG", quality=95)


def sixteen_bits() -> io.BytesIO:
    levels = numpy.asarray(photograph().convert("L")).astype(numpy.uint16) * 257
    return saved(Image.fromarray(levels))


def animated() -> io.BytesIO:
    frames = [photograph(seed=seed) for seed in (0, 1)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def palette_with_hole() -> io.BytesIO:
    picture = photograph().quantize(32)
    return saved(picture, transparency=0)


@pytest.mark.parametrize(
    ("file", "tolerance"),
    [
        (lambda: saved(photograph()), 0.1),
        (lambda: saved(photograph(), "JPEG", quality=95), 3),
        (turned, 3),
        (cmyk, 6),
        (animated, 0.1),
        (lambda: saved(photograph().quantize(256)), 8),
        (lambda: saved(photograph().convert("RGBA")), 0.1),
    ],
    ids=["png", "jpeg", "exif", "cmyk", "animated", "palette", "alpha"],
)
def test_odd_files_are_read_upright_in_their_colours(file, tolerance):
    assert near(images.open_picture(file()), photograph(), tolerance)


def test_grey_files_of_8_16_32_bits_and_floats():
    grey = photograph().convert("L")
    assert near(images.open_picture(sixteen_bits()), grey, 0.6)
    assert near(images.open_picture(saved(grey)), grey, 0.1)
    assert near(images.open_picture(saved(grey.convert("LA"))), grey, 0.1)
    wide = Image.fromarray(numpy.asarray(grey).astype(numpy.int32) * 257)
    assert near(images.open_picture(wide), grey, 0.6)
    floats = numpy.asarray(grey).astype(numpy.float32)
    for levels in (floats, floats / 255):
        assert near(images.open_picture(Image.fromarray(levels)), grey, 0.6)
    two = grey.convert("1")
    assert near(images.open_picture(saved(two)), two.convert("L"), 0.1)


def test_transparent_areas_lie_over_white():
    pixels = numpy.zeros((8, 8, 4), numpy.uint8)
    pixels[:4] = (10, 20, 30, 255)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBa")):
        shown = numpy.asarray(images.open_picture(image))
        assert (shown[:4] == (10, 20, 30)).all() and (shown[4:] == 255).all()
    assert (numpy.asarray(images.open_picture(palette_with_hole())) == 255).all(-1).any()


def test_a_colour_profile_is_applied_and_a_broken_one_passed_over():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"broken", lab, srgb):  # broken; of other channels; already what we want
        assert near(images.open_picture(saved(photograph(), icc_profile=profile)), photograph(), 0.1)
    name, other = ("".join(f"\0{letter}" for letter in word).encode() for word in ("sRGB", "mine"))
    assert name in srgb
    named = srgb.replace(name, other)  # the same colours under another name: converted, and nothing changes
    assert near(images.open_picture(saved(photograph(), icc_profile=named)), photograph(), 3)


def test_no_metadata_goes_on():
    exif = Image.Exif()
    exif[0x013B] = "a name"
    assert not images.open_picture(saved(photograph(), "JPEG", exif=exif)).info
    assert not images.open_picture(turned()).getexif()


def test_files_that_are_too_large_or_no_pictures_get_one_sentence(tmp_path: Path):
    wide = Image.new("1", (images.MAX_PIXELS // 4000 + 1, 4000))
    for source in (saved(wide), wide):
        with pytest.raises(ValueError, match="make it smaller first"):
            images.open_picture(source)
    (tmp_path / "a.png").write_bytes(saved(photograph()).getvalue()[:500])
    with pytest.raises(ValueError, match="damaged or cut short"):
        images.open_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a picture that can be read"):
        images.open_picture(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("size", "full", "mini"),
    [
        ((960, 540), (960, 512), (192, 128)),
        ((1500, 1000), (1024, 640), (192, 128)),
        ((3000, 4000), (768, 1024), (128, 192)),
        ((1024, 1024), (1024, 1024), (192, 192)),
        ((192, 128), (192, 128), (192, 128)),
        ((100, 80), (64, 64), (192, 128)),
        ((64, 64), (64, 64), (192, 192)),
        ((1080, 2400), (448, 1024), (64, 192)),
    ],
)
def test_sizes_are_rounded_per_panel(size, full, mini):
    assert flux.FULL.working_size(size) == full
    assert flux.MINI.working_size(size) == mini


@pytest.mark.parametrize("base_", [flux.FULL, flux.MINI], ids=lambda b: b.name)
def test_sides_below_64_are_refused_with_what_came_and_what_is_needed(base_):
    for size in ((63, 63), (63, 400), (400, 63)):
        with pytest.raises(ValueError, match=f"is {size[0]} x {size[1]} pixels and each side needs at least 64"):
            base_.working_size(size)
    with pytest.raises(ValueError, match="is 4000 x 100 pixels, at the model's size .* needs at least 64: cut off"):
        base_.working_size((4000, 100))


# -------------------------------------------------------------------------------------------- depth


def test_the_palette_there_and_back():
    depth = numpy.linspace(0, 1, 256, dtype=numpy.float32).reshape(16, 16)
    again, distance = depth_maps.from_colours(depth_maps.to_colours(depth))
    assert numpy.abs(again - depth).max() < 1e-6 and distance.max() == 0
    _same, off = depth_maps.from_colours(numpy.full((2, 2, 3), (0, 255, 0), numpy.uint8))
    assert off.min() > 100


RAMP = numpy.linspace(0.2, 0.8, 64 * 96, dtype=numpy.float32).reshape(64, 96)


@pytest.mark.parametrize(
    "picture",
    [
        lambda: Image.fromarray((RAMP * 255).round().astype(numpy.uint8)),
        lambda: Image.fromarray((RAMP * 65535).round().astype(numpy.uint16)),
        lambda: Image.fromarray((RAMP * 65535).round().astype(numpy.int32)),
        lambda: Image.fromarray(RAMP),
        lambda: Image.fromarray(depth_maps.to_colours(RAMP)),
        lambda: Image.fromarray(depth_maps.to_colours(RAMP)).convert("RGBA"),
        lambda: Image.fromarray((RAMP * 255).round().astype(numpy.uint8)).convert("P"),
    ],
    ids=["L", "I;16", "I", "F", "inferno", "RGBA", "P"],
)
def test_depth_files_of_every_kind(picture):
    depth, limits = open_depth(picture())
    wanted = (RAMP - 0.2) / 0.6
    assert depth.dtype == numpy.float32 and numpy.abs(depth - wanted).max() < 0.01
    assert limits == pytest.approx((0.2, 0.8), abs=0.01)
    same_scale, _ = open_depth(picture(), limits_=(0.0, 1.0))
    assert numpy.abs(same_scale - RAMP).max() < 0.01
    turned_round, _ = open_depth(picture(), near_is_dark=True)
    assert numpy.abs(turned_round - (1 - wanted)).max() < 0.01


def test_a_large_map_is_refused_or_read_in_a_second():
    """A coloured picture of 5000 x 5000 pixels and 84 kB cost five minutes before it was refused; a real map of that size, as long."""
    colours = numpy.random.default_rng(0).integers(0, 256, (5, 5, 3), numpy.uint8)
    plain = saved(Image.fromarray(colours).resize((5000, 5000), Image.Resampling.NEAREST)).getvalue()
    began = time.process_time()
    with pytest.raises(ValueError, match="no depth map"):
        open_depth(plain)
    assert time.process_time() - began < 1
    ramp = numpy.tile(numpy.linspace(0, 1, 4000, dtype=numpy.float32), (3000, 1))
    depth, _limits = open_depth(Image.fromarray(depth_maps.to_colours(ramp)))
    assert depth.shape == (1536, 2048) and numpy.abs(depth - numpy.linspace(0, 1, 2048)).max() < 0.01
    grey, _limits = open_depth(Image.fromarray((ramp * 255).round().astype(numpy.uint8)))
    assert grey.shape == (1536, 2048) and numpy.abs(grey - depth).max() < 0.01


def test_reading_colours_once_changes_nothing():
    from scipy.spatial import cKDTree

    pixels = numpy.random.default_rng(0).integers(0, 256, (40, 30, 3), numpy.uint8)
    distance, level = cKDTree(depth_maps.palette().astype(numpy.float32)).query(
        pixels.reshape(-1, 3).astype(numpy.float32)
    )
    found = depth_maps.from_colours(pixels)
    assert numpy.array_equal(found[0].ravel() * 255, level) and numpy.allclose(found[1].ravel(), distance)


def test_depth_files_that_say_nothing_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="This depth map is flat"):
        open_depth(Image.new("L", (64, 64), 90))
    with pytest.raises(ValueError, match="This is no depth map: use grey levels, or inferno colours"):
        open_depth(Image.new("RGB", (64, 64), (0, 255, 0)))
    (tmp_path / "x").write_text("no")
    with pytest.raises(ValueError, match="not a picture"):
        open_depth(tmp_path / "x")


def test_distances_of_a_metric_network_are_turned_round(base):
    model = Stages(base, **toy_flux.parts())
    rgb = numpy.asarray(photograph((192, 128)))
    near_is_large = model.estimate_depth(rgb)
    assert near_is_large.shape == (128, 192) and near_is_large.min() == 0 and near_is_large.max() == 1
    model.depth.config.depth_estimation_type = "metric"
    order = numpy.corrcoef(model.raw_depth(rgb).ravel(), near_is_large.ravel())[0, 1]
    assert order < -0.5


@pytest.mark.parametrize("size", [(192, 128), (128, 192), (192, 192), (192, 64)])
def test_depth_is_estimated_in_every_format(base, size):
    model = Stages(base, **toy_flux.parts())
    assert model.estimate_depth(numpy.asarray(photograph(size))).shape == size[::-1]
    assert model._depth_size(128, 192) == (126, 168), "as it was trained"
    model.base = flux.FULL
    assert model._depth_size(640, 1024) == (518, 826)


@pytest.mark.parametrize("size", [(640, 1024), (64, 1024), (1024, 448), (320, 448), (64, 64), (960, 512)])
def test_the_published_depth_network_gets_the_size_that_its_processor_would_make(size):
    from transformers.models.dpt.image_processing_dpt import get_resize_output_image_size

    wanted = get_resize_output_image_size(numpy.empty((3, *size)), (518, 518), True, 14)
    full = SimpleNamespace(base=flux.FULL)
    assert Stages._depth_size(full, *size) == (wanted.height, wanted.width)


def test_depth_assist_takes_the_nearest_within_the_mask():
    depth = numpy.tile(numpy.linspace(0, 1, 40, dtype=numpy.float32), (30, 1))
    mask = numpy.zeros(depth.shape, bool)
    mask[10:20, 10:30] = True
    helped = assisted(depth, mask)
    assert numpy.array_equal(helped[~mask], depth[~mask]) and (helped[mask] >= depth[mask]).all()
    assert helped[mask].max() == depth[mask].max(), "nothing comes in from outside"
    assert (helped - depth)[12:18, 12:24].mean() > 3 / 40


def test_a_fill_without_a_model_leaves_the_rest_alone(pair):
    filled = composite.telea(pair.image, pair.mask)
    assert numpy.array_equal(filled[~pair.mask], pair.image[~pair.mask])


# ----------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "from 0 to 2147483647"),
        ({"steps_1": 0}, "number of steps of stage 1 is 0 but must be a whole number from 1 to 60"),
        ({"steps_2": 61}, "number of steps of stage 2 is 61"),
        ({"steps_2": 5.5}, "whole number"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"grow": 65}, "growth of the mask is 65"),
        ({"scale_1": 1.6}, "strength of adapter 1 is 1.6"),
        ({"scale_2": "1"}, "strength of adapter 2 is '1'"),
        ({"variants": 5}, "number of variants is 5"),
        ({"feather": -1}, "feather is -1"),
        ({"depth_assist": 1}, "switch depth assist is 1"),
        ({"fill_holes": None}, "switch fill holes is nothing"),
        ({"keep_depth": "yes"}, "switch keep depth is 'yes'"),
        ({"model_set": "huge"}, "choose one of mini, full"),
        ({"preset": "3-bit", "model_set": "full"}, "preset '3-bit' is unknown: choose one of bf16, 8-bit"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        Settings(**change).validated()
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 200


def test_right_settings_come_back_with_exact_types():
    settings = Settings(seed=3.0, steps_1=4.0, guidance=2, grow=-4.0, scale_1=0, preset="").validated()
    assert settings == Settings(3, 4, 50, 2.0, -4, 0.0)
    assert type(settings.seed) is int and type(settings.guidance) is float and type(settings.grow) is int


def test_defaults_belong_to_the_model_set():
    assert Settings.of("mini").validated().grow == 2
    full = Settings.of("full", fast=True)
    assert (full.steps_1, full.steps_2, full.grow, full.model_set, full.keep_depth) == (20, 28, 8, "full", False)


def test_every_example_is_a_removal_with_an_effect():
    from pipelines.georemover import metrics as removal_metrics

    for recipe in georemover.EXAMPLES:
        made = recipe.pair()
        effect = removal_metrics.effect_area(made.image, made.clean, made.mask)
        assert recipe.title and removal_metrics.defined(effect), recipe
    with pytest.raises(ValueError, match="The scene has 1 objects and number 3 is to go"):
        Recipe(38, index=2).pair()
    with pytest.raises(ValueError, match="floor 'lava' is not known"):
        Recipe(38, floor="lava").pair()


# ------------------------------------------------------------------------------------------- stages


def test_keeping_the_depth_changes_only_the_mask(base, pair):
    model = Stages(base, **toy_flux.parts())
    mask = masks.grow(pair.mask, 2)
    kept, off = model.remove_from_depth(pair.depth, mask, FAST)
    painted, same_off = model.remove_from_depth(pair.depth, mask, dataclasses.replace(FAST, keep_depth=False))
    far = ~masks.grow(mask, 9)
    assert numpy.array_equal(kept[far], pair.depth[far]) and off == same_off
    deep = masks.grow(mask, -3)
    assert numpy.abs(kept - painted)[deep].max() < 1e-3 and not numpy.allclose(painted[far], pair.depth[far])


def test_stages_report_every_step_and_may_be_looked_at(base, pair):
    model, seen = Stages(base, **toy_flux.parts()), []

    def on_step(step, steps, look):
        seen.append((step, steps, look().shape))

    model.render(pair.image, pair.depth_clean, pair.depth, FAST, on_step)
    assert seen == [(step, 4, (128, 192, 3)) for step in (1, 2, 3, 4)]


def test_the_last_look_is_the_result(base, pair):
    model, looks = Stages(base, **toy_flux.parts()), []
    result = model.fill_only(pair.image, pair.mask, FAST, lambda step, steps, look: looks.append(look()))
    assert numpy.abs(looks[-1].astype(int) - result).max() <= 1
    assert numpy.abs(looks[0].astype(int) - result).mean() > 1


def test_a_mask_of_another_size_is_refused(base, pair):
    model = Stages(base, **toy_flux.parts())
    with pytest.raises(ValueError, match="is 192 x 128 and the mask 60 x 40"):
        model.fill_only(pair.image, numpy.zeros((40, 60), bool), FAST)


# ------------------------------------------------------------------------------------------ whole runs


def drain(job: Job) -> list:
    return [job.out.get() for _ in range(job.out.qsize())]


def test_a_run_returns_everything_and_changes_no_model(registry, base, request_, steps):
    with registry.lease(*base.parts) as parts:
        before = [fingerprint(part) for part in (parts[0], parts[1], parts[4])]
    job = Job()
    outcome = remove(job, registry, dataclasses.replace(request_, compare=True), Cache())
    assert steps == [96] * 4 + [288] * 4 + [96] * 4
    assert isinstance(outcome, Outcome) and outcome.settings == FAST.validated()
    assert outcome.results[0].shape == (128, 192, 3) and outcome.strips[0].shape == (128, 576, 3)
    assert outcome.depth_before.dtype == outcome.depth_after.dtype == numpy.float32
    assert outcome.mask.sum() > request_.mask.sum(), "grown"
    assert outcome.fill_only is not None and outcome.composites[0].size == (192, 128)
    assert [m["key"] for m in outcome.models] == ["toy-flux-0/transformer", "toy-flux-0/vae", "toy-flux-0/depth"]
    metrics = outcome.metrics[0]
    assert (
        metrics["truth"] is True and metrics["residual_effect"] > 0 and set(metrics["depth"]) == {"error", "untouched"}
    )
    assert set(outcome.baselines) == {"telea", "fill_only"}
    assert outcome.baselines["telea"]["residual_effect"] == pytest.approx(1.0, abs=0.05)
    json.dumps(export.facts(outcome), allow_nan=False)
    items = drain(job)
    progress = [item.fraction for item in items if isinstance(item, Progress)]
    assert progress == sorted(progress) and progress[-1] < 1
    stages = list(dict.fromkeys(item.stage for item in items if isinstance(item, Preview)))
    assert stages == ["Depth before", "Depth after", "Result", "Filled without geometry"]
    assert any(item.step < item.steps for item in items if isinstance(item, Preview))
    with registry.lease(*base.parts) as parts:
        # the counter of this test is a hook itself
        assert [fingerprint(part) for part in (parts[1], parts[4])] == before[1:]


def test_the_same_request_gives_the_same_bytes(registry, request_):
    first, second = (remove(Job(), registry, request_) for _ in range(2))
    assert first.composites[0].tobytes() == second.composites[0].tobytes()
    assert numpy.array_equal(first.strips[0], second.strips[0])


def test_changing_stage_2_never_runs_stage_1_again(registry, request_, steps):
    cache = Cache()
    first = remove(Job(), registry, request_, cache)
    steps.clear()
    again = remove(Job(), registry, request_, cache)
    assert steps == [] and again.seconds["stage 1"] == again.seconds["stage 2"] == again.seconds["depth"] == 0
    changed = dataclasses.replace(request_, settings=dataclasses.replace(FAST, steps_2=5))
    second = remove(Job(), registry, changed, cache)
    assert steps == [288] * 5
    assert numpy.array_equal(first.depth_after, second.depth_after)
    assert not numpy.array_equal(first.results[0], second.results[0])
    steps.clear()
    remove(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, scale_1=0.5)), cache)
    assert steps == [96] * 4 + [288] * 4
    steps.clear()
    remove(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, feather=5)), cache)
    assert steps == []


def test_more_variants_run_only_the_new_ones(registry, request_, steps):
    cache = Cache()
    remove(Job(), registry, request_, cache)
    steps.clear()
    outcome = remove(
        Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, variants=3)), cache
    )
    assert steps == [288] * 8
    assert len(outcome.results) == len(outcome.composites) == len(outcome.metrics) == len(outcome.changed) == 3
    other = remove(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, seed=4)))
    # variant 2 is what seed 4 paints of the same geometry; its own stage 1 is drawn from seed 4
    assert not numpy.array_equal(other.depth_after, outcome.depth_after)


def test_a_given_depth_after_replaces_stage_1(registry, request_, pair, steps):
    given = dataclasses.replace(request_, depth_after=pair.depth_clean, depth_before=pair.depth)
    outcome = remove(Job(), registry, given)
    assert steps == [288] * 4
    assert numpy.array_equal(outcome.depth_after, pair.depth_clean) and outcome.off_palette is None
    assert export.facts(outcome)["depth"] == "given" and outcome.original_size == (192, 128)
    small = cv2.resize(pair.depth_clean, (96, 64))
    assert remove(Job(), registry, dataclasses.replace(given, depth_after=small)).depth_after.shape == (128, 192)


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7])
def test_stop_ends_within_a_step_and_keeps_what_is_finished(registry, request_, steps, after):
    cache, job = Cache(), Job()

    def stop(*_anything):
        if len(steps) > after:
            job.stop.set()

    with registry.lease(*flux.BASES["mini"].parts) as parts:
        handle = parts[0].register_forward_hook(stop)
    try:
        if after == 0:
            job.stop.set()
        with pytest.raises(Cancelled):
            remove(job, registry, request_, cache)
    finally:
        handle.remove()
    assert len(steps) <= after + 1
    done = len(steps)
    steps.clear()
    remove(Job(), registry, request_, cache)
    # a stage whose last step is done is finished, and kept
    assert steps == ([96] * 4 if done < 4 else []) + ([288] * 4 if done < 8 else [])


def test_a_stop_between_the_stages_keeps_stage_1(registry, request_, steps):
    cache, job = Cache(), Job()
    put = job.emit

    def emit(item):
        put(item)
        if isinstance(item, Preview) and item.stage == georemover.DEPTH_AFTER and item.step == item.steps:
            job.stop.set()

    job.emit = emit
    with pytest.raises(Cancelled):
        remove(job, registry, request_, cache)
    assert steps == [96] * 4
    remove(Job(), registry, request_, cache)
    assert steps == [96] * 4 + [288] * 4


def test_the_depth_alone_needs_no_mask(registry, request_, steps):
    unmarked = dataclasses.replace(request_, mask=None)
    found = georemover.geometry(Job(), registry, unmarked, removed=False)
    assert found.depth_after is None and not found.mask.any() and found.notes == [] and steps == []
    with pytest.raises(ValueError, match="Paint over the object first"):
        georemover.geometry(Job(), registry, unmarked)
    cache = Cache()
    both = georemover.geometry(Job(), registry, request_, cache)
    assert numpy.array_equal(both.depth_before, found.depth_before) and steps == [96] * 4
    assert any("does not look like a depth map" in note for note in both.notes), "as a whole run tells it"
    assert numpy.array_equal(remove(Job(), registry, request_, cache).depth_after, both.depth_after)
    assert steps == [96] * 4 + [288] * 4


def crosses(registry, fn, args, kwargs, limit_s):
    """As ZeroGPU: what goes in and what comes out is pickled, but for the registry, which a fork inherits."""
    there = [a if a is registry else pickle.loads(pickle.dumps(a)) for a in args]
    for item in lane.stream_here(fn, *there, limit_s=limit_s, **kwargs):
        yield pickle.loads(pickle.dumps(item))


def test_a_cache_is_filled_from_another_process(registry, request_, steps):
    cache = Cache()
    lane.send_elsewhere(lambda *given: crosses(registry, *given))
    try:
        request_ = dataclasses.replace(request_, truth=None)
        *items, first = keeping(lane.stream(remove, registry, request_, cache), cache)
        assert steps == [96] * 4 + [288] * 4 and not any(isinstance(item, Stored) for item in items)
        assert len(cache) == 4, "depth, both stages, autoencoder"
        *_items, second = keeping(lane.stream(remove, registry, request_, cache), cache)
    finally:
        lane.send_elsewhere(None)
    assert len(steps) == 8 and numpy.array_equal(first.value.results[0], second.value.results[0])


def test_the_limit_does_not_count_what_loading_takes(request_):
    def slow(part):
        time.sleep(0.5)
        return toy.parts[0].load(part)

    toy = toy_flux.toy_base()
    slowly = dataclasses.replace(toy, parts=tuple(dataclasses.replace(part, load=slow) for part in toy.parts))
    with toy_flux.installed(slowly):
        job = Job(limit_s=3600, started=(began := time.monotonic()))
        georemover.geometry(job, Registry("cpu"), request_, removed=False)
    assert 5 * 0.5 <= job.started - began <= time.monotonic() - began


def test_a_run_past_its_time_is_told(registry, request_):
    job = Job(limit_s=0.0, started=0.0)
    with pytest.raises(TimeoutError, match="use fewer steps"):
        remove(job, registry, request_)


@pytest.mark.parametrize(
    "file",
    [
        turned,
        cmyk,
        sixteen_bits,
        palette_with_hole,
        lambda: saved(photograph((700, 900))),
        lambda: saved(photograph((4000, 3000)), "JPEG", quality=60),
        lambda: saved(photograph((90, 70))),
    ],
    ids=["exif", "cmyk", "16 bit", "palette", "portrait", "12 megapixels", "tiny"],
)
def test_any_photograph_goes_through_and_keeps_every_other_pixel(registry, file):
    image = images.open_picture(file())
    width, height = image.size
    mask = numpy.zeros((height, width), bool)
    mask[height // 3 : height // 2, width // 3 : width // 2] = True
    outcome = remove(Job(), registry, Request(image, mask, FAST))
    made, changed = outcome.composites[0], outcome.changed[0]
    assert made.size == image.size and changed.shape == (height, width) and changed[mask].all()
    assert numpy.asarray(made)[~changed].tobytes() == numpy.asarray(image)[~changed].tobytes()
    assert outcome.metrics[0]["truth"] is False and "residual_effect" not in outcome.metrics[0]
    assert any("know only our rendered scenes" in note and "full set" in note for note in outcome.notes)


def test_a_truth_may_be_a_picture(registry, request_, pair):
    given = dataclasses.replace(request_, truth=None, clean=Image.fromarray(pair.clean))
    found = remove(Job(), registry, given).metrics[0]
    assert found["truth"] is True and found["residual_effect"] is not None and "depth" not in found


# -------------------------------------------------------------------------------------------- cache


def test_the_cache_forgets_what_was_used_least_recently():
    cache = Cache(entries=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert "b" not in cache and "a" in cache and "c" in cache and len(cache) == 2
    small = Cache(most_bytes=1000)
    small.put("a", numpy.zeros(900, numpy.uint8))
    small.put("b", (numpy.zeros(900, numpy.uint8), 1.0))
    assert "a" not in small and "b" in small
    small.clear()
    assert len(small) == 0 and small.get("b") is None


def test_keys_tell_values_shapes_and_types_apart():
    one = numpy.zeros((2, 3), numpy.float32)
    keys = {Cache.key(x) for x in (one, one.T, one.astype(numpy.float64), one + 1, "x", 1, 1.0, None, True)}
    assert len(keys) == 9 and Cache.key(one, 1) == Cache.key(one.copy(), 1) != Cache.key(1, one)


# ---------------------------------------------------------------------------------------- composite


def scene_at(size: tuple[int, int], recipe: Recipe):
    """An example rendered at another size: with, without, mask."""
    from pipelines.worlds import removal, tabletop

    pair, shape = recipe.pair(), size[::-1]
    with_, without = (
        removal.to_uint8(tabletop.render([scene], shape).image[0])
        for scene in (pair.scene, pair.scene.without(pair.index))
    )
    return with_, without, tabletop.geometry([pair.scene], shape)[1][0, pair.index].numpy()


def noisy(picture: numpy.ndarray, seed: int) -> numpy.ndarray:
    """As an autoencoder would give it back."""
    noise = numpy.random.default_rng(seed).normal(0, 2, picture.shape)
    return numpy.clip(picture + noise, 0, 255).round().astype(numpy.uint8)


def test_nothing_is_pasted_where_nothing_changed(pair):
    image = Image.fromarray(pair.image)
    nothing = numpy.zeros_like(pair.mask)
    made, changed = composite.compose(image, pair.image, pair.image, nothing, FAST)
    assert made.tobytes() == image.tobytes() and not changed.any()
    # what the autoencoder loses everywhere is no change
    through = noisy(pair.image, 0)
    made, changed = composite.compose(image, through, pair.image, pair.mask, FAST, through)
    assert numpy.array_equal(changed, pair.mask)
    assert numpy.asarray(made)[~changed].tobytes() == pair.image[~changed].tobytes()


@pytest.mark.parametrize(("example", "size"), [(0, (192, 128)), (2, (384, 256))])
def test_object_shadow_and_reflection_go_at_full_resolution(example, size):
    from pipelines.georemover import metrics as removal_metrics

    image, clean, mask = scene_at(size, georemover.EXAMPLES[example])
    factor = size[0] // 192
    small, small_clean = (composite.at_size(Image.fromarray(p), (192, 128)) for p in (image, clean))
    made, changed = composite.compose(
        Image.fromarray(image), noisy(small_clean, 0), small, masks.grow(mask, 2 * factor), Settings(), noisy(small, 1)
    )
    out = numpy.asarray(made)
    assert out[~changed].tobytes() == image[~changed].tobytes() and changed.mean() < 0.4
    found = removal_metrics.against_truth(image, out, clean, mask)
    assert found["residual_effect"] < 0.12 and found["over_erasure"] < 0.01
    assert found["regions"]["mask"]["psnr"] > 30 and found["regions"]["effect"]["psnr"] > 30


def test_texture_that_only_the_original_has_stays_under_a_shadow():
    size = (768, 512)
    rng = numpy.random.default_rng(0)
    texture = rng.normal(0, 12, (size[1], size[0], 1))
    rows, columns = numpy.mgrid[: size[1], : size[0]]
    weight = cv2.GaussianBlur((((columns - 460) / 140) ** 2 + ((rows - 380) / 50) ** 2 <= 1).astype(float), (0, 0), 6)
    clean = numpy.clip(140 + texture + numpy.zeros(3), 0, 255)
    image = (clean * (1 - 0.45 * weight[..., None])).round().astype(numpy.uint8)
    clean = clean.round().astype(numpy.uint8)
    mask = (rows > 200) & (rows < 390) & (columns > 360) & (columns < 440)
    image[mask] = (200, 30, 30)
    small, result = (composite.at_size(Image.fromarray(p), (192, 128)) for p in (image, clean))
    made, _changed = composite.compose(Image.fromarray(image), result, small, masks.grow(mask, 8), Settings())
    inside = (weight > 0.99) & ~masks.grow(mask, 30)
    out = numpy.asarray(made).astype(float)
    assert abs(out[inside].mean() - clean[inside].mean()) < 3
    assert out[inside].std() > 0.8 * clean[inside].std(), "the enlarged result alone has almost none of it"
    assert numpy.corrcoef(out[inside][:, 0], clean[inside][:, 0])[0, 1] > 0.95


def test_a_change_far_from_the_object_is_not_pasted(pair):
    result = pair.clean.copy()
    result[2:22, 2:32] = (255, 0, 0)
    made, changed = composite.compose(Image.fromarray(pair.image), result, pair.image, masks.grow(pair.mask, 2), FAST)
    assert not changed[:24, :34].any() and numpy.array_equal(numpy.asarray(made)[:24, :34], pair.image[:24, :34])
    effect, far = composite.change_areas(result, pair.image, pair.mask)
    assert far[5:18, 5:28].all() and not (effect & far).any() and effect.any()


def test_where_the_model_does_not_know_the_world_only_large_differences_are_an_effect(pair):
    """A model that paints everything in waves of its own: without the raised thresholds all of it would hang together with the object."""
    noise = numpy.random.default_rng(3).normal(0, 1, pair.image.shape[:2]).astype(numpy.float32)
    waves = cv2.GaussianBlur(noise, (0, 0), 4)
    waves *= 12 / waves.std()
    result = numpy.clip(pair.clean + waves[..., None], 0, 255).astype(numpy.uint8)
    known, _ = composite.change_areas(pair.clean, pair.image, pair.mask)
    effect, _ = composite.change_areas(result, pair.image, pair.mask)
    wavy = removal_metrics.difference(result, pair.image) > composite.CHANGE_SEED
    assert known.mean() < 0.2 and wavy.mean() > 0.2
    assert effect.mean() < known.mean() + 0.1 < wavy.mean()


def test_without_growth_the_object_s_edge_does_not_come_back(pair):
    settings = dataclasses.replace(FAST, grow=0, feather=6)
    made, _changed = composite.compose(Image.fromarray(pair.image), pair.clean, pair.image, pair.mask, settings)
    assert numpy.array_equal(numpy.asarray(made)[pair.mask], pair.clean[pair.mask])


# ---------------------------------------------------------------------------------------- sentences


def one_sentence(text: str | None) -> bool:
    return text is not None and text.endswith(".") and "\n" not in text and len(text) < 230


def refused(registry, request) -> str:
    with pytest.raises(ValueError, match=r"[.]$") as caught:
        remove(Job(), registry, request)
    return str(caught.value)


def test_no_picture_and_no_mask(registry, request_, pair):
    assert refused(registry, dataclasses.replace(request_, image=None)).startswith("There is no picture yet")
    for nothing in (None, pair.mask & False):
        told = refused(registry, dataclasses.replace(request_, mask=nothing))
        assert told.startswith("Paint over the object first") and one_sentence(told)
    shrunk = dataclasses.replace(request_, settings=dataclasses.replace(FAST, grow=-32))
    assert refused(registry, shrunk) == "Nothing of the mask is left after shrinking: shrink it less."
    speck = numpy.zeros((3000, 4000), bool)
    speck[1500:1506, 2000:2006] = True
    for settings in (FAST, shrunk.settings):
        told = refused(registry, Request(Image.new("RGB", (4000, 3000)), speck, settings))
        assert told == "The mask is smaller than a pixel at the model's size, 192 x 128: brush a larger area."
    tiny = dataclasses.replace(request_, image=photograph((63, 400)), mask=numpy.ones((400, 63), bool))
    assert "63 x 400" in refused(registry, tiny)


def test_a_mask_or_a_truth_of_another_format_is_refused(registry, request_, pair):
    told = refused(registry, dataclasses.replace(request_, mask=pair.mask.T))
    assert told.startswith("The mask is 128 x 192 pixels and the picture 192 x 128") and one_sentence(told)
    cropped = Image.fromarray(pair.clean[:, :128])
    told = refused(registry, dataclasses.replace(request_, truth=None, clean=cropped))
    assert told.startswith("The picture of the truth is 128 x 128 pixels") and one_sentence(told)


def test_a_mask_over_most_of_the_picture_runs_and_is_told(registry, request_, pair):
    wide = numpy.zeros_like(pair.mask)
    wide[:, :150] = True
    notes = remove(Job(), registry, dataclasses.replace(request_, mask=wide)).notes
    told = next(note for note in notes if note.startswith("The mask covers"))
    assert "most of it: the fill will be invented" in told and one_sentence(told)
    assert checks.warn_large_mask(pair.mask) is None


def test_a_mask_that_misses_a_part_is_told(pair):
    half = pair.mask.copy()
    half[:, : int(numpy.nonzero(pair.mask.any(0))[0].mean())] = False
    told = checks.warn_partial_mask(pair.depth, masks.grow(half, 2), pair.image)
    assert one_sentence(told) and "completed instead of removed" in told
    assert checks.warn_partial_mask(pair.depth, masks.grow(pair.mask, 2), pair.image) is None


def test_flat_depth_is_refused(registry, request_, base, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Stages, "raw_depth", lambda self, rgb: numpy.full(rgb.shape[:2], 0.4, numpy.float32))
    told = refused(registry, request_)
    assert told.startswith("No usable depth in this image") and one_sentence(told)
    assert checks.warn_flat_depth(RAMP) is None and checks.warn_flat_depth(RAMP * 20) is None


def test_depth_that_did_not_change_is_told(registry, request_, pair):
    given = dataclasses.replace(request_, depth_before=pair.depth, depth_after=pair.depth)
    told = [note for note in remove(Job(), registry, given).notes if note.startswith("The depth did not change here")]
    assert len(told) == 1 and one_sentence(told[0]) and "try depth assist" in told[0]
    assert checks.warn_unchanged_depth(pair.depth, pair.depth_clean, pair.mask) is None
    two = pair.mask | pair.others
    assert "in 1 of 2 masked areas" in (checks.warn_unchanged_depth(pair.depth, pair.depth_clean, two) or "")


def test_a_depth_result_off_the_palette_is_told(registry, request_):
    # the toy's stage 1 paints noise
    notes = remove(Job(), registry, request_).notes
    told = next(note for note in notes if "does not look like a depth map" in note)
    assert told.endswith("wrong LoRA or grey depth?")
    assert checks.warn_off_palette(3.8) is None and checks.warn_off_palette(None) is None


def test_panels_that_differ_from_the_maps_are_told(registry, request_, pair):
    notes = remove(Job(), registry, request_).notes
    assert any(one_sentence(note) and note.startswith("Unstable render") for note in notes)
    colours = [depth_maps.to_colours(d) for d in (pair.depth_clean, pair.depth)]
    good = numpy.concatenate([pair.clean, *colours], 1)
    assert panels_error(good, pair.depth_clean, pair.depth) < 0.003
    assert checks.warn_unstable(panels_error(good, pair.depth_clean, pair.depth)) is None


def test_changes_far_from_the_object_are_told(pair):
    result = pair.clean.copy()
    result[2:30, 2:40] = (255, 0, 0)
    told = checks.warn_far_changes(composite.change_areas(result, pair.image, pair.mask)[1])
    assert told is not None and told.startswith("Areas far from the object changed") and "composite" in told
    assert checks.warn_far_changes(composite.change_areas(pair.clean, pair.image, pair.mask)[1]) is None


def test_a_photograph_is_told_what_the_small_models_know(base):
    assert one_sentence(checks.warn_photograph(base, False))
    assert checks.warn_photograph(base, True) is None and checks.warn_photograph(flux.FULL, False) is None


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        ("bf16", "choose the preset 8-bit"),
        ("", "choose the preset 8-bit"),
        ("8-bit", "choose the preset 4-bit"),
        ("4-bit", "choose the preset offload"),
        ("offload", "make the picture smaller or choose the mini set"),
    ],
)
def test_out_of_memory_names_the_stage_and_what_to_choose(preset, says, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: object())
    told = checks.out_of_memory("stage 2", flux.FULL, preset, no_memory())
    assert str(told) == f"There is not enough GPU memory for stage 2: {says}."


def no_memory() -> MemoryError:
    """As the registry raises it."""
    error = OutOfBudget("The GPU ran out of memory")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


def test_a_budget_that_cannot_suffice_keeps_its_own_advice():
    told, small = OutOfBudget("needs 3 GiB: raise LATENT_STUDIO_RAM_GIB"), flux.FULL
    assert checks.out_of_memory("stage 2", small, "offload", told) is told
    assert str(checks.out_of_memory("stage 2", small, "4-bit", told)).endswith("choose the preset offload.")


def test_presets_that_cannot_run_are_not_proposed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    told = checks.out_of_memory("stage 2", flux.FULL, "bf16", no_memory())
    assert str(told) == "There is not enough GPU memory for stage 2: choose the preset offload."


def test_a_run_out_of_memory_says_where(registry, request_, monkeypatch: pytest.MonkeyPatch):
    def full(*_given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stages, "render", full)
    with pytest.raises(MemoryError, match="^There is not enough GPU memory for stage 2: make the picture smaller.$"):
        remove(Job(), registry, request_)


def test_the_full_set_without_its_weights_is_one_sentence(request_, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    settings = dataclasses.replace(FAST, model_set="full")
    told = refused(Registry("cpu"), dataclasses.replace(request_, settings=settings))
    assert told.startswith("The full set is not in the local cache") and "mini set works meanwhile" in told


@pytest.mark.parametrize(
    ("depth", "says"),
    [
        (numpy.zeros((4, 4, 3), numpy.float32), "depth after has shape"),
        (numpy.zeros((4, 4), numpy.uint8), "type uint8"),
        (numpy.full((4, 4), 7.0), "values outside 0 to 1"),
        (numpy.full((4, 4), numpy.nan), "values outside 0 to 1"),
    ],
)
def test_a_depth_that_is_none_is_refused(registry, request_, depth, says):
    assert says in refused(registry, dataclasses.replace(request_, depth_after=depth))


def test_transparency_and_what_the_file_loses_are_told(registry, request_, pair):
    """Outside what changed the composite is the file's RGBA, byte for byte, at its own size."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (256, 384, 4), numpy.uint8)
    pixels[..., :3] = numpy.asarray(Image.fromarray(pair.image).resize((384, 256)))
    pixels[:, 192:, 3] = 255
    opened = images.open_upload(Image.fromarray(pixels))
    mask = numpy.zeros((256, 384), bool)
    mask[100:150, 250:320] = True
    asked = Request(opened.image, mask, FAST, layered=opened.layered, lost=("A sentence about the file.",))
    outcome = remove(Job(), registry, asked)
    made, changed = numpy.asarray(outcome.composites[0]), outcome.changed[0]
    assert made.shape == pixels.shape and changed.any() and (made[~changed] == pixels[~changed]).all()
    assert (made[mask, 3] == 255).all() and (made[~masks.grow(mask, 8), 3] == pixels[~masks.grow(mask, 8), 3]).all()
    assert outcome.notes[0] == "A sentence about the file." and checks.TRANSPARENT in outcome.notes
    plain = remove(Job(), registry, dataclasses.replace(asked, layered=None, lost=()))
    assert plain.composites[0].mode == "RGB" and checks.TRANSPARENT not in plain.notes


def test_what_is_painted_small_is_told_and_follows_the_picture_s_look(registry, pair):
    """A black-and-white photograph stays one, also where it was painted."""
    grey = Image.fromarray(pair.image).convert("L").resize((768, 512))
    mask = numpy.asarray(Image.fromarray(pair.mask).resize((768, 512)))
    outcome = remove(Job(), registry, Request(images.open_picture(grey), mask, FAST))
    made = numpy.asarray(outcome.composites[0]).astype(int)
    assert (made.max(-1) == made.min(-1)).all() and outcome.changed[0].any()
    assert any("black and white" in note for note in outcome.notes)
    assert any("enlarged 4 times" in note for note in outcome.notes)


# ------------------------------------------------------------------------------------- batch, export


def archive_of(files: dict[str, bytes]) -> io.BytesIO:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data.seek(0)
    return data


def png(pixels: numpy.ndarray) -> bytes:
    return saved(Image.fromarray(pixels)).getvalue()


def test_a_zip_is_done_pair_by_pair_and_a_bad_pair_stops_nothing(registry, pair):
    mask, keep = (pair.mask * 255).astype(numpy.uint8), (~pair.mask * 255).astype(numpy.uint8)
    files = {
        "set/a.png": png(pair.image),
        "set/a_mask.png": png(mask),
        "set/a_gt.png": png(pair.clean),
        "set/b.jpg": saved(photograph(), "JPEG").getvalue(),
        "set/b_mask.png": png(mask),
        "c.png": png(pair.image),
        "d.png": b"broken",
        "d_mask.png": png(mask),
        "e.png": png(pair.image),
        "e_mask.png": b"broken",
        "__MACOSX/._a.png": b"x",
        "notes.txt": b"x",
    }
    job = Job()
    count = batch.run(job, registry, archive_of(files), FAST)
    sent = drain(job)
    planned = sent.pop(0)
    rows = [item for item in sent if isinstance(item, batch.BatchRow)]
    assert count == len(rows) == len(sent) - sum(isinstance(item, Progress) for item in sent)
    assert [row.name for row in planned.rows] == ["c", "d", "e", "set/a", "set/b", "__MACOSX/._a.png", "notes.txt"]
    assert sorted(", ".join(row.files for row in planned.rows).split(", ")) == sorted(files), "every file is in one row"
    assert [row.error == batch.WAITS for row in planned.rows] == [False] + 4 * [True] + 2 * [False]
    assert planned.rows[0].error == "There is no c_mask.png in its folder: add the mask."
    rows = [planned.rows[0], *rows]
    assert [row.name for row in rows] == ["c", "d", "e", "set/a", "set/b"]
    assert [bool(row.error) for row in rows] == [True, True, True, False, False]
    assert rows[1].error.startswith("d.png: This file is not a picture") and rows[2].error.startswith(
        "e_mask.png: This file"
    )
    assert rows[3].outcome.metrics[0]["truth"] and not rows[4].outcome.metrics[0]["truth"]
    told = [item for item in sent if isinstance(item, Progress)]
    assert told[0].text.startswith("3 of 4: loading") and any(item.text.startswith("4 of 4: Result") for item in told)
    assert [item.fraction for item in told] == sorted(item.fraction for item in told) and told[0].fraction == 0.5
    table = list(csv.DictReader(io.StringIO(batch.rows_to_csv(rows))))
    assert [row["name"] for row in table] == [row.name for row in rows]
    assert float(table[3]["residual_effect"]) == rows[3].outcome.metrics[0]["residual_effect"]
    assert table[4]["residual_effect"] == "" and float(table[4]["changed_outside"]) >= 0
    white = archive_of({"a.png": png(pair.image), "a_mask.png": png(keep)})
    _planned, row = batch.remove_all(Job(), registry, white, FAST, white_is_keep=True)
    assert numpy.array_equal(row.outcome.mask, rows[3].outcome.mask)


def test_zips_that_are_none_are_refused(registry, monkeypatch: pytest.MonkeyPatch, pair):
    def first(data):
        return next(batch.remove_all(Job(), registry, data, FAST))

    with pytest.raises(ValueError, match="not a zip that can be read"):
        first(io.BytesIO(b"x"))
    for files in ({}, {"a.txt": b"x"}):
        with pytest.raises(ValueError, match="holds no pictures"):
            first(archive_of(files))
    with pytest.raises(ValueError, match="holds 601 files and at most 600"):
        first(archive_of({f"{i}.png": b"" for i in range(601)}))
    monkeypatch.setattr(batch, "MOST_BYTES", 100)
    large = archive_of({"a.png": png(pair.image), "a_mask.png": png(pair.image)})
    _planned, row = batch.remove_all(Job(), registry, large, FAST)
    assert "unpacks to more than 100 bytes" in row.error


def test_a_pair_says_which_of_its_files_is_at_fault(registry, pair):
    mask, eps = png((pair.mask * 255).astype(numpy.uint8)), b"%!PS-Adobe-3.0 EPSF-3.0\n"
    files = {
        "a": eps,
        "a_mask": mask,
        "b": png(pair.image),
        "b_mask": png(numpy.zeros_like(pair.image)),
        "c": b"",
        "c_mask": mask,
    }
    sent = list(
        batch.remove_all(Job(), registry, archive_of({f"{name}.png": data for name, data in files.items()}), FAST)
    )
    assert "a.png: This file is a PostScript file" in sent[1].error and "b_mask.png marks nothing" in sent[2].error
    assert sent[3].error == "c.png is empty: pack it again."


def test_no_cell_of_the_table_is_a_formula():
    table = batch.rows_to_csv([batch.BatchRow("=1+1", error="-x")])
    assert "'=1+1" in table and "'-x" in table


def test_a_zip_of_a_run_holds_everything(registry, request_, tmp_path: Path):
    outcome = remove(Job(), registry, dataclasses.replace(request_, compare=True))
    with zipfile.ZipFile(export.save_zip(outcome, tmp_path / "a.zip")) as archive:
        names = set(archive.namelist())
        assert names == {
            "input.png",
            "mask.png",
            "depth_before.png",
            "depth_after.png",
            "telea.png",
            "fill_only.png",
            "result_3.png",
            "strip_3.png",
            "composite_3.png",
            "settings.json",
        }
        told = json.loads(archive.read("settings.json"))
        again = numpy.asarray(Image.open(io.BytesIO(archive.read("result_3.png"))))
        depth, _limits = open_depth(io.BytesIO(archive.read("depth_before.png")), limits_=(0.0, 1.0))
    assert numpy.array_equal(again, outcome.results[0])
    assert numpy.abs(depth - outcome.depth_before).max() <= 0.5 / 255 + 1e-6
    assert Settings(**told["settings"]).validated() == outcome.settings
    assert told["working_size"] == told["original_size"] == [192, 128] and "torch" in told["versions"]
    assert told["depth"] == "stage 1"
    row = batch.BatchRow("a", outcome)
    table = batch.rows_to_csv([row])
    row.outcome = None
    assert batch.rows_to_csv([row]) == table and str(outcome.metrics[0]["panels"]) in table
    # After the largest seed comes 0, in the names as in the pictures.
    two = {name: getattr(outcome, name) * 2 for name in ("results", "strips", "composites")}
    last = dataclasses.replace(outcome, settings=dataclasses.replace(FAST, seed=2**31 - 1, variants=2), **two)
    with zipfile.ZipFile(export.save_zip(last, tmp_path / "b.zip", {"mask": "drawn"})) as archive:
        assert {"result_2147483647.png", "result_0.png", "composite_0.png"} <= set(archive.namelist())
        assert json.loads(archive.read("settings.json"))["mask"] == "drawn"


def test_what_was_measured_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(export, "MEASURED", tmp_path / "evaluation.json")
    assert export.measured() is None
    (tmp_path / "evaluation.json").write_text('{"rows": {"ours": {"n": 200}}}')
    assert export.measured() == {"rows": {"ours": {"n": 200}}}
