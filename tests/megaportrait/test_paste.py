"""The paste: what it leaves alone to the byte, geometry there and back, and light that moves without the person."""

from __future__ import annotations

import math

import cv2
import numpy
import pytest

from pipelines.core import geometry, masks
from pipelines.megaportrait import light, paste
from pipelines.models import control_maps
from pipelines.worlds import portrait as portraits

SIZE = (150, 120)  # width, height: never square
MARKS = numpy.array([(60.5, 45.5), (90.5, 45.5), (75.5, 60.5), (64.5, 75.5), (86.5, 75.5)])


def noise(size: tuple[int, int] = SIZE, seed: int = 0) -> numpy.ndarray:
    """A smooth picture with detail, no two rows alike."""
    levels = numpy.random.default_rng(seed).normal(0, 1, (size[1], size[0], 3))
    smooth = cv2.GaussianBlur(levels, (0, 0), 3)
    return numpy.clip(128 + 300 * smooth + 10 * levels, 0, 255).round().astype(numpy.uint8)


def ellipse(size: tuple[int, int], middle: tuple[float, float], radii: tuple[float, float]) -> numpy.ndarray:
    y, x = numpy.mgrid[: size[1], : size[0]]
    return ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 <= 1


CORE = ellipse(SIZE, (75, 58), (28, 36))


@pytest.fixture(scope="module")
def rendered():
    """Two persons in one shot, the second one's light from the other side in a second picture: pictures, masks, points (x, y)."""
    shot = portraits.sample_shot(3, yaw=0.0, pitch=0.0, roll=0.1, light_azimuth=-0.9, light_colour="cool")
    other = portraits.sample_shot(3, yaw=0.0, pitch=0.0, roll=0.1, light_azimuth=0.9, light_colour="warm")
    who = [portraits.sample_identity(seed, hair_style="short", beard=False, glasses=False) for seed in (1, 2)]
    shown = [portraits.Portrait(who[0], shot), portraits.Portrait(who[0], other), portraits.Portrait(who[1], other)]
    truth = portraits.render(shown, (120, 100), truth=True)
    pictures = (truth.image.permute(0, 2, 3, 1).numpy() * 255).round().astype(numpy.uint8)
    return pictures, truth.masks["face"].numpy(), truth.landmarks.numpy()[..., ::-1]


# --- does nothing when told to do nothing


@pytest.mark.parametrize("method", ["feather", "hard"])
def test_a_picture_pasted_onto_itself_is_itself(method):
    picture = noise()
    composite, alpha = paste.paste(picture, picture, CORE, method=method)
    assert numpy.array_equal(composite, picture) and alpha.max() == pytest.approx(1, abs=1e-6)
    again, _alpha = paste.paste(picture, picture, CORE, geometry.similarity(MARKS, MARKS), method)
    assert numpy.array_equal(again, picture)


@pytest.mark.parametrize(
    "mask",
    [
        CORE,
        ellipse(SIZE, (0, 0), (40, 30)),
        numpy.ones_like(CORE),
        ellipse(SIZE, (149, 60), (30, 90)),
        ellipse(SIZE, (75, 60), (0.5, 0.5)),
        ellipse(SIZE, (75, 60), (0.5, 40)),
        numpy.zeros_like(CORE),
    ],
    ids=["middle", "corner", "all", "right edge", "one pixel", "one column", "nothing"],
)
def test_poisson_of_a_picture_onto_itself_is_off_by_one_level_at_most(mask):
    picture, before = noise(), mask.copy()
    solved = paste.poisson(picture, picture, mask)
    assert numpy.abs(solved.astype(int) - picture).max() <= 1, "the solver cuts off instead of rounding"
    assert numpy.array_equal(solved[~mask], picture[~mask])
    assert numpy.array_equal(mask, before), "OpenCV writes into the mask it is given"


