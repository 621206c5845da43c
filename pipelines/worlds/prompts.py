"""Reading a visitor's prompt, whichever world it belongs to, and writing prompts that the worlds can fulfil.

Torch-free. Our own captions are read back exactly; free text is read as far as the words are known, and what
is not known is reported rather than guessed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from pipelines.worlds import grammar
from pipelines.worlds.grammar import Request
from pipelines.worlds.portrait import people
from pipelines.worlds.portrait import words as portrait_words

_EXPRESSION_OF = {word: value for value, texts in portrait_words._EXPRESSION_WORDS.items() for word in texts}
_GARMENTS = frozenset(("sweater", "top", "jumper", "shirt", "pullover"))
_PEOPLE = frozenset("person portrait man woman face head hair beard bearded clean-shaven glasses bun someone".split())
_NO = frozenset(("no", "without"))


@dataclass(frozen=True)
class PortraitRequest:
    """What a prompt asks of a portrait: attribute -> value for what is said, and the words that were not understood."""

    attributes: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((tuple(sorted(self.attributes.items())), self.unknown))


def read_portrait(text: str) -> PortraitRequest:
    """Read a portrait's attributes word by word; later words win where a text contradicts itself."""
    tokens = grammar.words(text)
    found: dict[str, str] = {}
    for place, token in enumerate(tokens):
        before = tokens[max(0, place - 3) : place]
        colour = next((word for word in reversed(before) if word in people.HAIR_COLOURS), None)
        if token in ("hair", "bun") or token == "haired":
            found |= {"hair_colour": colour} if colour else {}
            style = "bun" if token == "bun" else next((w for w in reversed(before) if w in people.HAIR_STYLES), None)
            found |= {"hair_style": style} if style else {}
        elif token in ("glasses", "beard"):
            found[token] = "no" if _NO & set(before[-2:]) else "yes"
        elif token in ("bearded", "clean-shaven"):
            found["beard"] = "yes" if token == "bearded" else "no"
        elif token in _EXPRESSION_OF:
            found["expression"] = _EXPRESSION_OF[token]
        elif token in _GARMENTS and before and before[-1] in people.CLOTHES:
            found["clothes"] = before[-1]
        elif token in ("background", "wall") and before and before[-1] in people.BACKGROUNDS:
            found["background"] = before[-1]
    known = {piece for word in portrait_words.vocabulary() for piece in (word, *word.split("-"))}
    known |= _PEOPLE | _GARMENTS | _NO | {"an", "the", "haired"}
    unknown = tuple(dict.fromkeys(token for token in tokens if token not in known))
    return PortraitRequest({name: found[name] for name in portrait_words.ATTRIBUTES if name in found}, unknown)


def read_prompt(text: str) -> Request | PortraitRequest:
    """Which world a prompt speaks of, and what it asks there."""
    tabletop = grammar.parse(text)
    if not tabletop.things and _PEOPLE & set(grammar.words(text)):
        return read_portrait(text)
    return tabletop


def surprise(seed: int) -> str:
    """A prompt that the embedded image model has the words for: one or two things, or now and then a portrait."""
    rng = random.Random(f"surprise {seed}")
    if rng.random() < 0.3:
        return portrait_words.caption(people.sample(rng.randrange(10**6)), rng)
    return grammar.phrase(grammar.random_request(rng, rng.choice((1, 2, 2))), rng)
