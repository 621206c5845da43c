"""The scenes to remove things from, and depth as colours."""

from dataclasses import replace

import numpy
import pytest
import torch

from pipelines.core import depth as depth_maps
from pipelines.worlds import removal, tabletop


def test_a_seed_is_a_scene_and_what_is_asked_for_is_kept():
    assert removal.sample(5) == removal.sample(5) != removal.sample(6)
    for seed in range(12):
        scene = removal.sample(seed, count=2, floor="marble", light="hard", mirror=True)
        assert (len(scene.solids), scene.floor) == (2, "marble")
        assert removal.LIGHTS["hard"][0] <= scene.light_softness <= removal.LIGHTS["hard"][1]
        assert removal.MIRROR[0] <= scene.mirror <= removal.MIRROR[1]
    free = [removal.sample(seed) for seed in range(60)]
    assert {len(s.solids) for s in free} == {1, 2, 3} and {s.floor for s in free} == set(tabletop.REFLECTIVITY)


@pytest.mark.parametrize(("wish", "named"), [({"floor": "lawn"}, "lawn"), ({"light": "disco"}, "disco")])
def test_what_is_not_known_is_refused(wish, named):
    with pytest.raises(ValueError, match=named):
        removal.sample(0, **wish)


def test_taking_a_solid_out_changes_nothing_but_it_its_shadow_and_its_mirror_image():
    pair = removal.pair(removal.sample(3, count=2, light="hard", mirror=True), 0)
    changed = numpy.abs(pair.image.astype(int) - pair.clean).max(-1)
    caused = pair.mask | pair.shadow | pair.reflection
    # The penumbra and the darker ground at a foot reach further than the masks, which are cut at 15 %.
    near = numpy.abs(changed)[~caused]
    assert changed[pair.mask].mean() > 40 and changed[pair.shadow & ~pair.mask].mean() > 15
    assert numpy.quantile(near, 0.9) <= 2 and near.max() < 60
    assert pair.image.shape == pair.clean.shape == (128, 192, 3) and not (pair.mask & pair.others).any()


def test_depth_knows_the_solid_but_neither_its_shadow_nor_its_mirror_image():
    pair = removal.pair(removal.sample(3, count=2, light="hard", mirror=True), 1)
    assert (pair.depth != pair.depth_clean)[pair.mask].mean() > 0.8
    assert numpy.array_equal(pair.depth[~pair.mask], pair.depth_clean[~pair.mask])
    assert 0 <= pair.depth.min() and pair.depth.max() <= 1


def test_a_floor_mirrors_as_told_and_other_scenes_are_as_they_were():
    scene = removal.sample(4, count=1, floor="marble", mirror=False)
    dull, shiny = (tabletop.render([replace(scene, mirror=m)], (64, 96), truth=True) for m in (0.0, 2.6))
    where = dull.reflections[0, 0] & ~dull.instances[0].any(0)
    difference = (dull.image - shiny.image).abs().amax(1)[0]
    assert difference[where].mean() > 0.03
    assert tabletop.sample(1).mirror == 1.0


def test_geometry_covers_every_pixel_that_a_solid_touches():
    scene = removal.sample(7, count=3)
    inverse, covered = tabletop.geometry([scene], (128, 192))
    truth = tabletop.render([scene], (128, 192), truth=True)
    assert (covered >= truth.instances).all() and covered.sum() < 1.4 * truth.instances.sum()
    inside = truth.instances.any(1, keepdim=True)
    same = torch.isclose(inverse, 1 / truth.depth, rtol=0.02)
    assert same[inside].float().mean() > 0.8


def test_depth_survives_the_palette_and_strange_colours_are_told():
    depth = numpy.linspace(0, 1, 192, dtype=numpy.float32)[None].repeat(4, 0)
    read, away = depth_maps.from_colours(depth_maps.to_colours(depth))
    assert numpy.abs(read - depth).max() <= 0.5 / 255 + 1e-6 and away.max() == 0
    grey = numpy.full((4, 4, 3), 128, numpy.uint8)
    assert depth_maps.from_colours(grey)[1].min() > 30
    colours = depth_maps.palette().astype(int)
    assert len(numpy.unique(colours, axis=0)) == 256 and (numpy.diff(colours.sum(1)) >= 0).all()


def test_both_maps_of_a_pair_share_one_scale():
    before, after = numpy.array([[2.0, 4.0], [6.0, 10.0]]), numpy.array([[2.0, 4.0], [6.0, 8.0]])
    assert depth_maps.normalised(after, before).tolist() == [[0.0, 0.25], [0.5, 0.75]]
    assert depth_maps.normalised(numpy.ones((2, 2))).tolist() == [[0.0, 0.0], [0.0, 0.0]]
