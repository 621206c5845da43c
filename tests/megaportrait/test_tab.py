"""The MegaPortrait tab: reference, settings, runs, files and endpoint without a browser, on random weights of toy size."""

from __future__ import annotations

import dataclasses
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
from demos import megaportrait as tab
from demos.core import handlers, widgets
from demos.core.hold import OnPage
from demos.core.page import run_row
from demos.megaportrait import files as portrait_files
from demos.megaportrait import people
from demos.megaportrait import reference as portrait_reference
from demos.megaportrait import settings as portrait_settings
from demos.megaportrait.files import Shown
from demos.megaportrait.people import Chosen, Reference
from demos.megaportrait.reference import Seen
from pipelines.core import images
from pipelines.core.registry import Registry
from pipelines.megaportrait import Cache, Settings, parts, recipes
from pipelines.megaportrait import person as portrait_person
from pipelines.megaportrait.recipes import Recipe
from pipelines.models import faces
from tests.core.test_app import python, shown, visit
from tests.environment import free_port
from tests.toys import portrait as toy

STEPS = {
    "identity_steps": 4,
    "identity_strength": 0.55,
    "shading_steps": 6,
    "shading_strength": 0.35,
    "harmonise_steps": 7,
}
"""2, 2 and 2 that are really made."""


@pytest.fixture(scope="module")
def page() -> Iterator[gr.Blocks]:
    with toy.installed():
        yield app.build(app.from_environment())


@pytest.fixture(scope="module")
def controls() -> portrait_settings.Controls:
    with gr.Blocks(analytics_enabled=False):
        return portrait_settings.build("mini", *run_row("Make the portrait"))


def handler(page: gr.Blocks, name: str):
    """The page's handler of that name, as Gradio calls it; not another tab's."""
    ours = ("demos.core.handlers", tab.__name__)  # what `on_gpu` wraps is of the first
    found = (f.fn for f in page.fns.values() if getattr(f.fn, "__name__", "") == name)
    return next(fn for fn in found if fn.__module__ in ours or fn.__module__.startswith("demos.megaportrait"))


def values(controls: portrait_settings.Controls, **changed) -> dict:
    """What the settings' widgets hold, by name."""
    held = dataclasses.replace(Settings.of("mini", fast=True), **{"mode": "instant", **STEPS, **changed})
    off = [name for name in portrait_settings.OFF if getattr(held, name)]
    return {"off": off, **{name: getattr(held, name) for name in controls.form.widgets}}


def asked(
    controls,
    chosen="first",
    reference="first",
    face=None,
    box=None,
    agreed=(False, False),
    entries=(),
    kept=None,
    **changed,
):
    """What a run's handler gets from the page."""
    chosen = people.first_person() if chosen == "first" else chosen
    reference = people.first_reference() if reference == "first" else reference
    kept = Cache() if kept is None else kept
    inputs = [chosen, agreed[0], reference, face, box, agreed[1], False, list(entries), kept, OnPage()]
    return inputs, values(controls, **changed)


def making(page: gr.Blocks, session: str, given: tuple[list, dict]):
    """The updates of a run of what :func:`asked` says."""
    inputs, named = given
    return handler(page, "make_portrait")(visit(session), *inputs, **named)


def last(updates: list) -> Shown:
    """The run on the page after the last update."""
    return [v for u in updates if isinstance(u, dict) for v in u.values() if isinstance(v, Shown)][-1]


def of_kind(update: dict, kind: type) -> list:
    return [value for value in update.values() if isinstance(value, kind)]


def pair() -> Reference:
    """Two heads side by side."""
    one = people.first_reference().picture[20:180]
    return Reference("two", "two", numpy.ascontiguousarray(numpy.concatenate([one, one[:, ::-1]], 1)), 203)


def own_reference() -> Reference:
    return dataclasses.replace(people.first_reference(), key="mine", name="mine", seed=None)


@pytest.fixture(scope="module")
def run(page, controls) -> list:
    """Every update of a run with two candidates."""
    return list(making(page, "portrait", asked(controls, candidates=2)))


