"""What is no text and no number is refused for what it is, before anything is computed with it."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import pytest

from pipelines.core import limits


def text(value: Any, most: int = 20) -> str:
    return limits.text("prompt", value, most, "The prompt is empty: write one.")


def refused(check: Any, *given: Any) -> str:
    """The sentence, which can be sent and printed whatever came."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        check(*given)
    sentence = str(caught.value)
    json.dumps(sentence, ensure_ascii=False).encode()
    assert len(sentence) < 300 and sentence.endswith((".", "!", "?"))
    return sentence


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "7"), (10**400, "a whole number of some 400 digits"),
        (1.5, "1.5"), (math.inf, "inf"), (math.nan, "nan"), (True, "true"), (None, "nothing (null)"),
        ([], "an empty list"), (["a", "b"], "a list of 2"), ({}, "an empty object"), ({"a": 1}, "an object with 1 key ('a')"),
        ({"\ud800" * 30: 1}, "an object with 1 key ("), (b"x", "a bytes"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named_as_what_it_is(value: Any, said: str):
    assert refused(text, value).startswith(f"The prompt is {said}")
    assert "must be a text" in refused(text, value) and "empty:" not in refused(text, value)


def test_only_nothing_is_called_empty():
    for value in ("", " ", "\n\t", "\r\n", "\u2003"):
        assert refused(text, value) == "The prompt is empty: write one."
    for value in ("\u200b", "\ufeff\u2060", "\u0301" * 3, "\u3164", "\u202e"):
        assert refused(text, value) == "The prompt has only characters that show nothing: write words."
    assert text("!") == "!" and text("🙂") == "🙂"


def test_a_text_has_one_form_and_its_lines_one_end():
    assert text("a\r\nb\rc\u2028d\u2029e\x85f\vg\fh\n\ti") == "a\nb\nc\nd\ne\nf\ng\nh\n\ti"
    composed = "café Å"
    assert text(unicodedata.normalize("NFD", composed)) == composed == text(composed)
    assert text("a" + "\u0301" * 19).startswith("á"), "many marks on one letter are a text"
    assert text("a" * 20) == "a" * 20 and text("a\u0301" * 20) == "á" * 20


@pytest.mark.parametrize("letter", ["\x00", "\x07", "\x1b", "\x7f", "\x9f", "\ud800", "\ufffe", "\ufdd0", "\U0010ffff"])
def test_what_is_no_character_is_refused(letter: str):
    assert refused(text, f"a{letter}b") == (
        f"The prompt holds U+{ord(letter):04X}, which is no character of a text: take it out."
    )


def test_a_long_text_is_refused_at_once():
    assert refused(text, "a" * 21) == "The prompt has 21 characters, at most 20 are allowed: shorten it."
    assert "100,000,000 characters" in refused(text, "\u0301" * 10**8)
    assert "at most 20" in refused(text, "\u0958" * 20), "one character that is two when composed"


def number(value: Any, low: float = 0, high: float = 2**31 - 1, whole: bool = True) -> float:
    return limits.number("seed", value, low, high, whole)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**400, "a whole number of some 400 digits"), (-(10**400), "a whole number of some 400 digits"),
        (1e300, "1e+300"), (json.loads("1e400"), "inf"), (-math.inf, "-inf"), (math.nan, "nan"), (True, "true"),
        (None, "nothing (null)"), ("7", "'7' (a text)"), ("np.float64(7)", "'np.float64(7)' (a text)"), ("", "'' (a text)"),
        ("\ud800", "'\\ud800' (a text)"), ([7], "a list of 1"), ({"value": 7}, "an object with 1 key ('value')"), (0.5, "0.5"),
        (2**31, "2147483648"), (-1, "-1"), (5e-324, "5e-324"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number_in_the_range_is_refused(value: Any, said: str):
    assert refused(number, value) == (
        f"The seed is {said} but must be a whole number from 0 to 2147483647: choose one in that range."
    )


def test_numbers_come_back_as_they_are_and_minus_zero_as_zero():
    assert number(7) == 7 and number(7.0) == 7 and number(2**31 - 1) == 2**31 - 1
    assert math.copysign(1, number(-0.0, -1, 1, False)) == 1
    assert "some 5,000 digits but must be" in refused(number, 10**5000), "Python itself does not print so many"
    assert not limits.is_number(True) and not limits.is_number(math.nan) and limits.is_number(10**400)


def test_a_choice_is_a_known_text():
    known = ("share", "raw")
    assert limits.choice("The mode", "raw", known) == "raw"
    assert refused(limits.choice, "The mode", 1, known) == "The mode 1 is unknown: choose one of share, raw."
    assert "is unknown: choose one of share, raw" in refused(limits.choice, "The mode", "x" * 10**6, known)
    for value in (None, [], {}, 10**5000, "\ud800"):
        assert "choose one of share, raw" in refused(limits.choice, "The mode", value, known)


def test_blocks_of_text_are_read_and_others_named():
    def content(value: Any) -> Any:
        return limits.content("message", value)

    assert (
        content([{"type": "text", "text": "What does"}, {"type": "text", "text": "Otto sell?"}])
        == "What does\nOtto sell?"
    )
    assert content({"text": "Hello", "files": []}) == content(["Hello"]) == content([{"text": "Hello"}]) == "Hello"
    assert content("Hello") == "Hello" and content(7) == 7 and content([]) == [] and content({"a": 1}) == {"a": 1}
    assert refused(content, [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]) == (
        "The message holds a block of the type 'image_url', and only text is read: leave it out."
    )
    assert "holds 7, and only text" in refused(content, [7])
    assert "a block of the type 'text'" in refused(content, [{"type": "text", "text": 7}])
    assert "comes with files" in refused(content, {"text": "Hi", "files": ["a.png"]})
