"""An edit as a small file, which is checked when it comes back. Torch-free.

Every matrix that reads the prompt's tokens is changed by the same two small ones (and the one that reads it as a whole by two of its own): with C the source's embeddings (N, width), C* their twins' and H what
holds the weights,

    W' - W = W (C* - C)ᵀ A,      A = C (H + Cᵀ C)⁻¹                                                       (Eq. 6, rearranged)

so a file holds ``shift`` = C* - C and ``reading`` = A, float64, and fits into 120 KB an edit on our model where the matrices themselves would be
2.4 MB, and 700 on SDXL. A JSON text in its header says which prompts, λ, μ, which layers, and which model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipelines.core import limits, tables
from pipelines.models import sdxl
from pipelines.time_edit import Settings

FORMAT = 2
METADATA = "time_edit"
TOKENS, WHOLES = ("shift", "reading"), ("whole_shift", "whole_reading")
TENSORS = (*TOKENS, *WHOLES)
MOST_BYTES = 16 * 2**20
DO = "save the edit again on this page, and drop that file"
Numbers = NDArray[numpy.float64]


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit, or several that were made together."""

    edits: str
    """One a line: source => destination."""
    layers: str
    regularisation: float
    protect: float
    model_set: str
    mark: str
    """Of the model: :func:`pipelines.models.sdxl.mark`."""
    shift: Numbers
    """(N, width) of tokens, as ``reading``."""
    reading: Numbers
    whole_shift: Numbers
    """(M, width) of prompts as a whole, as ``whole_reading``; M is 0 where the matrix that reads those is not edited."""
    whole_reading: Numbers


def write(edit: Edit, path: Path) -> Path:
    """Write the file; returns where."""
    names = ("edits", "layers", "regularisation", "protect", "model_set", "mark")
    facts = {"format": FORMAT, **{name: getattr(edit, name) for name in names}}
    tensors = {name: numpy.ascontiguousarray(getattr(edit, name)) for name in TENSORS}
    save_file(tensors, path, {METADATA: json.dumps(facts, sort_keys=True, ensure_ascii=False)})
    return path


def read(path: str | Path, model_set: str) -> Edit:
    """The edit in a file.

    Raises:
        ValueError: it is none of :func:`write`, is damaged, or is of another model; in one sentence.
    """
    path = Path(path)
    called = limits.shown(path.name)
    wrong = f"{called} holds no edit that can be read: {DO}."
    found, facts = tables.read(path, METADATA, TENSORS, FORMAT, MOST_BYTES, wrong)
    if (facts.get("model_set"), facts.get("mark")) != (model_set, sdxl.mark(sdxl.BASES[model_set])):
        raise ValueError(f"The edit in {called} is of another model than {sdxl.BASES[model_set].title}: {DO}.")
    for names in (TOKENS, WHOLES):
        shift, reading = (found[name] for name in names)
        same = shift.ndim == 2 and shift.shape == reading.shape and shift.dtype == reading.dtype == numpy.float64
        if not same or not numpy.isfinite([*shift.flat, *reading.flat]).all():
            raise ValueError(f"The edit in {called} is not pairs of tables of finite numbers, each of one size: {DO}.")
    told = _checked(facts, model_set, called)
    return Edit(told.edits, told.layers, told.regularisation, told.protect, model_set, facts["mark"], **found)


def _checked(facts: dict[str, Any], model_set: str, called: str) -> Settings:
    """What the header says, as settings within their limits."""
    said: dict[str, Any] = {name: facts.get(name) for name in ("edits", "layers", "regularisation", "protect")}
    try:
        return Settings(**said, model_set=model_set).validated()
    except ValueError as error:
        raise ValueError(f"The edit in {called} says what cannot be ({error}) and was not read: {DO}.") from error