# --- the page ---


def test_opening_the_page_imports_no_torch():
    code = (
        "import demos.megaportrait as tab, sys\n"
        "from demos.megaportrait.people import first_person, first_reference\n"
        "first_person(), first_reference()\n"
        "print('torch' in sys.modules)"
    )
    assert python(code).split() == ["False"]


def test_the_page_says_what_it_is_and_is_not(page):
    words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML | gr.Markdown))
    for said in (
        "unofficial re-creation",
        "the settings are ours",
        "**MegaPortraits** (with an s, 2022)",
        "no minors",
        "a trained model made them",
        "rendered people only",
    ):
        assert said in words, said
    licence = next(str(b.value) for b in page.blocks.values() if "licence'" in str(getattr(b, "value", "")))
    assert "Apache-2.0" in licence


# --- settings ---


@pytest.mark.parametrize("model_set", ["mini", "full"])
def test_every_setting_has_a_widget_and_comes_back_from_it(model_set: str):
    with gr.Blocks(analytics_enabled=False):
        made = portrait_settings.build(model_set, *run_row("Make the portrait"))
    fields = {field.name for field in dataclasses.fields(Settings)} - {"model_set", *portrait_settings.OFF}
    assert set(made.form.widgets) == fields - (set() if model_set == "full" else {"preset", "adapter_scale", "lines"})
    start = made.asked([], **{name: widget.value for name, widget in made.form.widgets.items()})
    known = dataclasses.replace(Settings.of(model_set), mode=portrait_settings.first_mode(model_set))
    assert dataclasses.replace(start, preset="") == known
    other = dataclasses.replace(known, seed=7, poisson=True, no_shading=True, own_tone=0.3, shading_line_end=0.5)
    update = made.restored(other)
    assert update[made.pace] == "default"
    back = made.asked(**{name: update[widget] for name, widget in made.named.items()})
    assert dataclasses.replace(back, preset="") == other


def test_the_main_sliders_keep_to_the_safe_range_and_all_others_to_what_is_accepted(controls):
    for name, widget in controls.form.widgets.items():
        if not isinstance(widget, gr.Slider):
            continue
        declared = Settings.field(name)
        assert (widget.minimum, widget.maximum) == (declared.offered or declared.range)
        for end in (widget.minimum, widget.maximum):
            assert getattr(dataclasses.replace(Settings(), **{name: end}).validated(), name) == end
        beyond = dataclasses.replace(Settings(), **{name: widget.maximum + 100})
        with pytest.raises(ValueError, match="must be"):
            beyond.validated()


def test_the_pace_is_that_of_the_steps():
    for pace, fast in (("default", False), ("fast", True)):
        assert portrait_settings.pace_of("mini", Settings.of("mini", fast=fast)) == pace
    assert portrait_settings.pace_of("mini", dataclasses.replace(Settings.of("mini"), shading_steps=5)) is None


def test_on_zerogpu_there_is_one_preset_and_one_kind_of_lines():
    with gr.Blocks(analytics_enabled=False):
        buttons = run_row("Make the portrait")
        plain, fixed = (portrait_settings.build("full", *buttons, fixed=fixed) for fixed in (False, True))
    choices = [made.form["preset"] for made in (plain, fixed)]
    assert choices[0].visible and len(choices[0].choices) == len(parts.PRESETS["full"])
    assert not choices[1].visible and len(choices[1].choices) == 1
    assert plain.form["lines"].visible and not fixed.form["lines"].visible
    other = dataclasses.replace(Settings.of("full"), lines="anyline", preset="12 GB")
    assert plain.restored(other)[plain.form["lines"]] == "anyline"
    restored = fixed.restored(other)
    assert (restored[fixed.form["lines"]], restored[fixed.form["preset"]]) == ("canny", "24 GB")


# --- reference ---


