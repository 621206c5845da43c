"""A Language Model's Guide Through Latent Space (von Rütte et al., ICML 2024, arXiv 2402.14433), usable.

A concept such as humour is a direction w in a language model's hidden states, one per layer. It is found in labelled answers by one
of three probes (`probes.py`, `train.py`) and added while the model writes, with each token's norm restored (`steering.py`):

    x' = ‖x‖ · normalise(x + s·w)                                     :func:`steering.guided`
    PNE(α) = (p(α) - p(0)) / (ppl(α) / ppl(0))                        :func:`pnes.pnes`, over the strengths α of a `sweep.py`
    PNES = max - min of (tanh(aα) + c)·exp(-bα²), fitted to PNE(α)

:class:`ConceptGuidance` writes plain and guided answers as rows of one batch with the same sampling noise, so that nothing but the
guidance differs, and then reads each token's score for every concept.

What is ours: strengths as shares ρ of each token's norm, s = ρ·‖x‖ (the paper's raw scale is kept beside it), several concepts at
once, rows with strengths of their own, exact spans of the answer's tokens, signs of PCA directions fixed. Left out: the
paper's data sets and its judges.

Module level is free of torch; models come from the registry for the length of a run. Layers are counted from 0.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipelines.concept_guidance.concepts import POSITIONS, Concept, overlaps
from pipelines.concept_guidance.conversation import (
    Sampling,
    context_length,
    fit_history,
    pieces,
    reply_span,
    stop_tokens,
    text_of,
    unknown_words,
)
from pipelines.concept_guidance.layers import choose_layers, layer_text, ranges
from pipelines.concept_guidance.vectors import find_concepts, parts
from pipelines.core import limits
from pipelines.core.paper import Paper
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.models.language import MODELS, language_model
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipelines.concept_guidance.steering import Guide
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

PAPER = Paper(
    title="A Language Model’s Guide Through Latent Space",
    authors=("Dimitri von Rütte", "Sotiris Anagnostidis", "Gregor Bachmann", "Thomas Hofmann"),
    venue="ICML 2024",
    url="https://arxiv.org/abs/2402.14433",
    summary="The model’s hidden states are pushed along a concept while it writes, and its answers change.",
    idea=(
        "Inside a language model, a concept such as humour is a direction. Learn it from a few hundred labelled "
        "answers, push the model along it while it writes, and the answers change; push too hard and they fall apart."
    ),
    ours=(
        "The code, the embedded language model with its little language and exact parser, its vectors, and the measurements."
    ),
    theirs="The method (probes, norm-preserving guidance, PNES) and, with the full set, the vectors for Llama 2 and Mistral.",
    licence="Code and embedded weights Apache-2.0; the authors’ code and vectors are MIT; the full set’s models have their own.",
    code_url="https://github.com/dvruette/concept-guidance",
)

CAP = 1.0
"""Strengths of several concepts may add up to this many norms; more is scaled down together."""
MESSAGE_MAX = 4000
"""Characters of a message."""
MODES = {"share": "share of each token’s norm", "raw": "the paper’s raw scale"}
"""What a strength is measured in: key -> words of the page."""
EMIT_EVERY_S = 0.04
"""Partial texts are sent at most this often: a page cannot show more, and it would slow a small model down."""


@dataclass(frozen=True, kw_only=True)
class OfModel(Declared):
    """What everything that a language model does here is asked with."""

    seed: int = seed()
    model_set: str = choice("Model set", "mini", MODELS, name="The model set", shown=False)
    model: str = ""
    """Name of a model of the set; empty means its default."""

    def validated(self) -> Self:
        """These settings with exact types and the model's name; ``ValueError``, one sentence, for what is wrong."""
        model = language_model(self.field("model_set").check(self.model_set), self.model)
        return super(OfModel, replace(self, model=model.name)).validated()


