"""Files of concept vectors, read and written.

    concept = read_concept(path, layers=32, width=4096)     # .safetensors or .gguf, checked
    write_safetensors(path, concept)                        # also loads in the paper's own code

The paper's files hold `W` (layers, width) float32 and, but for logistic probes, the classifier's `a` (layers, 1) and
`b` (layers,), and no metadata. Ours add `mean`, `norms` and a JSON text in the header; the paper's loader reads only
`W`. GGUF files are those of `gguf.py`.

Pickles are refused without being opened. Everything refused gets one sentence (ValueError). No torch at module level.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipelines.concept_guidance.concepts import (
    HEADS_MOST,
    PROBES,
    REPRESENTATIONS,
    ROWS_MOST,
    WIDTH_MOST,
    Concept,
    check_fit,
    checked_floats,
    name_in_file,
    shape_text,
)
from pipelines.concept_guidance.gguf import read_gguf
from pipelines.core import tables
from pipelines.core.limits import is_number, shown

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
METADATA = "concept_guidance"
MAX_BYTES = 64 * 2**20
HEADER_MOST = 2**20
"""Bytes of a safetensors header: ours have some hundred."""
PARTS = ("W", "a", "b", "mean", "norms")
"""Tensors of a file that are read."""
FACTS_MOST = 40
WORDS = {"probe": (*PROBES, "unknown"), "representation": REPRESENTATIONS}


def read_concept(
    path: str | Path,
    layers: int | None = None,
    width: int | None = None,
    name: str | None = None,
    repair_signs: bool = True,
) -> Concept:
    """A concept from a .safetensors or .gguf file, which kind is seen from its first bytes.

    Layers of a PCA vector that point the other way (their ``a`` is negative) are turned, with a notice: of the authors' 20 files those
    of compliance for Mistral-7B (11 of 32 layers) and Mistral-7B-Instruct (17), which their own code uses as they are.

    Args:
        repair_signs: False leaves every layer as it is in the file, as the authors do.
        layers, width: the model's; with both given, files of another size are refused.

    Raises:
        ValueError: one sentence, for anything that is not a finite vector file of the right size.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(16)
    size = path.stat().st_size
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK") or path.suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{shown(path.name)} is a pickle, or an archive that may hold one, which can run any program when it is opened, "
            "so it was not opened: save the vectors as .safetensors."
        )
    if size > MAX_BYTES:
        raise ValueError(
            f"{shown(path.name)} has {size / 2**20:.0f} MB, at most {MAX_BYTES >> 20} are read: is it a model?"
        )
    name = name or name_in_file(path.stem) or "loaded"
    if start[:4] == b"GGUF":
        concept = read_gguf(path, name, layers)
    else:
        concept = _from_safetensors(path, name, repair_signs)
    if layers is not None and width is not None and concept.representation != "heads":
        check_fit(concept, layers, width)
    return concept


def _from_safetensors(path: Path, name: str, repair_signs: bool) -> Concept:
    called = shown(path.name)
    none = (
        f"{called} is not a safetensors file that can be read: choose a concept vector that was saved here or by the "
        "paper's code."
    )
    if not tables.header_fits(path, HEADER_MOST):
        raise ValueError(none)
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            kinds = {
                key: (file.get_slice(key).get_shape(), file.get_slice(key).get_dtype()) for key in PARTS if key in keys
            }
            metadata = file.metadata() or {}
            _check_kinds(called, keys, kinds)
            tensors = {key: file.get_tensor(key) for key in kinds}
    except (SafetensorError, OverflowError, RuntimeError) as error:
        raise ValueError(none) from error
    tensors = checked_floats(called, tensors)
    weights = tensors["W"]
    count = len(weights)
    facts = _facts(metadata, count)
    rows = HEADS_MOST if facts.get("representation") == "heads" else ROWS_MOST
    if count > rows:
        raise ValueError(f"W in {called} has {count:,} layers, at most {rows:,} are read: is it a vector per layer?")
    a, b, norms = (tensors[key].reshape(-1) if key in tensors else None for key in ("a", "b", "norms"))
    probe = facts.pop("probe", None) or infer_probe(weights, a)
    notices = []
    if repair_signs and probe == "pca" and a is not None and bool((a < 0).any()):
        turned = 1 - 2 * (a < 0).float()
        notices.append(
            f"{int((a < 0).sum())} of {count} layers pointed the other way and were turned: "
            "the sign of a direction that PCA finds is arbitrary. (The authors' code leaves them.)"
        )
        weights, a = weights * turned[:, None], a.abs()
    name, place = facts.pop("name", None) or name, facts.pop("representation", "pre-attn")
    train, validation = (tuple(facts.pop(f"{side}_accuracy", ())) for side in ("train", "validation"))
    mean = tensors.get("mean")
    return Concept(name, weights, probe, place, a, b, mean, norms, train, validation, facts, tuple(notices))


