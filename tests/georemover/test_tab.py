"""The GeoRemover tab: its handlers without a browser, on random weights of toy size."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import app
from demos import georemover as georemover_tab
from demos.core import handlers, widgets
from demos.core.form import Form
from demos.georemover import batch, edit, measured, painter, scenes, settings
from demos.georemover.files import BESIDE, settings_inside
from demos.georemover.mask import BRUSH, asked_mask
from demos.georemover.shown import (
    metrics_html,
    notes_html,
    verdict_erased,
    verdict_iou,
    verdict_psnr,
    verdict_residual,
    verdict_worst,
)
from pipelines import georemover
from pipelines.core import images, masks
from pipelines.core.registry import Registry
from pipelines.georemover import Cache, Recipe, Settings, export
from pipelines.georemover.batch import BatchRow
from pipelines.models import flux
from pipelines.models.flux_tiny import HEIGHT, WIDTH
from tests.core.test_app import shown, visit
from tests.environment import free_port
from tests.georemover.page import TOY, handler, last, own_picture, press, strokes, values
from tests.toys import flux as toy_flux

# --- runs ---


def test_remove_shows_everything_and_measures_against_the_truth(page):
    run = list(press(page, "remove", "run", compare=True, variants=2))
    made = last(run)
    text = shown(run)
    for words in (
        "Done in ",
        "Measured against the truth",
        "Residual effect",
        "Same model, mask only",
        "The truth, rendered",
        "Models that answered",
        "not look like a depth map",
    ):
        assert words in text, words
    assert len(made.results) == len(made.composites) == len(made.strips) == 2
    inside = images.read_settings(made.results[1], tab="georemover")["settings"]
    assert inside["seed"] == 1 and inside["scene"]["seed"] == scenes.START.seed
    with zipfile.ZipFile(made.everything) as archive:
        names = set(archive.namelist())
        assert {
            "settings.json",
            "scene.json",
            "mask.png",
            "depth_before.png",
            "depth_after.png",
            "composite_1.png",
        } <= names
        assert json.loads(archive.read("settings.json"))["settings"]["steps_1"] == 4
    inside = settings_inside(made.composites[0])
    assert (inside.settings.steps_1, inside.settings.variants) == (4, 2)
    assert inside.recipe.seed == scenes.START.seed and inside.next_step() == "Press Remove to make it again."


def test_the_stages_run_one_by_one_and_nothing_twice(page):
    kept = Cache()
    first = last(list(press(page, "estimate_depth", "stages", mode=BRUSH, kept=kept)))
    assert not first.outcome.mask.any(), "depth needs no mask"
    assert first.outcome.depth_after is None and not first.results and len(kept) == 1
    second = last(list(press(page, "remove_from_depth", "stages", kept=kept)))
    assert second.outcome.depth_after is not None and len(kept) == 2
    assert "does not look like a depth map" in " ".join(second.outcome.notes)
    assert (second.outcome.depth_before == first.outcome.depth_before).all()
    third = last(list(press(page, "render", "stages", kept=kept)))
    assert third.outcome.seconds["stage 1"] == 0, "it came from the cache"
    assert (third.outcome.depth_after == second.outcome.depth_after).all()


def test_a_depth_of_ones_own_is_rendered_and_of_another_picture_is_not(page):
    kept, picture = Cache(), scenes.first()
    depth = numpy.linspace(0, 1, HEIGHT * WIDTH, dtype=numpy.float32).reshape(HEIGHT, WIDTH)
    mine = edit.OwnDepth(picture.key, depth)
    made = last(list(press(page, "render", "own", picture, own=mine, kept=kept)))
    assert numpy.abs(made.outcome.depth_after - depth).max() < 0.01
    assert settings_inside(made.results[0]).next_step() == (
        "The file does not hold the depth after that was painted or brought: bring that again, then press Render from my depth."
    )
    other = last(list(press(page, "render", "own", own=dataclasses.replace(mine, key="x"), kept=kept)))
    assert numpy.abs(other.outcome.depth_after - depth).max() > 0.1
    whole = last(list(press(page, "remove", "own", picture, own=mine, kept=kept)))
    assert numpy.abs(whole.outcome.depth_after - depth).max() > 0.1, "Remove starts from the mask"


def test_what_if_the_depth_had_not_changed(page):
    picture = scenes.first()
    with pytest.raises(gr.Error, match="press 1 Estimate depth"):
        list(press(page, "render_unchanged", "same", picture))
    known = last(list(press(page, "estimate_depth", "same", picture)))
    made = last(list(press(page, "render_unchanged", "same", picture, known=known)))
    assert (made.outcome.depth_after == made.outcome.depth_before).all()
    assert "The depth did not change" in " ".join(made.outcome.notes)
    assert "press What if" not in settings_inside(made.results[0]).next_step()
    assert "What if the depth had not changed?" in settings_inside(made.results[0]).next_step()


def test_a_picture_of_ones_own_gets_self_checks_and_a_composite_of_its_own_size(page):
    picture = own_picture()
    made = last(list(press(page, "remove", "photo", picture, BRUSH, strokes(picture))))
    assert "Self-checks" in metrics_html(made.outcome) and made.clean is None
    assert "The small models know only our rendered scenes" in " ".join(made.outcome.notes)
    composite, original = (numpy.asarray(Image.open(p).convert("RGB")) for p in (made.composites[0], made.original))
    assert composite.shape == original.shape == (200, 300, 3)
    moved, mask = (composite != original).any(-1), masks.resized(made.outcome.mask, (300, 200))
    assert moved[mask].mean() > 0.5
    inside = images.read_settings(made.strips[0])["settings"]
    assert (inside["original_size"], inside["mask"], inside["depth"]) == ([300, 200], "drawn", "stage 1")
    assert "the picture and its mask: bring that again" in settings_inside(made.strips[0]).next_step()
    assert made.outcome.changed == [] and max(made.outcome.composites[0].size) <= BESIDE, (
        "what is as large as the original is not kept in memory"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": None}, "seed is nothing"),
        ({"steps_1": 10**9}, "steps of stage 1"),
        ({"variants": 0}, "variants"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"preset": "int1"}, "preset 'int1'"),
    ],
)
def test_wrong_settings_get_a_sentence_before_anything_changes(page, changed: dict, words: str):
    for name in ("remove", "estimate_depth"):
        with pytest.raises(gr.Error) as caught:
            next(press(page, name, "wrong", **changed))
        assert words in caught.value.message and caught.value.message.endswith(".")


def test_a_result_is_called_by_what_was_brushed_and_comes_back_without_a_foreign_depth(page):
    picture = scenes.first()
    other = 1 - picture.index
    drawn = painter.value_of(picture, picture.solids[other])
    run = list(press(page, "remove", "about", picture, BRUSH, drawn, threshold=31))
    assert "changed by more than 31 " in shown(run) and "In the raw result of stage 2" in shown(run)
    entries = next(v for v in run[-1].values() if isinstance(v, list) and v and isinstance(v[0], widgets.Entry))
    assert entries[0].caption.startswith(picture.names[other])
    inside = settings_inside(last(run).composites[0])
    assert inside.next_step() == "The file does not hold the brushed mask: bring that again, then press Remove."
    back = handler(page, "bring_back")(entries, 12, SimpleNamespace(index=0))
    assert edit.NONE in back.values() and "changed by more than 12 " in shown([back])
    held = next(v for v in back.values() if isinstance(v, painter.Picture))
    painted = next(v for v in back.values() if isinstance(v, dict) and "mask" in v)
    assert (asked_mask(held, BRUSH, painted) == picture.solids[other]).all()


def test_stop_keeps_what_is_finished(page):
    kept, seen = Cache(), []
    run = press(page, "remove", "stop", kept=kept, steps=60)
    while "Result" not in shown(seen[-1:]):
        seen.append(next(run))
    assert handlers.stop_run(visit("stop"))
    assert "Stages that were finished are kept" in shown(list(run)) and len(kept) == 2


def test_a_run_that_breaks_does_not_look_as_if_it_went_on(page, monkeypatch: pytest.MonkeyPatch):
    def breaks(job, *rest):
        raise MemoryError("there is no room")

    monkeypatch.setattr(georemover, "generate", breaks)
    seen = []
    with pytest.raises(gr.Error, match="There is no room."):
        for update in press(page, "remove", "broken"):
            seen.append(update)  # not a comprehension: what came before the error is kept
    assert "progress-line stopped" in shown(seen[-1:])


# --- words ---


def measured_outcome(residual: float | None) -> SimpleNamespace:
    regions = {name: {"psnr": 30.0, "ssim": 0.9} for name in ("mask", "effect", "rest", "whole")}
    if residual is None:
        regions["effect"] = {"psnr": None, "ssim": None}
    row = {
        "truth": True,
        "residual_effect": residual,
        "change_iou": None if residual is None else 0.8,
        "over_erasure": 0.001,
        "inserted": False,
        "regions": regions,
    }
    return SimpleNamespace(metrics=[row], baselines={"fill_only": {**row, "residual_effect": residual and 1.0}})


def test_the_measurements_say_in_words_what_they_mean():
    told = metrics_html(measured_outcome(0.08))
    assert "0.080" in told and "✓ gone with its shadow and reflection" in told and "✗ still there" in told
    assert told.count("<th role='columnheader'") == 2 * 3 and "not defined" not in told
    bare = metrics_html(measured_outcome(None))
    assert bare.count("<b>not defined</b>") == 8 and "nothing beyond it to remove" in bare and "0.000" not in bare


def test_marks_never_stand_without_their_words():
    told = metrics_html(measured_outcome(0.08))
    assert all(word.strip() for word in re.findall(r"[✓✗]([^<]+)<", told))
    assert notes_html(["<b>x</b>"]) == "<p class='remark'>&lt;b&gt;x&lt;/b&gt;</p>"


def test_the_measured_figures_are_a_table_or_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def row(title: str, mean: float) -> dict:
        spread = {"mean": mean, "median": mean, "q1": mean / 2, "q3": 2 * mean, "n": 200}
        return {
            "title": title,
            "residual": spread,
            "psnr_effect": {"mean": 28.5},
            "over_erasure": {"mean": 0.002},
            "inserted": 0.015,
            "change_iou": {"mean": 0.7},
            "depth_error": {"n": 0},
            "seconds": 2.5,
        }

    found = {
        "scenes": 200,
        "pixels": [768, 512],
        "rows": {"ours": row("ours", 0.1), "fill_only": row("mask <only>", 1.0), "fast": row("fast", 0.2)},
    }
    told = measured.measured_html("mini", found)
    for words in (
        "10.0 % is left in the mean",
        "against 1.000 where the same base model",
        "at most 15 %, which is met",
        "28.5 dB",
        "in 2.5 s, 20.0 % is left",
        "mask &lt;only&gt;",
    ):
        assert words in told, words
    assert "of the mini set, not of FLUX" not in told and "of the mini set, not of FLUX" in measured.measured_html(
        "full", found
    )
    monkeypatch.setattr(export, "measured", lambda: None)
    assert measured.NOT_MEASURED in measured.measured_html("mini")


# --- a depth of one's own, files, batch ---


def test_painted_and_brought_depths_come_back_as_they_were(tmp_path: Path):
    depth = numpy.tile(numpy.linspace(0, 1, WIDTH, dtype=numpy.float32), (HEIGHT, 1))
    untouched = edit.ground(depth)["composite"]
    assert (edit.level_of(untouched, depth) == depth).all(), "change nothing: then nothing may go"
    drawn = numpy.asarray(untouched).copy()
    drawn[150:240, 300:390, :3] = 64  # three pixels of the editor for one of the depth
    painted = edit.level_of(Image.fromarray(drawn), depth)
    stroke = numpy.zeros(depth.shape, bool)
    stroke[50:80, 100:130] = True
    assert (painted[~stroke] == depth[~stroke]).all() and numpy.abs(painted[stroke] - 64 / 255).max() < 1e-3


def test_restoring_checks_the_settings_inside(tmp_path: Path):
    path, image = tmp_path / "a.png", Image.new("RGB", (8, 6))
    good = dataclasses.asdict(Settings()) | {"kind": "result", "scene": {"seed": 5, "index": 0, "from later": 1}}
    images.save_png(image, path, good, tab="georemover")
    inside = settings_inside(path)
    assert inside.settings == Settings() and inside.recipe == Recipe(5)
    scene = {"seed": 5, "index": 0}
    for bad in (
        {"seed": "5"},
        {"steps_2": 10**9},
        {"model_set": "maxi"},
        {"scene": {"seed": "x", "index": 0}},
        {"scene": 7},
        {"scene": scene | {"seed": 10**6}},
        {"scene": scene | {"seed": -1}},
        {"scene": scene | {"seed": True}},
        {"scene": scene | {"index": -1}},
        {"scene": scene | {"floor": ["wood"]}},
        {"scene": scene | {"floor": "lava"}},
        {"scene": scene | {"light": {}}},
        {"scene": scene | {"count": 4}},
        {"scene": scene | {"mirror": "yes"}},
    ):
        images.save_png(image, path, good | bad, tab="georemover")
        with pytest.raises(ValueError, match=r"\.$"):
            settings_inside(path)
    images.save_png(image, path, good, tab="golden_noise")
    with pytest.raises(ValueError, match="golden_noise"):
        settings_inside(path)


def test_what_is_restored_fits_the_page(page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda words, **_rest: told.append(words))
    path, base = tmp_path / "full.png", flux.BASES["mini"]
    fast = dataclasses.replace(Settings.of("full", fast=True), steps_1=base.fast[0], steps_2=base.fast[1])
    images.save_png(Image.new("RGB", (8, 6)), path, dataclasses.asdict(fast), tab="georemover")
    named = {getattr(block, "label", ""): value for block, value in handler(page, "restore")(str(path)).items()}
    assert named["Grow or shrink the mask, pixels"] == named["Soft edge of the composite, pixels"] == base.grow == 2
    assert named["Pace"] == ("official" if base.steps == base.fast else "fast")
    assert "Growth and soft edge were left out" in told[0] and "the picture and its mask" in told[0]


def test_the_pace_is_that_of_the_steps():
    for words, made in (("official", Settings.of("full")), ("fast", Settings.of("full", fast=True))):
        assert settings.pace_of("full", made) == words
        assert settings.pace_of("full", dataclasses.replace(made, steps_1=9)) is None


def test_on_zerogpu_there_is_one_preset(monkeypatch: pytest.MonkeyPatch):
    with gr.Blocks():
        plain, fixed = (settings.build(Form(Settings.of("full")), fixed) for fixed in (False, True))
    preset, only = plain.asked["preset"], fixed.asked["preset"]
    assert preset.visible and plain.presets == tuple(flux.FULL.presets)
    assert not only.visible and fixed.presets == ("bf16",) and len(only.choices) == 1
    seen: list[bool] = []
    build = settings.build
    monkeypatch.setattr(settings, "build", lambda of, fixed: seen.append(fixed) or build(of, fixed))
    with toy_flux.installed(), gr.Blocks():
        for mode in ("zero", "cpu"):
            georemover_tab.build(Registry(mode, move=lambda module, _device: module), "mini")
    assert seen == [True, False]


def test_a_finished_picture_of_a_batch_is_on_the_disk_and_not_in_memory(tmp_path: Path):
    made = SimpleNamespace(composites=[Image.new("RGB", (6, 4), "red")], metrics=[{}], seconds={}, notes=[])
    rows = [batch.pack(BatchRow(name, made), tmp_path) for name in ("set/a", "b")]
    assert [row.outcome for row in rows] == [None, None]
    with zipfile.ZipFile(tmp_path / batch.PACKED) as archive:
        assert archive.namelist() == ["set/a_composite.png", "b_composite.png"]
        assert Image.open(io.BytesIO(archive.read("b_composite.png"))).getpixel((0, 0)) == (255, 0, 0)


def test_a_batch_goes_on_over_what_cannot_be_done(page, tmp_path: Path):
    pair = scenes.truth(scenes.START)
    packed = tmp_path / "many.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name, pixels in (("a", pair.image), ("a_mask", pair.mask), ("a_gt", pair.clean), ("lonely", pair.image)):
            data = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(data, "PNG")
            archive.writestr(f"{name}.png", data.getvalue())
        archive.writestr("read me.txt", "hello")
    run = list(handler(page, "batch")(visit("batch"), str(packed), False, **values()))
    told = shown(run)
    assert (
        "There is no lonely_mask.png in its folder: add the mask." in told and "by its name this is no picture" in told
    )
    assert "0 pictures, 3 rows without a result" in told and "Done: 1 picture, 2 rows without a result" in told
    files = [
        str(v.value) if not isinstance(v.value, dict) else v.value["path"]
        for u in run
        if isinstance(u, dict)
        for v in u.values()
        if isinstance(v, gr.DownloadButton) and v.value
    ]
    table = next(Path(path).read_text() for path in files if path.endswith(".csv"))
    assert table.splitlines()[0].startswith("name,files,error,residual_effect")
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["a", "lonely", "read me.txt"]
    assert not [path for path in files if path.endswith(".zip")], "each would be one more copy on the disk"
    folder = next(v for v in run[0].values() if v and isinstance(v, str) and Path(v).is_dir())
    with zipfile.ZipFile(handler(page, "packed_pictures")(folder)) as archive:
        assert archive.namelist() == ["a_composite.png"]
    with pytest.raises(gr.Error, match="No picture of this batch"):
        handler(page, "packed_pictures")("")
    with pytest.raises(gr.Error, match="no zip yet"):
        next(handler(page, "batch")(visit("batch"), None, False, **values()))
    packed.write_text("x")
    with pytest.raises(gr.Error, match="not a zip that can be read"):
        list(handler(page, "batch")(visit("batch"), str(packed), False, **values()))


def test_rows_of_a_batch_are_escaped():
    row = BatchRow("<img>", error="<b>no</b>.")
    assert "<img>" not in batch.board_html([row]) and "&lt;b&gt;no" in batch.board_html([row])


# --- the endpoint ---


@pytest.fixture(scope="module")
def address(page: gr.Blocks) -> Iterator[str]:
    port = free_port()
    app.serve(page, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, first = tmp_path_factory.mktemp("sent"), scenes.first()
    first.image.save(folder / "image.png")
    Image.fromarray(first.solids[first.index]).convert("L").save(folder / "mask.png")
    return folder / "image.png", folder / "mask.png"


def test_the_endpoint_answers_with_files_and_measurements(address: str, files: tuple[Path, Path]):
    client = Client(address, verbose=False)
    info = client.view_api(return_format="dict")["named_endpoints"]["/remove_object"]
    assert [p["parameter_name"] for p in info["parameters"]] == [
        "image",
        "mask",
        "seed",
        "steps",
        "model_set",
        "settings",
    ]
    assert [r["label"] for r in info["returns"]] == ["result", "depth before", "depth after", "measurements"]
    image, mask = map(handle_file, files)
    result, before, after, told = client.predict(image=image, mask=mask, seed=3, steps=4, api_name="/remove_object")
    assert images.read_settings(result, tab="georemover")["settings"]["seed"] == 3
    assert Image.open(before).size == Image.open(after).size == (WIDTH, HEIGHT) and Image.open(result).size == (
        768,
        512,
    )
    assert told["settings"]["steps_2"] == 4 and told["metrics"][0]["truth"] is False and told["models"]
    told = client.predict(image=image, mask=mask, api_name="/remove_object")[3]
    assert (told["settings"]["steps_1"], told["settings"]["steps_2"]) == flux.BASES["mini"].steps


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": None}, "image is nothing (null) but must be a file"),
        ({"image": 7}, "image is 7 but must be a file"),
        ({"mask": "mask.png"}, "mask is 'mask.png' but must be a file"),
        ({"image": {"path": "/etc/passwd"}}, "no file that was sent here"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 10**9}, "steps of stage 1"),
        ({"steps": "25"}, "steps is '25' but must be a whole number"),
        ({"model_set": "maxi"}, "'maxi' is unknown"),
        ({"model_set": ["mini"]}, "odel set"),
        ({"model_set": "full"}, "This server runs the model set mini, not full"),
    ],
)
def test_wrong_input_gets_one_clear_sentence(address: str, files: tuple[Path, Path], values: dict, words: str):
    with files[0].open("rb") as image, files[1].open("rb") as mask:
        sent = httpx.post(f"{address}/gradio_api/upload", files=[("files", image), ("files", mask)]).json()
    known = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
    given = {"image": known[0], "mask": known[1], "seed": 0, "steps": 4, "model_set": "mini"} | values
    answer = httpx.post(f"{address}/gradio_api/call/remove_object", json={"data": list(given.values())})
    stream = httpx.get(f"{address}/gradio_api/call/remove_object/{answer.json()['event_id']}", timeout=120).text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    text = json.loads(data)["error"]
    assert kind == "error" and words in text and text.endswith(".") and "\n" not in text and "Traceback" not in text


# --- the whole page ---


def test_the_full_set_says_its_licence_next_to_the_button():
    with toy_flux.installed(TOY):
        page = app.build(app.from_environment(), "full")
    words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "Non-commercial use only" in words and "huggingface.co/black-forest-labs/FLUX.1-Fill-dev" in words
    guidance = next(
        b for b in page.blocks.values() if isinstance(b, gr.Slider) and b.label == "Guidance" and b.maximum == 50
    )
    assert "no effect" not in guidance.info


def test_without_the_full_weights_a_classical_fill_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LATENT_STUDIO_RAM_GIB", "64")  # nothing of it is loaded
    with toy_flux.installed(TOY):
        page = app.build(app.from_environment(), "full")
    picture, seen = own_picture(), []
    with pytest.raises(gr.Error, match="The full set is not in the local cache"):
        for update in press(page, "remove", "bare", picture, BRUSH, strokes(picture), preset="bf16"):
            seen.append(update)
    assert "A preview, not GeoRemover" in shown(seen) and "progress-line stopped" in shown(seen)
    before, after = next(map(numpy.asarray, pair) for u in seen for pair in u.values() if isinstance(pair, tuple))
    off = (before != after).any(-1)
    assert before.shape == after.shape == (192, 256, 3) and off[40:60, 50:70].all(), "the marked area was filled"
    assert not off[:10].any() and not off[:, 120:].any(), "and nothing else"


def test_the_mini_set_says_what_it_does_not_know(page):
    words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "rendered tabletop scenes only" in words
    guidance = next(
        b for b in page.blocks.values() if isinstance(b, gr.Slider) and b.label == "Guidance" and b.maximum == 50
    )
    assert "no effect in the mini set" in guidance.info


def test_settings_have_a_widget_each(page):
    runs = [f for f in page.fns.values() if getattr(f.fn, "__name__", "") in ("remove", "batch")]
    ours = [f for f in runs if "grow" in f.input_keyword_names]
    assert len(ours) == 2 + 1, "the button, an example, the batch"
    for event in ours:
        assert set(event.input_keyword_names) | {"model_set"} == {field.name for field in dataclasses.fields(Settings)}
        assert len(event.inputs) - len(event.input_keyword_names) <= 12


def test_a_tick_stands_only_where_the_bar_of_the_evaluation_is_met():
    ticks = [verdict_residual(value)[1] for value in (0.15, 0.16, 0.5, 1.0, 1.2)]
    assert ticks == [True, False, False, False, False]
    assert [verdict_psnr(value)[1] for value in (27.0, 26.9, 20.0)] == [True, False, False]
    plain, ghost = ({"difference": d, "lightness": 5.0, "share": 0.126} for d in (2.2, 2.3))
    assert verdict_residual(0.03, plain)[1] and not verdict_residual(0.03, ghost)[1]
    assert verdict_residual(0.03, ghost)[0] == "gone but for a ghost, lighter, on 12.6 % of the area"
    assert verdict_psnr(40, plain)[1] and not verdict_psnr(40, ghost)[1]
    assert verdict_worst(plain) == ("nothing to be seen", True) and not verdict_worst(ghost)[1]
    assert verdict_erased(0.0)[0] == "nothing else touched" != verdict_erased(0.001)[0]
    assert [verdict_iou(value)[1] for value in (0.6, 0.59, 0.1)] == [True, False, False]
    assert [verdict_erased(value)[1] for value in (0.01, 0.011)] == [True, False]
