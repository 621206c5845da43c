"""The measured figures of MegaPortrait on the page: sentences with ticks only at met bars, a table, charts, or one honest sentence."""

from __future__ import annotations

import copy
import re

import pytest
from PIL import Image

from demos.megaportrait import measured
from demos.megaportrait.measured import findings, measured_html

FACES = {
    "people": 200,
    "shots": 5,
    "identity": {
        "equal_error_rate": 0.0125,
        "interval": [0.01, 0.015],
        "pairs": {"same": 2000, "different": 497_500},
        "threshold": 0.412,
        "true_match_at_threshold": 0.987,
        "false_match_at_threshold": 0.011,
        "roc": [[0.0, 0.9], [0.0001, 0.95], [0.01, 0.985], [0.1, 0.999], [1.0, 1.0]],
    },
    "landmarks": {"all": {"mean": 1.4, "median": 1.2, "p90": 2.2, "p95": 2.6, "p99": 4.0, "max": 8.0, "n": 1000}},
    "detection": {
        "found": {"share": 0.999, "n": 1000},
        "hard": {"dark": {"share": 0.95, "n": 200}, "<b>x</b>": {"share": None, "n": 0}},
        "false alarms": {"share": 0.02, "n": 200},
    },
}


def spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "median": mean, "q1": mean - 0.1, "q3": mean + 0.1, "n": 50}


def way(title: str, identity: float, **more) -> dict:
    share = {"share": 0.92, "interval": [0.81, 0.97], "of": 50, "known": 50}
    made = {"title": title, "n": 50, "passes": share, "outside": 0.0, "identity": spread(identity), "seconds": 5.5}
    values = {
        "seam_excess": 0.05,
        "ring_difference": -1.2,
        "shading_agreement": 0.9,
        "landmark_error": 2.0,
        "psnr_face": 25.0,
    }
    return made | {name: spread(value) for name, value in values.items()} | more


@pytest.fixture
def found() -> dict:
    """Figures that meet every bar."""

    def beside(measure: str, one: float, other: float, difference: float) -> dict:
        return {
            "measure": measure,
            "with": spread(one),
            "without": spread(other),
            "difference": difference,
            "better": 40,
            "worse": 10,
            "p": 0.01,
        }

    return {
        "pairs": 50,
        "people": 10,
        "stream": "test",
        "threshold": 0.412,
        "before": {"passes": {"share": 0.02}, "identity": spread(0.1)},
        "truth": {"passes": {"share": 1.0}, "identity": spread(0.9)},
        "among": spread(0.85),
        "rows": {"ours": way("all <i>three</i> nets", 0.7), "preview": way("preview", 0.5, seconds=None)},
        "ablations": {
            "no_shading": [beside("shading_agreement", 0.9, 0.6, 0.3)],
            "no_harmonisation": [beside("seam_excess", -0.02, 0.2, 0.22), beside("ring_difference", 1.0, 2.0, 1.0)],
        },
        "speed": {"threads": 2, "training": {"median_s": 63.2}, "portrait": {"median_s": 7.4}},
    }


def marks(told: str) -> str:
    return "".join(re.findall(r"[✓✗]", told))


def test_without_figures_there_is_one_sentence_for_each_and_no_chart():
    told = measured_html("mini", {}, {})
    assert measured.NOT_MEASURED in told and measured.FACES_NOT_MEASURED in told
    assert "<svg" not in told and "<table" not in told and not marks(told) and told.count("remark") == 2


