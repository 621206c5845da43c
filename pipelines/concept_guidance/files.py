"""What concept guidance reads and writes: concept vectors, and labelled examples to make them from.

    concept = read_concept(path, layers=32, width=4096)     # .safetensors or .gguf, checked
    write_safetensors(path, concept)                        # also loads in the paper's own code
    write_gguf(path, concept, strength=0.3)                 # for llama.cpp and repeng; hidden states only
    examples = read_examples("+ Hello => Hi, you marvel!\\n- Hello => Hello.")

The paper's files hold `W` (layers, width) float32 and, but for logistic probes, the classifier's `a` (layers, 1) and
`b` (layers,), and no metadata. Ours add `mean`, `norms` and a JSON text in the header; the paper's loader reads only
`W`. GGUF is written and read by the few lines below (version 3, public format): the `gguf` package is not needed
for two keys and a list of float32 vectors, and its reader maps files into memory without our checks.

Pickles are refused without being opened. Everything refused gets one sentence (ValueError). No torch at module level.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.limits import BREAKS, choice, described, is_number, plain, shown

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
WORDS = {
    "probe": ("dim", "logistic", "pca", "unknown"),
    "representation": ("pre-attn", "hiddens", "heads", "post-attn", "mlp", "queries", "keys", "values"),
}
ROWS_MOST, HEADS_MOST, WIDTH_MOST = 512, 20_000, 2**16
"""Layers, layers times heads, and width of any model that one may have vectors of."""
SHORT, LONG = 1e-10, 1e10
"""Lengths of vectors with which float32 can be reckoned; beyond them is no direction that anybody meant."""
EXAMPLES_MAX_BYTES = 5 * 2**20
EXAMPLES_MAX = 2000
EXAMPLE_CHARACTERS = 20_000
TURNS_MAX = 200
SAMPLE_CSV = "prompt,completion,label / Hello,Hi there!,1"
SAMPLE_JSON = '[{"prompt": "Hello", "completion": "Hi there!", "label": 1}]'


# ------------------------------------------------------------------------------------------- concepts


@dataclass(frozen=True, eq=False)
class Concept:
    """One direction per layer, the place it was read at, and what is known about it.

    Row 0 is the first layer. ``weights`` need not be of unit length; :meth:`unit` is what guides.
    """

    name: str
    weights: Tensor
    """(layers, width) float32; for "heads", (layers * heads, width / heads)."""
    probe: str = "unknown"
    """dim, logistic, pca or unknown."""
    representation: str = "pre-attn"
    a: Tensor | None = None
    """Slope of the classifier, (layers,)."""
    b: Tensor | None = None
    """Offset of the classifier, (layers,)."""
    mean: Tensor | None = None
    """(layers, width): what a dim probe takes off before it looks."""
    norms: Tensor | None = None
    """(layers,): median length of the token vectors it was made from."""
    train_accuracy: tuple[float, ...] = ()
    validation_accuracy: tuple[float, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-able: model, examples, seed, ..."""
    notices: tuple[str, ...] = ()
    """What was changed on the way in, in sentences."""

    @property
    def layers(self) -> int:
        return len(self.weights)

    def unit(self) -> Tensor:
        """Rows of length one; rows without a direction stay zero."""
        lengths = self.weights.norm(dim=-1, keepdim=True)
        if bool(((lengths > SHORT) & (lengths < LONG) | (self.weights == 0).all(dim=-1, keepdim=True)).all()):
            return self.weights / lengths.clamp_min(1e-30)
        rows = self.weights.double()  # squares of such numbers are none of float32
        return (rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-300)).to(self.weights.dtype)

    def __add__(self, other: Concept) -> Concept:
        """The sum of both directions, at unit length each: ``humour + -humour`` has zero rows."""
        if (self.weights.shape, self.representation) != (other.weights.shape, other.representation):
            raise ValueError(
                f"{self.name} ({_size(self.weights)}, {self.representation}) and {other.name} "
                f"({_size(other.weights)}, {other.representation}) cannot be added: take two of the same model and place"
            )
        return Concept(f"{self.name} + {other.name}", self.unit() + other.unit(), representation=self.representation)

    def __neg__(self) -> Concept:
        return Concept(f"not {self.name}", -self.weights, representation=self.representation)


def check_fit(concept: Concept, layers: int, width: int) -> None:
    """Raise a sentence unless the vectors have one row per layer and the model's width."""
    if tuple(concept.weights.shape) != (layers, width):
        raise ValueError(
            f"The vectors of {concept.name} do not fit: W is {_size(concept.weights)}, this model needs "
            f"{layers}×{width}; choose vectors that were made for this model."
        )


