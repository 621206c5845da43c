"""Concepts as GGUF control vectors, for llama.cpp and repeng.

    write_gguf(path, concept, strength=0.3)                 # hidden states only

Version 3 of the public format in a few lines: the `gguf` package is not needed for two keys and a list of float32 vectors, and its
reader maps files into memory without our checks. No torch at module level.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from pathlib import Path
from typing import Any

import numpy

from pipelines.concept_guidance.concepts import ROWS_MOST, WIDTH_MOST, Concept, checked_floats, name_in_file
from pipelines.core.limits import shown

_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_U32, _STRING, _ARRAY, _F32 = 4, 8, 9, 0
_TEXT_MOST, _ENTRIES_MOST = 2**12, 200_000
"""Bytes of a name or text that are kept, and texts in lists that are passed over."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def write_gguf(path: str | Path, concept: Concept, strength: float = 0.3, model: str = "llama") -> Path:
    """Control vectors for llama.cpp and repeng: ``direction.N`` is added to the output of block N, counted from 0.

    Each row is the unit direction times the median norm of the layer times ``strength``, so that a coefficient of 1
    there means ``strength`` here (but for our restoring of the norm). llama.cpp has no block 0: that row is left out.

    Raises:
        ValueError: for vectors that were not read from hidden states, because they would be added at the wrong place.
    """
    if concept.representation != "hiddens":
        raise ValueError(
            f"{concept.name} was read at {concept.representation}, but GGUF readers add vectors to the hidden states "
            'after a block: make the concept at "hiddens" to export it as GGUF.'
        )
    lengths = concept.weights.norm(dim=-1) if concept.norms is None else concept.norms
    rows = concept.unit() * lengths[:, None] * strength
    named = {f"direction.{n}": rows[n].float().cpu().contiguous() for n in range(1, concept.layers) if rows[n].any()}
    facts: dict[str, str | int] = {
        "general.architecture": "controlvector",
        "general.name": concept.name,
        "controlvector.model_hint": model,
        "controlvector.layer_count": len(named),
    }
    head, data = io.BytesIO(), io.BytesIO()
    head.write(_MAGIC + struct.pack("<IQQ", _VERSION, len(named), len(facts)))
    for key, value in facts.items():
        head.write(_string(key))
        head.write(
            struct.pack("<II", _U32, value) if isinstance(value, int) else struct.pack("<I", _STRING) + _string(value)
        )
    for key, row in named.items():
        head.write(_string(key) + struct.pack("<IQIQ", 1, len(row), _F32, data.tell()))
        data.write(_padded(row.numpy().astype("<f4").tobytes()))
    Path(path).write_bytes(_padded(head.getvalue()) + data.getvalue())
    return Path(path)


def read_gguf(path: Path, name: str, layers: int | None) -> Concept:
    """The concept of a control vector's file; ``name`` where it has none. Raises a sentence for anything else."""
    import torch

    data, called = path.read_bytes(), shown(path.name)
    broken = f"{called} is not a complete GGUF file: fetch or export it again."
    try:
        facts, tensors, start = _gguf_header(data)
    except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
        raise ValueError(broken) from error
    kind = shown(str(facts.get("general.architecture", "none")), 40)
    rows = {int(key[10:]): value for key, value in tensors.items() if re.fullmatch(r"direction\.(0|[1-9]\d{0,3})", key)}
    if kind != "controlvector" or not rows:
        raise ValueError(
            f"{called} is a GGUF file of the architecture {kind} with {len(rows)} tensors named direction.N: "
            "a control vector has the architecture controlvector and at least one."
        )
    widths = {shape for shape, _, _ in rows.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or {kind for _, kind, _ in rows.values()} != {_F32}:
        raise ValueError(f"{called} has directions that are not float32 vectors of one length: export it again.")
    ((width,),) = widths
    count = max(max(rows) + 1, layers or 0)
    if not 0 < width <= WIDTH_MOST or count > ROWS_MOST:
        raise ValueError(f"{called} speaks of {count} layers of width {width}, more than is read: export it again.")
    places = sorted(offset for _, _, offset in rows.values())
    if any(later - sooner < 4 * width for sooner, later in itertools.pairwise(places)):
        raise ValueError(f"{called} has directions that lie on one another: export it again.")
    if start + places[-1] + 4 * width > len(data):
        raise ValueError(broken)
    weights = torch.zeros(count, width)
    for layer, (_, _, offset) in rows.items():
        weights[layer] = torch.from_numpy(numpy.frombuffer(data, "<f4", width, start + offset).astype("f4"))
    weights = checked_floats(called, {"W": weights})["W"]
    named = facts.get("general.name")
    name = (name_in_file(named) if isinstance(named, str) else "") or name
    hint = shown(str(facts.get("controlvector.model_hint", "")), 100)
    return Concept(name, weights, representation="hiddens", facts={"model_hint": hint})


def _gguf_header(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, int]], int]:
    """Key-value pairs, tensors as name -> (shape, type, offset), and where the tensors' data begin.

    Lists are passed over: a control vector has none that one needs. Raises ``struct.error`` or ``KeyError`` for what is no such
    header, or one with more in it than any control vector has.
    """
    version, tensor_count, key_count = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3) or tensor_count > 4096 or key_count > 4096:
        raise KeyError(version)
    at, left = 24, _ENTRIES_MOST

    def move(count: int) -> int:
        """The place before, after moving on by ``count`` bytes."""
        nonlocal at
        if count > len(data) - at:
            raise struct.error(count)
        at += count
        return at - count

    def take(code: str) -> Any:
        return struct.unpack_from("<" + code, data, move(struct.calcsize("<" + code)))[0]

    def text(most: int) -> str:
        length = take("Q")
        place = move(length)
        return data[place : place + min(length, most)].decode(errors="strict" if length <= most else "replace")

    def value(kind: int) -> Any:
        nonlocal left
        if kind == _STRING:
            return text(_TEXT_MOST)
        if kind != _ARRAY:
            return take(_SCALARS[kind])
        inner, length = take("I"), take("Q")
        if inner != _STRING:  # a list of lists is refused: it is no scalar
            move(struct.calcsize("<" + _SCALARS[inner]) * length)
            return None
        left -= length
        if left < 0:
            raise KeyError(length)
        for _ in range(length):
            move(take("Q"))
        return None

    facts = {}
    for _ in range(key_count):
        key = text(_TEXT_MOST)
        facts[key] = value(take("I"))
    tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        key = text(_TEXT_MOST)
        dimensions = take("I")
        if dimensions > 4 or key in tensors:
            raise struct.error(dimensions)
        tensors[key] = (tuple(take("Q") for _ in range(dimensions)), take("I"), take("Q"))
    alignment = facts.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**16:
        raise struct.error(alignment)
    return facts, tensors, -(-at // alignment) * alignment


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
