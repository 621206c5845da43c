"""What a picture is inverted into: a token embedding for each stage, as a small file that is checked when it comes back. Torch-free.

The file is a safetensors with one tensor, ``tokens`` (stages, words, width) float32, the embeddings of all text encoders side by side, and a JSON text
in its header: the format, the model that they were learnt with, and what the judge sees in the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipelines.core import limits, tables
from pipelines.models import sdxl
from pipelines.prospect import STAGES

FORMAT = 1
METADATA, TENSOR = "prospect", "tokens"
MOST_BYTES = 8 * 2**20
"""Ours have 8 KB a word, SDXL's 84."""
DO = "invert the picture here, and drop the file that comes of it"


@dataclass(frozen=True, eq=False)
class Tokens:
    """A picture as the prompts of ten stages."""

    values: NDArray[numpy.float32]
    """(stages, words, width): one word's embedding a stage, or several; those of all text encoders side by side."""
    model_set: str
    mark: str
    """Of the model that they were learnt with: :func:`pipelines.models.sdxl.mark`."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """Head of the judge -> what it sees in the picture; empty where there is no judge."""


def write(tokens: Tokens, path: Path) -> Path:
    """Write the file; returns where."""
    facts = {"format": FORMAT, "model_set": tokens.model_set, "model": tokens.mark, "seen": dict(tokens.seen)}
    save_file({TENSOR: tokens.values}, path, {METADATA: json.dumps(facts, sort_keys=True)})
    return path


def read(path: str | Path, model_set: str) -> Tokens:
    """The tokens in a file.

    Raises:
        ValueError: it is none of :func:`write`, is damaged, or belongs to another model; in one sentence.
    """
    path = Path(path)
    called = limits.shown(path.name)
    wrong = f"{called} holds no tokens of a picture: {DO}."
    found, facts = tables.read(path, METADATA, (TENSOR,), FORMAT, MOST_BYTES, wrong)
    values = found[TENSOR]
    if (facts.get("model_set"), facts.get("model")) != (model_set, sdxl.mark(sdxl.BASES[model_set])):
        raise ValueError(
            f"The tokens in {called} were learnt with another model than {sdxl.BASES[model_set].title}: {DO}."
        )
    if values.ndim != 3 or len(values) != STAGES or values.dtype != numpy.float32:
        shape = " × ".join(map(str, values.shape))
        raise ValueError(
            f"The tokens in {called} are {shape} {values.dtype} but must be {STAGES} × words × width of float32: {DO}."
        )
    if not numpy.isfinite(values).all():
        raise ValueError(f"The tokens in {called} are not all finite numbers: {DO}.")
    seen = facts.get("seen")
    told = {str(k): str(v) for k, v in seen.items()} if isinstance(seen, dict) else {}
    return Tokens(values, model_set, sdxl.mark(sdxl.BASES[model_set]), told)