def test_faces_are_boxed_and_numbered_where_they_are():
    two = pair()
    boxes = ((40.0, 30.0, 80.0, 90.0), (200.0, 30.0, 80.0, 90.0))
    plain, boxed = (
        numpy.asarray(portrait_reference.overlaid(two.picture, seen), int) for seen in (None, Seen("", boxes, 1))
    )
    assert boxed.shape == plain.shape == (320, 640, 3)
    moved = numpy.abs(boxed - plain).max(-1) > 40
    assert moved[60, 100:220].mean() > 0.9 and moved[60, 420:540].mean() > 0.9, (
        "upper edges, twice as large as in the picture"
    )
    assert moved[50:70, 70:90].any() and moved[50:70, 390:410].any(), "a number at each corner"
    assert not moved[100:200, 100:200].any() and not moved[:, 260:370].any()
    gold = numpy.asarray(portrait_reference.GOLD)
    assert (numpy.abs(boxed[:, 402] - gold).sum(-1) < 20).sum() > 100, "the chosen one is golden"
    assert not (numpy.abs(boxed[:, 82] - gold).sum(-1) < 20).any()


def test_a_reference_is_looked_at_by_itself(page):
    first = people.first_reference()
    updates = list(handler(page, "look_at")(visit("look"), first, None, None, "head"))
    seen = of_kind(updates[-1], Seen)[0]
    (left, top, width, height) = seen.boxes[0]
    assert len(seen.boxes) == 1 and left < 80 < left + width and top < 96 < top + height, "the head is in the middle"
    text = shown(updates)
    assert "One face" in text and "hair colour" in text and "replaced" in text
    assert not of_kind(updates[-1], gr.Radio)[0].visible


def test_of_several_faces_the_visitor_chooses_one(page):
    two = pair()
    updates = list(handler(page, "look_at")(visit("two"), two, None, None, "head"))
    radio, seen = of_kind(updates[-1], gr.Radio)[0], of_kind(updates[-1], Seen)[0]
    assert radio.visible and [value for _words, value in radio.choices] == [0, 1] and len(seen.boxes) == 2
    assert "2 faces found" in shown(updates), "it is said that the largest is taken"
    x, y = (2 * (seen.boxes[1][0] + seen.boxes[1][2] / 2), 2 * (seen.boxes[1][1] + 20))
    picked = handler(page, "click")(two, seen, False, SimpleNamespace(index=(x, y)))
    assert 1 in picked.values()
    again = list(handler(page, "look_at")(visit("two"), two, 1, None, "head"))
    assert of_kind(again[-1], Seen)[0].chosen == 1 and "Face 2 of 2" in shown(again)


def test_where_no_face_is_found_the_visitor_draws_the_box(page):
    flat = Reference("flat", "flat", numpy.full((120, 200, 3), 90, numpy.uint8), None)
    updates = list(handler(page, "look_at")(visit("flat"), flat, None, None, "head"))
    assert "No face found in the reference" in shown(updates) and "Click two opposite corners" in shown(updates)
    assert True in updates[-1].values(), "the next clicks are corners"

    click = handler(page, "click")
    scale = portrait_reference.scale_of(flat.picture)
    first = click(flat, Seen(), True, SimpleNamespace(index=(150 * scale, 100 * scale)))
    known = of_kind(first, Seen)[0]
    assert known.corner == pytest.approx((150, 100)) and "opposite corner" in shown([first])
    second = click(flat, known, True, SimpleNamespace(index=(70 * scale, 10 * scale)))
    box = next(value for value in second.values() if isinstance(value, tuple))
    assert box == pytest.approx((70, 10, 80, 90)), "left, top, width, height"
    looked = list(handler(page, "look_at")(visit("flat"), flat, None, box, "head"))
    assert "Your box" in shown(looked) and of_kind(looked[-1], Seen)[0].boxes == (pytest.approx(box),)


