"""What the Concept Guidance tab can offer: the concepts of a model, and what is known of each without loading anything."""

from __future__ import annotations

import dataclasses
import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demos.core.figures import Series, plot, safe, signed
from pipelines.concept_guidance import lab
from pipelines.concept_guidance.concepts import PROBES, ROWS_MOST
from pipelines.concept_guidance.layers import choose_layers, ranges
from pipelines.concept_guidance.sweep import PERPLEXITY_RED
from pipelines.concept_guidance.vectors import parts, vector_files
from pipelines.core import asset_files
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT, manifest
from pipelines.models.language import language_model
from pipelines.worlds import crumpet

if TYPE_CHECKING:
    from pipelines.concept_guidance.concepts import Concept

Own = Mapping[str, "Concept"]
"""A visitor's own concepts by name."""
FALLBACK = 0.5
"""Strengths up to here are called usual where nothing was measured (the papers' experience, not ours)."""
BROKEN = 0.5
"""A text is called broken where less than this share of the unguided answers' grammatical rate is left."""
SLUG = "concept_guidance"


@dataclasses.dataclass
class Page:
    """What the parts of the tab share: the model, this visitor's concepts and sweeps, and every list of concepts."""

    registry: Registry
    model_set: str
    model: gr.Dropdown
    own: gr.State
    """Name -> :class:`Concept`."""
    swept: gr.State
    """Name -> points of a sweep that this visitor ran."""
    pickers: list[gr.Dropdown] = dataclasses.field(default_factory=list)

    @property
    def layers(self) -> str:
        """The layers that the set's first model is guided at unless others are chosen, as its sweeps were measured."""
        return language_model(self.model_set).layers

    def picker(
        self, label: str, value: str | None = None, min_width: int = 160, scale: int | None = None
    ) -> gr.Dropdown:
        """A list of the concepts, which learns of new ones."""
        offered = choices(self.model_set, "", {})
        value = value or (offered[0][1] if offered else None)
        made = gr.Dropdown(offered, value=value, label=label, min_width=min_width, scale=scale)
        self.pickers.append(made)
        return made

    def probe_picker(self, min_width: int = 160, scale: int | None = None) -> gr.Dropdown:
        """A list of the ways in which a concept may have been found."""
        pairs = [("best measured", ""), *((words, key) for key, words in PROBES.items())]
        return gr.Dropdown(pairs, value="", label="Found by", min_width=min_width, scale=scale)

    def offered(self, own: Own, model: str) -> list[tuple[str, str]]:
        """What a list of concepts offers."""
        return choices(self.model_set, model, own)

    def offer(self, own: Own, model: str) -> dict[Any, Any]:
        """The updates that put ``own`` into every list; what is chosen there stays."""
        return {picker: gr.Dropdown(choices=choices(self.model_set, model, own)) for picker in self.pickers}


def concepts_of(model_set: str, model: str = "") -> list[str]:
    """Names of the shipped concepts of a model, each once."""
    found = {stem.split(".")[0] for stem in _files(model_set, model)}
    # The small model's are known before its vectors are trained, so that the page can be built.
    shipped = list(crumpet.CONCEPTS) if model_set == "mini" else []
    return shipped + sorted(found - set(shipped))


def choices(model_set: str, model: str, own: Own) -> list[tuple[str, str]]:
    """(what is shown, name) for a list of concepts, the visitor's own first."""
    return [(f"{name} (yours)", name) for name in own] + [
        (name, name) for name in concepts_of(model_set, model) if name not in own
    ]


def free_name(wanted: str, model_set: str, model: str) -> str:
    """A name for a concept of one's own that hides no shipped one."""
    plain = wanted.strip().replace(".", " ")
    return f"my {plain}" if plain in concepts_of(model_set, model) else plain


def best_probe(model_set: str, model: str, concept: str) -> str:
    """The probe that "best measured" stands for, as the pipeline chooses it."""
    best = (
        asset_files.strings(manifest(language_model(model_set, model).folder).get("best"))
        if model_set == "mini"
        else {}
    )
    have = [stem.split(".")[1] for stem in _files(model_set, model) if stem.startswith(f"{concept}.")]
    return best.get(concept) or next((probe for probe in PROBES if probe in have), "dim")


def full_name(concept: str, probe: str, own: Own) -> str:
    """What the pipeline calls a choice: "humour" for the best probe, otherwise "humour.pca"."""
    return concept if not probe or concept in own else f"{concept}.{probe}"


def accuracies(model_set: str, model: str, name: str, own: Own) -> tuple[Sequence[float], Sequence[float]]:
    """Training and validation accuracy of each layer; two empty lists where they are not known."""
    if name in own:
        return own[name].train_accuracy, own[name].validation_accuracy
    concept, _, probe = name.partition(".")
    path = _files(model_set, model).get(f"{concept}.{probe or best_probe(model_set, model, concept)}")
    header = _header(path) if path else {}
    return header.get("train_accuracy", ()), header.get("validation_accuracy", ())


def shipped_place(model_set: str) -> str:
    """Where the shipped vectors live; concepts can only be compared with others of their place."""
    path = next(iter(_files(model_set, "").values()), None)
    return str(_header(path).get("representation", "pre-attn")) if path else "pre-attn"


