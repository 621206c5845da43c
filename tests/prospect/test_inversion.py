"""ProSpect's inversion: words that are learnt, ten tokens of a picture, their file, and their place on the timeline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from demos.core.roll import START
from demos.prospect import invert as page
from pipelines import prospect
from pipelines.core.lane import Job, Progress, live
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.models import sdxl
from pipelines.models.sdxl_parts import encode
from pipelines.prospect import STAGES, Settings, inversion, learning, tokens
from pipelines.prospect.inversion import InversionSettings, Inverted, Look
from pipelines.prospect.stages import Painter, told_apart
from pipelines.prospect.tokens import METADATA, TENSOR, Tokens
from pipelines.worlds.rolled import rolled

QUICK = InversionSettings("word", learn_steps=3, steps=4, seed=2)
WIDTH = 192


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return rolled(START)


@pytest.fixture(scope="module")
def made(registry: Registry, scene: Image.Image) -> Inverted:
    return inversion.invert(Job(1e9), registry, QUICK, scene)


def with_painter(registry: Registry, work):
    return registry.run(sdxl.BASES["mini"].named, lambda **parts: work(Painter(sdxl.build(parts))))


def some(mark: str | None = None, **more) -> Tokens:
    values = numpy.random.default_rng(0).normal(0, 0.03, (STAGES, 1, WIDTH)).astype(numpy.float32)
    return Tokens(values, "mini", mark or sdxl.mark(sdxl.BASES["mini"]), **more)


# --- words ---


def test_the_embedding_of_a_word_reads_as_the_word(registry: Registry):
    def work(painter: Painter):
        pipe = painter.pipe
        found = []
        for table, tokenizer in zip(painter._tables(), (pipe.tokenizer, pipe.tokenizer_2), strict=True):
            (number,) = tokenizer("cube", add_special_tokens=False).input_ids
            found.append(table.weight[number])
        with torch.no_grad():
            return painter.worded(torch.cat(found).expand(STAGES, 1, -1)), painter.spectrum("cube")

    made, wanted = with_painter(registry, work)
    assert torch.allclose(made.embeds, wanted.embeds, atol=1e-4)
    assert torch.allclose(made.pooled, wanted.pooled, atol=1e-4)


def test_the_words_of_a_prompt_read_as_the_prompt(registry: Registry):
    prompt = "a red cube on tiles"

    def work(painter: Painter):
        with torch.no_grad():
            return (
                painter.words(prompt),
                painter.worded(painter.words(prompt)),
                painter.spectrum(prompt),
                painter.words(""),
            )

    words, made, wanted, nothing = with_painter(registry, work)
    assert words.shape == (STAGES, 5, WIDTH) and nothing.shape == (STAGES, 1, WIDTH)
    assert torch.allclose(made.embeds, wanted.embeds, atol=1e-4)


def test_a_stage_has_slopes_for_its_own_token_only(registry: Registry, scene: Image.Image):
    def work(painter: Painter):
        moved = torch.full((STAGES, 1, WIDTH), 0.01, requires_grad=True)
        latents = encode(painter.pipe.vae, numpy.asarray(scene)).clone()
        losses = learning.stage_losses(painter, latents, painter.worded(moved), torch.Generator().manual_seed(0))
        (slope,) = torch.autograd.grad(losses[3], moved)
        return losses.detach(), slope

    losses, slope = with_painter(registry, work)
    assert losses.shape == (STAGES,) and bool((losses > 0).all())
    assert slope[3].abs().sum() > 0 and slope[:3].abs().sum() == slope[4:].abs().sum() == 0


def test_tokens_of_another_width_are_refused(registry: Registry):
    with pytest.raises(ValueError, match="are 10 × 1 × 7 but this model reads 10 × 1 to 38 × 192"):
        with_painter(registry, lambda painter: painter.worded(torch.zeros(STAGES, 1, 7)))


# --- an inversion ---


def test_an_inversion_tells_what_it_learnt_and_leaves_the_model(registry: Registry, scene: Image.Image, made: Inverted):
    assert made.tokens.values.shape == (STAGES, 1, WIDTH) and made.tokens.values.dtype == numpy.float32
    assert len({row.tobytes() for row in made.tokens.values}) == STAGES, "every stage has its own"
    assert made.drawn.size == (3 * 256, 272) and len(made.measurements["loss_by_stage"]) == STAGES
    assert made.tokens.seen["0 colour"] == "orange" and made.tokens.seen["count"] == "1"
    assert "1 shape" not in made.tokens.seen and "hair" not in made.tokens.seen
    with registry.lease(prospect.parts("mini")["unet"]) as (unet,):
        before = fingerprint(unet)
        again = inversion.invert(Job(1e9), registry, QUICK, scene)
        assert fingerprint(unet) == before
    assert again.tokens.values.tobytes() == made.tokens.values.tobytes()


def test_the_largest_square_in_the_middle_is_read(registry: Registry, scene: Image.Image, made: Inverted):
    wide = Image.new("RGB", (2 * scene.width, scene.height), "white")
    wide.paste(scene, (scene.width // 2, 0))
    found = inversion.invert(Job(1e9), registry, QUICK, wide)
    assert found.tokens.values.tobytes() == made.tokens.values.tobytes()


def test_a_stopped_inversion_ends_and_shows_looks_before(registry: Registry, scene: Image.Image):
    items = live(inversion.invert, registry, dataclasses.replace(QUICK, learn_steps=2000), scene)
    told = []
    for item in items:
        if isinstance(item, Look):
            assert item.step == inversion.LOOKS_EVERY
            break
        told += [item] if isinstance(item, Progress) else []
    items.close()
    # A machine that is behind tells fewer of them.
    fractions = [item.fraction for item in told]
    assert fractions[-1] > 0 and fractions == sorted(fractions)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"start": "poem"}, "What learning begins with"),
        ({"start": "caption", "model_set": "full"}, "begin with one word"),
        ({"learn_steps": 0}, "number of steps of learning is 0"),
        ({"rate": 9.0}, "rate is 9"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_settings_get_one_sentence(wrong: dict, says: str):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(QUICK, **wrong).validated()


def test_learning_begins_with_the_words_of_a_reader(registry: Registry, scene: Image.Image):
    found = inversion.invert(Job(1e9), registry, dataclasses.replace(QUICK, start="caption", learn_steps=1), scene)
    words = found.measurements["words"]
    assert "orange" in words and found.tokens.values.shape[1] == len(words.split())


@pytest.mark.parametrize(("start", "share"), [("caption", inversion.KEPT), ("word", 1.0)])
def test_from_words_a_share_of_what_is_learnt_is_kept(registry: Registry, scene: Image.Image, start: str, share: float):
    """Adam's first step moves every number by the rate, so where one step leads to says what was kept of it."""
    settings = dataclasses.replace(QUICK, start=start, learn_steps=1)
    found = inversion.invert(Job(1e9), registry, settings, scene)

    def origin(painter: Painter) -> tuple[numpy.ndarray, numpy.ndarray]:
        with torch.no_grad():
            return painter.words(found.measurements["words"]).cpu().numpy(), painter.spread().cpu().numpy()

    begin, spread = with_painter(registry, origin)
    steps = numpy.abs(found.tokens.values - begin) / spread / settings.rate
    assert numpy.median(steps) == pytest.approx(share, abs=1e-3) and steps.max() < share + 1e-3


