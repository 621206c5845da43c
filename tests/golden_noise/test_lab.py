"""The win-rate lab: honest counting, arms that do what they say, a tally that stops and goes on, and a look inside."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import random

import pytest
import torch
from diffusers import DDPMScheduler

from pipelines import golden_noise
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.scores import Paired, mcnemar, paired_difference, wilson
from pipelines.golden_noise import GoldenNoise, arms, inspection, lab
from pipelines.golden_noise.lab import ARMS, LabSettings, Tally
from pipelines.models import sdxl

PROMPT = "a red cube to the left of a blue ball on a wooden floor"
OTHER = "a shiny purple sphere on tiles under the sky"
PROMPTS, SEEDS = [PROMPT, OTHER], [3, 4]


# ----------------------------------------------------------------------------------------- statistics


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert mcnemar(0, 0) == 1.0
    assert paired_difference(0, 0, 0) == (0.0, -1.0, 1.0)
    assert Paired.of([], []).as_dict()["share"] == 0.0


def test_known_values():
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(8, 2) == mcnemar(2, 8) == 2 * (1 + 10 + 45) / 1024
    assert mcnemar(3, 3) == 1.0
    assert paired_difference(12, 3, 100)[0] == pytest.approx(0.09)


def test_intervals_stay_in_their_range_and_hold_the_estimate():
    for total in (1, 7, 40):
        for hits in range(total + 1):
            low, high = wilson(hits, total)
            assert -1e-12 <= low <= hits / total <= high <= 1 + 1e-12
            points, bottom, top = paired_difference(hits, 0, total)
            assert -1 <= bottom <= top <= 1 and points == hits / total
            mirrored = paired_difference(0, hits, total)
            assert mirrored == pytest.approx((-points, -top, -bottom))


def test_under_the_null_a_small_p_is_as_rare_as_it_says():
    for total in (5, 12, 40, 101):
        chance = [math.comb(total, k) / 2**total for k in range(total + 1)]
        for level in (0.2, 0.05, 0.01):
            found = sum(share for k, share in enumerate(chance) if mcnemar(k, total - k) <= level)
            assert found <= level + 1e-12


def test_the_interval_of_a_paired_difference_covers_the_truth():
    rng, inside = random.Random(0), 0
    wins, losses, total, runs = 0.15, 0.07, 60, 2000
    for _ in range(runs):
        draws = [rng.random() for _ in range(total)]
        won, lost = sum(d < wins for d in draws), sum(wins <= d < wins + losses for d in draws)
        _, low, high = paired_difference(won, lost, total)
        inside += low <= wins - losses <= high
    assert 0.93 < inside / runs < 0.98


def test_looking_all_the_time_finds_what_is_not_there():
    """The reminder on the page: a look after every 4 of 200 seeds finds p < 0.05 by chance in about one lab of six."""
    rng, test, runs = random.Random(1), functools.cache(mcnemar), 1000
    fooled = at_the_end = 0
    for _ in range(runs):
        won = lost = 0
        ever = False
        for seed in range(1, 201):
            if rng.random() < 0.3:
                side = rng.random() < 0.5
                won, lost = won + side, lost + (not side)
            ever = ever or (seed % 4 == 0 and test(won, lost) < 0.05)
        fooled += ever
        at_the_end += test(won, lost) < 0.05
    assert 0.12 < fooled / runs < 0.21
    assert at_the_end / runs < 0.06


def test_pairs_are_counted_case_by_case():
    arm, standard = [True, True, False, False, True], [True, False, True, False, False]
    assert Paired.of(arm, standard) == Paired(total=5, right=3, wins=2, losses=1)
    told = json.loads(json.dumps(Paired.of(arm, standard).as_dict()))
    assert (told["of"], told["share"], told["wins"], told["losses"], told["p"]) == (5, 0.6, 2, 1, 1.0)
    assert told["points"] == 20.0 and told["points_interval"][0] < 20 < told["points_interval"][1]
    with pytest.raises(ValueError, match="shorter|longer"):
        Paired.of([True], [True, False])


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a" * 301}, "301 characters"),
        ({"prompt": "zebra quantum"}, "nothing that the judge knows"),
        ({"seed": None}, "seed is nothing"),
        ({"seed": 2**31 - 3, "count": 4}, "last of 4 seeds"),
        ({"count": 0}, "number of seeds is 0"),
        ({"count": 1001}, "from 1 to 1000"),
        ({"count": 2.5}, "whole number"),
        ({"count": True}, "whole number"),
        ({"steps": 101}, "number of steps is 101"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"strength": 4.1}, "golden strength is 4.1"),
        ({"arms": ()}, "compare nothing"),
        ({"arms": ("standard",)}, "compare nothing"),
        ({"arms": ("npnet", "magic")}, "'magic'"),
        ({"arms": ["npnet", 7]}, "compare 7"),
        ({"arms": None}, "compare nothing .null"),
        ({"arms": (["npnet"],)}, "choose at least one of npnet"),
        ({"model_set": "full"}, "choose mini"),
        ({"model_set": "huge"}, "choose one of mini, full"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        LabSettings(**{"prompt": PROMPT, **change}).validated()
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 260


def test_right_settings_come_back_with_exact_types():
    settings = LabSettings(
        PROMPT + " ", 3.0, 4.0, 2, 1, count=5.0, arms=["first_step", "npnet", "standard", "npnet"]
    ).validated()
    assert settings == LabSettings(PROMPT, 3, 4, 2.0, 1.0, count=5, arms=("npnet", "first_step"))
    assert all(type(value) is int for value in (settings.seed, settings.count, settings.steps))
    assert type(settings.guidance) is float and settings.validated() == settings


def test_a_tally_goes_on_with_the_same_settings_only():
    tally = Tally(LabSettings(PROMPT).validated())
    assert tally.fits(LabSettings(PROMPT, count=200).validated())
    for change in (
        {"prompt": OTHER},
        {"seed": 1},
        {"steps": 24},
        {"guidance": 5.0},
        {"strength": 2},
        {"arms": ("random",)},
    ):
        assert not tally.fits(dataclasses.replace(LabSettings(PROMPT), **change).validated()), change


# ----------------------------------------------------------------------------------------------- words


def row(wins: int, losses: int, total: int = 100) -> dict:
    standard = [True] * losses + [False] * (total - losses)
    arm = [False] * (total - wins) + [True] * wins
    return Paired.of(arm, standard).as_dict()


@pytest.mark.parametrize(
    ("key", "wins", "losses", "says"),
    [
        ("npnet", 0, 0, "No seed came out differently"),
        ("npnet", 1, 0, "1 seed won, 0 lost: p = 1; at least 8 seeds must differ"),
        ("npnet", 12, 3, "12 seeds won, 3 lost: p = 0.035; not yet enough to tell"),
        ("npnet", 8, 6, "p = 0.79; this may well be chance"),
        ("npnet", 20, 3, "unlikely to be chance: better than standard noise here"),
        ("first_step", 3, 20, "unlikely to be chance: worse than standard noise here"),
        ("npnet", 40, 1, "p < 0.0001; unlikely"),
        ("random", 20, 3, "a control should not win"),
        ("random", 3, 20, "worse than standard noise"),
    ],
)
def test_a_row_is_told_in_plain_words(key, wins, losses, says):
    assert says in lab.meaning(key, row(wins, losses))


def test_nothing_counted_is_told_too():
    assert "Nothing was counted" in lab.meaning("npnet", Paired.of([], []).as_dict())


def test_a_prompt_that_leaves_no_room_is_told():
    def standard(right: int, total: int) -> dict:
        hits = [True] * right + [False] * (total - right)
        return Paired.of(hits, hits).as_dict()

    assert "little to win" in lab.room(standard(8, 8)) and "little to win" in lab.room(standard(37, 40))
    assert "hardly any" in lab.room(standard(0, 8))
    assert [lab.room(standard(*counts)) for counts in ((4, 8), (30, 40), (4, 4), (0, 0))] == [""] * 4


def test_the_fewest_seeds_that_can_convince():
    assert mcnemar(lab.FEWEST, 0) < lab.CONVINCING <= mcnemar(lab.FEWEST - 1, 0)


def report(**rows: tuple[int, int]) -> dict:
    """A manifest as the evaluation writes it; ``arm=(wins, losses)``."""
    made = {
        key: row(*counts) | {"evaluations": ARMS[key].evaluations(25) if key in ARMS else 50, "seconds": 0.3}
        for key, counts in {"standard": (0, 0), **rows}.items()
    }
    return {"evaluation": {"pairs": 100, "steps": 25, "guidance": 5.5, "strength": 1.0, "arms": made}, "sha256": {}}


def test_measured_figures_are_read_in_our_order():
    found = lab.measured(report(random=(1, 1), npnet=(9, 1), later_arm=(5, 0)))
    assert list(found["arms"]) == ["standard", "npnet", "random"], "an arm of another version is left out"
    assert found["pairs"] == 100 and found["arms"]["npnet"]["wins"] == 9


@pytest.mark.parametrize("manifest", [{}, {"evaluation": {}}, {"evaluation": {"NPNet": {"of": 50}}}, {"claim": "x"}])
def test_manifests_from_before_the_evaluation_are_not_measured(manifest):
    assert lab.measured(manifest) is None


def test_a_better_baseline_is_named_with_its_cost():
    rows = lab.measured(
        report(npnet=(9, 1), npnet_paper=(2, 1), first_step=(12, 1), best_of_two=(30, 2), more_steps=(3, 3))
    )["arms"]
    best, better = lab.findings(rows)
    assert best.startswith("The best golden noise: NPNet, our network, +8.0 points at the same cost. 9 seeds")
    assert better == (
        "Better than that in this measurement: Best of two seeds, +28.0 points at 2 times the cost; "
        "Stronger first step, +11.0 points at the same cost."
    )


def test_it_also_says_when_no_baseline_is_better_and_when_a_control_wins():
    rows = lab.measured(report(npnet=(9, 1), first_step=(3, 1), random=(4, 4), shuffled=(20, 2)))["arms"]
    told = lab.findings(rows)
    assert "No baseline did better than NPNet, our network" in told[1]
    assert len(told) == 3 and told[2].startswith("Another prompt's change: 20 seeds won, 2 lost")
    assert lab.findings(lab.measured(report(first_step=(3, 1)))["arms"]) == []
    fewer = lab.findings(lab.measured(report(redenoise=(1, 9)))["arms"])
    assert "Re-denoise, no network, −8.0 points at 1.06 times the cost" in fewer[0] and len(fewer) == 1


# ------------------------------------------------------------------------------------------ inspection


def noise_of(side: int, seed: int = 0) -> torch.Tensor:
    return golden_noise.draw_noise(seed, (1, 4, side, side))


def test_an_unchanged_noise_has_nothing_to_show():
    noise = noise_of(32)
    told = inspection.noise_portrait(noise, noise)
    assert told["energy"] == {"shift": 0.0, "patches": 0.0, "fine": 0.0}
    for name in ("channel_means", "singular_values", "spectrum"):
        assert told[f"{name}_before"] == told[f"{name}_after"]
    picture, peak = inspection.heat_map(noise, noise)
    assert peak == 0 and picture.getcolors() == [(256 * 256, inspection.HEAT[0])]


def test_white_noise_has_power_one_everywhere():
    told = inspection.noise_portrait(noise_of(128), noise_of(128, 1))
    assert told["frequency"][0] == 0 and told["frequency"][-1] == 0.5
    assert all(abs(power - 1) < 0.25 for power in told["spectrum_before"][4:])
    assert abs(sum(told["spectrum_before"][4:]) / len(told["spectrum_before"][4:]) - 1) < 0.03


@pytest.mark.parametrize("side", [8, 12, 32])
def test_each_kind_of_change_is_called_by_its_name(side):
    noise, patch = noise_of(side), math.gcd(8, side)
    shift = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 4, 1, 1).expand_as(noise)
    coarse = torch.randn(1, 4, side // patch, side // patch).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    coarse = coarse - coarse.mean((2, 3), keepdim=True)
    checks = (-1.0) ** (torch.arange(side).view(-1, 1) + torch.arange(side)).expand_as(noise)

    def energy(change: torch.Tensor) -> dict:
        return inspection.noise_portrait(noise, noise + change)["energy"]

    assert energy(shift) == pytest.approx({"shift": 1, "patches": 0, "fine": 0}, abs=1e-3)
    if side > patch:
        assert energy(coarse) == pytest.approx({"shift": 0, "patches": 1, "fine": 0}, abs=1e-3)
    assert energy(checks) == pytest.approx({"shift": 0, "patches": 0, "fine": 1}, abs=1e-3)
    mixed = inspection.noise_portrait(noise, noise_of(side, 1))["energy"]
    assert sum(mixed.values()) == pytest.approx(1, abs=2e-4)


def test_a_wave_has_its_power_in_its_own_ring():
    side, waves = 32, 5
    along = torch.cos(2 * math.pi * waves * torch.arange(side) / side).expand(1, 4, side, side)
    for wave in (along, along.mT):
        frequency, power = inspection.radial_power(wave)
        assert frequency[waves] == pytest.approx(waves / side, abs=1e-4)
        assert power[waves] > 1 and max(power[:waves] + power[waves + 1 :]) < 1e-9


def test_singular_values_are_those_of_the_tiled_channels():
    noise = noise_of(6)
    told = inspection.noise_portrait(noise, 2 * noise)
    top, bottom = (torch.cat((noise[0, i], noise[0, i + 1]), 1) for i in (0, 2))
    drawn = torch.linalg.svdvals(torch.cat((top, bottom))).tolist()
    assert told["singular_values_before"] == pytest.approx(drawn, abs=1e-3)
    assert told["singular_values_after"] == pytest.approx([2 * value for value in drawn], abs=2e-3)
    json.dumps(told)


def test_the_heat_map_shows_the_place_and_the_size():
    noise = noise_of(32)
    changed = noise.clone()
    changed[0, :, 3, 20] += torch.tensor([3.0, 0.0, -4.0, 0.0])  # row 3, column 20: root mean square 2.5
    picture, peak = inspection.heat_map(noise, changed)
    assert picture.size == (256, 256) and peak == pytest.approx(2.5)
    assert picture.getpixel((20 * 8 + 4, 3 * 8 + 4)) == inspection.HEAT[-1]
    assert picture.getpixel((3 * 8 + 4, 20 * 8 + 4)) == inspection.HEAT[0]


# ------------------------------------------------------------------------------------------------ arms


@pytest.fixture(scope="module")
def registry():
    return Registry("cpu")


@pytest.fixture(scope="module")
def models(registry):
    with registry.lease(*lab.parts().values()) as (*parts, npnet, paper, reward, _judge):
        yield arms.Models(GoldenNoise(sdxl.build(parts), npnet), {"npnet": npnet, "npnet_paper": paper}, reward)


@torch.inference_mode()
def draw(models, key: str, steps: int = 1, guidance: float = 3.0, seeds=SEEDS, strength: float = 1.0, **more):
    return arms.draw_arm(key, models, PROMPTS, seeds, steps, guidance, strength, **more)


@torch.inference_mode()
def changed(models, key: str, strength: float = 1.0, seeds=SEEDS) -> tuple[torch.Tensor, torch.Tensor]:
    """The standard noise and that of arm ``key``."""
    noises = arms.start_noise(seeds, models.golden.pipe)
    embeds = models.golden.embed(PROMPTS)
    return noises, arms.changed_noise(key, models, noises, embeds, seeds, strength, 4)


MOVES = ["npnet", "npnet_paper", "redenoise", "signal", "random", "shuffled"]


@pytest.mark.parametrize("key", MOVES)
def test_strength_scales_the_change_and_zero_is_none(models, key):
    noises, still = changed(models, key, 0.0)
    assert torch.equal(noises, still)
    once, twice, back = (changed(models, key, strength)[1] - noises for strength in (1.0, 2.0, -1.0))
    assert once.square().mean() > 0
    torch.testing.assert_close(twice, 2 * once, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(back, -once, atol=1e-5, rtol=1e-4)


def test_strength_zero_draws_the_standard_pictures(models):
    standard = draw(models, "standard")
    for key in MOVES:
        assert torch.equal(draw(models, key, strength=0.0), standard), key


def test_arms_of_guidance_and_steps_are_what_they_are_called(models):
    assert torch.equal(draw(models, "first_step", 2, guidance=1.0), draw(models, "standard", 2, guidance=1.0))
    assert torch.equal(draw(models, "first_step", guidance=3.0), draw(models, "standard", guidance=5.0))
    assert torch.equal(draw(models, "guidance", guidance=3.0), draw(models, "standard", guidance=4.5))
    assert torch.equal(draw(models, "more_steps", 1), draw(models, "standard", 1 + lab.MORE_STEPS))
    other = draw(models, "standard", seeds=arms.other_seeds(SEEDS))
    assert torch.equal(draw(models, "other_noise"), other)
    assert not torch.equal(other, draw(models, "standard")), "another seed is another noise"
    # Only the first step differs: its own guidance is back in the second.
    assert not torch.equal(draw(models, "first_step", 2), draw(models, "standard", 2))
    assert not torch.equal(draw(models, "first_step", 2, guidance=3.0), draw(models, "standard", 2, guidance=5.0))


def test_best_of_two_keeps_what_the_reward_prefers(models):
    seeds = [3, 11]
    first, second = draw(models, "standard", seeds=seeds), draw(models, "other_noise", seeds=seeds)
    with torch.inference_mode():
        scores = torch.stack([arms.rewards(models.reward, pictures, PROMPTS) for pictures in (first, second)])
    best = draw(models, "best_of_two", seeds=seeds)
    for row, better in enumerate(scores.argmax(0).tolist()):
        assert torch.equal(best[row], (first, second)[better][row])
    with torch.inference_mode():
        torch.testing.assert_close(arms.rewards(models.reward, best, PROMPTS), scores.amax(0))


def test_the_random_change_is_as_large_as_npnets_and_goes_nowhere(models):
    noises, golden = changed(models, "npnet")
    _, moved = changed(models, "random")
    sizes = [(x - noises).square().mean((1, 2, 3)).sqrt() for x in (golden, moved)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=1e-4, atol=1e-6)
    for known in (golden - noises, noises):
        along = torch.nn.functional.cosine_similarity(known.flatten(1), (moved - noises).flatten(1))
        assert along.abs().max() < 0.1
    assert torch.equal(moved, changed(models, "random")[1]), "a seed means the same change"


def test_the_shuffled_change_is_npnets_for_another_prompt(models):
    noises, moved = changed(models, "shuffled")
    others = [golden_noise.surprise(seed + 1) for seed in SEEDS]
    assert not set(others) & set(PROMPTS)
    with torch.inference_mode():
        expected = models.npnets["npnet"](noises, models.golden.embed(others)[0])
    torch.testing.assert_close(moved, expected)


@torch.inference_mode()
def test_the_lacking_signal_is_the_prompts_whatever_the_noise(models):
    """√(1 - ᾱ)·noise + 2·√ᾱ·E[clean | prompt]: the same for every seed, another for every prompt, alone or in company."""
    pipe, seeds = models.golden.pipe, [3, 4, 5]
    noises, embeds = arms.start_noise(seeds, pipe), models.golden.embed([PROMPT, PROMPT, OTHER])
    golden = models.golden.signalled(noises, embeds, 25)
    pipe.scheduler.set_timesteps(25)
    share = pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[0])].item()
    added = (golden - (1 - share) ** 0.5 * noises) / (golden_noise.SIGNAL * share**0.5)
    torch.testing.assert_close(added[0], added[1], atol=2e-3, rtol=1e-3)
    assert (added[0] - added[2]).square().mean() > 0.1 * added[0].square().mean()
    assert 0.1 < added.std() < 1.2, "an average of clean latents, which have a standard deviation near 1"
    alone = models.golden.signalled(noises[2:], tuple(part[2:] for part in embeds), 25)
    torch.testing.assert_close(alone, golden[2:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seeds", [[0, 7], [2**31 - 1, 940_000_000]])
def test_every_role_draws_a_noise_of_its_own(models, seeds):
    """torch takes 32 bits of a seed: roles that differ in the bits above would draw the same noise."""
    roles = [seeds, arms.other_seeds(seeds), [2**32 - 1 - seed for seed in seeds]]
    drawn = [arms.start_noise(role, models.golden.pipe) for role in roles]
    looks = [golden_noise.SIGNAL_SEED * golden_noise.LOOKS + look for look in range(golden_noise.LOOKS)]
    rows = [*(row for noise in drawn for row in noise), *arms.start_noise(looks, models.golden.pipe)]
    for place, row in enumerate(rows):
        assert all((row - other).abs().max() > 1 for other in rows[:place])


def test_a_seed_beyond_32_bits_is_refused():
    for seed in (2**32, -1):
        with pytest.raises(ValueError, match="a noise is drawn from 32 bits"):
            golden_noise.draw_noise(seed, (1, 4, 8, 8))


def test_with_signal_is_what_training_calls_a_level():
    noise, clean = noise_of(8), noise_of(8, 1)
    scheduler = DDPMScheduler()
    share = scheduler.alphas_cumprod[900].item()
    expected = scheduler.add_noise(clean, noise, torch.tensor([900]))
    torch.testing.assert_close(golden_noise.with_signal(noise, clean, share), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(golden_noise.with_signal(noise, clean, 0.0), noise)


@torch.inference_mode()
def test_redenoising_goes_where_first_step_guidance_goes(models):
    """What the page says: to first order re-denoising pushes along the guidance direction of the first step."""
    noises, golden = changed(models, "redenoise")
    pipe = models.golden.pipe
    pipe.scheduler.set_timesteps(golden_noise.GRID)
    predict = golden_noise.guided_prediction(pipe, models.golden.embed(PROMPTS))
    first = int(pipe.scheduler.timesteps[0])
    direction = predict(noises, first, 2.0) - predict(noises, first, 1.0)  # with the prompt minus without
    along = torch.nn.functional.cosine_similarity((golden - noises).flatten(1), direction.flatten(1))
    assert along.max() < -0.9, along


def test_an_unknown_arm_is_refused(models):
    with pytest.raises(ValueError, match="choose from standard, npnet"):
        draw(models, "magic")


@pytest.mark.parametrize("key", ARMS)
def test_the_cost_on_the_page_is_what_the_unet_ran(models, key):
    rows = []
    hook = models.golden.pipe.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    try:
        draw(models, key, steps=2)
    finally:
        hook.remove()
    assert sum(rows) == ARMS[key].evaluations(2) * len(PROMPTS)


def test_more_steps_cost_at_least_what_redenoising_costs():
    for steps in (1, 25, 50):
        assert ARMS["more_steps"].evaluations(steps) >= ARMS["redenoise"].evaluations(steps)
        assert ARMS["npnet"].evaluations(steps) == ARMS["first_step"].evaluations(steps) == 2 * steps


def test_steps_are_counted_upwards_in_every_arm(models):
    for key in ("best_of_two", "more_steps", "npnet"):
        seen = []
        draw(models, key, steps=3, on_step=lambda step, clean, seen=seen: seen.append(step))
        assert seen == sorted(seen) and seen[0] == 1 and seen[-1] in (3, 3 + lab.MORE_STEPS), key


# ------------------------------------------------------------------------------------------------- lab


class Listens(Job):
    """Keeps what was emitted; told to, it is stopped in the middle of the drawing after so many tallies."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after, self.tallies, self.fractions = stop_after, [], []

    def emit(self, item):
        super().emit(item)
        if isinstance(item, Tally):
            self.tallies.append(item)
        if isinstance(item, Progress):
            self.fractions.append(item.fraction)
            if self.stop_after is not None and len(self.tallies) >= self.stop_after:
                self.stop.set()