def size(model_set: str, model: str) -> tuple[int | None, int | None]:
    """(layers, width) of a model that came along; (None, None) of one that is not here."""
    path = ROOT / language_model(model_set, model).folder / "config.json"
    config = asset_files.facts(path) if model_set == "mini" else {}
    layers, width = (config.get(name) for name in ("num_hidden_layers", "hidden_size"))
    return (layers, width) if isinstance(layers, int) and isinstance(width, int) else (None, None)


def _files(model_set: str, model: str) -> dict[str, Path]:
    return vector_files(parts(language_model(model_set, model))["vectors"])


def _header(path: Path) -> dict[str, Any]:
    """Our facts in the header of a safetensors file, read without a model library."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
        found = json.loads(header["__metadata__"]["concept_guidance"])
    except (*asset_files.GARBLED, struct.error):
        return {}
    return found if isinstance(found, dict) else {}


# --- safe strengths ----------------------------------------------------------------------------------------------


def points_of(model_set: str, model: str, name: str, own: Own, swept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points of the sweep that tells about a concept: the visitor's, or the shipped one; none where there is none."""
    if name in swept:
        return list(swept[name])
    if model_set != "mini" or name in own:
        return []
    concept, _, probe = name.partition(".")
    probe = probe or best_probe(model_set, model, concept)

    def measured() -> list[dict[str, Any]]:
        found = lab.measured().get("concepts", {}).get(concept, {}).get(probe, {}).get("points", [])
        lab.safe(found)  # reads what will be shown of each point
        return list(found)

    return asset_files.reading(lab.MEASURED, measured, list)


def between(points: Sequence[Mapping[str, Any]], strength: float, key: str) -> float | None:
    """A measured figure at a strength, between the strengths that were measured; None beyond them."""
    usable = sorted((p["strength"], p[key]) for p in points if p.get(key) is not None)
    for (left, low), (right, high) in itertools.pairwise(usable):
        if left - 1e-9 <= strength <= right + 1e-9:
            return low + (high - low) * (strength - left) / (right - left)
    return None


def safety(points: Sequence[Mapping[str, Any]], strength: float, raw: bool = False) -> str:
    """What to say below a strength: the safe range, and a word of warning beyond it."""
    if raw:
        return "<p class='safe quiet'>Ranges are measured for shares of the norm, not for the raw scale.</p>"
    if not points:
        word = "<b class='amber'>⚠ Beyond the usual.</b> " if abs(strength) > FALLBACK + 1e-9 else ""
        return f"<p class='safe quiet'>{word}Safe range not measured; usual up to ±{FALLBACK:g}.</p>"
    low, high = lab.safe(points)
    measured = f"Measured safe from {signed(low, 2)} to {signed(high, 2)}."
    if low - 1e-9 <= strength <= high + 1e-9:
        return f"<p class='safe quiet'>{measured}</p>"
    now, base = (between(points, at, "perplexity") for at in (strength, 0.0))
    fluent, whole = (between(points, at, "grammatical") for at in (strength, 0.0))
    if now is None or not base:
        return f"<p class='safe quiet'><b>⚠ Over the cliff:</b> so far out nothing was measured. {measured}</p>"
    facts = f"perplexity × {now / base:.1f}" + ("" if fluent is None else f", {100 * fluent:.0f} % grammatical")
    if now / base > PERPLEXITY_RED or (fluent is not None and whole and fluent < BROKEN * whole):
        return f"<p class='safe quiet'><b>⚠ Over the cliff ({facts}):</b> the text falls apart here. {measured}</p>"
    return f"<p class='safe quiet'><b class='amber'>⚠ Fluency suffers ({facts}).</b> {measured}</p>"


# --- accuracy by layer -------------------------------------------------------------------------------------------


def accuracy_chart(
    name: str, train: Sequence[float], validation: Sequence[float], layers: str, majority: float | None = None
) -> str:
    """Accuracy of every layer, with the chosen layers shaded; a sentence where it is not known."""
    if not validation:
        return f"<p class='quiet'>The accuracies of {safe(name)} are not known: its file does not tell them.</p>"
    if len(validation) > ROWS_MOST:
        return f"<p class='quiet'>{safe(name)} has an accuracy for each of {len(validation):,} heads, which are not drawn.</p>"
    count = len(validation)
    try:
        chosen = choose_layers(layers, count, validation)
        chosen_words = f"Guided now: layers {ranges(chosen)} (shaded)."
    except ValueError as error:
        chosen, chosen_words = (), str(error)
    best = max(range(count), key=lambda layer: validation[layer])
    facts = (
        f"Share of held-out answers that the probe sorts rightly, layer by layer; chance is 0.5"
        f"{'' if majority is None else f', the commoner label alone reaches {majority:.2f}'}. Best: layer {best} with "
        f"{validation[best]:.2f}. {chosen_words}"
    )
    across = list(range(count))
    series = [Series("held out", across, validation)]
    if len(train) == count:
        series.insert(0, Series("training", across, train, "dashed"))
    if majority is not None and count > 1:
        series.append(Series("majority", [0, count - 1], [majority, majority], "thin"))
    return plot(
        f"Where the model knows {name}",
        facts,
        series,
        ("layer", "accuracy, higher is better"),
        0.5,
        shaded=[(layer - 0.5, layer + 0.5) for layer in chosen],
    )
