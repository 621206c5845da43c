"""Text of the micro-language: tokens, and the same words the way a page shows them.

Inside, a text is lower-case words and punctuation parted by spaces ("dear guest , the goat eats toast ."); on the
page it has capitals and the usual spacing. :func:`tokenise` reads both, :func:`display` writes the second.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pipelines.worlds.crumpet import world

BOS, EOS, USER, BOT, UNKNOWN, PAD = SPECIAL = ("<bos>", "<eos>", "<user>", "<bot>", "<unk>", "<pad>")
"""Special tokens; their numbers in the model are their places in ``vocabulary()``."""
ENDS = (".", "!", "?")
PATTERN = r"<[a-z]+>|[a-z]+(?:'[a-z]+)*|[0-9]+|[^\sa-z0-9]"
"""A token of a lower-case text; the model's tokenizer splits by the same expression."""

_TOKEN = re.compile(PATTERN)
_CAPITALS = {"i": "I"} | {name: name.capitalize() for name in world.PEOPLE}
_NO_SPACE_BEFORE = frozenset((",", ":", ";", ")", *ENDS))


def tokenise(text: str) -> list[str]:
    """Lower-case words and single punctuation marks of ``text``; special tokens stay whole."""
    return _TOKEN.findall(text.lower())


def display(text: str | Iterable[str]) -> str:
    """Words as a reader expects them: capital letters, no space before a comma. Special tokens are dropped.

    Takes a text or a list of tokens; ``tokenise(display(tokens)) == tokens`` for a text of the language.
    """
    tokens = tokenise(text) if isinstance(text, str) else list(text)
    written, start = "", True
    for token in tokens:
        if token in SPECIAL:
            continue
        shown = _CAPITALS.get(token, token)
        shown = shown[:1].upper() + shown[1:] if start else shown
        joined = not written or token in _NO_SPACE_BEFORE or written.endswith("(")
        written += shown if joined else f" {shown}"
        start = token in ENDS
    return written


def unknown_words(text: str, known: Iterable[str], nearest: int = 3) -> dict[str, list[str]]:
    """The words of ``text`` that are not in ``known``, each with up to ``nearest`` known words that look like it."""
    known = list(known)
    have = set(known) - set(SPECIAL)  # a visitor who types <bot> means something else
    candidates = [word for word in known if word not in SPECIAL and word.isalpha()]
    found: dict[str, list[str]] = {}
    for word in tokenise(text):
        if word not in have and word not in found:
            found[word] = difflib.get_close_matches(word, candidates, nearest, cutoff=0.6)
    return found
