"""A painted part takes on how the picture around it looks; a picture that looks as it should is left alone, byte for byte."""

from __future__ import annotations

import io

import cv2
import numpy
import pytest
from PIL import Image

from demos.georemover.scenes import FIRST as SCENE
from pipelines.core.weights import ROOT
from pipelines.models import look

FOLDER = ROOT / "assets" / "example_scenes"


def reference() -> numpy.ndarray:
    return numpy.asarray(Image.open(FOLDER / "reference.webp").convert("RGB"))


def person() -> numpy.ndarray:
    """Another head, as large as the reference."""
    sheet = Image.open(FOLDER / "person.webp").convert("RGB").crop((0, 0, 160, 160))
    return numpy.asarray(sheet.resize((160, 192), Image.Resampling.LANCZOS))


def scene() -> numpy.ndarray:
    with numpy.load(SCENE) as kept:
        return kept["image"]


def head(shape=(192, 160)) -> numpy.ndarray:
    mask = numpy.zeros(shape, numpy.uint8)
    cv2.ellipse(mask, (shape[1] // 2, shape[0] // 2), (shape[1] // 4, shape[0] // 4), 0, 0, 360, 1, -1)
    return mask.astype(bool)


def grey(picture) -> numpy.ndarray:
    return numpy.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def sepia(picture) -> numpy.ndarray:
    return numpy.clip(grey(picture) * numpy.array([1.07, 0.87, 0.64]), 0, 255).astype(numpy.uint8)


def noisy(picture, deviation: float, channels: int = 3) -> numpy.ndarray:
    noise = numpy.random.default_rng(0).normal(0, deviation, (*picture.shape[:2], channels))
    return numpy.clip(numpy.rint(picture + noise), 0, 255).astype(numpy.uint8)


def jpeg(picture, quality: int) -> numpy.ndarray:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality)
    return numpy.asarray(Image.open(data))


def pasted(original, own: bool = True):
    """The person pasted into ``original`` without a care, then made like it: what came, what it became, and the sentences."""
    changed = head()
    raw = numpy.where(changed[..., None], person(), original)
    made, notes = look.follow(raw, original, changed, 7, "portrait", "reference", own)
    assert (made[~changed] == original[~changed]).all()
    return raw, made, " ".join(notes)


@pytest.mark.parametrize("own", [True, False])
def test_what_looks_as_it_should_stays_as_it_is(own):
    raw, made, notes = pasted(reference(), own)
    assert made.tobytes() == raw.tobytes() and notes == ""
    picture, mask = scene(), head(scene().shape[:2])
    made, notes = look.follow(picture, picture, mask, 0, "filled part", "picture", own)
    assert made.tobytes() == picture.tobytes() and notes == []


def test_nothing_changed_is_nothing_followed():
    made, notes = look.follow(person(), grey(reference()), numpy.zeros((192, 160), bool), 0, "a", "b", True)
    assert made.tobytes() == person().tobytes() and notes == []


def test_into_black_and_white_goes_black_and_white():
    for original in (grey(reference()), jpeg(grey(reference()), 60)):
        _raw, made, notes = pasted(original)
        inside = made[head()].astype(int)
        assert (inside.max(1) == inside.min(1)).all() and "black and white" in notes


def test_into_sepia_goes_sepia_at_its_own_lightness():
    raw, made, notes = pasted(sepia(reference()))
    assert "of one tone" in notes
    assert numpy.abs(look.luma(made) - look.luma(raw))[head()].mean() < 3
    tone = look.tone_of(sepia(reference()))
    assert numpy.abs(made[head()] - tone[numpy.rint(look.luma(made[head()])).astype(int)]).mean() < 2


@pytest.mark.parametrize("change", [grey, sepia])
def test_a_grainy_old_photograph_is_one_tone_all_the_same(change):
    assert look.tone_of(noisy(change(reference()), 10)) is not None
    assert look.tone_of(noisy(reference(), 10)) is None


def test_colours_are_colours_faded_dark_soft_or_compressed():
    for changed in (
        (90 + reference() * 0.35).astype(numpy.uint8), (reference() * 0.3).astype(numpy.uint8), cv2.GaussianBlur(reference(), (0, 0), 2),
        jpeg(reference(), 20),
    ):  # fmt: skip
        assert look.tone_of(changed) is None


@pytest.mark.parametrize("deviation", [4.0, 12.0])
def test_into_grain_goes_grain_of_the_same_strength_and_the_seed_decides_it(deviation):
    original = noisy(reference(), deviation)
    _raw, made, notes = pasted(original)
    ours, theirs = (look.grain_of(made, where).deviation for where in (head(), ~head()))
    assert "grainy" in notes and 0.75 < ours / theirs < 1.3
    assert pasted(original)[1].tobytes() == made.tobytes()


def test_grain_is_found_in_a_narrow_rest():
    original, changed = noisy(reference(), 10), numpy.ones((192, 160), bool)
    changed[:30] = changed[:, :20] = False
    made, notes = look.follow(numpy.where(changed[..., None], person(), original), original, changed, 0, "a", "b", True)
    assert (
        "grainy" in notes[0]
        and 0.7 < look.grain_of(made, changed).deviation / look.grain_of(original, ~changed).deviation < 1.3
    )


def test_grain_in_black_and_white_has_no_colour():
    made = pasted(noisy(grey(reference()), 10, 1))[1][head()].astype(int)
    assert (made.max(1) - made.min(1)).max() <= 1


def test_into_a_soft_picture_goes_a_soft_part():
    original = cv2.GaussianBlur(reference(), (0, 0), 2.5)
    raw, made, notes = pasted(original)
    assert "soft" in notes
    wanted = look.blur_of(original, ~head())
    assert look.blur_of(raw, head()) < 0.7 * wanted < 1.3 * look.blur_of(made, head())


def test_into_few_levels_go_the_same_few():
    original = reference() // 32 * 32 + 16
    _raw, made, notes = pasted(original)
    assert "few levels" in notes and set(numpy.unique(made)) <= set(numpy.unique(original))


def test_into_a_strongly_compressed_picture_goes_a_compressed_part():
    original = jpeg(reference(), 12)
    raw, made, notes = pasted(original)
    inside = (slice(48, 144), slice(40, 120))
    assert "JPEG" in notes and look.blockiness(raw[inside]) < look.BLOCKS < look.blockiness(made[inside])
    assert pasted(jpeg(reference(), 90))[2] == ""


def test_a_faded_picture_gives_its_black_and_white():
    faded = (90 + reference() * 0.35).astype(numpy.uint8)
    made = look.narrowed(person(), faded)
    assert numpy.abs(numpy.subtract(look.span_of(made), look.span_of(faded))).max() < 6
    assert look.narrowed(person(), reference()) is None and look.narrowed(faded, faded) is None


def test_a_strong_cast_is_found_by_skin_and_its_surroundings():
    skin = reference()[70:100, 60:100].reshape(-1, 3).mean(0)
    for gains in ((1, 0.8, 0.5), (0.5, 0.75, 1)):
        found = look.cast_of((reference() * numpy.array(gains)).astype(numpy.uint8), ~head(), skin * gains)
        assert numpy.abs(found - gains).max() < 0.15
    assert look.cast_of(reference(), ~head(), skin) is None
    green = skin * (0.4, 1, 0.4)  # painted green, in a picture whose white is white
    white = numpy.full_like(reference(), 240)
    assert look.cast_of(white, ~head(), green) is None


def test_pale_colours_are_found_and_pale_people_are_none():
    skin = reference()[90:112, 64:96].reshape(-1, 3).mean(0)
    pale, grey_skin = look.paled(reference(), 0.2), look.luma(skin)
    rest = numpy.ones((192, 160), bool)
    rest[:130, 25:135] = False  # the head with its hair
    found = look.paleness_of(pale, rest, grey_skin + 0.2 * (skin - grey_skin))
    assert 0.2 <= found < 0.5
    assert look.paleness_of(reference(), rest, skin) is None
    assert look.paleness_of(reference(), rest, numpy.array([230.0, 210.0, 195.0])) is None
    assert look.paleness_of(grey(reference()), ~head(), skin) is None