def read_concept(
    path: str | Path,
    layers: int | None = None,
    width: int | None = None,
    name: str | None = None,
    repair_signs: bool = True,
) -> Concept:
    """A concept from a .safetensors or .gguf file, which kind is seen from its first bytes.

    Args:
        layers, width: the model's; with both given, files of another size are refused.
        repair_signs: turn the layers of a PCA vector that point the other way (their ``a`` is negative), and say so.

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
    name = name or _name(path.stem) or "loaded"
    if start[:4] == b"GGUF":
        concept = _from_gguf(path, name, layers)
    else:
        concept = _from_safetensors(path, name, repair_signs)
    if layers is not None and width is not None and concept.representation != "heads":
        check_fit(concept, layers, width)
    return concept


def _from_safetensors(path: Path, name: str, repair_signs: bool) -> Concept:
    import torch
    from safetensors import SafetensorError, safe_open

    called = shown(path.name)
    none = (
        f"{called} is not a safetensors file that can be read: choose a concept vector that was saved here or by the "
        "paper's code."
    )
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or struct.unpack("<Q", start)[0] > HEADER_MOST:
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
    tensors = _as_floats(called, tensors)
    weights = tensors["W"]
    count = len(weights)
    facts = _facts(metadata, count)
    rows = HEADS_MOST if facts.get("representation") == "heads" else ROWS_MOST
    if count > rows:
        raise ValueError(f"W in {called} has {count:,} layers, at most {rows:,} are read: is it a vector per layer?")
    a, b, norms = (tensors[key].reshape(-1) if key in tensors else None for key in ("a", "b", "norms"))
    probe = facts.pop("probe", None) or infer_probe(weights, a)
    notices = []
    if probe == "pca" and repair_signs and a is not None and bool((a < 0).any()):
        turned = torch.where(a < 0, -1.0, 1.0)
        notices.append(
            f"{int((a < 0).sum())} of {count} layers pointed the other way and were turned: "
            "the sign of a direction that PCA finds is arbitrary."
        )
        weights, a = weights * turned[:, None], a.abs()
    return Concept(
        facts.pop("name", None) or name, weights, probe, facts.pop("representation", "pre-attn"), a, b,
        tensors.get("mean"), norms, tuple(facts.pop("train_accuracy", ())), tuple(facts.pop("validation_accuracy", ())),
        facts, tuple(notices),
    )  # fmt: skip


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
    from safetensors.torch import save_file

    tensors = {"W": concept.weights, "b": concept.b, "mean": concept.mean, "norms": concept.norms}
    tensors["a"] = None if concept.a is None else concept.a.reshape(-1, 1)
    told = {
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
        {key: value.float().cpu().contiguous() for key, value in tensors.items() if value is not None},
        path,
        {METADATA: json.dumps(told, sort_keys=True)},  # one key: the order of several is not steady, bytes should be
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
        raise ValueError(f"W in {called} is {_shape(shape)}: it must be layers × width.")
    for key in ("a", "b", "norms"):
        if key in kinds and math.prod(kinds[key][0]) != shape[0]:
            raise ValueError(
                f"{key} in {called} has {math.prod(kinds[key][0]):,} numbers, W has {shape[0]} layers: save anew."
            )
    if "mean" in kinds and kinds["mean"][0] != shape:
        raise ValueError(f"mean in {called} is {_shape(kinds['mean'][0])}, W is {_shape(shape)}: save it anew.")


def _as_floats(called: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32, after looking at them in float64: finite, and with rows of a length that is a direction's."""
    for key, value in tensors.items():
        wide = value.double()
        if not bool(wide.isfinite().all()):
            raise ValueError(f"{key} in {called} holds NaN or infinity: the file is damaged, make the vector again.")
        if key != "W" and float(wide.abs().max()) > LONG:
            raise ValueError(
                f"{key} in {called} holds numbers as large as {float(wide.abs().max()):.0e}: the file is damaged, make the vector again."
            )
    rows = tensors["W"].double()
    peaks = rows.abs().amax(dim=-1)  # squares of the largest numbers of float64 are infinite
    lengths = peaks * (rows / peaks.clamp_min(1e-300)[:, None]).norm(dim=-1)
    if not bool(peaks.any()):
        raise ValueError(f"W in {called} is all zeros: it has no direction to guide towards.")
    odd = ((peaks > 0) & ((lengths < SHORT) | (lengths > LONG))).nonzero()
    if len(odd):
        layer = int(odd[0])
        raise ValueError(
            f"W in {called} has a vector of length {float(lengths[layer]):.0e} at layer {layer}, which is no direction: lengths from "
            f"{SHORT:.0e} to {LONG:.0e} are read, make the vector again."
        )
    return {key: value.float() for key, value in tensors.items()}


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
            known |= {key: _name(value)} if isinstance(value, str) and _name(value) else {}
        elif key not in ("format", "layers", "width") and _is_small(key) and (_is_small(value) or _is_table(value)):
            others[key] = value
    return known | dict(list(others.items())[:FACTS_MOST])