def test_amount_zero_and_an_empty_mask_leave_every_byte():
    face, reference = noise(), noise(seed=1)
    assert numpy.array_equal(light.shading_transfer(face, reference, CORE, 0), face)
    assert numpy.array_equal(light.shading_transfer(face, reference, numpy.zeros_like(CORE)), face)
    assert numpy.array_equal(paste.blend(face, reference, numpy.zeros(CORE.shape, numpy.float32)), reference)


def test_light_from_the_same_picture_changes_nothing():
    picture = noise()
    assert numpy.array_equal(light.shading_transfer(picture, picture, CORE, 1.0), picture)


@pytest.mark.parametrize("box", [(50, 30, 40, 50), (-15, -20, 40, 50), (130, 90, 40, 50)])
def test_an_untouched_square_comes_back_byte_for_byte(box):
    picture = noise()
    crop = geometry.crop_around(box, SIZE, side=None)
    back = paste.uncrop(picture, crop, crop.cut(picture), numpy.ones((crop.side,) * 2, numpy.float32))
    assert numpy.array_equal(back, picture)


# --- undoes


@pytest.mark.parametrize("roll", [0.0, 25.0, -70.0])
@pytest.mark.parametrize("side", [64, 300])
def test_points_go_into_the_square_and_back(side, roll):
    crop = geometry.crop_around((50.25, 30.5, 40, 50), SIZE, 2.2, side, roll)
    numpy.testing.assert_allclose(crop.back(crop.there(MARKS)), MARKS, atol=1e-9)
    assert crop.there([(70.25, 55.5)])[0] == pytest.approx((side / 2, side / 2)), "the box's middle is the square's"
    assert crop.scale == pytest.approx(side / (2.2 * 50))


def test_the_transform_is_found_and_its_inverse_leads_back():
    turn, scale = math.radians(20), 1.7
    matrix = numpy.array(
        [
            [scale * math.cos(turn), -scale * math.sin(turn), 12],
            [scale * math.sin(turn), scale * math.cos(turn), -7],
            [0, 0, 1],
        ]
    )
    there = geometry.moved(MARKS, matrix)
    numpy.testing.assert_allclose(geometry.similarity(MARKS, there), matrix, atol=1e-9)
    numpy.testing.assert_allclose(geometry.similarity(there, MARKS) @ matrix, numpy.eye(3), atol=1e-9)


def test_a_turned_square_enlarged_and_put_back_is_nearly_the_picture():
    picture = cv2.GaussianBlur(noise(), (0, 0), 2)
    crop = geometry.crop_around((50, 30, 40, 50), SIZE, 1.5, 300, 25.0)
    alpha = paste.feathered(ellipse((300, 300), (150, 150), (100, 120)))
    back = paste.uncrop(picture, crop, crop.cut(picture), alpha)
    assert numpy.abs(back.astype(int) - picture).max() <= 2
    assert numpy.array_equal(paste.uncrop(picture, crop, crop.cut(picture), 0 * alpha), picture)


# --- geometry


def test_roll_and_nose_of_hand_made_faces():
    assert geometry.roll_of(MARKS) == 0
    assert geometry.nose_between_eyes(MARKS) == pytest.approx(0.5)
    lower_right = MARKS.copy()
    lower_right[1, 1] += 30  # the right eye 30 down at 30 across
    assert geometry.roll_of(lower_right) == pytest.approx(45)
    turned = MARKS.copy()
    turned[2, 0] = 90.5
    assert geometry.nose_between_eyes(turned) == pytest.approx(1.0)
    turned[1] = turned[0]
    assert geometry.nose_between_eyes(turned) == math.inf


def test_the_square_of_a_tilted_head_is_upright():
    crop = geometry.crop_around((50, 30, 40, 50), SIZE, 2.2, 128, 0.0)
    turn = crop.matrix.copy()
    tilted = geometry.moved(MARKS, geometry.crop_around((50, 30, 40, 50), SIZE, 2.2, 128, -33.0).matrix)
    roll = geometry.roll_of(tilted)
    assert roll == pytest.approx(33)
    again = geometry.crop_around((20, 20, 80, 80), (128, 128), 1.5, 128, roll)
    assert geometry.roll_of(again.there(tilted)) == pytest.approx(0, abs=1e-9)
    assert numpy.array_equal(crop.matrix, turn)


