"""Masks: what files hold, grown, filled, measured, shown; and whether one misses part of the object."""

from __future__ import annotations

import io

import numpy
import pytest
from PIL import Image

from pipelines.core import masks
from pipelines.worlds import removal

SIZE = (60, 40)


def disc(size: tuple[int, int] = SIZE, centre: tuple[int, int] = (30, 20), radius: float = 10) -> numpy.ndarray:
    columns, rows = numpy.meshgrid(numpy.arange(size[0]), numpy.arange(size[1]))
    return (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2


def layer(mask: numpy.ndarray, alpha: int = 128) -> numpy.ndarray:
    pixels = numpy.zeros((*mask.shape, 4), numpy.uint8)
    pixels[mask] = (255, 0, 0, alpha)
    return pixels


def drawn(mask: numpy.ndarray, on: int = 255, off: int = 0, mode: str = "L") -> Image.Image:
    return Image.fromarray(numpy.where(mask, on, off).astype(numpy.uint8)).convert(mode)


# -------------------------------------------------------------------------------------------- sizes


def test_a_thin_stroke_survives_a_small_size():
    mask = numpy.zeros((3000, 4000), bool)
    mask[1000:1006, 500:3000] = True  # 6 of the 21 pixels that become one
    assert masks.resized(mask, (192, 144))[48, 30:140].all()


def test_resized_to_the_same_size_is_a_copy():
    mask = disc()
    again = masks.resized(mask, SIZE)
    assert numpy.array_equal(again, mask) and again is not mask


def test_enlarged_the_border_stays_where_it_was():
    mask = numpy.zeros((40, 60), bool)
    mask[:, :30] = True
    assert numpy.array_equal(masks.resized(mask, (600, 400)), numpy.arange(600)[None].repeat(400, 0) < 300)


# -------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "LA"])
def test_white_is_what_goes_and_with_the_switch_what_stays(mode):
    assert numpy.array_equal(masks.from_picture(drawn(disc(), mode=mode), SIZE), disc())
    assert numpy.array_equal(masks.from_picture(drawn(~disc(), mode=mode), SIZE, white_is_keep=True), disc())


def test_16_bit_masks_are_read():
    levels = numpy.where(disc(), 65535, 0)
    assert numpy.array_equal(masks.from_picture(Image.fromarray(levels.astype(numpy.uint16)), SIZE), disc())
    assert numpy.array_equal(masks.from_picture(Image.fromarray(levels.astype(numpy.int32)), SIZE), disc())


def test_a_mask_that_is_drawn_in_the_alpha_alone_is_read_there():
    pixels = layer(disc(), 255)
    assert numpy.array_equal(masks.from_picture(Image.fromarray(pixels), SIZE), disc())
    pixels[..., :3] = 0  # black strokes on nothing
    assert numpy.array_equal(masks.from_picture(Image.fromarray(pixels), SIZE), disc())


def test_transparent_pixels_are_no_part_of_a_mask():
    pixels = numpy.zeros((40, 60, 4), numpy.uint8)
    pixels[..., 3] = 255
    pixels[disc()] = 255
    pixels[:, :5] = (255, 255, 255, 0)
    assert numpy.array_equal(masks.from_picture(Image.fromarray(pixels), SIZE), disc())
    pixels[..., :3] = 255 - pixels[..., :3]
    assert numpy.array_equal(masks.from_picture(Image.fromarray(pixels), SIZE, white_is_keep=True), disc())


def test_exif_rotation_of_a_mask_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright = disc((40, 60), (12, 20), 8)
    data = io.BytesIO()
    Image.fromarray((numpy.rot90(upright) * 255).astype(numpy.uint8)).save(data, "PNG", exif=exif)
    assert numpy.array_equal(masks.from_picture(Image.open(data), (40, 60)), upright)


@pytest.mark.parametrize("size", [(40, 60), (60, 42), (600, 300), (61, 1)])
def test_a_mask_of_another_format_is_refused(size):
    with pytest.raises(
        ValueError, match=rf"mask is {size[0]} x {size[1]} pixels and the picture 60 x 40, .* another format"
    ):
        masks.from_picture(Image.new("L", size, 255), SIZE)
    masks.check_format("mask", (901, 600), (4000, 2667))  # rounding is no other format


def test_another_size_is_rescaled():
    mask = masks.from_picture(drawn(disc((120, 80), (60, 40), 20)), SIZE)
    assert mask.shape == SIZE[::-1] and (mask ^ disc()).sum() < 0.15 * disc().sum()


# -------------------------------------------------------------------------------------------- tools


def test_growing_by_nothing_changes_nothing():
    assert numpy.array_equal(masks.grow(disc(), 0), disc())
    assert not masks.grow(disc() & False, 5).any()


def test_grown_and_shrunk_discs_have_the_radius_that_they_should():
    grown, shrunk = masks.grow(disc(), 4), masks.grow(disc(), -4)
    assert (grown ^ disc(radius=14)).sum() <= 16 and (shrunk ^ disc(radius=6)).sum() <= 16
    assert not masks.grow(disc(), -20).any()
    point = disc(radius=0)
    assert numpy.array_equal(masks.grow(point, 1), disc(radius=1))


def test_a_full_mask_does_not_shrink_from_the_picture_s_edge():
    assert masks.grow(numpy.ones((10, 12), bool), -3).all()


def test_a_ring_becomes_a_disc():
    ring = disc() & ~disc(radius=7)
    assert numpy.array_equal(masks.fill_holes(ring), disc())
    assert numpy.array_equal(masks.fill_holes(disc()), disc())
    assert masks.area(disc()) == disc().mean()


def test_components_come_largest_first_and_without_specks():
    mask = disc(centre=(12, 20), radius=6) | disc(centre=(45, 20), radius=9)
    mask[0, 0] = True
    found = masks.components(mask, 5)
    assert [int(part.sum()) for part in found] == [int(disc(radius=9).sum()), int(disc(radius=6).sum())]
    assert len(masks.components(mask)) == 3 and masks.components(mask & False) == []


def test_the_overlay_tints_the_mask_and_nothing_else():
    picture = Image.new("RGB", SIZE, (0, 0, 200))
    shown = numpy.asarray(masks.overlay(picture, disc()))
    assert (shown[~disc()] == (0, 0, 200)).all() and (shown[disc()][:, 0] > 100).all()
    assert numpy.array_equal(numpy.asarray(picture)[0, 0], (0, 0, 200))
    assert masks.overlay(picture, disc((120, 80), (60, 40), 20)).size == SIZE


def test_a_box_finds_the_object_in_it():
    pair = removal.pair(removal.sample(38), 0)
    rows, columns = numpy.nonzero(pair.mask)
    box = (columns.min() - 3, rows.min() - 3, columns.max() + 4, rows.max() + 4)
    found = masks.around(pair.image, tuple(int(side) for side in box))
    assert (found & pair.mask).sum() / (found | pair.mask).sum() > 0.8
    assert numpy.array_equal(found, masks.around(pair.image, tuple(int(side) for side in box)))


@pytest.mark.parametrize("box", [(0, 0, 60, 40), (5, 5, 6, 30), (50, 30, 20, 10), (-9, -9, 99, 99)])
def test_a_box_that_says_nothing_is_refused(box):
    with pytest.raises(ValueError, match="draw it a little larger than the object"):
        masks.around(numpy.zeros((40, 60, 3), numpy.uint8), box)


# --------------------------------------------------------------------------------- misses a part


@pytest.fixture(scope="module")
def pairs() -> list[removal.Pair]:
    scenes = [removal.sample(seed) for seed in range(200, 206)]
    return [removal.pair(scene, seed % len(scene.solids)) for seed, scene in enumerate(scenes)]


def cut(mask: numpy.ndarray, share: float, axis: int) -> numpy.ndarray:
    """``mask`` without the first ``share`` of its extent."""
    extent = numpy.nonzero(mask.any(1 - axis))[0]
    until = extent[0] + int(len(extent) * share)
    left = mask.copy()
    left[(slice(until), slice(None))[:: 1 if axis == 0 else -1]] = False
    return left


def test_a_whole_mask_is_not_suspected(pairs):
    for grown in (0, 2, 5):
        assert not any(masks.touches_partly(pair.depth, masks.grow(pair.mask, grown), pair.image) for pair in pairs)
    assert not any(masks.touches_partly(pair.depth_clean, pair.mask, pair.clean) for pair in pairs)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_mask_that_misses_a_part_is(pairs, axis, share):
    found = [masks.touches_partly(p.depth, masks.grow(cut(p.mask, share, axis), 2), p.image) for p in pairs]
    assert numpy.mean(found) > 0.8


def test_nothing_drawn_and_everything_drawn_miss_nothing(pairs):
    pair, nothing = pairs[0], numpy.zeros_like(pairs[0].mask)
    assert not any(masks.touches_partly(pair.depth, mask, pair.image) for mask in (nothing, ~nothing))
