"""The small set's own nets: shown the person's pictures, they draw each stage in one step; and what makes that sharp."""

from __future__ import annotations

import cv2
import numpy
import pytest

from pipelines import megaportrait
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.megaportrait import Request, Settings, parts, taught
from pipelines.megaportrait.intake import inspect
from pipelines.megaportrait.metrics import laplacian_variance
from pipelines.megaportrait.person import NONE_LARGE, gather, load, save
from pipelines.megaportrait.recipes import EXAMPLES
from pipelines.megaportrait.settings import DRAWN, HARMONISED, IDENTITY, LAID, PASTED, SHADED, modes_of
from pipelines.megaportrait.tools import with_tools

RECIPE = EXAMPLES[0]


@pytest.fixture(scope="module")
def registry():
    return Registry("cpu")


def run(registry, pictures=None, **changed):
    settings = Settings(**{"mode": DRAWN, "candidates": 1, **changed})
    given = RECIPE.pictures() if pictures is None else pictures
    request = Request(RECIPE.picture(), pictures=given, settings=settings, truth=RECIPE.truth(), rendered=True)
    return megaportrait.generate(Job(1e9), registry, request)


@pytest.fixture(scope="module")
def drawn(registry):
    return run(registry)


def test_every_stage_is_drawn_in_one_step_and_nothing_else_is_touched(drawn):
    assert drawn.steps == {IDENTITY: 1, SHADED: 1, HARMONISED: 1}
    assert [*drawn.best.stages][:3] == [IDENTITY, LAID, PASTED] and {SHADED, HARMONISED} <= set(drawn.best.stages)
    assert all(stage.shape == (256, 256, 3) for stage in drawn.best.stages.values())
    result, reference = numpy.asarray(drawn.best.result), drawn.analysis.picture
    assert (result[~drawn.best.changed] == reference[~drawn.best.changed]).all()
    keys = {model["key"] for model in drawn.models}
    assert {"mini-portraits/net", "mini-portraits/align", "mini-portraits/finish", "mini-sdxl2/unet"} <= keys
    assert not any("mini-controlnets" in key or key.startswith("mini-sdxl/unet") for key in keys)


def test_the_same_seed_draws_the_same_bytes(registry, drawn):
    assert run(registry).best.result.tobytes() == drawn.best.result.tobytes()


def test_it_is_nearer_to_the_truth_than_the_bare_paste_and_the_reference(registry, drawn):
    paste = run(registry, mode="preview").best.metrics["regions"]["core"]["psnr"]
    made, before = (drawn.best.metrics[name]["core"]["psnr"] for name in ("regions", "before"))
    assert made > paste + 2 and made > before + 2
    assert drawn.best.metrics["same_person"]


def test_without_the_person_s_pictures_it_is_nobody_and_without_the_shading_net_another_light(registry, drawn):
    nobody = run(registry, no_identity=True)
    assert nobody.best.identity < drawn.best.identity - 0.2 and LAID not in nobody.best.stages
    plain = run(registry, no_shading=True)
    assert SHADED not in plain.best.stages
    assert plain.best.metrics["shading_agreement"] < drawn.best.metrics["shading_agreement"]


def test_one_picture_of_a_person_is_enough(registry):
    assert run(registry, RECIPE.pictures(1)).best.identity is not None


def test_a_photograph_is_pasted_by_arithmetic_and_the_page_says_so(registry, monkeypatch):
    monkeypatch.setattr(taught.Taught, "_rendered", False)
    drawn = run(registry)
    assert drawn.steps == dict.fromkeys((IDENTITY, SHADED, HARMONISED), 0)
    assert (numpy.asarray(drawn.best.result) != drawn.analysis.picture).any()


@pytest.mark.parametrize("change", ["dark", "grey"])
def test_a_reference_of_other_levels_gets_no_halo(registry, change):
    reference = RECIPE.picture()
    if change == "dark":
        reference = (reference * 0.45).astype(numpy.uint8)
    else:
        reference = numpy.repeat(reference.mean(2, keepdims=True).round().astype(numpy.uint8), 3, 2)
    settings = Settings(mode=DRAWN, candidates=1)
    request = Request(reference, pictures=RECIPE.pictures(), settings=settings, rendered=True)
    made = megaportrait.generate(Job(1e9), registry, request).best
    result, rim = numpy.asarray(made.result).astype(float), made.changed.copy()
    rim[8:-8, 8:-8] &= ~cv2.erode(made.changed.astype(numpy.uint8), numpy.ones((9, 9)))[8:-8, 8:-8].astype(bool)
    assert numpy.abs(result - reference)[rim].mean() < 6, "where it begins to be painted it is the reference's still"


def test_the_full_set_has_no_such_mode():
    assert DRAWN in modes_of("mini") and DRAWN not in modes_of("full")
    with pytest.raises(ValueError, match="'drawn' is unknown: choose one of preview, instant, trained, single"):
        Settings(mode=DRAWN, model_set="full").validated()
    assert "net" in parts.specs("mini", DRAWN) and "net" not in parts.specs("mini", "instant")


def test_a_person_keeps_crops_as_large_as_the_nets_draw_and_older_files_are_read(registry, drawn, tmp_path):
    someone = gather(
        with_tools(registry, "mini", lambda tools: inspect(tools, RECIPE.pictures(), "mini")), "Ada", "mini"
    )
    assert someone.large.shape == (5, 256, 256, 3) and someone.crops.shape == (5, 128, 128, 3)
    crop, points = someone.crop(0, 256)
    assert crop.shape == (256, 256, 3) and numpy.allclose(points, 2 * someone.points[0])
    assert someone.crop(0, 160)[0].shape == (128, 128, 3), "a smaller square has no use for it"
    save(someone, tmp_path)
    assert (load(tmp_path, "Ada").large == someone.large).all()
    someone.large = NONE_LARGE
    save(someone, tmp_path)
    older = load(tmp_path, "Ada")
    assert not len(older.large) and older.crop(0, 256)[0].shape == (128, 128, 3)


def test_the_person_s_own_picture_is_laid_over_what_was_drawn(drawn):
    """It is as sharp as the truth where the drawing is soft, and lies where the person is in the result."""
    laid, soft, made = (drawn.best.stages[name] for name in (LAID, IDENTITY, SHADED))
    core = drawn.best.core
    assert laplacian_variance(laid, core) > 2 * laplacian_variance(soft, core)
    apart = numpy.abs(laid.astype(float) - made)[core].mean()
    moved = numpy.roll(laid, 12, 1).astype(float)
    assert apart < 0.6 * numpy.abs(moved - made)[core].mean(), "not somewhere else"


def test_what_was_drawn_softly_is_finished_and_not_worse(registry, drawn):
    soft = run(registry, detail=0.0).best
    assert drawn.best.metrics["sharpness_ratio"] > 1.5 * soft.metrics["sharpness_ratio"]
    assert drawn.best.metrics["regions"]["core"]["psnr"] > soft.metrics["regions"]["core"]["psnr"] - 0.5
