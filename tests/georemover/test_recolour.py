"""The network that recolours the original: what it begins with, what it is asked for, and what the composite makes of its answer."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch
from PIL import Image

from assets.georemover import evaluate
from assets.mini_flux import recolour as teaching
from pipelines.core import masks
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT
from pipelines.georemover import Settings, composite, metrics, recolour
from pipelines.georemover.stages import Stages
from pipelines.models import flux

trained = pytest.mark.skipif(not (ROOT / flux.FOLDER / flux.RECOLOUR).exists(), reason="the network is not trained yet")


def pictures(shape: tuple[int, int], seed: int = 0) -> list[numpy.ndarray]:
    """Original, render, round trip: noise, so that a slip in a row or a channel shows."""
    rng = numpy.random.default_rng(seed)
    return [rng.integers(40, 200, (*shape, 3), dtype=numpy.uint8) for _ in range(3)]


@pytest.mark.parametrize("shape", [(128, 192), (190, 130), (17, 33)])
def test_untaught_it_gives_the_lost_texture_back(shape):
    picture, render, through = pictures(shape)
    slope, offset = recolour.factors(recolour.network((8, 8)).eval(), picture, render, through)
    assert slope.shape == offset.shape == picture.shape
    wanted = render + composite.texture_weight(render, through)[..., None] * (picture.astype(float) - through)
    assert numpy.abs(composite.recoloured(picture, slope, offset) - wanted.clip(0, 255)).max() < 0.01


def test_texture_belongs_where_the_change_has_no_edge():
    through = numpy.full((32, 48, 3), 100, numpy.uint8)
    render = through.copy()
    render[:, 24:] = 160
    weight = composite.texture_weight(render, through)
    assert weight[:, 23:25].max() < 1e-6 and weight[:, :16].min() == weight[:, 32:].min() == 1
    assert (composite.texture_weight(through, through) == 1).all()


def test_its_answer_is_added_pixel_by_pixel_and_cell_by_cell():
    unet = recolour.network((8, 8)).eval()
    with torch.no_grad():
        # The last layer's bias alone speaks: channel c of pixel (row, column) of a cell has number 4 c + 2 row + column.
        unet.conv_out.bias.copy_(torch.arange(24) / 100)
    given = [torch.full((1, 3, 4, 6), 0.5)] * 3 + [torch.ones(1, 1, 4, 6)]
    slope, offset = recolour.predicted(unet, *given)
    assert slope[0, 1, :2, :2].flatten().tolist() == pytest.approx([0.04, 0.05, 0.06, 0.07])
    assert offset[0, 2, 2:, 4:].flatten().tolist() == pytest.approx([0.20, 0.21, 0.22, 0.23])


def test_the_loss_is_the_share_that_is_left():
    picture, wanted = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.5)
    wanted[..., :4] = 0.9
    outside = torch.ones(1, 1, 8, 8)
    effect = 0.4 / 2
    assert teaching.loss_of(wanted, picture, wanted, outside) == 0
    left = teaching.loss_of(picture, picture, wanted, outside).item()
    assert left == pytest.approx(effect / (effect + teaching.LEAST_EFFECT), rel=1e-4)
    # What should have stayed counts a fifth; the object itself not at all.
    off = wanted.clone()
    off[..., 4:] += 0.4
    wrong = teaching.loss_of(off, picture, wanted, outside).item()
    assert wrong == pytest.approx(teaching.ELSEWHERE * left, rel=1e-4)
    outside[..., 4:] = 0
    assert teaching.loss_of(off, picture, wanted, outside) == 0


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_composite_recolours_the_original_and_keeps_its_texture(factor):
    rng = numpy.random.default_rng(1)
    small = numpy.full((64, 96, 3), 120, numpy.uint8)
    small[24:44, 40:70] = 60  # a shadow
    mask = numpy.zeros((64, 96), bool)
    mask[24:44, 24:40] = True
    clean = numpy.full_like(small, 120)
    large = small.repeat(factor, 0).repeat(factor, 1).astype(float)
    grain = rng.normal(0, 4, large.shape[:2])[..., None]
    original = (large + grain).clip(0, 255).astype(numpy.uint8)
    seen = original if factor == 1 else small
    shadow = (small[..., :1] == 60).astype(numpy.float32).repeat(3, -1)
    light = shadow, -3 * shadow
    made, changed = composite.compose(
        Image.fromarray(original), clean, seen, mask, dataclasses.replace(Settings(), grow=0, feather=1), small, light
    )
    made = numpy.asarray(made)
    inner = numpy.s_[28 * factor : 40 * factor, 46 * factor : 64 * factor]
    assert changed[inner].all()
    assert numpy.abs(made[inner].astype(float) - (2.0 * original[inner] - 3)).max() <= 1
    assert (made[~changed] == original[~changed]).all()
    middle = numpy.s_[30 * factor : 38 * factor, 29 * factor : 35 * factor]
    assert numpy.abs(made[middle].astype(float) - 120).max() <= 1  # in the mask the render is pasted


@trained
def test_it_follows_the_render_and_removes_nothing_on_its_own():
    """On unseen scenes: with the truth as the render little is left; where the render removes nothing, everything stays."""
    base = flux.BASES["mini"]
    with Registry("cpu").lease(*base.parts) as parts:
        model = Stages(base, **flux.by_part(parts))
        assert model.recolouring is not None
        alone, guided, plain = [], [], []
        for number in range(6):
            pair = evaluate.case("validation", 100 + number, scale=1)
            effect = metrics.effect_area(pair.image, pair.clean, pair.mask)
            if not metrics.defined(effect):
                continue
            through = model.through_vae(pair.image)
            settings = Settings.of("mini")
            mask = masks.grow(pair.mask, settings.grow)
            rendered = model.render(pair.image, pair.depth_clean, pair.depth, settings).result

            def left(
                render: numpy.ndarray, with_net: bool, pair=pair, through=through, mask=mask, effect=effect
            ) -> float:
                light = model.light(pair.image, render, through) if with_net else None
                image = Image.fromarray(pair.image)
                made, _ = composite.compose(image, render, pair.image, mask, Settings.of("mini"), through, light)
                found = metrics.residual_effect(pair.image, numpy.asarray(made), pair.clean, pair.mask, effect)
                assert found is not None
                return found

            light = model.light(pair.image, through, through)
            assert light is not None
            same = composite.recoloured(pair.image, *light).round().astype(numpy.uint8)
            alone.append(metrics.residual_effect(pair.image, same, pair.clean, pair.mask, effect))
            guided.append(left(rendered, True))
            plain.append(left(rendered, False))
    assert len(alone) >= 4
    assert numpy.mean(alone) > 0.9
    assert numpy.mean(guided) < numpy.mean(plain)


def test_a_model_set_without_the_network_has_no_light():
    base = flux.BASES["mini"]
    with Registry("cpu").lease(*base.parts[: len(flux.PARTS)]) as parts:
        model = Stages(base, **flux.by_part(parts))
        picture, render, through = pictures((128, 192))
        assert model.recolouring is None and model.light(picture, render, through) is None
