"""The evaluation of portraits: hand-made figures, what is counted as passing, resuming, and a run on models of toy size."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
from PIL import Image

from assets.lab import cards
from assets.megaportrait import evaluate
from demos.megaportrait.measured import measured_html
from pipelines.megaportrait import Settings, person, tools
from pipelines.megaportrait.learn import Training
from pipelines.models import faces
from tests.toys import portrait as toy_portrait

QUICK = {
    "identity_steps": 4,
    "identity_strength": 0.55,
    "shading_steps": 4,
    "shading_strength": 0.35,
    "harmonise_steps": 4,
}


def row(identity: float | None, **more) -> dict:
    """A row as :func:`evaluate.told` makes it."""
    made = dict.fromkeys((*evaluate.PLAIN, "nearest", "among", "truth"))
    made |= {"identity": identity, "reference": 0.1, "outside_largest": 0.0}
    for region in evaluate.REGIONS:
        for score in ("psnr", "ssim"):
            made |= {f"{score}_{region}": 20.0, f"before_{score}_{region}": 10.0}
    return made | more


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tools, "threshold", lambda: 0.5)


# --- figures


def test_a_summary_leaves_out_what_is_not_known():
    assert evaluate.summary([1.0, None, 2.0, 3.0]) == {"mean": 2.0, "median": 2.0, "q1": 1.0, "q3": 3.0, "n": 3}
    assert evaluate.summary([4.0]) == {"mean": 4.0, "median": 4.0, "q1": 4.0, "q3": 4.0, "n": 1}
    assert evaluate.summary([None]) == {"n": 0}


def test_what_is_not_known_or_refused_does_not_pass():
    rows = [row(0.5), row(0.4999), row(None), {"refused": "No face."}]
    found = evaluate.passing(rows, "identity", 0.5)
    assert found["share"] == 0.25 and found["of"] == 4 and found["known"] == 2
    assert evaluate.passing(rows, "identity", None)["share"] == 0, "without a bar nobody passes"


def test_one_arm_in_figures():
    rows = [
        row(0.6, seam_excess=0.1, landmark_error=2.0, seconds=4.0),
        row(0.8, seam_excess=0.3, landmark_error=3.0, outside_largest=1.0),
        row(None, seam_excess=None, landmark_error=None),
        {"refused": "No face."},
    ]
    found = evaluate.figures(rows, 0.5)
    assert found["passes"]["share"] == 0.5 and found["outside"] == 1.0, "one pixel in one pair is told"
    assert found["identity"]["mean"] == 0.7 and found["seam_excess"]["median"] == 0.2 and found["seconds"] == 4.0
    assert found["landmarks_within"]["share"] == 0.5 and found["landmark_error"]["n"] == 2
    assert found["refused"] == ["No face."] and found["refusals"] == 1


def test_a_net_helps_when_its_own_measure_is_better_with_it():
    ours = [row(0.9, seam_excess=0.1), row(0.7, seam_excess=0.2), row(0.5, seam_excess=None)]
    without = [row(0.4, seam_excess=0.5), row(0.8, seam_excess=0.1), {"refused": "x"}]
    more = evaluate.compared(ours, without, "identity", True)
    assert more["difference"] == pytest.approx(0.2) and (more["better"], more["worse"]) == (1, 1)
    less = evaluate.compared(ours, without, "seam_excess", False)
    assert less["difference"] == pytest.approx(0.15) and less["with"]["mean"] == 0.15 and less["without"]["n"] == 2
    assert evaluate.compared([], [], "identity", True)["difference"] is None


def report_of(ours: list[dict], **rows) -> dict:
    lessons = [{"wall": 61.0, "seconds": 60.0, "steps": 300, "best_step": 240, "score_before": 0.1, "score": 0.8}]
    return evaluate.report(lessons, {"ours": ours, "first": ours, **rows}, "test", 1, {}, Training.of("mini"))


def met(found: dict) -> dict[str, bool | None]:
    return {one["name"]: one["met"] for one in found["bars"]}


def test_the_bars_are_those_of_the_plan(bar):
    good = {"seam_excess": 0.15, "ring_difference": 3.0, "landmark_error": 3.0, "shading_agreement": 0.9}
    found = report_of([row(0.9, **good)] * 9 + [row(0.1, **good)], no_shading=[row(0.9, shading_agreement=0.2)] * 10)
    assert all(met(found).values()) and len(met(found)) == 7
    assert found["ablations"]["no_shading"][0]["difference"] == pytest.approx(0.7)
    worse = {
        "seam_excess": 0.151,
        "ring_difference": 3.01,
        "landmark_error": 3.01,
        "outside_largest": 1.0,
        "reference": 0.6,
    }
    missed = report_of([row(0.9, **worse)] * 8 + [row(0.1, **worse)] * 2, no_shading=[row(0.9)] * 10)
    assert list(met(missed).values()) == [False] * 6 + [None], "and what was not measured is neither"


def test_without_a_threshold_nothing_is_said_of_who_passes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tools, "threshold", lambda: None)
    assert list(met(report_of([row(0.9)])).values())[:3] == [None, None, True]


def test_ablations_stand_beside_the_first_candidate_not_the_better_one(bar):
    lessons = [{"wall": 1.0, "seconds": 1.0, "steps": 1, "best_step": 1, "score_before": 0.1, "score": 0.8}]
    rows = {"ours": [row(0.9)], "first": [row(0.6)], "no_identity": [row(0.7)]}
    found = evaluate.report(lessons, rows, "test", 1, {}, Training.of("mini"))
    assert found["ablations"]["no_identity"][0]["difference"] == pytest.approx(-0.1)
    assert [one["met"] for one in found["bars"]][-1] is False
    assert list(found["rows"]) == ["ours", "first", "no_identity"]


def test_sheets_show_five_of_each_kind_and_the_unknown_among_the_worst():
    rows = [row(value) for value in (0.1, 0.9, None, 0.5, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4)]
    found = evaluate.ordered(rows)
    assert [rows[n]["identity"] for n in found["best"]] == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert [rows[n]["identity"] for n in found["worst"]] == [0.4, 0.3, 0.2, 0.1, None]
    assert [rows[n]["identity"] for n in found["median"]] == [0.7, 0.6, 0.5, 0.4, 0.3]
    assert {name: len(numbers) for name, numbers in evaluate.ordered(rows[:2]).items()} == {
        "best": 2,
        "median": 2,
        "worst": 2,
    }


def test_the_table_for_choices_has_a_line_for_each_arm(bar):
    told = evaluate.in_words(report_of([row(0.9), row(None)], preview=[row(0.2), {"refused": "x"}]))
    lines = told.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["ours", "first", "preview"] and "refused 1" in lines[3]
    assert lines[1].split()[1:4] == ["0.50", "0.900", "0.900"] and "MISSED" in told and "met" in told


def test_the_page_can_show_what_was_found(bar):
    known = {"seam_excess": 0.1, "ring_difference": 1.0, "landmark_error": 2.0, "shading_agreement": 0.9}
    told = measured_html(
        "mini", report_of([row(0.9, **known)] * 3, no_shading=[row(0.9, shading_agreement=0.1)] * 3), {}
    )
    assert (
        "100.0 %" in told
        and "of the results pass as the person" in told
        and "0.10 instead of 0.90" in told
        and "None" not in told
    )
    bare = measured_html("mini", report_of([{"refused": "x"}], no_shading=[{"refused": "x"}]), {})
    assert "0.0 %" in bare and "None" not in bare and "nan" not in bare


# --- pairs, arms and the command line


def test_the_plan_s_pairs_are_ten_unseen_people_and_fifty_references():
    recipes = [evaluate.recipe_of("test", number, 10) for number in range(50)]
    assert len({one.person for one in recipes}) == 10 and len({one.reference for one in recipes}) == 50
    assert all(700_000 <= seed < 1_000_000 for one in recipes for seed in (one.person, one.reference))
    chosen = [evaluate.recipe_of("validation", number, 10) for number in range(50)]
    assert not {s for one in chosen for s in (one.person, one.reference)} & {
        s for one in recipes for s in (one.person, one.reference)
    }


def test_arms_differ_from_ours_in_one_thing_and_in_the_number_of_candidates():
    ours = dataclasses.asdict(evaluate.settings_of("ours", {}))
    assert ours == dataclasses.asdict(Settings.of("mini"))
    for arm, wanted in evaluate.CHANGES.items():
        own = dataclasses.asdict(evaluate.settings_of(arm, {}))
        if arm != "fast":
            assert {name for name in own if own[name] != ours[name]} == set(wanted)
        assert own["candidates"] == (ours["candidates"] if arm == "ours" else 1)
    assert evaluate.settings_of("ours", {"own_tone": 0.5}).own_tone == 0.5
    assert set(evaluate.CHANGES) | {"first"} == set(evaluate.TITLES)


def test_arms_that_share_stages_are_made_together():
    assert evaluate.family(["preview", "no_harmonisation", "ours"]) == [("ours", "no_harmonisation"), ("preview",)]
    assert evaluate.family(["fast"]) == [("fast",)]


def test_settings_of_the_command_line():
    assert evaluate.changed(Settings, ["own_tone=0.8", "poisson=true", "start=pasted", "candidates=1"]) == {
        "own_tone": 0.8,
        "poisson": True,
        "start": "pasted",
        "candidates": 1,
    }
    with pytest.raises(ValueError, match="'beauty=1' is no setting"):
        evaluate.changed(Settings, ["beauty=1"])
    with pytest.raises(ValueError, match="'own_tone' is no setting"):
        evaluate.changed(Settings, ["own_tone"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--settings", "own_tone=0.5"], "tried on --stream validation"),
        (["--stream", "validation", "--training", "rank=4", "--write"], "and not written"),
        (["--arms", "ours,best"], "no arm best"),
        (["--settings", "beauty=1"], "is no setting"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, says, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", *words])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert says in capsys.readouterr().err


# --- a run


@pytest.fixture(scope="module")
def toy():
    with toy_portrait.installed():
        yield


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended_and_writes_what_it_found(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "DONE", tmp_path / "done")
    monkeypatch.setattr(evaluate, "HERE", tmp_path)
    monkeypatch.setattr(Training, "of", classmethod(lambda cls, *_: cls(600, 2, 2, checks=1)))
    monkeypatch.setattr(
        Settings, "of", classmethod(lambda cls, *_, fast=False: cls(candidates=1 if fast else 2, **QUICK))
    )
    command = [
        "evaluate",
        "--pairs",
        "2",
        "--people",
        "1",
        "--arms",
        "ours,no_shading,no_harmonisation,preview",
        "--write",
    ]
    monkeypatch.setattr("sys.argv", command)
    evaluate.main()
    told = capsys.readouterr().out
    found = evaluate.training.read_json(tmp_path / "evaluation.json")
    assert (
        found["pairs"] == 2
        and found["people"] == 1
        and set(found["rows"])
        == {
            "ours",
            "first",
            "no_shading",
            "no_harmonisation",
            "preview",
        }
    )
    for arm, one in found["rows"].items():
        assert one["n"] == 2 and one["outside"] == 0 and one["refusals"] == 0, arm
        assert one["identity"]["n"] == 2 and one["psnr_face"]["n"] == 2
    assert found["rows"]["ours"]["seconds"] > 0 and found["rows"]["no_shading"]["seconds"] is None, (
        "its stages were shared"
    )
    assert found["rows"]["ours"]["identity"]["mean"] >= found["rows"]["first"]["identity"]["mean"]
    assert found["truth"]["identity"]["n"] == found["before"]["identity"]["n"] == 2
    assert found["training"]["steps"]["median"] == 2 and found["threshold"] == toy_portrait.BAR
    assert [one["person"] for one in found["shown"]["best"]] == [700_000] * 2
    for name in ("best", "median", "worst"):
        with Image.open(tmp_path / f"{name}.webp") as picture:
            assert picture.size == (2 * 160, 160 + 3 * 192) and (tmp_path / f"{name}.webp").stat().st_size < 1_000_000
    assert "ours" in told and "no_harmonisation: seam_excess" in told

    pieces = sorted((tmp_path / "done").glob("*.pt"))
    times = {path: path.stat().st_mtime_ns for path in pieces}
    lost = next(path for path in pieces if "preview" in path.name)
    lost.unlink()
    evaluate.main()
    assert sorted((tmp_path / "done").glob("*.pt")) == pieces
    assert [path for path in pieces if path.stat().st_mtime_ns != times[path]] == [lost]
    again = evaluate.training.read_json(tmp_path / "evaluation.json")
    for one in (found, again):
        one["rows"]["preview"].pop("seconds")
    assert again == found, "and what was made again is the same"


def test_a_pair_that_is_refused_is_a_row_with_its_sentence(toy, tmp_path):
    registry = evaluate.Registry("cpu")
    evaluate.learn(registry, 700_000, Training(600, 1, 2, checks=1), tmp_path)
    someone = person.load(tmp_path, "700000")
    recipe = evaluate.recipe_of("test", 0, 1)
    with registry.lease(faces.PARSER) as (parser,):
        parser.blind = True
        rows = evaluate.run_pair(registry, someone, recipe, ["preview"], {})
        parser.blind = False
    assert set(rows["preview"]) == {"refused"} and "face" in rows["preview"]["refused"]


# --- the shipped figures


shipped = pytest.mark.skipif(
    not (evaluate.HERE / "evaluation.json").exists(), reason="the portraits have not been evaluated yet"
)


@shipped
def test_the_evaluation_is_what_the_card_says():
    found, card = cards.facts("megaportrait", "evaluation.json"), cards.CARDS["mini_controlnets"]()
    plan = found["stream"] == "test" and found["pairs"] == 50 and found["people"] == 10
    assert plan or "A first look" in card
    assert f"{100 * found['rows']['ours']['passes']['share']:.1f} %" in card
    assert found["rows"]["ours"]["outside"] == 0
    for name in ("best", "median", "worst"):
        assert (evaluate.HERE / f"{name}.webp").stat().st_size < 1_000_000 and f"{name}.webp" in card


@shipped
def test_the_evaluation_belongs_to_the_defaults():
    assert cards.facts("megaportrait", "evaluation.json")["settings"] == dataclasses.asdict(Settings.of("mini"))


def test_a_sheet_has_a_column_for_each_pair():
    column = [numpy.full((2, 3, 3), level, numpy.uint8) for level in (1, 2, 3, 4)]
    made = evaluate.sheet([column, column])
    assert made.shape == (8, 6, 3) and made[:, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4] == made[:, 5, 2].tolist()