def _is_small(value: Any) -> bool:
    whole = isinstance(value, str) and len(value) <= 200 and value.isprintable()
    return value is None or isinstance(value, bool) or whole or (is_number(value) and abs(value) < 10**15)


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= FACTS_MOST
        and all(_is_small(one) for pair in value.items() for one in pair)
    )


def _name(value: str) -> str:
    """A name from a file as one line of printable text; empty where it is none."""
    if len(value) > 100:
        return ""
    return "".join(letter for letter in " ".join(unicodedata.normalize("NFC", value).split()) if letter.isprintable())


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes[:6])) or "a single number"


def _size(tensor: Tensor) -> str:
    return _shape(tuple(tensor.shape))


# ----------------------------------------------------------------------------------------------- gguf

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
    facts = {
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


def _from_gguf(path: Path, name: str, layers: int | None) -> Concept:
    import numpy
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
    weights = _as_floats(called, {"W": weights})["W"]
    told = facts.get("general.name")
    return Concept(
        (_name(told) if isinstance(told, str) else "") or name, weights, representation="hiddens",
        facts={"model_hint": shown(str(facts.get("controlvector.model_hint", "")), 100)},
    )  # fmt: skip


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


# ------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True)
class Example:
    """One labelled answer. ``label`` 1 shows the concept, 0 does not."""

    prompt: str
    completion: str
    label: int
    history: tuple[dict[str, str], ...] = ()
    """Earlier turns, each with "role" and "content"."""

    def messages(self, prompt: str = "") -> list[dict[str, str]]:
        """The conversation up to the answer; ``prompt`` stands in where the example has none."""
        return [*map(dict, self.history), {"role": "user", "content": self.prompt or prompt}]


def read_examples(source: str | Path) -> list[Example]:
    """Examples from a CSV, JSON or JSONL file (a ``Path``), or from pasted text (a ``str``).

    Pasted text is one example a line, ``+`` or ``-`` first and an optional ``prompt =>``, or any of the three formats.
    Files have the columns or keys prompt, completion, label and, if wanted, conversation_history.

    Raises:
        ValueError: one sentence that says where the fault is and what is expected.
    """
    if isinstance(source, Path):
        size = source.stat().st_size
        if size > EXAMPLES_MAX_BYTES:
            raise ValueError(
                f"{shown(source.name)} has {size / 2**20:.1f} MB, at most 5 are read: shorten or split it."
            )
        text, kind = _decoded(source), source.suffix.lower()
        if kind not in (".csv", ".tsv", ".json", ".jsonl", ".txt"):
            raise ValueError(
                f"{shown(source.name)} ends with {shown(kind, 20) or 'nothing'}: give a .csv, .json, .jsonl or .txt file."
            )
    else:
        text, kind = source, ".txt"
        if len(text) > EXAMPLES_MAX_BYTES:
            raise ValueError(f"The text has {len(text):,} characters, at most 5 million are read: shorten or split it.")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise ValueError("There are no examples: write one a line, such as + Hello => Hi, you marvel!")
    rows = _rows(text, kind)
    if len(rows) > EXAMPLES_MAX:
        raise ValueError(f"There are {len(rows):,} examples, at most {EXAMPLES_MAX:,} are read: leave some out.")
    return examples_of(rows)


def check_examples(examples: Sequence[Example]) -> None:
    """Raise a sentence unless there are four examples of each label, and a difference between the two."""
    positive = [example for example in examples if example.label]
    negative = [example for example in examples if not example.label]
    if min(len(positive), len(negative)) < 4:
        raise ValueError(
            f"Need at least 4 examples with and 4 without the concept; got {len(positive)} and {len(negative)}."
        )
    sides = [{(e.prompt, e.completion.strip(), str(e.history)) for e in side} for side in (positive, negative)]
    if sides[0] == sides[1]:
        raise ValueError(
            "The examples with and without the concept are the same texts: 0 difference, direction undefined; "
            "give answers that differ."
        )


def _rows(text: str, kind: str) -> list[tuple[int, Any]]:
    """(line or row number, dict) of every example, whatever the format."""
    start = text.lstrip()
    first = start.splitlines()[0].lower()
    if (kind != ".csv" and start.startswith(("{", "["))) or kind in (".json", ".jsonl"):
        return _json_rows(text, kind)
    if kind in (".csv", ".tsv") or ("completion" in first and "label" in first and not start.startswith(("+", "-"))):
        return _csv(text)
    return [(n, _line(n, line)) for n, line in enumerate(BREAKS.sub("\n", text).split("\n"), 1) if line.strip()]


def _json_rows(text: str, kind: str) -> list[tuple[int, Any]]:
    """A list, one object, or an object a line, as the text turns out to be."""
    if kind != ".jsonl" and text.lstrip().startswith("["):
        return list(enumerate(_json(text, 0), 1))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        # Inside a text of JSON, U+2028 and its like are letters as any other.
        return [(n, _json(line, n)) for n, line in enumerate(re.split("\r\n|[\r\n]", text), 1) if line.strip()]
    return [(1, whole)]


def _json(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise ValueError(f"The JSON breaks off at {where}: expected such as {SAMPLE_JSON}") from error
    except RecursionError as error:
        raise ValueError(f"The JSON is nested too deeply: expected such as {SAMPLE_JSON}") from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise ValueError(f"The JSON holds a number of thousands of digits: expected such as {SAMPLE_JSON}") from error


def _csv(text: str) -> list[tuple[int, Any]]:
    text = BREAKS.sub("\n", text).lstrip()
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in ("prompt", "completion", "label") if name not in columns]
        if missing:
            raise ValueError(
                f"The CSV has the columns {shown(', '.join(columns)) or 'nothing'} but not {', '.join(missing)}: expected such as {SAMPLE_CSV}"
            )
        reader.fieldnames = columns
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"Line {reader.line_num} of the CSV has another number of columns than its first line: "
                    f'put texts with commas between quotes "…", such as {SAMPLE_CSV}'
                )
            rows.append((reader.line_num, row))
        return rows
    except csv.Error as error:
        raise ValueError(
            f"The CSV breaks off near line {reader.line_num}, at a quote or a very long text: expected such as {SAMPLE_CSV}"
        ) from error


