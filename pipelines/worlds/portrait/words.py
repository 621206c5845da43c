"""Captions of portraits in a small closed English, and the way back from a caption to what it says."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

from .people import BACKGROUNDS, CLOTHES, EXPRESSIONS, HAIR_COLOURS, HAIR_STYLES, Portrait

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair_colour": HAIR_COLOURS,
    "hair_style": HAIR_STYLES,
    "glasses": ("no", "yes"),
    "beard": ("no", "yes"),
    "expression": EXPRESSIONS,
    "clothes": CLOTHES,
    "background": BACKGROUNDS,
}
"""What a caption can say, and a verifier can see."""

ALWAYS = ("hair_colour", "glasses", "beard")
SOMETIMES = {"hair_style": 0.8, "expression": 0.7, "clothes": 0.6, "background": 0.6}

_OPENINGS = ("", "a portrait of ", "a clay portrait of ", "a friendly portrait of ", "a picture of ")
_EXPRESSION_WORDS = {
    "neutral": ("calm", "serious"),
    "smiling": ("smiling", "happy"),
    "surprised": ("surprised",),
}
_GLASSES = {"yes": ("glasses", "dark glasses"), "no": ("no glasses",)}
_BEARD = {"yes": ("a beard", "a full beard"), "no": ("no beard",)}
_BEARD_ADJECTIVE = {"yes": "bearded", "no": "clean-shaven"}
_GARMENTS = ("sweater", "top", "jumper")
_WEARING = (", wearing a ", " wearing a ", " in a ")
_BEFORE = ((", in front of a ", " background"), (", on a ", " background"), (" against a ", " wall"))


def attributes(portrait: Portrait) -> dict[str, str]:
    """The value of every attribute in `ATTRIBUTES`."""
    person, shot = portrait.identity, portrait.shot
    return {
        "hair_colour": person.hair_colour,
        "hair_style": person.hair_style,
        "glasses": "yes" if person.glasses else "no",
        "beard": "yes" if person.beard else "no",
        "expression": shot.expression,
        "clothes": shot.clothes,
        "background": shot.background,
    }


def caption(portrait: Portrait, rng: random.Random | None = None, mention: Collection[str] | None = None) -> str:
    """One English sentence of at most 30 words in lower case, without a full stop.

    Hair colour, glasses and beard are always mentioned; `mention` names what else is (default: chosen by chance).
    Without `rng` the wording is that of a fixed seed, so the same portrait gets the same caption.
    """
    rng = rng or random.Random(0)
    chosen = [name for name, share in SOMETIMES.items() if rng.random() < share]
    if mention is not None:
        for name in mention:
            if name not in ATTRIBUTES:
                raise ValueError(f"a caption cannot mention {name!r}: choose from {', '.join(ATTRIBUTES)}")
        chosen = list(mention)
    return phrase(attributes(portrait), chosen, rng)


def phrase(facts: Mapping[str, str], chosen: Collection[str], rng: random.Random) -> str:
    """The sentence of `caption` for the value of every attribute, with those of `SOMETIMES` that are ``chosen``."""
    adjectives = [rng.choice(_EXPRESSION_WORDS[facts["expression"]])] if "expression" in chosen else []
    beard = rng.choice(_BEARD[facts["beard"]])
    if rng.random() < 0.4:
        adjectives.insert(0, _BEARD_ADJECTIVE[facts["beard"]])
        beard = ""
    hair = _hair(facts, "hair_style" in chosen, rng)
    features = [part for part in (rng.choice(_GLASSES[facts["glasses"]]), beard) if part]
    if rng.random() < 0.5:
        features.reverse()
    text = rng.choice(_OPENINGS) + " ".join(["a", *adjectives, "person with "]) + _listed([hair, *features])
    return text + _around(facts, chosen, rng)


def brief(portrait: Portrait, rng: random.Random) -> str:
    """A caption as people type them, which says up to three things: "a smiling person", "a person in a red sweater", "a person".

    A lenient reader understands it (`pipelines.worlds.prompts.read_prompt`); `parse` wants more.
    """
    facts = attributes(portrait)
    said = {name: facts[name] for name in rng.sample(list(ATTRIBUTES), rng.randint(0, 3))}
    adjectives = [rng.choice(_EXPRESSION_WORDS[said["expression"]])] if "expression" in said else []
    features = [
        rng.choice(table[said[name]]) for name, table in (("glasses", _GLASSES), ("beard", _BEARD)) if name in said
    ]
    style = said.get("hair_style")
    hair = [*([style] if style and style != "bun" else []), *([said["hair_colour"]] if "hair_colour" in said else [])]
    if hair or style:
        features.insert(0, " ".join([*hair, "hair", *(["in a bun"] if style == "bun" else [])]))
    text = rng.choice(_OPENINGS) + " ".join(["a", *adjectives, "person"])
    if features:
        text += " with " + _listed(features)
    return text + _around(facts, said, rng)


def parse(text: str) -> dict[str, str]:
    """The attributes that a caption mentions; ValueError for text that `caption` could not have written."""
    match = _SENTENCE.fullmatch(text.strip())
    if not match:
        raise ValueError(
            f"cannot read {text[:80]!r} as a portrait: write something like "
            "'a smiling person with long red hair, glasses and no beard, wearing a blue sweater'"
        )
    background = next(
        (match[f"background{place}"] for place in range(len(_BEFORE)) if match[f"background{place}"]), None
    )
    expression = _SAID[match["expression"]][1] if match["expression"] else None
    said = {"clothes": match["clothes"], "background": background, "expression": expression}
    found = {name: value for name, value in said.items() if value}
    parts = re.split(r", | and ", match["features"])
    if match["shave"]:
        parts.append(match["shave"])
    for part in parts:
        for name, value in _feature(part).items():
            if name in found:
                raise ValueError(f"the caption says {name.replace('_', ' ')} twice: say it once")
            found[name] = value
    missing = [name for name in ALWAYS if name not in found]
    if missing:
        raise ValueError(f"the caption does not say {missing[0].replace('_', ' ')}: a portrait's caption always does")
    return {name: found[name] for name in ATTRIBUTES if name in found}


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can hold, sorted; `clean-shaven` is one word and the comma is one."""
    fixed = "a person with hair and in bun , clean-shaven bearded"
    phrases = [fixed, *_OPENINGS, *_GARMENTS, *_WEARING, *(word for pair in _BEFORE for word in pair)]
    for table in (_EXPRESSION_WORDS, _GLASSES, _BEARD):
        phrases += [word for words in table.values() for word in words]
    phrases += [*HAIR_COLOURS, *HAIR_STYLES, *CLOTHES, *BACKGROUNDS]
    return tuple(sorted({word for phrase in phrases for word in phrase.replace(",", " , ").split()}))


