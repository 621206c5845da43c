"""The words of the tabletop world: what a caption can ask for, writing one, and reading one back.

Torch-free, so that the page can suggest prompts before any model is loaded. The vocabulary is closed:
:func:`phrase` writes it with varied wording and :func:`parse` reads every attribute back, from our own
captions exactly and from a visitor's prompt as far as it is understood (the rest is reported, not guessed).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

SHAPES = ("cube", "sphere", "cylinder", "cone")
FINISHES = ("matte", "glossy")
FLOORS = ("wood", "marble", "tile", "plain")
BACKDROPS = ("wall", "sky")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
# A highlight does not show on white: matte and glossy white look the same, so nothing is said or judged of it.
NO_FINISH = ("white",)
RELATIONS = ("left", "right", "front", "behind", "row")

_SHAPE_WORDS = {"cube": ("cube", "box"), "sphere": ("sphere", "ball"), "cylinder": ("cylinder",), "cone": ("cone",)}
_FINISH_WORDS = {"matte": ("matte", "dull"), "glossy": ("glossy", "shiny")}
_RELATION_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
_FLOOR_WORDS = {
    "wood": ("on a wooden floor", "on wood"),
    "marble": ("on a marble floor", "on marble"),
    "tile": ("on a tiled floor", "on tiles"),
    "plain": ("on a plain floor",),
}
_BACKDROP_WORDS = {"wall": ("against a wall", "by a wall"), "sky": ("under the sky", "outdoors")}
_OPENINGS = ("", "", "", "a photo of ", "a picture of ")

_SHAPE_OF = {word: shape for shape, words in _SHAPE_WORDS.items() for word in words}
_FINISH_OF = {word: finish for finish, words in _FINISH_WORDS.items() for word in words}
_FLOOR_OF = {"wooden": "wood", "wood": "wood", "marble": "marble", "tiled": "tile", "tiles": "tile", "plain": "plain"}
_BACKDROP_OF = {"wall": "wall", "sky": "sky", "outdoors": "sky"}
_GLUE = frozenset("a an and the of on in from to floor photo picture by against under".split())


@dataclass(frozen=True)
class Thing:
    """A solid as words ask for it; ``None`` means that nothing was said."""

    shape: str
    colour: str | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Request:
    """What a prompt asks of a tabletop scene. ``relation`` says where the first thing is, seen from the second;
    "row" means that the things are named from left to right."""

    things: tuple[Thing, ...] = ()
    relation: str | None = None
    floor: str | None = None
    backdrop: str | None = None
    unknown: tuple[str, ...] = ()


def vocabulary() -> list[str]:
    """Every word that :func:`phrase` can write, sorted."""
    tables = (_SHAPE_WORDS, _FINISH_WORDS, _RELATION_WORDS, _FLOOR_WORDS, _BACKDROP_WORDS)
    phrases = [text for table in tables for texts in table.values() for text in texts]
    phrases += [*_OPENINGS, *COLOURS, "a an and", "from left to right"]
    return sorted({word for text in phrases for word in text.split()})


def words(text: str) -> list[str]:
    """Lower-case words of a text, punctuation dropped."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def _noun(thing: Thing, rng: random.Random) -> str:
    parts = [rng.choice(_FINISH_WORDS[thing.finish])] if thing.finish else []
    parts += [thing.colour] if thing.colour else []
    parts += [rng.choice(_SHAPE_WORDS[thing.shape])]
    return f"{'an' if parts[0][0] in 'aeiou' else 'a'} {' '.join(parts)}"


def phrase(request: Request, rng: random.Random) -> str:
    """Write ``request`` as one English phrase; the wording varies with ``rng``."""
    nouns = [_noun(thing, rng) for thing in request.things]
    if request.relation in _RELATION_WORDS:
        text = f"{nouns[0]} {rng.choice(_RELATION_WORDS[request.relation])} {nouns[1]}"
    elif len(nouns) > 1:
        text = f"{', '.join(nouns[:-1])} and {nouns[-1]}"
        text = f"from left to right {text}" if request.relation == "row" else text
    else:
        text = nouns[0]
    text = text if request.relation == "row" else rng.choice(_OPENINGS) + text
    text += f" {rng.choice(_FLOOR_WORDS[request.floor])}" if request.floor else ""
    return text + (f" {rng.choice(_BACKDROP_WORDS[request.backdrop])}" if request.backdrop else "")


def parse(text: str) -> Request:
    """Read what a prompt asks for; words outside the vocabulary come back in ``unknown``."""
    tokens = words(text)
    things, ends, start = [], [], 0
    for place, token in enumerate(tokens):
        if token in _SHAPE_OF:
            before = tokens[start:place]
            colour = next((word for word in reversed(before) if word in COLOURS), None)
            finish = next((_FINISH_OF[word] for word in reversed(before) if word in _FINISH_OF), None)
            things.append(Thing(_SHAPE_OF[token], colour, finish))
            ends.append(place)
            start = place + 1
    opening = tokens[: ends[0]] if ends else []
    between = tokens[ends[0] + 1 : ends[1]] if len(ends) > 1 else []
    relation = next((word for word in between if word in RELATIONS), None)
    relation = "row" if {"from", "left", "right"} <= set(opening) else relation
    # The floor and the backdrop are said after the last thing, so that nothing before it is mistaken for them.
    rest = tokens[ends[-1] + 1 :] if ends else tokens
    floor = next((_FLOOR_OF[word] for word in rest if word in _FLOOR_OF), None)
    backdrop = next((_BACKDROP_OF[word] for word in rest if word in _BACKDROP_OF), None)
    known = _SHAPE_OF.keys() | _FINISH_OF.keys() | _FLOOR_OF.keys() | _BACKDROP_OF.keys() | _GLUE
    known = known | set(COLOURS) | set(RELATIONS)
    unknown = tuple(dict.fromkeys(token for token in tokens if token not in known))
    return Request(tuple(things), relation, floor, backdrop, unknown)


def random_request(rng: random.Random, count: int) -> Request:
    """A request for ``count`` things (1 to 3) that the world can fulfil."""
    things = tuple(Thing(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice((None, *FINISHES))) for _ in range(count))
    relation = {1: None, 2: rng.choice(("left", "right", "left", "right", "front", "behind", None)), 3: "row"}[count]
    floor = rng.choice(FLOORS) if rng.random() < 0.7 else None
    return Request(things, relation, floor, rng.choice(BACKDROPS) if rng.random() < 0.6 else None)
