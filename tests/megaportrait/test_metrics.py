"""The measures of a swapped portrait: the recoloured face of a photograph, "not defined" instead of perfect, hand-made errors."""

from __future__ import annotations

import json
import math

import cv2
import numpy
import pytest
from skimage import data

from pipelines.core import geometry, masks
from pipelines.core.scores import PERFECT
from pipelines.megaportrait import light, metrics, paste
from pipelines.worlds import portrait as portraits


def ellipse(size: tuple[int, int], middle: tuple[float, float], radii: tuple[float, float]) -> numpy.ndarray:
    y, x = numpy.mgrid[: size[1], : size[0]]
    return ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 <= 1


@pytest.fixture(scope="module")
def portrait():
    """A photograph of 300 x 250 and the oval of its face, 116 pixels wide."""
    picture = data.astronaut()[:250, 90:390].copy()
    return picture, ellipse((300, 250), (222 - 90, 115), (58, 72))


@pytest.fixture(scope="module")
def pasted(portrait):
    """The face with L x 1.12 + 12, a + 8, b - 10 put back in several ways."""
    picture, core = portrait
    lab = light.lab_of(picture) * numpy.float32([1.12, 1, 1]) + numpy.float32([12, 8, -10])
    face = numpy.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255, 0, 255).round().astype(numpy.uint8)
    lit = light.shading_transfer(face, picture, core, 1.0)
    soft = {"erode": 0.0, "feather": 8 / 116}
    return {
        "hard": paste.paste(face, picture, core, method="hard")[0],
        "feather": paste.paste(face, picture, core, **soft)[0],
        "poisson": paste.paste(face, picture, core, method="poisson", erode=0)[0],
        "reinhard": paste.paste(lit, picture, core, **soft)[0],
    }


# --- does nothing when told to do nothing


def test_the_reference_measured_against_itself_is_perfect(portrait):
    picture, core = portrait
    found = metrics.measured(picture, picture, core, core)
    assert found == {
        "seam_excess": 0.0,
        "seam_worst": 0.0,
        "ring_difference": 0.0,
        "ring_worst": 0.0,
        "shading_agreement": pytest.approx(1),
        "sharpness_ratio": 1.0,
        "outside_largest": 0.0,
        "outside_changed": 0.0,
        "outside_ssim": 1.0,
    }
    json.dumps(found, allow_nan=False)


# --- gets a drawn answer right


def test_one_place_that_stands_out_is_not_lost_in_the_mean(portrait):
    """A stripe of another colour outside of one eighth of the border: the means stay below their bars, the worst eighth does not."""
    picture, core = portrait
    good, poor = metrics.BARS["ring_difference"]
    stained = picture.copy()
    ring = masks.grow(core, 12) & ~core & (metrics.eighths(core) == 5)
    stained[ring] = numpy.clip(stained[ring].astype(int) + numpy.array((70, -20, -20)), 0, 255)
    found = metrics.measured(stained, picture, core, core)
    assert found["ring_difference"] <= good and found["ring_worst"] > poor


def test_the_face_of_the_photograph_has_an_edge_of_its_own(portrait):
    assert metrics.seam_ratio(*portrait) == pytest.approx(1.4, abs=0.06)
    assert metrics.ring_colours(*portrait)[0] == pytest.approx(5.4, abs=0.3)


def test_seam_and_ring_order_the_ways_to_paste(portrait, pasted):
    picture, core = portrait
    seam = {name: metrics.seam_excess(made, picture, core) for name, made in pasted.items()}
    ring = {name: metrics.ring_difference(made, picture, core) for name, made in pasted.items()}
    assert seam["hard"] > 0.8, "a visible seam"
    assert all(abs(seam[name]) < 0.15 for name in ("feather", "poisson", "reinhard")), seam
    assert ring["hard"] > 15 and 5 < ring["feather"] < 9, "the cast that the seam alone does not see"
    assert abs(ring["poisson"]) < 1 and abs(ring["reinhard"]) < 1.5, ring


