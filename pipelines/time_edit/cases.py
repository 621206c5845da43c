"""Edits of one attribute each, drawn by a seed, with prompts that contain their source, that do not, and that say otherwise. Torch-free."""

from __future__ import annotations

import random
from typing import Any

from pipelines.time_edit import ARROW, Settings
from pipelines.worlds.grammar import COLOURS

THINGS = ("cube", "ball", "cone", "cylinder")
FLOORS = ("on a wooden floor", "on tiles", "on a marble floor")
BACKDROPS = ("under the sky", "against a wall")
PERSON = ("with glasses", "with red hair", "with blue hair", "in a green sweater", "in a red sweater", "with a beard")


def cases(stream: str, count: int, first: int = 0) -> list[Settings]:
    """``count`` edits of a stream, the n-th drawn from the seed ``first`` + 10 n."""
    rng = random.Random(f"time {stream}")
    edits = [(f"a {thing}", f"a {colour} {thing}") for thing in THINGS for colour in COLOURS]
    edits += [(f"a {thing}", f"a {thing} {where}") for thing in THINGS for where in (*FLOORS, *BACKDROPS)]
    edits += [("a person", f"a person {what}") for what in PERSON] * 2
    rng.shuffle(edits)
    return [case(rng, *edit, seed=first + 10 * n) for n, edit in enumerate(edits[:count])]


def case(rng: random.Random, source: str, destination: str, seed: int) -> Settings:
    """One edit with its prompts."""
    added = destination.replace(source.removeprefix("a "), "").removeprefix("a ").strip()
    if source == "a person":
        related: tuple[str, ...] = ("a person against a grey wall", "a person with curly hair", "a smiling person")
        unrelated = rng.sample([f"a {thing}" for thing in THINGS], 4)
        others: list[str] = []
    else:
        thing = source.removeprefix("a ")
        kind = FLOORS if added in FLOORS else BACKDROPS if added in BACKDROPS else tuple(COLOURS)
        where = {FLOORS: BACKDROPS, BACKDROPS: FLOORS}.get(kind, (*FLOORS, *BACKDROPS))
        related = tuple(f"{source} {one}" for one in where[:3])
        if len(related) < 3:
            related = (*related, *(f"a {colour} {thing}" for colour in rng.sample(list(COLOURS), 3 - len(related))))
        free = [f"a {one}" for one in THINGS if one not in source]
        unrelated = [*free, f"a {rng.choice(list(COLOURS))} {rng.choice(free).removeprefix('a ')}"]
        rest = [one for one in kind if one != added]
        chosen = random.Random(f"otherwise {seed}").sample(rest, min(2, len(rest)))
        others = [f"a {one} {thing}" if kind == tuple(COLOURS) else f"{source} {one}" for one in chosen]
    prompts = {"related": related, "unrelated": unrelated, "contradicting": others}
    joined: dict[str, Any] = {name: "\n".join(lines) for name, lines in prompts.items()}
    return Settings(f"{source} {ARROW} {destination}", **joined, count=2, seed=seed)
