"""InstantStyle: a prompt for each attention, who paints what, and that the shared model is as before."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

from assets.instant_style import pictures
from demos.instant_style import unet_map, who
from demos.instant_style.picture import table as table_of_pictures
from demos.instant_style.picture import whose
from demos.instant_style.shown import figures
from pipelines import instant_style
from pipelines.core.lane import Job, Progress, live
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.run import Run
from pipelines.instant_style import (
    LAYOUT,
    MIXED,
    POOLED,
    STYLE,
    WORDS,
    A,
    B,
    Settings,
    examples,
    measured,
    picture,
    places,
    short,
)
from pipelines.instant_style.layers import Painter, Row, cross_attentions, speaking
from pipelines.instant_style.matrix import ATTRIBUTES, WORLDS, LabSettings, Pair, Tally, head, in_words, measure
from pipelines.instant_style.picture import PictureSettings
from pipelines.instant_style.style import ADAPTER, ALONE, WITHOUT, PictureStyle, adapted
from pipelines.models import sdxl
from pipelines.models.controlnets import split_adapter
from pipelines.worlds.prompts import read_prompt
from pipelines.worlds.rolled import rolled
from tests.toys import portrait_full

SHAPE, COLOUR = "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"
RED, BLUE = "a red cube on a wooden floor", "a blue ball on tiles"
SMALL = Settings(RED, BLUE, COLOUR, "a blue cube on a wooden floor", count=1, seed=0, steps=8)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


@pytest.fixture(scope="module")
def painter():
    with Registry("cpu").lease(
        *sdxl.FIRST["mini"].parts
    ) as parts:  # a lease keeps the others' threads out of its registry
        yield Painter(dict(zip(sdxl.PARTS, parts, strict=True)))


@pytest.fixture(scope="module")
def outcome(registry: Registry) -> instant_style.Outcome:
    return instant_style.generate(Job(1e9), registry, SMALL)


def test_the_places_are_all_cross_attentions_of_the_unet(painter: Painter):
    *attentions, last = places("mini")
    assert last == POOLED
    theirs = [name for name, _ in painter.unet.named_modules() if name.endswith("attn2")]
    assert sum(len(cross_attentions(painter.unet, place)) for place in attentions) == len(theirs) == 7
    assert len(places("full")) == 12 and {STYLE, LAYOUT} < set(places("full"))
    assert [short(p) for p in places("full")][3:6] == ["down 2.1", "middle", "up 0.0"]


def test_who_says_the_same_everywhere_changes_nothing(painter: Painter):
    """A in every place by name is A; B everywhere by name is B: to the byte."""
    a, b = painter.encode(RED, BLUE)
    rows = [
        Row(a, 3),
        Row(a, 3, dict.fromkeys(places("mini"), a)),
        Row(b, 3),
        Row(a, 3, dict.fromkeys(places("mini"), b)),
    ]
    one, same, other, all_others = (picture.tobytes() for picture in painter.draw(rows, 4, 5.5))
    assert one == same and other == all_others and one != other


def test_it_is_what_the_pipeline_draws_from_a_prompt(painter: Painter):
    noise = sdxl.draw_noise(3, (1, 4, 32, 32))
    plain = painter.pipe(RED, latents=noise, num_inference_steps=4, guidance_scale=5.5).images[0]
    (ours,) = painter.draw([Row(*painter.encode(RED), 3)], 4, 5.5)
    assert plain.tobytes() == ours.tobytes()


def test_only_the_chosen_attentions_hear_it_and_only_the_rows_with_a_prompt(painter: Painter):
    tokens = torch.full((1, 40, 192), 2.0)
    heard: dict[str, torch.Tensor] = {}
    hooks = [
        part.register_forward_hook(
            lambda _m, _a, named, _out, name=name: heard.update({name: named["encoder_hidden_states"]}),
            with_kwargs=True,
        )
        for name, part in painter.unet.named_modules()
        if name.endswith("attn2")
    ]
    more = {"text_embeds": torch.zeros(2, 128), "time_ids": torch.zeros(2, 6)}
    with torch.no_grad(), speaking(painter.unet, {COLOUR: tokens}):
        painter.unet(torch.zeros(2, 4, 32, 32), 1, torch.zeros(2, 40, 192), added_cond_kwargs=more)
    for hook in hooks:
        hook.remove()
    for name, given in heard.items():
        assert not given[0].any() and bool(given[1].any()) is name.startswith(COLOUR)


def test_one_place_changes_the_colour_and_nothing_else(outcome: instant_style.Outcome):
    seen = outcome.measurements["attributes"]
    assert seen["colour"][MIXED] == seen["colour"][WORDS] == {"A": 0, "B": 1, "of": 1}
    assert seen["shape"][MIXED]["A"] == seen["floor"][MIXED]["A"] == 1
    assert seen["colour"][A]["A"] == seen["shape"][B]["B"] == 1
    assert outcome.sheet.size == (5 * 128, 144)
    assert figures(outcome)["Colour is B’s"] == "chosen 1/1 · words 1/1"


def test_the_model_is_as_it_was_and_a_second_run_gives_the_same_bytes(registry: Registry, outcome):
    with registry.lease(sdxl.FIRST["mini"].named["unet"]) as (unet,):
        before = fingerprint(unet)
        again = instant_style.generate(Job(1e9), registry, SMALL)
        assert fingerprint(unet) == before
    assert again.sheet.tobytes() == outcome.sheet.tobytes()


def test_a_run_that_is_stopped_leaves_the_model_as_it_was(registry: Registry):
    with registry.lease(sdxl.FIRST["mini"].named["unet"]) as (unet,):
        before = fingerprint(unet)
    items = live(instant_style.generate, registry, dataclasses.replace(SMALL, steps=12))
    for item in items:
        if isinstance(item, Progress) and item.fraction > 0.45:  # B speaks in the chosen place
            break
    items.close()
    with registry.lease(sdxl.FIRST["mini"].named["unet"]) as (unet,):
        assert fingerprint(unet) == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt_a": " "}, "Prompt A is empty"),
        ({"prompt_b": ""}, "Prompt B is empty"),
        ({"places": "up_blocks.9.attentions.0"}, "There is no place called 'up_blocks.9.attentions.0' in this model"),
        ({"places": 3}, "list of places is 3"),
        ({"count": 9}, "number of pictures is 9"),
    ],
)
def test_wrong_settings_get_one_sentence(wrong: dict, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        dataclasses.replace(SMALL, **wrong).validated()
    assert str(caught.value).endswith(".")


def test_places_are_kept_in_the_models_order_whatever_stands_between_them():
    made = dataclasses.replace(SMALL, places=f"{POOLED}, {SHAPE}\n{POOLED}").validated()
    assert made.places == f"{SHAPE} {POOLED}" and made.where == (SHAPE, POOLED)


@pytest.mark.parametrize("model_set", ["mini", "full"])
def test_every_example_is_a_run_that_is_accepted(model_set: str):
    start = Settings.of(model_set)
    for title, filled in examples(model_set).items():
        assert dataclasses.replace(start, **filled).validated().where, title


# --- who paints what ---


@pytest.mark.parametrize("world", WORLDS)
def test_one_value_of_b_is_said_in_as_prompt(world: str):
    pair = Pair.drawn(world, 5)
    for name in ATTRIBUTES[world]:
        request, wanted = read_prompt(in_words(world, pair, name)), {**pair.said[0], name: pair.said[1][name]}
        if world == "portrait":
            assert request.attributes == wanted
        else:
            thing = request.things[0]
            read = (thing.shape, thing.colour, thing.finish, request.floor, request.backdrop)
            assert read == tuple(wanted.values())


@pytest.mark.parametrize("world", WORLDS)
def test_the_prompts_of_a_pair_say_everything_and_agree_in_nothing(world: str):
    for number in range(12):
        pair = Pair.drawn(world, number)
        assert pair == Pair.drawn(world, number) and not pair.said[0].items() & pair.said[1].items()
        for prompt, said in zip(pair.prompts, pair.said, strict=True):
            assert set(said) == set(ATTRIBUTES[world])
            request = read_prompt(prompt)
            if world == "portrait":
                assert request.attributes == said
            else:
                thing = request.things[0]
                read = (thing.shape, thing.colour, thing.finish, request.floor, request.backdrop)
                assert read == tuple(said.values())


def test_what_is_counted():
    """Of two pairs one counts: in the other B's own picture has not B's colour."""
    pair = Pair.drawn("tabletop", 0)
    a, b = ({head(name): value for name, value in said.items()} for said in pair.said)
    tally = Tally(LabSettings(), (SHAPE, COLOUR))
    mixed = {**a, "0 colour": b["0 colour"]}
    seen = {("A", ""): a, ("B", ""): b, ("alone", SHAPE): mixed, ("alone", COLOUR): a}
    seen |= {("all others", SHAPE): {**b, "0 colour": a["0 colour"]}, ("all others", COLOUR): b}
    tally.add(pair, seen)
    tally.add(pair, {**seen, ("B", ""): {**b, "0 colour": "another"}})
    table = tally.table()
    assert table["pairs"] == 2 and table["alone"][SHAPE]["colour"]["of"] == 1
    assert table["alone"][SHAPE]["shape"]["of"] == 2 and table["alone"][SHAPE]["shape"]["right"] == 0
    assert table["alone"][SHAPE]["colour"]["right"] == table["alone"][SHAPE]["colour"]["clean"] == 1
    assert table["all others"][SHAPE]["colour"]["right"] == 0 and table["all others"][COLOUR]["colour"]["right"] == 1
    assert measured.best(table, "colour") == SHAPE and table["alone"][COLOUR]["colour"]["interval"][0] == 0
    assert "100 %" in who.table_html(table) and Tally.read(tally.settings, tally.places, table).table() == table


def test_the_lab_counts_and_goes_on_where_it_stopped(registry: Registry):
    one = measure(Job(1e9), registry, LabSettings(count=1, steps=2))
    both = measure(Job(1e9), registry, LabSettings(count=2, steps=2, words=True), one)
    assert (one.done, both.done) == (1, 2) and both.places == places("mini")
    assert all(both.of[name] >= one.of[name] for name in ATTRIBUTES["tabletop"])
    assert "Said in words" in who.table_html(both.table()) and "Said in words" not in who.table_html(one.table())
    with pytest.raises(ValueError, match="only the mini set's world has a judge"):
        measure(Job(1e9), registry, LabSettings(model_set="full"))


# --- a picture that speaks: diffusers' IP-Adapter with random weights on our small model ---


def test_a_picture_speaks_in_the_chosen_blocks_only_and_leaves_no_trace(registry: Registry, painter: Painter):
    weights = split_adapter(portrait_full.plain_ip_adapter(painter.unet, 128))
    weights = {part: {name: value.float() for name, value in found.items()} for part, found in weights.items()}
    parts = {name: getattr(painter.pipe, name) for name in sdxl.PARTS}
    maker = PictureStyle(
        parts, weights, Image.new("RGB", (90, 60)), torch.randn(128, generator=torch.Generator().manual_seed(0))
    )
    before, kind = fingerprint(painter.unet), painter.unet.config.encoder_hid_dim_type
    settings = PictureSettings("a cube", "a face", "style", count=1, seed=2, steps=3)
    drawn = {
        strength: sheet_of(maker, registry, dataclasses.replace(settings, strength=strength)) for strength in (1.0, 0.0)
    }
    assert fingerprint(painter.unet) == before and painter.unet.config.encoder_hid_dim_type == kind
    (plain,) = painter.draw([Row(*painter.encode("a cube"), 2)], 3, sdxl.FIRST["mini"].guidance)
    assert list(drawn[1.0]) == [ALONE, ADAPTER, WITHOUT, picture.STRATEGIES["style"]]
    assert {one.tobytes() for row in drawn[0.0].values() for one in row} == {plain.tobytes()}, (
        "strength 0 is no picture"
    )
    assert len({one.tobytes() for row in drawn[1.0].values() for one in row}) == 4, "each row is another"
    assert drawn[1.0][ALONE][0].tobytes() == plain.tobytes()


def sheet_of(maker: PictureStyle, registry: Registry, settings: PictureSettings) -> dict:
    with torch.inference_mode(), adapted(maker.painter.unet, maker.weights):
        return maker.pictures(Run(Job(1e9), registry, settings))


def test_where_a_picture_speaks():
    """The paper's blocks of SDXL; in the small model those that were measured to paint colour and shape."""
    full = PictureSettings.of("full")
    assert full.blocks == (STYLE,) and dataclasses.replace(full, strategy="everywhere").blocks is None
    assert dataclasses.replace(full, strategy="style and layout").blocks == (STYLE, LAYOUT)
    small = {
        name: dataclasses.replace(PictureSettings.of("mini"), strategy=name).blocks for name in ("style", "layout")
    }
    assert small == {"style": (COLOUR,), "layout": (SHAPE,)}


