"""The left of the GeoRemover tab: scenes that are rolled, pictures that are brought, and masks on the painter."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from demos.georemover import painter, scenes
from demos.georemover.mask import BRUSH, CLICK, asked_mask, current_mask, mask_line, read_mask, snapped
from pipelines.core import masks
from pipelines.georemover import LARGE, Recipe, Request, Settings, prepare
from pipelines.models import flux
from pipelines.models.flux_tiny import HEIGHT, WIDTH
from tests.core.test_app import python, visit
from tests.georemover.page import box_mask, handler, own_picture, put, strokes

# --- the first scene, rolling and choosing ---


def test_the_page_opens_with_a_scene_that_is_rendered_as_its_recipe_says():
    first, made = scenes.first(), scenes.roll(scenes.START)
    off = numpy.abs(numpy.asarray(first.image, int) - numpy.asarray(made.image, int))
    assert off.max() <= 2, "python -m demos.georemover.scenes writes it anew"
    assert (first.solids == made.solids).all() and first.names == made.names and first.index == made.index
    assert (read_mask(scenes.FIRST_MASK, first.image.size) == first.solids[first.index]).all()


def test_opening_the_page_renders_nothing(page):
    code = "import demos.georemover, sys; from demos.georemover.scenes import first; first(); print('torch' in sys.modules)"
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
    assert len(picture.solids) == 3 and picture.recipe == Recipe(7, 3, "tile", "hard", True, scale=LARGE)
    assert picture.image.size == (768, 512)
    for seed in (None, 10**6, -1, 2.5):
        with pytest.raises(gr.Error, match="scene seed is .* whole number"):
            handler(page, "roll_scene")(seed, 3, "tile", "hard", "mirroring", 2, True)


# --- masks ---


def test_a_mask_comes_back_as_it_went_onto_the_painter():
    picture = scenes.first()
    for mask in (picture.solids[0], box_mask(picture), numpy.zeros(picture.solids[0].shape, bool)):
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
    assert float(plain) == pytest.approx(100 * mask.mean(), abs=0.3) and float(grown) > float(plain)
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


def test_ungrown_and_unfilled_the_full_set_s_mask_is_the_authors():
    """Theirs is diffusers' own: Lanczos to the working size, white from one half on; nothing is grown and nothing filled."""
    mask = numpy.zeros((720, 1280), bool)
    mask[200:420, 300:640] = True
    mask[280:330, 400:500] = False
    image = Image.new("RGB", (1280, 720))
    settings = dataclasses.replace(Settings.of("full"), grow=0, fill_holes=False)
    ours = prepare(Request(image, mask, settings))
    theirs = VaeImageProcessor(do_binarize=True, do_convert_grayscale=True, do_normalize=False).preprocess(
        Image.fromarray(mask.astype(numpy.uint8) * 255), height=ours.size[1], width=ours.size[0]
    )
    assert ours.size == (1024, 576) and (ours.mask != (theirs[0, 0].numpy() > 0.5)).mean() < 0.002
    usual = prepare(Request(image, mask, Settings.of("full")))
    assert Settings.of("full").grow == 8 and (usual.mask == masks.grow(masks.fill_holes(ours.mask), 8)).all()
