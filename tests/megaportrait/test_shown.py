"""What the page says of a portrait: words beside numbers, ticks only at the bars, "not known" instead of a guess, nothing unescaped."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

import numpy
import pytest
from PIL import Image

from demos.megaportrait import shown
from pipelines import megaportrait
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.megaportrait import HARMONISED, IDENTITY, PASTED, RING, SHADED, Settings, recipes
from pipelines.megaportrait.intake import Intake, Photo, Verdict
from pipelines.megaportrait.learn import Lesson
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.results import Candidate
from pipelines.megaportrait.settings import LAID
from pipelines.megaportrait.tools import PARSED
from tests.toys import portrait as toy_portrait

NOBODY = {"best": None, "mean": None}
BAD = "<img src=x onerror=alert(1)>'\""


def square(level: int, side: int = 128) -> numpy.ndarray:
    return numpy.full((side, side, 3), level, numpy.uint8)


def metrics(**changes) -> dict:
    """A portrait that meets every bar, with its truth."""
    regions = {name: {"psnr": 31.25, "ssim": 0.951} for name in ("face", "core", "ring", "rest")}
    before = {name: {"psnr": 15.5, "ssim": 0.602} for name in ("face", "core", "ring", "rest")}
    identity = {
        "result": {"best": 0.871, "mean": 0.824},
        "reference": {"best": 0.201, "mean": 0.113},
        "among": {"mean": 0.9, "worst": 0.777},
        "truth": {"best": 0.95, "mean": 0.911},
    }
    made = {
        "identity": identity,
        "threshold": 0.6,
        "same_person": True,
        "outside_largest": 0.0,
        "seam_excess": -0.04,
        "ring_difference": 1.5,
        "shading_agreement": 0.91,
        "sharpness_ratio": 1.02,
        "truth": True,
        "regions": regions,
        "before": before,
        "landmark_error": 1.9,
    }
    return made | changes


def outcome(made: dict, backend: str = PARSED, **changes) -> SimpleNamespace:
    one = Candidate(
        3, Image.fromarray(square(90)), numpy.ones((128, 128), bool), {}, numpy.ones((128, 128), bool), made
    )
    analysis = SimpleNamespace(
        face=SimpleNamespace(backend=backend), picture=square(10), square=square(20), points=numpy.array(POINTS, float)
    )
    fields = {
        "settings": Settings(),
        "analysis": analysis,
        "candidates": [one],
        "truth": None,
        "steps": {},
        "seconds": {},
        "models": [],
    }
    return SimpleNamespace(**fields | changes)


POINTS = [(48, 52), (80, 52), (64, 70), (54, 86), (74, 86)]


def ticks(told: str) -> list[str]:
    return re.findall(r"([✓✗] [^<]+)<", told)


def rows(told: str) -> dict[str, str]:
    """Row's name -> the text of its cells."""
    found = re.findall(r"scope='row'[^>]*>([^<]+)<span>.*?</th>(.*?)</tr>", told)
    return {name: re.sub(r"<[^>]+>", "", cells) for name, cells in found}


# --- gets a drawn answer right


def test_a_portrait_that_meets_every_bar_has_seven_ticks_and_no_cross():
    told = shown.metrics_html(outcome(metrics()))
    assert ticks(told) == [
        "✓ taken for the person",
        "✓ untouched",
        "✓ no new seam",
        "✓ no colour step",
        "✓ the reference’s light",
        "✓ as sharp as the reference",
        "✓ eyes, nose and mouth in place",
    ]
    assert "from 0.600 on" in told


def test_the_numbers_stand_in_their_rows():
    told = rows(shown.metrics_html(outcome(metrics())))
    assert told["This portrait"].startswith("0.824") and told["The reference before"] == "0.113"
    assert told["The person’s pictures"] == "0.900" and told["The truth"] == "0.911"
    assert told["Seam"].startswith("−0.04") and told["Colours at the ring"].startswith("+1.50")
    assert told["Outside the mask"].startswith("0 of 255") and told["Landmark error"].startswith("1.9 %")
    assert told["PSNR in the ring around it"] == "31.2 dB15.5 dB", "the portrait, then the reference before"
    assert told["SSIM in the face"] == "0.9510.602"
    assert "0.777" in shown.metrics_html(outcome(metrics()))


