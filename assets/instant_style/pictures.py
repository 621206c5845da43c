"""What does a picture change when it speaks in one block only? Our small IP-Adapter on scenes and prompts that nobody looked at before.

    OMP_NUM_THREADS=1 python -m assets.instant_style.pictures --pairs 40 --write    # 7 minutes of one core, mini set

A rendered scene of one thing, and in turn a prompt that says another shape and nothing else, and one that says another shape, colour,
finish, floor and backdrop. From one noise: the prompt alone, the picture everywhere (IP-Adapter), without its content (section 3.2.1), in
the block of style, in that of layout, in both (3.2.2). Counted by the judge: whose the attribute is. What a picture everywhere cannot do,
keep the prompt's shape, is what the paper is for.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from assets.lab import training
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.core.scores import share
from pipelines.instant_style import picture
from pipelines.instant_style.picture import STRATEGIES, PictureSettings
from pipelines.worlds import grammar, tabletop
from pipelines.worlds.rolled import rolled

FILE = Path(__file__).with_name("pictures.json")
SEED = 710_000
KINDS = ("the prompt says another shape", "the prompt says all otherwise")


def case(number: int) -> tuple[int, str, str]:
    """A scene of one thing, a prompt of the kind ``KINDS[number % 2]``, and what is in the scene."""
    rng = random.Random(f"a picture speaks {number}")
    while True:
        scene = rng.randrange(SEED, 2 * SEED)
        facts = tabletop.attributes(tabletop.sample(scene))
        if len(facts["things"]) == 1:
            break
    (thing,) = facts["things"]
    other = grammar.Thing(
        rng.choice([one for one in grammar.SHAPES if one != thing.shape]),
        rng.choice([one for one in grammar.COLOURS if one != thing.colour and one not in grammar.NO_FINISH]),
        rng.choice([one for one in grammar.FINISHES if one != thing.finish]),
    )
    floor = rng.choice([one for one in grammar.FLOORS if one != facts["floor"]])
    backdrop = rng.choice([one for one in grammar.BACKDROPS if one != facts["backdrop"]])
    request = (
        grammar.Request((other,), None, floor, backdrop)
        if number % 2
        else grammar.Request((grammar.Thing(other.shape),))
    )
    return scene, grammar.phrase(request, rng), f"a {thing.shape}"


def counted(registry: Registry, number: int, steps: int) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute -> column -> whose it is, of one pair."""
    scene, prompt, content = case(number)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for strategy in STRATEGIES:
        told = content if strategy == picture.EVERYWHERE else ""
        settings = PictureSettings(prompt, told, strategy, count=1, seed=SEED + number, steps=steps)
        made = picture.generate(Job(1e9), registry, settings, rolled(scene)).measurements["attributes"]
        for name, columns in made.items():
            found.setdefault(name, {}).update(columns)
    return found


def record_of(rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """The whole evaluation, JSON-able."""
    kinds = {kind: table(rows[place :: len(KINDS)]) for place, kind in enumerate(KINDS)}
    return {"base": picture.mark(), "claim": claim(kinds), "steps": steps, "kinds": kinds, "pairs": rows}


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Column -> attribute -> whose it is, in shares of the pairs in which the prompt does not say what the picture has."""
    totals: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        for name, columns in row.items():
            for column, one in columns.items():
                totals.setdefault(column, {}).setdefault(name, Counter()).update(one)
    return {
        column: {
            name: {who: share(one[who], one["of"]) for who in ("prompt", "picture")} for name, one in found.items()
        }
        for column, found in totals.items()
    }


def claim(kinds: dict[str, Any]) -> str:
    """What was found, in two sentences."""
    plain, contrary = (kinds[kind] for kind in KINDS)
    if not plain or not contrary:
        return "Too few pairs to say anything."

    def told(column: str) -> str:
        row = plain[column]
        return f"{row['colour']['picture']['share']:.0%} and {row['shape']['prompt']['share']:.0%}"

    style = contrary[STRATEGIES["style"]]["colour"]["picture"]
    return (
        f"A picture of one thing beside a prompt that says another shape and nothing else ({plain['the prompt alone']['shape']['prompt']['of']} "
        "unseen pairs): how often the result has the picture’s colour, and how often the prompt’s shape. The picture everywhere: "
        f"{told('IP-Adapter everywhere')}; in the style block alone: {told(STRATEGIES['style'])}; nowhere: {told('the prompt alone')}. Where the "
        f"prompt says another colour too, the style block brings the picture’s in {style['share']:.0%} of {style['of']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=PictureSettings.steps)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    registry, earlier = Registry("cpu"), training.read_json(FILE) if arguments.write else {}
    same = earlier.get("base") == picture.mark() and earlier.get("steps") == arguments.steps
    rows = list(earlier["pairs"]) if same else []
    while len(rows) < arguments.pairs:
        rows.append(counted(registry, len(rows), arguments.steps))
        record = record_of(rows, arguments.steps)
        if arguments.write:
            training.write_json(FILE, record)
        print(len(rows), record["claim"], flush=True)
    print(json.dumps(record["kinds"], indent=1))


if __name__ == "__main__":
    main()