def test_the_order_holds_in_a_small_crop(portrait, pasted):
    picture, core = portrait
    crop = geometry.crop_around((86, 67, 95, 95), (300, 250), 2.0, 128)
    small, there = crop.cut(picture), crop.cut(numpy.repeat(core[..., None], 3, 2).astype(numpy.uint8))[..., 0] > 0
    seam = {name: metrics.seam_excess(crop.cut(made), small, there) for name, made in pasted.items()}
    ring = {name: metrics.ring_difference(crop.cut(made), small, there) for name, made in pasted.items()}
    assert seam["hard"] > 0.8 and max(abs(seam[name]) for name in ("feather", "poisson", "reinhard")) < 0.15
    assert ring["hard"] > 12 and ring["feather"] > 5 and max(abs(ring["poisson"]), abs(ring["reinhard"])) < 1.5


def test_shading_agrees_with_the_same_light_and_not_with_the_opposite_one():
    size, core = (120, 140), ellipse((120, 140), (60, 70), (40, 55))
    ramp = numpy.repeat(numpy.linspace(60, 200, 120)[None, :, None], 140, 0).repeat(3, 2)
    bumps = 12 * numpy.random.default_rng(0).normal(size=(size[1], size[0], 1))
    left, right = (numpy.clip(side + bumps, 0, 255).astype(numpy.uint8) for side in (ramp, ramp[:, ::-1]))
    assert metrics.shading_agreement(left, ramp.astype(numpy.uint8), core) > 0.98
    assert metrics.shading_agreement(left, right, core) < -0.9
    darker = (left * 0.6).astype(numpy.uint8)
    assert metrics.shading_agreement(darker, left, core) > 0.98, "how much light is another question"


def test_a_softer_face_has_a_lower_sharpness_ratio(portrait):
    picture, core = portrait
    soft = cv2.GaussianBlur(picture, (0, 0), 2)
    ratio = metrics.sharpness_ratio(soft, picture, core)
    assert ratio < 0.1 and metrics.sharpness_ratio(picture, soft, core) == pytest.approx(1 / ratio)


def test_one_changed_pixel_outside_is_seen_and_inside_is_not(portrait):
    picture, core = portrait
    result = picture.copy()
    result[115, 132] = 255 - result[115, 132]
    assert metrics.outside(result, picture, core)["outside_ssim"] == 1.0
    result[5, 7, 1] = result[5, 7, 1] - 3
    found = metrics.outside(result, picture, core)
    assert found["outside_largest"] == 3.0 and found["outside_changed"] == pytest.approx(1 / (~core).sum())
    assert 0.999 < found["outside_ssim"] < 1


def test_landmark_error_of_hand_made_points():
    truth = numpy.array([(10.0, 10), (30, 10), (20, 20), (13, 30), (27, 30)])
    found = truth + numpy.array([(3, 4), (0, 0), (0, 0), (0, 0), (0, 10)])
    assert metrics.landmark_error(found, truth, 50) == pytest.approx(100 * (5 + 10) / 5 / 50)
    seen = [True, False, False, False, False]
    assert metrics.landmark_error(found, truth, 50, seen) == pytest.approx(10)
    assert metrics.landmark_error(found, truth, 50, [False] * 5) is None
    assert metrics.landmark_error(None, truth, 50) is None


def test_the_truth_is_compared_region_by_region(portrait):
    picture, core = portrait
    result = picture.copy()
    result[core] = numpy.where(result[core] > 127, result[core] - 10, result[core] + 10)
    none = numpy.zeros_like(core)
    found = metrics.against_truth(result, picture, {"core": core, "rest": ~masks.grow(core, 5), "lips": none})
    assert found["core"]["psnr"] == pytest.approx(20 * math.log10(25.5)) and found["core"]["ssim"] < 0.99
    assert found["rest"] == {"psnr": PERFECT, "ssim": pytest.approx(1)}
    assert found["lips"] == {"psnr": None, "ssim": None}


