"""Golden noise beside what the same compute buys otherwise: the arms, and the win-rate lab.

An :class:`Arm` is one way to start, or to guide, the drawing of a prompt. All arms of a comparison draw the same
prompts from the same seeds, so that their verdicts can be paired (:class:`pipelines.core.scores.Paired`). Some arms
are there to be beaten: noise moved at random, or towards another prompt, must not help.

:func:`compare` is the lab of the page: seed after seed of one prompt, a tally after each few, stoppable, continuable.
Module level is free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines import golden_noise
from pipelines.core import asset_files, limits
from pipelines.core.run import Run
from pipelines.core.scores import Paired, mcnemar
from pipelines.core.settings import whole
from pipelines.golden_noise import Drawing, GoldenNoise
from pipelines.golden_noise.inspection import rms
from pipelines.models import judges, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec

MORE_STEPS = 2
"""Steps that cost at least what re-denoising costs: its three network evaluations."""
STRONGER = 1.5
"""Factor of the guidance in the arm "stronger guidance throughout"."""


@dataclass(frozen=True)
class Arm:
    """One way to draw a prompt. ``evaluations(n)``: runs of the UNet per picture of n steps with guidance."""

    key: str
    title: str
    about: str
    evaluations: Callable[[int], int] = lambda steps: 2 * steps
    control: bool = False
    """Is not meant to help: if it does, something is wrong with the measurement."""


ARMS: dict[str, Arm] = {
    arm.key: arm
    for arm in (
        Arm("standard", "Standard noise", "the noise of the seed, unchanged"),
        Arm("npnet", "NPNet, our network", "a FiLM U-Net, taught to add the signal that the first noise lacks"),
        Arm(
            "npnet_paper",
            "NPNet, the paper's network",
            "pairs by re-denoising, the published architecture at small size",
        ),
        Arm(
            "redenoise",
            "Re-denoise, no network",
            "one step down with strong guidance, one exact step back with weak guidance",
            lambda steps: 2 * steps + 3,
        ),
        Arm(
            "signal",
            "The lacking signal, no network",
            f"what our network was taught, by {golden_noise.LOOKS} looks of the UNet at other noises",
            lambda steps: 2 * steps + golden_noise.LOOKS,
        ),
        Arm("first_step", "Stronger first step", "guidance 2 w − 1 in the first step: what re-denoising amounts to"),
        Arm("guidance", "Stronger guidance", f"{STRONGER:g} times the guidance in every step"),
        Arm("more_steps", "More steps", f"{MORE_STEPS} more steps", lambda steps: 2 * (steps + MORE_STEPS)),
        Arm("best_of_two", "Best of two seeds", "two pictures, the reward keeps one", lambda steps: 4 * steps),
        Arm("random", "Random change", "a random change of the same size as NPNet's", control=True),
        Arm("shuffled", "Another prompt's change", "NPNet's change for another prompt", control=True),
        Arm("other_noise", "Another seed", "independent noise: how much luck alone moves", control=True),
    )
}

GOLDEN = ("npnet", "npnet_paper", "redenoise", "signal")
"""The arms that are golden noise; what is neither among them nor a control is a baseline."""


@dataclass
class Models:
    """What the arms need: the pipeline, the NPNets by arm key, and the reward (for the best of two)."""

    golden: GoldenNoise
    npnets: dict[str, Any]
    reward: Any = None


def start_noise(seeds: Sequence[int], pipe: Any) -> Tensor:
    """The standard noises (B, 4, h, w) of these seeds, on the pipeline's device."""
    import torch

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
    import torch

    golden, pipe = models.golden, models.golden.pipe
    embeds = golden.embed(list(prompts))
    noises = start_noise(seeds, pipe)
    if key == "best_of_two":
        starts = (noises, start_noise(other_seeds(seeds), pipe))
        both = [
            golden.draw(start, embeds, steps, guidance, _half(on_step, turn * steps))
            for turn, start in enumerate(starts)
        ]
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
    """The starting noise of the arms that differ in nothing else, (B, 4, h, w)."""
    import torch

    from pipelines.golden_noise.npnet import golden_with_strength

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