def test_a_picture_of_our_world_gives_its_colour_in_the_style_block_and_its_shape_in_the_layout_block(
    registry: Registry,
):
    """The whole run on the shipped adapter; what it does in many pairs stands in pictures.json."""
    made = {}
    for number, strategy in enumerate(("style", "layout")):
        scene, prompt, _ = pictures.case(number)
        settings = PictureSettings(prompt, strategy=strategy, seed=pictures.SEED + number)
        made[strategy] = picture.generate(Job(1e9), registry, settings, rolled(scene))
        assert made[strategy].sheet.size == (4 * 128, 144)
    again = picture.generate(Job(1e9), registry, settings, rolled(scene))
    assert again.sheet.tobytes() == made["layout"].sheet.tobytes()
    assert {model["key"] for model in again.measurements["models"]} >= {
        "mini-ip-adapter/encoder",
        "mini-ip-adapter/adapter",
    }
    style, layout = (one.measurements["attributes"] for one in made.values())
    assert style["colour"]["style block"]["picture"] == style["shape"]["style block"]["prompt"] == 1
    assert layout["shape"]["layout block"]["picture"] == layout["colour"]["layout block"]["prompt"] == 1
    assert "<th scope='row'>colour</th>" in table_of_pictures(made["style"])
    assert whose({"picture": 1, "prompt": 0, "of": 3}) == "the picture’s 1 of 3, neither’s 2 of 3"


