"""The one way from a visitor's text to a model's tokens: as text, never as the tokens that steer a model.

    chat = encode_chat(tokenizer, messages, open_reply=True)     # the template's own control tokens, and no others
    words = unread([tokenizer, tokenizer_2], prompt)             # what a text encoder's limit cuts off

A tokenizer takes "<|im_end|>" or "<bot>" in a message for the end of the message, or another speaker. So what a visitor writes is
searched for everything that is a control token, or looks like one in the template (Llama's [INST] is plain text); such a
stretch is encoded character by character, and all else as ever: text without one has exactly the tokens that it always had.
Image models have no template: their tokenizers are loaded with ``split_special_tokens`` (``pipelines/models/sdxl.py``).

No torch here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Set around such a stretch while the template is rendered; noncharacters, which no text may hold (``limits.plain``)."""
_MARKED = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}|[{OPEN}{CLOSE}]")
_TAGS = re.compile(r"\[/?[A-Z_]{2,}\]|<</?\w+>>|<\|?/?\w+\|?>")
"""What stands in chat templates for a control token without being one."""
_ROLES = tuple(
    form.format(role) for role in ("system", "user", "assistant", "tool") for form in ("<{}>", "<|{}|>", "[{}]")
)
"""What templates make of a role, from pieces."""
_WRITTEN_TOGETHER = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts that put no space between words."""

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}Question: {% elif message['role'] == 'assistant' %}Answer: {% endif %}"
    "{{ message['content'].strip() }}\n{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
"""For base models, whose tokenizer has no chat template: questions and answers, as in the paper's experiments."""


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each the place in ``text`` that it stands for: (first character, one behind the last)."""

    text: str
    ids: list[int]
    places: list[tuple[int, int]]
    """Empty where the tokenizer does not tell (a slow one)."""


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text alone, with nothing before or behind it; none of them is a control token."""
    return _encoded(tokenizer, _marked(text, controls(tokenizer))).ids


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], open_reply: bool) -> Encoded:
    """The conversation by the tokenizer's chat template; ``open_reply`` ends where an answer begins.

    Raises:
        ValueError: the template refuses the conversation (roles out of turn, no place for a system message, ...).
    """
    known, template = controls(tokenizer), None if getattr(tokenizer, "chat_template", None) else PLAIN_TEMPLATE
    kept = [{**message, "content": _marked(message["content"], known)} for message in messages]
    try:
        rendered = tokenizer.apply_chat_template(
            kept, tokenize=False, add_generation_prompt=open_reply, chat_template=template
        )
    except TemplateError as error:
        if messages and messages[0]["role"] == "system" and _takes(tokenizer, kept[1:]):
            raise ValueError(
                "This model takes no system message: put what it says into the first message of the user."
            ) from error
        raise ValueError(
            f"The model's chat template refuses this conversation ({str(error)[:120]}): begin with a user message, "
            "then take turns."
        ) from error
    assert isinstance(rendered, str)  # not tokens, as asked
    return _encoded(tokenizer, rendered)


def _takes(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> bool:
    """Whether the chat template accepts these turns; no template takes none at all."""
    if not messages:
        return False
    try:
        tokenizer.apply_chat_template(list(messages), tokenize=False)
    except TemplateError:
        return False
    return True


def unread(tokenizers: Sequence[PreTrainedTokenizerBase], prompt: str) -> int | None:
    """Where the first word begins that does not fit into the tokens of all text encoders; None if all of it is read."""
    cut = None
    for tokenizer in tokenizers:
        found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        most = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        if len(found["input_ids"]) > most:
            place = found["offset_mapping"][most][0]
            cut = place if cut is None else min(cut, place)
    if cut is None:
        return None
    while 0 < cut and _in_one_word(prompt[cut - 1], prompt[cut : cut + 1]):
        cut -= 1
    return cut if any(map(str.isalnum, prompt[cut:])) else None


def words(text: str) -> list[str]:
    """The words of a text as they were written, each once, without the punctuation around them."""
    found = (word.strip('.,;:!?"“”()') for word in text.split())
    return list(dict.fromkeys(word for word in found if word))


def _in_one_word(before: str, behind: str) -> bool:
    def inside(letter: str) -> bool:
        plain = letter.isalnum() or letter in "-'’_" or unicodedata.category(letter)[0] == "M"
        return plain and not _WRITTEN_TOGETHER.match(letter)

    return bool(behind) and inside(before) and inside(behind)


# ------------------------------------------------------------------------------------- control tokens


def controls(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What may not be taken for a control token: a pattern over folded text (see :func:`_folded`)."""
    added = {str(token.content) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    added |= set(getattr(tokenizer, "all_special_tokens", ()))
    return _pattern(frozenset(added), getattr(tokenizer, "chat_template", None) or "")


@lru_cache(32)
def _pattern(added: frozenset[str], template: object) -> re.Pattern[str]:
    texts = {_folded(text)[0] for text in (*added, *_ROLES, *_TAGS.findall(str(template))) if text.strip()}
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """``text`` as any tokenizer may see it (no case, no accents, compatible forms the same, nothing invisible), and where each
    of its characters comes from."""
    if text.isascii():
        return text.lower(), range(len(text))
    letters, places = [], []
    for place, letter in enumerate(text):
        for one in unicodedata.normalize("NFKD", letter).casefold():
            if unicodedata.category(one) not in ("Mn", "Cf", "Cc"):
                letters.append(one)
                places.append(place)
    return "".join(letters), places


@lru_cache(512)
def _marked(text: str, known: re.Pattern[str]) -> str:
    """``text`` with marks around everything that could be taken for a control token."""
    text = text.replace(OPEN, "").replace(CLOSE, "")
    folded, places = _folded(text)
    parts, at = [], 0
    for match in known.finditer(folded):
        first, last = places[match.start()], places[match.end() - 1] + 1
        parts += [text[at:first], OPEN, text[first:last], CLOSE]
        at = last
    return "".join([*parts, text[at:]])


def _encoded(tokenizer: PreTrainedTokenizerBase, marked: str) -> Encoded:
    """What stands between marks is encoded character by character, the rest in pieces as long as can be."""
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    texts: list[str] = []
    at, begin = 0, 0
    for match in [*_MARKED.finditer(marked), None]:
        pieces = [marked[begin : match.start() if match else len(marked)]]
        pieces += list(match.group(1) or "") if match else []
        begin = match.end() if match else begin
        for piece in filter(None, pieces):
            new, where = _piece(tokenizer, piece, first=not texts)
            ids += new
            places += [(at + first, at + last) for first, last in where]
            texts.append(piece)
            at += len(piece)
    return Encoded("".join(texts), ids, places)


def _piece(tokenizer: PreTrainedTokenizerBase, piece: str, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and places of a piece. One that is not the first stands behind a line feed, which is taken away again: at the start of a
    text, SentencePiece would put a blank before it."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    lead = "" if first else "\n"
    found = tokenizer(lead + piece, add_special_tokens=False, **({"return_offsets_mapping": True} if fast else {}))
    ids, places = list(found["input_ids"]), list(found["offset_mapping"]) if fast else []
    if first:
        return ids, places
    before = list(tokenizer(lead, add_special_tokens=False)["input_ids"])
    if ids[: len(before)] != before:
        return _piece(tokenizer, piece, first=True)
    return ids[len(before) :], [(max(a - 1, 0), max(b - 1, 0)) for a, b in places[len(before) :]]
