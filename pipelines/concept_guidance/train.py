"""A concept of one's own: labelled answers in, a direction per layer out, with what one should know of it.

:func:`train_concept` splits the examples by prompt, reads them in one pass, fits a probe at every layer (`probes.py`) and measures it
on the answers that were held out. Module level is free of torch.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.concept_guidance import OfModel
from pipelines.concept_guidance.concepts import PROBES, REPRESENTATIONS, Concept
from pipelines.concept_guidance.conversation import (
    ANSWER_TOKENS,
    MAX_TOKENS,
    Span,
    context_length,
    cut,
    reply_span,
    text_of,
)
from pipelines.concept_guidance.examples import EXAMPLES_MAX, Example, check_examples, examples_of, read_examples
from pipelines.concept_guidance.layers import ranges
from pipelines.concept_guidance.vectors import parts
from pipelines.core import limits
from pipelines.core.run import Run
from pipelines.core.settings import choice, real, text, whole
from pipelines.models.language import language_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipelines.concept_guidance.probes import Fit
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry


@dataclass(frozen=True)
class TrainSettings(OfModel):
    """What decides a concept. ``examples`` is pasted text, a file (``Path``), or a list of dicts with the files' keys; it is
    read when training."""

    examples: str | Path | Sequence[Mapping[str, Any]]
    name: str = text(
        "Name of the concept",
        40,
        "The concept has no name: give it one, such as pirate talk.",
        name="name",
        default="my concept",
    )
    probe: str = choice("Probe", "dim", PROBES, name="The probe", listed=True)
    representation: str = choice(
        "Place",
        "pre-attn",
        REPRESENTATIONS,
        name="The place",
        listed=True,
        info="Vectors can be compared with the shipped ones at the same place only.",
    )
    context: int = whole("Tokens of each answer to look at", 16, 1, 32, name="number of tokens per answer")
    validation: float = real("Share held out", 0.2, 0.1, 0.5, step=0.05, name="share for validation")

    def validated(self) -> TrainSettings:
        made = super().validated()
        return replace(made, name=" ".join(made.name.split()))

    def rows(self) -> list[Example]:
        """The examples, checked; errors as in :func:`pipelines.concept_guidance.examples.read_examples`."""
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
    run = Run(job, registry, settings)
    settings = run.settings
    examples = settings.rows()
    check_examples(examples)
    chosen = language_model(settings.model_set, settings.model)

    def work(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: dict[str, Concept]) -> Trained:
        return train_concept(job, model, tokenizer, examples, settings, chosen.neutral_prompt)

    return run.lease(parts(chosen), work, loading=chosen.title, smaller="give fewer or shorter examples")


def train_concept(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: TrainSettings,
    neutral_prompt: str = "Hello",
) -> Trained:
    """A concept vector with its training and validation accuracy per layer, in one pass over the examples.

    Examples are split by prompt, so that no prompt is on both sides; those without a prompt count as prompts of their
    own. With more than four examples of one label to one of the other, both labels are made to weigh the same.

    Raises:
        ValueError: fewer than four examples of a label, the same texts on both sides, no difference found.
    """
    from pipelines.concept_guidance import probes, steering

    began = time.perf_counter()
    check_examples(examples)
    used, spans, notices = _spans(tokenizer, examples, settings.context, neutral_prompt, context_length(model))
    labels = [example.label for example in used]
    training, held = split_by_prompt(used, settings.validation, settings.seed)
    if len({example.prompt for example in used}) == 1 and used[0].prompt:
        notices.append("All examples have the same prompt: they were split one by one, so the accuracy may flatter.")

    def report(done: int) -> None:
        job.progress(0.9 * done / len(spans), f"reading example {min(done, len(spans))} of {len(spans)}")

    xs = steering.activations(model, spans, settings.representation, on_batch=report)
    job.progress(0.9, "fitting")
    probe = probes.PROBES[settings.probe]
    fit = _fit(probe, [xs[n] for n in training], [labels[n] for n in training], labels, settings, notices)
    train_accuracy, validation_accuracy = (
        tuple(probes.accuracy([fit.predict(xs[n]) for n in side], [labels[n] for n in side]).tolist())
        for side in (training, held)
    )
    sizes = {"training": len(training), "validation": len(held), "skipped": len(examples) - len(used)}
    counts = {"with": sum(labels), "without": len(labels) - sum(labels), **sizes}
    if len(used) < 64 or min(counts["with"], counts["without"]) < 32:
        notices.append(f"{len(used)} examples are few: 32 of each kind give a steadier direction.")
    facts = {"examples": counts, "seed": settings.seed, "context": settings.context, "template": _template(tokenizer)}
    facts |= {"model": settings.model} if settings.model else {}
    norms = probes.median_norms([xs[n] for n in training])
    made = Concept(
        settings.name,
        fit.weights,
        settings.probe,
        settings.representation,
        fit.a,
        fit.b,
        fit.mean,
        norms,
        train_accuracy,
        validation_accuracy,
        facts,
    )
    share = sum(labels[n] for n in held) / len(held)
    return Trained(made, notices, counts, max(share, 1 - share), round(time.perf_counter() - began, 3))


def _fit(
    probe: Callable[..., Fit],
    xs: Sequence[Tensor],
    labels: Sequence[int],
    every: Sequence[int],
    settings: TrainSettings,
    notices: list[str],
) -> Fit:
    """The probe of the training side; with notices where one label of ``every`` example is rare, or layers see nothing."""
    rare, common = sorted((sum(every), len(every) - sum(every)))
    if common > 4 * rare:
        notices.append(f"{common} examples stand against {rare}: both labels were made to weigh the same.")
    fit = probe(xs, labels, balanced=common > 4 * rare, seed=settings.seed)
    lost = [layer for layer, row in enumerate(fit.weights) if not row.any()]
    if len(lost) == len(fit.weights):
        raise ValueError(
            "The model sees 0 difference between the two sides, direction undefined: give answers that differ."
        )
    if lost and settings.representation != "heads":
        notices.append(f"No difference was found at layers {ranges(lost)}: nothing is added there.")
    return fit


def _spans(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], context: int, neutral_prompt: str, longest: int
) -> tuple[list[Example], list[Span], list[str]]:
    """The examples that can be used, the tokens to look at in each, and what to say about the rest."""
    used, spans, skipped, ends, begins = [], [], [], [], 0
    for example in examples:
        whole = reply_span(tokenizer, example.messages(neutral_prompt), example.completion)
        if whole.stop - whole.start < 2:
            skipped.append(example)
            continue
        used.append(example)
        spans.append(cut(whole, context=context, longest=min(longest, MAX_TOKENS)))
        left_out = whole.ids[whole.start + spans[-1].stop - spans[-1].start : whole.stop]
        ends += [text_of(tokenizer, left_out).strip()] if left_out else []
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
            f"The ends of {len(ends)} answers were not read, because the first {min(context, ANSWER_TOKENS)} tokens are looked "
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


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of the chat template: a vector made under another one may not fit as well."""
    return hashlib.sha256(str(getattr(tokenizer, "chat_template", None)).encode()).hexdigest()[:12]