def test_the_figures_of_pictures_are_of_these_weights():
    record = json.loads(pictures.FILE.read_text())
    assert record["base"] == picture.mark(), "run python -m assets.instant_style.pictures --write"
    again = json.loads(json.dumps(pictures.record_of(record["pairs"], record["steps"])))
    assert again == record and len(record["pairs"]) >= 40
    assert picture.claim() == record["claim"]


# --- the evaluation, and the page that reads it ---


def test_the_evaluation_is_of_this_model_and_meets_the_bars_that_it_claims():
    record = measured.evaluation()
    assert measured.of_this_model(record), "run python -m assets.instant_style.evaluate --write"
    for world in record["worlds"].values():
        for name, row in world["bars"].items():
            assert row["place"] == measured.best(world, name)
            assert row["met"] == (row["alone"]["share"] >= 0.9 and row["all others"]["share"] <= 0.1)
        assert world["bars"] == measured.bars(world)
    met = {name for world in record["worlds"].values() for name, row in world["bars"].items() if row["met"]}
    assert {"shape", "colour"} <= met and measured.carriers()["colour"] != measured.carriers()["shape"]


def test_the_map_has_a_button_for_each_place_and_says_what_it_paints():
    made = unet_map.template("mini", Settings.field("places"))
    assert all(f"data-place='{place}'" in made for place in places("mini"))
    assert f"{short(measured.carriers()['colour'])}</b><span>" in made and "shape" in made
    assert "%" not in unet_map.template("full", Settings.field("places"))
    assert measured.claim() in who.evaluation_html()
