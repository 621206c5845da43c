"""Any state of a tab is an address, which fills in the same settings wherever it is opened, and says what it cannot take."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

import app
from demos.concept_guidance import chat
from demos.core import links, tabs
from demos.core.links import LINKS
from demos.core.widgets import Made
from demos.georemover import files as removal_files
from demos.georemover import scenes
from demos.megaportrait import files as portrait_files
from demos.megaportrait import people
from pipelines.core import images
from pipelines.core.settings import Field
from pipelines.georemover import EXAMPLES

SLUGS = [tab.slug for tab in tabs.discover()]
OF_THE_APP = dict(LINKS)
"""Those of the page that importing the app makes; other tests make pages, too, of other model sets."""


@pytest.fixture(autouse=True)
def links_of_the_app():
    before = dict(LINKS)
    LINKS.update(OF_THE_APP)
    yield
    LINKS.update(before)


def other(field: Field, value: Any) -> Any:
    """Another value of a setting than ``value``, as a visitor could set it."""
    if field.kind == "switch":
        return not value
    if field.kind == "choice":
        return next(iter([one for one in field.options if one != value]), value)
    if field.kind == "text":
        return value  # some have a form of their own
    low, high = field.offered or field.range
    return type(value)(low if value != low else high)


@pytest.mark.parametrize("slug", SLUGS)
def test_what_a_link_says_is_what_it_was_made_of(slug: str):
    link = LINKS[slug]
    start, fields = link.form.start, link.form.start.fields()
    values = {name: other(one, getattr(start, name)) for name, one in fields.items() if one.shown}
    for name in values.keys() & link.form.widgets.keys():
        offered = [key for _words, key in getattr(link.form.widgets[name], "choices", None) or ()]
        values[name] = next((key for key in offered if key != getattr(start, name)), values[name])
    settings = dataclasses.replace(start, **values)
    address = link.address(Made(settings))
    assert address.startswith(f"?tab={slug}&") and re.fullmatch(r"[\x21-\x7e]+", address)
    assert link.read(address) == (settings, {}, [])
    plain = link.address(Made(start))
    assert plain == f"?tab={slug}&seed={start.seed}", "only what differs, and the seed"


@pytest.mark.parametrize("text", ["a b", "ü ✓ 100% & more = ?", "one\ntwo + three#four"])
def test_any_text_goes_through(text: str):
    link = LINKS["golden_noise"]
    settings = dataclasses.replace(link.form.start, prompt=text)
    assert link.read(link.address(Made(settings)))[0].prompt == text


@pytest.mark.parametrize(
    ("slug", "said", "words"),
    [
        ("golden_noise", "steps=many", "The number of steps is 'many' (a text) but must be a whole number"),
        ("golden_noise", "seed=-1", "The seed is -1 but must be"),
        ("golden_noise", "guidance=nan", "The guidance is nan but must be"),
        ("golden_noise", "prompt=", "The prompt is empty"),
        ("golden_noise", "source=magic", "'magic' is unknown"),
        ("golden_noise", "stepps=3", "This tab has no setting 'stepps'"),
        ("golden_noise", "model_set=full", "The link is of the model set full, and this server runs mini."),
        ("time_edit", "edits=nothing", "is not of the form source => destination"),
        ("time_edit", "regularisation=99999", "must be a number from 0.1 to 1000"),
        ("georemover", "depth_assist=1", "The switch depth assist is '1' but must be on or off"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_and_the_default(slug: str, said: str, words: str):
    link = LINKS[slug]
    settings, _more, (sentence,) = link.read(f"?tab={slug}&{said}&__theme=dark&view=api")
    assert words in sentence and settings == link.form.start


def test_a_rendered_scene_is_in_the_link_and_a_visitors_own_picture_is_not():
    shown = dataclasses.replace(scenes.first(), recipe=EXAMPLES[3])
    run: Any = type("Run", (), {"settings": LINKS["georemover"].form.start, "depth_from": "stage 1", "fill_only": True})
    made = removal_files.made_of(run, shown.chosen(EXAMPLES[3].index), drawn=False)
    assert made.more["scene"] == str(EXAMPLES[3].seed) and not made.lacking
    again = removal_files.recipe_linked(made.more)
    assert dataclasses.replace(again, title=EXAMPLES[3].title) == EXAMPLES[3]
    assert removal_files.made_of(run, scenes.first(), drawn=False).more == {}
    assert "mask" in removal_files.made_of(run, scenes.first(), drawn=True).lacking
    own = dataclasses.replace(scenes.first(), recipe=None, solids=None)
    assert "Your own picture" in removal_files.made_of(run, own, drawn=True).lacking
    with pytest.raises(ValueError, match="The scene in this link cannot be read"):
        removal_files.recipe_linked({"scene": "-3"})


def test_a_rendered_person_is_in_the_link_and_what_was_learnt_of_anybody_is_not():
    settings = LINKS["megaportrait"].form.start
    run: Any = type("Run", (), {"settings": settings})
    who, reference = people.first_person(), people.first_reference()
    shown: Any = portrait_files.Shown(run, dataclasses.replace(who, identity=12), reference, face=1, box=(1, 2.5, 3, 4))
    made = portrait_files.made_of(shown)
    assert made.more == {"person": "12", "reference": str(reference.seed), "face": "1", "box": "1,2.5,3,4"}
    recipe, face, box = portrait_files.recipe_linked(made.more)
    assert (recipe.person, recipe.reference, face, box) == (12, reference.seed, 1, (1.0, 2.5, 3.0, 4.0))
    run.settings = dataclasses.replace(settings, mode="trained")
    assert "learnt" in portrait_files.made_of(shown).lacking
    mine: Any = portrait_files.Shown(run, dataclasses.replace(who, identity=None), reference)
    assert portrait_files.made_of(mine).lacking.startswith("Your own pictures")
    for wrong in ({"person": "x"}, {"reference": "99999999"}, {"face": "2.5"}, {"box": "1,2"}):
        with pytest.raises(ValueError, match="in this link cannot be read"):
            portrait_files.recipe_linked(wrong)


def test_concepts_are_in_the_link_but_those_of_ones_own_and_earlier_questions():
    link = LINKS["concept_guidance"]
    asked = dataclasses.replace(link.form.start, message="x", concepts=(("humour.pca", 0.25), ("mine", 0.5)))
    made = chat.made_of(asked, {"mine": None})  # type: ignore[dict-item]
    assert made.more == {"concepts": "humour.pca:0.25"} and "own concepts" in made.lacking
    _settings, more, notes = link.read(link.address(made))
    assert not notes and chat.concepts_linked(asked, more["concepts"], "") == {"humour.pca": 0.25}
    earlier = dataclasses.replace(asked, concepts=(chat.START,), history=({"role": "user", "content": "x"},))
    assert chat.made_of(earlier, {}).more == {} and "before this one" in chat.made_of(earlier, {}).lacking
    for wrong, words in (("wit:1", "'wit' is unknown"), ("humour:much", "no number"), ("humour:7", "must be a number")):
        with pytest.raises(ValueError, match=words):
            chat.concepts_linked(asked, wrong, "")


@pytest.mark.parametrize(
    ("slug", "query", "holds"),
    [
        ("golden_noise", "seed=44&source=redenoise", [44, "redenoise"]),
        ("georemover", "seed=45&steps_1=3&compare=false", [45, 3, False]),
        ("megaportrait", "seed=46&no_shading=true", [46, ["no_shading"]]),
        ("concept_guidance", "message=Hm%3F&concepts=humour:0.3", ["Hm?", "humour"]),
        ("time_edit", "seed=47", [47]),
    ],
)
def test_opening_one_fills_in_the_page_and_runs_nothing(slug: str, query: str, holds: list[Any]):
    link = LINKS[slug]
    updates = link.opens(f"?tab={slug}&{query}")
    assert set(updates) <= set(link.outputs)
    assert all(value in list(updates.values()) for value in holds)
    assert f"press {link.press}" in updates[link.line]
    named = [event.fn for event in app.demo.fns.values() if getattr(event.fn, "__name__", "") == "opens"]
    assert [fn.__self__.slug for fn in named].count(slug) == 1 and not any(hasattr(fn, "needs_gpu") for fn in named)


def test_a_picture_finds_its_tab(tmp_path: Path):
    red = Image.new("RGB", (8, 8), "red")
    for link in LINKS.values():
        path = images.save_png(red, tmp_path / f"{link.slug}.png", {}, tab=link.tab)
        if link.restore is not None:
            assert links.tab_of(str(path)) == link.slug
    red.save(tmp_path / "plain.png")
    images.save_png(red, tmp_path / "other.png", {}, tab="elsewhere")
    for name, words in (("plain", "holds no settings"), ("other", "tab 'elsewhere', which this page does not have")):
        with pytest.raises(gr.Error, match=words):
            links.tab_of(str(tmp_path / f"{name}.png"))