def test_a_box_that_is_too_small_is_none(page, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda words, **_rest: told.append(words))
    first, known = people.first_reference(), Seen(corner=(50, 50))
    update = handler(page, "click")(first, known, True, SimpleNamespace(index=(51 * 640 / 192, 90 * 640 / 192)))
    assert "too small" in told[0] and not any(isinstance(value, tuple) for value in update.values())


def test_a_look_goes_on_beside_a_run_and_ends_an_older_look(page, controls):
    first = people.first_reference()
    running = making(page, "both", asked(controls))
    next(running)
    with pytest.raises(gr.Error, match="One run at a time"):
        next(making(page, "both", asked(controls)))
    older = handler(page, "look_at")(visit("both"), first, None, None, "head")
    next(older)
    newer = handler(page, "look_at")(visit("both"), first, None, None, "face")
    next(newer)
    assert list(older) == []
    assert of_kind(list(newer)[-1], Seen)[0].boxes
    running.close()


def test_a_reference_of_ones_own_is_read_and_asks_for_consent(page, tmp_path: Path):
    path, small, text = tmp_path / "mine.jpg", tmp_path / "small.png", tmp_path / "text.png"
    Image.fromarray(people.first_reference().picture).save(path)
    Image.new("RGB", (63, 200)).save(small)
    text.write_text("hello")
    bring = handler(page, "bring_reference")
    for bad, words in ((small, "63 x 200"), (text, "not a picture")):
        with pytest.raises(gr.Error, match=words) as caught:
            bring(str(bad))
        assert caught.value.message.endswith(".")
    update = bring(str(path))
    assert of_kind(update, Reference)[0].picture.shape == (192, 160, 3) and not of_kind(update, Reference)[0].rendered
    assert of_kind(update, gr.Checkbox)[0].visible
    rolled = handler(page, "roll_reference")(7)
    assert of_kind(rolled, Reference)[0].seed == 7 and not of_kind(rolled, gr.Checkbox)[0].visible
    with pytest.raises(gr.Error, match="reference seed is 1000000"):
        handler(page, "roll_reference")(10**6)


# --- runs ---


def test_a_run_shows_every_stage_while_it_goes_and_everything_at_its_end(run):
    text = shown(run)
    for words in (
        "Starting…",
        "step 1 of 2",
        "Done in ",
        "Stage by stage",
        "1. Reference",
        "2. Identity",
        "3. Shaded",
        "4. Pasted",
        "5. Ring mask",
        "6. Harmonised",
        "Who it is",
        "How it sits in the picture",
        "Measured against the truth",
        "The truth, rendered",
        "Models that answered",
        "Apache-2.0",
        "Steps that were really made",
    ):
        assert words in text, words
    assert re.search(r"Identity: step 1 of 2, about \d+ s left", text)
    made = last(run)
    likeness = [one.identity for one in made.outcome.candidates]
    assert len(made.results) == 2 and likeness == sorted(likeness, reverse=True)
    entries = next(v for v in run[-1].values() if isinstance(v, list) and v and isinstance(v[0], widgets.Entry))
    assert entries[0].caption.startswith("Person 11 · reference 203 · seed ")


def test_every_pixel_outside_the_mask_of_the_file_is_the_reference_s(run):
    made, reference = last(run), people.first_reference().picture
    with zipfile.ZipFile(made.everything) as archive:
        for path, one in zip(made.results, made.outcome.candidates, strict=True):
            result = numpy.asarray(Image.open(path))
            with archive.open(f"{one.seed}_mask.png") as file:
                changed = numpy.asarray(Image.open(file).convert("L")) > 0
            assert changed.shape == (192, 160) and 0.05 < changed.mean() < 0.9
            assert (result[~changed] == reference[~changed]).all() and (result != reference).any()


def test_the_history_keeps_no_large_pictures(page, controls):
    large = numpy.asarray(Image.fromarray(people.first_reference().picture).resize((800, 960)))
    inputs = asked(controls, reference=Reference("large", "large", large, None), agreed=(False, True), mode="preview")
    made = last(list(making(page, "large", inputs)))
    assert Image.open(made.results[0]).size == (800, 960)
    kept = [
        made.outcome.best.result.size,
        made.outcome.analysis.picture.shape[:2],
        *(p.shape[:2] for p in made.outcome.best.stages.values()),
    ]
    assert max(max(size) for size in kept) <= 256


