"""The sweep lab of Concept Guidance: what a concept's strength does to the answers, and what it costs in fluency.

:func:`run` answers the same questions at every strength of a scan and reads every answer: the small model's language has
a parser that reads each trait back exactly; for other models and for concepts of one's own, words that the visitor names
are counted. A :class:`Curve` holds what came out, as the page shows it and as `assets/concept_guidance/evaluation.json` keeps it.

Module level is free of torch; models come from the registry for the length of a run.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.concept_guidance import Answering
from pipelines.concept_guidance.conversation import Sampling
from pipelines.concept_guidance.examples import Example, examples_of
from pipelines.concept_guidance.layers import choose_layers, ranges
from pipelines.concept_guidance.pnes import Pnes, pnes
from pipelines.concept_guidance.sweep import SweepPoint, safe_range, sweep
from pipelines.concept_guidance.vectors import find_concepts, parts
from pipelines.core import asset_files
from pipelines.core.run import Run
from pipelines.core.settings import real, text, whole
from pipelines.core.weights import ROOT
from pipelines.models.language import language_model
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipelines.concept_guidance.concepts import Concept
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

REFERENCES = 64
"""Fixed answers over which a sweep's perplexity is the mean."""
MEASURED = ROOT / "assets/concept_guidance/evaluation.json"

QUESTIONS = [
    line.partition(" => ")[::2]
    for line in """\
What is a good way to learn a language? => Speak it a little every day, read what you enjoy, and do not mind mistakes.
How do I boil an egg? => Put it into boiling water for seven minutes, then into cold water, and peel it.
Why is the sky blue? => Air scatters blue light more than red light, so blue reaches us from every side.
What should I cook tonight? => A vegetable curry is quick: fry onion and spices, add vegetables and coconut milk, simmer.
Tell me about the moon. => The moon circles the Earth once in about a month and always shows us the same side.
How can I sleep better? => Keep regular hours, leave the phone in another room, and avoid coffee in the afternoon.
Write a short note to a neighbour about noise. => Dear neighbour, could you turn the music down after ten? Thank you very much.
What is a prime number? => A whole number above one that only one and itself divide without remainder.
Describe a rainy street. => Lamps lie in the puddles, umbrellas pass each other, and a bus sighs at the stop.
How does a bicycle stay up? => A rolling bicycle steers into its lean, by its geometry and by its rider, and so rights itself.
Which pet suits a small flat? => A cat or a pair of guinea pigs: they need little room, but company every day.
What is the capital of Australia? => Canberra is the capital of Australia, not Sydney, which is the largest city.
""".splitlines()
]
"""Plain questions with plain answers, for models of the world at large: ours, and few."""


@dataclass(frozen=True)
class SweepSettings(Answering):
    """What decides a sweep. ``concept`` is a name ("humour", "humour.pca", or one of the visitor's own); ``limit`` is the
    largest strength and ``points`` the odd number of strengths from -limit to limit; ``prompts`` are asked at each.

    ``words`` are counted where no parser reads the concept: an answer scores 1 if one of them, parted by commas, is in it.
    """

    concept: str = text("Concept to sweep", 60, "No concept is chosen: choose one to sweep.", name="concept's name")
    limit: float = real("Largest strength", 0.6, 0.05, 1.0, step=0.05)
    points: int = whole("Number of strengths", 9, 3, 17, step=2)
    prompts: int = whole("Questions at each strength", 16, 4, 200, step=4, offered=(4, 64), name="number of questions")
    words: str = text(
        "Words to count, parted by commas",
        400,
        name="list of words to count",
        default="",
        info="No parser reads this concept: an answer scores 1 if one of these words is in it, otherwise 0.",
    )

    def validated(self) -> SweepSettings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        made = super().validated()
        if made.points % 2 == 0:
            raise ValueError(f"The number of strengths is {made.points}: choose an odd one, so that 0 is among them.")
        if not made.counted and not made.parsed:
            raise ValueError(
                f"Nothing here can judge {made.concept}: name words to count in the answers, parted by commas."
            )
        return replace(made, words=made.words.strip())

    @property
    def strengths(self) -> list[float]:
        """From -limit to limit, evenly."""
        half = self.points // 2
        return [round(self.limit * n / half, 4) for n in range(-half, half + 1)]

    @property
    def counted(self) -> list[str]:
        """The words to count, lower case."""
        return [word.strip().lower() for word in self.words.split(",") if word.strip()]

    @property
    def parsed(self) -> bool:
        """Whether the small model's parser reads this concept."""
        return self.model_set == "mini" and self.concept.split(".")[0] in crumpet.CONCEPTS


