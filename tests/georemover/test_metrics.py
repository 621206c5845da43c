"""The measures of a removal: the table of a synthetic pair, "not defined" instead of a perfect zero, and rendered truth."""

from __future__ import annotations

import json

import cv2
import numpy
import pytest

from pipelines.core import masks, scores
from pipelines.georemover import metrics
from pipelines.worlds import removal

WIDTH, HEIGHT = 960, 540


def shadow_pair(size: tuple[int, int] = (WIDTH, HEIGHT)):
    """A clean picture; the same with a soft elliptic shadow (45 % darker) and a red object; the object's mask; the shadow's weight."""
    width, height = size
    scale = width / WIDTH
    rows, columns = numpy.mgrid[:height, :width] / scale
    clean = 70 + 50 * (rows / HEIGHT)[..., None] + 20 * numpy.sin(columns / 40)[..., None] * (1, 0.7, 0.4)
    ellipse = (((columns - 620) / 120) ** 2 + ((rows - 500) / 22) ** 2 <= 1).astype(numpy.float64)
    weight = cv2.GaussianBlur(ellipse, (0, 0), 6 * scale)[..., None]
    mask = (rows >= 380) & (rows < 490) & (columns >= 640) & (columns < 700)
    image = clean * (1 - 0.45 * weight)
    image[mask] = (200, 30, 30)
    return _levels(image), _levels(clean), mask, weight


def _levels(picture: numpy.ndarray) -> numpy.ndarray:
    return numpy.clip(picture, 0, 255).round().astype(numpy.uint8)


def outputs(size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict[str, numpy.ndarray]:
    image, clean, mask, weight = shadow_pair(size)
    noise = numpy.random.default_rng(0).normal(0, 2, clean.shape)
    return {
        "mask only": numpy.where(mask[..., None], clean, image),
        "half": _levels(numpy.where(mask[..., None], clean, clean * (1 - 0.225 * weight))),
        "perfect": clean,
        "noisy": _levels(clean + noise),
    }


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (192, 108)])
def test_the_table_of_the_synthetic_pair(size):
    image, clean, mask, _weight = shadow_pair(size)
    rows = {name: metrics.against_truth(image, made, clean, mask) for name, made in outputs(size).items()}
    residual = {name: row["residual_effect"] for name, row in rows.items()}
    assert residual["mask only"] == 1.0 and residual["perfect"] == 0.0
    assert residual["half"] == pytest.approx(0.5, abs=0.03)
    assert 0.02 < residual["noisy"] < 0.12, "the floor that noise of two levels sets"
    overlap = {name: row["change_iou"] for name, row in rows.items()}
    assert overlap["mask only"] == 0 and overlap["perfect"] == 1
    assert 0.6 < overlap["half"] < 0.95 and overlap["noisy"] > 0.9
    assert all(row["over_erasure"] < 0.001 for row in rows.values())
    assert rows["perfect"]["regions"]["whole"] == {"psnr": scores.PERFECT, "ssim": pytest.approx(1)}
    assert rows["mask only"]["regions"]["mask"]["psnr"] == scores.PERFECT
    assert rows["mask only"]["regions"]["effect"]["psnr"] < rows["half"]["regions"]["effect"]["psnr"] < 100
    assert rows["noisy"]["regions"]["rest"]["psnr"] == pytest.approx(42, abs=0.5)


def test_worse_than_untouched_is_above_1():
    image, clean, mask, weight = shadow_pair()
    darker = _levels(clean * (1 - 0.9 * weight))
    assert metrics.residual_effect(image, darker, clean, mask) > 1.5


def test_a_pair_without_an_effect_is_not_defined_and_never_perfect():
    image, clean, mask, _weight = shadow_pair()
    without_shadow = numpy.where(mask[..., None], image, clean)
    for result in (without_shadow, clean):
        found = metrics.against_truth(without_shadow, result, clean, mask)
        assert found["residual_effect"] is None and found["change_iou"] is None
        assert found["regions"]["effect"] == {"psnr": None, "ssim": None}
        assert found["over_erasure"] == 0.0 and found["regions"]["rest"]["psnr"] == scores.PERFECT


def test_an_effect_of_a_few_pixels_is_not_defined():
    image, clean, mask, _weight = shadow_pair()
    speck = numpy.where(mask[..., None], image, clean)
    speck[100:107, 100:107] = 255
    assert metrics.effect_area(speck, clean, mask).sum() >= 64
    assert metrics.residual_effect(speck, clean, clean, mask) is None
    speck[100:120, 100:120] = 255
    assert metrics.residual_effect(speck, clean, clean, mask) == 0.0


def test_what_has_nothing_to_do_with_the_object_is_over_erased():
    image, clean, mask, _weight = shadow_pair()
    result = clean.copy()
    result[50:150, 100:300] += 40
    share = metrics.over_erasure(image, result, clean, mask)
    rest = ~metrics.near(mask) & ~metrics.effect_area(image, clean, mask)
    assert share == pytest.approx(100 * 200 / rest.sum(), rel=0.07)  # the blur takes its rim
    assert metrics.residual_effect(image, result, clean, mask) == 0.0


