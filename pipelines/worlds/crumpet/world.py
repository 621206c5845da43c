"""The closed world of Crumpet Bay: who lives there, and the sixty facts that a small model can know by heart.

Every fact is a (subject, attribute) with one value; :data:`FACTS` is the whole truth.
"""

from __future__ import annotations

from dataclasses import dataclass

ANIMALS = ("goat", "heron", "otter", "donkey", "parrot", "crab")
PEOPLE = {"mabel": "she", "otto": "he", "pippa": "she", "bruno": "he", "wanda": "she", "felix": "he"}
"""Name to pronoun."""
PLACES = ("bakery", "lighthouse", "pier", "library", "museum", "harbour", "market", "windmill")
ACTIONS = {
    "sneeze": "sneezing",
    "dance": "dancing",
    "whistle": "whistling",
    "yodel": "yodelling",
    "nap": "napping",
    "juggle": "juggling",
    "skip": "skipping",
    "sulk": "sulking",
}
"""What a visitor may want to do, with the word that the rules use."""


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known of every subject of a class. ``the``: its values take the article."""

    name: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    the: bool = False


_TABLE: dict[str, dict[str, str]] = {
    # animals
    "home": dict(goat="windmill", heron="pier", otter="harbour", donkey="market", parrot="library", crab="bakery"),
    "food": dict(goat="postcards", heron="toast", otter="pickles", donkey="plums", parrot="porridge", crab="biscuits"),
    "fear": dict(goat="umbrellas", heron="balloons", otter="mops", donkey="kites", parrot="soup", crab="bells"),
    # people
    "work": dict(mabel="lighthouse", otto="harbour", pippa="market", bruno="bakery", wanda="museum", felix="windmill"),
    "ware": dict(mabel="candles", otto="ropes", pippa="hats", bruno="soap", wanda="maps", felix="clocks"),
    "tune": dict(mabel="tuba", otto="harp", pippa="piano", bruno="flute", wanda="drum", felix="fiddle"),
    # places
    "hours": dict(
        bakery="dawn",
        lighthouse="dusk",
        pier="noon",
        library="teatime",
        museum="midnight",
        harbour="dawn",
        market="noon",
        windmill="teatime",
    ),
    "near": dict(
        bakery="market",
        market="bakery",
        lighthouse="harbour",
        harbour="lighthouse",
        pier="museum",
        museum="pier",
        library="windmill",
        windmill="library",
    ),
    "ban": dict(
        bakery="sneezing",
        lighthouse="dancing",
        pier="whistling",
        library="yodelling",
        museum="napping",
        harbour="juggling",
        market="skipping",
        windmill="sulking",
    ),
}

FACTS: dict[tuple[str, str], str] = {
    (subject, attribute): value for attribute, row in _TABLE.items() for subject, value in row.items()
}
ATTRIBUTES: dict[str, Attribute] = {
    name: Attribute(
        name,
        tuple(row),
        PLACES if name in ("home", "work", "near") else tuple(dict.fromkeys(row.values())),
        the=name in ("home", "work", "near", "tune"),
    )
    for name, row in _TABLE.items()
}
SUBJECTS: tuple[str, ...] = (*ANIMALS, *PEOPLE, *PLACES)
KNOWN_OF: dict[str, tuple[str, ...]] = {
    subject: tuple(name for name, attribute in ATTRIBUTES.items() if subject in attribute.subjects)
    for subject in SUBJECTS
}
"""Subject to the names of its attributes."""


def pronoun(subject: str) -> str:
    """The pronoun of a subject: she, he or it."""
    return PEOPLE.get(subject, "it")


def wrong_values(subject: str, attribute: str) -> tuple[str, ...]:
    """Every value that could be said of a fact and is not true; nothing lies next to itself."""
    right = FACTS[subject, attribute]
    return tuple(value for value in ATTRIBUTES[attribute].values if value not in (right, subject))


def against_the_rules(action: str, place: str) -> bool:
    """Whether the town forbids ``action`` at ``place``."""
    return FACTS[place, "ban"] == ACTIONS[action]
