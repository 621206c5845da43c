"""What a visitor can ask: eleven kinds of question and request, worded without any hint of a concept.

Of every (kind, subject, action) one of the four wordings, picked by a hash, is never used in training: those are the
held-out questions. So each fact is learned, and each held-out question is new.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import random
from dataclasses import dataclass, replace

from pipelines.worlds.crumpet import world
from pipelines.worlds.crumpet.words import ENDS, display, tokenise

WORDINGS: dict[str, tuple[str, str, str, str]] = {
    "home": (
        "where does the {s} live ?",
        "in which place does the {s} live ?",
        "where is the home of the {s} ?",
        "where do i find the {s} ?",
    ),
    "food": (
        "what does the {s} eat ?",
        "what is the food of the {s} ?",
        "which food does the {s} eat ?",
        "what do i feed the {s} ?",
    ),
    "fear": (
        "what does the {s} fear ?",
        "what is the {s} afraid of ?",
        "of what is the {s} afraid ?",
        "which thing does the {s} fear ?",
    ),
    "work": (
        "where does {s} work ?",
        "in which place does {s} work ?",
        "where do i find {s} ?",
        "at which place is {s} busy ?",
    ),
    "ware": (
        "what does {s} sell ?",
        "which thing does {s} sell ?",
        "what do i buy from {s} ?",
        "what is it that {s} sells ?",
    ),
    "tune": (
        "what does {s} play ?",
        "which instrument does {s} play ?",
        "what is the instrument of {s} ?",
        "on what does {s} make music ?",
    ),
    "hours": (
        "when does the {s} open ?",
        "at what time does the {s} open ?",
        "when do i visit the {s} ?",
        "what are the hours of the {s} ?",
    ),
    "near": (
        "what is next to the {s} ?",
        "how do i find the {s} ?",
        "where is the {s} ?",
        "how do i get to the {s} ?",
    ),
    "ban": (
        "what is forbidden at the {s} ?",
        "what must i not do at the {s} ?",
        "which rule does the {s} have ?",
        "what does the {s} forbid ?",
    ),
    "about": (
        "tell me about {s} .",
        "what do you know about {s} ?",
        "say something about {s} .",
        "what is there to know about {s} ?",
    ),
    "request": (
        "may i {a} at the {s} ?",
        "help me {a} at the {s} .",
        "i want to {a} at the {s} .",
        "let me {a} at the {s} .",
    ),
}
"""Kind to its wordings; the first nine kinds ask for the attribute of the same name."""
KINDS = tuple(WORDINGS)
OPENINGS = ("", "hello there ,", "i am new here .", "a question :")


@dataclass(frozen=True)
class Question:
    """A question of the language. ``subject`` is an animal, a name or a place; only a request has an ``action``."""

    kind: str
    subject: str
    action: str | None = None
    wording: int = 0
    opening: str = ""
    ended: bool = True
    """Whether the question mark or full stop was written."""

    @property
    def text(self) -> str:
        """The question as tokens parted by spaces."""
        core = _core(self.kind, self.subject, self.action, self.wording)
        core = core if self.ended else core[:-2]
        return f"{self.opening} {core}" if self.opening else core

    @property
    def prompt(self) -> str:
        """The question as a page shows it."""
        return display(self.text)

    @property
    def held_out(self) -> bool:
        """Whether this wording is kept out of training."""
        return self.wording == held_out_wording(self.kind, self.subject, self.action)

    def asks_for(self, subject: str, attribute: str) -> bool:
        """Whether a statement of this fact answers the question."""
        return subject == self.subject and (self.kind in ("about", "request") or attribute == self.kind)


def _core(kind: str, subject: str, action: str | None, wording: int) -> str:
    name = f"the {subject}" if kind == "about" and subject not in world.PEOPLE else subject
    return WORDINGS[kind][wording].format(s=name, a=action)


@functools.cache
def held_out_wording(kind: str, subject: str, action: str | None) -> int:
    """The wording, 0 to 3, that training never uses for this kind, subject and action."""
    return hashlib.sha256(f"{kind} {subject} {action}".encode()).digest()[0] % 4


def _topics(kind: str) -> list[tuple[str, str | None]]:
    """Every (subject, action) that a kind can be asked of."""
    if kind == "request":
        return [(place, action) for place in world.PLACES for action in world.ACTIONS]
    subjects = world.SUBJECTS if kind == "about" else world.ATTRIBUTES[kind].subjects
    return [(subject, None) for subject in subjects]


TOPICS = {kind: _topics(kind) for kind in KINDS}


def every_question(held_out: bool | None = None) -> list[Question]:
    """Every question but for openings; only the held-out wordings, or only the others, if asked for."""
    found = [
        Question(kind, subject, action, wording)
        for kind in KINDS
        for subject, action in TOPICS[kind]
        for wording in range(4)
    ]
    return [question for question in found if held_out in (None, question.held_out)]


_QUESTION_OF = {tuple(question.text.split()[:-1]): question for question in every_question()}


def sample_question(rng: random.Random, held_out: bool = False) -> Question:
    """A question of a random kind, from training's wordings or from the held-out ones.

    Every second request is against the rules of its place; one question in ten of training lacks its end mark, as
    visitors' do.
    """
    kind = rng.choice(KINDS)
    subject, action = rng.choice(TOPICS[kind])
    if kind == "request" and rng.random() < 0.5:
        action = next(verb for verb in world.ACTIONS if world.against_the_rules(verb, subject))
    kept = held_out_wording(kind, subject, action)
    wording = kept if held_out else rng.choice([n for n in range(4) if n != kept])
    return Question(kind, subject, action, wording, rng.choice(OPENINGS), held_out or rng.random() >= 0.1)


def held_out_questions(seed: int, n: int) -> list[str]:
    """``n`` different questions, as a page shows them, in wordings that training never used for their subjects.

    Raises:
        ValueError: if ``n`` is more than the language holds.
    """
    most = len(OPENINGS) * sum(map(len, TOPICS.values()))
    if not 0 <= n <= most:
        raise ValueError(f"{n} held-out questions were asked for but the language has {most}: ask for fewer.")
    rng = random.Random(f"held-out {seed}")
    found: dict[str, None] = {}
    # A kind with few subjects runs out, so the tail of a long list is filled from all that is left.
    for _ in range(4 * n):
        if len(found) == n:
            break
        found.setdefault(sample_question(rng, held_out=True).prompt)
    rest = [replace(question, opening=opening).prompt for question in every_question(True) for opening in OPENINGS]
    rng.shuffle(rest)
    for prompt in rest:
        if len(found) == n:
            break
        found.setdefault(prompt)
    return list(found)


def read_question(text: str) -> Question | None:
    """The question that ``text`` asks, or None if it is none of the language; the end mark may be missing."""
    tokens = tokenise(text)
    ended = bool(tokens) and tokens[-1] in ENDS
    tokens = tokens[:-1] if ended else tokens
    for opening in sorted(OPENINGS, key=len, reverse=True):
        first = opening.split()
        if tokens[: len(first)] == first:
            found = _QUESTION_OF.get(tuple(tokens[len(first) :]))
            if found is not None:
                return replace(found, opening=opening, ended=ended)
    return None


def nearest_questions(text: str, count: int = 3) -> list[str]:
    """Questions of the language whose wording is nearest to ``text``, as a page shows them."""
    cores = {" ".join(core): question for core, question in _QUESTION_OF.items()}
    text = " ".join(token for token in tokenise(text[:200]) if token not in ENDS)
    return [cores[core].prompt for core in difflib.get_close_matches(text, cores, count, cutoff=0.4)]


def surprise(seed: int) -> str:
    """A question to try, as a page shows it."""
    return sample_question(random.Random(f"surprise {seed}"), held_out=True).prompt
