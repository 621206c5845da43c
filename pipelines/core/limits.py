"""The checks that every paper's ``Settings.validated()`` makes: text, choice, number; a refusal is one sentence.

Each raises ``ValueError`` that says what came, what was wanted and what to do. The type is looked at first, then the size or
range, and nothing is computed with a value before. No torch here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

BREAKS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Ends of lines other than a line feed."""
_NONE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""No characters of a text: controls other than tab and line feed, halves of pairs, noncharacters of Unicode."""
BLANK = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters that are letters or signs by their category, and yet show nothing."""


def text(name: str, value: object, most: int, empty: str) -> str:
    """A text that shows something, of at most ``most`` characters, as :func:`plain` gives it; ``empty``: the sentence for none."""
    value = plain(name, value, most)
    if not value.strip():
        raise ValueError(empty)
    if not any(_shows(letter) for letter in value):
        raise ValueError(f"The {name} has only characters that show nothing: write words.")
    return value


def plain(name: str, value: object, most: int) -> str:
    """A text of at most ``most`` characters, perhaps empty: composed (NFC), with line feeds as its only ends of lines.

    Raises:
        ValueError: it is no text, is longer, or holds what is no character of a text: NUL, control characters, half of a pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"The {name} is {described(value)} but must be a text: write it between quotes.")
    composed = unicodedata.normalize("NFC", BREAKS.sub("\n", value)) if len(value) <= 3 * most else value
    if len(composed) > most:
        raise ValueError(f"The {name} has {len(composed):,} characters, at most {most:,} are allowed: shorten it.")
    wrong = _NONE.search(composed)
    if wrong is not None:
        raise ValueError(f"The {name} holds U+{ord(wrong[0]):04X}, which is no character of a text: take it out.")
    return composed


def content(name: str, value: object) -> Any:
    """What a chat message says: a text, or Gradio's and other libraries' blocks of text, joined; else the value as it came.

    Raises:
        ValueError: among the blocks, or beside the text, is something that is no text.
    """
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        if value.get("files"):
            raise ValueError(f"The {name} comes with files, and only text is read: leave them out.")
        return value["text"]
    if not isinstance(value, list) or not value:
        return value
    texts = []
    for block in value:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if isinstance(block, str):
            texts.append(block)
        elif kind in ("text", None) and isinstance(block, Mapping) and isinstance(block.get("text"), str):
            texts.append(block["text"])
        else:
            shown = f"a block of the type {_quoted(kind)}" if isinstance(kind, str) else described(block)
            raise ValueError(f"The {name} holds {shown}, and only text is read: leave it out.")
    return "\n".join(texts)


def choice(label: str, value: object, known: Collection[str]) -> str:
    """One of ``known``; ``label`` opens the sentence: "The mode", "Model set"."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{label} {described(value)} is unknown: choose one of {', '.join(known)}.")
    return value


def number(name: str, value: object, low: float, high: float, whole: bool = False) -> float:
    """A number within [low, high], a whole one if asked for; True and NaN are none, and -0.0 is 0.0."""
    kind = "a whole number" if whole else "a number"
    if not is_number(value) or not low <= value <= high or (whole and value != int(value)):
        shown = described(value) + (" (a text)" if isinstance(value, str) else "")
        raise ValueError(
            f"The {name} is {shown} but must be {kind} from {low:g} to {high:.10g}: choose one in that range."
        )
    return value + 0


def switch(name: str, value: object) -> bool:
    """On or off; 1 and "true" are neither."""
    if not isinstance(value, bool):
        raise ValueError(f"The switch {name} is {described(value)} but must be on or off: send true or false.")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite int or float: True and NaN are none, whatever the size of an int."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def described(value: object) -> str:
    """What came, short and printable, for a sentence: "7", "'seven'", "a list of 3", "nothing (null)"."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else f"a whole number of some {_digits(value):,} digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        keys = ", ".join(_quoted(str(key), 20) for key in list(value)[:3])
        return (
            f"an object with {len(value):,} {'key' if len(value) == 1 else 'keys'} ({keys})"
            if value
            else "an empty object"
        )
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}" if value else "an empty list"
    return f"a {type(value).__name__}"


def shown(value: str, most: int = 60) -> str:
    """A name from elsewhere, of a file or in it, for a sentence: short, on one line, and printable."""
    letters = (letter if letter.isprintable() else "\ufffd" for letter in value[: most + 1])
    return "".join(letters)[:most] + ("…" if len(value) > most else "")


def _quoted(value: str, most: int = 40) -> str:
    return repr(value[:most] + "…") if len(value) > most else repr(value)


def _digits(value: int) -> int:
    """Digits of a large int, or one less: Python refuses to print it."""
    return int(abs(value).bit_length() * math.log10(2))


def _shows(letter: str) -> bool:
    """A letter, digit, sign or symbol."""
    return unicodedata.category(letter)[0] in "LNPS" and letter not in BLANK