def test_the_files_say_that_a_model_made_them_and_how(run):
    made = last(run)
    assert b"trainedAlgorithmicMedia" in Path(made.results[0]).read_bytes(), "the IPTC's word"
    inside = images.read_settings(made.results[1], tab="MegaPortrait")["settings"]
    assert inside["recipe"] == {"person": 11, "reference": 203} and inside["identity_steps"] == 4
    assert inside["seed"] == made.outcome.candidates[1].seed and inside["candidates"] == 1
    manifest = json.loads(Path(made.manifest).read_text())
    assert manifest["ai_generated"] is True and "ours" in manifest["unofficial"] and manifest["models"]
    assert manifest["recipe"] == inside["recipe"]
    with zipfile.ZipFile(made.everything) as archive:
        names = set(archive.namelist())
        assert {
            "manifest.json",
            "reference.png",
            "truth.png",
            "0_result.png",
            "1_harmonised.png",
            "0_mask.png",
        } <= names


def test_another_candidate_is_looked_at(page, run):
    made = last(run)
    other = handler(page, "candidate")(made, SimpleNamespace(index=1))
    assert last([other]).index == 1 and (made.before, made.results[1]) in other.values()
    saved = [Path(str(button.value["path"])) for button in of_kind(other, gr.DownloadButton)]
    assert saved[0].read_bytes() == Path(made.results[1]).read_bytes()


def test_the_preview_needs_no_diffusion(page, controls):
    updates = list(making(page, "preview", asked(controls, mode="preview")))
    assert last(updates).outcome.steps == dict.fromkeys(last(updates).outcome.steps, 0)
    assert "No net made a step." in shown(updates)


def test_what_is_missing_is_told_before_anything_is_loaded(page, controls):
    nobody = Chosen("", "nobody", ())
    for inputs, words in (
        (asked(controls, reference=None), "no reference portrait yet"),
        (asked(controls, chosen=None), "no person yet"),
        (asked(controls, chosen=nobody), "no person yet"),
        (asked(controls, mode="trained"), "not trained yet"),
        (asked(controls, seed=None), "seed is nothing"),
        (asked(controls, candidates=9), "candidates is 9"),
    ):
        seen = []
        with pytest.raises(gr.Error, match=words) as caught:
            for update in making(page, "missing", inputs):
                seen.append(update)  # what came before the error is kept
        assert caught.value.message.endswith(".") and "\n" not in caught.value.message
        assert not seen or "progress-line stopped" in shown(seen[-1:])


@pytest.mark.parametrize(
    ("own_person", "own_portrait", "agreed", "goes"),
    [
        (False, False, (False, False), True),
        (True, False, (False, False), False),
        (True, False, (True, False), True),
        (False, True, (True, False), False),
        (False, True, (False, True), True),
        (True, True, (True, False), False),
    ],
)
def test_nobody_s_picture_is_used_without_consent(page, controls, own_person, own_portrait, agreed, goes):
    person = people.first_person()
    person = dataclasses.replace(person, identity=None) if own_person else person
    reference = own_reference() if own_portrait else people.first_reference()
    inputs = asked(controls, person, reference, agreed=agreed, mode="preview")
    updates = making(page, "consent", inputs)
    if goes:
        assert last(list(updates)).results
    else:
        with pytest.raises(gr.Error, match="tick that everybody in them is of age and agrees"):
            list(updates)


def test_own_pictures_leave_no_trace_of_who_in_the_file(page, controls):
    inputs = asked(controls, reference=own_reference(), agreed=(False, True), mode="preview")
    made = last(list(making(page, "private", inputs)))
    inside = images.read_settings(made.results[0])["settings"]
    assert inside["recipe"] is None and "mine" not in json.dumps(inside)
    assert "Measured against the truth" not in shown([handler(page, "candidate")(made, SimpleNamespace(index=0))])


