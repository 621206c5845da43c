"""Which attribute belongs to which prompt, as the border between two prompts moves through the stages; read by the judge.

For a pair of prompts that differ in everything, prompt A speaks in the first k stages and B in the others, k from 0 to 10, from one noise.
An attribute that is decided early is A's from a small k on; one that is decided late is B's until k is large. :meth:`Tally.needed` is how many
stages A needs, on average over pairs, to get an attribute. Module level is free of torch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from pipelines import prospect
from pipelines.core import asset_files
from pipelines.core.run import Run
from pipelines.core.scores import wilson
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.models import sdxl
from pipelines.prospect import STAGES
from pipelines.worlds import grammar

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier

SOURCES = {"random": "random pairs of scenes", "mine": "my prompts A and B, seed after seed"}
KINDS = ("backdrop", "colour", "shape")
"""One attribute for each word of the paper's claim: layout first, colour next, shape last. Floors are told in the table: their edge is
layout, their pattern is not."""
RESAMPLES = 2000
Numbers = NDArray[numpy.float64]


@dataclass(frozen=True)
class LabSettings(Declared):
    """``count`` pairs of prompts, drawn at every border."""

    prompts: str = text("Prompts", 1500, name="prompts", default="")
    source: str = choice("Prompts", "random", SOURCES)
    count: int = whole("Number of pairs", 6, 1, 200, offered=(1, 40))
    seed: int = seed(1)
    steps: int = whole("Steps", 20, 1, 100, name="number of steps")
    guidance: float = real("Guidance", 5.5, 1.0, 20.0, step=0.5)
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)

    def validated(self) -> LabSettings:
        made = super().validated()
        if made.model_set != "mini":
            raise ValueError(
                f"The lab was asked to judge the model set {made.model_set}, but only the mini set's world has a judge: choose mini."
            )
        if made.source == "mine" and len(made.lines) < 2:
            raise ValueError("The lab moves the border between two prompts: write A and B, one a line.")
        return made

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.prompts.splitlines() if line.strip()][:2]

    def pair(self, number: int) -> tuple[str, str]:
        """Prompts A and B of the ``number``-th pair."""
        if self.source == "mine":
            first, second = self.lines
            return first, second
        return pair(self.seed + number)


def pair(seed: int) -> tuple[str, str]:
    """Two prompts of one thing each that differ in shape, colour, floor and backdrop."""
    rng = random.Random(f"prospect {seed}")
    shapes, colours, floors, backdrops = (
        rng.sample(values, 2) for values in (grammar.SHAPES, grammar.COLOURS, grammar.FLOORS, grammar.BACKDROPS)
    )
    first, second = (
        grammar.phrase(grammar.Request((grammar.Thing(shape, colour),), None, floor, backdrop), rng)
        for shape, colour, floor, backdrop in zip(shapes, colours, floors, backdrops, strict=True)
    )
    return first, second


@dataclass
class Tally:
    """What was seen so far."""

    settings: LabSettings
    found: dict[str, list[str]] = field(default_factory=dict)
    """Attribute -> for each pair whose it is with A in 0 to 10 stages: "BBA-AAAAAAA", where - is neither's."""
    done: int = 0
    shown: tuple[str, str, Image] | None = None
    """The last pair and the sheet of its pictures."""

    def add(self, whose: Mapping[str, str]) -> None:
        """Count a pair."""
        for name, letters in whose.items():
            self.found.setdefault(name, []).append(letters)
        self.done += 1


def counted(letters: Sequence[str]) -> list[bool]:
    """For each pair whether an attribute counts: A alone and B alone each got their own."""
    return [one[0] == "B" and one[-1] == "A" for one in letters]


def share(letters: Sequence[str], border: int) -> tuple[float, float, float]:
    """Share of the pairs that count in which an attribute is A's with A in ``border`` stages, and its 95 % interval."""
    kept = [one[border] == "A" for one, counts in zip(letters, counted(letters), strict=True) if counts]
    return (sum(kept) / max(len(kept), 1), *wilson(sum(kept), len(kept)))


def moments(letters: Sequence[str]) -> Numbers:
    """For each pair how many of ten stages A needs to get the attribute (neither's is half A's); nan where it does not count."""
    worth = {"A": 0.0, "B": 1.0, "-": 0.5}
    each = [
        sum(worth[letter] for letter in one) if counts else numpy.nan
        for one, counts in zip(letters, counted(letters), strict=True)
    ]
    return numpy.array(each)


