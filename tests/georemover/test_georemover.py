"""GeoRemover as a whole, on models of toy size: sizes, settings, stages, runs and what is kept of them."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time

import cv2
import numpy
import pytest
from PIL import Image

from pipelines import georemover
from pipelines.core import images, lane, masks
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.stages import Preview, Stored, keeping
from pipelines.georemover import Cache, Outcome, Recipe, Request, Settings, export, generate, metrics
from pipelines.georemover.stages import Stages
from pipelines.models import flux
from tests.georemover.toys import FAST, drain
from tests.toys import flux as toy_flux
from tests.toys.pictures import cmyk, palette_with_hole, photograph, saved, sixteen_bits, turned


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


@pytest.mark.long
def test_every_example_is_a_removal_with_an_effect():
    for recipe in georemover.EXAMPLES:
        made = recipe.pair()
        effect = metrics.effect_area(made.image, made.clean, made.mask)
        assert recipe.title and metrics.defined(effect), recipe


def test_a_scene_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="The scene has 1 objects and number 3 is to go"):
        Recipe(38, index=2).pair()
    with pytest.raises(ValueError, match="floor 'lava' is not known"):
        Recipe(38, floor="lava").pair()


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


def test_a_run_returns_everything_and_changes_no_model(registry, base, request_, steps):
    with registry.lease(*base.parts) as parts:
        before = [fingerprint(part) for part in (parts[0], parts[1], parts[4])]
    job = Job()
    outcome = generate(job, registry, dataclasses.replace(request_, compare=True), Cache())
    assert steps == [96] * 4 + [288] * 4 + [96] * 4
    assert isinstance(outcome, Outcome) and outcome.settings == FAST.validated()
    assert outcome.results[0].shape == (128, 192, 3) and outcome.strips[0].shape == (128, 576, 3)
    assert outcome.depth_before.dtype == outcome.depth_after.dtype == numpy.float32
    assert outcome.mask.sum() > request_.mask.sum(), "grown"
    assert outcome.fill_only is not None and outcome.composites[0].size == (192, 128)
    assert [m["key"] for m in outcome.models] == ["toy-flux-0/transformer", "toy-flux-0/vae", "toy-flux-0/depth"]
    scores = outcome.metrics[0]
    assert scores["truth"] is True and scores["residual_effect"] > 0 and set(scores["depth"]) == {"error", "untouched"}
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
    first, second = (generate(Job(), registry, request_) for _ in range(2))
    assert first.composites[0].tobytes() == second.composites[0].tobytes()
    assert numpy.array_equal(first.strips[0], second.strips[0])


def test_changing_stage_2_never_runs_stage_1_again(registry, request_, steps):
    cache = Cache()
    first = generate(Job(), registry, request_, cache)
    steps.clear()
    again = generate(Job(), registry, request_, cache)
    assert steps == [] and again.seconds["stage 1"] == again.seconds["stage 2"] == again.seconds["depth"] == 0
    changed = dataclasses.replace(request_, settings=dataclasses.replace(FAST, steps_2=5))
    second = generate(Job(), registry, changed, cache)
    assert steps == [288] * 5
    assert numpy.array_equal(first.depth_after, second.depth_after)
    assert not numpy.array_equal(first.results[0], second.results[0])
    steps.clear()
    generate(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, scale_1=0.5)), cache)
    assert steps == [96] * 4 + [288] * 4
    steps.clear()
    generate(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, feather=5)), cache)
    assert steps == []


def test_more_variants_run_only_the_new_ones(registry, request_, steps):
    cache = Cache()
    generate(Job(), registry, request_, cache)
    steps.clear()
    outcome = generate(
        Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, variants=3)), cache
    )
    assert steps == [288] * 8
    assert len(outcome.results) == len(outcome.composites) == len(outcome.metrics) == len(outcome.changed) == 3
    other = generate(Job(), registry, dataclasses.replace(request_, settings=dataclasses.replace(FAST, seed=4)))
    # variant 2 is what seed 4 paints of the same geometry; its own stage 1 is drawn from seed 4
    assert not numpy.array_equal(other.depth_after, outcome.depth_after)


def test_a_given_depth_after_replaces_stage_1(registry, request_, pair, steps):
    given = dataclasses.replace(request_, depth_after=pair.depth_clean, depth_before=pair.depth)
    outcome = generate(Job(), registry, given)
    assert steps == [288] * 4
    assert numpy.array_equal(outcome.depth_after, pair.depth_clean) and outcome.off_palette is None
    assert export.facts(outcome)["depth"] == "given" and outcome.original_size == (192, 128)
    small = cv2.resize(pair.depth_clean, (96, 64))
    assert generate(Job(), registry, dataclasses.replace(given, depth_after=small)).depth_after.shape == (128, 192)


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
            generate(job, registry, request_, cache)
    finally:
        handle.remove()
    assert len(steps) <= after + 1
    done = len(steps)
    steps.clear()
    generate(Job(), registry, request_, cache)
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
        generate(job, registry, request_, cache)
    assert steps == [96] * 4
    generate(Job(), registry, request_, cache)
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
    assert numpy.array_equal(generate(Job(), registry, request_, cache).depth_after, both.depth_after)
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
        *items, first = keeping(lane.stream(generate, registry, request_, cache), cache)
        assert steps == [96] * 4 + [288] * 4 and not any(isinstance(item, Stored) for item in items)
        assert len(cache) == 4, "depth, both stages, autoencoder"
        *_items, second = keeping(lane.stream(generate, registry, request_, cache), cache)
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
        generate(job, registry, request_)


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
    outcome = generate(Job(), registry, Request(image, mask, FAST))
    made, changed = outcome.composites[0], outcome.changed[0]
    assert made.size == image.size and changed.shape == (height, width) and changed[mask].all()
    assert numpy.asarray(made)[~changed].tobytes() == numpy.asarray(image)[~changed].tobytes()
    assert outcome.metrics[0]["truth"] is False and "residual_effect" not in outcome.metrics[0]
    assert any("know only our rendered scenes" in note and "full set" in note for note in outcome.notes)


def test_a_truth_may_be_a_picture(registry, request_, pair):
    given = dataclasses.replace(request_, truth=None, clean=Image.fromarray(pair.clean))
    found = generate(Job(), registry, given).metrics[0]
    assert found["truth"] is True and found["residual_effect"] is not None and "depth" not in found