def test_stop_keeps_what_is_finished(page, controls):
    kept, seen = Cache(), []
    updates = making(page, "stop", asked(controls, kept=kept, shading_steps=60))
    while "Shaded: step" not in shown(seen[-1:]):
        seen.append(next(updates))
    assert handlers.stop_run(visit("stop"))
    assert "Stages that were finished are kept" in shown(list(updates)) and len(kept) == 1


def test_a_new_person_makes_the_shown_result_an_old_one_and_a_trained_one_is_worn(page, run):
    made, first, another = last(run), people.first_person(), handler(page, "another")
    ref = people.first_reference()
    here = (first.root, ref.key)
    assert list(another(made, first, ref, "instant", "first", OnPage(here)).values()) == ["first"], "nothing is new"
    other = another(made, dataclasses.replace(first, key="x"), ref, "instant", "first", OnPage(here))
    assert "Another person or reference is chosen" in shown([other]) and "trained" not in other.values()
    learnt = first.learnt(portrait_person.Person("Ada", *[numpy.zeros(1)] * 3, adapter={"a": 1}), "run")
    assert "trained" in another(None, learnt, ref, "instant", "first", OnPage(here)).values()
    assert "trained" not in another(None, learnt, ref, "preview", "first", OnPage(here)).values(), "chosen on purpose"
    assert (
        "trained"
        not in another(
            None, learnt, dataclasses.replace(ref, key="other"), "instant", learnt.key, OnPage(here)
        ).values()
    ), "only the reference is new"
    back = dataclasses.replace(made, chosen=learnt)
    assert "trained" not in another(back, learnt, ref, "instant", "first", OnPage(here)).values(), (
        "brought back as it was made"
    )


def test_an_example_brings_its_person_and_its_reference(page, monkeypatch: pytest.MonkeyPatch):
    recipe = recipes.EXAMPLES[2]
    chips = [b for b in page.blocks.values() if isinstance(b, gr.Button) and b.value == recipe.title]
    waiting, update = handler(page, "example")(None, SimpleNamespace(target=chips[0]))
    assert "Rendering the person" in shown([waiting])
    assert (
        of_kind(update, Chosen)[0].identity == recipe.person and of_kind(update, Reference)[0].seed == recipe.reference
    )
    assert "drawn" in update.values()
    assert (of_kind(update, Reference)[0].picture == recipe.picture()).all()
    learnt = of_kind(update, Chosen)[0].learnt(
        portrait_person.Person("Ada", *[numpy.zeros(1)] * 3, adapter={"a": 1}), "run"
    )
    again = list(handler(page, "example")(learnt, SimpleNamespace(target=chips[0])))[-1]
    assert of_kind(again, Chosen) == [learnt, learnt] and "trained" in again.values()


# --- bringing back ---


def test_the_history_brings_back_person_reference_settings_and_pictures(page, run):
    entries = next(v for v in run[-1].values() if isinstance(v, list) and v and isinstance(v[0], widgets.Entry))
    back = handler(page, "bring_back")(entries, SimpleNamespace(index=0))
    assert of_kind(back, Chosen)[0].identity == 11 and of_kind(back, Reference)[0].seed == 203
    assert last([back]) is last(run) and "Brought back from your results" in shown([back])
    named = {getattr(block, "label", ""): value for block, value in back.items()}
    assert named["Identity steps"] == 4 and named["Candidates"] == 2


def test_a_png_made_here_restores_its_settings_and_its_people(page, run, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda words, **_rest: told.append(words))
    update = handler(page, "restore")(last(run).results[1])
    named = {getattr(block, "label", ""): value for block, value in update.items()}
    assert named["Portrait seed"] == last(run).outcome.candidates[1].seed and named["Shading steps"] == 6
    assert of_kind(update, Chosen)[0].identity == 11 and of_kind(update, Reference)[0].seed == 203
    assert told == ["Settings restored. Press Make the portrait to make it again."]