@pytest.mark.parametrize(
    ("judge", "met", "missed"),
    [
        (lambda v: shown.verdict_identity(v, 0.6), [0.6, 0.9], [0.59999, -1.0, float("nan")]),
        (shown.verdict_outside, [0.0], [1.0, 255.0]),
        (shown.verdict_seam, [-0.3, 0.15], [0.1501, 0.6]),
        (shown.verdict_ring, [-2.0, 3.0], [3.001, 5.1]),
        (shown.verdict_shading, [0.8, 1.0], [0.7999, 0.3, -1.0]),
        (shown.verdict_sharpness, [0.7, 1.4], [0.6999, 1.4001]),
        (shown.verdict_points, [0.0, 3.0], [3.0001, 7.0]),
    ],
)
def test_a_tick_stands_only_where_the_bar_is_met(judge, met, missed):
    assert all(judge(value)[1] is True for value in met)
    assert all(judge(value)[1] is False for value in missed)


def test_nothing_is_claimed_of_a_border_that_is_bad_in_one_place():
    told = ticks(shown.metrics_html(outcome(metrics(seam_worst=0.6, ring_worst=6.0))))
    assert told[2:4] == ["✗ a seam in one place", "✗ a colour step in one place"]
    told = ticks(shown.metrics_html(outcome(metrics(seam_worst=0.5, ring_worst=5.0))))
    assert told[2:4] == ["✓ no new seam", "✓ no colour step"]


def test_rounding_lifts_nothing_over_a_bar():
    near = metrics(seam_excess=0.1504, ring_difference=3.004, landmark_error=3.04, shading_agreement=0.7996)
    assert len([mark for mark in ticks(shown.metrics_html(outcome(near))) if mark[0] == "✗"]) == 4


def test_a_reference_that_passes_already_takes_the_tick_away():
    assert shown.verdict_identity(0.9, 0.6, 0.6) == ("says little: the reference passes already", None)
    assert shown.verdict_identity(0.9, 0.6, 0.59)[1] is True
    assert shown.verdict_identity(0.5, 0.6, 0.7)[1] is False
    assert shown.verdict_identity(0.9, None) == ("no bar was measured yet", None)


# --- never a number where there is none


@pytest.mark.parametrize(
    ("backend", "reference", "model_set", "says"),
    [
        ("scikit-image LBP cascade", None, "mini", "cannot be said of a photograph"),
        (PARSED, None, "mini", "the person’s pictures are photographs"),
        (PARSED, 0.1, "mini", "no face was found in the result"),
        ("scikit-image LBP cascade", None, "full", "the model that knows photographed faces is not here"),
    ],
)
def test_an_identity_that_cannot_be_said_is_not_known(backend, reference, model_set, says):
    identity = {
        "result": NOBODY,
        "reference": {"best": reference, "mean": reference},
        "among": {"mean": None, "worst": None},
    }
    made = metrics(identity=identity, same_person=None, truth=False)
    told = shown.metrics_html(outcome(made, backend, settings=Settings(model_set=model_set)))
    assert (
        says in told
        and rows(told)["This portrait"] == "not known"
        and rows(told)["The person’s pictures"] == "not known"
    )
    assert "taken for the person" not in told and "nan" not in told and "None" not in told
    assert "truth" not in told, "and without a truth there is no word of one"


def test_what_is_not_defined_has_no_verdict():
    plain = metrics(seam_excess=None, shading_agreement=None, sharpness_ratio=float("nan"), outside_largest=None)
    told = shown.metrics_html(outcome(plain))
    assert [rows(told)[name] for name in ("Seam", "Light on the face", "Sharpness", "Outside the mask")] == [
        "not defined"
    ] * 4
    assert len(ticks(told)) == 3


