"""The result in the original: the object, its shadow and its reflection go, and no other pixel."""

from __future__ import annotations

import dataclasses

import cv2
import numpy
import pytest
from PIL import Image

from pipelines import georemover
from pipelines.core import masks
from pipelines.georemover import Recipe, Settings, composite, metrics
from pipelines.worlds import removal
from tests.georemover.toys import FAST


def scene_at(size: tuple[int, int], recipe: Recipe):
    """An example rendered at another size: with, without, mask."""
    pair = removal.pair(recipe.scene(), recipe.index, size[::-1])
    return pair.image, pair.clean, pair.mask


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
    image, clean, mask = scene_at(size, georemover.EXAMPLES[example])
    factor = size[0] // 192
    small, small_clean = (composite.at_size(Image.fromarray(p), (192, 128)) for p in (image, clean))
    made, changed = composite.compose(
        Image.fromarray(image), noisy(small_clean, 0), small, masks.grow(mask, 2 * factor), Settings(), noisy(small, 1)
    )
    out = numpy.asarray(made)
    assert out[~changed].tobytes() == image[~changed].tobytes() and changed.mean() < 0.4
    found = metrics.against_truth(image, out, clean, mask)
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
    wavy = metrics.difference(result, pair.image) > composite.CHANGE_SEED
    assert known.mean() < 0.2 and wavy.mean() > 0.2
    assert effect.mean() < known.mean() + 0.1 < wavy.mean()


def test_without_growth_the_object_s_edge_does_not_come_back(pair):
    settings = dataclasses.replace(FAST, grow=0, feather=6)
    made, _changed = composite.compose(Image.fromarray(pair.image), pair.clean, pair.image, pair.mask, settings)
    assert numpy.array_equal(numpy.asarray(made)[pair.mask], pair.clean[pair.mask])


def test_an_enlarged_change_has_the_edges_of_the_picture():
    """A shadow of a quarter of the width: light that was found in a small picture is blurred there, and its edge is in the large one."""
    factor, size = 4, 192
    rng = numpy.random.default_rng(0)
    clean = numpy.full((size, size, 3), 150.0) + rng.normal(0, 3, (size, size, 1))
    shade = numpy.ones((size, size, 1))
    shade[60:130, 70:150] = 0.6
    dark = (clean * shade).clip(0, 255).round().astype(numpy.uint8)
    light = cv2.resize((1 / shade - 1)[..., 0], (size // factor,) * 2, interpolation=cv2.INTER_AREA)
    slope = cv2.resize(light, (size, size), interpolation=cv2.INTER_CUBIC)[..., None].repeat(3, -1)
    off = [
        float(numpy.abs(dark + found * dark - clean)[50:140, 60:160].mean())
        for found in (slope, composite.along_edges(slope, dark, round(composite.EDGES * factor)))
    ]
    assert off[1] < 0.8 * off[0], off
