"""The shipped weights: whole, small enough, described by cards that agree with them, and as good as the cards say."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from assets.lab import cards
from assets.mini_sdxl import evaluate
from assets.verifier.train import accuracy
from pipelines.core.registry import Registry
from pipelines.core.scores import wilson
from pipelines.core.weights import ROOT
from pipelines.models import judges, sdxl, sdxl_tiny, verifier
from pipelines.worlds import grammar, portrait, tabletop
from pipelines.worlds.prompts import PortraitRequest, read_prompt

ASSETS = ROOT / "assets"
FOLDERS = sorted(cards.CARDS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifest_matches_the_files(folder):
    facts = json.loads((ASSETS / folder / "manifest.json").read_text())
    assert facts["sha256"], "no weights are listed"
    on_disk = {str(p.relative_to(ASSETS / folder)) for p in (ASSETS / folder).rglob("*.safetensors")}
    assert set(facts["sha256"]) == on_disk
    for name, wanted in facts["sha256"].items():
        content = (ASSETS / folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == wanted, name
        assert len(content) == facts["bytes"][name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_card_says_what_was_measured(folder):
    assert (ASSETS / folder / "README.md").read_text() == cards.CARDS[folder](), "run python -m assets.lab.cards"


def test_every_asset_is_small_enough_for_a_space():
    files = [p for p in ASSETS.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert max(p.stat().st_size for p in files) < 10_000_000
    # What the second generation's training goes on from is no part of the app.
    shipped = [p for p in files if ASSETS / "mini_sdxl2" / "state" not in p.parents]
    # Two generations of mini-sdxl and of MegaPortrait's nets, until the last paper has moved.
    assert sum(p.stat().st_size for p in shipped) < 176_000_000


def test_no_config_carries_a_path_of_the_training_machine():
    for path in ASSETS.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text()) or not str(
            json.loads(path.read_text())["_name_or_path"]
        ).startswith("/"), path


@pytest.fixture(scope="module")
def registry():
    return Registry("cpu")


# ------------------------------------------------------------------------------------------ verifier


@pytest.mark.parametrize("spec", [judges.JUDGE, judges.REWARD], ids=["judge", "reward"])
def test_a_verifier_reads_held_out_renders(registry, spec):
    with registry.lease(spec) as (model,):
        shares = accuracy(model, 80)
    assert sum(shares.values()) / len(shares) > 0.97, shares
    assert min(shares.values()) > 0.9, shares


def logits_that_say(**wanted: str) -> dict[str, torch.Tensor]:
    """Logits of one picture that read ``wanted`` and otherwise the first answer."""
    rows = {}
    for head, values in verifier.HEADS.items():
        rows[head] = torch.full((1, len(values)), -4.0)
        rows[head][0, values.index(wanted.get(head.replace(" ", "_"), wanted.get(head, values[0])))] = 4.0
    return rows


def reading(*things: tuple[str, str], **more: str) -> dict[str, torch.Tensor]:
    named = {f"{slot} shape": shape for slot, (_, shape) in enumerate(things)}
    named |= {f"{slot} colour": colour for slot, (colour, _) in enumerate(things)}
    return logits_that_say(**{"count": str(len(things)), **named, **more})


@pytest.mark.parametrize(
    ("prompt", "things", "more", "right"),
    [
        ("a red cube left of a blue sphere", (("red", "cube"), ("blue", "sphere")), {}, True),
        ("a red cube left of a blue sphere", (("blue", "sphere"), ("red", "cube")), {}, False),
        ("a red cube right of a blue sphere", (("blue", "sphere"), ("red", "cube")), {}, True),
        ("a red cube and a blue sphere", (("blue", "sphere"), ("red", "cube")), {}, True),
        ("a red cube and a blue sphere", (("red", "sphere"), ("blue", "cube")), {}, False),
        ("a red cube in front of a blue sphere", (("blue", "sphere"), ("red", "cube")), {"0 nearer": "right"}, True),
        ("a red cube behind a blue sphere", (("blue", "sphere"), ("red", "cube")), {"0 nearer": "right"}, False),
        ("a red cube", (("red", "cube"), ("red", "cube")), {}, False),
        ("a red cube on marble", (("red", "cube"),), {"floor": "wood"}, False),
        ("a red cube on marble", (("red", "cube"),), {"floor": "marble"}, True),
    ],
)
def test_a_reading_is_matched_to_what_was_asked(prompt, things, more, right):
    (verdicts,) = verifier.judge(reading(*things, **more), read_prompt(prompt))
    assert verifier.fully_right(verdicts) is right


@pytest.mark.parametrize("prompt", ["a glossy red cube and a blue sphere", "a glossy red cube behind a blue sphere"])
def test_all_pictures_of_a_prompt_get_the_same_rows(prompt):
    here, there = reading(("red", "cube"), ("blue", "sphere")), reading(("blue", "sphere"), ("red", "cube"))
    portrait_there = logits_that_say(world="portrait")
    logits = {head: torch.cat([x[head] for x in (here, there, portrait_there)]) for head in verifier.HEADS}
    rows = [[(v.attribute, v.wanted) for v in verdicts] for verdicts in verifier.judge(logits, read_prompt(prompt))]
    assert rows[0] == rows[1] == rows[2]
    assert ("finish of the first object", "glossy") in rows[0] and ("colour of the second object", "blue") in rows[0]


def test_nearer_is_told_in_the_prompt_s_own_order():
    behind = read_prompt("a red cube behind a blue sphere")
    (verdicts,) = verifier.judge(reading(("blue", "sphere"), ("red", "cube"), **{"0 nearer": "right"}), behind)
    (nearer,) = [v for v in verdicts if v.attribute == "which object is nearer"]
    assert (nearer.wanted, nearer.seen, nearer.right) == ("the second object", "the first object", False)


def test_the_reward_prefers_the_right_picture_and_has_a_gradient():
    request = read_prompt("a red cube left of a blue sphere")
    good, bad = reading(("red", "cube"), ("blue", "sphere")), reading(("red", "cube"), ("green", "sphere"))
    assert verifier.log_likelihood(good, request) > verifier.log_likelihood(bad, request)
    leaf = {head: value.requires_grad_() for head, value in good.items()}
    verifier.log_likelihood(leaf, request).sum().backward()
    assert leaf["0 colour"].grad.abs().sum() > 0


LONG = "a red cube to the left of a blue ball on a wooden floor under the sky"
PERSON = "a person with long red hair, glasses and no beard, smiling, wearing a green sweater"


def verdicts_as_far(prompt: str, cut: int) -> list[verifier.Verdict]:
    request, missed = verifier.read_as_far(prompt, cut)
    whole = not any(verdict.attribute == "number of objects" for verdict in missed)
    seen = reading(("red", "cube"), ("blue", "sphere"), floor="wood", backdrop="sky")
    seen |= logits_that_say(world="portrait", hair_colour="red") if isinstance(request, PortraitRequest) else {}
    return [*verifier.judge(seen, request, whole)[0], *missed]


@pytest.mark.parametrize(
    "prompt", [LONG, PERSON, "from left to right a cube, a white cone and a red box on tiles", "zebra"]
)
def test_of_words_that_were_not_read_nothing_is_said_to_be_right_or_wrong(prompt: str):
    """Wherever a prompt is cut, each thing that it asks for is judged or said to be not read, and none of them twice."""
    full = verdicts_as_far(prompt, len(prompt))
    assert verifier.NOT_READ not in {verdict.seen for verdict in full}
    asked = sorted(verdict.wanted for verdict in full)
    for cut in range(len(prompt)):
        if cut and not prompt[cut - 1].isspace():
            continue
        found = verdicts_as_far(prompt, cut)
        read = [verdict for verdict in found if verdict.right is not None]
        assert all(verdict.seen == verifier.NOT_READ for verdict in found if verdict not in read)
        assert set(verdict.wanted for verdict in read) <= set(verdict.wanted for verdict in full)
        assert len({verdict.attribute for verdict in found}) == len(found)
        # Left of and right of say where things stand, which has no row of its own in a whole reading.
        gone = [
            verdict.wanted
            for verdict in found
            if verdict.attribute not in ("place of the objects", "which object is nearer")
        ]
        if read and prompt != PERSON:
            assert len(gone) >= len(asked) - 1, (prompt[:cut], found)
        if any(verdict.right is None for verdict in found):
            assert not verifier.fully_right(found)


def test_a_prompt_that_is_cut_is_judged_as_far_as_it_was_read():
    cut = LONG.index("ball")
    rows = {verdict.attribute: (verdict.wanted, verdict.right) for verdict in verdicts_as_far(LONG, cut)}
    assert rows == {
        "kind of picture": ("tabletop", True), "shape of the first object": ("cube", True), "colour of the first object": ("red", True),
        "shape of the second object": ("sphere", None), "colour of the second object": ("blue", None), "number of objects": ("2", None),
        "place of the objects": ("the first left of the second", None), "floor": ("wood", None), "backdrop": ("sky", None),
    }  # fmt: skip
    rows = {verdict.attribute: verdict.right for verdict in verdicts_as_far(LONG, LONG.index("sky"))}
    assert (
        rows["backdrop"] is None
        and rows["floor"] is True
        and rows["number of objects"] is True
        and rows["colour of the right object"]
    )
    rows = {verdict.attribute: verdict.right for verdict in verdicts_as_far(PERSON, PERSON.index("glasses"))}
    assert rows["hair colour"] is True and rows["glasses"] is rows["beard"] is rows["clothes"] is None
    assert all(verdict.right is None for verdict in verdicts_as_far(PERSON, 2)), "a picture of what, was not read"


def test_a_portrait_is_judged_by_what_the_prompt_names():
    request = read_prompt("a person with red hair, glasses and no beard")
    assert isinstance(request, PortraitRequest)
    (verdicts,) = verifier.judge(
        logits_that_say(world="portrait", hair_colour="red", glasses="yes", beard="yes"), request
    )
    told = {v.attribute: v.right for v in verdicts}
    assert told == {"kind of picture": True, "hair colour": True, "glasses": True, "beard": False}


def test_an_unknown_backbone_is_one_sentence():
    with pytest.raises(ValueError, match="use 'resnet' or 'regnet'"):
        verifier.SceneVerifier("vgg")


# ----------------------------------------------------------------------------------------- mini-sdxl


@pytest.mark.parametrize(("base", "cells"), [(sdxl.FIRST["mini"], sdxl_tiny.LATENT), (sdxl.MINI, 16)])
def test_the_parts_are_sdxl_s_classes_and_sizes(registry, base, cells):
    with registry.lease(*base.parts) as parts:
        pipe = sdxl.build(parts)
    assert type(pipe).__name__ == "StableDiffusionXLPipeline"
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert pipe.unet.config.sample_size == cells and cells * pipe.vae_scale_factor == base.size
    assert pipe.text_encoder_2.config.projection_dim == sdxl_tiny.POOLED


def test_every_caption_word_is_one_token(registry):
    with registry.lease(*sdxl.MINI.parts) as parts:
        tokenizer = dict(zip(sdxl.PARTS, parts, strict=True))["tokenizer"]
    for word in {*grammar.vocabulary(), *portrait.vocabulary()} - {","}:
        assert len(tokenizer.tokenize(word)) == (1 if "-" not in word else 3), word
    assert tokenizer.unk_token_id not in tokenizer("zebra quantum é 漢").input_ids[1:3]


@pytest.mark.parametrize("base", [sdxl.FIRST["mini"], sdxl.MINI], ids=["first", "second"])
def test_the_autoencoder_gives_scenes_back(registry, base):
    with registry.lease(base.named["vae"]) as (vae,), torch.inference_mode():
        image = tabletop.render([tabletop.sample(i) for i in range(4)], base.size).image * 2 - 1
        drawn = vae.decode(vae.encode(image).latent if base is sdxl.MINI else vae.encode(image).latents).sample.clamp(
            -1, 1
        )
    assert 10 * torch.log10(4 / (drawn - image).square().mean()) > 27


@pytest.mark.slow
@pytest.mark.long
def test_pictures_are_what_prompts_say_as_often_as_the_card_tells(tmp_path, monkeypatch):
    measured = cards.facts("mini_sdxl", "evaluation.json")
    monkeypatch.setattr(evaluate, "DONE", tmp_path)
    report, _ = evaluate.evaluate(25, 25, sdxl.FIRST["mini"].guidance, 0, "test", sdxl_tiny.SCHEDULE_STEPS)
    for kind in evaluate.KINDS:
        low = wilson(round(25 * measured[kind]["fully_right"]["share"]), 25, z=3.3)[0]
        assert report[kind]["fully_right"]["share"] >= low, kind