LAB = LabSettings(PROMPT, seed=3, count=8, steps=1, guidance=3.0, arms=("npnet", "first_step"))


@pytest.fixture(scope="module")
def straight(registry) -> tuple[Tally, Listens]:
    job = Listens()
    return lab.compare(job, registry, LAB), job


def test_a_tally_adds_up(straight):
    tally, job = straight
    assert [t.done for t in job.tallies] == [4, 8] and tally.done == 8
    assert list(tally.right) == ["standard", *LAB.arms] and {len(hits) for hits in tally.right.values()} == {8}
    for key, row in tally.rows().items():
        pairs = list(zip(tally.right[key], tally.right["standard"], strict=True))
        assert row["wins"] == sum(a and not b for a, b in pairs) and row["losses"] == sum(b and not a for a, b in pairs)
        assert row["of"] == 8 and row["share"] == sum(tally.right[key]) / 8
    standard = tally.rows()["standard"]
    assert (standard["wins"], standard["losses"], standard["points"]) == (0, 0, 0.0)
    there, back = tally.against("npnet", "first_step"), tally.against("first_step", "npnet")
    assert (there["wins"], there["losses"]) == (back["losses"], back["wins"])
    assert job.fractions == sorted(job.fractions) and job.fractions[-1] == 1.0


