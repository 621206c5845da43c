"""The portraits' world: steady, true to what it says of itself, and readable both ways."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace

import pytest
import torch

from pipelines.worlds import portrait as portraits
from pipelines.worlds.portrait import __main__ as sheet
from pipelines.worlds.portrait import clay

SIZE = (40, 56)  # never square


@pytest.fixture(scope="module")
def people() -> list[portraits.Portrait]:
    """One portrait of every hair style, with and without glasses and beard."""
    return [
        portraits.sample(seed, hair_style=style, glasses=seed % 2 == 0, beard=seed % 4 < 2)
        for seed, style in enumerate(portraits.HAIR_STYLES)
    ] + [portraits.sample(4, hair_style="long", glasses=True, beard=True)]


@pytest.fixture(scope="module")
def truth(people) -> portraits.PortraitTruth:
    return portraits.render(people, SIZE, truth=True)


# --- does nothing when told to do nothing


def test_the_same_shot_again_is_the_same_portrait(people):
    assert portraits.relit(people[0], people[0].shot) == people[0]


def test_a_fixed_field_leaves_the_others_alone():
    free = portraits.sample(3)
    assert portraits.sample(3, yaw=free.shot.yaw, beard=free.identity.beard) == free
    fixed = portraits.sample(3, beard=not free.identity.beard)
    assert replace(fixed, identity=replace(fixed.identity, beard=free.identity.beard)) == free


# --- is steady


def test_the_seed_decides_everything(people, truth):
    again = portraits.render([portraits.sample(4, hair_style="long", glasses=True, beard=True)], SIZE, truth=True)
    assert torch.equal(again.image[0], truth.image[4])
    assert portraits.sample(5) == portraits.sample(5)
    assert portraits.sample(5) != portraits.sample(6)


def test_a_batch_of_two_is_two_batches_of_one(people, truth):
    pair = portraits.render(people[1:3], SIZE, truth=True)
    assert torch.equal(pair.image, truth.image[1:3])
    assert torch.equal(pair.landmarks, truth.landmarks[1:3])
    assert all(torch.equal(pair.masks[name], truth.masks[name][1:3]) for name in portraits.MASKS)


def test_portraits_drawn_together_as_on_a_gpu_equal_those_drawn_alone(monkeypatch):
    alike = [portraits.sample(seed, hair_style="curly", glasses=True, beard=True) for seed in range(3)]
    alone = portraits.render(alike, SIZE, truth=True)
    monkeypatch.setattr(clay, "_groups", lambda portraits, device, pixels: [[2, 0, 1]])
    together = portraits.render(alike, SIZE, truth=True)
    # float32 sums in another order may move a ray from one side of an edge to the other
    assert (alone.image - together.image).abs().mean() < 1e-4
    assert (alone.landmarks - together.landmarks).abs().max() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_gpu_draws_what_the_cpu_draws(people, truth):
    there = portraits.render(people, SIZE, device="cuda", truth=True)
    assert (there.image.cpu() - truth.image).abs().mean() < 1e-3
    assert (there.landmarks.cpu() - truth.landmarks).abs().max() < 1e-2
    for name in portraits.MASKS:
        assert (there.masks[name].cpu() != truth.masks[name]).float().mean() < 5e-3, name


# --- says the truth


def test_shapes_and_ranges(people, truth):
    count = len(people)
    assert truth.image.shape == (count, 3, *SIZE)
    assert truth.image.dtype == torch.float32
    assert truth.image.min() >= 0
    assert truth.image.max() <= 1
    assert truth.depth.shape == truth.valid.shape == truth.shading.shape == (count, 1, *SIZE)
    assert truth.normals.shape == (count, 3, *SIZE)
    assert truth.landmarks.shape == (count, len(portraits.LANDMARK_NAMES), 2)
    assert portraits.render(people[:1], (56, 40)).image.shape == (1, 3, 56, 40)
    assert portraits.render(people[:1], 24, supersample=1).image.shape == (1, 3, 24, 24)


def test_pictures_can_be_trained_on(people):
    weight = torch.ones(1, requires_grad=True)
    (portraits.render(people[:1], (12, 16)).image * weight).sum().backward()
    assert weight.grad is not None


def test_every_pixel_has_exactly_one_mask(truth):
    assert tuple(truth.masks) == portraits.MASKS
    assert (sum(mask.int() for mask in truth.masks.values()) == 1).all()


def test_masks_show_what_the_portrait_has(people, truth):
    for place, one in enumerate(people):
        assert truth.masks["glasses"][place].any() == one.identity.glasses
        assert truth.masks["beard"][place].any() == one.identity.beard
        for name in ("face", "hair", "body", "background"):
            assert truth.masks[name][place].float().mean() > 0.02, name


def test_depth_normals_and_shading_are_those_of_the_surface(truth):
    there = truth.valid[:, 0]
    assert torch.equal(there, ~truth.masks["background"])
    assert (truth.depth[:, 0][there] > 5).all()
    assert (truth.depth[:, 0][there] < 9).all()
    length = truth.normals.norm(dim=1)
    torch.testing.assert_close(length[there], torch.ones_like(length[there]), atol=1e-4, rtol=0)
    for picture in (truth.depth[:, 0], truth.shading[:, 0], length):
        assert (picture[~there] == 0).all()
    assert truth.normals[:, 2][truth.masks["face"]].mean() > 0.4  # faces look at the camera
    assert truth.shading[:, 0][there].std() > 0.05


def test_visible_landmarks_lie_on_the_face(people, truth):
    face = truth.masks["face"] | truth.masks["beard"]
    for place in range(len(people)):
        for (y, x), seen in zip(truth.landmarks[place], truth.visible[place], strict=True):
            assert not seen or face[place, math.floor(y), math.floor(x)]
    left, right, _, left_mouth, right_mouth = truth.landmarks[:, :5].unbind(1)
    assert (left[:, 1] < right[:, 1]).all()
    assert (left_mouth[:, 1] < right_mouth[:, 1]).all()
    assert (left[:, 0] < left_mouth[:, 0]).all()
    assert (right[:, 0] < right_mouth[:, 0]).all()
    bare = [place for place, one in enumerate(people) if not one.identity.glasses]
    assert truth.visible[bare, :3].all()


def test_the_nose_follows_the_turn_of_the_head():
    shots = [portraits.sample_shot(0, yaw=yaw, pitch=0.0, roll=0.0) for yaw in (-0.4, 0.0, 0.4)]
    who = portraits.sample_identity(0)
    nose = portraits.render([portraits.Portrait(who, shot) for shot in shots], SIZE, truth=True).landmarks[:, 2]
    assert nose[0, 1] + 2 < nose[1, 1] < nose[2, 1] - 2
    assert abs(nose[1, 1] - SIZE[1] / 2) < 1e-3


def test_light_changes_the_picture_and_nothing_else(people):
    before = people[1]
    other = replace(before.shot, light_azimuth=-before.shot.light_azimuth, light_elevation=0.4, light_colour="cool")
    one, two = (portraits.render([p], SIZE, truth=True) for p in (before, portraits.relit(before, other)))
    assert (one.image - two.image).abs().mean() > 0.005
    assert (one.shading - two.shading).abs().max() > 0.05
    for name in ("depth", "normals", "landmarks", "visible"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert all(torch.equal(one.masks[name], two.masks[name]) for name in portraits.MASKS)


def test_a_person_stays_the_same_in_another_shot(people):
    again = portraits.relit(people[0], portraits.sample_shot(77))
    assert torch.equal(again.identity.vector(), people[0].identity.vector())
    assert again.shot != people[0].shot


def test_what_a_picture_shows_is_found_in_another_shot_of_the_person():
    one = portraits.sample(
        12, hair_style="short", glasses=False, beard=False, yaw=0.35, pitch=0.0, expression="neutral"
    )
    other = portraits.relit(one, replace(one.shot, yaw=-0.2, roll=0.1))
    first, second = (portraits.render([portrait], (96, 72), truth=True) for portrait in (one, other))
    same, seen = portraits.seen_in(one, first, one, first)
    rows, columns = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(72) + 0.5, indexing="ij")
    assert torch.equal(seen, first.valid[0, 0]) and same.isfinite().all()
    assert torch.allclose(same[seen], torch.stack((rows, columns), -1)[seen], atol=1e-2)

    places, seen = portraits.seen_in(one, first, other, second)
    face = seen & first.masks["face"][0]
    assert 0.6 < face.sum() / first.masks["face"].sum() < 0.99, "a cheek is turned away"
    row, column = places.floor().long().unbind(-1)
    there = second.masks["face"][0][row.clamp(0, 95), column.clamp(0, 71)]
    assert there[face].float().mean() > 0.95
    for point in range(5):  # eyes, nose and corners of the mouth are where the other picture has them
        y, x = first.landmarks[0, point]
        found = places[math.floor(y), math.floor(x)]
        assert (found - second.landmarks[0, point]).norm() < 1.5, portraits.LANDMARK_NAMES[point]
        assert (portraits.landmarks(other, (96, 72))[point] - second.landmarks[0, point]).norm() < 1e-3
    body = seen & first.masks["body"][0]
    assert torch.allclose(places[body], torch.stack((rows, columns), -1)[body], atol=1e-2), "clothes stay"


def test_a_place_is_looked_for_in_one_person_s_pictures_of_one_size(people):
    one = portraits.sample(12)
    truth = portraits.render([one], (24, 16), truth=True)
    with pytest.raises(ValueError, match="two people"):
        portraits.seen_in(one, truth, portraits.sample(13), truth)
    with pytest.raises(ValueError, match="depth is needed"):
        portraits.seen_in(one, truth, one, portraits.render([one], (24, 16)))
    with pytest.raises(ValueError, match=r"\(1, 1, 24, 16\) and \(1, 1, 16, 24\)"):
        portraits.seen_in(one, truth, one, portraits.render([one], (16, 24), truth=True))


def test_identity_vectors_name_their_numbers():
    vectors = torch.stack([portraits.sample_identity(seed).vector() for seed in range(50)])
    assert vectors.shape == (50, len(portraits.IDENTITY_FIELDS))
    assert vectors.abs().max() <= 1
    who = portraits.sample_identity(1, hair_colour="red", glasses=True)
    assert who.vector()[portraits.IDENTITY_FIELDS.index("hair_colour=red")] == 1
    assert who.vector()[portraits.IDENTITY_FIELDS.index("glasses")] == 1
    assert len({tuple(vector.tolist()) for vector in vectors}) == 50


def test_people_are_drawn_evenly():
    drawn = [portraits.attributes(portraits.sample(seed)) for seed in range(1200)]
    for name, share in (("glasses", 0.5), ("beard", 0.45)):
        assert abs(sum(facts[name] == "yes" for facts in drawn) / 1200 - share) < 0.06
    for name in ("hair_colour", "hair_style", "clothes", "background", "expression"):
        values = portraits.ATTRIBUTES[name]
        for value in values:
            assert abs(sum(facts[name] == value for facts in drawn) / 1200 - 1 / len(values)) < 0.06


# --- captions


def test_captions_can_be_read_back():
    for seed in range(500):
        one = portraits.sample(seed)
        text = portraits.caption(one, random.Random(seed))
        said, facts = portraits.parse(text), portraits.attributes(one)
        assert said == {name: facts[name] for name in said}, text
        assert {"hair_colour", "glasses", "beard"} <= set(said)
        assert len(text.split()) <= 30
        assert text == text.lower()
        assert set(text.replace(",", " ,").split()) <= set(portraits.vocabulary())


def test_captions_mention_what_they_are_asked_to():
    one = portraits.sample(8)
    for mention in ((), ("hair_style",), ("expression", "clothes"), tuple(portraits.ATTRIBUTES)):
        said = portraits.parse(portraits.caption(one, random.Random(1), mention))
        assert set(said) == {"hair_colour", "glasses", "beard", *mention}
    assert len({portraits.caption(one, random.Random(seed)) for seed in range(60)}) > 40
    assert portraits.caption(one) == portraits.caption(one)
    assert len(portraits.vocabulary()) < 150


def test_a_caption_from_the_description_reads_as_meant():
    said = portraits.parse("a smiling person with long red hair, glasses and no beard, wearing a blue sweater")
    assert said == {
        "hair_colour": "red",
        "hair_style": "long",
        "glasses": "yes",
        "beard": "no",
        "expression": "smiling",
        "clothes": "blue",
    }


# --- fails well


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read"),
        ("a red cube on a wooden floor", "cannot read"),
        ("a person with long red hair in a bun, glasses and no beard", "cannot read"),
        ("a person with red hair, blue hair, glasses and no beard", "twice"),
        ("a bearded person with red hair, glasses and no beard", "twice"),
        ("a person with red hair and glasses", "does not say beard"),
        ("a person with red hair, glasses and no beard in front of a green wall", "cannot read"),
        ("a person with " + "red hair, " * 20_000, "cannot read|twice"),
    ],
)
def test_text_outside_the_grammar_gets_one_sentence(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        portraits.parse(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_wrong_input_gets_one_sentence(people):
    with pytest.raises(ValueError, match="has no field 'hat'"):
        portraits.sample(0, hat="green")
    with pytest.raises(ValueError, match="choose from black, brown"):
        portraits.sample(0, hair_colour="pink")
    with pytest.raises(ValueError, match="yaw is nan: give a number from"):
        portraits.sample(0, yaw=math.nan)
    with pytest.raises(ValueError, match="cannot mention 'hat'"):
        portraits.caption(people[0], mention=["hat"])
    with pytest.raises(ValueError, match="no portrait to render"):
        portraits.render([])
    with pytest.raises(ValueError, match="size is 4x40:"):
        portraits.render(people, (4, 40))
    with pytest.raises(ValueError, match="supersample is 0"):
        portraits.render(people, SIZE, supersample=0)


def test_every_choice_can_be_drawn():
    """Every word of every list finds its colour or shape."""
    shot_fields = {field.name for field in fields(portraits.Shot)}
    choices = {
        "hair_colour": portraits.HAIR_COLOURS,
        "eye_colour": portraits.EYE_COLOURS,
        "clothes": portraits.CLOTHES,
        "collar": portraits.COLLARS,
        "background": portraits.BACKGROUNDS,
        "light_colour": portraits.LIGHT_COLOURS,
    }
    assert set(choices) - {"hair_colour", "eye_colour"} <= shot_fields
    most = max(len(values) for values in choices.values())
    drawn = [
        portraits.sample(seed, **{name: values[seed % len(values)] for name, values in choices.items()})
        for seed in range(most)
    ]
    assert portraits.render(drawn, (12, 16), supersample=1).image.isfinite().all()


def test_the_contact_sheet_is_a_picture_of_the_seeds():
    made = sheet.contact_sheet(seed=0, columns=2, rows=1, size=24)
    assert made.size == (48, 24)
    assert made.tobytes() == sheet.contact_sheet(seed=0, columns=2, rows=1, size=24).tobytes()