def test_beyond_the_border_the_edge_is_repeated_and_known():
    picture = noise()
    crop = geometry.crop_around((-10, 40, 40, 40), SIZE, 2.0, None)
    square, inside = crop.cut(picture), crop.inside()
    assert crop.side == 80 and inside[:, 30:].all() and not inside[:, :30].any()
    assert numpy.array_equal(square[:, 30:], picture[20:100, :50])
    assert (square[:, :30] == square[:, 30:31]).all()


def test_a_large_photograph_is_cut_and_put_back_at_its_own_size():
    large = cv2.resize(noise(), (1500, 1200), interpolation=cv2.INTER_CUBIC)
    crop = geometry.crop_around((600, 400, 300, 360), (1500, 1200), side=128)
    square = crop.cut(large)
    assert square.shape == (128, 128, 3)
    direct = cv2.resize(large[184:976, 354:1146], (128, 128), interpolation=cv2.INTER_AREA)
    assert numpy.abs(square.astype(int) - direct).mean() < 2, "it is smoothed before it is reduced"
    alpha = paste.feathered(ellipse((128, 128), (64, 64), (30, 40)))
    back = paste.uncrop(large, crop, 255 - square, alpha)
    changed = (back != large).any(-1)
    middle = crop.back([(64, 64)])[0].round().astype(int)
    assert back.shape == large.shape and changed[middle[1], middle[0]]
    rows, columns = masks.box(changed)
    assert 500 < columns.start < columns.stop < 1000 and 270 < rows.start < rows.stop < 890


def test_points_of_one_face_land_on_the_other(rendered):
    pictures, faces, points = rendered
    moved = geometry.moved(points[2][:5], geometry.similarity(points[2], points[0]))
    width = paste.width_of(faces[0])
    assert numpy.linalg.norm(moved - points[0][:5], axis=1).mean() < 0.06 * width
    composite, alpha = paste.paste(pictures[2], pictures[0], faces[0], geometry.similarity(points[2], points[0]))
    assert numpy.array_equal(composite[alpha == 0], pictures[0][alpha == 0])
    assert (composite != pictures[0]).any(-1)[faces[0]].mean() > 0.8


def test_the_oval_of_points_and_of_a_box_covers_the_face(rendered):
    _pictures, faces, points = rendered
    oval = control_maps.face_oval((100, 120), points=points[0])
    assert (oval & faces[0]).sum() / (oval | faces[0]).sum() > 0.65
    astronaut = control_maps.face_oval((512, 512), (176, 67, 95, 95))
    drawn = ellipse((512, 512), (222, 115), (58, 72))
    assert (astronaut & drawn).sum() / (astronaut | drawn).sum() > 0.95
    turned = control_maps.face_oval((512, 512), (176, 67, 95, 95), roll=90)
    assert paste.width_of(turned) > 1.2 * paste.width_of(astronaut)


# --- masks


def test_the_ring_lies_on_the_cores_border():
    core = ellipse((300, 280), (150, 140), (50, 60))
    ring = paste.ring_of(core)
    assert ring[140, 150 - 50 - 17] and not ring[140, 150 - 50 - 20], "0.18 of 101 pixels outside"
    assert ring[140, 150 - 50 + 7] and not ring[140, 150 - 50 + 10], "0.08 of 101 pixels inside"
    assert not (ring & masks.grow(core, -9)).any()


def test_a_core_at_the_border_has_no_ring_along_it():
    core = numpy.zeros((60, 80), bool)
    core[:, :40] = True
    ring = paste.ring_of(core, 40)
    assert not ring[:, :30].any() and ring[:, 38:46].all()
    assert paste.feathered(core, 40)[:, 0].min() == pytest.approx(1), "the soft edge stays inside the picture"


