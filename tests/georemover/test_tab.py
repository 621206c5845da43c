"""The GeoRemover tab: its handlers without a browser, on random weights of toy size."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import struct
import zipfile
import zlib
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
from demos.core.hold import OnPage
from demos.georemover import batch, edit, measured, painter, scenes, settings
from demos.georemover import files as removal_files
from demos.georemover import shown as removal_shown
from demos.georemover.mask import BRUSH, CLICK, asked_mask, current_mask, mask_line, read_mask, snapped
from demos.georemover.run import Held
from pipelines import georemover
from pipelines.core import images, masks
from pipelines.core.registry import Registry
from pipelines.georemover import Cache, Recipe, Settings, export
from pipelines.georemover.batch import BatchRow
from pipelines.models import flux
from tests.core.test_app import shown, visit
from tests.environment import free_port
from tests.toys import flux as toy_flux

WIDTH, HEIGHT = 192, 128
TOY = dataclasses.replace(toy_flux.toy_base(), steps=(4, 4), fast=(4, 4))


@pytest.fixture(scope="module")
def page() -> Iterator[gr.Blocks]:
    with toy_flux.installed(TOY):
        yield app.build(app.from_environment())


def handler(page: gr.Blocks, name: str):
    """The page's handler of that name, as Gradio calls it; not another tab's."""
    ours = (f.fn for f in page.fns.values() if getattr(f.fn, "__name__", "") == name)
    return next(fn for fn in ours if not fn.__module__.startswith(("demos.golden_noise", "demos.concept_guidance")))


def values(steps: int = 4, **changed) -> dict:
    """What the settings' widgets hold, by name."""
    held = dataclasses.asdict(Settings(steps_1=steps, steps_2=steps)) | changed
    return {name: value for name, value in held.items() if name != "model_set"}


def press(
    page: gr.Blocks,
    name: str,
    visitor: str,
    picture=None,
    mode=CLICK,
    drawn=None,
    *,
    own=None,
    known=None,
    compare=False,
    threshold=8,
    kept=None,
    **changed,
):
    """The updates of a run's handler for what the page holds."""
    picture = scenes.first() if picture is None else picture
    cache = Cache() if kept is None else kept
    held = Held(picture, mode, drawn, own, known, compare, "inferno", "composite", threshold, [], cache, OnPage())
    return handler(page, name)(visit(visitor), *held, **values(**changed))


def last(updates: list) -> removal_files.Shown:
    """The run on the page after the last update."""
    found = [v for u in updates if isinstance(u, dict) for v in u.values() if isinstance(v, removal_files.Shown)]
    return found[-1]


def own_picture(size=(300, 200)) -> painter.Picture:
    pixels = numpy.random.default_rng(0).integers(0, 255, (*size[::-1], 3), numpy.uint8)
    return scenes.own(images.open_upload(Image.fromarray(pixels)), "mine")