def _line(number: int, line: str) -> dict[str, Any]:
    mark, rest = line.strip()[0], line.strip()[1:].strip()
    if mark not in "+-−–":
        raise ValueError(
            f"Line {number} starts with neither + nor -: write + before an answer that shows the concept and - before "
            "one that does not, such as + Hello => Hi, you marvel!"
        )
    prompt, arrow, answer = rest.partition("=>")
    return {"prompt": prompt.strip() if arrow else "", "completion": answer if arrow else rest, "label": mark == "+"}


def examples_of(rows: Iterable[tuple[int, Any]]) -> list[Example]:
    """Checked examples from (row number, dict with the keys of the files); errors as :func:`read_examples`."""
    made, wrong = [], []
    for number, row in rows:
        if not isinstance(row, dict) or not {"prompt", "completion", "label"} <= row.keys():
            keys = shown(", ".join(map(str, row))) if isinstance(row, dict) else f"no keys but is {described(row)}"
            raise ValueError(
                f"Row {number} has {keys or 'no keys'}: expected prompt, completion and label, such as {SAMPLE_JSON}"
            )
        label = _label(row["label"])
        if label is None:
            wrong.append(f"row {number} has {described(row['label'])}")
            continue
        prompt, completion = (
            plain(
                f"{key} of row {number}",
                row[key] if row[key] is not None or key == "completion" else "",
                EXAMPLE_CHARACTERS,
            )
            for key in ("prompt", "completion")
        )
        history = _history(number, row.get("conversation_history"))
        made.append(Example(prompt.strip(), completion.strip(), label, history))
    if wrong:
        more = "" if len(wrong) <= 5 else f" and {len(wrong) - 5} more"
        raise ValueError(
            f"Labels must be 1 or 0 (or yes and no, true and false): {', '.join(wrong[:5])}{more}; "
            "write 1 where the answer shows the concept and 0 where it does not."
        )
    return made


def _label(value: Any) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        words = {"1": 1, "1.0": 1, "yes": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "false": 0}
        return words.get(word)
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _history(number: int, value: Any) -> tuple[dict[str, str], ...]:
    if value in (None, "", [], "[]"):
        return ()
    if isinstance(value, str):
        value = _json(value, number)
    turns = value if isinstance(value, list | tuple) and len(value) <= TURNS_MAX else [None]
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise ValueError(
                f"The conversation_history of row {number} is not a list of turns: expected such as "
                '[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]'
            )
    return tuple(
        {
            "role": choice(f"The role in row {number}", turn["role"], ("system", "user", "assistant")),
            "content": plain(f"conversation_history of row {number}", turn["content"], EXAMPLE_CHARACTERS),
        }
        for turn in turns
    )


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown(path.name)} is not text in UTF-8 (byte {error.start}): save it again with the encoding UTF-8."
        ) from error