def test_the_core_is_the_largest_part_without_holes():
    oval = CORE.copy()
    oval[50:55, 70:80] = False
    oval[0:3, 0:3] = True
    assert numpy.array_equal(paste.core_of(oval), CORE)
    with pytest.raises(ValueError, match="face mask is empty"):
        paste.core_of(numpy.zeros_like(CORE))


# --- pasting and stitching


@pytest.mark.parametrize("method", ["feather", "poisson", "hard"])
def test_outside_the_alpha_every_byte_is_the_references(method):
    face, reference = noise(), noise(seed=1)
    composite, alpha = paste.paste(face, reference, CORE, method=method)
    assert numpy.array_equal(composite[alpha == 0], reference[alpha == 0])
    assert not alpha[~masks.grow(CORE, 12)].any() and (composite != reference).any(-1)[CORE].mean() > 0.7


def test_a_face_that_ends_within_the_core_brings_nothing_of_its_repeated_edge():
    face, reference = noise((60, 60)), noise(seed=1)
    shift = numpy.array([[1.0, 0, 75], [0, 1, 30], [0, 0, 1]])  # its left edge in the middle of the core
    composite, alpha = paste.paste(face, reference, CORE, shift, method="hard")
    assert not alpha[:, :74].any() and numpy.array_equal(composite[:, :74], reference[:, :74])
    assert numpy.array_equal(composite[58, 80], face[28, 5])


def test_the_background_of_a_face_that_is_turned_away_is_not_brought_along(rendered):
    pictures, faces, points = rendered
    matrix = geometry.similarity(points[2], points[0])
    smaller = faces[2] & (numpy.arange(100) < 50)  # as if hair covered its right half
    _composite, alpha = paste.paste(pictures[2], pictures[0], faces[0], matrix, own=smaller, erode=0, feather=0)
    there = numpy.flatnonzero(alpha.any(0))
    line = geometry.moved([(50, 60)], matrix)[0, 0]
    assert abs(there.max() - line) < 8 and 0.2 < (alpha > 0).sum() / faces[0].sum() < 0.8
    _composite, whole = paste.paste(pictures[2], pictures[0], faces[0], matrix, erode=0, feather=0)
    assert numpy.array_equal(whole > 0, faces[0])


def test_stitch_leaves_the_reference_and_mixes_the_core_back():
    reference, pasted, result = (noise(seed=seed) for seed in (0, 1, 2))
    soft = paste.feathered(CORE | paste.ring_of(CORE), paste.width_of(CORE))
    done = paste.stitch(reference, pasted, result, soft, CORE, 0.25)
    assert numpy.array_equal(done[soft == 0], reference[soft == 0])
    expected = 0.25 * pasted[58, 75].astype(float) + 0.75 * result[58, 75]
    assert numpy.abs(done[58, 75] - expected).max() <= 1
    kept = paste.stitch(reference, pasted, result, soft, CORE, 1.0)
    assert numpy.array_equal(kept[58, 75], pasted[58, 75])
    assert numpy.array_equal(paste.stitch(reference, pasted, result, soft)[58, 75], result[58, 75])


# --- the seam


def test_the_seam_goes_and_what_is_around_the_ring_stays():
    """Between two plain pictures nothing is left but a ramp over the whole ring, as Laplace's equation has it."""
    face, reference = (numpy.full((120, 150, 3), level, numpy.uint8) for level in (200, 100))
    composite, alpha = paste.paste(face, reference, CORE, method="hard")
    ring = paste.ring_of(CORE)
    done = paste.without_seam(composite, face, reference, alpha, ring)
    assert numpy.array_equal(done[~ring], composite[~ring])

    def steepest(picture):
        return numpy.abs(numpy.diff(picture[58, :, 0].astype(int))).max()

    across = numpy.flatnonzero(ring[58, :75]).size
    assert steepest(composite) == 100
    assert steepest(done) <= 100 / across * 1.5 + 1
    line = done[58, :75, 0].astype(int)
    assert (numpy.diff(line) >= 0).all() and line[0] == 100 and line[-1] == 200


