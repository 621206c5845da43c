"""The concepts that come along with a language model, and how a name is looked up among them. No torch at module level."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.concept_guidance.concepts import PROBES, Concept
from pipelines.concept_guidance.files import read_concept
from pipelines.core import asset_files
from pipelines.core.weights import ROOT, ModelSpec, asset_spec, manifest, resolve
from pipelines.models.language import MODELS, LanguageModel


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


def _spec(model: LanguageModel) -> ModelSpec:
    tokenizer = model.parts["tokenizer"]
    key = tokenizer.key.replace("/tokenizer", "/vectors")
    if model.folder:
        return asset_spec(key, model.folder, _load_vectors, "vectors", "its concepts")
    card = "the authors’ vectors, if they are here"
    source, none = tokenizer.source, tuple[ModelSpec, ...]()
    return ModelSpec(
        key, source, _load_vectors, "MIT", 1 << 22, card=card, fetch=vector_files, brings=lambda spec: none
    )


VECTORS = {model.parts["tokenizer"].key: _spec(model) for models in MODELS.values() for model in models}
"""Key of a tokenizer, which smaller forms of a model share -> the model's concept vectors."""


def parts(model: LanguageModel) -> dict[str, ModelSpec]:
    """The parts that a run leases, by name: model, tokenizer, vectors."""
    return {**model.parts, "vectors": VECTORS[model.parts["tokenizer"].key]}


def find_concept(known: Mapping[str, Concept], name: str, preferred: Mapping[str, str] | None = None) -> Concept:
    """The concept called ``name``: a file's name ("humour.dim"), or a concept of which a probe is then chosen.

    ``preferred`` names the best probe of a concept, as measured; otherwise the first of :data:`PROBES` that exists.
    """
    choices = [name, f"{name}.{(preferred or {}).get(name, 'dim')}", *(f"{name}.{probe}" for probe in PROBES)]
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