@pytest.mark.long
def test_a_scene_comes_back(registry: Registry, scene: Image.Image):
    found = inversion.invert(Job(1e9), registry, InversionSettings(), scene).measurements
    for again in found["seen_again"]:
        assert {head: again.get(head) for head in found["seen"]} == found["seen"]


# --- their file ---


def test_a_file_holds_what_was_learnt(tmp_path: Path):
    kept = some(seen={"0 colour": "red"})
    found = tokens.read(tokens.write(kept, tmp_path / "a.safetensors"), "mini")
    assert found.values.tobytes() == kept.values.tobytes() and found.seen == kept.seen


def damaged(path: Path, which: str) -> None:
    facts = {"format": 1, "model_set": "mini", "model": sdxl.mark(sdxl.BASES["mini"]), "seen": {}}
    values = some().values
    if which == "bytes":
        path.write_bytes(b"no tensors at all")
    elif which == "header":
        save_file({TENSOR: values}, path)
    elif which == "format":
        save_file({TENSOR: values}, path, {METADATA: json.dumps({**facts, "format": 9})})
    elif which == "model":
        tokens.write(some("another"), path)
    elif which == "shape":
        save_file({TENSOR: values[:4]}, path, {METADATA: json.dumps(facts)})
    elif which == "numbers":
        save_file({TENSOR: values * numpy.float32(numpy.nan)}, path, {METADATA: json.dumps(facts)})
    elif which == "large":
        save_file({TENSOR: numpy.zeros((STAGES, 1, 300_000), numpy.float32)}, path, {METADATA: json.dumps(facts)})


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("bytes", "holds no tokens of a picture"),
        ("header", "holds no tokens of a picture"),
        ("format", "holds no tokens of a picture"),
        ("large", "holds no tokens of a picture"),
        ("model", "learnt with another model than mini-sdxl"),
        ("shape", "are 4 × 1 × 192 float32 but must be 10 × words"),
        ("numbers", "are not all finite"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, which: str, says: str):
    path = tmp_path / "mine.safetensors"
    damaged(path, which)
    with pytest.raises(ValueError, match=says) as caught:
        tokens.read(path, "mini")
    assert str(caught.value).endswith(".") and "mine.safetensors" in str(caught.value)