def test_without_a_seam_nothing_moves_and_texture_stays():
    reference, ring = noise(), paste.ring_of(CORE)
    alpha = paste.feathered(CORE)
    assert numpy.array_equal(paste.without_seam(reference, reference, reference, alpha, ring), reference)
    # The same picture in another tone: the tone becomes a ramp, and the grain of both is still there.
    lighter = numpy.clip(reference.astype(int) * 0.7 + 70, 0, 255).astype(numpy.uint8)
    composite, alpha = paste.paste(lighter, reference, CORE)
    done = paste.without_seam(composite, lighter, reference, alpha, ring)

    def grain(picture):
        levels = picture.astype(numpy.float32)
        return (levels - cv2.GaussianBlur(levels, (0, 0), 2))[ring]

    found = numpy.corrcoef(grain(done).ravel(), grain(composite).ravel())[0, 1]
    assert found > 0.99 and 0.7 < grain(done).std() / grain(reference).std() < 1.02


def test_a_ring_at_the_border_or_none_at_all():
    face, reference = noise(seed=1), noise(seed=2)
    core = ellipse(SIZE, (10, 58), (28, 36))
    composite, alpha = paste.paste(face, reference, core)
    ring = paste.ring_of(core)
    assert ring[:, 0].any()
    done = paste.without_seam(composite, face, reference, alpha, ring)
    assert numpy.array_equal(done[~ring], composite[~ring]) and (done != composite).any()
    for empty_or_full in (numpy.zeros_like(ring), numpy.ones_like(ring)):
        kept = paste.without_seam(composite, face, reference, alpha, empty_or_full)
        assert numpy.array_equal(kept, composite)
    with pytest.raises(ValueError, match="one size"):
        paste.without_seam(composite, face, reference, alpha[1:], ring)


def test_only_the_smooth_part_of_a_change_is_taken():
    before, where = noise(), CORE
    grain = numpy.random.default_rng(5).normal(0, 12, before.shape)
    after = numpy.clip(before + 20 + grain, 0, 255).astype(numpy.uint8)
    taken = paste.smoothly_changed(before, after, where, 4.0).astype(int) - before
    inside, outside = masks.grow(where, -12), ~masks.grow(where, 16)
    assert abs(taken[inside].mean() - 20) < 2 and taken[inside].std() < 3
    assert not taken[outside].any()
    assert paste.smoothly_changed(before, after, where, 0.0) is after


# --- light


def test_light_moves_and_the_person_stays(rendered):
    pictures, faces, _points = rendered
    left, right = pictures[0], pictures[1]
    core = paste.core_of(faces[0])
    moved = light.shading_transfer(right, left, core, 1.0)

    def apart(one, other):
        return numpy.abs(light.lab_of(one) - light.lab_of(other))[core].mean()

    assert apart(moved, left) < 0.45 * apart(right, left), "the same person: the truth is the reference itself"
    half = light.shading_transfer(right, left, core, 0.5)
    assert apart(moved, left) < apart(half, left) < apart(right, left)
    far = ~masks.grow(core, round(0.19 * paste.width_of(core)) + 1)
    assert numpy.array_equal(moved[far], right[far])


def test_a_uniform_cast_goes_and_excluded_lips_keep_their_colour():
    reference = noise()
    lab = light.lab_of(reference) + numpy.float32([4, 6, -8])
    cast = numpy.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255, 0, 255).round().astype(numpy.uint8)
    lips = ellipse(SIZE, (75, 75), (10, 5))
    plain = light.shading_transfer(cast, reference, CORE, 1.0)
    careful = light.shading_transfer(cast, reference, CORE, 1.0, lips)
    off = [numpy.abs(light.lab_of(one) - light.lab_of(reference)) for one in (cast, plain, careful)]
    assert off[0][CORE].mean() > 5 and off[1][CORE].mean() < 0.6
    assert off[1][lips][:, 1:].mean() < 1 and off[2][lips][:, 1:].mean() > 5, "lips keep a and b"
    assert off[2][CORE & ~masks.grow(lips, 6)].mean() < 0.6