def test_met_bars_have_ticks(found):
    told = findings(found)
    assert marks("".join(told)) == "✓" * 11
    assert (
        "92.0 % [81.0, 97.0] of the results pass as the person." in told[0]
        and "The truth itself passes in 100.0 %." in told[1]
    )
    assert any(
        "shading" not in one and "Without the Shading Net the agreement" in one and "0.60 instead of 0.90" in one
        for one in told
    )
    assert any("0.20 instead of −0.02" in one for one in told), "a real minus sign"
    assert "learnt from five pictures in 63 s on 2 CPU cores" in told[-2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["rows"]["ours"]["passes"].update(share=0.899), "89.9 % [81.0, 97.0] of the results"),
        (lambda f: f["before"]["passes"].update(share=0.06), "6.0 % of the references"),
        (lambda f: f["rows"]["ours"].update(outside=1.0), "up to 1 of 255"),
        (lambda f: f["rows"]["ours"]["seam_excess"].update(median=0.1504), "+0.15 beyond"),
        (lambda f: f["rows"]["ours"]["ring_difference"].update(median=3.004), "+3.00 Lab units"),
        (lambda f: f["rows"]["ours"]["landmark_error"].update(median=3.04), "3.0 % of the face’s width"),
        (lambda f: f["ablations"]["no_shading"][0].update(difference=0.0), "Without the Shading Net"),
        (lambda f: f["speed"]["portrait"].update(median_s=15.01), "A portrait after it takes 15.0 s"),
        (lambda f: f["speed"]["training"].update(median_s=90.4), "in 90 s"),
    ],
)
def test_a_missed_bar_is_called_missed_whatever_rounding_says(found, change, words):
    changed = copy.deepcopy(found)
    change(changed)
    missed = [one for one in findings(changed) if "✗" in one]
    assert len(missed) == 1 and words in missed[0] and "missed" in missed[0]


def test_what_is_not_defined_has_no_sentence(found):
    found["rows"]["ours"]["seam_excess"] = {"n": 0}
    found["ablations"]["no_shading"][0]["difference"] = None
    found.pop("speed")
    assert len(findings(found)) == 7


def test_the_page_has_a_table_a_chart_and_no_markup_from_elsewhere(found):
    told = measured_html("mini", found, FACES)
    assert "<i>" not in told and "&lt;i&gt;three" in told and "<b>x" not in told
    assert re.findall(r"scope='row'>([^<]+)<", told) == ["all &lt;i&gt;three&lt;/i&gt; nets", "preview"]
    assert (
        "<td role='cell' data-label='Seconds' data-way=', lower is better' class=none></td>" in told and "−1.20" in told
    )
    assert told.count('class="dot"') == 5, "the reference, two ways, the truth, the pictures among themselves"
    assert "A first look" not in told and "mini set" not in told and "None" not in told


def test_another_run_than_the_plan_s_is_a_first_look_and_the_full_set_is_told_apart(found):
    assert "A first look" in measured_html("mini", found | {"stream": "validation"}, {})
    assert "A first look" in measured_html("mini", found | {"pairs": 20}, {})
    assert "not of SDXL and real people" in measured_html("full", found, FACES)


def test_the_face_models_have_a_roc_and_their_rates():
    told = measured_html("mini", {}, FACES)
    assert "1.25 % [1.00, 1.50]" in told and "497,500" in told and "1.2 % of its width" in told
    assert "98.7 % of the pairs of one person pass, and 1.1 % of those of two" in told
    assert "From 95.0 % at 10^−4.0 to 100.0 %" in told and told.count("<polyline") == 1
    assert told.count('class="fill"') == 2 and "one was seen in 2.0 %" in told
    missed = copy.deepcopy(FACES)
    missed["identity"]["equal_error_rate"] = 0.0301
    assert marks(measured_html("mini", {}, FACES)) == "✓" and marks(measured_html("mini", {}, missed)) == "✗"


def test_sheets_are_shown_small_where_they_are(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measured, "SHEETS", tmp_path)
    assert measured.sheets() == ""
    Image.new("RGB", (800, 736)).save(tmp_path / "worst.webp")
    told = measured.sheets()
    assert told.count("<img") == 1 and "Worst five" in told and len(told) < 20_000


def test_the_nets_that_nobody_is_trained_for_are_told_beside_those_that_a_person_is(found):
    assert not any("nobody trained" in sentence for sentence in findings(found))
    found["rows"]["ours"] |= {"psnr_core": spread(12.3), "sharpness_ratio": spread(0.52)}
    found["rows"]["drawn"] = way("drawn", 0.71, psnr_core=spread(18.24), sharpness_ratio=spread(0.83))
    (told,) = (sentence for sentence in findings(found) if "nobody trained" in sentence)
    ours = found["rows"]["ours"]["identity"]["mean"]
    assert "92.0 % [81.0, 97.0] pass" in told and "18.2 dB from the truth instead of 12.3" in told
    assert f"similarity 0.71 instead of {ours:.2f}, and the sharpness 0.83 of the reference’s instead of 0.52." in told
