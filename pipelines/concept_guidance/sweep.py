"""The same questions at every strength of a concept: how far its score goes, and what that costs in perplexity. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.conversation import Sampling, prompt_ids, reply_span, stop_tokens, text_of
from pipelines.concept_guidance.examples import Example
from pipelines.concept_guidance.layers import choose_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipelines.core.lane import Job

STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""The strengths of a sweep unless others are given."""
PERPLEXITY_AMBER, PERPLEXITY_RED = 1.25, 2.0
"""Perplexity against the unguided model's from which fluency suffers, and from which it breaks."""
GRAMMAR = 0.9
"""A strength counts as fluent while at least this share of the unguided answers' grammatical rate is left."""


@dataclass(frozen=True)
class SweepPoint:
    """One strength: the score of its answers with a 95 % interval's half width, and what it costs in perplexity.

    Means over nothing are nan.
    """

    strength: float
    score: float
    spread: float
    perplexity: float
    values: tuple[float, ...]
    """Score of every answer that has one."""
    extras: dict[str, float]
    """Means of what else the judge returned, such as the share of grammatical answers."""
    texts: tuple[str, ...]


Judge = Callable[[list[dict[str, str]], str], "float | Mapping[str, float | None]"]
"""(conversation up to the answer, answer) -> score in [0, 1], or several with one called "score"; None where an answer
does not tell, which leaves it out of that mean."""


def sweep(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    concept: Concept,
    conversations: Sequence[list[dict[str, str]]],
    references: Sequence[Example],
    judge: Judge,
    strengths: Sequence[float] = STRENGTHS,
    layers: object = "best",
    sampling: Sampling | None = None,
    batch: int = 32,
    on_point: Callable[[SweepPoint], None] | None = None,
) -> list[SweepPoint]:
    """Answer every conversation at every strength and let ``judge`` score it; in the order of strengths.

    ``references`` are fixed answers; perplexity is the mean over them of the guided model's exp(mean loss). Works
    outwards from the strength nearest 0 and hands each :class:`SweepPoint` to ``on_point`` (by default, emits it) when
    it is done, so that a stopped sweep keeps what it has. A conversation sees the same sampling noise at every strength.
    """
    from pipelines.concept_guidance import steering

    sampling = sampling or Sampling()
    chosen = choose_layers(layers, steering.anatomy(model).layers, concept.validation_accuracy)
    prompts = [prompt_ids(tokenizer, conversation) for conversation in conversations]
    spans = [reply_span(tokenizer, example.messages(), example.completion) for example in references]
    stops = stop_tokens(model, tokenizer)
    points: list[SweepPoint] = []

    def guide(strength: float, rows: int) -> Any:
        return steering.Guide(model, [steering.Push(concept, (strength,) * rows, chosen)], rows)

    for strength in sorted(strengths, key=lambda s: (abs(s), s)):
        ids: list[list[int]] = []
        for first in range(0, len(prompts), batch):
            done = (len(points) + first / len(prompts)) / len(strengths)
            job.progress(done, f"strength {strength:+.2f}, answer {first + 1}")
            part = prompts[first : first + batch]
            streams, pushed = range(first, first + len(part)), guide(strength, len(part))
            ids += steering.decode(model, part, sampling, pushed, stops, streams, lambda rows: job.check())
        texts = [text_of(tokenizer, row).strip() for row in ids]
        verdicts = list(map(judge, conversations, texts))
        job.check()
        cost = steering.perplexities(model, spans, guide(strength, 1)).mean().item() if spans else math.nan
        points.append(_point(strength, texts, verdicts, cost))
        (on_point or job.emit)(points[-1])
    return sorted(points, key=lambda point: point.strength)


def _point(
    strength: float, texts: Sequence[str], verdicts: Sequence[float | Mapping[str, float | None]], cost: float
) -> SweepPoint:
    rows = [verdict if isinstance(verdict, Mapping) else {"score": float(verdict)} for verdict in verdicts]
    values = {name: [float(value) for row in rows if (value := row[name]) is not None] for name in rows[0]}
    scores = values.pop("score")
    spread = 1.96 * statistics.pstdev(scores) / math.sqrt(len(scores)) if scores else math.nan
    extras = {name: _mean(known) for name, known in values.items()}
    return SweepPoint(float(strength), _mean(scores), spread, cost, tuple(scores), extras, tuple(texts))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def safe_range(points: Sequence[SweepPoint], limit: float = PERPLEXITY_AMBER) -> tuple[float, float]:
    """The strengths around 0 that were measured to be fluent.

    Perplexity stays within ``limit`` times the unguided and, where a parser read the answers ("grammatical" among the
    extras), :data:`GRAMMAR` of the unguided share of grammatical answers is left.
    """
    ordered = sorted(points, key=lambda point: abs(point.strength))
    base, ends = ordered[0], [0.0, 0.0]

    def fluent(point: SweepPoint) -> bool:
        grammar = point.extras.get("grammatical", 1.0) >= GRAMMAR * base.extras.get("grammatical", 0.0)
        return grammar and point.perplexity <= limit * base.perplexity

    for side, sign in enumerate((-1, 1)):
        for point in (p for p in ordered if p.strength * sign > 0):
            if not fluent(point):
                break
            ends[side] = point.strength
    return ends[0], ends[1]
