"""The micro-language of the small language model: conversations in Crumpet Bay, and reading them back. Torch-free.

A closed world of sixty facts (``world``), what visitors ask (``questions``), and replies by a speaker whose humour,
truthfulness, politeness, creativity, quality and compliance are on or off for a whole conversation and show in many
words of nearly every sentence (``language``). Questions never hint at any of them. :func:`parse` (``reading``) reads
every concept, every fact and the grammar back exactly, so that whatever guidance does can be measured without a judge.
"""

from __future__ import annotations

import functools
import random

from pipelines.worlds.crumpet import language, questions, world
from pipelines.worlds.crumpet import words as _words
from pipelines.worlds.crumpet.language import CONCEPTS, NOISE, Dialogue, random_traits, reply, sample_dialogue
from pipelines.worlds.crumpet.questions import (
    Question,
    held_out_questions,
    nearest_questions,
    read_question,
    sample_question,
    surprise,
)
from pipelines.worlds.crumpet.reading import Claim, Mark, Reading, parse
from pipelines.worlds.crumpet.words import BOS, BOT, EOS, PAD, SPECIAL, UNKNOWN, USER, display, tokenise

__all__ = [
    "BOS",
    "BOT",
    "CONCEPTS",
    "EOS",
    "EXAMPLES",
    "NOISE",
    "PAD",
    "SPECIAL",
    "UNKNOWN",
    "USER",
    "Claim",
    "Dialogue",
    "Mark",
    "Question",
    "Reading",
    "dialogue_tokens",
    "display",
    "held_out_questions",
    "labelled",
    "nearest_questions",
    "parse",
    "random_traits",
    "read_question",
    "reply",
    "sample_dialogue",
    "sample_question",
    "surprise",
    "tokenise",
    "unknown_words",
    "vocabulary",
]

EXAMPLES: tuple[str, ...] = (
    "What does the goat eat?",
    "Tell me about Mabel.",
    "May I yodel at the library?",
    "How do I get to the lighthouse?",
    "What is the parrot afraid of?",
    "Help me juggle at the harbour.",
)
"""Questions that the small model has the words for."""


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every token: the special ones first, then words and punctuation in order; a token's number is its place."""
    slots = [*language.SLOTS.values(), *language.VERBS.values()]
    found = {word for slot in slots for wording in (*slot.on, *slot.off) for word in wording}
    found |= {
        part for frames in language.FRAMES.values() for frame in frames for part in frame if isinstance(part, str)
    }
    found -= language.PLACEHOLDERS
    found |= {*world.SUBJECTS, *world.FACTS.values(), *world.PEOPLE.values(), *world.ACTIONS, "it", "at", "the"}
    found |= {word for question in questions.every_question() for word in question.text.split()}
    found |= {word for opening in questions.OPENINGS for word in opening.split()}
    return (*SPECIAL, *sorted(found))


def unknown_words(text: str, nearest: int = 3) -> dict[str, list[str]]:
    """The words of ``text`` that the model does not know, each with the known words that look most like it."""
    return _words.unknown_words(text, vocabulary(), nearest)


def dialogue_tokens(dialogue: Dialogue) -> tuple[list[str], list[bool]]:
    """The tokens of a conversation as the chat template writes them, and which of them the model has to write.

    ``<bos> <user> question <bot> reply <eos> <user> ...``; the model writes the replies and their ``<eos>``.
    """
    tokens, own = [BOS], [False]
    for question, answer in dialogue.turns:
        asked, said = [USER, *question.text.split(), BOT], [*answer.split(), EOS]
        tokens += asked + said
        own += [False] * len(asked) + [True] * len(said)
    return tokens, own


def labelled(concept: str, n: int, seed: int) -> list[dict[str, object]]:
    """``n`` examples of a concept in the official data format, for fitting probes; half with, half without it.

    Each has ``conversation_history`` (none to two earlier turns of the same speaker, as role and content), ``prompt``,
    ``completion`` and ``label`` (1 or 0). The other concepts are drawn at random, prompts do not hint at any, and only
    training's questions are asked.

    Raises:
        ValueError: for a concept that is none of :data:`CONCEPTS`, or fewer than two examples.
    """
    if concept not in CONCEPTS:
        raise ValueError(f"Concept {concept!r} is unknown: choose one of {', '.join(CONCEPTS)}.")
    if n < 2:
        raise ValueError(f"{n} examples were asked for but both labels need one: ask for two or more.")
    rng = random.Random(f"labelled {concept} {seed}")
    labels = [place % 2 for place in range(n)]
    rng.shuffle(labels)
    found: list[dict[str, object]] = []
    for label in labels:
        *history, (question, answer) = sample_dialogue(rng, {concept: bool(label)}).turns
        earlier = Dialogue({}, tuple(history)).messages()
        found.append(
            {
                "conversation_history": earlier,
                "prompt": question.prompt,
                "completion": display(answer),
                "label": label,
            }
        )
    return found