# --- control pictures


@pytest.mark.parametrize("size", [(128, 128), (100, 75)])
def test_control_pictures_have_the_pictures_own_size(size):
    picture = noise(size)
    for made in (
        control_maps.canny_map(picture),
        control_maps.line_map(picture),
        control_maps.shading_map(picture, 40),
        control_maps.colour_map(picture),
        control_maps.landmark_picture(size, MARKS * 0.7),
    ):
        assert made.shape == picture.shape and made.dtype == numpy.uint8 and made.max() > made.min()


def test_a_plain_picture_has_no_lines_and_keeps_its_light_and_colour():
    plain = numpy.full((70, 90, 3), (200, 120, 40), numpy.uint8)
    assert not control_maps.canny_map(plain).any() and not control_maps.line_map(plain).any()
    assert numpy.array_equal(control_maps.colour_map(plain), plain)
    grey = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)
    assert numpy.array_equal(control_maps.shading_map(plain, 40), numpy.repeat(grey[..., None], 3, 2))


def test_landmarks_are_drawn_where_they_are(rendered):
    _pictures, faces, points = rendered
    drawn = control_maps.landmark_picture((100, 120), points[0], faces[0])
    assert not drawn[5, 5].any()
    for (x, y), colour in zip(
        points[0][:5], ((255, 0, 0), (0, 255, 0), (255, 255, 0), (255, 0, 255), (0, 255, 255)), strict=True
    ):
        assert tuple(drawn[math.floor(y), math.floor(x)]) == colour
    assert (drawn == (255, 255, 255)).all(-1).sum() > 60


# --- fails well


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: geometry.similarity(MARKS[:4], MARKS), r"shape \(4, 2\) came and \(5, 2\)"),
        (lambda: geometry.similarity(MARKS * math.nan, MARKS), "not a number"),
        (lambda: geometry.similarity(MARKS, [(5, 5)] * 5), "lie within 1 pixel"),
        (lambda: geometry.similarity(MARKS, MARKS * (-1, 1)), "mirrored"),
        (lambda: geometry.crop_around((10, 10, 0, 20), SIZE), "has no area"),
        (lambda: geometry.crop_around((10, math.nan, 10, 20), SIZE), "has no area"),
        (lambda: geometry.crop_around((150, 10, 30, 20), SIZE), "outside the picture of 150 x 120"),
        (lambda: geometry.crop_around((10, 10, 30, 20), SIZE, 0.5), "0.5 times the face"),
        (lambda: geometry.crop_around((10, 10, 30, 20), SIZE, side=4), "at 4 pixels"),
        (
            lambda: geometry.crop_around((10, 10, 30, 20), SIZE).cut(noise((120, 150))),
            "120 x 150 and the crop was made for 150 x 120",
        ),
        (lambda: control_maps.face_oval(SIZE), "neither a box nor points"),
        (lambda: paste.paste(noise(), noise(), CORE, method="glue"), "'glue': choose from"),
        (lambda: paste.paste(noise(), noise((90, 90)), CORE), "90 x 90, 150 x 120 came"),
        (lambda: paste.paste(noise(), noise(), numpy.zeros_like(CORE)), "Nothing of the face"),
        (lambda: paste.paste(noise(), noise(), CORE, own=CORE[:90]), "150 x 120, 150 x 90 came"),
        (lambda: paste.paste(noise((80, 90)), noise(), CORE), "150 x 120, 80 x 90 came"),
        (lambda: light.shading_transfer(noise(), noise(), CORE, 1.5), "shading transfer is 1.5"),
        (lambda: paste.stitch(noise(), noise(), noise(), CORE.astype(numpy.float32), CORE, -1), "share is -1"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