def infer_probe(weights: Tensor, a: Tensor | None) -> str:
    """Which probe made a file that does not say so, by the paper's 20 released files.

    Without ``a`` and with long rows it is logistic. Centred unit vectors (dim) give slopes of 0.2 and more, all
    positive; PCA looks at raw vectors and ignores labels, so its slopes are tiny and of either sign.
    """
    if a is None:
        lengths = weights.norm(dim=-1)
        return "logistic" if (lengths - 1).abs().max() > 1e-3 else "unknown"
    return "pca" if a.min() < 0 or a.max() < 0.05 else "dim"


def write_safetensors(path: str | Path, concept: Concept) -> Path:
    """The paper's layout (W, a as (layers, 1), b; float32), with what else we know beside it and in the header."""
    tensors = {"W": concept.weights, "b": concept.b, "mean": concept.mean, "norms": concept.norms}
    tensors["a"] = None if concept.a is None else concept.a.reshape(-1, 1)
    facts = {
        "format": FORMAT,
        "name": concept.name,
        "probe": concept.probe,
        "representation": concept.representation,
        "layers": concept.layers,
        "width": concept.weights.shape[1],
        "train_accuracy": [round(x, 6) for x in concept.train_accuracy],
        "validation_accuracy": [round(x, 6) for x in concept.validation_accuracy],
        **concept.facts,
    }
    save_file(
        {key: numpy.ascontiguousarray(value.float().cpu()) for key, value in tensors.items() if value is not None},
        path,
        {METADATA: json.dumps(facts, sort_keys=True)},  # one key: the order of several is not steady, bytes should be
    )
    return Path(path)


def _check_kinds(called: str, keys: list[str], kinds: dict[str, tuple[list[int], str]]) -> None:
    """The tensors' shapes and types, known from the header: nothing is read that cannot be a concept's."""
    if "W" not in kinds:
        listed = ", ".join(shown(key, 30) for key in keys[:4]) or "nothing"
        raise ValueError(f"{called} has no W (found: {listed}): a concept vector file holds W of layers × width.")
    for key, (_, kind) in kinds.items():
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise ValueError(f"{key} in {called} is of the type {kind}: save the numbers as float32.")
    shape = kinds["W"][0]
    if len(shape) != 2 or not all(shape) or shape[0] > HEADS_MOST or shape[1] > WIDTH_MOST:
        raise ValueError(f"W in {called} is {shape_text(shape)}: it must be layers × width.")
    for key in ("a", "b", "norms"):
        if key in kinds and math.prod(kinds[key][0]) != shape[0]:
            raise ValueError(
                f"{key} in {called} has {math.prod(kinds[key][0]):,} numbers, W has {shape[0]} layers: save anew."
            )
    if "mean" in kinds and kinds["mean"][0] != shape:
        raise ValueError(f"mean in {called} is {shape_text(kinds['mean'][0])}, W is {shape_text(shape)}: save it anew.")


def _facts(metadata: Mapping[str, str], rows: int) -> dict[str, Any]:
    """Our JSON of a header, as far as it is of the expected kinds and sizes; foreign files have none."""
    try:
        facts = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(facts, dict):
        return {}
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in facts.items():
        if key in ("train_accuracy", "validation_accuracy"):
            if isinstance(value, list) and len(value) == rows and all(is_number(x) and 0 <= x <= 1 for x in value):
                known[key] = value
        elif key in ("probe", "representation"):
            if isinstance(value, str) and value in WORDS[key]:
                known[key] = value
        elif key == "name":
            known |= {key: name_in_file(value)} if isinstance(value, str) and name_in_file(value) else {}
        elif key not in ("format", "layers", "width") and _is_small(key) and (_is_small(value) or _is_table(value)):
            others[key] = value
    return known | dict(list(others.items())[:FACTS_MOST])


def _is_small(value: object) -> bool:
    whole = isinstance(value, str) and len(value) <= 200 and value.isprintable()
    return value is None or isinstance(value, bool) or whole or (is_number(value) and abs(value) < 10**15)


def _is_table(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= FACTS_MOST
        and all(_is_small(one) for pair in value.items() for one in pair)
    )
