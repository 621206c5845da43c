"""Golden noise beside what the same compute buys otherwise: the arms, and the win-rate lab.

An :class:`Arm` is one way to start, or to guide, the drawing of a prompt. All arms of a comparison draw the same
prompts from the same seeds, so that their verdicts can be paired (:class:`pipelines.core.scores.Paired`). Some arms
are there to be beaten: noise moved at random, or towards another prompt, must not help.

:func:`compare` is the lab of the page: seed after seed of one prompt, a tally after each few, stoppable, continuable.
Module level is free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines import golden_noise
from pipelines.core import asset_files, limits
from pipelines.core.run import Run
from pipelines.core.scores import Paired, mcnemar
from pipelines.core.settings import whole
from pipelines.golden_noise import Drawing, GoldenNoise
from pipelines.models import judges, sdxl
from pipelines.worlds.prompts import read_prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.core.weights import ModelSpec
    from pipelines.models.verifier import SceneVerifier
    from pipelines.worlds.grammar import Request
    from pipelines.worlds.prompts import PortraitRequest

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


def _judgeable(request: Request | PortraitRequest) -> bool:
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
    from pipelines.golden_noise import arms

    run = Run(job, registry, settings)
    settings = run.settings
    tally = Tally(settings)
    if before is not None and before.fits(settings):
        tally = Tally(settings, {k: list(v) for k, v in before.right.items()}, before.seconds, list(before.shown))

    def work(
        npnet: nn.Module, npnet_paper: nn.Module, reward: SceneVerifier, judge: SceneVerifier, **base: Any
    ) -> Tally:
        golden = GoldenNoise(sdxl.build(base), npnet)
        cut = sdxl.unread(golden.pipe, settings.prompt)
        if cut is not None:
            unread = " ".join(settings.prompt[cut:].split())
            raise ValueError(
                f"The model does not read the end of this prompt, “{unread}”, so that no picture could be right: shorten it."
            )
        return arms.count(job, arms.Models(golden, {"npnet": npnet, "npnet_paper": npnet_paper}, reward), judge, tally)

    return run.lease(
        parts(),
        work,
        loading="the models",
        at=tally.done / settings.count,
        smaller="close other programs on that machine and try again",
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