def test_restoring_checks_what_is_inside(tmp_path: Path):
    path, image = tmp_path / "a.png", Image.new("RGB", (8, 6))
    good = dataclasses.asdict(Settings()) | {
        "recipe": {"person": 5, "reference": 6, "from later": 1},
        "face": None,
        "box": [1, 2, 30.5, 40],
    }
    images.save_png(image, path, good, tab="MegaPortrait")
    inside = portrait_files.settings_inside(path)
    assert inside.settings == Settings() and inside.recipe == Recipe(5, 6) and inside.box == (1, 2, 30.5, 40)
    assert inside.next_step() == (
        "The file does not hold what was learnt of the person: train the person again, then press Make the portrait."
    )
    for bad in (
        {"seed": "5"},
        {"identity_steps": 10**9},
        {"model_set": "maxi"},
        {"mode": ["trained"]},
        {"recipe": 7},
        {"recipe": {"person": 5}},
        {"recipe": {"person": -1, "reference": 0}},
        {"recipe": {"person": 10**6, "reference": 0}},
        {"recipe": {"person": True, "reference": 0}},
        {"face": -1},
        {"face": "1"},
        {"box": [1, 2, 3]},
        {"box": [1, 2, 3, "4"]},
    ):
        images.save_png(image, path, good | bad, tab="MegaPortrait")
        with pytest.raises(ValueError, match=r"\.$"):
            portrait_files.settings_inside(path)
    images.save_png(image, path, good | {"recipe": None, "mode": "instant"}, tab="MegaPortrait")
    assert (
        "the person’s pictures and the reference: bring both again" in portrait_files.settings_inside(path).next_step()
    )
    images.save_png(image, path, good, tab="georemover")
    with pytest.raises(ValueError, match="georemover"):
        portrait_files.settings_inside(path)


def test_what_is_restored_from_the_full_set_fits_the_page(page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda words, **_rest: told.append(words))
    path = tmp_path / "full.png"
    settings = dataclasses.replace(Settings.of("full"), mode="instant", preset="12 GB", seed=9)
    images.save_png(Image.new("RGB", (8, 6)), path, dataclasses.asdict(settings), tab="MegaPortrait")
    named = {getattr(block, "label", ""): value for block, value in handler(page, "restore")(str(path)).items()}
    assert named["Identity steps"] == Settings.of("mini").identity_steps and named["Portrait seed"] == 9
    assert named["What is replaced"] == "head" and "not of full" in told[0]


# --- the endpoint ---


