"""ProSpect: stages, plans that share their beginnings, whose attributes a picture has, the curve, and the tab."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch

from demos.prospect import lab, owner, table
from pipelines import prospect
from pipelines.core.lane import Job, Progress, live
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.models import sdxl
from pipelines.prospect import STAGES, Settings, curve
from pipelines.prospect.curve import LabSettings, Tally
from pipelines.prospect.stages import Painter, average, moved, stage_of, told_apart

PAIR = ("a red cube on a wooden floor under the sky", "a blue ball on tiles against a wall")
SMALL = dataclasses.replace(Settings.of("mini"), steps=10, borders=False, seed=5)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry("cpu")


@pytest.fixture(scope="module")
def outcome(registry: Registry) -> prospect.Outcome:
    return prospect.generate(Job(1e9), registry, SMALL)


def with_painter(registry: Registry, work):
    def run(**parts):
        with torch.inference_mode():
            return work(Painter(sdxl.build(parts)))

    return registry.run(sdxl.BASES["mini"].named, run)


def test_ten_stages_of_equal_width():
    counted = numpy.bincount([stage_of(level, 960) for level in range(960)])
    assert counted.tolist() == [96] * STAGES
    assert stage_of(999, 960) == 0 and stage_of(959, 960) == 0 and stage_of(0.5, 1000) == 9


def test_the_border_moves_through_all_stages():
    plans = moved("A", "B")
    assert plans[0] == "B" * 10 and plans[3] == "AAABBBBBBB" and plans[-1] == "A" * 10 and len(plans) == 11


def test_what_plans_share_is_drawn_once_and_one_prompt_all_along_is_the_plain_pipeline(registry: Registry):
    def work(painter: Painter):
        spectra = {letter: painter.spectrum(prompt) for letter, prompt in zip("AB", PAIR, strict=True)}
        noise, calls = painter.noise(5), []
        watch = painter.pipe.unet.register_forward_pre_hook(lambda _net, given: calls.append(len(given[0]) // 2))
        try:
            together = painter.draw(noise, ["A" * 10, "AAAAABBBBB", "AAAAABBBBB"], spectra, 4, 5.5)
        finally:
            watch.remove()
        alone = painter.draw(noise, ["AAAAABBBBB"], spectra, 4, 5.5)
        plain = painter.pipe(
            PAIR[0], latents=noise.clone(), num_inference_steps=4, guidance_scale=5.5, output_type="pt"
        ).images
        return together, alone, plain, calls

    together, alone, plain, calls = with_painter(registry, work)
    assert calls == [1, 1, 2, 2], "the common half once"
    assert torch.allclose(together[0], plain[0], atol=1e-3)
    assert torch.allclose(together[1], alone[0], atol=1e-3) and torch.equal(together[1], together[2])
    assert (together[0] - together[1]).abs().max() > 0.1


def test_the_average_weighs_prompts_by_their_stages(registry: Registry):
    def work(painter: Painter):
        spectra = {letter: painter.spectrum(prompt) for letter, prompt in zip("AB", PAIR, strict=True)}
        return spectra, average(spectra, "AAABBBBBBB"), average(spectra, "A" * 10)

    spectra, mixed, alone = with_painter(registry, work)
    wanted = 0.3 * spectra["A"].embeds + 0.7 * spectra["B"].embeds
    assert torch.allclose(mixed.embeds, wanted, atol=1e-4) and torch.allclose(
        alone.pooled, spectra["A"].pooled, atol=1e-5
    )


def test_a_place_and_a_thing_come_from_two_prompts(outcome: prospect.Outcome):
    whose = outcome.measurements["whose"]
    assert whose["by stage"]["backdrop"] == {"A": 1} and whose["by stage"]["0 shape"] == {"B": 1}
    assert whose["A alone"]["backdrop"] == whose["A alone"]["0 shape"] == {"A": 1}
    assert whose["B alone"]["0 colour"] == {"B": 1}
    assert "A alone" in table(outcome) and "data-label='backdrop'>A<" in table(outcome)
    assert (
        owner({"A": 3, "none": 1}) == "A 3 of 4" and owner({"AB": 2}) == "A or B" and owner({"none": 1}) == "neither’s"
    )
    assert outcome.staged.size == (5 * 256, 256 + 26) and outcome.borders.size == (64, 64)


@pytest.mark.parametrize(
    ("number", "whose"),
    [
        (0, {"backdrop": "A", "floor": "B", "0 shape": "B", "0 colour": "B"}),
        (1, {"backdrop": "A", "floor": "A", "0 shape": "A", "0 colour": "B"}),
        (2, {"backdrop": "A", "floor": "B", "0 colour": "B", "0 shape": "C"}),
    ],
)
def test_an_example_shows_what_its_title_says(registry: Registry, number: int, whose: dict[str, str]):
    _, prompts, plan = prospect.EXAMPLES["mini"][number]
    settings = dataclasses.replace(Settings.of("mini"), prompts="\n".join(prompts), plan=plan, borders=False)
    found = prospect.generate(Job(1e9), registry, settings).measurements["whose"]["by stage"]
    assert {name: found[name] for name in whose} == {name: {letter: 1} for name, letter in whose.items()}


def test_the_same_settings_give_the_same_bytes_and_the_model_is_as_it_was(registry, outcome):
    with registry.lease(prospect.parts("mini")["unet"]) as (unet,):
        before = fingerprint(unet)
        again = prospect.generate(Job(1e9), registry, SMALL)
        assert fingerprint(unet) == before
    assert again.staged.tobytes() == outcome.staged.tobytes()


def test_a_stopped_run_ends(registry):
    items = live(prospect.generate, registry, dataclasses.replace(SMALL, steps=60))
    assert any(isinstance(item, Progress) and "step" in item.text for item in items)
    items.close()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompts": " "}, "There is no prompt"),
        ({"prompts": "\n".join("abcdefghijk")}, "There are 11 prompts and at most 10"),
        ({"plan": "AB"}, "The plan has 2 stages but must have 10"),
        ({"plan": "AAABBBBBBC"}, "names the prompt C, but there are only A to B"),
        ({"prompts": "a cube"}, "names the prompt B, but there is only A"),
        ({"count": 9}, "number of pictures is 9"),
    ],
)
def test_wrong_settings_get_one_sentence(wrong: dict, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        dataclasses.replace(SMALL, **wrong).validated()
    assert str(caught.value).endswith(".")


def test_attributes_that_prompts_share_tell_nothing():
    told = told_apart({"A": "a red cube under the sky", "B": "a red ball against a wall", "C": "a cone"})
    assert told == {
        "0 shape": {"A": "cube", "B": "sphere", "C": "cone"},
        "backdrop": {"A": "sky", "B": "wall"},
    }


def test_pairs_differ_in_everything():
    for number in range(20):
        apart = told_apart(dict(zip("AB", curve.pair(number), strict=True)))
        assert set(apart) == {"0 shape", "0 colour", "floor", "backdrop"}, curve.pair(number)


def test_an_attribute_counts_where_both_ends_have_their_own():
    tally = Tally(LabSettings())
    for letters in ("BBBAAAAAAAA", "BBB-AAAAAAA", "AAAAAAAAAAA", "BBBBBBBBBBB"):
        tally.add({"colour": letters})
    assert tally.done == 4 and curve.counted(tally.found["colour"]) == [True, True, False, False]
    assert curve.moments(tally.found["colour"])[:2].tolist() == [3.0, 3.5]
    mean, low, high = curve.needed(tally.found["colour"])
    assert mean == 3.25 and 3.0 <= low <= mean <= high <= 3.5
    assert curve.share(tally.found["colour"], 3)[0] == 0.5


def test_the_order_is_said_only_where_it_is_told_apart_within_the_pairs():
    found = {"backdrop": ["BAAAAAAAAAA"] * 9, "colour": ["BBBBBAAAAAA"] * 9, "shape": ["BBBBBBBBBAA"] * 9}
    assert "as the paper says" in curve.order(found) and curve.sentence(found, 9).endswith(curve.order(found))
    mixed = {**found, "shape": found["colour"]}
    assert "comes first; that shape comes after colour, by 0.0 [0.0, 0.0] stages, is not told" in curve.order(mixed)
    earlier = {**found, "colour": found["shape"], "shape": found["colour"]}
    assert "shape comes before colour, by 4.0 [4.0, 4.0] stages, and not last" in curve.order(earlier)
    assert "That layout comes first is not told apart" in curve.order({**found, "backdrop": found["shape"]})
    assert curve.order({"colour": found["colour"]}) == ""
    assert curve.order({**found, "shape": ["AAAAAAAAAAA"] * 9}) == "", "nothing that counts"
    assert "Nothing could be counted" in curve.sentence({}, 1)
    assert lab.curves(found, 9).count("<svg role") == 2 and "Nothing could be" in lab.curves({}, 2)


def test_the_lab_counts_a_pair_and_shows_it(registry: Registry):
    job, seen = Job(1e9), []
    tally = curve.measure(job, registry, LabSettings("\n".join(PAIR), "mine", count=1, seed=5))
    while not job.out.empty():
        seen.append(job.out.get())
    assert tally in seen and tally.done == 1
    assert tally.found["backdrop"][0].endswith("AAAAAAA"), "the place is decided early"
    assert "The last pair" in lab.board_html(tally)


def test_the_lab_needs_two_prompts_that_differ(registry: Registry):
    with pytest.raises(ValueError, match="write A and B, one a line"):
        LabSettings("a cube", "mine").validated()
    with pytest.raises(ValueError, match="can tell nothing apart"):
        curve.measure(Job(1e9), registry, LabSettings("hello\nworld", "mine", count=1))


def test_what_the_page_says_is_what_was_measured():
    found, pairs = curve.measured()
    assert pairs >= 100 and {len(letters) for letters in found.values()} == {pairs}
    assert curve.sentence(found, pairs) == prospect.claim()
    layout, colour, shape = (curve.needed(found[kind]) for kind in curve.KINDS)
    assert layout[2] < min(colour[1], shape[1]), "layout first"
