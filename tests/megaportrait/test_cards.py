"""The cards of the face models and of the ControlNets: their words come with the figures that were measured, and with no others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from assets.lab import cards
from assets.megaportrait import evaluate
from pipelines.megaportrait import tools
from pipelines.megaportrait.learn import Training
from tests.megaportrait.test_evaluation import row
from tests.megaportrait.test_measured import FACES

RUN = {"minutes": 25.0, "steps": 1234, "loss": 0.2123, "pictures": 8000, "processes": 2, "seed": 0}
HELD = {"with map": 0.2, "black map": 0.22, "base alone": 0.21}
KNOWN = {"seam_excess": 0.05, "ring_difference": 1.0, "landmark_error": 2.0, "shading_agreement": 0.9}
LESSON = {"wall": 61.0, "seconds": 60.0, "steps": 300, "best_step": 240, "score_before": 0.1, "score": 0.8}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the models and of the paper without any figure; returns what holds them."""
    monkeypatch.setattr(cards, "HERE", tmp_path)
    monkeypatch.setattr(tools, "threshold", lambda: 0.5)
    for name in ("mini_faces", "mini_controlnets", "megaportrait"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def portraits(stream: str = "test", people: int = 10, **rows) -> dict:
    ours = [row(0.9, **KNOWN)] * 46 + [row(0.1, **KNOWN)] * 4
    made = {"ours": ours, "first": ours, **rows}
    return evaluate.report([LESSON], made, stream, people, {}, Training.of("mini"))


def test_cards_can_be_written_before_anything_was_trained_or_measured(folder):
    for name in ("mini_faces", "mini_controlnets"):
        card = cards.CARDS[name]()
        assert "## Measured" not in card and "Apache-2.0" in card and "None" not in card and "nan" not in card


def test_trainings_are_told_with_their_commands_the_earlier_ones_too(folder):
    first = RUN | {"minutes": 5.0, "steps": 77, "processes": 1}
    put(
        folder / "mini_controlnets/manifest.json",
        {"training": {"line": RUN | {"held out": HELD, "earlier": [first | {"held out": HELD}]}}},
    )
    card = cards.CARDS["mini_controlnets"]()
    assert (
        "`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_controlnets.train line --minutes 25` | 25 | 1,234 | 0.2123 | 0.20000"
        in card
    )
    assert (
        "`OMP_NUM_THREADS=1 python -m assets.mini_controlnets.train line --minutes 5` | 5 | 77" in card
        and "8,000 of the portraits" in card
    )
    put(
        folder / "mini_faces/manifest.json",
        {"training": {"parser": RUN, "embedder": RUN}, "sha256": {"parser/x": "abc"}, "bytes": {"parser/x": 1_500_000}},
    )
    card = cards.CARDS["mini_faces"]()
    assert "-m assets.mini_faces.train embedder --minutes 25" in card and "| `parser/x` | 1.50 MB | `abc` |" in card


def test_the_face_models_card_has_the_measured_rates(folder):
    identity = FACES["identity"] | {
        "equal_error_rate_true_points": 0.0091,
        "similarity": {"same": {"mean": 0.81}, "different": {"mean": 0.02, "p95": 0.3}},
    }
    landmarks = FACES["landmarks"] | {"by yaw": {"0 to 0.17": FACES["landmarks"]["all"], "0.17 to 0.34": {"n": 0}}}
    put(
        folder / "mini_faces/evaluation.json",
        FACES | {"identity": identity, "landmarks": landmarks, "parts": {"skin": 0.95, "hair": 0.9}},
    )
    card = cards.CARDS["mini_faces"]()
    for wanted in (
        "| 1.25 % [1.00, 1.50] | 3 % |",
        "| 0.4120 |",
        "| all | 1.20 | 2.60 | 1,000 |",
        "| dark | 95.0 % | 200 |",
        "skin 0.950, hair 0.900",
    ):
        assert wanted in card
    assert "| turned by 0 to 0.17 rad |" in card and "0.17 to 0.34" not in card, "and nothing of what was not measured"


def test_the_controlnets_card_has_bars_arms_and_ablations(folder):
    found = portraits(
        no_shading=[row(0.9, shading_agreement=0.2)] * 50, preview=[row(None)] * 49 + [{"refused": "No face."}]
    )
    speed = {
        "times": 3,
        "threads": 2,
        "steps": 310,
        **{name: {"median_s": 6.25, "most_s": 7.0} for name in ("portrait", "fast")},
    }
    put(
        folder / "megaportrait/evaluation.json",
        found | {"speed": speed | {"training": {"median_s": 95.0, "most_s": 96.0}}},
    )
    card = cards.CARDS["mini_controlnets"]()
    assert "| Results that pass as the person | at least 90 % | 0.92 | met |" in card
    assert (
        "| A person, seconds | at most 90 | 95.0 | **missed** |" in card
        and "| A portrait after it, seconds | at most 15 | 6.2 | met |" in card
    )
    assert (
        "92.0 % [81.2, 96.8] of 50" in card
        and "preview: nearest picture pasted, no network: refused pairs: 1 (No face.)" in card
    )
    assert (
        "| no Shading Net, no transfer of light | shading agreement | 0.900 (0.900; 0.900 to 0.900) | 0.200 (0.200; 0.200 to 0.200) | 0.7000 | 50, 0 |"
        in card
    )
    assert "A first look" not in card and "![worst](../megaportrait/worst.webp)" in card and "None" not in card
    assert "-m assets.megaportrait.evaluate --write`: 50 pairs of 10 people" in card


def test_another_run_than_the_plan_s_is_called_a_first_look_with_its_own_command(folder):
    put(folder / "megaportrait/evaluation.json", portraits("validation", 5))
    card = cards.CARDS["mini_controlnets"]()
    assert "**A first look**" in card and "--write --stream validation --pairs 50 --people 5 --arms ours`" in card


def test_a_card_s_settings_are_those_of_the_run(folder):
    found, ours = portraits(), evaluate.Settings.of("mini")
    assert found["settings"] == dataclasses.asdict(ours)
    put(folder / "megaportrait/evaluation.json", found)
    steps = f"{ours.identity_steps}, {ours.shading_steps} and {ours.harmonise_steps} steps"
    assert f"Portraits: {steps} at strengths {ours.identity_strength:g}, " in cards.CARDS["mini_controlnets"]()
