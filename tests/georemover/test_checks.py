"""What is said of a run, or why there is none: each sentence has its case."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from pipelines.core import depth as depth_maps
from pipelines.core import images, masks
from pipelines.core.lane import Job
from pipelines.core.registry import OutOfBudget, Registry
from pipelines.georemover import Request, checks, composite, generate
from pipelines.georemover.depth import panels_error
from pipelines.georemover.stages import Stages
from pipelines.models import flux
from tests.georemover.toys import FAST, one_sentence, refused
from tests.toys.pictures import photograph


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
    notes = generate(Job(), registry, dataclasses.replace(request_, mask=wide)).notes
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
    ramp = numpy.linspace(0.2, 0.8, 64, dtype=numpy.float32)
    assert checks.warn_flat_depth(ramp) is None and checks.warn_flat_depth(ramp * 20) is None


def test_depth_that_did_not_change_is_told(registry, request_, pair):
    given = dataclasses.replace(request_, depth_before=pair.depth, depth_after=pair.depth)
    told = [note for note in generate(Job(), registry, given).notes if note.startswith("The depth did not change here")]
    assert len(told) == 1 and one_sentence(told[0]) and "try depth assist" in told[0]
    assert checks.warn_unchanged_depth(pair.depth, pair.depth_clean, pair.mask) is None
    two = pair.mask | pair.others
    assert "in 1 of 2 masked areas" in (checks.warn_unchanged_depth(pair.depth, pair.depth_clean, two) or "")


def test_a_depth_result_off_the_palette_is_told(registry, request_):
    # the toy's stage 1 paints noise
    notes = generate(Job(), registry, request_).notes
    told = next(note for note in notes if "does not look like a depth map" in note)
    assert told.endswith("wrong LoRA or grey depth?")
    assert checks.warn_off_palette(3.8) is None and checks.warn_off_palette(None) is None


def test_panels_that_differ_from_the_maps_are_told(registry, request_, pair):
    notes = generate(Job(), registry, request_).notes
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
    error = OutOfBudget("The GPU ran out of memory", "gpu")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


def test_a_budget_that_cannot_suffice_keeps_its_own_advice():
    small = flux.FULL
    for told in (OutOfBudget("needs 3 GiB: raise LATENT_STUDIO_RAM_GIB", "ram"), OutOfBudget("needs 3 GiB", "gpu")):
        assert checks.out_of_memory("stage 2", small, "offload", told) is told
        said = str(checks.out_of_memory("stage 2", small, "bf16", told))
        assert ("choose the preset" in said) == (told.tier == "gpu"), "a smaller preset needs as much RAM"


def test_presets_that_cannot_run_are_not_proposed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    told = checks.out_of_memory("stage 2", flux.FULL, "bf16", no_memory())
    assert str(told) == "There is not enough GPU memory for stage 2: choose the preset offload."


def test_a_run_out_of_memory_says_where(registry, request_, monkeypatch: pytest.MonkeyPatch):
    def full(*_given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stages, "render", full)
    with pytest.raises(MemoryError, match="^There is not enough GPU memory for stage 2: make the picture smaller.$"):
        generate(Job(), registry, request_)


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
    outcome = generate(Job(), registry, asked)
    made, changed = numpy.asarray(outcome.composites[0]), outcome.changed[0]
    assert made.shape == pixels.shape and changed.any() and (made[~changed] == pixels[~changed]).all()
    assert (made[mask, 3] == 255).all() and (made[~masks.grow(mask, 8), 3] == pixels[~masks.grow(mask, 8), 3]).all()
    assert outcome.notes[0] == "A sentence about the file." and checks.TRANSPARENT in outcome.notes
    plain = generate(Job(), registry, dataclasses.replace(asked, layered=None, lost=()))
    assert plain.composites[0].mode == "RGB" and checks.TRANSPARENT not in plain.notes


def test_what_is_painted_small_is_told_and_follows_the_picture_s_look(registry, pair):
    """A black-and-white photograph stays one, also where it was painted."""
    grey = Image.fromarray(pair.image).convert("L").resize((768, 512))
    mask = numpy.asarray(Image.fromarray(pair.mask).resize((768, 512)))
    outcome = generate(Job(), registry, Request(images.open_picture(grey), mask, FAST))
    made = numpy.asarray(outcome.composites[0]).astype(int)
    assert (made.max(-1) == made.min(-1)).all() and outcome.changed[0].any()
    assert any("black and white" in note for note in outcome.notes)
    assert any("enlarged 4 times" in note for note in outcome.notes)