@dataclass(frozen=True, kw_only=True)
class Answering(OfModel):
    """How answers are written.

    ``layers`` is "best", "best 4", "all", a range "2-5" or a list "1, 3, 4"; empty means the model's own
    (:attr:`pipelines.models.language.LanguageModel.layers`).
    """

    layers: str = text(
        "Layers",
        2000,
        default="",
        info="best, best 3, all, a range such as 2-4, or a list such as 1, 3; the first is 0",
    )
    temperature: float = real("Temperature", 0.7, 0.0, 2.0, step=0.05)
    max_tokens: int = whole("Most tokens of an answer", 96, 1, 1024, name="number of tokens", offered=(1, 512))

    def validated(self) -> Self:
        own = language_model(self.field("model_set").check(self.model_set), self.model).layers
        return super(Answering, replace(self, layers=layer_text(own if self.layers == "" else self.layers))).validated()


@dataclass(frozen=True)
class Settings(Answering):
    """Everything that decides an answer; the same settings give the same texts on the same machine.

    ``history`` and ``guided_history`` are earlier turns ({"role", "content"}) of the plain and of the guided side; the
    latter may be None when both are the same. ``concepts`` are pairs of a name and a strength: a share of each token's
    norm, or, in the mode "raw", the paper's scale. Every number in ``levels`` gives one guided row with that multiple of
    the strengths.
    """

    message: str = text(
        "Your message",
        MESSAGE_MAX,
        "The message is empty: write something to the model, or press an example.",
        name="message",
    )
    concepts: tuple[tuple[str, float], ...] = ()
    history: tuple[dict[str, str], ...] = ()
    guided_history: tuple[dict[str, str], ...] | None = None
    mode: str = choice("Strength means", "share", MODES, name="The mode")
    positions: str = choice("Guide at", "all", POSITIONS, name="The positions")
    levels: tuple[float, ...] = (1.0,)
    top_p: float = real("Top-p", 0.95, 0.05, 1.0, step=0.05)

    HISTORY_MAX: ClassVar[int] = 100_000
    TURNS_MAX: ClassVar[int] = 200
    CONCEPTS_MAX: ClassVar[int] = 4
    NAME_MAX: ClassVar[int] = 60
    LEVELS_MAX: ClassVar[int] = 6
    LEVEL: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    STRENGTH: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    RAW: ClassVar[tuple[float, float]] = (-512.0, 512.0)

    @classmethod
    def of(cls, model_set: str) -> Settings:
        """The defaults of a model set, with a question to begin with."""
        model = language_model(model_set)
        longest = cls.max_tokens if model.folder else 160  # a model of the world at large has more to say
        return cls(crumpet.EXAMPLES[0], layers=model.layers, max_tokens=longest, model_set=model_set, model=model.name)

    def validated(self) -> Settings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        made = super(Settings, replace(self, message=limits.content("message", self.message))).validated()
        levels = self.levels if isinstance(self.levels, list | tuple) else (self.levels,)
        if not 1 <= len(levels) <= self.LEVELS_MAX:
            raise ValueError(f"There are {len(levels):,} levels: give 1 to {self.LEVELS_MAX} of them.")
        return replace(
            made,
            concepts=self._concepts(),
            history=self._turns(self.history),
            guided_history=None if self.guided_history is None else self._turns(self.guided_history),
            levels=tuple(float(limits.number("level", level, *self.LEVEL)) for level in levels),
        )

    def _concepts(self) -> tuple[tuple[str, float], ...]:
        given = list(self.concepts.items()) if isinstance(self.concepts, Mapping) else self.concepts
        found: dict[str, float] = {}
        if isinstance(given, list | tuple) and len(given) > self.CONCEPTS_MAX:
            raise ValueError(
                f"There are {len(given):,} concepts, at most {self.CONCEPTS_MAX} can be mixed: leave some out."
            )
        for pair in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError(
                    f"A concept is {limits.described(pair)}: give pairs of a name and a strength, such as ('humour', 0.3)."
                )
            name = limits.text("concept's name", pair[0], self.NAME_MAX, "A concept has no name: give it one.")
            bounds = self.RAW if self.mode == "raw" else self.STRENGTH
            strength = float(limits.number(f"strength of {name}", pair[1], *bounds))
            if name in found:
                raise ValueError(f"The concept {name} is there twice: give each once.")
            found[name] = strength
        return tuple(found.items())

    def _turns(self, turns: object) -> tuple[dict[str, str], ...]:
        if not isinstance(turns, list | tuple):
            raise ValueError(f"The history is {limits.described(turns)}: give a list of turns with role and content.")
        if len(turns) > self.TURNS_MAX:
            raise ValueError(
                f"The history has {len(turns):,} turns, at most {self.TURNS_MAX} are allowed: start a new conversation."
            )
        kept, size = [], 0
        for number, turn in enumerate(turns, 1):
            name = f"turn {number} of the history"
            if not isinstance(turn, Mapping):
                raise ValueError(f"The {name} is {limits.described(turn)}: give an object with a role and a content.")
            limits.choice(f"The role of {name}", turn.get("role"), ("system", "user", "assistant"))
            said = limits.plain(name, limits.content(name, turn.get("content")), self.HISTORY_MAX)
            kept.append({"role": turn["role"], "content": said})
            size += len(said)
        if size > self.HISTORY_MAX:
            raise ValueError(
                f"The history has {size:,} characters, at most {self.HISTORY_MAX:,} are allowed: start a new conversation."
            )
        return tuple(kept)


