"""Results side by side: what differs is marked, what is the same is said once, and a sheet holds all of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

import app  # noqa: F401  (builds the page)
from demos.core import compare
from demos.core.widgets import Entry, History, Made
from pipelines import golden_noise, time_edit
from pipelines.core import images

MODELS = [{"key": "mini-sdxl/unet", "licence": "Apache-2.0"}]


def entries(folder: Path, settings: Any, *changes: dict[str, Any]) -> list[Entry]:
    """Results of the same settings but for the ``changes``, each a plain colour."""
    made = []
    for number, change in enumerate(changes):
        asked = dataclasses.replace(settings, **change)
        image = Image.new("RGB", (64, 48), (40 * number, 90, 200))
        path = images.save_png(image, folder / f"{number}.png", dataclasses.asdict(asked), tab="x")
        made.append(Entry(str(path), f"a <b> caption, seed {asked.seed}", None, Made(asked).by(MODELS)))
    return made


def test_only_what_differs_is_marked(tmp_path: Path):
    given = entries(tmp_path, golden_noise.Settings.of("mini"), {}, {"steps": 4}, {"steps": 4, "source": "redenoise"})
    differs, same = compare.compared(given)
    words = golden_noise.SOURCES
    assert differs == {
        "Steps": ["25", "4", "4"],
        "Golden noise from": [words["npnet"], words["npnet"], words["redenoise"]],
    }
    assert same["Guidance"] == "5.5" and "Steps" not in same
    html = compare.board(given)
    assert html.count("<mark>") == 6 and html.count("<img ") == 3 and "<b> caption" not in html
    assert "Their settings are the same" in compare.board([given[1], given[1]])


@pytest.mark.parametrize("count", range(compare.LEAST, compare.MOST + 1))
def test_a_sheet_holds_every_picture_and_is_the_same_each_time(tmp_path: Path, count: int):
    given = entries(
        tmp_path, time_edit.Settings.of("mini"), *({"seed": 7 + n, "edits": "a λ → 日本"} for n in range(count))
    )
    sheet = compare.sheet(given, "A paper")
    assert sheet.tobytes() == compare.sheet(given, "A paper").tobytes()
    colours = {colour for _n, colour in sheet.getcolors(sheet.width * sheet.height)}
    assert {(40 * n, 90, 200) for n in range(count)} <= colours
    png, pdf = (Path(compare.save(sheet, tmp_path / f"sheet.{kind}")) for kind in ("png", "pdf"))
    assert images.open_picture(png).size == sheet.size and pdf.read_bytes().startswith(b"%PDF")


def test_letters_that_the_font_lacks_are_spelled():
    assert compare.drawable("λ = 1, a → b") == "lambda = 1, a -> b"
    assert compare.drawable("Grüße, naïve") in ("Grüße, naïve", "Grusse, naive") and compare.drawable("日本") == "??"
    assert all(compare.font(18).getlength(one) <= 200 for one in compare.lines("word " * 60 + "x" * 400, 18, 200))


def test_results_are_picked_and_left_out_again(tmp_path: Path):
    given = entries(tmp_path, golden_noise.Settings.of("mini"), *({"seed": n} for n in range(8)))
    with gr.Blocks():
        history = History("A paper")

    def pick(index: int, picked: list[str]) -> dict[Any, Any]:
        return history._pick(given, picked, gr.SelectData(None, {"index": index, "value": None}))

    one = pick(3, [])
    assert one[history.picked] == [given[3].picture] and "<img" not in one[history.board]
    assert not one[history.saves[0]].interactive
    two = pick(1, one[history.picked])
    assert two[history.board].count("<img ") == 2 and two[history.saves[1]].interactive
    assert pick(3, two[history.picked])[history.picked] == [given[1].picture]
    six = [entry.picture for entry in given[:6]]
    request = gr.Request(session_hash="compare")
    for kind in ("png", "pdf"):
        assert Path(history._sheet(kind, given, six, request)).stat().st_size > 1000
    added = history.add(given[1:], given[0])
    assert set(added) == set(history.outputs) and added[history.picked] == []


def test_a_result_of_an_earlier_version_has_no_settings_to_compare(tmp_path: Path):
    given = [dataclasses.replace(one, made=None) for one in entries(tmp_path, golden_noise.Settings.of("mini"), {}, {})]
    assert "<img" in compare.board(given) and compare.sheet(given, "A paper").width
