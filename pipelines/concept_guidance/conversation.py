"""Conversations as tokens: what a prompt is, exactly which tokens are an answer, what fits into a model. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core.text import encode_chat, encode_text, words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
ANSWER_TOKENS, CONTEXT, MAX_TOKENS = 32, 16, 1024
"""The paper's: answers are cut to 32 tokens, the first 16 are looked at, conversations cut on the left to 1,024."""


@dataclass(frozen=True)
class Span:
    """A conversation as token ids; the answer's own tokens are ``ids[start:stop]``."""

    ids: list[int]
    start: int
    stop: int


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of the conversation up to where the answer begins."""
    return encode_chat(tokenizer, messages, True).ids


def reply_span(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], answer: str) -> Span:
    """The conversation with ``answer`` as its last turn, and exactly which tokens carry the answer's characters.

    The answer is found in the rendered text behind what the template writes to open a reply, and its characters are
    mapped to tokens; without such a map, its tokens are those between the common beginning with the open reply and
    the common end with an empty answer. What the template puts behind the answer does not belong to it.
    """
    opened = encode_chat(tokenizer, messages, True)
    whole = encode_chat(tokenizer, [*messages, {"role": "assistant", "content": answer}], False)
    text = answer.strip()
    at = whole.text.find(text, _shared(opened.text, whole.text))
    if at < 0:
        raise ValueError(
            f"The model's chat template changes the answer {text[:30]!r}, so that its tokens cannot be told from the "
            "rest: choose another model or change the answer."
        )
    before = _shared(opened.ids, whole.ids)
    if not text:
        return Span(whole.ids, before, before)
    if whole.places:
        inside = [n for n, (a, b) in enumerate(whole.places) if a < at + len(text) and b > max(a, at)]
        return Span(whole.ids, inside[0], inside[-1] + 1)
    empty = encode_chat(tokenizer, [*messages, {"role": "assistant", "content": ""}], False).ids
    behind = min(_shared(whole.ids[::-1], empty[::-1]), max(len(empty) - before, 0), len(whole.ids) - before)
    return Span(whole.ids, before, len(whole.ids) - behind)


def cut(span: Span, answer_tokens: int = ANSWER_TOKENS, context: int = CONTEXT, longest: int = MAX_TOKENS) -> Span:
    """The tokens that the paper looks at: the first ``context`` of the answer's first ``answer_tokens``.

    What follows them is left out (it cannot change them), and the conversation is cut on the left to ``longest``.
    """
    stop = min(span.stop, span.start + answer_tokens)
    surplus = max(stop - longest, 0)
    start = max(span.start - surplus, 0)
    ids = span.ids[surplus:stop]
    stop = min(start + context, len(ids)) if context > 0 else len(ids)
    return Span(ids[:stop], start, stop)


def fit_history(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], limit: int
) -> tuple[list[dict[str, str]], list[int], int]:
    """Drop the oldest turns until the prompt has at most ``limit`` tokens: messages, their ids, how many were dropped.

    Raises:
        ValueError: the last message alone is longer than that.
    """
    kept, dropped = list(messages), 0
    while True:
        ids = prompt_ids(tokenizer, kept)
        if len(ids) <= limit:
            return kept, ids, dropped
        first = 1 if kept[0]["role"] == "system" else 0
        turns = next((n for n in range(first + 1, len(kept)) if kept[n]["role"] == "user"), None)
        if turns is None:
            raise ValueError(
                f"The message has {len(ids):,} tokens, this model reads at most {limit:,} here: shorten it."
            )
        dropped += turns - first
        del kept[first:turns]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], specials: bool = False) -> str:
    """The text of tokens, with or without the special ones."""
    text = tokenizer.decode(list(ids), skip_special_tokens=not specials)
    assert isinstance(text, str)  # of a list of lists there would be several
    return text


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, for display; a character made of several tokens goes to the last of them."""
    texts, shown = [], ""
    for count in range(1, len(ids) + 1):
        text = text_of(tokenizer, ids[:count], specials=True)
        if text.endswith("\ufffd") and count < len(ids):
            texts.append("")
            continue
        texts.append(
            text[len(shown) :] if text.startswith(shown) else text_of(tokenizer, ids[count - 1 : count], specials=True)
        )
        shown = text
    return texts


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, list[str]]:
    """Words of ``text`` that the tokenizer has no token for, each with the nearest known words (a small vocabulary only)."""
    unknown, lost = getattr(tokenizer, "unk_token_id", None), []
    for written in words(text) if unknown is not None else ():
        seen = encode_text(tokenizer, written)
        for word in _WORD.findall(written):
            ids = encode_text(tokenizer, word)
            if unknown in ids:
                lost.append(word)
            elif unknown in seen and not set(ids) <= set(seen):  # known alone, but not as it was written: <Mabel>
                lost.append(written)
    lost = list(dict.fromkeys(lost))
    known = [word for word in tokenizer.get_vocab() if word.isalpha()] if lost else []
    known = known if len(known) <= 5000 else []
    return {word: difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6) for word in lost}


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends an answer, by the generation settings, the configuration and the tokenizer."""
    said = (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    return frozenset(x for ids in said for x in (ids if isinstance(ids, list | tuple) else [ids]) if x is not None)


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the common beginning."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def context_length(model: PreTrainedModel) -> int:
    """How many tokens the model reads, with what it writes."""
    return getattr(model.config, "max_position_embeddings", None) or 2048


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked. ``temperature`` 0, or below :data:`pipelines.concept_guidance.steering.COLDEST`, takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    seed: int = 0
