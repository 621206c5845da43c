"""How the Concept Guidance tab shows answers: what was measured and verified of one, and its tokens as a heat map."""

from __future__ import annotations

import dataclasses
import secrets
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from demos.core.figures import safe, signed
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from pipelines.concept_guidance import Outcome, Row
    from pipelines.worlds.crumpet import Reading

PLACES = "Places that show it:"
"""Before each concept's count, which the parser made in this one answer."""
TOKENS_MAX = 400
"""Tokens that a heat map draws: each brings its whole profile along."""


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """A question and what came of it. Without ``outcome`` it was stopped, and ``texts`` is as far as it came."""

    message: str
    texts: tuple[str, ...]
    """Of the unguided and of the guided side."""
    outcome: Outcome | None = None

    def row(self, side: int) -> Row | None:
        return None if self.outcome is None else self.outcome.rows[-1 if side else 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Conversation:
    """A chat as it stood after an answer, for the strip of results."""

    turns: list[Turn]
    transcript: str
    """The file of it."""


def display(text: str, model_set: str) -> str:
    """An answer as a reader expects it: the small model writes in lower case."""
    return crumpet.display(text) if model_set == "mini" else text


def history(turns: Sequence[Turn], side: int) -> tuple[dict[str, str], ...]:
    """The earlier turns of a side for the model; a turn without any answer is left out."""
    return tuple(
        {"role": role, "content": content}
        for turn in turns
        if turn.texts[side].strip()
        for role, content in (("user", turn.message), ("assistant", turn.texts[side]))
    )


def bubbles(turns: Sequence[Turn], side: int, model_set: str) -> list[dict[str, str]]:
    """The messages of a chat pane, which shows HTML: what was typed or answered is escaped."""
    shown = []
    for turn in turns:
        text, below = display(turn.texts[side], model_set) or "…", under(turn, side, model_set)
        shown += [
            {"role": role, "content": safe(words, quotes=False)}
            for role, words in (("user", turn.message), ("assistant", text))
        ]
        # A message of its own: so that an answer is copied, and read aloud, without it.
        shown += [{"role": "assistant", "content": below}] if below else []
    return shown


def under(turn: Turn, side: int, model_set: str) -> str:
    """What stands below an answer, as HTML: its size, speed and perplexity, and what the parser verified."""
    row = turn.row(side)
    if turn.outcome is None or row is None:
        return ""
    measured = turn.outcome.measurements
    count = measured["tokens"][-1 if side else 0]
    facts = [f"{count} tokens", f"{measured['tokens_per_second']:.0f} tokens/s"]
    if row.perplexity is not None:
        facts.append(f"perplexity {row.perplexity:.1f} (lower is better)")
    if not row.complete:
        facts.append("cut at the limit of tokens")
    lines = [" · ".join(facts)]
    if model_set == "mini":
        reading = crumpet.parse(row.text, turn.message)
        lines += [grammar(reading), f"{PLACES} {' · '.join(rates(reading, list(row.strengths)))}"]
    return "<br>".join(lines)


def grammar(reading: Reading) -> str:
    """Whether a text is of the small language, and where it leaves it."""
    if reading.grammatical:
        return "<b>✓ grammatical</b>"
    reason = reading.reason or "not of the language"
    short = reason if len(reason) <= 90 else reason[:88] + "…"
    return f"<b>✗ not grammatical</b> at word {(reading.position or 0) + 1}: {safe(short, quotes=False)}"


def rates(reading: Reading, first: Sequence[str] = ()) -> list[str]:
    """Each concept's share of marked places, and the facts; the concepts of ``first`` lead and are bold."""
    leading = [name.split(".")[0] for name in first]
    found = []
    for concept in sorted(crumpet.CONCEPTS, key=lambda name: name not in leading):
        ends = [mark.on for mark in reading.marks if mark.concept == concept]
        words = f"{concept} {sum(ends)} of {len(ends)}" if ends else f"{concept} –"
        found.append(f"<b>{words}</b>" if concept in leading else words)
    right = [claim.right for claim in reading.claims]
    found.append(f"facts right {sum(right)} of {len(right)}" if right else "no fact said")
    return found


def verified(reading: Reading) -> dict[str, Any]:
    """What the parser found, as JSON."""
    return {
        "grammatical": reading.grammatical,
        "reason": reading.reason,
        "rates": reading.rates,
        "marks": {name: sum(mark.concept == name for mark in reading.marks) for name in crumpet.CONCEPTS},
        "facts_right": sum(claim.right for claim in reading.claims),
        "facts": len(reading.claims),
    }


def row_facts(row: Row, question: str, model_set: str) -> dict[str, Any]:
    """One answer with its tokens, scores and verdict, as JSON."""
    return dataclasses.asdict(row) | (
        {"verified": verified(crumpet.parse(row.text, question))} if model_set == "mini" else {}
    )


def notices_html(notices: Sequence[str]) -> str:
    return "".join(f"<p class='remark'>{safe(notice)}</p>" for notice in notices)


# --- the heat map ------------------------------------------------------------------------------------------------


def heat_map(row: Row, concept: str, layer: int | None, chosen: Sequence[int], title: str) -> str:
    """The tokens of an answer with their scores, readable as numbers; the one that is picked shows all its layers.

    ``layer``: None for the mean over ``chosen``. Radio buttons do the picking, so arrow keys go from token to token.
    """
    scores = row.scores[concept]
    if not scores or not scores[0]:
        return "<p class='quiet'>The answer is empty: there is nothing to read.</p>"
    taken = [layer] if layer is not None else [n for n in chosen if n < len(scores)] or list(range(len(scores)))
    values = [statistics.fmean(scores[n][token] for n in taken) for token in range(len(scores[0]))]
    shown = values[:TOKENS_MAX]
    strongest = max(range(len(shown)), key=lambda token: abs(shown[token]))
    group = f"token-{secrets.token_hex(4)}"
    tokens = "".join(
        _token(group, number, row.tokens[number], value, [line[number] for line in scores], number == strongest)
        for number, value in enumerate(shown)
    )
    cut = f" Only the first {TOKENS_MAX} of {len(values)} tokens are drawn." if len(values) > TOKENS_MAX else ""
    mean = statistics.fmean(values)
    where = f"layer {taken[0]}" if len(taken) == 1 else f"mean of layers {', '.join(map(str, taken))}"
    high = row.tokens[strongest].strip() or "a blank"
    facts = (
        f"{title}: {safe(concept)} at {where}. The mean over all tokens is {signed(mean, 2)}; strongest is "
        f"“{safe(high)}” with {signed(shown[strongest], 2)}.{cut} Choose a token to see its layers, or go through "
        "them with the arrow keys."
    )
    return (
        f"<div class='heatmap'><p class='quiet'>{facts}</p>{_scale(concept)}"
        f"<div class='tokens' role='radiogroup' aria-label='Tokens and their scores' style='--layers:{len(scores)}'>"
        f"{tokens}</div></div>"
    )


def _token(group: str, number: int, piece: str, value: float, layers: Sequence[float], checked: bool) -> str:
    word = piece.strip() or ("⏎" if "\n" in piece else "␣")
    profile = "".join(
        f"<li><span>{n}</span><i><u class='{_sign(score)}' style='--share:{abs(score):.3f}'></u></i>"
        f"<b>{signed(score, 2)}</b></li>"
        for n, score in enumerate(layers)
    )
    return (
        f"<label class='token {_sign(value)}' style='--share:{abs(value):.3f}'><input type='radio' name='{group}' "
        f"aria-label='{safe(word)}, {signed(value, 2)}'{' checked' if checked else ''}>"
        f"<span>{safe(word)}</span><small>{signed(value, 2)}</small>"
        f"<span class='profile'><strong>Token {number + 1}, “{safe(word)}”: score at each layer</strong>"
        f"<ol>{profile}</ol></span></label>"
    )


def _scale(concept: str) -> str:
    return (
        f"<p class='heat-scale'><span>−1 without {safe(concept)}</span><i></i><span>+1 with {safe(concept)}</span></p>"
    )


def _sign(value: float) -> str:
    return "plus" if value > 0 else "minus"
