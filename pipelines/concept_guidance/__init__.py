"""A Language Model's Guide Through Latent Space (von Rütte et al., ICML 2024, arXiv 2402.14433), usable.

A concept such as humour is a direction in a language model's hidden states. It is found in labelled answers by one of
three probes, one direction per layer (`pipelines/concept_guidance/probes.py`), and added while the model writes, with each token's norm
restored (:func:`pipelines.concept_guidance.steering.guided`). :func:`generate` writes plain and guided answers as rows of one batch with
the same sampling noise, so that nothing but the guidance differs. How well a concept guides is the paper's PNES,
:func:`pnes`: effect divided by what it costs in perplexity, fitted over a :func:`sweep` of strengths.

What is ours: strengths as shares ρ of each token's norm (the paper's raw scale is kept beside it), several concepts at
once, rows with strengths of their own, exact spans of the answer's tokens, signs of PCA directions fixed. Left out: the
paper's data sets and its judges.

Module level is free of torch; models come from the registry for the length of a run. Layers are counted from 0.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import random
import re
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.concept_guidance.files import (
    EXAMPLES_MAX,
    Concept,
    Example,
    check_examples,
    examples_of,
    read_concept,
    read_examples,
)
from pipelines.concept_guidance.pnes import Pnes, pnes
from pipelines.core import asset_files, limits
from pipelines.core.paper import Paper
from pipelines.core.registry import ROOT, ModelSpec, resolve
from pipelines.models.sdxl import asset_spec, manifest

__all__ = [
    "MODELS", "PAPER", "PROBES", "REPRESENTATIONS", "Outcome", "Partial", "Pnes", "Row", "Settings", "SweepPoint",
    "TrainSettings", "Trained", "answer", "bench_guided_speed", "choose_layers", "generate", "pnes", "safe_range",
    "score_text", "similarity", "specs", "sweep", "train", "train_concept",
]  # fmt: skip

if TYPE_CHECKING:
    from pipelines.concept_guidance.steering import Reading, Sampling, Span
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

PAPER = Paper(
    title="A Language Model’s Guide Through Latent Space",
    authors=("Dimitri von Rütte", "Sotiris Anagnostidis", "Gregor Bachmann", "Thomas Hofmann"),
    venue="ICML 2024",
    url="https://arxiv.org/abs/2402.14433",
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

PROBES = ("dim", "logistic", "pca")
REPRESENTATIONS = ("pre-attn", "hiddens", "heads", "post-attn", "mlp", "queries", "keys", "values")
POSITIONS = ("all", "answer", "last")
STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""The strengths of a sweep unless others are given."""
CAP = 1.0
"""Strengths of several concepts may add up to this many norms; more is scaled down together."""
OVERLAP = 0.6
"""Mean cosine from which two concepts are called overlapping."""
PERPLEXITY_AMBER, PERPLEXITY_RED = 1.25, 2.0
"""Perplexity against the unguided model's from which fluency suffers, and from which it breaks."""
EMIT_EVERY_S = 0.04
"""Partial texts are sent at most this often: a page cannot show more, and it would slow a small model down."""


