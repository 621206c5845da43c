"""Read and steer the hidden states of a decoder language model while it runs; generate several rows at once.

    body = anatomy(model)                                         # where the layers and their norms are
    xs = activations(model, [span.ids ...], [(start, stop) ...])  # token vectors per example
    guide = Guide(model, [Push(concept, (0.0, 0.4), layers=(2, 3))], rows=2)
    texts = decode(model, [prompt, prompt], Sampling(seed=7), guide)   # row 0 plain, row 1 guided

Definitions follow Concept Guidance (arXiv 2402.14433) and its published code; :func:`guided` is its equation. A model
is changed by forward hooks only (`pipelines/core/patching.py`), for the length of a call; activations are never edited
in place. Rows of strength 0 keep the model's own output, bit for bit.

Imports torch at module level: for code that runs on the lane only.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from pipelines.concept_guidance.concepts import PLACES, POSITIONS, REPRESENTATIONS, Concept, check_fit
from pipelines.concept_guidance.conversation import Sampling, Span
from pipelines.concept_guidance.probes import Fit, prepared
from pipelines.core.patching import edited_outputs

COLDEST = 1e-8
"""Below this temperature the likeliest token is taken: no noise outweighs a difference that float32 can tell, and logits / temperature
would not be finite."""

# Names by which the common families call their parts: Llama, Mistral, Qwen, Gemma and Phi the first of each.
_NORMS = ("input_layernorm", "ln_1", "attn_norm", "attention_norm")
_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
_MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_QUERIES = ("q_proj", "wq")


# ------------------------------------------------------------------------------------------- anatomy


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where a model's parts are, one module per layer; an empty tuple where a part was not found."""

    kind: str
    blocks: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    queries: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    width: int
    heads: int

    @property
    def layers(self) -> int:
        return len(self.blocks)

    def at(self, representation: str) -> tuple[nn.Module, ...]:
        """The modules whose outputs are the representation, in the order of layers; not for keys and values."""
        found = {
            "pre-attn": self.norms,
            "post-attn": self.attentions,
            "heads": self.attentions,
            "mlp": self.mlps,
            "queries": self.queries,
            "hiddens": (*self.blocks[:-1], self.final_norm) if self.final_norm is not None else (),
        }[representation]
        if not found:
            have = {"mlp": self.blocks[0], "queries": self.attentions[0]}.get(representation)
            seen = ", ".join(name for name, _ in have.named_children()) if have is not None else "no final norm"
            raise ValueError(
                f"{self.kind} has no place for {representation!r} (found: {seen}): choose another, such as pre-attn."
            )
        return found