def test_everything_is_json():
    image, clean, mask, _weight = shadow_pair((192, 108))
    depth = numpy.zeros(mask.shape, numpy.float32)
    found = metrics.against_truth(image, clean, clean, mask, depth, depth)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    checks = metrics.self_checks(image, clean, mask, depth, depth + 0.5, 3.5, 0.01)
    assert json.loads(json.dumps(checks, allow_nan=False)) == checks


def test_the_whole_picture_as_mask_leaves_no_rest():
    image, clean, mask, _weight = shadow_pair((192, 108))
    found = metrics.against_truth(image, clean, clean, numpy.ones_like(mask))
    assert found["regions"]["rest"] == {"psnr": None, "ssim": None} and found["over_erasure"] == 0.0
    assert metrics.self_checks(image, clean, numpy.ones_like(mask))["changed_outside"] == 0.0


def test_self_checks_tell_inside_from_outside():
    image, clean, mask, _weight = shadow_pair((192, 108))
    before = numpy.zeros(mask.shape, numpy.float32)
    checks = metrics.self_checks(image, clean, mask, before, numpy.where(mask, 0.3, 0.0), 4.0, 0.02)
    assert checks["depth_change_inside"] == pytest.approx(0.3) and checks["depth_change_outside"] == 0.0
    assert 0.01 < checks["changed_outside"] < 0.2 and checks["off_palette"] == 4.0 and checks["panels"] == 0.02
    untouched = metrics.self_checks(image, image, mask)
    assert untouched["changed_outside"] == 0.0 and untouched["depth_change_inside"] is None


def test_a_new_structure_in_the_mask_is_seen_and_a_speck_is_not():
    mask = numpy.zeros((128, 192), bool)
    mask[40:80, 60:100] = True
    flat = numpy.full(mask.shape, 0.4, numpy.float32)
    assert not metrics.inserted(flat, flat, mask)
    assert not metrics.inserted(flat + 0.07, flat, mask)
    new = flat.copy()
    new[50:60, 70:75] += 0.2  # 50 pixels of 1600
    assert metrics.inserted(new, flat, mask)
    speck = flat.copy()
    speck[50:53, 70:73] += 0.2
    assert not metrics.inserted(speck, flat, mask)
    outside = flat.copy()
    outside[5:30, 5:30] += 0.2
    assert not metrics.inserted(outside, flat, mask)


def test_rendered_truth_has_an_effect_where_the_renderer_says():
    pair = removal.pair(removal.sample(38), 0)
    effect = metrics.effect_area(pair.image, pair.clean, pair.mask)
    told = (pair.shadow | pair.reflection) & ~pair.mask
    assert metrics.defined(effect) and (effect & masks.grow(told, 1)).sum() / effect.sum() > 0.95
    filled = numpy.where(pair.mask[..., None], pair.clean, pair.image)
    assert metrics.residual_effect(pair.image, filled, pair.clean, pair.mask) == 1.0
    assert metrics.residual_effect(pair.image, pair.clean, pair.clean, pair.mask) == 0.0
    assert metrics.over_erasure(pair.image, pair.clean, pair.clean, pair.mask) < 0.002


def test_the_worst_place_finds_a_ghost_that_the_mean_does_not():
    """Nothing, noise and a thin line are no ghost; a pale patch is, with its direction, although hardly anything is left on the whole."""
    image, clean, mask, _weight = shadow_pair()
    area = metrics.effect_area(image, clean, mask) | metrics.near(mask)
    rows, columns = numpy.mgrid[:HEIGHT, :WIDTH]
    patch = (numpy.hypot(rows - 430, columns - 670) < 30)[..., None]
    line = (rows == 500)[..., None]
    made = {
        "equal": clean,
        "noise": outputs()["noisy"],
        "line": _levels(clean + 30 * line),
        "lighter": _levels(clean + 12.0 * patch),
        "darker": _levels(clean - 12.0 * patch),
    }
    worst = {name: metrics.worst_place(one, clean, area) for name, one in made.items()}
    assert worst["equal"] == {"difference": 0.0, "lightness": 0.0, "share": 0.0}
    assert all(worst[name]["difference"] < metrics.SEEN for name in ("noise", "line"))
    for name, sign in (("lighter", 1), ("darker", -1)):
        found = metrics.against_truth(image, made[name], clean, mask)
        assert found["residual_effect"] < 0.05 and found["worst"] == worst[name]
        assert (
            worst[name]["difference"] > 3 and sign * worst[name]["lightness"] > 3 and 0.02 < worst[name]["share"] < 0.3
        )
    assert metrics.worst_place(clean, clean, numpy.zeros_like(mask)) is None
