"""Depth maps: files of every kind, the palette, the estimate at every size, assistance."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from transformers.models.dpt.image_processing_dpt import get_resize_output_image_size

from pipelines.core import depth as depth_maps
from pipelines.georemover import composite
from pipelines.georemover.depth import assisted, open_depth
from pipelines.georemover.stages import Stages
from pipelines.models import flux
from tests.toys import flux as toy_flux
from tests.toys.pictures import photograph, saved


def test_the_palette_there_and_back():
    depth = numpy.linspace(0, 1, 256, dtype=numpy.float32).reshape(16, 16)
    again, distance = depth_maps.from_colours(depth_maps.to_colours(depth))
    assert numpy.abs(again - depth).max() < 1e-6 and distance.max() == 0
    _same, off = depth_maps.from_colours(numpy.full((2, 2, 3), (0, 255, 0), numpy.uint8))
    assert off.min() > 100


INFERNO = [
    (0, 0, 3), (10, 7, 35), (32, 12, 74), (60, 9, 101), (87, 15, 109), (112, 25, 110), (137, 34, 105), (163, 43, 97),
    (187, 55, 84), (209, 70, 67), (228, 90, 49), (241, 114, 29), (249, 142, 8), (251, 172, 16), (248, 203, 52), (241, 233, 104),
]  # fmt: skip
"""matplotlib's colours of the levels 0, 16, 32 ..., as the authors write them: the fraction cut off."""


def test_the_colours_are_within_one_level_of_the_authors():
    assert numpy.abs(depth_maps.palette()[::16].astype(int) - INFERNO).max() == 1
    ramp = numpy.random.default_rng(0).random((64, 96)).astype(numpy.float32)
    ours, theirs = depth_maps.from_colours(depth_maps.to_colours(ramp))[0] * 255, numpy.floor(ramp * 255)
    nearer = ours.round() - theirs
    assert set(numpy.unique(nearer)) == {0, 1} and abs(nearer.mean() - 0.5) < 0.02


def test_what_stage_1_paints_off_the_palette_is_moved_to_it_before_stage_2():
    ramp = numpy.linspace(0, 1, 64 * 96, dtype=numpy.float32).reshape(64, 96)
    colours = depth_maps.to_colours(ramp)
    painted = (colours.astype(int) + numpy.random.default_rng(0).integers(-4, 5, colours.shape)).clip(0, 255)
    read, distance = depth_maps.from_colours(painted.astype(numpy.uint8))
    assert 3 < distance.mean() < 6, "about as far as the authors' released stage 1"
    assert numpy.abs(read - ramp).mean() < 0.01 and depth_maps.from_colours(depth_maps.to_colours(read))[1].max() == 0


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