@pytest.fixture(scope="module")
def address(page: gr.Blocks) -> Iterator[str]:
    port = free_port()
    app.serve(page, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of a person, and a reference."""
    folder, recipe = tmp_path_factory.mktemp("sent"), Recipe(11, 203)
    pictures = [*(picture for _name, picture in recipe.pictures(2)), recipe.picture()]
    paths = [folder / name for name in ("person_1.png", "person_2.png", "reference.png")]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def test_the_endpoint_answers_with_a_picture_and_its_measurements(address: str, files: list[Path]):
    client = Client(address, verbose=False)
    info = client.view_api(return_format="dict")["named_endpoints"]["/portrait"]
    assert [p["parameter_name"] for p in info["parameters"]] == [
        "person",
        "pictures",
        "reference",
        "mode",
        "seed",
        "candidates",
        "consent",
        "model_set",
        "face",
        "glasses",
        "settings",
    ]
    assert [r["label"] for r in info["returns"]] == ["result", "measurements"]
    *pictures, reference = map(handle_file, map(str, files))
    given = {"pictures": pictures, "reference": reference, "seed": 3, "consent": True, "api_name": "/portrait"}
    result, told = client.predict(mode="instant", **given)
    assert images.read_settings(result, tab="MegaPortrait")["settings"]["seed"] == 3
    assert Image.open(result).size == (160, 192)
    assert told["ai_generated"] is True and told["candidates"][0]["metrics"]["outside_largest"] == 0 and told["models"]


def test_a_person_that_was_trained_by_a_program_is_worn(address: str, files: list[Path]):
    client = Client(address, verbose=False)
    *pictures, reference = map(handle_file, map(str, files))
    person, _facts = client.predict(
        pictures=pictures, name="Ada", seconds=1, seed=0, consent=True, api_name="/train_person"
    )
    given = {"reference": reference, "mode": "trained", "consent": True, "api_name": "/portrait"}
    result, told = client.predict(person=handle_file(person), **given)
    assert told["person"] == "Ada" and told["settings"]["mode"] == "trained" and Image.open(result).size == (160, 192)
    with pytest.raises(Exception, match="not both"):
        client.predict(person=handle_file(person), pictures=pictures, **given)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pictures": None}, "There is no person"),
        ({"pictures": []}, "There is no person"),
        ({"pictures": "a.png"}, "pictures are 'a.png' but must be a list of files"),
        ({"pictures": [{"path": "/etc/passwd"}]}, "picture is no file that was sent here"),
        ({"person": 7, "pictures": None}, "person is 7 but must be a file"),
        ({"reference": None}, "reference is nothing (null) but must be a file"),
        ({"reference": {"path": "/etc/passwd"}}, "reference is no file that was sent here"),
        ({"mode": "magic"}, "'magic' is unknown"),
        ({"mode": "trained"}, "not trained yet"),
        ({"seed": -1}, "seed is -1"),
        ({"candidates": 5}, "candidates is 5"),
        ({"candidates": "2"}, "candidates is '2'"),
        ({"consent": False}, "of age and agrees"),
        ({"consent": "yes"}, "consent is 'yes'"),
        ({"model_set": "maxi"}, "'maxi' is unknown"),
        ({"model_set": "full"}, "This server runs the model set mini, not full"),
    ],
)
def test_wrong_input_gets_one_clear_sentence(address: str, files: list[Path], changed: dict, words: str):
    opened = [("files", path.open("rb")) for path in files]
    sent = httpx.post(f"{address}/gradio_api/upload", files=opened).json()
    for _name, file in opened:
        file.close()
    known = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
    given = {
        "person": None,
        "pictures": known[:2],
        "reference": known[2],
        "mode": "preview",
        "seed": 0,
        "candidates": 1,
    }
    given |= {"consent": True, "model_set": "mini"} | changed
    answer = httpx.post(f"{address}/gradio_api/call/portrait", json={"data": list(given.values())})
    stream = httpx.get(f"{address}/gradio_api/call/portrait/{answer.json()['event_id']}", timeout=120).text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    text = json.loads(data)["error"]
    assert kind == "error" and words in text and text.endswith(".") and "\n" not in text and "Traceback" not in text


def test_the_programs_on_the_page_work(
    address: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(files[0].parent)
    over_http, in_process = re.findall(r"```python\n(.*?)```", tab.from_python(), re.DOTALL)
    seen: dict = {"print": lambda *_: None}
    exec(over_http.replace("http://127.0.0.1:7860", address).replace("seconds=60", "seconds=1"), seen)
    assert images.read_settings(seen["result"], tab="MegaPortrait")["settings"]["mode"] == "trained"
    monkeypatch.setattr(faces, "threshold", lambda: 0.5)
    quick = in_process.replace("seconds=60", "seconds=1, checks=1").replace(
        "Settings(seed=0)", "Settings.of('mini', fast=True)"
    )
    exec(quick, {"print": lambda *_: None})
    assert images.read_settings("portrait.png", tab="MegaPortrait")["settings"]["mode"] == "trained"


def test_a_registry_learns_what_the_tab_may_load(page):
    registry = Registry("cpu", move=lambda module, _device: module)
    with toy.installed(), gr.Blocks(analytics_enabled=False):
        tab.build(registry, "mini")
        wanted = {spec.key for spec in parts.specs("mini").values()}
    assert wanted <= {part["key"] for part in registry.status()}