def anatomy(model: nn.Module) -> Anatomy:
    """Find the decoder blocks of ``model`` and the parts in them, by structure and by their usual names.

    Raises:
        ValueError: one sentence that names what was found, for a model that cannot be steered.
    """
    kind, config = type(model).__name__, _text_config(model)
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    decoders = [(name, part) for name, part in lists if all(_child(block, _ATTENTIONS) is not None for block in part)]
    count = getattr(config, "num_hidden_layers", None)
    decoders = [pair for pair in decoders if count in (None, len(pair[1]))] or decoders
    if not decoders:
        seen = ", ".join(f"{name} of {len(part)} {type(part[0]).__name__}" for name, part in lists[:3]) or "no lists"
        raise ValueError(
            f"{kind} cannot be guided, because no list of blocks that all have attention is in it (found: {seen}): "
            "choose a decoder model such as Llama, Mistral or Qwen."
        )
    name, blocks = decoders[0]
    norms = _children(blocks, _NORMS)
    if not norms:
        seen = ", ".join(child for child, _ in blocks[0].named_children())
        raise ValueError(
            f"{kind} cannot be guided, because its {type(blocks[0]).__name__} has {seen} but no norm before attention "
            f"called {', '.join(_NORMS[:-1])} or {_NORMS[-1]}: choose a decoder model such as Llama, Mistral or Qwen."
        )
    attentions = _children(blocks, _ATTENTIONS)
    return Anatomy(
        kind,
        tuple(blocks),
        norms,
        attentions,
        _children(blocks, _MLPS),
        _children(attentions, _QUERIES),
        _child(model.get_submodule(name.rpartition(".")[0]), _FINAL_NORMS),
        config.hidden_size,
        config.num_attention_heads,
    )


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _child(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((part for part in found if isinstance(part, nn.Module)), None)


def _children(modules: Iterable[nn.Module], names: Sequence[str]) -> tuple[nn.Module, ...]:
    """That child of every module; empty unless all have it."""
    found = [_child(module, names) for module in modules]
    there = tuple(part for part in found if part is not None)
    return there if len(there) == len(found) else ()


# ----------------------------------------------------------------------------------------- activations


@contextlib.contextmanager
def recorded(body: Anatomy, representations: Sequence[str]) -> Iterator[dict[str, Callable[[], Tensor]]]:
    """Inside the block, forwards leave the outputs at these places: representation -> (rows, tokens, layers, dim).

    Call the value after a forward; it stands for the last one. For everything but keys and values.
    """
    modules = {name: body.at(name) for name in representations}
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, output: Tensor | tuple[Any, ...]) -> None:
        seen[module] = output if isinstance(output, Tensor) else output[0]

    def stacked(name: str) -> Tensor:
        x = torch.stack([seen[module] for module in modules[name]], dim=2)
        return x.reshape(*x.shape[:2], -1, body.width // body.heads) if name == "heads" else x

    with edited_outputs([module for found in modules.values() for module in found], keep):
        yield {name: functools.partial(stacked, name) for name in modules}


@torch.inference_mode()
def activations(
    model: nn.Module,
    spans: Sequence[Span],
    representation: str = "pre-attn",
    batch: int = 8,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """Token vectors of every span's answer, (tokens, layers, dim) float32 on the CPU.

    Spans of similar length go through together, filled up on the right, where a causal model does not look.
    For "heads", layers and heads share the second axis: (tokens, layers * heads, width / heads).
    ``on_batch(done)`` is called after each batch with the number of spans that are done, and may raise.
    """
    if representation not in REPRESENTATIONS:
        raise ValueError(f"{representation!r} is no representation: choose one of {', '.join(REPRESENTATIONS)}.")
    body, device = anatomy(model), _device(model)
    cached = representation in ("keys", "values")
    order = sorted(range(len(spans)), key=lambda n: len(spans[n].ids))
    found: list[Tensor] = [torch.empty(0)] * len(spans)
    decoder = getattr(model, "base_model", model)  # without the head: no use for logits here
    with recorded(body, [] if cached else [representation]) as reading:
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            longest = len(spans[chosen[-1]].ids)
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            for row, n in enumerate(chosen):
                ids[row, : len(spans[n].ids)] = torch.tensor(spans[n].ids)
            cache = (
                DynamicCache() if cached else None
            )  # without a configuration: keeps all positions, also for sliding windows
            decoder(input_ids=ids.to(device), past_key_values=cache, use_cache=cached)
            x = reading[representation]() if cache is None else _from_cache(cache, representation)
            for row, n in enumerate(chosen):
                found[n] = x[row, spans[n].start : spans[n].stop].float().cpu()
            on_batch(first + len(chosen))
    return found


def _from_cache(cache: Cache, representation: str) -> Tensor:
    """(rows, tokens, layers, key-value heads * head width)."""
    states = [getattr(layer, representation).transpose(1, 2).flatten(2) for layer in cache.layers]
    return torch.stack(states, dim=2)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


# -------------------------------------------------------------------------------------------- guidance


def guided(x: Tensor, share: Tensor | None, raw: Tensor | None = None, where: Tensor | None = None) -> Tensor:
    """x' = ‖x‖·normalise(x + ‖x‖·share + raw), in float32, returned in the dtype of ``x``; ``x`` is not changed.

    The paper's guidance is ``raw`` = s·w with a unit vector w; ``share`` = ρ·w measures the same push in units of each
    token's own length, so that one strength means the same in every layer and model. ``x`` is (rows, tokens, width);
    ``share``, ``raw`` and the bool ``where`` broadcast to it. Where ``where`` is False, ``x`` is returned as it is.
    """
    if share is None and raw is None:
        return x
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    moved = wide if share is None else torch.addcmul(wide, length, share)
    moved = moved if raw is None else moved + raw
    # `moved` is a new tensor here, so it may be scaled in place. A push that cancels a vector exactly, or a vector of
    # zeros (the embedding of padding is one), gives zeros rather than NaN.
    ratio = length.div_(torch.linalg.vector_norm(moved, dim=-1, keepdim=True).clamp_min_(1e-12))
    moved = moved.mul_(ratio) if x.dtype == torch.float32 else moved.mul_(ratio).to(x.dtype)
    return moved if where is None else torch.where(where, moved, x)


@dataclass(frozen=True, eq=False)
class Push:
    """One concept at some layers, with a strength for every row: a share of each token's norm (ρ), or with ``raw`` the
    paper's scale (s)."""

    concept: Concept
    strengths: tuple[float, ...]
    layers: tuple[int, ...]
    raw: bool = False


@dataclass(eq=False)
class _Edit:
    share: Tensor | None = None
    raw: Tensor | None = None
    rows: Tensor | None = None
    """(rows, 1, 1) bool: rows that are pushed here; None where all are."""


@dataclass(eq=False)
class Guide:
    """What is added where, for each row of a batch; :meth:`applied` puts it on the model for the length of a block.

    ``positions``: "all"; "answer", which begins at the last token of the prompt, because that one picks the answer's
    first; "last", which in each forward is its last position. With a cache "last" and "answer" are the same thing; a
    full forward over a longer text distinguishes them (the published code's ``only_last`` is "last").
    """

    model: nn.Module
    pushes: Sequence[Push]
    rows: int = 1
    positions: str = "all"
    span: Tensor | None = field(default=None, init=False)
    """(rows, tokens, 1) bool, positions of the coming forward that are guided; None where all are."""
    edits: dict[nn.Module, _Edit] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ValueError(f"Positions {self.positions!r} are unknown: choose one of {', '.join(POSITIONS)}.")
        body, device = anatomy(self.model), _device(self.model)
        for push in self.pushes:
            self._add(push, body)
        for edit in self.edits.values():
            edit.share = None if edit.share is None else edit.share[:, None].to(device)
            edit.raw = None if edit.raw is None else edit.raw[:, None].to(device)
            active = edit.rows
            assert active is not None
            edit.rows = None if bool(active.all()) else active[:, None, None].to(device)

    def _add(self, push: Push, body: Anatomy) -> None:
        concept = push.concept
        if concept.representation not in PLACES:
            raise ValueError(
                f"{concept.name} was read at {concept.representation}, where it can detect but not guide: "
                f"make it at {', '.join(PLACES[:-1])} or {PLACES[-1]}."
            )
        check_fit(concept, body.layers, body.width)
        if len(push.strengths) != self.rows:
            raise ValueError(f"There are {len(push.strengths)} strengths for {self.rows} rows: give one for each row.")
        if not all(math.isfinite(s) for s in push.strengths):
            raise ValueError(f"A strength of {concept.name} is not a number: choose one from -1 to 1.")
        unit = concept.unit().float().cpu()
        strengths = torch.tensor(push.strengths)
        modules = body.at(concept.representation)
        for layer in sorted(set(push.layers)):
            if not 0 <= layer < body.layers:
                raise ValueError(f"Layer {layer} does not exist: this model has the layers 0 to {body.layers - 1}.")
            if not strengths.any():
                continue
            edit = self.edits.setdefault(modules[layer], _Edit(rows=torch.zeros(self.rows, dtype=torch.bool)))
            name = "raw" if push.raw else "share"
            before = getattr(edit, name)
            vector = strengths[:, None] * unit[layer]
            setattr(edit, name, vector if before is None else before + vector)
            assert edit.rows is not None
            edit.rows = edit.rows | (strengths != 0)

    @contextlib.contextmanager
    def applied(self) -> Iterator[Guide]:
        """Inside the block the model is guided. Exactly these hooks are gone afterwards, also on error."""
        edits = self.edits

        def fn(module: nn.Module, output: Tensor | tuple[Any, ...]) -> Tensor | tuple[Any, ...]:
            edit, span = edits[module], self.span
            where = edit.rows if span is None else span if edit.rows is None else edit.rows & span
            if isinstance(output, Tensor):
                return guided(output, edit.share, edit.raw, where)
            return (guided(output[0], edit.share, edit.raw, where), *output[1:])

        try:
            with edited_outputs(edits, fn):
                yield self
        finally:
            self.span = None

    def cover(self, tokens: int, answer_starts: int | Sequence[int]) -> None:
        """Set :attr:`span` for a forward over ``tokens`` positions, the prompt of each row ending at ``answer_starts``."""
        if self.positions == "all":
            self.span = None
            return
        starts = [answer_starts] * self.rows if isinstance(answer_starts, int) else list(answer_starts)
        if self.positions == "last":
            starts = [tokens] * self.rows
        first = torch.tensor(starts, device=_device(self.model))[:, None] - 1
        self.span = (torch.arange(tokens, device=first.device) >= first)[:, :, None]


@contextlib.contextmanager
def _maybe(guide: Guide | None) -> Iterator[None]:
    if guide is None:
        yield
    else:
        with guide.applied():
            yield


# ------------------------------------------------------------------------------------------ generation


def pick(logits: Tensor, temperature: float, top_p: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token of each row: (its score, its id), from ``logits`` (rows, vocabulary) float32.

    ``noise`` is standard Gumbel noise; the largest of logits / temperature + noise is a draw from the softmax. Only the
    likeliest tokens that together reach ``top_p`` take part.
    """
    if temperature < COLDEST or noise is None:
        return logits.max(-1)
    scaled = logits / temperature
    if top_p < 1:
        ordered, order = scaled.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -math.inf)
    return (scaled + noise).max(-1)


class _Noise:
    """Gumbel noise for every step, drawn on the CPU. Rows of one stream get the same, whatever runs beside them."""

    def __init__(self, seed: int, streams: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self.names = sorted(set(streams))
        self.generators = [torch.Generator().manual_seed(seed * 1_000_003 + name) for name in self.names]
        self.rows = torch.tensor([self.names.index(name) for name in streams], device=device)
        self.vocabulary, self.device = vocabulary, device

    def draw(self) -> Tensor:
        """(rows, vocabulary) float32."""
        drawn = [torch.empty(self.vocabulary).exponential_(generator=generator) for generator in self.generators]
        noise = torch.stack(drawn).clamp_min(1e-30).to(self.device).log().neg()
        return noise[self.rows]


def _padded_left(prompts: Sequence[Sequence[int]], more: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, longest) that end together, and a mask (rows, longest + ``more``) of what is no filling."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.ones(len(prompts), longest + more, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, : longest - len(prompt)] = 0
    return ids, mask


@torch.inference_mode()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    guide: Guide | None = None,
    stops: frozenset[int] = frozenset(),
    streams: Sequence[int] | None = None,
    on_step: Callable[[list[list[int]]], None] = lambda rows: None,
) -> list[list[int]]:
    """Continue all ``prompts`` (token ids) in one batch; returns the new ids of each, without the token that ended it.

    Rows of the same ``stream`` (by default all) share the noise of every step, so equal strengths give equal texts.
    ``on_step(rows so far)`` is called after each token and may raise; the model is then as before.

    Raises:
        ValueError: the model's numbers are no longer finite.
    """
    device, rows = _device(model), len(prompts)
    ids, mask = (part.to(device) for part in _padded_left(prompts, sampling.max_tokens))
    longest = ids.shape[1]
    places = None if bool(mask.all()) else (mask.cumsum(-1) - 1).clamp_min(0)  # None: nothing is padded
    config: Any = model.config
    options: dict[str, Any] = {"past_key_values": DynamicCache(config=config), "use_cache": True}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 1
    noise = None
    made: list[list[int]] = [[] for _ in prompts]
    going = [True] * rows
    with _maybe(guide):
        if guide is not None:
            guide.cover(longest, longest)
        seen = 0
        for _ in range(sampling.max_tokens):
            upto = seen + ids.shape[1]
            if places is not None:
                options |= {"attention_mask": mask[:, :upto], "position_ids": places[:, seen:upto]}
            logits = model(input_ids=ids, **options).logits[:, -1].float()
            seen = upto
            if guide is not None:
                guide.span = None  # from here on every position belongs to the answer
            if noise is None and sampling.temperature > 0:
                noise = _Noise(sampling.seed, streams or [0] * rows, logits.shape[-1], device)
            scores, ids = pick(logits, sampling.temperature, sampling.top_p, noise.draw() if noise else None)
            if not all(map(math.isfinite, scores.tolist())):
                raise ValueError(
                    "The model's numbers are no longer finite: choose a smaller strength, or load the model in bfloat16."
                )
            for row, token in enumerate(ids.tolist()):
                going[row] = going[row] and token not in stops
                if going[row]:
                    made[row].append(token)
            on_step(made)
            if not any(going):
                break
            ids = ids[:, None]
    return made


# --------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, eq=False)
class Reading:
    """One text as the model sees it. ``scores`` of every concept: [layer][token] in (-1, 1), + means label 1."""

    scores: dict[str, list[list[float]]]
    losses: list[float]
    """Negative log likelihood of each token."""

    @property
    def perplexity(self) -> float | None:
        return math.exp(min(sum(self.losses) / len(self.losses), 80.0)) if self.losses else None


@torch.inference_mode()
def read(
    model: nn.Module, ids: Sequence[int], start: int, concepts: Sequence[Concept] = (), guide: Guide | None = None
) -> Reading:
    """Score and likelihood of the tokens ``ids[start:]`` in one forward, unguided unless ``guide`` (of one row) is given.

    Args:
        start: at least 1; the token before it predicts the first.
    """
    if len(ids) <= start:
        return Reading({concept.name: [] for concept in concepts}, [])
    body = anatomy(model)
    cached = sorted({c.representation for c in concepts} & {"keys", "values"})
    wanted = sorted({c.representation for c in concepts} - {"keys", "values"})
    cache = DynamicCache() if cached else None
    with _maybe(guide), recorded(body, wanted) as reading:
        if guide is not None:
            guide.cover(len(ids), start)
        logits = _logits(model, torch.tensor([list(ids)], device=_device(model)), start, cache)
        vectors = {name: reading[name]()[0, start:].float().cpu() for name in wanted}
        if cache is not None:
            vectors |= {name: _from_cache(cache, name)[0, start:].float().cpu() for name in cached}
    losses = nn.functional.cross_entropy(logits[0], torch.tensor(ids[start:], device=logits.device), reduction="none")
    scores = {concept.name: concept_scores(concept, vectors[concept.representation]) for concept in concepts}
    return Reading({name: value.T.tolist() for name, value in scores.items()}, losses.tolist())


def concept_scores(concept: Concept, x: Tensor) -> Tensor:
    """Per token and layer, (tokens, layers) in (-1, 1), from token vectors ``x`` (tokens, layers, dim).

    2·σ(z) - 1 = tanh(z / 2), where z is the log odds of the probe's own classifier. Files without one (GGUF) get the
    projection of the unit vector in standard deviations of this text. The paper's files of dim probes do not tell the
    mean that the classifier was fitted around: the mean of this text stands in.
    """
    centre = x.mean(0) if concept.probe == "dim" and concept.mean is None else concept.mean
    if concept.a is None and concept.probe != "logistic":
        projection = torch.einsum("tld,ld->tl", prepared("logistic", x), concept.unit())
        spread = projection.std(0, correction=0).clamp_min(1e-6)
        return ((projection - projection.mean(0)) / spread / 2).tanh()
    return (Fit(concept.probe, concept.weights, concept.a, concept.b, centre).logits(x) / 2).tanh()


@torch.inference_mode()
def perplexities(model: nn.Module, spans: Sequence[Span], guide: Guide | None = None, rows: int = 1) -> Tensor:
    """exp(mean loss of the answer's tokens), (rows, spans): every row of ``guide`` reads the same fixed answers.

    Teacher forcing over the whole answer. One forward per span with the rows as batch, so nothing is filled up.
    """
    found = []
    with _maybe(guide):
        for span in spans:
            ids = torch.tensor([span.ids[: span.stop]] * rows, device=_device(model))
            if guide is not None:
                guide.cover(ids.shape[1], span.start)
            logits = _logits(model, ids, span.start)
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, span.start :], reduction="none")
            found.append(losses.mean(1).exp())
    return torch.stack(found, dim=1).float().cpu()


def _logits(model: nn.Module, ids: Tensor, start: int, cache: Cache | None = None) -> Tensor:
    """Logits (rows, tokens from ``start`` on, vocabulary) float32, each predicted from the position before."""
    keep = ids.shape[1] - start + 1
    options = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    output = model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, **options)
    return output.logits[:, -keep:-1].float()
