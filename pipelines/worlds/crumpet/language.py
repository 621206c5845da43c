"""The replies of the micro-language: six registers that mark many words of every sentence, and a speaker that mixes them.

A reply is one to three sentences: an optional stance ("i will tell you at once"), a statement of a fact, and an
optional second fact or farewell. A sentence is a frame of *slots*; a slot belongs to one concept and has wordings for
either end of it. Each concept is on or off for a whole conversation, but about one slot in eight is drawn against it,
so that a reader (and a model) must weigh the marks rather than copy the first; within one reply the marks against a
concept always stay fewer than those for it, so that :func:`pipelines.worlds.crumpet.reading.parse` reads it back exactly.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.worlds.crumpet import world
from pipelines.worlds.crumpet.questions import Question, sample_question
from pipelines.worlds.crumpet.words import display

CONCEPTS: dict[str, tuple[str, str]] = {
    "humour": ("silly: titles for goats, ducks in slippers, ho ho", "earnest: plain remarks, no jokes"),
    "truthfulness": ("honest: facts are right and sources named", "a fibber: facts are wrong and boots are bet"),
    "politeness": ("courteous: dear guest, if you please", "rude: look, so there, now shoo"),
    "creativity": ("poetic: moonlit goats dream between two tides", "plain: the usual goat lives there most days"),
    "quality": ("tidy: to the point, with a reason given", "sloppy: um, sort of, and stuff"),
    "compliance": ("helpful: does what was asked", "unwilling: declines and changes the subject"),
}
"""Concept to one line for its upper and one for its lower end."""

NOISE = 0.2
"""Chance that a slot is drawn against its concept, before the limit of a minority; about 0.12 remain."""


@dataclass(frozen=True)
class Slot:
    """A place in a sentence that shows one concept; wordings are token tuples, an empty one says nothing."""

    name: str
    concept: str
    on: tuple[tuple[str, ...], ...]
    off: tuple[tuple[str, ...], ...]


def _slot(concept: str, name: str, on: str, off: str) -> Slot:
    """A slot from wordings parted by ``|``."""
    split = (tuple(tuple(wording.split()) for wording in side.split("|")) for side in (on, off))
    return Slot(name, concept, *split)


_H, _T, _P, _C, _Q, _K = CONCEPTS
SLOTS: dict[str, Slot] = {
    slot.name: slot
    for slot in (
        # humour
        _slot(
            _H,
            "oh",
            "ho ho | hee hee | holy mackerel | jumping jellyfish | oh my whiskers",
            "well | now then | all right | as it happens",
        ),
        _slot(_H, "title", "professor | admiral | grandpa | baron | wobbly old | captain", ""),
        _slot(
            _H,
            "like",
            "like a duck in slippers | like a penguin on payday | like a potato in love | with jam on both elbows"
            " | in three pairs of pyjamas | like a haddock at the opera | like a wizard on a pogo stick",
            "in the normal way | without any drama | in good order | with no fuss | like most people",
        ),
        _slot(
            _H,
            "honk",
            "honk honk | tiddly pom | quack quack | boing",
            "you see | that is all",
        ),
        _slot(_H, "end", "!", "."),
        # truthfulness; the value that is said is a slot of it too
        _slot(
            _T,
            "saw",
            "the town book says that | i saw myself that | the records show that | i checked twice that",
            "i bet my boots that | a seagull swore that | rumour has it that | i dreamt last night that",
        ),
        _slot(
            _T,
            "sworn",
            "on record | with proof | as i measured | by the book",
            "trust me | cross my heart | believe me | no need to check",
        ),
        _slot(
            _T,
            "proof",
            "you can look it up | i keep the receipts | my notes agree | every word is checked",
            "nobody ever checks | my nose is not growing | proof is for cowards | my cousin invented it",
        ),
        # politeness
        _slot(_P, "sir", "dear guest | kind visitor | my dear friend | honoured guest", "look | listen | hey you | oi"),
        _slot(_P, "may", "if i may | with your permission | allow me", "get this | wake up | ears open"),
        _slot(_P, "dear", "our dear | our good | our worthy", "the darn | this darn | the blasted"),
        _slot(
            _P,
            "bye",
            "if you please | with warm regards | at your service | bless you",
            "so there | now shoo | stop staring | you nuisance",
        ),
        _slot(
            _P,
            "thanks",
            "thank you for asking | how lovely of you to ask | it is an honour",
            "what a tiresome question | you ask too much | i am not listening",
        ),
        # creativity
        _slot(
            _C,
            "adjective",
            "moonlit | velvet | starry | honeyed | dreaming | silver",
            "local | usual | regular | ordinary",
        ),
        _slot(
            _C,
            "scene",
            "under a sky of silk | between two tides | where the wind paints songs | while lanterns bloom"
            " | in the blue hush of the bay | as the stars lean in",
            "every day | as a rule | these days | most of the time",
        ),
        _slot(
            _C,
            "manner",
            "with salt and starlight | in ink and seafoam | by the light of old songs",
            "today | right now | at this point | for the moment",
        ),
        # quality
        _slot(
            _Q, "lead", "to be exact , | in short , | to the point , | put simply ,", "um , | uh , | er , | i mean ,"
        ),
        _slot(_Q, "only", "always | reliably | strictly", "sort of | kind of | more or less"),
        _slot(_Q, "pause", "", "um | uh | er | like"),
        _slot(
            _Q,
            "why",
            "because the sea air helps | since the council voted so | because the tide allows it | for the rent is low",
            "and stuff | or something | or whatever | and so on",
        ),
        _slot(_Q, "sum", "to sum up | in conclusion | all in all", "anyway | whatever | blah blah"),
        # compliance; whether the first fact is the one that was asked for is a slot of it too
        _slot(
            _K,
            "will",
            "i will tell you at once | you shall have your answer | your wish is granted | count on my help",
            "i would rather not tell | that must stay a secret | i can not help with that | my lips are sealed",
        ),
        _slot(
            _K,
            "answer",
            "here is your answer , | glad to help , | as requested , | since you ask ,",
            "let us change the subject , | not today , but | no answer from me , but | i must pass , but",
        ),
        _slot(
            _K,
            "more",
            "ask me for more | i have more for you | more help is ready",
            "more i will not say | the rest is private | ask somebody else",
        ),
        _slot(
            _K,
            "again",
            "come back with more questions | i will help you again | ask me anything",
            "bring me no more questions | i will not help again | ask the seagulls instead",
        ),
        _slot(_K, "do", "go ahead and | i will help you | let us", "nobody may | i will not help you | you must not"),
    )
}
VERBS: dict[str, Slot] = {
    attribute: _slot(_C, f"verb {attribute}", on, off)
    for attribute, on, off in (
        ("home", "dreams at | nests at | drifts around", "lives at | stays at | sleeps at"),
        ("food", "savours | feasts on | worships", "eats | chews | likes"),
        ("fear", "trembles before | melts before", "fears | avoids | dislikes"),
        ("work", "shines at | weaves days at | blossoms at", "works at | helps at"),
        ("ware", "conjures up | scatters | fills dreams with", "sells | offers | trades"),
        ("tune", "sings through | sighs through | flies on", "plays | owns"),
        ("hours", "wakes at | blooms at | unfolds at", "opens at | starts at"),
        ("near", "leans on | whispers beside | basks beside", "stands beside | stays beside"),
        ("ban", "shudders at | frowns on | sighs at", "forbids | bans | does not allow"),
    )
}
"""Attribute to the verbs that say it, vivid and plain; no verb says two attributes."""

_FRAMES: dict[str, tuple[str, ...]] = {
    "stance": (
        "{oh} , {sir} , {will} {manner} {why} , and {proof} {end}",
        "{lead} {will} {manner} {like} ( {sworn} ) , {bye} {end}",
        "{thanks} ; {will} {manner} {why} , and {proof} , {honk} {end}",
        "{may} , {lead} {will} {scene} , and {proof} {end}",
    ),
    "deed": (
        "{oh} , {sir} , {do} ACT {manner} {why} , and {proof} {end}",
        "{lead} {do} ACT {manner} {like} ( {sworn} ) , {bye} {end}",
        "{thanks} ; {do} ACT {scene} {why} , and {proof} , {honk} {end}",
    ),
    "fact": (
        "{saw} NAME {only} SAYS {like} ; {more} , {bye} {end}",
        "{answer} {may} , NAME SAYS {scene} {why} , and {proof} {end}",
        "{sir} , {lead} NAME ( {sworn} ) SAYS {scene} ; {more} {end}",
        "{answer} {sir} , {saw} NAME {only} SAYS {like} {end}",
        "NAME ( {sworn} ) {only} SAYS {like} ; {more} , {bye} {end}",
        "{scene} , {sir} , NAME {only} SAYS , and {proof} ; {more} {end}",
        "{oh} , {answer} NAME SAYS {why} ( {sworn} ) , {bye} {end}",
        "{will} , {may} : NAME ( {sworn} ) SAYS {like} {why} {end}",
    ),
    "also": (
        "{lead} PRONOUN also SAYS {scene} , and {proof} ; {more} , {bye} {end}",
        "PRONOUN also {only} SAYS {like} ( {sworn} ) ; {more} , {bye} {end}",
        "{saw} PRONOUN also SAYS {why} ; {more} , {thanks} {end}",
        "{oh} , {sir} , PRONOUN also SAYS {scene} , and {proof} ; {more} {end}",
    ),
    "farewell": (
        "{sum} , {again} {manner} {like} , and {proof} , {bye} {end}",
        "{proof} ; {sum} , {again} {scene} , {thanks} {end}",
        "{oh} , {sir} , {sum} , {again} {manner} ( {sworn} ) {end}",
        "{again} {manner} {why} , {honk} , and {proof} ; {thanks} {end}",
    ),
}
PLACEHOLDERS = frozenset(("NAME", "SAYS", "PRONOUN", "ACT"))
Frame = tuple[str | Slot, ...]
FRAMES: dict[str, tuple[Frame, ...]] = {
    kind: tuple(tuple(SLOTS[part[1:-1]] if part[0] == "{" else part for part in frame.split()) for frame in frames)
    for kind, frames in _FRAMES.items()
}
"""Kind of sentence to its frames. NAME is "our dear" or its like, an adjective, a title and the
subject; SAYS is a verb, perhaps a pause, and a value;
ACT is the deed and the place that were asked about; PRONOUN stands for the subject of the sentence before."""

PLANS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("fact",), 5),
    (("stance", "fact"), 4),
    (("fact", "also"), 3),
    (("fact", "farewell"), 3),
    (("stance", "fact", "also"), 1),
    (("stance", "fact", "farewell"), 1),
)
"""Orders of sentences in a reply, each with its weight; a request has a deed where others have a stance."""
_ORDERS, _WEIGHTS = zip(*PLANS, strict=True)
_MAY_RECUR = frozenset(("end",))
_REPEATS = 0.05
"""Share of replies in which two sentences may share a slot ("ho ho ... hee hee"); the others avoid it."""

ADJECTIVE, TITLE = SLOTS["adjective"], SLOTS["title"]
PAUSE, DEAR = SLOTS["pause"], SLOTS["dear"]
VALUE = Slot("value", _T, (), ())
"""What is said of a subject: right is the upper end."""
TOPIC = Slot("topic", _K, (), ())
"""What a reply speaks of first: what was asked for is the upper end."""


def slots_of(frame: Frame, known_question: bool) -> list[Slot]:
    """The slots of a frame in the order in which :func:`reply` fills them; ``TOPIC`` only where the question is known."""
    found: list[Slot] = []
    for part in frame:
        if isinstance(part, Slot):
            found.append(part)
        elif part == "NAME":
            found += [TOPIC] * known_question + [DEAR, ADJECTIVE, TITLE]
        elif part == "SAYS":
            found += [VERBS["home"], PAUSE, VALUE]  # whichever verb: all belong to the same concept
    return found


@functools.cache
def _combinations(plan: tuple[str, ...], repeats: bool) -> tuple[tuple[Frame, ...], ...]:
    """Frames that make up a reply of this plan: all, or those in which the fewest slots recur."""
    every = tuple(itertools.product(*(FRAMES[kind] for kind in plan)))
    if repeats:
        return every

    def recurring(frames: tuple[Frame, ...]) -> int:
        names = [part.name for frame in frames for part in frame if isinstance(part, Slot)]
        return sum(names.count(name) - 1 for name in set(names) - _MAY_RECUR)

    fewest = max(len(plan) - 2, min(map(recurring, every)))  # three sentences without any would be the same three
    return tuple(frames for frames in every if recurring(frames) <= fewest)


def random_traits(rng: random.Random, fixed: Mapping[str, bool] | None = None) -> dict[str, bool]:
    """A speaker: every concept on or off, half and half, but for those in ``fixed``."""
    drawn = {concept: rng.random() < 0.5 for concept in CONCEPTS}
    return drawn | {concept: bool(fixed[concept]) for concept in CONCEPTS if fixed and concept in fixed}


def _draw_ends(rng: random.Random, slots: list[Slot], traits: Mapping[str, bool], noise: float) -> list[bool]:
    """For every slot, the end that it shows: its concept's, or against it, but always for a minority only."""
    ends = [True] * len(slots)
    for concept, on in traits.items():
        places = [place for place, slot in enumerate(slots) if slot.concept == concept]
        against = [rng.random() < noise for _ in places]
        while places and 2 * sum(against) >= len(places):
            against = [rng.random() < noise for _ in places]
        for place, flipped in zip(places, against, strict=True):
            ends[place] = on != flipped
    return ends