def test_a_rendered_person_relit_scores_the_truth_best():
    who = portraits.sample_identity(1, hair_style="short", beard=False, glasses=False)
    shots = [portraits.sample_shot(3, yaw=0.0, light_azimuth=side, light_colour="neutral") for side in (-0.9, 0.9)]
    drawn = portraits.render([portraits.Portrait(who, shot) for shot in shots], (120, 100), truth=True)
    left, right = (drawn.image.permute(0, 2, 3, 1).numpy() * 255).round().astype(numpy.uint8)
    core = paste.core_of(drawn.masks["face"][0].numpy())
    made = paste.paste(light.shading_transfer(right, left, core, 1.0), left, core)[0]
    hard = paste.paste(right, left, core, method="hard")[0]
    lit, unlit = (metrics.measured(one, left, core, masks.grow(core, 20)) for one in (made, hard))
    assert lit["shading_agreement"] > 0.95 > unlit["shading_agreement"]
    assert lit["outside_largest"] == 0
    better, worse = (metrics.against_truth(one, left, {"core": core})["core"]["psnr"] for one in (made, hard))
    assert better > worse + 3


# --- "not defined" is None


def test_what_cannot_be_measured_is_none_and_never_perfect(portrait):
    picture, core = portrait
    none, every = numpy.zeros_like(core), numpy.ones_like(core)
    plain = numpy.full_like(picture, 120)
    speck = ellipse((300, 250), (20, 20), (1, 1))
    for mask in (none, every, speck):
        assert metrics.seam_excess(picture, picture, mask) is None
        assert metrics.ring_difference(picture, picture, mask) is None or mask is speck
    assert metrics.seam_excess(plain, plain, core) is None, "no jump anywhere to compare with"
    assert metrics.shading_agreement(plain, picture, core) is None
    assert metrics.shading_agreement(picture, picture, none) is None
    assert metrics.sharpness_ratio(picture, plain, core) is None
    assert metrics.sharpness_ratio(picture, picture, none) is None
    assert set(metrics.outside(picture, picture, every).values()) == {None}


def test_a_core_at_the_border_is_measured_on_the_edge_that_shows(portrait):
    picture, _core = portrait
    core = ellipse((300, 250), (0, 115), (58, 72))
    result = paste.paste(255 - picture, picture, core, method="hard")[0]
    assert metrics.seam_excess(result, picture, core) > 0.3
    assert metrics.ring_difference(result, picture, core) > 10


# --- identity


def turned(degrees: float, length: float = 1.0) -> numpy.ndarray:
    return length * numpy.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])


def test_the_identity_table_of_hand_made_directions():
    table = metrics.identity_table(turned(10, 3), [turned(0), turned(60, 0.2), None], turned(90))
    cosine = {degrees: math.cos(math.radians(degrees)) for degrees in (10, 30, 50, 60)}
    assert table["result"] == pytest.approx({"best": cosine[10], "mean": (cosine[10] + cosine[50]) / 2})
    assert table["reference"] == pytest.approx({"best": cosine[30], "mean": (cosine[30] + 0) / 2}, abs=1e-9)
    assert table["among"] == pytest.approx({"mean": cosine[60], "worst": cosine[60]})


def test_without_faces_the_table_has_no_numbers():
    table = metrics.identity_table(None, [turned(0)], turned(45))
    assert table["result"] == {"best": None, "mean": None} and table["among"] == {"mean": None, "worst": None}
    assert table["reference"]["best"] == pytest.approx(math.sqrt(0.5))
    assert set(metrics.identity_table(turned(0), [], turned(1))["result"].values()) == {None}


def test_distances_are_those_of_the_cosines():
    table = metrics.cosine_distances([turned(0), None, turned(60, 5), turned(180)])
    assert table[0, 2] == pytest.approx(0.5) and table[0, 3] == pytest.approx(2) and table[0, 0] == pytest.approx(0)
    assert numpy.isnan(table[1]).all() and numpy.isnan(table[:, 1]).all()


# --- fails well


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.landmark_error([(1, 2)], [(1, 2), (3, 4)], 10), r"shapes \(1, 2\) and \(2, 2\)"),
        (lambda: metrics.landmark_error([(1, 2)], [(1, 2)], 0), "0 pixels wide"),
        (lambda: metrics.against_truth(numpy.zeros((9, 8, 3)), numpy.zeros((8, 9, 3)), {}), "pictures of one size"),
        (lambda: metrics.cosine_distances([[1, 0], [1, 0, 0]]), r"of \[2, 3\] numbers"),
        (lambda: metrics.cosine_distances([[0, 0]]), "zero or not a number"),
        (lambda: metrics.identity_table([1, math.nan], [[1, 0]], None), "zero or not a number"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