# --------------------------------------------------------------------------------------------- judging


def judge_parsed(concept: str, messages: Sequence[Mapping[str, str]], answer: str) -> dict[str, float | None]:
    """What the parser of the small language says of an answer: its trait rate (None where it shows none), 1 if it is
    grammatical, and the share of its facts that are right (None where it states none)."""
    reading = crumpet.parse(answer, messages[-1]["content"])
    right = [claim.right for claim in reading.claims]
    return {
        "score": reading.rates[concept],
        "grammatical": float(reading.grammatical),
        "facts_right": sum(right) / len(right) if right else None,
    }


def judge_words(words: Sequence[str], answer: str) -> dict[str, float | None]:
    """1 if one of ``words`` (lower case) stands in the answer as a whole word, otherwise 0."""
    text = answer.lower()
    found = any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words)
    return {"score": float(found)}


def questions(settings: SweepSettings) -> list[list[dict[str, str]]]:
    """The conversations of a sweep, one question each: held-out ones of the small language, or our plain ones."""
    if settings.model_set == "mini":
        asked = crumpet.held_out_questions(settings.seed + 10_000, settings.prompts)
    else:
        order = [question for question, _ in QUESTIONS]
        random.Random(settings.seed).shuffle(order)
        asked = [order[n % len(order)] for n in range(settings.prompts)]
    return [[{"role": "user", "content": question}] for question in asked]