@dataclass(frozen=True)
class Partial:
    """All rows' texts so far, the plain one first, and how many tokens the longest has."""

    texts: tuple[str, ...]
    tokens: int


@dataclass
class Row:
    """One finished answer. ``scores``: concept -> [layer][token] in (-1, 1), seen by the unguided model."""

    level: float
    strengths: dict[str, float]
    """As applied, after the cap."""
    text: str
    tokens: list[str]
    scores: dict[str, list[list[float]]]
    perplexity: float | None
    """Of the answer under the unguided model; None when it is empty."""
    complete: bool
    """Whether the model ended it, rather than the limit of tokens."""


@dataclass
class Outcome:
    """A finished run: the plain row, then one per level; what was left out or changed; what was measured."""

    settings: Settings
    rows: list[Row]
    applied: str
    """What was done, in words: "humour +0.35 · layers 2-5 · pre-attn"."""
    notices: list[str]
    measurements: dict[str, Any]


class ConceptGuidance:
    """A language model that answers plain and guided at once. Holds leased parts only; makes no change to them."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from pipelines.concept_guidance.steering import anatomy

        self.model, self.tokenizer = model, tokenizer
        self.body = anatomy(model)

    def __call__(self, run: Run[Settings], concepts: Sequence[Concept]) -> Outcome:
        """The answers that the run's settings ask for; ``concepts`` are theirs, in the same order."""
        settings = run.settings
        strengths = applied_strengths(run)
        layers = {c.name: choose_layers(settings.layers, self.body.layers, c.validation_accuracy) for c in concepts}
        for notice in (
            *(n for c in concepts for n in c.notices),
            *overlaps(concepts, layers),
            *self.lost_words(settings.message),
        ):
            run.note(notice)
        guide = self.guide(settings, concepts, layers, strengths)
        prompts = self.prompts(run, len(strengths))
        limit = min(settings.max_tokens, context_length(self.model) - max(map(len, prompts)))
        report = Report(run.job, self.tokenizer, limit)
        with run.stage("writing"):
            written = self.write(settings, prompts, guide, report)
        report(written, ended=True)  # before the answers are read, which takes a while
        run.progress(1.0, "reading the answers")
        rows = [
            self.read([*prompt, *ids], len(prompt), concepts, level, row, limit)
            for level, row, prompt, ids in zip((0.0, *settings.levels), strengths, prompts, written, strict=True)
        ]
        seconds, longest = run.seconds["writing"], max(map(len, written), default=0)
        measurements = run.measurements(
            seconds=round(seconds, 3),
            first_token_seconds=None if report.first is None else round(report.first, 3),
            tokens=[len(ids) for ids in written],
            prompt_tokens=[len(ids) for ids in prompts],
            tokens_per_second=round(longest / max(seconds, 1e-9), 1),
            layers={name: list(chosen) for name, chosen in layers.items()},
        )
        notices = measurements.pop("notes")
        return Outcome(settings, rows, describe(settings, strengths[-1], concepts, layers), notices, measurements)

    def guide(
        self,
        settings: Settings,
        concepts: Sequence[Concept],
        layers: Mapping[str, Sequence[int]],
        strengths: Sequence[Mapping[str, float]],
    ) -> Guide | None:
        """What is added to each row at each layer; None where nothing is."""
        from pipelines.concept_guidance.steering import Guide, Push

        raw = settings.mode == "raw"
        pushes = [Push(c, tuple(row[c.name] for row in strengths), tuple(layers[c.name]), raw) for c in concepts]
        guide = Guide(self.model, pushes, len(strengths), settings.positions)
        return guide if guide.edits else None

    def prompts(self, run: Run[Settings], rows: int) -> list[list[int]]:
        """Token ids of every row's prompt, the plain one first; with a note of the old turns that were dropped to make room."""
        settings = run.settings
        plain, dropped = self._prompt(settings, settings.history)
        guided = plain
        if settings.guided_history is not None:
            guided, more = self._prompt(settings, settings.guided_history)
            dropped = max(dropped, more, key=len)
        if dropped:
            first, last = (limits.shown(dropped[place]["content"], 40) for place in (0, -1))
            run.note(
                f"The conversation is longer than the model can read: its oldest {len(dropped)} turns were left out, from "
                f"“{first}” to “{last}”."
            )
        return [plain] + [guided] * (rows - 1)

    def _prompt(self, settings: Settings, history: Sequence[dict[str, str]]) -> tuple[list[int], list[dict[str, str]]]:
        longest = context_length(self.model)
        messages = [*history, {"role": "user", "content": settings.message}]
        _, ids, dropped = fit_history(self.tokenizer, messages, max(longest - settings.max_tokens, longest // 2))
        first = int(messages[0]["role"] == "system")
        return ids, messages[first : first + dropped]

    def write(
        self, settings: Settings, prompts: list[list[int]], guide: Guide | None, report: Report
    ) -> list[list[int]]:
        """The answers' token ids, all rows in one batch under the same sampling noise."""
        from pipelines.concept_guidance.steering import decode

        sampling = Sampling(settings.temperature, settings.top_p, report.limit, noise_seed(settings))
        stops = stop_tokens(self.model, self.tokenizer)
        return decode(self.model, prompts, sampling, guide, stops, on_step=report)

    def read(
        self,
        ids: list[int],
        start: int,
        concepts: Sequence[Concept],
        level: float = 0.0,
        strengths: dict[str, float] | None = None,
        limit: float = math.inf,
    ) -> Row:
        """What the unguided model sees in the answer ``ids[start:]``; one of ``limit`` tokens or more was cut."""
        from pipelines.concept_guidance.steering import read

        seen = read(self.model, ids, start, concepts)
        answer = ids[start:]
        text = text_of(self.tokenizer, answer).strip()
        perplexity = None if seen.perplexity is None else round(seen.perplexity, 3)
        tokens = pieces(self.tokenizer, answer)
        return Row(level, strengths or {}, text, tokens, seen.scores, perplexity, len(answer) < limit)

    def score(self, text: str, question: str, concepts: Sequence[Concept]) -> Row:
        """:meth:`read` of a text as the answer to a question.

        Raises:
            ValueError: longer than the model can read.
        """
        span, longest = (
            reply_span(self.tokenizer, [{"role": "user", "content": question}], text),
            context_length(self.model),
        )
        if span.stop > longest:
            raise ValueError(
                f"The text has {span.stop - span.start:,} tokens and this model reads {longest:,} with the question: shorten it."
            )
        return self.read(span.ids[: span.stop], span.start, concepts)

    def lost_words(self, text: str) -> list[str]:
        """A notice of the words that a small vocabulary has no token for."""
        lost = list(unknown_words(self.tokenizer, text).items())[:8]
        words = [f"“{word}”" + (f" (nearest: {', '.join(near)})" if near else "") for word, near in lost]
        return [f"The model does not know {', '.join(words)}: it was trained on a small language."] if words else []


@dataclass
class Report:
    """Called after every token: notices Stop, and sends the texts so far, not more often than a page can show."""

    job: Job
    tokenizer: Any
    limit: int
    """Most tokens of an answer."""
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    """Seconds until the first texts were sent."""
    last: float = -math.inf

    def __call__(self, rows: Sequence[Sequence[int]], ended: bool = False) -> None:
        self.job.check()
        now = time.perf_counter()
        if now - self.last < EMIT_EVERY_S and not ended:
            return
        self.first = now - self.began if self.first is None else self.first
        self.last, count = now, max(map(len, rows))
        texts = (text_of(self.tokenizer, ids).rstrip("\ufffd") for ids in rows)
        self.job.emit(Partial(tuple(texts), count))


def generate(job: Job, registry: Registry, settings: Settings, own: Mapping[str, Concept] | None = None) -> Outcome:
    """Answer ``settings.message`` plain and guided in one batch; called on the lane's thread.

    Emits progress and :class:`Partial` texts, and ends within one token when the job is stopped. ``own`` are concepts
    by name that go before the shipped ones.

    Raises:
        ValueError: settings outside their limits, an unknown concept, vectors that do not fit the model.
    """
    run = Run(job, registry, settings)
    model = language_model(run.settings.model_set, run.settings.model)
    names = [name for name, _ in run.settings.concepts]

    def work(vectors: dict[str, Concept], **leased: Any) -> Outcome:
        return ConceptGuidance(**leased)(run, find_concepts(model, names, vectors, own))

    smaller = "start a new conversation or ask for fewer tokens"
    return run.lease(parts(model), work, loading=model.title, smaller=smaller)


@dataclass(frozen=True)
class ScoreSettings(OfModel):
    """A text that is read for ``concepts`` (names) as if the unguided model had answered ``question`` with it."""

    answer: str = text(
        "Text to read",
        MESSAGE_MAX,
        "There is no text to read: paste one, or let the model answer first.",
        name="text",
    )
    concepts: tuple[str, ...] = ()
    question: str = text("The question that it answers (may be empty)", MESSAGE_MAX, name="question", default="")


def score_text(job: Job, registry: Registry, settings: ScoreSettings, own: Mapping[str, Concept] | None = None) -> Row:
    """Read a text token by token; called on the lane's thread.

    Raises:
        ValueError: an empty or overlong text, one longer than the model can read, an unknown concept.
    """
    run = Run(job, registry, settings)
    model, question = language_model(run.settings.model_set, run.settings.model), run.settings.question.strip()

    def work(vectors: dict[str, Concept], **leased: Any) -> Row:
        concepts = find_concepts(model, run.settings.concepts, vectors, own)
        run.progress(0.5, "reading the text")
        return ConceptGuidance(**leased).score(run.settings.answer, question or model.neutral_prompt, concepts)

    return run.lease(parts(model), work, loading=model.title, smaller="give a shorter text")


def noise_seed(settings: Settings) -> int:
    """The seed of the sampling noise: of the seed and the message, or else every question would begin with the same words."""
    return settings.seed + zlib.crc32(settings.message.encode())


def applied_strengths(run: Run[Settings]) -> list[dict[str, float]]:
    """Strengths of every row (the plain one first: zeros), with a note if they had to be scaled down to :data:`CAP`."""
    settings, scale = run.settings, 1.0
    total = sum(abs(strength) for _, strength in settings.concepts)
    if settings.mode == "share" and total > CAP + 1e-9:
        scale = CAP / total
        run.note(f"The strengths add up to {total:.2f}, at most {CAP:g} is applied: all were scaled down together.")
    if not settings.concepts:
        run.note("No concept is chosen: both answers are the same.")
    return [
        {name: level * strength * scale for name, strength in settings.concepts} for level in (0.0, *settings.levels)
    ]


def describe(
    settings: Settings, strengths: Mapping[str, float], concepts: Sequence[Concept], layers: Mapping[str, Sequence[int]]
) -> str:
    """What the last row got, in words, as a status line shows it."""
    if not concepts:
        return "unguided"
    unit = " raw" if settings.mode == "raw" else ""
    at = {name: ranges(layers[name]) for name in strengths}
    shared = len(set(at.values())) == 1
    mixed = ", ".join(
        f"{name} {value:+.2f}{unit}" + ("" if shared else f" at layers {at[name]}") for name, value in strengths.items()
    )
    places = sorted({concept.representation for concept in concepts})
    together = f" · layers {next(iter(at.values()))}" if shared else ""
    where = "" if settings.positions == "all" else " · answer only"
    return f"{mixed}{together} · {' and '.join(places)}{where}"