def test_what_is_shown_are_the_last_seeds_with_their_verdicts(straight):
    tally, _ = straight
    assert [(seed, arm) for seed, arm, *_ in tally.shown] == [(s, a) for s in range(5, 11) for a in tally.right]
    assert all(right == tally.right[arm][seed - 3] for seed, arm, _, right in tally.shown)
    assert {picture.size for _, _, picture, _ in tally.shown} == {(256, 256)}


def test_the_counts_are_the_judges_verdicts(straight, registry):
    with registry.lease(*lab.parts().values()) as (*parts, npnet, paper, reward, judge), torch.inference_mode():
        models = arms.Models(GoldenNoise(sdxl.build(parts), npnet), {"npnet": npnet, "npnet_paper": paper}, reward)
        pictures = arms.draw_arm("npnet", models, [PROMPT] * 4, [3, 4, 5, 6], 1, 3.0)
        assert arms.fully_right(judge, pictures, [PROMPT] * 4) == straight[0].right["npnet"][:4]


def test_stop_keeps_the_tally_and_continue_repeats_no_seed(straight, registry):
    with registry.lease(*lab.parts().values()) as parts:
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        before = [fingerprint(module) for module in modules]
    job = Listens(stop_after=1)
    with pytest.raises(Cancelled):
        lab.compare(job, registry, LAB)
    (kept,) = job.tallies
    assert kept.done == 4 and kept.right == {key: hits[:4] for key, hits in straight[0].right.items()}
    assert [fingerprint(module) for module in modules] == before

    remembered = copy.deepcopy(kept.right)
    further = Listens()
    ended = lab.compare(further, registry, LAB, kept)
    assert ended.right == straight[0].right, "as if it had never been stopped"
    assert [seed for seed, arm, *_ in ended.shown if arm == "standard"] == list(range(5, 11))
    assert min(further.fractions) >= 0.5 and ended.seconds > kept.seconds
    assert kept.right == remembered and kept.done == 4, "what was kept is not changed"

    assert lab.compare(Job(), registry, LAB, ended).right == ended.right, "nothing is left to draw"


def test_a_prompt_that_is_not_read_whole_is_not_counted(registry):
    prompt = "a glossy red cube to the left of a dull blue sphere " * 4
    with pytest.raises(
        ValueError,
        match="not read the end of this prompt, “.* blue sphere”, so that no picture could be right: shorten",
    ):
        lab.compare(Job(), registry, dataclasses.replace(LAB, prompt=prompt.strip()))


def test_other_settings_start_anew(straight, registry):
    other = dataclasses.replace(LAB, count=2, strength=0.0, arms=("npnet",))
    tally = lab.compare(Job(), registry, other, straight[0])
    assert tally.done == 2 and list(tally.right) == ["standard", "npnet"]
    assert tally.right["npnet"] == tally.right["standard"], "strength 0 is the standard noise"


def test_wrong_settings_stop_before_anything_is_loaded():
    fresh = Registry("cpu")
    with pytest.raises(ValueError, match="number of seeds"):
        lab.compare(Job(), fresh, dataclasses.replace(LAB, count=0))
    assert not [part for part in fresh.status() if part["state"] != "cold"]