def box_mask(picture: painter.Picture, box=(40, 30, 90, 80)) -> numpy.ndarray:
    mask = numpy.zeros(picture.image.size[::-1], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def strokes(picture: painter.Picture) -> dict:
    """The painter's value after a visitor has brushed a box."""
    return painter.value_of(picture, box_mask(picture))


# --- the first scene, rolling and choosing ---


def test_the_page_opens_with_a_scene_that_is_rendered_as_its_recipe_says():
    first, made = scenes.first(), scenes.roll(scenes.START)
    off = numpy.abs(numpy.asarray(first.image, int) - numpy.asarray(made.image, int))
    assert off.max() <= 2, "python -m demos.georemover.scenes writes it anew"
    assert (first.solids == made.solids).all() and first.names == made.names and first.index == made.index
    assert (read_mask(scenes.FIRST_MASK, first.image.size) == first.solids[first.index]).all()


def test_opening_the_page_renders_nothing(page):
    code = "import demos.georemover, sys; from demos.georemover.scenes import first; first(); print('torch' in sys.modules)"
    from tests.core.test_app import python

    assert python(code).strip() == "False"


def test_a_click_chooses_the_solid_under_it():
    picture = scenes.roll(Recipe(29, 2))
    for index, solid in enumerate(picture.solids):
        rows, columns = numpy.nonzero(solid)
        assert picture.at(int(numpy.median(columns)), int(numpy.median(rows))) == index
    assert picture.at(0, 0) is None
    assert len(set(picture.names)) == len(picture.names) == 2


def test_solids_that_look_alike_are_told_apart():
    scene = SimpleNamespace(solids=[SimpleNamespace(colour="red", shape="cone")] * 2, left_to_right=lambda: [1, 0])
    assert scenes._names(scene) == ("red cone, right", "red cone, left")


def test_a_brushed_mask_knows_its_solid_or_says_none():
    picture = scenes.roll(Recipe(29, 2))
    one, other = picture.solids[:2]
    assert picture.meant(one) == 0 and picture.meant(masks.grow(other, 3)) == 1
    assert picture.meant(one | other) is None, "two at once have no truth"
    assert picture.meant(numpy.zeros_like(one)) is None
    assert own_picture().meant(one) is None


def test_a_scene_without_that_object_is_refused():
    with pytest.raises(ValueError, match="has 1 objects and number 3 is to go"):
        scenes.roll(Recipe(38, 1, index=2))


def test_rolling_keeps_to_what_was_asked(page):
    made = list(handler(page, "roll_scene")(7, 3, "tile", "hard", "mirroring", 2, True).values())
    picture = next(v for v in made if isinstance(v, painter.Picture))
    assert len(picture.solids) == 3 and picture.recipe == Recipe(7, 3, "tile", "hard", True)
    for seed in (None, 10**6, -1, 2.5):
        with pytest.raises(gr.Error, match="scene seed is .* whole number"):
            handler(page, "roll_scene")(seed, 3, "tile", "hard", "mirroring", 2, True)


# --- masks ---


def test_a_mask_comes_back_as_it_went_onto_the_painter():
    picture = scenes.first()
    for mask in (picture.solids[0], box_mask(picture), numpy.zeros((HEIGHT, WIDTH), bool)):
        drawn = painter.value_of(picture, mask)
        assert (current_mask(picture, BRUSH, drawn) == mask).all()
    for size in ((300, 200), (1500, 1000), (900, 1600)):
        large = own_picture(size)
        back = current_mask(large, BRUSH, strokes(large))
        assert (back != box_mask(large)).sum() <= 2 * 200, "half a pixel of the painter around the box at most"


@pytest.mark.parametrize(
    "drawn",
    [
        None,
        "",
        {},
        {"mask": 7},
        {"mask": "data:image/png;base64,!"},
        {"mask": "data:image/png;base64,aGVsbG8="},
        {"mask": "data:image/jpeg;base64,AAAA"},
        {"mask": painter.PREFIX + "A" * painter.MOST},
    ],
)
def test_what_is_no_mask_marks_nothing(drawn):
    picture = scenes.first()
    drawn = {**drawn, "key": picture.key} if isinstance(drawn, dict) else drawn
    assert not current_mask(picture, BRUSH, drawn).any()
    assert not current_mask(dataclasses.replace(picture, key="another"), BRUSH, strokes(picture)).any()


@pytest.mark.parametrize(
    ("picture", "mode", "words"),
    [
        (None, CLICK, "no picture yet"),
        ("first", BRUSH, "Paint over the object first"),
        ("unchosen", CLICK, "click the object"),
        ("own", CLICK, "Paint over the object first"),
    ],
)
def test_what_is_missing_is_told(picture, mode, words):
    known = {None: None, "first": scenes.first(), "own": own_picture()}
    known["unchosen"] = known["first"].chosen(None)
    with pytest.raises(ValueError, match=words):
        asked_mask(known[picture], mode, None)


def test_mask_files_of_both_conventions(tmp_path: Path):
    mask = numpy.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 30:80] = True
    goes, stays = tmp_path / "goes.png", tmp_path / "stays.png"
    Image.fromarray(mask).convert("L").save(goes)
    Image.fromarray(~mask).convert("L").save(stays)
    assert (read_mask(goes, (WIDTH, HEIGHT)) == mask).all()
    assert (read_mask(stays, (WIDTH, HEIGHT), True) == mask).all()
    assert read_mask(goes, (2 * WIDTH, 2 * HEIGHT)).mean() == pytest.approx(mask.mean(), abs=0.01)
    Image.new("L", (12, 8)).save(goes)
    with pytest.raises(ValueError, match="marks nothing"):
        read_mask(goes, (WIDTH, HEIGHT))
    goes.write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        read_mask(goes, (WIDTH, HEIGHT))
    with pytest.raises(
        ValueError, match="The mask is 192 x 128 pixels and the picture 128 x 192, which is another format"
    ):
        read_mask(stays, (HEIGHT, WIDTH))