# --- on the timeline ---


def test_a_picture_and_a_prompt_share_the_stages(registry: Registry, made: Inverted):
    settings = Settings("Picture 1\na red ball on tiles", "AAAAABBBBB", borders=False, steps=10, seed=5)
    assert settings.pictures == {"A": 1}
    found = prospect.generate(Job(1e9), registry, settings, [made.tokens])
    whose = found.measurements["whose"]
    assert set(whose) == {"by stage", "average", "A alone", "B alone"}, (
        "what a picture shows cannot be said in one prompt"
    )
    assert {"0 shape", "0 colour"} <= set(whose["by stage"])
    assert whose["B alone"]["0 colour"] == {"B": 1}
    assert found.staged.size == (4 * 256, 256 + 21)


def test_what_a_picture_shows_stands_beside_what_a_prompt_says():
    found = told_apart({"B": "a red cube"}, {"A": {"0 colour": "blue", "0 shape": "cube", "floor": "wood"}})
    assert found == {"0 colour": {"A": "blue", "B": "red"}}


@pytest.mark.parametrize(
    ("prompts", "came", "says"),
    [
        ("picture 1\na cube", 0, "Prompt A is picture 1, but the tokens of no pictures came"),
        ("a cube\npicture 2", 1, "Prompt B is picture 2, but the tokens of 1 picture came"),
        ("picture 0\na cube", 1, "Prompt A is picture 0"),
        ("a cube\na ball", 5, "tokens of 5 pictures and at most 4"),
    ],
)
def test_a_picture_that_did_not_come_is_named(registry: Registry, prompts: str, came: int, says: str):
    settings = Settings(prompts, "AAAAABBBBB", borders=False)
    with pytest.raises(ValueError, match=says):
        prospect.generate(Job(1e9), registry, settings, [some()] * came)


def test_the_page_reads_the_files_that_came(tmp_path: Path):
    path = tokens.write(some(), tmp_path / "a.safetensors")
    files = page.came("mini")
    assert [one.values.shape for one in files.read([str(path)])] == [(STAGES, 1, WIDTH)] and files.read([]) == []
    with pytest.raises(ValueError, match="5 files of tokens and at most 4"):
        files.read([str(path)] * 5)
