"""Who paints what: for each attribute and each place, does B there change it, and does B everywhere else? Torch-free at the top.

A pair is two prompts that say everything of a picture and agree in nothing. Of each pair, from one noise, are drawn A, B, A with B in one
place, and B with A in one place; and what a sceptic would do instead: half of each everywhere, and A with B's value said in words. Only
attributes that the judge sees right in both A's and B's own picture count.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from pipelines.core import scores
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, seed, switch, whole
from pipelines.instant_style import parts, places
from pipelines.models import sdxl
from pipelines.worlds import grammar
from pipelines.worlds.portrait import people
from pipelines.worlds.portrait import words as portrait_words

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier

WORLDS = {"tabletop": "things on a table", "portrait": "portraits"}
ATTRIBUTES = {
    "tabletop": ("shape", "colour", "finish", "floor", "backdrop"),
    "portrait": tuple(portrait_words.ATTRIBUTES),
}
ALONE, OTHERS = "alone", "all others"
"""B in one place only; B everywhere but there."""
HALF, WORDS = "half of each", "in words"
"""The sceptic's arms. The place of one in words is the attribute that is said."""


def head(attribute: str) -> str:
    """The judge's head for an attribute: that of the first thing, on a table."""
    return f"0 {attribute}" if attribute in ("shape", "colour", "finish") else attribute


@dataclass(frozen=True)
class Pair:
    """Two prompts, and what each says: attribute -> value."""

    prompts: tuple[str, str]
    said: tuple[dict[str, str], dict[str, str]]

    @classmethod
    def drawn(cls, world: str, number: int) -> Self:
        """Pair ``number`` of a world, the same for everybody."""
        rng = random.Random(f"who paints what {world} {number}")
        return cls(*(_portraits if world == "portrait" else _things)(rng))


def _things(rng: random.Random) -> tuple[tuple[str, str], tuple[dict[str, str], dict[str, str]]]:
    colours = [one for one in grammar.COLOURS if one not in grammar.NO_FINISH]
    kinds = (grammar.SHAPES, colours, grammar.FINISHES, grammar.FLOORS, grammar.BACKDROPS)
    sides = list(zip(*(rng.sample(list(values), 2) for values in kinds), strict=True))
    prompts = [grammar.phrase(grammar.Request((grammar.Thing(*side[:3]),), None, *side[3:]), rng) for side in sides]
    first, second = (dict(zip(ATTRIBUTES["tabletop"], side, strict=True)) for side in sides)
    return (prompts[0], prompts[1]), (first, second)


def _portraits(rng: random.Random) -> tuple[tuple[str, str], tuple[dict[str, str], dict[str, str]]]:
    one = people.sample(rng.randrange(10**6))
    first = portrait_words.attributes(one)
    while True:
        other = people.sample(rng.randrange(10**6))
        second = portrait_words.attributes(other)
        if not first.items() & second.items():
            break
    captions = [portrait_words.caption(side, rng, mention=tuple(portrait_words.SOMETIMES)) for side in (one, other)]
    return (captions[0], captions[1]), (first, second)


def in_words(world: str, pair: Pair, attribute: str) -> str:
    """A's prompt with B's value of one attribute, in the words of our own captions."""
    said = {**pair.said[0], attribute: pair.said[1][attribute]}
    if world == "portrait":
        flags = {name: said[name] == "yes" for name in ("glasses", "beard")}
        rest = {name: said[name] for name in said if name not in flags}
        return portrait_words.caption(people.sample(0, **rest, **flags), mention=tuple(portrait_words.SOMETIMES))
    thing = grammar.Thing(said["shape"], said["colour"], said["finish"])
    return grammar.phrase(grammar.Request((thing,), None, said["floor"], said["backdrop"]), random.Random(0))


@dataclass(frozen=True)
class LabSettings(Declared):
    """How much is measured."""

    world: str = choice("What is drawn", "tabletop", WORLDS)
    count: int = whole("Pairs of prompts", 4, 1, 200, offered=(1, 40), name="number of pairs")
    seed: int = seed(1000)
    steps: int = whole("Steps", 12, 1, 100, name="number of steps")
    words: bool = switch(
        "Also half of each, and said in words", False, name="whether the obvious alternatives are drawn"
    )
    model_set: str = choice("Model set", "mini", sdxl.FIRST, shown=False)

    def validated(self) -> Self:
        made = super().validated()
        if made.model_set != "mini":
            raise ValueError(
                f"Who paints what was asked of the model set {made.model_set}, but only the mini set's world has a judge: choose mini."
            )
        return made