def test_numbers_below_zero_have_a_real_minus_sign():
    identity = metrics()["identity"] | {"reference": {"best": 0.1, "mean": -0.106}}
    told = shown.metrics_html(outcome(metrics(identity=identity, shading_agreement=-0.3)))
    assert rows(told)["The reference before"] == "−0.106" and rows(told)["Light on the face"].startswith("−0.30")
    assert "similarity −0.11" in shown.beside_html(outcome(metrics(identity=identity)))


def test_a_candidate_is_asked_for_by_its_place():
    first, second = outcome(metrics()), outcome(metrics(landmark_error=None))
    both = outcome(metrics())
    both.candidates = [*first.candidates, *second.candidates]
    assert rows(shown.metrics_html(both, 0))["Landmark error"].startswith("1.9 %")
    assert rows(shown.metrics_html(both, 1))["Landmark error"] == "not known–"


# --- pictures


def pictures_in(told: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/webp;base64,([^']+)'", told)
    ]


def staged(*names: str) -> Candidate:
    stages = {name: square(40 * place) for place, name in enumerate(names, 1)}
    return Candidate(
        3, Image.fromarray(square(0)), numpy.ones((1, 1), bool), stages, numpy.ones((1, 1), bool), metrics()
    )


def test_the_strip_has_the_six_stages_in_their_order():
    made = staged(HARMONISED, PASTED, IDENTITY, RING, SHADED)
    told = shown.strip_html(made, SimpleNamespace(square=square(250)))
    assert re.findall(r"<b>([^<]+)</b>", told) == [
        "1. Reference",
        "2. Identity",
        "3. Shaded",
        "4. Pasted",
        "5. Ring mask",
        "6. Harmonised",
    ]
    levels = [round(float(numpy.asarray(one).mean()) / 10) * 10 for one in pictures_in(told)]
    assert levels == [250, 120, 200, 80, 160, 40] and "Left out" not in told


def test_a_picture_that_is_laid_over_a_drawing_stands_between_the_stages():
    told = shown.strip_html(
        staged(HARMONISED, PASTED, IDENTITY, RING, SHADED, LAID), SimpleNamespace(square=square(250))
    )
    assert re.findall(r"<b>([^<]+)</b>", told)[1:5] == ["2. Identity", "3. Laid over", "4. Shaded", "5. Pasted"]
    assert "the person’s own picture, place by place" in told and "Left out" not in told


def test_the_strip_names_what_was_left_out_and_calls_a_preview_one():
    told = shown.strip_html(staged(IDENTITY, SHADED, PASTED), SimpleNamespace(square=square(250)), "preview")
    assert "Left out in this run: Ring mask, Harmonised." in told and len(pictures_in(told)) == 4
    assert "the person’s nearest picture" in told and "without a network" in told


def test_pictures_beside_each_other_and_the_nearest_of_the_person():
    crops = numpy.stack([square(level) for level in (150, 200)])
    turned = numpy.array([[(48, 52), (80, 52), (50, 70), (54, 86), (74, 86)], POINTS], numpy.float32)
    someone = Person("Ada", crops, turned, numpy.zeros((0, 0), numpy.float32))
    told = shown.beside_html(outcome(metrics(), truth=square(60)), 0, someone)
    assert [round(float(numpy.asarray(one).mean()) / 10) * 10 for one in pictures_in(told)] == [10, 90, 60, 200]
    assert re.findall(r"<span>([^<]*)</span>", told) == ["similarity 0.11", "similarity 0.82", "similarity 0.91", ""]
    assert len(pictures_in(shown.beside_html(outcome(metrics())))) == 2
    assert all(re.findall(r"alt='([^']*)'", told))


def test_large_pictures_are_made_small():
    told = shown.beside_html(outcome(metrics(), truth=square(60, 2000)))
    assert max(max(one.size) for one in pictures_in(told)) == 256


# --- the run and the person


def test_the_figures_tell_seconds_steps_and_licences():
    made = outcome(
        metrics(),
        seconds={"analysis": 0.126, IDENTITY: 1.5},
        steps={IDENTITY: 11, SHADED: 0, HARMONISED: 4},
        models=[{"key": "k/<b>", "source": "s", "licence": "Apache-2.0"}],
    )
    told = shown.figures_html(made)
    assert "0.13 s" in told and "1.50 s" in told and "Identity 11, Harmonised 4" in told and "Shaded" not in told
    assert "k/&lt;b&gt; (s), Apache-2.0" in told
    assert "No net made a step." in shown.figures_html(outcome(metrics()))


def intake() -> Intake:
    photos = [Photo("one.png", square(50, 200)), Photo(BAD, square(60)), Photo("three.png", square(70))]
    verdicts = [
        Verdict("one.png", True),
        Verdict(BAD, False, f"No face found in {BAD}."),
        Verdict("three.png", True, notes=("Small.",)),
    ]
    return Intake(photos, verdicts, ["2 of 3 photos can be used."], [None] * 3)


def test_each_picture_has_its_verdict_and_reason():
    told = shown.verdicts_html(intake())
    assert ticks(told) == ["✓ used", "✗ rejected", "✓ used"] and "2 of 3 pictures used" in told
    assert "<span>Small.</span>" in told and "2 of 3 photos can be used." in told
    assert [max(one.size) for one in pictures_in(told)] == [96, 96, 96]


def test_nothing_that_came_from_elsewhere_is_markup():
    told = shown.verdicts_html(intake()) + shown.notes_html([BAD])
    assert "onerror" in told and "<img src=x" not in told and "&lt;img src=x onerror=alert(1)&gt;&#x27;&quot;" in told


def lesson(step: int, loss: float, score: float | None, best: bool = False) -> Lesson:
    return Lesson(step, loss, score, Image.fromarray(square(0)), best)


def test_a_training_run_is_two_curves():
    told = shown.lesson_html([lesson(10, 0.5, 0.2, True), lesson(20, 0.3, 0.7, True), lesson(30, 0.25, 0.6)], 0.55)
    assert told.count("<figure") == 2 and told.count("<polyline") == 2
    assert "Kept: step 20, similarity 0.700." in told
    assert "From 0.500 at step 10 to 0.250 at step 30." in told and "From 0.200 at step 10 to 0.600 at step 30." in told
    assert "The line marks 0.550" in told and told.count('class="mark"') == 1


def test_a_training_run_that_cannot_say_who_it_is_shows_its_loss_only():
    told = shown.lesson_html([lesson(10, 0.5, None, True), lesson(20, 0.4, None, True)])
    assert told.count("<figure") == 1 and "is not known" in told and "Kept: step 20." in told
    first = shown.lesson_html([lesson(10, 0.5, 0.2, True)])
    assert "<figure" not in first and "Loss 0.500 at step 10." in first
    assert shown.lesson_html([]) == ""
    assert "nan" not in shown.lesson_html([lesson(0, float("nan"), None)])


# --- with a real run


def test_a_run_of_toy_models_can_be_shown():
    recipe = recipes.Recipe(11, 203)
    settings = Settings(mode="preview", candidates=1)
    asked = megaportrait.Request(
        recipe.picture(), pictures=recipe.pictures(2), settings=settings, truth=recipe.truth(), rendered=True
    )
    with toy_portrait.installed():
        made = megaportrait.generate(Job(1e9), Registry("cpu"), asked)
    told = shown.metrics_html(made)
    assert rows(told)["Outside the mask"].startswith("0 of 255") and "✓ untouched" in told
    assert "PSNR in the face" in told and "Landmark error" in told and "None" not in told
    assert len(pictures_in(shown.strip_html(made.best, made.analysis, "preview"))) == 4
    assert len(pictures_in(shown.beside_html(made))) == 3
    assert "Looking at the faces" in shown.figures_html(made)