def put(page, name: str, *inputs) -> dict[type, list]:
    """What a handler of the page puts there, by its kind."""
    found: dict[type, list] = {}
    for value in handler(page, name)(*inputs).values():
        found.setdefault(type(value), []).append(value)
    return found


def fine_mask(picture: painter.Picture) -> numpy.ndarray:
    """A disc and a line of four pixels, finer than the painter shows them."""
    columns, rows = numpy.meshgrid(*map(numpy.arange, picture.image.size))
    mask = (columns - 600) ** 2 + (rows - 500) ** 2 < 211**2
    mask[900:904, 200:1500] = True
    return mask


def test_a_mask_stays_as_it_was_brought_until_somebody_paints(page, tmp_path: Path):
    picture = own_picture((2000, 1500))
    mask, file = fine_mask(picture), tmp_path / "mask.png"
    Image.fromarray(mask).convert("L").save(file)
    made = put(page, "bring_mask", str(file), False, picture, 2, True)
    held, drawn = made[painter.Picture][0], made[dict][0]
    assert (asked_mask(held, BRUSH, drawn) == mask).all()
    again = Path(handler(page, "saved")(held, BRUSH, drawn, visit("mask")))
    assert again.name == "mine_mask.png" and (read_mask(again, picture.image.size) == mask).all()
    with pytest.raises(gr.Error, match="Paint over the object first"):
        handler(page, "saved")(picture, BRUSH, None, visit("mask"))

    painted = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(drawn["mask"][len(painter.PREFIX) :])))).copy()
    painted[:40, :40] = (255, 64, 64, 255)
    stroke = drawn | {"mask": painter.data_uri(Image.fromarray(painted))}
    after = asked_mask(held, BRUSH, stroke)
    assert after[:100, :100].all() and not mask[:100, :100].any(), "what is painted counts"
    assert after[902, 300:1400].all(), "a thin line stays"


def test_going_back_and_forth_does_not_let_a_mask_creep():
    picture = own_picture((2000, 1500))
    mask = back = fine_mask(picture)
    for _round in range(5):
        back = current_mask(picture, BRUSH, painter.value_of(picture, back))
    disc = (slice(250, 750), slice(350, 850))
    assert back[disc].sum() == pytest.approx(mask[disc].sum(), rel=0.01)
    assert back[902, 250:1450].all(), "a line that is finer than the painter stays"


def test_strokes_are_there_again_after_the_other_kind_of_picture(page):
    scene, mine = scenes.first(), own_picture()
    on_scene, on_mine = strokes(scene), strokes(mine)
    there = put(page, "other_kind", "own", scene, None, scene, BRUSH, on_scene, 2, True)
    kept_scene = there[painter.Picture][0]
    back = put(page, "other_kind", "scene", kept_scene, mine, mine, BRUSH, on_mine, 2, True)
    kept_mine = next(p for p in back[painter.Picture] if p.key == mine.key)
    assert on_scene in back[dict] and BRUSH in [radio.value for radio in back[gr.Radio]]
    assert on_mine in put(page, "other_kind", "own", kept_scene, kept_mine, kept_scene, BRUSH, on_scene, 2, True)[dict]
    # Also when the scene goes for another one: strokes are noted as they come.
    noted = put(page, "changed", mine, BRUSH, on_mine, 2, True)[painter.Picture][0]
    assert on_mine in put(page, "other_kind", "own", scene, noted, scene, CLICK, None, 2, True)[dict]
    # A value of another picture is nobody's.
    assert painter.Picture not in put(page, "changed", mine, BRUSH, on_scene, 2, True)