def rewards(reward: Any, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-probability (B,) that the reward verifier gives each picture's own prompt; differentiable."""
    import torch

    from pipelines.models import verifier
    from pipelines.worlds.prompts import read_prompt

    logits = reward(pictures)
    rows = [{head: value[i : i + 1] for head, value in logits.items()} for i in range(len(prompts))]
    return torch.cat([verifier.log_likelihood(row, read_prompt(text)) for row, text in zip(rows, prompts, strict=True)])


def fully_right(judge: Any, pictures: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Has each picture everything that its prompt asks for, in the judge's eyes?"""
    from pipelines.models import verifier
    from pipelines.worlds.prompts import read_prompt

    found = []
    for picture, prompt in zip(pictures.split(1), prompts, strict=True):
        (verdicts,) = verifier.judge(judge(picture.to(judge.device, judge.dtype)), read_prompt(prompt))
        found.append(verifier.fully_right(verdicts))
    return found


# ------------------------------------------------------------------------------------------------ lab


@dataclass(frozen=True)
class LabSettings(Drawing):
    """One prompt, ``count`` seeds from ``seed`` on, standard noise against the chosen ``arms``."""

    count: int = whole("Number of seeds", 40, 1, 1000, offered=(1, 200))
    arms: tuple[str, ...] = ("npnet",)

    def validated(self) -> LabSettings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        from pipelines.worlds.prompts import read_prompt

        made = super().validated()
        if made.model_set != "mini":
            raise ValueError(
                f"The lab was asked to judge the model set {made.model_set}, but only the mini set's world has a judge "
                "that knows the truth: choose mini."
            )
        listed = list(self.arms) if isinstance(self.arms, list | tuple) else [self.arms]
        unknown = [arm for arm in listed if not isinstance(arm, str) or arm not in ARMS]
        # In one order, however they were named: a tally goes on only with the same arms.
        arms = tuple(arm for arm in ARMS if arm in listed and arm != "standard")
        if unknown or not arms:
            shown = limits.described(unknown[0]) if unknown else "nothing"
            raise ValueError(
                f"The lab was asked to compare {shown}: choose at least one of {', '.join(list(ARMS)[1:])}."
            )
        if not _judgeable(read_prompt(made.prompt)):
            raise ValueError(
                "The prompt names nothing that the judge knows, so no picture could be right or wrong: name solids, "
                "colours, a floor, or a portrait's features."
            )
        last = int(self.field("seed").high)
        if made.seed + made.count - 1 > last:
            raise ValueError(f"The last of {made.count:,} seeds from {made.seed} would be above {last}: start lower.")
        return replace(made, arms=arms)


def _judgeable(request: Any) -> bool:
    from pipelines.models.verifier import readings

    return bool(readings(request)[0].wanted)


@dataclass
class Tally:
    """What has been counted so far: for every arm and seed, was the picture fully right? ``shown``: the last pairs."""

    settings: LabSettings
    right: dict[str, list[bool]] = field(default_factory=dict)
    seconds: float = 0.0
    shown: list[tuple[int, str, Image, bool]] = field(default_factory=list)
    """(seed, arm, picture, right), newest seeds last; a window of the last few seeds."""

    @property
    def done(self) -> int:
        """Seeds that every arm has drawn."""
        return len(self.right.get("standard", ()))

    def rows(self) -> dict[str, dict[str, object]]:
        """For each arm the paired figures against the standard (see :meth:`Paired.as_dict`)."""
        standard = self.right.get("standard", [])
        return {key: Paired.of(hits, standard).as_dict() for key, hits in self.right.items()}

    def against(self, arm: str, other: str) -> dict[str, Any]:
        """The paired figures of ``arm`` against ``other``; ``wins`` are the seeds that only ``arm`` got right."""
        return Paired.of(self.right[arm], self.right[other]).as_dict()

    def fits(self, settings: LabSettings) -> bool:
        """Would ``settings`` go on with this tally? Only the number of seeds may differ."""
        return replace(self.settings, count=settings.count) == settings


SHOWN = 6
CHUNK = 4


def parts() -> dict[str, ModelSpec]:
    """The parts that the lab leases, by name."""
    return {**sdxl.MINI.named, **golden_noise.NPNETS["mini"], "reward": judges.REWARD, "judge": judges.JUDGE}


def compare(job: Job, registry: Registry, settings: LabSettings, before: Tally | None = None) -> Tally:
    """Draw seed after seed of one prompt in every arm and count who is right; called on the lane's thread.

    Emits a :class:`Tally` after every few seeds. A ``before`` that fits goes on where it stopped; it is not changed.
    Ends within one denoising step when the job is stopped: what was emitted last then stands.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)
    settings = run.settings
    tally = Tally(settings)
    if before is not None and before.fits(settings):
        tally = Tally(settings, {k: list(v) for k, v in before.right.items()}, before.seconds, list(before.shown))

    def work(npnet: Any, npnet_paper: Any, reward: Any, judge: Any, **base: Any) -> Tally:
        golden = GoldenNoise(sdxl.build(base), npnet)
        cut = sdxl.unread(golden.pipe, settings.prompt)
        if cut is not None:
            unread = " ".join(settings.prompt[cut:].split())
            raise ValueError(
                f"The model does not read the end of this prompt, “{unread}”, so that no picture could be right: shorten it."
            )
        return _count(job, Models(golden, {"npnet": npnet, "npnet_paper": npnet_paper}, reward), judge, tally)

    return run.lease(
        parts(),
        work,
        loading="the models",
        at=tally.done / settings.count,
        smaller="close other programs on that machine and try again",
    )


def _count(job: Job, models: Models, judge: Any, tally: Tally) -> Tally:
    import torch

    with torch.inference_mode():
        while tally.done < tally.settings.count:
            tally = _counted_on(job, models, judge, tally)
            job.emit(tally)
    return tally


def _counted_on(job: Job, models: Models, judge: Any, tally: Tally) -> Tally:
    """A new tally with a few seeds more."""
    import time

    from pipelines.core.images import to_pil

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


# -------------------------------------------------------------------------------------------- words

CONVINCING = 0.01
"""An exact p below this is called unlikely to be chance."""
FEWEST = next(n for n in range(1, 100) if mcnemar(n, 0) < CONVINCING)
"""So many seeds must differ before p can fall below :data:`CONVINCING` at all."""


def meaning(key: str, row: Mapping[str, Any]) -> str:
    """What a row of :meth:`Tally.rows` lets one say about arm ``key``, in a sentence."""
    wins, losses = row["wins"], row["losses"]
    if not row["of"]:
        return "Nothing was counted yet."
    if not wins + losses:
        return "No seed came out differently, so there is nothing to tell."
    chance = f"p = {row['p']:.2g}" if row["p"] >= 1e-4 else "p < 0.0001"
    counted = f"{wins} {'seed' if wins == 1 else 'seeds'} won, {losses} lost: {chance}"
    if wins + losses < FEWEST:
        return f"{counted}; at least {FEWEST} seeds must differ before anything can be told."
    if row["p"] >= 0.05:
        return f"{counted}; this may well be chance."
    if row["p"] >= CONVINCING:
        return f"{counted}; not yet enough to tell."
    if ARMS[key].control and wins > losses:
        return f"{counted}; a control should not win: rare luck, or a fault of the measurement."
    return f"{counted}; unlikely to be chance: {'better' if wins > losses else 'worse'} than standard noise here."


def room(standard: Mapping[str, Any]) -> str:
    """A hint where standard noise leaves nothing to win, or gets nothing right; otherwise empty."""
    if standard["of"] < FEWEST or 0.05 < standard["share"] < 0.9:
        return ""
    if standard["share"] >= 0.9:
        return "Standard noise gets nearly every seed right, so there is little to win: a prompt that asks for more says more."
    return "Standard noise gets hardly any seed right: a simpler prompt, or more steps, says more."


def measured(report: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What ``assets/golden_noise/evaluate.py --write`` has written: "pairs", "steps", ..., and the rows of the
    arms in our order under "arms". None before the first such run."""
    found = (asset_files.facts(golden_noise.MEASURED, "claim") if report is None else report).get("evaluation", {})
    rows = {key: found["arms"][key] for key in ARMS if key in found.get("arms", {})}
    return {**found, "arms": rows} if "standard" in rows else None


def findings(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the measured rows say about golden noise, its baselines and the controls: a sentence each, good or bad."""
    golden = [key for key in GOLDEN if key in rows]
    if not golden:
        return []
    best = max(golden, key=lambda key: rows[key]["points"])
    told, name = [f"The best golden noise: {_gain(best, rows)}. {meaning(best, rows[best])}"], ARMS[best].title
    baselines = [key for key in rows if key not in GOLDEN and key != "standard" and not ARMS[key].control]
    better = [key for key in baselines if rows[key]["points"] > rows[best]["points"]]
    better.sort(key=lambda key: -rows[key]["points"])
    if better:
        told.append(f"Better than that in this measurement: {'; '.join(_gain(key, rows) for key in better)}.")
    elif baselines:
        told.append(f"No baseline did better than {name} in this measurement.")
    return told + [f"{ARMS[key].title}: {meaning(key, rows[key])}" for key in rows if _odd(key, rows[key])]


def _odd(key: str, row: Mapping[str, Any]) -> bool:
    return ARMS[key].control and row["p"] < CONVINCING and row["wins"] > row["losses"]


def _gain(key: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """'Stronger guidance, +5.2 points at the same cost'."""
    ratio = rows[key]["evaluations"] / rows["standard"]["evaluations"]
    cost = "the same cost" if ratio == 1 else f"{ratio:.3g} times the cost"
    points = f"{rows[key]['points']:+.1f}".replace("-", "−")
    return f"{ARMS[key].title}, {points} points at {cost}"