def _around(facts: Mapping[str, str], chosen: Collection[str], rng: random.Random) -> str:
    """The end of a sentence: what the person wears and stands in front of, of what is ``chosen``."""
    text = ""
    if "clothes" in chosen:
        text += rng.choice(_WEARING) + facts["clothes"] + " " + rng.choice(_GARMENTS)
    if "background" in chosen:
        before, after = rng.choice(_BEFORE)
        text += before + facts["background"] + after
    return text


def _hair(facts: Mapping[str, str], with_style: bool, rng: random.Random) -> str:
    colour, style = facts["hair_colour"], facts["hair_style"]
    if not with_style:
        return f"{colour} hair"
    if style == "bun":
        return rng.choice((f"{colour} hair in a bun", f"a {colour} bun"))
    return f"{style} {colour} hair"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _feature(part: str) -> dict[str, str]:
    if part in _SAID:
        name, value = _SAID[part]
        return {name: value}
    match = _HAIR.fullmatch(part)
    if not match:
        raise ValueError(f"cannot read {part[:40]!r} in a portrait's caption: name the hair, glasses and the beard")
    if match["colour"]:
        return {"hair_colour": match["colour"]} | ({"hair_style": match["style"]} if match["style"] else {})
    return {"hair_colour": match["tied"] or match["bun"], "hair_style": "bun"}


def _either(words: Collection[str]) -> str:
    return "|".join(re.escape(word) for word in words)


_SAID = {
    phrase: (name, value)
    for name, table in (("glasses", _GLASSES), ("beard", _BEARD), ("expression", _EXPRESSION_WORDS))
    for value, phrases in table.items()
    for phrase in phrases
} | {word: ("beard", value) for value, word in _BEARD_ADJECTIVE.items()}
_COLOUR = _either(HAIR_COLOURS)
_LOOSE = _either([style for style in HAIR_STYLES if style != "bun"])
_HAIR = re.compile(
    f"(?:(?P<style>{_LOOSE}) )?(?P<colour>{_COLOUR}) hair|(?P<tied>{_COLOUR}) hair in a bun|a (?P<bun>{_COLOUR}) bun"
)
_BACKGROUND = "|".join(
    f"{re.escape(before)}(?P<background{place}>{_either(BACKGROUNDS)}){re.escape(after)}"
    for place, (before, after) in enumerate(_BEFORE)
)
_SENTENCE = re.compile(
    f"(?:{_either(_OPENINGS[1:])})?a "
    f"(?:(?P<shave>{_either(_BEARD_ADJECTIVE.values())}) )?"
    f"(?:(?P<expression>{_either([word for words in _EXPRESSION_WORDS.values() for word in words])}) )?"
    "person with (?P<features>.+?)"
    f"(?:(?:{_either(_WEARING)})(?P<clothes>{_either(CLOTHES)}) (?:{_either(_GARMENTS)}))?"
    f"(?:{_BACKGROUND})?"
)
