"""The intake: every rejection has its sentence, nothing usable is refused, and the detector finds the faces of photographs."""

from __future__ import annotations

import io
import math
from dataclasses import FrozenInstanceError, replace

import cv2
import numpy
import pytest
from PIL import Image
from skimage import data

from pipelines.core.geometry import Face
from pipelines.megaportrait import intake
from pipelines.megaportrait.intake import Bars, Photo
from pipelines.models import faces_photo
from pipelines.worlds import portrait as portraits

FACE = Face(
    (176.0, 67.0, 95.0, 95.0),
    ((203.0, 103.0), (245.0, 103.0), (225.0, 125.0), (208.0, 146.0), (243.0, 146.0)),
    1.0,
    "hand",
)


@pytest.fixture(scope="module")
def astronaut() -> numpy.ndarray:
    return data.astronaut()


def shown(picture: numpy.ndarray, name: str = "a.jpg", *faces: Face) -> Photo:
    return Photo(name, picture, faces or (FACE,))


def variants(picture: numpy.ndarray, count: int) -> list[Photo]:
    """The same person nearer and nearer, now left and now right of the middle: no two are nearly the same picture."""
    made = []
    for index in range(count):
        scale, left, top = 1.0 + 0.3 * index, (-60, 40)[index % 2], 25 * index
        matrix = numpy.array([[scale, 0, left - 100 * (scale - 1)], [0, scale, top - 60 * (scale - 1)]])
        other = cv2.warpAffine(picture, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
        corner = matrix @ (*FACE.box[:2], 1)
        points = tuple(tuple(map(float, matrix @ (*point, 1))) for point in FACE.points)
        face = Face((float(corner[0]), float(corner[1]), 95 * scale, 95 * scale), points, 1.0, "hand")
        made.append(shown(other, f"photo {index + 1}", face))
    return made


def blurred(photo: Photo) -> Photo:
    return replace(photo, picture=cv2.GaussianBlur(photo.picture, (0, 0), 3))


def dark(photo: Photo) -> Photo:
    return replace(photo, picture=(photo.picture * 0.2).astype(numpy.uint8))


# --- nothing usable is refused


def test_a_good_photo_is_used_and_nothing_is_said(astronaut):
    large = cv2.resize(astronaut, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    face = replace(FACE, box=tuple(2 * number for number in FACE.box))
    found = intake.judge(Photo("a.jpg", large, (face,)))
    assert (found.word, found.reason, found.fault, found.notes) == ("used", "", "", ())
    assert found.face == face and found.measures.width == 190
    assert found.measures.nose == pytest.approx(22 / 42) and found.measures.roll == 0


def test_five_good_photos_are_all_used_without_a_remark(astronaut):
    verdicts, remarks = intake.check(variants(astronaut, 5))
    assert [verdict.word for verdict in verdicts] == ["used"] * 5 and remarks == []
    assert (verdicts, remarks) == intake.check(variants(astronaut, 5))


def test_rendered_heads_of_every_skin_are_neither_dark_nor_blurred():
    people = [
        portraits.Portrait(portraits.sample_identity(seed, skin=skin), portraits.sample_shot(seed + 50))
        for seed, skin in ((1, 0.0), (3, 5.0))
    ]
    people.append(portraits.relit(people[1], portraits.sample_shot(60)))
    truth = portraits.render(people, (128, 112), truth=True)
    pictures = (truth.image.permute(0, 2, 3, 1).numpy() * 255).round().astype(numpy.uint8)
    photos = []
    for picture, points, mask in zip(pictures, truth.landmarks, truth.masks["face"], strict=True):
        rows, columns = numpy.nonzero(mask.numpy())
        box = (columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
        marks = tuple((float(x), float(y)) for y, x in points[:5])
        photos.append(Photo(f"{len(photos)}", picture, (Face(tuple(map(float, box)), marks, 1.0, "truth"),)))
    verdicts, _remarks = intake.check(photos, bars=Bars(stop=24, small=32))
    assert [(verdict.used, verdict.fault) for verdict in verdicts] == [(True, "")] * 3


# --- every rejection and its sentence


def test_no_face_tells_what_to_do(astronaut):
    found = intake.judge(Photo("IMG_3.jpg", astronaut))
    assert (found.word, found.fault, found.face) == ("rejected", "no face", None)
    assert found.reason == (
        "No face found in IMG_3.jpg: use a photo where the whole head is visible, not cropped at the forehead."
    )
    assert "draw the face box" in intake.judge(Photo("b.jpg", astronaut), reference=True).reason


def test_a_black_picture_is_named_before_its_missing_face():
    found = intake.judge(Photo("night.png", numpy.full((60, 80, 3), 3, numpy.uint8)))
    assert found.fault == "black" and found.reason.startswith("night.png is black: ")


def test_a_tiny_face_is_refused_and_a_small_one_remarked_on(astronaut):
    tiny = intake.judge(shown(astronaut, "far.jpg", replace(FACE, box=(176, 67, 50, 50))))
    assert tiny.fault == "tiny" and not tiny.used
    assert tiny.reason.startswith("The face in far.jpg is only 50 px wide and at least 64 are needed")
    small = intake.judge(shown(astronaut, "far.jpg", replace(FACE, box=(186, 77, 70, 70))))
    assert small.used and small.notes == ("The face in far.jpg is only 70 px wide; details will be invented.",)


def test_a_blurred_photo_is_refused_at_every_size(astronaut):
    for scale in (1, 3):
        large = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        face = replace(FACE, box=tuple(scale * number for number in FACE.box))
        assert intake.judge(Photo("a", large, (face,))).used
        soft = intake.judge(Photo("soft.jpg", cv2.GaussianBlur(large, (0, 0), 2.5 * scale), (face,)))
        assert soft.fault == "blurred" and soft.reason == "soft.jpg is blurred: use a photo with the face in focus."


def test_a_dark_photo_is_refused(astronaut):
    found = intake.judge(dark(shown(astronaut, "cave.jpg")))
    assert found.fault == "dark" and found.reason.startswith("cave.jpg is too dark to show the face")
    assert found.measures.brightest < found.measures.luminance * 2 < 0.4


def test_a_side_view_is_used_with_a_warning(astronaut):
    points = (*FACE.points[:2], (240.0, 125.0), *FACE.points[3:])  # the nose at 0.88 of the way between the eyes
    found = intake.judge(shown(astronaut, "side.jpg", replace(FACE, points=points)))
    assert found.used and any("side.jpg is a side view and these often fail" in note for note in found.notes)
    unknown = intake.judge(shown(astronaut, "side.jpg", replace(FACE, points=None)))
    assert unknown.measures.nose is None and unknown.measures.roll is None and not unknown.notes[1:]


def test_a_tilted_head_is_remarked_on_from_points_or_from_the_pass_that_found_it(astronaut):
    turn = numpy.array([[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]])
    points = tuple(map(tuple, (numpy.array(FACE.points) - 224) @ turn + 224))
    for face in (replace(FACE, points=points), replace(FACE, points=None, roll=30.0)):
        found = intake.judge(shown(astronaut, "tilt.jpg", face))
        assert found.used and any("tilt.jpg is tilted by " in note for note in found.notes), found.notes
    assert replace(FACE, points=points).tilt == pytest.approx(math.degrees(0.5))


def test_of_several_faces_the_largest_is_used_or_the_chosen_one_of_a_reference(astronaut):
    left, right = replace(FACE, box=(20, 60, 100, 100)), replace(FACE, box=(300, 60, 130, 130))
    photo = shown(astronaut, "two.jpg", right, left)
    source = intake.judge(photo)
    assert source.face == right and "2 faces found in two.jpg: the largest is used" in source.notes[0]
    assert "the others stay as they are" in intake.judge(photo, reference=True).notes[0]
    chosen = intake.judge(photo, reference=True, chosen=0)
    assert chosen.face == left and not any("faces found" in note for note in chosen.notes)
    with pytest.raises(ValueError, match="Face 3 was chosen and two.jpg has 2: choose a number from 1 to 2"):
        intake.judge(photo, reference=True, chosen=2)


def test_a_dark_or_soft_reference_is_the_visitors_wish(astronaut):
    assert intake.judge(dark(shown(astronaut)), reference=True).used
    assert intake.judge(blurred(shown(astronaut)), reference=True).used


# --- all photos together


def test_the_second_of_two_nearly_equal_photos_is_refused(astronaut):
    photos = variants(astronaut, 4)
    again = io.BytesIO()
    Image.fromarray(photos[1].picture).resize((256, 256)).save(again, "JPEG", quality=60)
    small = replace(FACE, box=(88, 33, 48, 48), points=None)
    photos.append(Photo("again.jpg", numpy.asarray(Image.open(again)), (small,)))
    verdicts, remarks = intake.check(photos, bars=Bars(stop=32))
    assert [verdict.used for verdict in verdicts] == [True] * 4 + [False]
    assert verdicts[4].fault == "duplicate"
    assert verdicts[4].reason == "again.jpg is nearly the same picture as photo 2: use a photo from another moment."
    assert remarks == ["4 of 5 photos can be used; 5 to 20 in varied light are better."]


def test_a_blurred_twin_does_not_push_out_the_sharp_one(astronaut):
    photos = variants(astronaut, 4)
    verdicts, _remarks = intake.check([blurred(photos[0]), *photos])
    assert [verdict.fault for verdict in verdicts] == ["blurred", "", "", "", ""]


def test_weak_photos_are_kept_while_fewer_than_three_would_remain(astronaut):
    one, two, three, four = variants(astronaut, 4)
    verdicts, _remarks = intake.check(
        [dark(one), two, replace(two, name="twin"), blurred(three), Photo("empty", four.picture)]
    )
    assert [(verdict.used, verdict.fault) for verdict in verdicts] == [
        (True, "dark"),
        (True, ""),
        (False, "duplicate"),
        (True, "blurred"),
        (False, "no face"),
    ]
    assert verdicts[0].reason == "photo 1 is dark, and is used all the same because fewer than 3 photos would be left."
    verdicts, remarks = intake.check([two, replace(two, name="twin")])
    assert (
        verdicts[1].used
        and "twin is nearly the same picture as another, and is used all the same" in verdicts[1].reason
    )
    assert remarks == ["2 of 2 photos can be used; 5 to 20 in varied light are better."]
    verdicts, remarks = intake.check([one, two, three, blurred(four)])
    assert [verdict.used for verdict in verdicts] == [True, True, True, False]


def test_nothing_usable_is_said(astronaut):
    verdicts, remarks = intake.check([Photo("a", astronaut)])
    assert not verdicts[0].used and remarks == [
        "None of the photos can be used: give at least one sharp photo of the whole head."
    ]


def test_photos_of_somebody_else_are_named(astronaut):
    photos = variants(astronaut, 5)
    table = numpy.full((5, 5), 0.2)
    table[[1, 4], :] = table[:, [1, 4]] = 0.9
    table[1, 4] = table[4, 1] = 0.3  # the two odd ones know each other
    verdicts, remarks = intake.check(photos, table, 0.6)
    assert [verdict.fault for verdict in verdicts] == ["", "different", "", "", "different"]
    assert "photo 2 looks like a different person than most of the photos" in verdicts[1].reason
    assert remarks[0] == "Photos 2 and 5 look like a different person."
    table[1, 4] = table[4, 1] = table[4, 0] = table[0, 4] = 0.6  # at the bar, by way of photo 5
    assert [verdict.used for verdict in intake.check(photos, table, 0.6)[0]] == [True] * 5


def test_when_nobody_is_in_most_photos_it_is_said_and_nobody_is_thrown_out(astronaut):
    verdicts, remarks = intake.check(variants(astronaut, 2), [[0, 0.9], [0.9, 0]], 0.6)
    assert [verdict.used for verdict in verdicts] == [True, True]
    assert remarks[0].startswith("The photos look like different persons, and none is in most of them")


def test_photos_that_were_not_compared_are_nobodys():
    nan = math.nan
    table = [[0, nan, 0.1], [nan, nan, nan], [0.1, nan, 0]]
    assert intake.odd_ones(table, 0.6) == [] and intake.odd_ones([[0.0]], 0.6) == []
    assert intake.odd_ones([[0, 0.9, 0.1], [0.9, 0, 0.8], [0.1, 0.8, 0]], 0.6) == [1]
    assert intake.odd_ones([[0, 0.9], [0.9, 0]], 0.6) is None


# --- what is measured


def test_the_hash_is_steady_and_tells_pictures_apart(astronaut):
    def differing(other: numpy.ndarray) -> int:
        return int((intake.perceptual_hash(astronaut) != intake.perceptual_hash(other)).sum())

    assert differing(astronaut) == 0
    smaller = cv2.resize(astronaut, (200, 200), interpolation=cv2.INTER_AREA)
    brighter = numpy.clip(astronaut * 1.15 + 8, 0, 255).astype(numpy.uint8)
    assert differing(smaller) <= 8
    assert differing(brighter) <= 20
    assert differing(data.coffee()) > 80
    assert differing(astronaut[:, ::-1]) > 80


def test_a_box_beyond_the_border_is_measured_where_it_lies_in_the_picture(astronaut):
    found = intake.measure(astronaut, replace(FACE, box=(-40, -30, 200, 200)))
    inside = cv2.cvtColor(astronaut[:170, :160], cv2.COLOR_RGB2GRAY) / 255
    assert found.luminance == pytest.approx(inside.mean()) and found.width == 200
    assert intake.sharpness(astronaut, (600, 600, 50, 50)) == 0


def test_a_face_is_a_value():
    assert replace(FACE) == FACE and hash(replace(FACE)) == hash(FACE)
    with pytest.raises(FrozenInstanceError):
        FACE.score = 2


# --- the detector


def overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    return faces_photo._overlap(box, other)


def test_the_astronaut_has_one_face_and_coffee_and_rocket_none(astronaut):
    (face,) = faces_photo.find_faces(astronaut)
    assert numpy.abs(numpy.array(face.box) - (176, 67, 95, 95)).max() < 8
    assert face.points is None and face.roll == 0 and 0.4 <= face.score <= 1 and "LBP" in face.backend
    assert faces_photo.find_faces(astronaut) == [face]
    assert faces_photo.find_faces(data.coffee()) == [] == faces_photo.find_faces(data.rocket())
    found = intake.judge(Photo("astronaut", astronaut, (face,)))
    assert found.used and found.measures.nose is None


@pytest.mark.parametrize("roll", [25, -30])
def test_a_tilted_head_is_found_by_a_turned_pass(astronaut, roll):
    middle = (223.5, 114.5)
    turn = cv2.getRotationMatrix2D(middle, -roll, 1)  # OpenCV turns against the clock
    turned = cv2.warpAffine(astronaut, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
    (face,) = faces_photo.find_faces(turned)
    assert overlap(face.box, (176, 67, 95, 95)) > 0.7 and abs(face.roll - roll) <= 15
    assert face.tilt == face.roll


def test_two_faces_are_found_at_the_pictures_own_scale(astronaut):
    part = astronaut[:280, 90:370]
    both = cv2.resize(numpy.hstack([part, part[:, ::-1]]), None, fx=2, fy=2)
    left, right = intake.numbered(faces_photo.find_faces(both))
    assert overlap(left.box, (172, 134, 190, 190)) > 0.7 and overlap(right.box, (758, 134, 190, 190)) > 0.7


def test_small_dark_tight_and_hopeless_pictures(astronaut):
    quarter = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA)
    (face,) = faces_photo.find_faces(quarter)
    assert overlap(face.box, (44, 17, 24, 24)) > 0.6
    (face,) = faces_photo.find_faces((astronaut * 0.15).astype(numpy.uint8))
    assert overlap(face.box, (176, 67, 95, 95)) > 0.7
    (face,) = faces_photo.find_faces(astronaut[60:180, 165:285])
    assert overlap(face.box, (11, 7, 95, 95)) > 0.6
    for picture in (numpy.full((90, 130, 3), 120, numpy.uint8), astronaut[:20], astronaut[:1, :1]):
        assert faces_photo.find_faces(picture) == []


# --- fails well


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: intake.check([]), "0 photos came: give 1 to 20"),
        (lambda: intake.check([Photo("a", numpy.zeros((9, 9, 3), numpy.uint8))] * 21), "21 photos came"),
        (
            lambda: intake.check([Photo("a", numpy.zeros((9, 9, 3), numpy.uint8))], [[0.0]]),
            "for 1 photos: give one for every two, and the bar",
        ),
        (
            lambda: intake.check([Photo("a", numpy.zeros((9, 9, 3), numpy.uint8))], [[0.0, 1.0]], 0.5),
            r"shape \(1, 2\) came for 1 photos",
        ),
        (lambda: intake.odd_ones([[0.0, 1.0]], 0.5), r"shape \(1, 2\) came"),
    ],
)
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