def mean_of(each: Numbers) -> tuple[float, float, float]:
    """The mean of those that are no nan, at least one, and its 95 % interval (bootstrap over pairs)."""
    kept = each[~numpy.isnan(each)]
    drawn = numpy.random.default_rng(0).integers(0, len(kept), (RESAMPLES, len(kept)))
    low, high = numpy.quantile(kept[drawn].mean(1), (0.025, 0.975))
    return float(kept.mean()), float(low), float(high)


def needed(letters: Sequence[str]) -> tuple[float, float, float]:
    """How many of ten stages A needs to get the attribute, on average, and the 95 % interval."""
    return mean_of(moments(letters))


def later(found: Mapping[str, Sequence[str]]) -> list[tuple[float, float, float]] | None:
    """By how many stages colour is later than the backdrop, and shape than colour, within the same pairs, with 95 % intervals; None before
    there is a pair in which they all count."""
    if not all(found.get(kind) for kind in KINDS):
        return None
    each = [moments(found[kind]) for kind in KINDS]
    steps = [after - before for before, after in itertools.pairwise(each)]
    return None if any(numpy.isnan(one).all() for one in steps) else [mean_of(one) for one in steps]


def order(found: Mapping[str, Sequence[str]]) -> str:
    """Whether layout, colour and shape come one after the other, told apart from chance, in a sentence; empty before that can be said."""
    steps = later(found)
    if steps is None:
        return ""
    layout, colour = (low > 0 for _, low, _ in steps)
    if layout and colour:
        return "Layout (the backdrop) first, colour next, shape last, as the paper says: told apart from chance within the pairs."
    (more, low, high), first = steps[1], "Layout (the backdrop) comes first" if layout else "That layout comes first"
    if layout and high < 0:
        return f"{first}; shape comes before colour, by {-more:.1f} [{-high:.1f}, {-low:.1f}] stages, and not last as the paper says."
    if layout:
        return f"{first}; that shape comes after colour, by {more:.1f} [{low:.1f}, {high:.1f}] stages, is not told apart from chance."
    return f"{first} is not told apart from chance yet."


def measure(job: Job, registry: Registry, settings: LabSettings) -> Tally:
    """Draw pair after pair at every border; called on the lane's thread. Emits a :class:`Tally` after each pair.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)

    def work(judge: SceneVerifier, **models: Any) -> Tally:
        from pipelines.prospect.stages import Painter, look

        return _measure(run, partial(look, Painter(sdxl.build(models)), judge))

    return run.lease(prospect.parts("mini"), work, loading="the models")


def _measure(run: Run[LabSettings], look: Callable[..., tuple[dict[str, str], Image]]) -> Tally:
    settings, tally = run.settings, Tally(run.settings)
    for number in range(settings.count):

        def on_step(step: int, number: int = number) -> None:
            run.progress(
                (number + step / settings.steps) / settings.count,
                f"pair {number + 1} of {settings.count}, step {step} of {settings.steps}",
            )

        first, second = settings.pair(number)
        whose, sheet = look((first, second), (settings.seed + number) % 2**32, settings, on_step)
        tally.add(whose)
        tally.shown = first, second, sheet
        run.show(tally)
    return tally


# -------------------------------------------------------------------------------------------- words


def told(found: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The attributes that count in some pair, the one that is decided first first."""
    kept = {name: letters for name, letters in found.items() if any(counted(letters))}
    return dict(sorted(kept.items(), key=lambda item: needed(item[1])[0]))


def sentence(found: Mapping[str, Sequence[str]], pairs: int) -> str:
    """What was measured, in a sentence or two."""
    spans = {name: needed(letters) for name, letters in told(found).items()}
    if not spans:
        return "Nothing could be counted yet: A alone and B alone each have to get their own."
    listed = ", ".join(f"{name} {mean:.1f} [{low:.1f}, {high:.1f}]" for name, (mean, low, high) in spans.items())
    return (
        f"Over {pairs} {'pair' if pairs == 1 else 'pairs'} of prompts, stages (of {STAGES}) that the first prompt needs "
        f"to get an attribute, with 95 % intervals: {listed}. {order(found)}"
    ).strip()


def measured() -> tuple[dict[str, list[str]], int]:
    """What the evaluation found, and over how many pairs; nothing before the first."""
    facts = asset_files.facts(prospect.MEASURED, "claim")
    return dict(facts.get("found", {})), int(facts.get("pairs", 0))