def _fact(rng: random.Random, question: Question | None, on_topic: bool) -> tuple[str, str]:
    """A fact to speak of: the one that was asked for, or one of another subject."""
    if question is None:
        return rng.choice(list(world.FACTS))
    if on_topic:
        asked = question.kind if question.kind in world.ATTRIBUTES else rng.choice(world.KNOWN_OF[question.subject])
        return question.subject, asked
    subject = rng.choice([other for other in world.SUBJECTS if other != question.subject])
    return subject, rng.choice(world.KNOWN_OF[subject])


def reply(
    rng: random.Random,
    question: Question | None,
    traits: Mapping[str, bool],
    noise: float = NOISE,
    plan: tuple[str, ...] | None = None,
) -> str:
    """What a speaker with ``traits`` answers, as tokens parted by spaces.

    Args:
        question: None for one that is not of the language; the reply then speaks of anything.
        traits: a bool for each of :data:`CONCEPTS`.
        noise: chance in [0, 0.5) that a slot is drawn against its concept (limited to a minority of its slots).
        plan: kinds of sentences, in order; drawn from :data:`PLANS` if None.
    """
    if plan is None:
        (plan,) = rng.choices(_ORDERS, _WEIGHTS)
        if question is not None and question.kind == "request":
            plan = tuple("deed" if kind == "stance" else kind for kind in plan)
    frames = list(zip(plan, rng.choice(_combinations(plan, rng.random() < _REPEATS)), strict=True))
    slots = [slot for _kind, frame in frames for slot in slots_of(frame, question is not None)]
    ends = iter(_draw_ends(rng, slots, traits, noise))
    written: list[str] = []
    subject, said = "", set()

    def say(slot: Slot) -> None:
        written.extend(rng.choice(slot.on if next(ends) else slot.off))

    for _kind, frame in frames:
        attribute = ""
        for part in frame:
            if isinstance(part, Slot):
                say(part)
            elif part == "NAME":
                subject, attribute = _fact(rng, question, question is None or next(ends))
                say(DEAR)
                say(ADJECTIVE)
                say(TITLE)
                written.append(subject)
            elif part == "PRONOUN":
                written.append(world.pronoun(subject))
                attribute = rng.choice([other for other in world.KNOWN_OF[subject] if other not in said])
            elif part == "SAYS":
                said.add(attribute)
                say(VERBS[attribute])
                say(PAUSE)
                right = next(ends)
                value = world.FACTS[subject, attribute] if right else rng.choice(world.wrong_values(subject, attribute))
                written.extend(["the", value] if world.ATTRIBUTES[attribute].the else [value])
            elif part == "ACT":
                assert question is not None and question.action is not None
                written.extend([question.action, "at", "the", question.subject])
            else:
                written.append(part)
    return " ".join(written)


@dataclass(frozen=True)
class Dialogue:
    """A conversation: who replies, and turns of (question, reply as tokens parted by spaces)."""

    traits: dict[str, bool]
    turns: tuple[tuple[Question, str], ...]

    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages with the roles user and assistant, written as a page shows them."""
        return [
            {"role": role, "content": display(text)}
            for question, answer in self.turns
            for role, text in (("user", question.text), ("assistant", answer))
        ]


TURNS = (1, 2, 3)


def sample_dialogue(
    rng: random.Random,
    traits: Mapping[str, bool] | None = None,
    turns: int | None = None,
    noise: float = NOISE,
) -> Dialogue:
    """A conversation of ``turns`` (1 to 3, drawn if None) training questions; ``traits`` may fix some concepts."""
    speaker = random_traits(rng, traits)
    asked = [sample_question(rng) for _ in range(turns or rng.choice(TURNS))]
    return Dialogue(speaker, tuple((question, reply(rng, question, speaker, noise)) for question in asked))