def test_a_mask_that_would_fill_the_memory_marks_nothing():
    picture, data = scenes.first(), io.BytesIO()
    Image.new("L", (1, 1)).save(data, "PNG")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = data.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + data.getvalue()[33:]
    drawn = {"key": picture.key, "mask": painter.PREFIX + base64.b64encode(bomb).decode()}
    assert not current_mask(picture, BRUSH, drawn).any()


def test_strokes_are_decoded_once(page):
    """At the stroke, for the page; the run that follows, and a growth of the mask, find them."""
    picture = own_picture()
    drawn = strokes(picture)
    seen = put(page, "changed", picture, BRUSH, drawn, 2, True)
    before = painter._decoded.cache_info()
    put(page, "changed", picture, BRUSH, drawn, 5, True)
    mask = asked_mask(picture, BRUSH, drawn)
    assert painter._decoded.cache_info().misses == before.misses and seen
    assert (mask == box_mask(picture)).mean() > 0.99 and not mask.flags.writeable


def test_rough_strokes_snap_to_the_object():
    picture = scenes.first()
    solid = picture.solids[picture.index]
    rows, columns = numpy.nonzero(solid)
    rough = numpy.zeros_like(solid)
    rough[rows.min() + 2 : rows.max() - 1, columns.min() : columns.max()] = True
    found = snapped(picture, rough)
    assert (found & solid).sum() / (found | solid).sum() > 0.7
    with pytest.raises(ValueError, match="brush roughly over"):
        snapped(picture, numpy.zeros_like(solid))


def test_the_line_tells_area_and_growth():
    picture, base = scenes.first(), flux.BASES["mini"]
    mask = picture.solids[picture.index]
    plain, grown = (re.search(r"([\d.]+) %", mask_line(picture, mask, base, n))[1] for n in (0, 4))
    assert float(plain) == pytest.approx(100 * mask.mean(), abs=0.06) and float(grown) > float(plain)
    assert "growing" in mask_line(picture, mask, base, 4) and "shrinking" in mask_line(picture, mask, base, -1)
    assert "Nothing is marked" in mask_line(picture, ~numpy.ones_like(mask), base)


