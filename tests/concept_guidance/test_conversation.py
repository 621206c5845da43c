"""Which tokens are an answer, what is looked at of it, and what its pieces are."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipelines.concept_guidance import conversation
from pipelines.concept_guidance.conversation import Span
from pipelines.core import text
from tests.toys.language import (
    TEMPLATE,
    toy_tokenizer,
)


class Slow:
    """A tokenizer that cannot tell which characters a token came from."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        return self.tokenizer(text, add_special_tokens=add_special_tokens)


def test_the_answer_s_tokens_are_found_exactly(tokenizer):
    messages = [{"role": "user", "content": "why is the sky blue"}]
    span = conversation.reply_span(tokenizer, messages, " because it blushes ")
    assert tokenizer.decode(span.ids[span.start : span.stop]) == "because it blushes"
    assert span.ids[: span.start] == conversation.prompt_ids(tokenizer, messages)
    assert len(span.ids) == span.stop + 1, "the end token does not belong to the answer"
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "because it blushes"}, *messages]
    again = conversation.reply_span(tokenizer, history, "because it blushes")
    assert (again.stop - again.start, again.start - span.start) == (3, 7), "the answer, not its like in the history"
    empty = conversation.reply_span(tokenizer, messages, "  ")
    assert empty.start == empty.stop


def test_spans_under_other_templates_and_tokenizers(tokenizer):
    messages = [{"role": "user", "content": "hello"}]
    thinking = TEMPLATE.replace(
        "{{ m['content'].strip() }}", "{% if m['role'] == 'assistant' %}w60 w61 {% endif %}{{ m['content'] | trim }}"
    )
    for template in (TEMPLATE, None, thinking, TEMPLATE.replace("{{ eos_token }}", "{{ eos_token }} . .")):
        made = toy_tokenizer(template)
        span = conversation.reply_span(made, messages, "you marvel")
        assert made.decode(span.ids[span.start : span.stop]) == "you marvel", template
        if template != thinking:
            assert conversation.reply_span(Slow(made), messages, "you marvel") == span
    with pytest.raises(ValueError, match="changes the answer 'you marvel'"):
        conversation.reply_span(toy_tokenizer(TEMPLATE.replace(".strip()", ".upper()")), messages, "you marvel")
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    with pytest.raises(ValueError, match="refuses this conversation .Roles must alternate"):
        text.encode_chat(toy_tokenizer(strict + TEMPLATE), [{"role": "system", "content": "hello"}], True)


def test_spans_with_pieces_of_words():
    """As SentencePiece and byte-level tokenizers cut: the space belongs to the piece, or characters to several."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz<>/:. \n"} | {"Ġ", "Ċ", "▁", "Q", "A"})
    for before in (pre_tokenizers.ByteLevel(False), pre_tokenizers.Metaspace(prepend_scheme="always")):
        vocabulary = {letter: n for n, letter in enumerate([*letters, "Ġb", "▁b", "be", "Ġbe", "▁be", "<s>", "</s>"])}
        merges = [("Ġ", "b"), ("▁", "b"), ("b", "e"), ("Ġb", "e"), ("▁b", "e")]
        made = Tokenizer(models.BPE(vocabulary, merges))
        made.pre_tokenizer = before
        made.decoder = decoders.ByteLevel() if "ByteLevel" in type(before).__name__ else decoders.Metaspace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = TEMPLATE
        span = conversation.reply_span(tokenizer, [{"role": "user", "content": "be"}], "because it be")
        assert tokenizer.decode(span.ids[span.start : span.stop]).strip() == "because it be"


def test_the_paper_s_cut():
    span = Span(list(range(100)), 40, 90)
    assert conversation.cut(span) == Span(list(range(56)), 40, 56), "the first 16 of the answer"
    assert conversation.cut(span, context=0) == Span(list(range(72)), 40, 72), "without a limit, the answer's first 32"
    assert conversation.cut(Span(list(range(50)), 40, 45)) == Span(list(range(45)), 40, 45)
    left = conversation.cut(span, longest=60)
    assert left.ids == list(range(12, 56)) and left.ids[left.start] == 40, "cut on the left, at the same tokens"


def test_pieces_of_characters_wait_for_the_last(tokenizer):
    class Bytes:
        def decode(self, row, skip_special_tokens=False):
            return bytes(row).decode(errors="replace")

    assert conversation.pieces(Bytes(), "aé€b".encode()) == ["a", "", "é", "", "", "€", "b"]
    row = tokenizer("hello you marvel", add_special_tokens=False)["input_ids"]
    assert "".join(conversation.pieces(tokenizer, row)) == "hello you marvel"
