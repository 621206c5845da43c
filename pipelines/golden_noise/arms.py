"""The arms at work: pictures of prompts drawn in each arm's way, judged and counted. Imports torch: only what runs imports this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipelines import golden_noise
from pipelines.core.images import to_pil
from pipelines.golden_noise import GoldenNoise, golden_with_strength
from pipelines.golden_noise.inspection import rms
from pipelines.golden_noise.lab import ARMS, CHUNK, MORE_STEPS, SHOWN, STRONGER, Tally
from pipelines.models import sdxl, verifier
from pipelines.models.verifier import SceneVerifier
from pipelines.worlds.prompts import read_prompt

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    from pipelines.core.lane import Job


@dataclass
class Models:
    """What the arms need: the pipeline, the NPNets by arm key, and the reward (for the best of two)."""

    golden: GoldenNoise
    npnets: dict[str, nn.Module]
    reward: SceneVerifier | None = None


def start_noise(seeds: Sequence[int], pipe: StableDiffusionXLPipeline) -> Tensor:
    """The standard noises (B, C, h, w) of these seeds, on the pipeline's device."""
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    noises = [sdxl.draw_noise(seed, (1, channels, side, side)) for seed in seeds]
    return torch.cat(noises).to(pipe.unet.device)


def other_seeds(seeds: Sequence[int]) -> list[int]:
    """Seeds for a second, independent noise: the upper half of 32 bits, where no visitor's or script's seed lies."""
    return [2**31 + seed for seed in seeds]


def draw_arm(
    key: str,
    models: Models,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    strength: float = 1.0,
    on_step: Callable[[int, Tensor], None] = lambda step, clean: None,
) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of ``prompts`` from ``seeds``, drawn the way of arm ``key``, in one batch.

    ``strength`` scales the change of the arms that change the noise. Call it inside ``torch.inference_mode()``.
    """
    golden, pipe = models.golden, models.golden.pipe
    embeds = golden.embed(list(prompts))
    noises = start_noise(seeds, pipe)
    if key == "best_of_two":
        starts = (noises, start_noise(other_seeds(seeds), pipe))
        both = [
            golden.draw(start, embeds, steps, guidance, _half(on_step, turn * steps))
            for turn, start in enumerate(starts)
        ]
        assert models.reward is not None
        scores = torch.stack([rewards(models.reward, pictures, prompts) for pictures in both])
        return torch.where((scores[1] > scores[0]).view(-1, 1, 1, 1), both[1], both[0])
    if key == "first_step":
        return golden.draw(noises, embeds, steps, guidance, on_step, first_guidance=2 * guidance - 1)
    if key == "guidance":
        return golden.draw(noises, embeds, steps, STRONGER * guidance, on_step)
    if key == "more_steps":
        return golden.draw(noises, embeds, steps + MORE_STEPS, guidance, on_step)
    noises = changed_noise(key, models, noises, embeds, seeds, strength, steps)
    return golden.draw(noises, embeds, steps, guidance, on_step)


def _half(on_step: Callable[[int, Tensor], None], before: int) -> Callable[[int, Tensor], None]:
    """``on_step`` for one of two draws of equally many steps, ``before`` of which are done: counts at half the pace."""
    return lambda step, clean: on_step((before + step + 1) // 2, clean)


def changed_noise(
    key: str,
    models: Models,
    noises: Tensor,
    embeds: tuple[Tensor, ...],
    seeds: Sequence[int],
    strength: float,
    steps: int,
) -> Tensor:
    """The starting noise of the arms that differ in nothing else, (B, C, h, w)."""
    pipe = models.golden.pipe
    if key == "standard":
        return noises
    if key == "other_noise":
        return start_noise(other_seeds(seeds), pipe)
    if key == "redenoise":
        return golden_with_strength(noises, models.golden.redenoised(noises, embeds), strength)
    if key == "signal":
        return golden_with_strength(noises, models.golden.signalled(noises, embeds, steps), strength)
    if key in models.npnets:
        return golden_with_strength(noises, models.npnets[key](noises, embeds[0]), strength)
    npnet = models.npnets["npnet"]
    if key == "shuffled":
        others = [golden_noise.surprise(seed % 2**31 + 1) for seed in seeds]
        return golden_with_strength(noises, npnet(noises, models.golden.embed(others)[0]), strength)
    if key == "random":
        size = rms(npnet(noises, embeds[0]) - noises)
        direction = start_noise([2**32 - 1 - seed for seed in seeds], pipe)
        return torch.lerp(noises, noises + size * (direction / rms(direction)), strength)
    raise ValueError(f"Arm {key!r} is unknown: choose from {', '.join(ARMS)}.")


def rewards(reward: SceneVerifier, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-probability (B,) that the reward verifier gives each picture's own prompt; differentiable."""
    logits = reward(pictures)
    rows = [{head: value[i : i + 1] for head, value in logits.items()} for i in range(len(prompts))]
    return torch.cat([verifier.log_likelihood(row, read_prompt(text)) for row, text in zip(rows, prompts, strict=True)])


def fully_right(judge: SceneVerifier, pictures: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Has each picture everything that its prompt asks for, in the judge's eyes?"""
    found = []
    for picture, prompt in zip(pictures.split(1), prompts, strict=True):
        (verdicts,) = verifier.judge(judge(picture.to(judge.device, judge.dtype)), read_prompt(prompt))
        found.append(verifier.fully_right(verdicts))
    return found


def count(job: Job, models: Models, judge: SceneVerifier, tally: Tally) -> Tally:
    with torch.inference_mode():
        while tally.done < tally.settings.count:
            tally = counted_on(job, models, judge, tally)
            job.emit(tally)
    return tally


def counted_on(job: Job, models: Models, judge: SceneVerifier, tally: Tally) -> Tally:
    """A new tally with a few seeds more."""
    settings, arms = tally.settings, ("standard", *tally.settings.arms)
    started, first = time.perf_counter(), settings.seed + tally.done
    seeds = list(range(first, first + min(CHUNK, settings.count - tally.done)))
    prompts, fresh, pictures = [settings.prompt] * len(seeds), {}, {}
    for place, arm in enumerate(arms):

        def on_step(step: int, clean: Tensor, place: int = place, arm: str = arm) -> None:
            share = (place + min(step / settings.steps, 1.0)) / len(arms)
            at = (tally.done + share * len(seeds)) / settings.count
            job.progress(at, f"seed {seeds[0]} to {seeds[-1]}: {ARMS[arm].title}")

        drawn = draw_arm(arm, models, prompts, seeds, settings.steps, settings.guidance, settings.strength, on_step)
        fresh[arm], pictures[arm] = fully_right(judge, drawn, prompts), to_pil(drawn)
    shown = [(seed, arm, pictures[arm][row], fresh[arm][row]) for row, seed in enumerate(seeds) for arm in arms]
    return Tally(
        settings,
        {arm: [*tally.right.get(arm, ()), *fresh[arm]] for arm in arms},
        tally.seconds + time.perf_counter() - started,
        [*tally.shown, *shown][-SHOWN * len(arms) :],
    )