def references(model_set: str) -> list[Example]:
    """The fixed answers whose perplexity stands for fluency: of speakers of every kind, or our plain ones."""
    if model_set != "mini":
        return [Example(question, answer, 1) for question, answer in QUESTIONS]
    rows: list[dict[str, object]] = []
    for place, concept in enumerate(crumpet.CONCEPTS):
        rows += crumpet.labelled(concept, -(-REFERENCES // len(crumpet.CONCEPTS)), 5_000 + place)
    return examples_of(enumerate(rows[:REFERENCES], 1))


# --------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Curve:
    """A sweep so far or done. Each point is a dict of ``strength``, ``score`` and its interval's half ``spread``,
    ``perplexity`` and, where a parser read the answers, ``grammatical`` and ``facts_right``."""

    settings: SweepSettings
    layers: tuple[int, ...]
    points: tuple[dict[str, float | None], ...]
    texts: dict[float, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """The first answers at every strength, to read."""
    applied: str = ""
    done: bool = False

    def fit(self) -> Pnes | None:
        """The paper's number with its fit; None below three strengths or without scores."""
        return fit(self.points)

    def safe(self) -> tuple[float, float]:
        """The strengths around 0 at which answers stay fluent (:func:`pipelines.concept_guidance.sweep.safe_range`)."""
        return safe(self.points)

    def as_dict(self) -> dict[str, Any]:
        """For downloads: settings, layers, points, the fit and the answers shown."""
        found = self.fit()
        low, high = self.safe()
        return {
            "settings": asdict(self.settings),
            "layers": list(self.layers),
            "points": list(self.points),
            "safe": [low, high],
            "pnes": None if found is None else pnes_dict(found),
            "answers": {str(strength): list(texts) for strength, texts in self.texts.items()},
        }


def point(measured: SweepPoint) -> dict[str, float | None]:
    """A measured strength as a plain dict of rounded numbers."""
    values = {name: getattr(measured, name) for name in ("strength", "score", "spread", "perplexity")}
    return {name: _rounded(value) for name, value in {**values, **measured.extras}.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def fit(points: Sequence[Mapping[str, Any]]) -> Pnes | None:
    """:func:`pnes` of points as dicts; None where there is too little for it."""
    usable = [p for p in points if p["score"] is not None and p["perplexity"]]
    if len(usable) < 3:
        return None
    return pnes(*([float(p[name]) for p in usable] for name in ("strength", "score", "perplexity")))


def safe(points: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """:func:`pipelines.concept_guidance.sweep.safe_range` of points as dicts; (0, 0) without any."""

    def extras(p: Mapping[str, Any]) -> dict[str, float]:
        return {} if p.get("grammatical") is None else {"grammatical": float(p["grammatical"])}

    usable = [
        SweepPoint(float(p["strength"]), 0.0, 0.0, float(p["perplexity"]), (), extras(p), ())
        for p in points
        if p["perplexity"]
    ]
    return safe_range(usable) if usable else (0.0, 0.0)


def pnes_dict(found: Pnes) -> dict[str, Any]:
    """The numbers of a fit that a card shows."""
    return {name: _rounded(getattr(found, name)) for name in ("value", "r_squared", "a", "b", "c", "x_min", "x_max")}


def measured() -> dict[str, Any]:
    """The shipped sweeps of all concepts and probes (see `assets/concept_guidance/evaluate.py`); empty where there are none."""
    return asset_files.facts(MEASURED, "concepts")


# --------------------------------------------------------------------------------------------- running


def run(job: Job, registry: Registry, settings: SweepSettings, own: Mapping[str, Concept] | None = None) -> Curve:
    """Sweep one concept; called on the lane's thread. Emits a :class:`Curve` after every strength, from 0 outwards, so
    that a stopped sweep leaves what it has.

    Raises:
        ValueError: settings outside their limits, an unknown concept, a vector that does not fit the model.
    """
    run = Run(job, registry, settings)
    chosen = language_model(run.settings.model_set, run.settings.model)

    def work(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: dict[str, Concept]) -> Curve:
        (concept,) = find_concepts(chosen, [run.settings.concept], vectors, own)
        return scan(job, model, tokenizer, concept, run.settings)

    return run.lease(parts(chosen), work, loading=chosen.title, smaller="measure with fewer or shorter prompts")


def scan(
    job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, concept: Concept, settings: SweepSettings
) -> Curve:
    """:func:`run` with the model at hand."""
    from pipelines.concept_guidance.steering import anatomy

    layers = choose_layers(settings.layers, anatomy(model).layers, concept.validation_accuracy)
    curve = Curve(settings, layers, (), {}, f"layers {ranges(layers)} · {concept.representation}")

    def show(found: SweepPoint) -> None:
        nonlocal curve
        curve = _with(curve, found)
        job.emit(curve)

    measure(job, model, tokenizer, concept, settings, show)
    return replace(curve, done=True)


def measure(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    concept: Concept,
    settings: SweepSettings,
    on_point: Callable[[SweepPoint], None],
    batch: int = 32,
) -> list[SweepPoint]:
    """The points of a sweep, each handed to ``on_point`` when it is done; ``batch`` answers are written at once."""
    trait, words = settings.concept.split(".")[0], settings.counted

    def judge(messages: list[dict[str, str]], answer: str) -> dict[str, float | None]:
        return judge_words(words, answer) if words else judge_parsed(trait, messages, answer)

    sampling = Sampling(settings.temperature, 0.95, settings.max_tokens, settings.seed)
    asked, fixed = questions(settings), references(settings.model_set)
    how: dict[str, Any] = {
        "strengths": settings.strengths,
        "layers": settings.layers,
        "sampling": sampling,
        "batch": batch,
    }
    return sweep(job, model, tokenizer, concept, asked, fixed, judge, on_point=on_point, **how)


def _with(curve: Curve, found: SweepPoint) -> Curve:
    points = sorted((*curve.points, point(found)), key=lambda p: p["strength"] or 0.0)
    texts = curve.texts | {found.strength: found.texts[:3]}
    return replace(curve, points=tuple(points), texts=texts)