@dataclass
class Tally:
    """What has been counted. Keys are (arm, place, attribute)."""

    settings: LabSettings
    places: tuple[str, ...]
    done: int = 0
    right: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Pictures that show B's value."""
    clean: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Those of them in which everything else is still A's."""
    of: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By arm and attribute: pairs that count."""

    @classmethod
    def read(cls, settings: LabSettings, places: tuple[str, ...], table: Mapping[str, Any]) -> Self:
        """The tally that :meth:`table` was made of."""
        tally = cls(settings, places, table["pairs"])
        for arm, rows in table.items():
            if arm in (ALONE, OTHERS, HALF, WORDS):
                for place, row in rows.items():
                    for name, share in row.items():
                        tally.of[arm, name] = share["of"]
                        tally.right[arm, place, name] = share["right"]
                        tally.clean[arm, place, name] = share["clean"]
        return tally

    def add(self, pair: Pair, seen: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
        """One pair. ``seen``: (arm, place) -> what the judge sees, head by head; ("A", "") and ("B", "") are the prompts' own pictures."""
        mine, theirs = pair.said
        counts = [
            name
            for name in mine
            if seen["A", ""][head(name)] == mine[name] and seen["B", ""][head(name)] == theirs[name]
        ]
        self.done += 1
        self.of.update((arm, name) for arm in {arm for arm, _ in seen} for name in counts)
        for (arm, place), answers in seen.items():
            for name in counts:
                if answers[head(name)] == theirs[name]:
                    self.right[arm, place, name] += 1
                    others = (other for other in counts if other != name)
                    self.clean[arm, place, name] += all(answers[head(other)] == mine[other] for other in others)

    def share(self, arm: str, place: str, attribute: str) -> dict[str, Any]:
        """How often the attribute was B's: right, of, share, 95 % interval; and "clean" of them with all else still A's. JSON-able."""
        right, of = self.right[arm, place, attribute], self.of[arm, attribute]
        return {**scores.share(right, of), "clean": self.clean[arm, place, attribute]}

    def table(self) -> dict[str, Any]:
        """The measurement, JSON-able: arm -> place -> attribute -> :meth:`share`."""
        names = ATTRIBUTES[self.settings.world]
        arms: dict[str, Any] = {
            arm: {place: {name: self.share(arm, place, name) for name in names} for place in self.places}
            for arm in (ALONE, OTHERS)
        }
        if any(arm == WORDS for arm, _ in self.of):
            arms[HALF] = {"": {name: self.share(HALF, "", name) for name in names}}
            arms[WORDS] = {name: {name: self.share(WORDS, name, name)} for name in names}
        return {"pairs": self.done, "attributes": list(names), **arms}

    def fits(self, settings: LabSettings) -> bool:
        """Would ``settings`` go on with this tally? Only the number of pairs may differ, and whether alternatives are drawn."""
        return replace(self.settings, count=settings.count, words=settings.words) == settings

    def copy(self, settings: LabSettings) -> Tally:
        """The same counts, to go on with."""
        return replace(self, settings=settings, right=self.right.copy(), clean=self.clean.copy(), of=self.of.copy())


def measure(job: Job, registry: Registry, settings: LabSettings, before: Tally | None = None) -> Tally:
    """Count pair after pair; called on the lane's thread. Emits a :class:`Tally` after each; a ``before`` that fits goes on.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)
    tally = Tally(run.settings, places("mini"))
    if before is not None and before.fits(run.settings):
        tally = before.copy(run.settings)

    def work(judge: SceneVerifier, **models: Any) -> Tally:
        from pipelines.instant_style.layers import Painter, arms, see

        painter, drawn, counted = Painter(models), run.settings, tally
        while counted.done < drawn.count:
            number = counted.done
            pair = Pair.drawn(drawn.world, drawn.seed + number)
            said = {name: in_words(drawn.world, pair, name) for name in pair.said[0]} if drawn.words else {}
            words = painter.encode(*pair.prompts, *said.values())
            rows = arms(words, counted.places, list(said), drawn.seed + number)

            def on_step(done: float, number: int = number, total: int = len(rows)) -> None:
                run.progress((number + done / total) / drawn.count, f"pair {number + 1} of {drawn.count}")

            pictures = painter.draw(list(rows.values()), drawn.steps, sdxl.FIRST["mini"].guidance, on_step)
            counted = counted.copy(drawn)
            counted.add(pair, dict(zip(rows, see(judge, pictures), strict=True)))
            run.show(counted)
        return counted

    return run.lease(parts("mini"), work, loading="the models", at=tally.done / run.settings.count)