def test_pictures_that_are_not_taken_leave_the_page_alone(page, tmp_path: Path):
    bring = handler(page, "bring")
    small, text = tmp_path / "small.png", tmp_path / "text.png"
    Image.new("RGB", (40, 63)).save(small)
    text.write_text("hello")
    for path, words in ((small, "63"), (text, "not a picture")):
        with pytest.raises(gr.Error, match=words) as caught:
            bring(str(path), 2, True)
        assert caught.value.message.endswith(".")
    good = tmp_path / "portrait.jpg"
    Image.new("CMYK", (900, 1600), (0, 90, 90, 0)).save(good)
    picture = next(v for v in bring(str(good), 2, True).values() if isinstance(v, painter.Picture))
    assert picture.image.size == (900, 1600) and picture.solids is None and picture.name == "portrait"


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
    inside = removal_files.settings_inside(made.composites[0])
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
    assert removal_files.settings_inside(made.results[0]).next_step() == (
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
    assert "press What if" not in removal_files.settings_inside(made.results[0]).next_step()
    assert "What if the depth had not changed?" in removal_files.settings_inside(made.results[0]).next_step()


def test_a_picture_of_ones_own_gets_self_checks_and_a_composite_of_its_own_size(page):
    picture = own_picture()
    made = last(list(press(page, "remove", "photo", picture, BRUSH, strokes(picture))))
    assert "Self-checks" in removal_shown.metrics_html(made.outcome) and made.clean is None
    assert "The small models know only our rendered scenes" in " ".join(made.outcome.notes)
    composite, original = (numpy.asarray(Image.open(p).convert("RGB")) for p in (made.composites[0], made.original))
    assert composite.shape == original.shape == (200, 300, 3)
    moved, mask = (composite != original).any(-1), masks.resized(made.outcome.mask, (300, 200))
    assert moved[mask].mean() > 0.5
    inside = images.read_settings(made.strips[0])["settings"]
    assert (inside["original_size"], inside["mask"], inside["depth"]) == ([300, 200], "drawn", "stage 1")
    assert "the picture and its mask: bring that again" in removal_files.settings_inside(made.strips[0]).next_step()
    assert made.outcome.changed == [] and made.outcome.composites[0].size == made.outcome.mask.shape[::-1], (
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
    inside = removal_files.settings_inside(last(run).composites[0])
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

    monkeypatch.setattr(georemover, "remove", breaks)
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
    told = removal_shown.metrics_html(measured_outcome(0.08))
    assert "0.080" in told and "✓ gone with its shadow and reflection" in told and "✗ still there" in told
    assert told.count("<th role='columnheader'") == 2 * 3 and "not defined" not in told
    bare = removal_shown.metrics_html(measured_outcome(None))
    assert bare.count("<b>not defined</b>") == 8 and "nothing beyond it to remove" in bare and "0.000" not in bare


def test_marks_never_stand_without_their_words():
    told = removal_shown.metrics_html(measured_outcome(0.08))
    assert all(word.strip() for word in re.findall(r"[✓✗]([^<]+)<", told))
    assert removal_shown.notes_html(["<b>x</b>"]) == "<p class='remark'>&lt;b&gt;x&lt;/b&gt;</p>"


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
        "rows": {"ours": row("ours", 0.1), "fill_only": row("mask <only>", 1.0), "fast": row("fast", 0.2)},
    }
    told = measured.measured_html("mini", found)
    for words in (
        "10.0 % is left, against 1.000",
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
    inside = removal_files.settings_inside(path)
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
            removal_files.settings_inside(path)
    images.save_png(image, path, good, tab="golden_noise")
    with pytest.raises(ValueError, match="golden_noise"):
        removal_files.settings_inside(path)


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
    assert [p["parameter_name"] for p in info["parameters"]] == ["image", "mask", "seed", "steps", "model_set"]
    assert [r["label"] for r in info["returns"]] == ["result", "depth before", "depth after", "measurements"]
    image, mask = map(handle_file, files)
    result, before, after, told = client.predict(image=image, mask=mask, seed=3, steps=4, api_name="/remove_object")
    assert images.read_settings(result, tab="georemover")["settings"]["seed"] == 3
    assert Image.open(before).size == Image.open(after).size == Image.open(result).size == (WIDTH, HEIGHT)
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
    ticks = [removal_shown.verdict_residual(value)[1] for value in (0.15, 0.16, 0.5, 1.0, 1.2)]
    assert ticks == [True, False, False, False, False]
    assert [removal_shown.verdict_psnr(value)[1] for value in (27.0, 26.9, 20.0)] == [True, False, False]
    plain, ghost = ({"difference": d, "lightness": 5.0, "share": 0.126} for d in (2.2, 2.3))
    assert removal_shown.verdict_residual(0.03, plain)[1] and not removal_shown.verdict_residual(0.03, ghost)[1]
    assert removal_shown.verdict_residual(0.03, ghost)[0] == "gone but for a ghost, lighter, on 12.6 % of the area"
    assert removal_shown.verdict_psnr(40, plain)[1] and not removal_shown.verdict_psnr(40, ghost)[1]
    assert (
        removal_shown.verdict_worst(plain) == ("nothing to be seen", True) and not removal_shown.verdict_worst(ghost)[1]
    )
    assert removal_shown.verdict_erased(0.0)[0] == "nothing else touched" != removal_shown.verdict_erased(0.001)[0]
    assert [removal_shown.verdict_iou(value)[1] for value in (0.6, 0.59, 0.1)] == [True, False, False]
    assert [removal_shown.verdict_erased(value)[1] for value in (0.01, 0.011)] == [True, False]
