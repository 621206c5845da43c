"""Reading replies back: which concept each word shows, whether the facts are right, whether the text is of the language.

:func:`parse` follows the frames of ``language`` word by word and accepts exactly what they can write; where a sentence
leaves them, it says at which word and what was wanted. Sentences that are whole are read even if another is broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.worlds.crumpet import world
from pipelines.worlds.crumpet.language import (
    ADJECTIVE,
    CONCEPTS,
    DEAR,
    FRAMES,
    PAUSE,
    PLANS,
    TITLE,
    TOPIC,
    VALUE,
    VERBS,
    Slot,
)
from pipelines.worlds.crumpet.questions import Question, read_question
from pipelines.worlds.crumpet.words import SPECIAL, tokenise


@dataclass(frozen=True)
class Mark:
    """Tokens ``start`` to ``end`` (exclusive) of a reply show a concept's upper end (``on``) or its lower one.

    A slot that shows its end by saying nothing (no title, no "um") has ``start == end``.
    """

    concept: str
    slot: str
    on: bool
    start: int
    end: int


@dataclass(frozen=True)
class Claim:
    """A fact that was said; ``answers`` is None where the question is not known."""

    subject: str
    attribute: str
    value: str
    right: bool
    answers: bool | None


@dataclass(frozen=True)
class Reading:
    """What a reply says and how. Rates are shares of marked slots that show the upper end, None where none was shown.

    ``position`` is the number of the first token that does not fit (from 0), ``reason`` says in words what is wrong.
    """

    grammatical: bool
    reason: str | None
    position: int | None
    tokens: tuple[str, ...]
    marks: tuple[Mark, ...]
    claims: tuple[Claim, ...]
    rates: dict[str, float | None]
    traits: dict[str, bool | None]
    """On above one half, off below, None at one half or where nothing was shown."""

    @property
    def facts_right(self) -> bool | None:
        """Whether every fact is right; None if none was said."""
        return all(claim.right for claim in self.claims) if self.claims else None


@dataclass(frozen=True)
class _Name:
    """The place of a subject."""


@dataclass(frozen=True)
class _Verb:
    """The place of the verb that says an attribute."""


@dataclass(frozen=True)
class _Value:
    """The place of what is said of it."""


@dataclass(frozen=True)
class _Pronoun:
    """The place of she, he or it."""


@dataclass(frozen=True)
class _Act:
    """The place of the deed and the place that were asked about."""


_Part = str | Slot | _Name | _Verb | _Value | _Pronoun | _Act
_EXPANDED: dict[str, tuple[_Part, ...]] = {
    "NAME": (DEAR, ADJECTIVE, TITLE, _Name()),
    "SAYS": (_Verb(), PAUSE, _Value()),
    "PRONOUN": (_Pronoun(),),
    "ACT": (_Act(),),
}


def _expand(frame: tuple[str | Slot, ...]) -> tuple[_Part, ...]:
    return tuple(
        piece for part in frame for piece in (_EXPANDED.get(part, (part,)) if isinstance(part, str) else (part,))
    )


_SENTENCES = [(kind, _expand(frame)) for kind, frames in FRAMES.items() for frame in frames]


def _by_first_word(slot: Slot) -> dict[str | None, list[tuple[tuple[str, ...], bool]]]:
    """The wordings of a slot by their first word; the empty one under None."""
    table: dict[str | None, list[tuple[tuple[str, ...], bool]]] = {}
    for on in (True, False):
        for wording in slot.on if on else slot.off:
            table.setdefault(wording[0] if wording else None, []).append((wording, on))
    return table


_WORDINGS = {slot: _by_first_word(slot) for _, parts in _SENTENCES for slot in parts if isinstance(slot, Slot)}
_VERB_WORDINGS: dict[str, list[tuple[str, tuple[str, ...], bool]]] = {}
for _attribute, _verb in VERBS.items():
    for _first, _entries in _by_first_word(_verb).items():
        assert _first is not None
        _VERB_WORDINGS.setdefault(_first, []).extend((_attribute, wording, on) for wording, on in _entries)
_PRONOUNS = frozenset(map(world.pronoun, world.SUBJECTS))


@dataclass(frozen=True)
class _Found:
    """A sentence as read: subject (or pronoun), attribute, value and deed with their first tokens, and its marks."""

    kind: str = ""
    marks: tuple[Mark, ...] = ()
    subject: tuple[str, int] | None = None
    pronoun: tuple[str, int] | None = None
    attribute: tuple[str, int] | None = None
    value: tuple[str, int, int] | None = None
    act: tuple[str, str, int] | None = None


@dataclass
class _Reader:
    """Follows frames over ``tokens`` and remembers how far any of them came, and what it wanted there."""

    tokens: list[str]
    furthest: int = 0
    wanted: set[str] = field(default_factory=set)

    def fail(self, place: int, wanted: str) -> None:
        if place > self.furthest:
            self.furthest, self.wanted = place, set()
        if place == self.furthest:
            self.wanted.add(wanted)

    def says(self, wording: tuple[str, ...], place: int) -> bool:
        """Whether the tokens at ``place`` are this wording."""
        for offset, word in enumerate(wording):
            if place + offset >= len(self.tokens) or self.tokens[place + offset] != word:
                self.fail(place + offset, word)
                return False
        return True

    def follow(self, parts: tuple[_Part, ...], number: int, place: int, found: _Found) -> Iterator[_Found]:
        """Every way in which ``parts[number:]`` can be read from ``place`` to the end of the tokens."""
        if number == len(parts):
            if place == len(self.tokens):
                yield found
            else:
                self.fail(place, "the end")
            return
        for after, more in self.step(parts[number], place, found):
            yield from self.follow(parts, number + 1, after, more)

    def step(self, part: _Part, place: int, found: _Found) -> Iterator[tuple[int, _Found]]:
        """Every way in which one part can be read at ``place``, with the place after it."""
        word = self.tokens[place] if place < len(self.tokens) else None
        if isinstance(part, str):
            if word == part:
                yield place + 1, found
            else:
                self.fail(place, part)
        elif isinstance(part, Slot):
            table = _WORDINGS[part]
            for wording, on in (*(table.get(word, ()) if word else ()), *table.get(None, ())):
                if self.says(wording, place):
                    yield place + len(wording), _marked(found, part, on, place, place + len(wording))
            if None not in table and word not in table:
                for first in table:
                    self.fail(place, str(first))
        elif isinstance(part, _Name):
            if word in world.KNOWN_OF:
                yield place + 1, _with(found, subject=(word, place))
            else:
                self.fail(place, "a neighbour or a place of the town")
        elif isinstance(part, _Pronoun):
            if word in _PRONOUNS:
                yield place + 1, _with(found, pronoun=(word, place))
            else:
                self.fail(place, "she, he or it")
        elif isinstance(part, _Verb):
            yield from self.verb(place, word, found)
        elif isinstance(part, _Value):
            yield from self.value(place, found)
        else:
            yield from self.act(place, found)

    def verb(self, place: int, word: str | None, found: _Found) -> Iterator[tuple[int, _Found]]:
        for attribute, wording, on in _VERB_WORDINGS.get(word or "", ()):
            known = found.subject is None or attribute in world.KNOWN_OF[found.subject[0]]
            if known and self.says(wording, place):
                after = place + len(wording)
                yield after, _with(_marked(found, VERBS[attribute], on, place, after), attribute=(attribute, place))
        self.fail(place, f"something that {found.subject[0] if found.subject else 'they'} can do")

    def value(self, place: int, found: _Found) -> Iterator[tuple[int, _Found]]:
        assert found.attribute is not None
        attribute = world.ATTRIBUTES[found.attribute[0]]
        if attribute.the and not self.says(("the",), place):
            return
        at = place + attribute.the
        value = self.tokens[at] if at < len(self.tokens) else None
        if value not in attribute.values:
            self.fail(at, f"one of {', '.join(attribute.values)}")
        elif found.subject and value == found.subject[0]:
            self.fail(at, f"another place than the {value}")
        else:
            yield at + 1, _with(found, value=(value, place, at + 1))

    def act(self, place: int, found: _Found) -> Iterator[tuple[int, _Found]]:
        action = self.tokens[place] if place < len(self.tokens) else None
        if action not in world.ACTIONS:
            self.fail(place, "a deed")
        elif self.says(("at", "the"), place + 1):
            where = self.tokens[place + 3] if place + 3 < len(self.tokens) else None
            if where in world.PLACES:
                yield place + 4, _with(found, act=(action, where, place))
            else:
                self.fail(place + 3, "a place of the town")


def _with(found: _Found, **news: object) -> _Found:
    return _Found(**{**found.__dict__, **news})


def _marked(found: _Found, slot: Slot, on: bool, start: int, end: int) -> _Found:
    return _with(found, marks=(*found.marks, Mark(slot.concept, slot.name, on, start, end)))


def _read_sentence(sentence: list[str], start: int) -> tuple[_Found | None, tuple[int, str] | None]:
    """The sentence as read, or where (in the whole reply) and why it cannot be."""
    reader = _Reader(sentence)
    for kind, parts in _SENTENCES:
        for found in reader.follow(parts, 0, 0, _Found(kind)):
            return found, None
    wanted = sorted(reader.wanted)
    shown = ", ".join(wanted[:4]) + (" or another opening" if len(wanted) > 4 and not reader.furthest else "")
    shown += ", ..." if len(wanted) > 4 and reader.furthest else ""
    if reader.furthest >= len(sentence):
        return None, (start + reader.furthest, f"the reply ends where {shown} was wanted")
    return None, (start + reader.furthest, f'"{sentence[reader.furthest]}" stands where {shown} was wanted')


def _split(tokens: list[str]) -> list[tuple[int, list[str]]]:
    """Sentences with their first places; each ends with its mark, the last perhaps without."""
    found, start = [], 0
    for place, token in enumerate(tokens):
        if token in (".", "!"):
            found.append((start, tokens[start : place + 1]))
            start = place + 1
    return found + ([(start, tokens[start:])] if start < len(tokens) else [])


_PLAIN = {plan for plan, _weight in PLANS}
_DEEDS = {tuple("deed" if kind == "stance" else kind for kind in plan) for plan in _PLAIN}


@dataclass
class _Story:
    """A reply as it is read sentence by sentence: what was said so far, and what does not fit together."""

    question: Question | None
    kinds: tuple[str, ...] = ()
    subject: str | None = None
    said: set[str] = field(default_factory=set)
    marks: list[Mark] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)

    @property
    def orders(self) -> set[tuple[str, ...]]:
        """The orders of kinds of sentences that a reply to the question may have."""
        if self.question is None:
            return _PLAIN | _DEEDS
        return _DEEDS if self.question.kind == "request" else _PLAIN

    def hear(self, found: _Found, start: int) -> None:
        """Take in a sentence of the language whose first token is number ``start``."""
        self.kinds += (found.kind,)
        if not self.faults and not any(self.kinds == order[: len(self.kinds)] for order in self.orders):
            self.faults.append((start, f"a {found.kind} cannot stand here"))
        self.marks += [Mark(m.concept, m.slot, m.on, m.start + start, m.end + start) for m in found.marks]
        if found.act and self.question and found.act[:2] != (self.question.action, self.question.subject):
            self.faults.append((start + found.act[2], "another deed than the one that was asked about"))
        if found.subject:
            self.subject, self.said = found.subject[0], set()
        if found.attribute and found.value and self.subject:
            self.hear_fact(found, start, self.subject, found.attribute[0], found.value)

    def hear_fact(self, found: _Found, start: int, subject: str, attribute: str, value: tuple[str, int, int]) -> None:
        assert found.attribute is not None
        said, first, last = value
        answers = self.question.asks_for(subject, attribute) if self.question else None
        if found.subject and answers is not None:
            place = start + found.subject[1]
            self.marks.append(Mark(TOPIC.concept, TOPIC.name, answers, place, place + 1))
        if found.pronoun and found.pronoun[0] != world.pronoun(subject):
            wrong, place = found.pronoun
            self.faults.append((start + place, f'"{wrong}" stands where {world.pronoun(subject)} was wanted'))
        elif attribute not in world.KNOWN_OF[subject]:
            self.faults.append((start + found.attribute[1], f"nothing that {subject} can do"))
        elif attribute in self.said:
            self.faults.append((start + found.attribute[1], "this was said before"))
        elif said == subject:
            self.faults.append((start + last - 1, f"another place than the {said} was wanted"))
        else:
            right = world.FACTS[subject, attribute] == said
            self.claims.append(Claim(subject, attribute, said, right, answers))
            self.marks.append(Mark(VALUE.concept, VALUE.name, right, start + first, start + last))
            self.said.add(attribute)


def parse(reply: str, question: Question | str | None = None) -> Reading:
    """Read a reply back, as tokens or as a page shows it.

    Args:
        reply: the text; special tokens at its ends are dropped.
        question: what was asked, for whether the reply answers it; None, or a text that is no question of the
            language, leaves that open.
    """
    tokens = tokenise(reply)
    while tokens and tokens[-1] in SPECIAL:
        tokens.pop()
    while tokens and tokens[0] in SPECIAL:
        tokens.pop(0)
    story = _Story(read_question(question) if isinstance(question, str) else question)
    for start, sentence in _split(tokens):
        found, fault = _read_sentence(sentence, start)
        if found is not None:
            story.hear(found, start)
        else:
            assert fault is not None
            story.kinds += ("broken",)
            story.faults.append(fault)
    if not tokens:
        story.faults.append((0, "the reply is empty"))
    elif not story.faults and story.kinds not in story.orders:
        story.faults.append((len(tokens), "the reply ends before it has said a fact"))
    position, reason = min(story.faults) if story.faults else (None, None)
    marks = tuple(sorted(story.marks, key=lambda mark: (mark.start, mark.end)))
    rates = _rates(marks)
    traits = {name: None if rate is None or rate == 0.5 else rate > 0.5 for name, rate in rates.items()}
    return Reading(not story.faults, reason, position, tuple(tokens), marks, tuple(story.claims), rates, traits)


def _rates(marks: tuple[Mark, ...]) -> dict[str, float | None]:
    shown = {concept: [mark.on for mark in marks if mark.concept == concept] for concept in CONCEPTS}
    return {concept: sum(ends) / len(ends) if ends else None for concept, ends in shown.items()}