# ------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Settings:
    """Everything that decides an answer; the same settings give the same texts on the same machine.

    ``history`` and ``guided_history`` are earlier turns ({"role", "content"}) of the plain and of the guided side; the
    latter may be None when both are the same. ``concepts`` are pairs of a name and a strength: a share of each token's
    norm, or, in the mode "raw", the paper's scale. Every number in ``levels`` gives one guided row with that multiple of
    the strengths. ``layers`` is "best", "best 4", "all", a range "2-5" or a list "1, 3, 4"; empty means the model's own
    (:attr:`LanguageModel.layers`).
    """

    message: str
    concepts: tuple[tuple[str, float], ...] = ()
    history: tuple[dict[str, str], ...] = ()
    guided_history: tuple[dict[str, str], ...] | None = None
    layers: str = ""
    mode: str = "share"
    positions: str = "all"
    levels: tuple[float, ...] = (1.0,)
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 96
    model_set: str = "mini"
    model: str = ""

    MESSAGE_MAX: ClassVar[int] = 4000
    HISTORY_MAX: ClassVar[int] = 100_000
    TURNS_MAX: ClassVar[int] = 200
    CONCEPTS_MAX: ClassVar[int] = 4
    NAME_MAX: ClassVar[int] = 60
    LEVELS_MAX: ClassVar[int] = 6
    LEVEL: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    STRENGTH: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    RAW: ClassVar[tuple[float, float]] = (-512.0, 512.0)
    SEED: ClassVar[tuple[int, int]] = (0, 2**31 - 1)
    TEMPERATURE: ClassVar[tuple[float, float]] = (0.0, 2.0)
    TOP_P: ClassVar[tuple[float, float]] = (0.05, 1.0)
    MAX_TOKENS: ClassVar[tuple[int, int]] = (1, 1024)

    def validated(self) -> Settings:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        empty = "The message is empty: write something to the model, or press an example."
        message = limits.text("message", limits.content("message", self.message), self.MESSAGE_MAX, empty)
        limits.choice("The mode", self.mode, ("share", "raw"))
        limits.choice("The positions", self.positions, POSITIONS)
        limits.choice("The model set", self.model_set, MODELS)
        levels = self.levels if isinstance(self.levels, list | tuple) else (self.levels,)
        if not 1 <= len(levels) <= self.LEVELS_MAX:
            raise ValueError(f"There are {len(levels):,} levels: give 1 to {self.LEVELS_MAX} of them.")
        return Settings(
            message.strip(),
            self._concepts(),
            self._turns(self.history),
            None if self.guided_history is None else self._turns(self.guided_history),
            layer_text(language_model(self.model_set, self.model).layers if self.layers == "" else self.layers),
            self.mode,
            self.positions,
            tuple(float(limits.number("level", level, *self.LEVEL)) for level in levels),
            int(limits.number("seed", self.seed, *self.SEED, whole=True)),
            float(limits.number("temperature", self.temperature, *self.TEMPERATURE)),
            float(limits.number("top-p", self.top_p, *self.TOP_P)),
            int(limits.number("number of tokens", self.max_tokens, *self.MAX_TOKENS, whole=True)),
            self.model_set,
            language_model(self.model_set, self.model).name,
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

    def _turns(self, turns: Any) -> tuple[dict[str, str], ...]:
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


LAYERS_MAX = 256
_LAYERS = re.compile(r"(best)(?: (\d{1,3}))?|(all)|(\d{1,3}) ?[-–] ?(\d{1,3})|(\d{1,3}(?:, ?\d{1,3})*)")


def layer_text(choice: Any) -> str:
    """A choice of layers in its text form; a whole number n means "best n", a list of numbers themselves."""
    given, layers = choice, [choice] if isinstance(choice, int) else choice
    if isinstance(layers, list | tuple):
        known = len(layers) <= LAYERS_MAX and all(limits.is_number(n) and n in range(1000) for n in layers)
        choice = ("best " if layers is not choice else "") + ", ".join(f"{n:g}" for n in layers) if known else None
    if not isinstance(choice, str) or len(choice) > 2000 or not _LAYERS.fullmatch(choice.strip().lower()):
        raise ValueError(
            f"The layers are {limits.described(given)}: give best, best 4, all, a range such as 2-5 or a list such as 1, 3, 4."
        )
    return choice.strip().lower()


def choose_layers(choice: Any, count: int, accuracy: Sequence[float] = ()) -> tuple[int, ...]:
    """The layers that a choice means for a model of ``count`` layers.

    "best k" takes the k layers of the highest ``accuracy`` (validation, where the paper's code looks at training), by
    default half of all, never the first; without accuracies, the last k.

    Raises:
        ValueError: no layer of that number, or not a choice.
    """
    best, number, everything, low, high, some = _LAYERS.fullmatch(layer_text(choice)).groups()  # type: ignore[union-attr]
    if everything:
        return tuple(range(count))
    if best:
        wanted = int(number) if number else max(count // 2, 1)
        if not 1 <= wanted <= max(count - 1, 1):
            raise ValueError(
                f"best {wanted} is out of reach: this model has {count} layers, the first of which is left out."
            )
        value = list(accuracy) if len(accuracy) == count else list(range(count))
        ranked = sorted(range(min(1, count - 1), count), key=lambda layer: (-value[layer], layer))
        return tuple(sorted(ranked[:wanted]))
    chosen = range(int(low), int(high) + 1) if low else sorted({int(part) for part in some.split(",")})
    if not chosen or chosen[-1] >= count:
        raise ValueError(f"The layers {layer_text(choice)} do not exist: this model has the layers 0 to {count - 1}.")
    return tuple(chosen)


# -------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class LanguageModel:
    """A model that can be guided: its parts for the registry, and what is known about guiding it."""

    name: str
    title: str
    licence: str
    parts: tuple[ModelSpec, ...]
    """Model, tokenizer, vectors."""
    folder: str = ""
    """Folder of a shipped model, whose manifest holds its measurements."""
    raw_limit: float = 64.0
    """The paper's demo lets its scale go this far; it differs by model because the norms do."""
    layers: str = "best"
    neutral_prompt: str = "Hello"
    """Stands in for the prompt of examples that have none."""
    download: str = ""
    """What choosing it would fetch, in words; empty where everything is shipped."""


def _load_part(spec: ModelSpec) -> Any:
    """Loader of every part: the model in the spec's dtype and eval mode, its tokenizer, or its concept vectors."""
    part = spec.key.rsplit("/", 1)[1]
    if part == "vectors":
        return _load_vectors(spec)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve(spec)
    if part == "tokenizer":
        return AutoTokenizer.from_pretrained(folder)
    precision = "bfloat16" if spec.dtype in QUANTISED else spec.dtype
    options: dict[str, Any] = {"dtype": getattr(torch, precision), "use_safetensors": True}
    if spec.dtype in QUANTISED:
        from transformers import BitsAndBytesConfig

        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16} if spec.dtype == "int4" else {}
        options["quantization_config"] = BitsAndBytesConfig(**{QUANTISED[spec.dtype]: True}, **four)
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval().requires_grad_(False)


def _load_vectors(spec: ModelSpec) -> dict[str, Concept]:
    """Shipped vectors by file name ("humour.dim"). The authors' are taken from a local copy of their repository."""
    if Path(spec.source).parts[:1] == ("assets",):
        resolve(spec)  # says so where the folder is missing
    return {stem: dataclasses.replace(read_concept(path), name=stem) for stem, path in vector_files(spec).items()}


def vector_files(spec: ModelSpec) -> dict[str, Path]:
    """The vector files of a spec of vectors that are here, by name ("humour.dim"); none is opened."""
    source = Path(spec.source)
    if source.parts[:1] == ("assets",):
        folders = [ROOT / source / "vectors"]
    else:
        root = Path(os.environ.get("LATENT_STUDIO_MODELS") or ".") / "concept-guidance"
        folders = [root / name / source.name for name in ("trained_concepts", "concepts")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.safetensors"))}


def _mini() -> LanguageModel:
    folder = "assets/mini_llama"
    parts = tuple(
        asset_spec(f"mini-llama/{part}", folder, _load_part, "vectors" if part == "vectors" else "", card=card)
        for part, card in (
            ("model", "our small language model"), ("tokenizer", "its words"), ("vectors", "its concepts"),
        )
    )  # fmt: skip
    return LanguageModel("mini-llama", "mini-llama (ours)", "Apache-2.0", parts, folder, layers="best 2")


def _hub(
    name: str, source: str, licence: str, size: int, download: str, layers: str = "best", raw_limit: float = 64.0
) -> LanguageModel:
    config, weights, words = "config.json", "*.safetensors", "tokenizer*"
    parts = (
        ModelSpec(
            f"{name}/model", source, _load_part, licence, size, dtype="bfloat16", card=source, files=(config, weights)
        ),
        ModelSpec(f"{name}/tokenizer", source, _load_part, licence, 1 << 20, card="tokenizer", files=(config, words)),
        ModelSpec(
            f"{name}/vectors",
            source,
            _load_part,
            "MIT",
            1 << 22,
            card="the authors’ vectors, if they are here",
            fetch=vector_files,
        ),
    )
    return LanguageModel(name, source, licence, parts, "", raw_limit, layers, "Hello!", download)


QUANTISED = {"int8": "load_in_8bit", "int4": "load_in_4bit"}
"""Precision of a part -> the switch of ``BitsAndBytesConfig``."""


def quantised(model: LanguageModel, dtype: str) -> LanguageModel:
    """The same model with its linear layers in 8 or 4 bits (``dtype``: a key of :data:`QUANTISED`), by bitsandbytes.

    It is quantised while it loads, so the same files are fetched. Never run by us at full size: called experimental.
    """
    bits = int(dtype.removeprefix("int"))
    first, *rest = model.parts
    smaller = dataclasses.replace(
        first, key=first.key.replace("/", f"-{bits}bit/"), dtype=dtype, bytes=first.bytes * bits // 16
    )
    title = f"{model.title}, {bits}-bit (experimental)"
    return dataclasses.replace(model, name=f"{model.name}-{bits}bit", title=title, parts=(smaller, *rest))


def with_quantised(models: Sequence[LanguageModel], installed: bool | None = None) -> tuple[LanguageModel, ...]:
    """``models``, and after each its 8-bit and 4-bit forms where bitsandbytes is installed."""
    if installed is None:
        installed = importlib.util.find_spec("bitsandbytes") is not None
    forms = tuple(QUANTISED) if installed else ()
    return tuple(form for model in models for form in (model, *(quantised(model, dtype) for dtype in forms)))


MODELS: dict[str, tuple[LanguageModel, ...]] = {
    "mini": (_mini(),),
    "full": with_quantised((
        _hub(
            "qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "Apache-2.0", 3_087_000_000,
            "about 3 GB from the Hub on first use; a small GPU, or patience",
        ),
        _hub(
            "mistral-7b-instruct", "mistralai/Mistral-7B-Instruct-v0.1", "Apache-2.0", 14_483_000_000,
            "about 15 GB from the Hub on first use; a GPU with 20 GB", "8-31", 128.0,
        ),
        _hub(
            "llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", "Llama 2 Community License", 13_477_000_000,
            "about 14 GB from the Hub, after accepting Meta’s licence there and logging in; a GPU with 20 GB",
            "16-31", 16.0,
        ),
    )),
}  # fmt: skip
"""The models of each set, the default first. Layers and raw limits of the last two are those of the paper's demo."""


def language_model(model_set: str, name: str = "") -> LanguageModel:
    """The model called ``name`` of a set; an empty name means its default."""
    known = MODELS[model_set]
    found = next((model for model in known if name in ("", model.name)), None)
    if found is None:
        names = ", ".join(model.name for model in known)
        raise ValueError(f"The model {limits.described(name)} is not in the set {model_set}: choose one of {names}.")
    return found


def specs(model_set: str, name: str = "") -> tuple[ModelSpec, ...]:
    """The parts that a run leases: model, tokenizer, vectors."""
    return language_model(model_set, name).parts


def find_concept(known: Mapping[str, Concept], name: str, preferred: Mapping[str, str] | None = None) -> Concept:
    """The concept called ``name``: a file's name ("humour.dim"), or a concept of which a probe is then chosen.

    ``preferred`` names the best probe of a concept, as measured; otherwise the first of :data:`PROBES` that exists.
    """
    choices = [name, f"{name}.{(preferred or {}).get(name, PROBES[0])}", *(f"{name}.{probe}" for probe in PROBES)]
    found = next((known[choice] for choice in choices if choice in known), None)
    if found is None:
        names = ", ".join(sorted({key.split(".")[0] for key in known})) or "none yet, make one or load a file"
        raise ValueError(f"The concept {name[:60]!r} is unknown to this model: it knows {names}.")
    return dataclasses.replace(found, name=name)


def find_concepts(
    model: LanguageModel, names: Sequence[str], vectors: Mapping[str, Concept], own: Mapping[str, Concept] | None = None
) -> list[Concept]:
    """The concepts of these ``names`` among a model's ``vectors`` and the visitor's ``own``, which go first."""
    known, preferred = {**vectors, **(own or {})}, asset_files.strings(manifest(model.folder).get("best"))
    return [find_concept(known, name, preferred) for name in names]


# ---------------------------------------------------------------------------------------- generation


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


def generate(job: Job, registry: Registry, settings: Settings, own: Mapping[str, Concept] | None = None) -> Outcome:
    """Answer ``settings.message`` plain and guided in one batch; called on the lane's thread.

    Emits progress and :class:`Partial` texts, and ends within one token when the job is stopped. ``own`` are concepts
    by name that go before the shipped ones.

    Raises:
        ValueError: settings outside their limits, an unknown concept, vectors that do not fit the model.
    """
    settings = settings.validated()
    chosen = language_model(settings.model_set, settings.model)
    job.progress(0.0, f"loading {chosen.title}")

    def work(model: Any, tokenizer: Any, vectors: dict[str, Concept]) -> Outcome:
        concepts = find_concepts(chosen, [name for name, _ in settings.concepts], vectors, own)
        return answer(job, model, tokenizer, settings, concepts)

    outcome = registry.run(chosen.parts, work, "start a new conversation or ask for fewer tokens")
    outcome.measurements["device"] = registry.device
    outcome.measurements["models"] = [{"key": s.key, "source": s.source, "licence": s.licence} for s in chosen.parts]
    return outcome


def answer(job: Job, model: Any, tokenizer: Any, settings: Settings, concepts: Sequence[Concept]) -> Outcome:
    """:func:`generate` with the model at hand; ``concepts`` in the order of the validated settings'."""
    from pipelines.concept_guidance import steering

    body = steering.anatomy(model)
    strengths, notices = applied_strengths(settings)
    layers = {c.name: choose_layers(settings.layers, body.layers, c.validation_accuracy) for c in concepts}
    notices += [notice for concept in concepts for notice in concept.notices]
    notices += overlaps(concepts, layers) + _lost_words(tokenizer, settings.message)
    pushes = [
        steering.Push(c, tuple(row[c.name] for row in strengths), layers[c.name], settings.mode == "raw")
        for c in concepts
    ]
    guide = steering.Guide(model, pushes, len(strengths), settings.positions)
    plain, dropped = _prompt(model, tokenizer, settings.history, settings)
    ours = plain
    if settings.guided_history is not None:
        ours, more = _prompt(model, tokenizer, settings.guided_history, settings)
        dropped = max(dropped, more, key=len)
    if dropped:
        notices.append(
            f"The conversation is longer than the model can read: its oldest {len(dropped)} turns were left out, from "
            f"“{limits.shown(dropped[0]['content'], 40)}” to “{limits.shown(dropped[-1]['content'], 40)}”."
        )
    prompts = [plain] + [ours] * (len(strengths) - 1)
    limit = min(settings.max_tokens, _context(model) - max(len(plain), len(ours)))
    sampling = steering.Sampling(settings.temperature, settings.top_p, limit, noise_seed(settings))
    began = time.perf_counter()
    first_token: list[float] = []
    made = steering.decode(
        model, prompts, sampling, guide if guide.edits else None, steering.stop_tokens(model, tokenizer),
        on_step=_teller(job, tokenizer, limit, first_token),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    job.progress(1.0, "reading the answers")
    rows = [
        _row(tokenizer, level, row, ids, steering.read(model, [*prompt, *ids], len(prompt), concepts), limit)
        for level, row, prompt, ids in zip((0.0, *settings.levels), strengths, prompts, made, strict=True)
    ]
    steps = max(map(len, made), default=0)
    measurements = {
        "seconds": round(seconds, 3),
        "first_token_seconds": round(first_token[0] - began, 3) if first_token else None,
        "tokens": [len(ids) for ids in made],
        "prompt_tokens": [len(ids) for ids in prompts],
        "tokens_per_second": round(steps / max(seconds, 1e-9), 1),
        "layers": {name: list(chosen) for name, chosen in layers.items()},
        "settings": asdict(settings),
    }
    return Outcome(settings, rows, describe(settings, strengths[-1], concepts, layers), notices, measurements)


def score_text(
    job: Job,
    registry: Registry,
    text: str,
    concepts: Sequence[str],
    prompt: str = "",
    model_set: str = "mini",
    model: str = "",
    own: Mapping[str, Concept] | None = None,
) -> Row:
    """Read a text as if the unguided model had answered ``prompt`` with it; called on the lane's thread.

    Raises:
        ValueError: an empty or overlong text, one longer than the model can read, an unknown concept.
    """
    text = limits.text(
        "text", text, Settings.MESSAGE_MAX, "There is no text to read: paste one, or let the model answer first."
    )
    prompt = limits.plain("question", prompt, Settings.MESSAGE_MAX)
    chosen = language_model(model_set, model)
    job.progress(0.0, f"loading {chosen.title}")

    def work(model: Any, tokenizer: Any, vectors: dict[str, Concept]) -> Row:
        from pipelines.concept_guidance import steering

        found = find_concepts(chosen, concepts, vectors, own)
        asked = [{"role": "user", "content": prompt.strip() or chosen.neutral_prompt}]
        span = steering.reply_span(tokenizer, asked, text)
        if span.stop > _context(model):
            raise ValueError(
                f"The text has {span.stop - span.start:,} tokens and this model reads {_context(model):,} with the "
                "question: shorten it."
            )
        job.progress(0.5, "reading the text")
        return _row(
            tokenizer, 0.0, {}, span.ids[span.start : span.stop],
            steering.read(model, span.ids[: span.stop], span.start, found), _context(model) + 1,
        )  # fmt: skip

    return registry.run(chosen.parts, work, "give a shorter text")


def noise_seed(settings: Settings) -> int:
    """The seed of the sampling noise: of the seed and the message, or else every question would begin with the same words."""
    return settings.seed + zlib.crc32(settings.message.encode())


def _prompt(
    model: Any, tokenizer: Any, history: Sequence[dict[str, str]], settings: Settings
) -> tuple[list[int], list[dict[str, str]]]:
    """Token ids that fit the model's context with the answer to come, and the old turns that were dropped for it."""
    from pipelines.concept_guidance import steering

    longest = _context(model)
    messages = [*history, {"role": "user", "content": settings.message}]
    _, ids, dropped = steering.fit_history(tokenizer, messages, max(longest - settings.max_tokens, longest // 2))
    first = int(messages[0]["role"] == "system")
    return ids, messages[first : first + dropped]


def _context(model: Any) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 2048


def _teller(job: Job, tokenizer: Any, limit: int, first_token: list[float]) -> Callable[[list[list[int]]], None]:
    """An ``on_step`` that notices Stop at every token and sends the texts so far, not more often than a page can show."""
    told = -math.inf

    def tell(rows: list[list[int]]) -> None:
        nonlocal told
        job.check()
        now = time.perf_counter()
        if now - told < EMIT_EVERY_S:
            return
        if not first_token:
            first_token.append(now)
        told, count = now, max(map(len, rows))
        texts = (tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd") for ids in rows)
        job.emit(Partial(tuple(texts), count))
        job.progress(count / limit, f"token {count} of at most {limit}")

    return tell


def _row(tokenizer: Any, level: float, strengths: dict[str, float], ids: list[int], seen: Reading, limit: int) -> Row:
    from pipelines.concept_guidance.steering import pieces

    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    perplexity = None if seen.perplexity is None else round(seen.perplexity, 3)
    return Row(level, strengths, text, pieces(tokenizer, ids), seen.scores, perplexity, len(ids) < limit)


def applied_strengths(settings: Settings) -> tuple[list[dict[str, float]], list[str]]:
    """Strengths of every row (the plain one first: zeros) and a notice if they had to be scaled down to :data:`CAP`."""
    total = sum(abs(strength) for _, strength in settings.concepts)
    scale, notices = 1.0, []
    if settings.mode == "share" and total > CAP + 1e-9:
        scale = CAP / total
        notices.append(
            f"The strengths add up to {total:.2f}, at most {CAP:g} is applied: all were scaled down together."
        )
    if not settings.concepts:
        notices.append("No concept is chosen: both answers are the same.")
    rows = [
        {name: level * strength * scale for name, strength in settings.concepts} for level in (0.0, *settings.levels)
    ]
    return rows, notices


def overlaps(concepts: Sequence[Concept], layers: Mapping[str, Sequence[int]]) -> list[str]:
    """A notice for every two concepts whose directions are nearly the same at the layers that both guide."""
    notices = []
    for n, first in enumerate(concepts):
        for second in concepts[:n]:
            value = similarity(first, second, sorted(set(layers[first.name]) & set(layers[second.name])))
            if value is not None and abs(value) > OVERLAP:
                notices.append(
                    f"{second.name} and {first.name} overlap (cosine {value:+.2f}): a push along one is also a push "
                    f"{'along' if value > 0 else 'against'} the other."
                )
    return notices


def similarity(first: Concept, second: Concept, layers: Sequence[int] | None = None) -> float | None:
    """Mean cosine of two concepts over ``layers`` (all by default); None where they cannot be compared."""
    if first.representation != second.representation or first.weights.shape != second.weights.shape:
        return None
    cosines = (first.unit() * second.unit()).sum(-1)
    chosen = cosines if layers is None else cosines[list(layers)]
    return float(chosen.mean()) if len(chosen) else None


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


def ranges(layers: Sequence[int]) -> str:
    """1, 3, 4, 5 as "1, 3-5"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _lost_words(tokenizer: Any, text: str) -> list[str]:
    from pipelines.concept_guidance.steering import unknown_words

    lost = unknown_words(tokenizer, text)
    if not lost:
        return []
    shown = [f"“{word}”" + (f" (nearest: {', '.join(near)})" if near else "") for word, near in list(lost.items())[:8]]
    return [f"The model does not know {', '.join(shown)}: it was trained on a small language."]


# ---------------------------------------------------------------------------------- concepts of your own


@dataclass(frozen=True)
class TrainSettings:
    """What decides a concept. ``examples`` is pasted text, a file (``Path``), or a list of dicts with the files' keys."""

    examples: str | Path | Sequence[Mapping[str, Any]]
    name: str = "my concept"
    probe: str = "dim"
    representation: str = "pre-attn"
    context: int = 16
    validation: float = 0.2
    seed: int = 0
    model_set: str = "mini"
    model: str = ""

    NAME_MAX: ClassVar[int] = 40
    CONTEXT: ClassVar[tuple[int, int]] = (1, 32)
    VALIDATION: ClassVar[tuple[float, float]] = (0.1, 0.5)

    def validated(self) -> TrainSettings:
        """These settings with exact types; examples are read when training. Raises ``ValueError`` as elsewhere."""
        name = limits.text(
            "name", self.name, self.NAME_MAX, "The concept has no name: give it one, such as pirate talk."
        )
        limits.choice("The probe", self.probe, PROBES)
        limits.choice("The place", self.representation, REPRESENTATIONS)
        limits.choice("The model set", self.model_set, MODELS)
        return dataclasses.replace(
            self,
            name=" ".join(name.split()),
            context=int(limits.number("number of tokens per answer", self.context, *self.CONTEXT, whole=True)),
            validation=float(limits.number("share for validation", self.validation, *self.VALIDATION)),
            seed=int(limits.number("seed", self.seed, *Settings.SEED, whole=True)),
            model=language_model(self.model_set, self.model).name,
        )

    def read(self) -> list[Example]:
        """The examples, checked; errors as in :func:`pipelines.concept_guidance.files.read_examples`."""
        if isinstance(self.examples, str | Path):
            return read_examples(self.examples)
        if len(self.examples) > EXAMPLES_MAX:
            raise ValueError(
                f"There are {len(self.examples):,} examples, at most {EXAMPLES_MAX:,} are read: leave some out."
            )
        rows = [asdict(row) if isinstance(row, Example) else row for row in self.examples]
        return examples_of(enumerate(rows, 1))


@dataclass
class Trained:
    """A new concept, with what to say about it."""

    concept: Concept
    notices: list[str]
    counts: dict[str, int]
    """Examples used: with, without, training, validation, skipped."""
    majority: float
    """Accuracy that the commoner label alone would reach on the validation examples."""
    seconds: float


def train(job: Job, registry: Registry, settings: TrainSettings) -> Trained:
    """Make a concept from labelled examples with a model of the registry; called on the lane's thread."""
    settings = settings.validated()
    examples = settings.read()
    check_examples(examples)
    chosen = language_model(settings.model_set, settings.model)
    job.progress(0.0, f"loading {chosen.title}")

    def work(model: Any, tokenizer: Any, _vectors: Any) -> Trained:
        return train_concept(
            job, model, tokenizer, examples, settings.name, settings.probe, settings.representation,
            settings.context, settings.validation, settings.seed, chosen.neutral_prompt, {"model": chosen.name},
        )  # fmt: skip

    return registry.run(chosen.parts, work, "give fewer or shorter examples")


def train_concept(
    job: Job,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    name: str = "concept",
    probe: str = "dim",
    representation: str = "pre-attn",
    context: int = 16,
    validation: float = 0.2,
    seed: int = 0,
    neutral_prompt: str = "Hello",
    facts: Mapping[str, Any] | None = None,
) -> Trained:
    """A concept vector with its training and validation accuracy per layer, in one pass over the examples.

    Examples are split by prompt, so that no prompt is on both sides; those without a prompt count as prompts of their
    own. With more than four examples of one label to one of the other, both labels are made to weigh the same.

    Raises:
        ValueError: fewer than four examples of a label, the same texts on both sides, no difference found.
    """
    from pipelines.concept_guidance import steering
    from pipelines.concept_guidance.probes import PROBES as FITS
    from pipelines.concept_guidance.probes import accuracy, median_norms

    began = time.perf_counter()
    check_examples(examples)
    used, spans, notices = _spans(tokenizer, examples, context, neutral_prompt, _context(model))
    labels = [example.label for example in used]
    train_side, held = split_by_prompt(used, validation, seed)
    if len({example.prompt for example in used}) == 1 and used[0].prompt:
        notices.append("All examples have the same prompt: they were split one by one, so the accuracy may flatter.")

    def tell(done: int) -> None:
        job.progress(0.9 * done / len(spans), f"reading example {min(done, len(spans))} of {len(spans)}")

    xs = steering.activations(model, spans, representation, on_batch=tell)
    job.progress(0.9, "fitting")
    balance = sorted((sum(labels), len(labels) - sum(labels)))
    if balance[1] > 4 * balance[0]:
        notices.append(f"{balance[1]} examples stand against {balance[0]}: both labels were made to weigh the same.")
    fit = FITS[probe](
        [xs[n] for n in train_side], [labels[n] for n in train_side], balanced=balance[1] > 4 * balance[0], seed=seed
    )
    lost = [layer for layer, row in enumerate(fit.weights) if not row.any()]
    if len(lost) == len(fit.weights):
        raise ValueError(
            "The model sees 0 difference between the two sides, direction undefined: give answers that differ."
        )
    if lost and representation != "heads":
        notices.append(f"No difference was found at layers {ranges(lost)}: nothing is added there.")
    scores = [
        accuracy([fit.predict(xs[n]) for n in side], [labels[n] for n in side]).tolist() for side in (train_side, held)
    ]
    if len(used) < 64 or balance[0] < 32:
        notices.append(f"{len(used)} examples are few: 32 of each kind give a steadier direction.")
    counts = {
        "with": sum(labels), "without": len(labels) - sum(labels), "training": len(train_side),
        "validation": len(held), "skipped": len(examples) - len(used),
    }  # fmt: skip
    known = dict(facts or {}) | {"examples": counts, "seed": seed, "context": context, "template": _template(tokenizer)}
    concept = Concept(
        name, fit.weights, probe, representation, fit.a, fit.b, fit.mean, median_norms([xs[n] for n in train_side]),
        tuple(scores[0]), tuple(scores[1]), known,
    )  # fmt: skip
    positive = sum(labels[n] for n in held) / len(held)
    return Trained(concept, notices, counts, max(positive, 1 - positive), round(time.perf_counter() - began, 3))


def _spans(
    tokenizer: Any, examples: Sequence[Example], context: int, neutral_prompt: str, longest: int
) -> tuple[list[Example], list[Span], list[str]]:
    """The examples that can be used, the tokens to look at in each, and what to say about the rest."""
    from pipelines.concept_guidance import steering

    used, spans, skipped, ends, begins = [], [], [], [], 0
    for example in examples:
        whole = steering.reply_span(tokenizer, example.messages(neutral_prompt), example.completion)
        if whole.stop - whole.start < 2:
            skipped.append(example)
            continue
        used.append(example)
        spans.append(steering.cut(whole, context=context, longest=min(longest, steering.MAX_TOKENS)))
        left_out = whole.ids[whole.start + spans[-1].stop - spans[-1].start : whole.stop]
        ends += [tokenizer.decode(left_out, skip_special_tokens=True).strip()] if left_out else []
        begins += len(whole.ids[: whole.start]) > spans[-1].start
    notices = []
    if skipped:
        names = ", ".join(f"“{(e.completion or e.prompt)[:20]}”" for e in skipped[:3])
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        notices.append(f"Skipped because the answer is empty or one token long: {names}{more} ({len(skipped)} in all).")
        check_examples(used)
    if ends:
        shown = ", ".join(f"“{limits.shown(text, 40)}”" for text in ends[:3])
        notices.append(
            f"The ends of {len(ends)} answers were not read, because the first {min(context, steering.ANSWER_TOKENS)} tokens are looked "
            f"at: {shown}{'' if len(ends) < 4 else ' and so on'}."
        )
    if begins:
        notices.append(f"The beginnings of {begins} conversations were not read: they are longer than the model reads.")
    return used, spans, notices


def split_by_prompt(examples: Sequence[Example], validation: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation examples; a prompt is on one side only.

    Prompts are shuffled by the seed and go to training until it has its share, as in the published code. A split that
    leaves a side without one of the labels is drawn again, if another is to be had.
    """
    keys = [example.prompt or f"\0{n}" for n, example in enumerate(examples)]
    if len(set(keys)) == 1:
        keys = [str(n) for n in range(len(examples))]
    wanted = min(int((1 - validation) * len(examples)), len(examples) - 1)
    for attempt in range(50):
        order = list(dict.fromkeys(keys))
        random.Random(seed + attempt).shuffle(order)
        sizes, training, count = {key: keys.count(key) for key in order}, set(), 0
        for key in order[:-1]:
            if count < wanted:
                training.add(key)
                count += sizes[key]
        sides = (
            [n for n, key in enumerate(keys) if key in training],
            [n for n, key in enumerate(keys) if key not in training],
        )
        if all(len({examples[n].label for n in side}) == 2 for side in sides):
            break
    return sides


def _template(tokenizer: Any) -> str:
    """Fingerprint of the chat template: a vector made under another one may not fit as well."""
    import hashlib

    return hashlib.sha256(str(getattr(tokenizer, "chat_template", None)).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------- sweeps


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
    """Score of every answer that told one."""
    extras: dict[str, float]
    """Means of what else the judge returned, such as the share of grammatical answers."""
    texts: tuple[str, ...]


Judge = Callable[[list[dict[str, str]], str], "float | Mapping[str, float | None]"]
"""(conversation up to the answer, answer) -> score in [0, 1], or several with one called "score"; None where an answer
does not tell, which leaves it out of that mean."""


def sweep(
    job: Job,
    model: Any,
    tokenizer: Any,
    concept: Concept,
    conversations: Sequence[list[dict[str, str]]],
    references: Sequence[Example],
    judge: Judge,
    strengths: Sequence[float] = STRENGTHS,
    layers: Any = "best",
    raw: bool = False,
    positions: str = "all",
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

    sampling = sampling or steering.Sampling()
    chosen = choose_layers(layers, steering.anatomy(model).layers, concept.validation_accuracy)
    prompts = [steering.prompt_ids(tokenizer, conversation) for conversation in conversations]
    spans = [steering.reply_span(tokenizer, example.messages(), example.completion) for example in references]
    stops = steering.stop_tokens(model, tokenizer)
    points: list[SweepPoint] = []

    def guide(strength: float, rows: int) -> Any:
        return steering.Guide(model, [steering.Push(concept, (strength,) * rows, chosen, raw)], rows, positions)

    for strength in sorted(strengths, key=lambda s: (abs(s), s)):
        ids: list[list[int]] = []
        for first in range(0, len(prompts), batch):
            job.progress(
                (len(points) + first / len(prompts)) / len(strengths), f"strength {strength:+.2f}, answer {first + 1}"
            )
            part = prompts[first : first + batch]
            ids += steering.decode(
                model, part, sampling, guide(strength, len(part)), stops,
                range(first, first + len(part)), lambda rows: job.check(),
            )  # fmt: skip
        texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
        verdicts = [
            verdict if isinstance(verdict, Mapping) else {"score": float(verdict)}
            for verdict in map(judge, conversations, texts)
        ]
        job.check()
        cost = steering.perplexities(model, spans, guide(strength, 1)).mean().item() if spans else math.nan
        values = {name: _told(verdict[name] for verdict in verdicts) for name in verdicts[0]}
        scores = values.pop("score")
        points.append(
            SweepPoint(
                float(strength), _mean(scores), 1.96 * statistics.pstdev(scores) / math.sqrt(len(scores)) if scores
                else math.nan, cost, tuple(scores), {name: _mean(told) for name, told in values.items()}, tuple(texts),
            )
        )  # fmt: skip
        (on_point or job.emit)(points[-1])
    return sorted(points, key=lambda point: point.strength)


def _told(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


GRAMMAR = 0.9
"""A strength counts as fluent while at least this share of the unguided answers' grammatical rate is left."""


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


# ------------------------------------------------------------------------------------------ measurement


def bench_guided_speed(
    model: Any = None, tokens: int = 64, repeats: int = 5, prompt: int = 16, concepts: int = 1
) -> dict[str, float]:
    """Tokens per second of one plain stream, one guided, and a pair of both in one batch (per row); and the ratios.

    Half of the layers are guided at the norm before attention. The three take turns; speeds are medians, ratios are
    medians of the ratios within a turn. Without a model, a randomly initialised Llama of 8 layers and width 256 is
    measured. For `tests/bench.py`.
    """
    import torch

    from pipelines.concept_guidance import steering

    if model is None:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=8, num_attention_heads=8,
                num_key_value_heads=4, max_position_embeddings=1024,
            )
        ).eval()  # fmt: skip
    body = steering.anatomy(model)
    generator = torch.Generator().manual_seed(0)
    made = [Concept(f"{n}", torch.randn(body.layers, body.width, generator=generator)) for n in range(concepts)]
    layers = choose_layers("best", body.layers)

    def seconds(strengths: tuple[float, ...]) -> float:
        pushes = [steering.Push(concept, strengths, layers) for concept in made]
        guide = steering.Guide(model, pushes, len(strengths))
        prompts = [[1 + n % 7 for n in range(prompt)]] * len(strengths)
        began = time.perf_counter()
        steering.decode(model, prompts, steering.Sampling(max_tokens=tokens), guide if guide.edits else None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    kinds = {"plain": (0.0,), "guided": (0.2,), "pair": (0.0, 0.2)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(repeats + 1):
        for name in sorted(kinds, reverse=turn % 2 == 0):
            spent = seconds(kinds[name])
            if turn:  # the first round warms up
                taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    return {
        **{f"{name}_tokens_per_second": round(tokens / value, 2) for name, value in median.items()},
        "guided_speed": round(statistics.median(map(truediv, taken["plain"], taken["guided"])), 4),
        "pair_time": round(statistics.median(map(truediv, taken["pair"], taken["plain"])), 4),
    }
