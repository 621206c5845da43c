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
import json
import math
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
METADATA = "concept_guidance"
MAX_BYTES = 64 * 2**20
EXAMPLES_MAX_BYTES = 5 * 2**20
EXAMPLES_MAX = 2000
EXAMPLE_CHARACTERS = 20_000
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
        return self.weights / self.weights.norm(dim=-1, keepdim=True).clamp_min(1e-30)

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
            f"{path.name} is a pickle, which can run any program when it is opened, so it was not opened: "
            "save the vectors as .safetensors."
        )
    if size > MAX_BYTES:
        raise ValueError(f"{path.name} has {size / 2**20:.0f} MB, at most {MAX_BYTES >> 20} are read: is it a model?")
    name = name or path.stem
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

    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.keys()}
            metadata = file.metadata() or {}
            wanted = [key for key in ("W", "a", "b", "mean", "norms") if key in found]
            tensors = {key: file.get_tensor(key).float() for key in wanted if math.prod(found[key]) <= MAX_BYTES // 4}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a safetensors file ({_short(error)}): choose a concept vector that was saved "
            "here or by the paper's code."
        ) from error
    if "W" not in tensors:
        keys = ", ".join(list(found)[:4]) or "nothing"
        raise ValueError(f"{path.name} has no W (found: {keys}): a concept vector file holds W of layers × width.")
    weights = tensors["W"]
    if weights.ndim != 2 or not weights.numel():
        raise ValueError(f"W in {path.name} is {_size(weights)}: it must be layers × width.")
    count = len(weights)
    for key in ("a", "b", "norms"):
        if key in tensors and tensors[key].numel() != count:
            raise ValueError(
                f"{key} in {path.name} has {tensors[key].numel()} numbers, W has {count} layers: save anew."
            )
    if "mean" in tensors and tensors["mean"].shape != weights.shape:
        raise ValueError(f"mean in {path.name} is {_size(tensors['mean'])}, W is {_size(weights)}: save it anew.")
    _check_numbers(path, tensors)
    a, b, norms = (tensors[key].reshape(-1) if key in tensors else None for key in ("a", "b", "norms"))
    facts = _facts(metadata)
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


def _facts(metadata: dict[str, str]) -> dict[str, Any]:
    """Our JSON of a header, as far as it is of the expected types; foreign files have none."""
    try:
        facts = json.loads(metadata.get(METADATA, "{}"))
    except ValueError:
        return {}
    if not isinstance(facts, dict):
        return {}
    for key in ("probe", "representation", "name"):
        if not isinstance(facts.get(key, ""), str) or len(facts.get(key, "")) > 100:
            facts.pop(key)
    for key in ("train_accuracy", "validation_accuracy"):
        values = facts.get(key, [])
        if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
            facts.pop(key)
    return {key: value for key, value in facts.items() if key not in ("format", "layers", "width")}


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{key} in {path.name} holds NaN or infinity: the file is damaged, make the vector again.")
    if not bool(tensors["W"].any()):
        raise ValueError(f"W in {path.name} is all zeros: it has no direction to guide towards.")


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def _short(error: object) -> str:
    return re.sub(r"\s+", " ", str(error))[:80]


# ----------------------------------------------------------------------------------------------- gguf

_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_U32, _STRING, _ARRAY, _F32 = 4, 8, 9, 0
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

    data = path.read_bytes()
    try:
        facts, tensors, start = _gguf_header(data)
    except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path.name} is not a complete GGUF file: fetch or export it again.") from error
    kind = str(facts.get("general.architecture", "none"))[:40]
    rows = {int(key[10:]): value for key, value in tensors.items() if re.fullmatch(r"direction\.\d{1,4}", key)}
    if kind != "controlvector" or not rows:
        raise ValueError(
            f"{path.name} is a GGUF file of the architecture {kind} with {len(rows)} tensors named direction.N: "
            "a control vector has the architecture controlvector and at least one."
        )
    widths = {shape for shape, _, _ in rows.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or {kind for _, kind, _ in rows.values()} != {_F32}:
        raise ValueError(f"{path.name} has directions that are not float32 vectors of one length: export it again.")
    ((width,),) = widths
    count = max(max(rows) + 1, layers or 0)
    if count * width > MAX_BYTES:
        raise ValueError(f"{path.name} speaks of {count} layers of width {width}, more than is read: export it again.")
    weights = torch.zeros(count, width)
    for layer, (_, _, offset) in rows.items():
        values = data[start + offset : start + offset + 4 * width]
        if len(values) != 4 * width:
            raise ValueError(f"{path.name} is not a complete GGUF file: fetch or export it again.")
        weights[layer] = torch.from_numpy(numpy.frombuffer(values, "<f4").astype("f4"))
    _check_numbers(path, {"W": weights})
    told = facts.get("general.name")
    return Concept(
        told if isinstance(told, str) and told else name, weights, representation="hiddens",
        facts={"model_hint": str(facts.get("controlvector.model_hint", ""))[:100]},
    )  # fmt: skip


def _gguf_header(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, int]], int]:
    """Key-value pairs, tensors as name -> (shape, type, offset), and where the tensors' data begin."""
    version, tensor_count, key_count = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3) or tensor_count > 4096 or key_count > 4096:
        raise KeyError(version)
    at = 24

    def take(code: str) -> Any:
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal at
        length = take("Q")
        at += length
        if at > len(data):
            raise struct.error(length)
        return data[at - length : at].decode()

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        if kind == _ARRAY:
            inner, length = take("I"), take("Q")
            if length > len(data) or inner == _ARRAY:
                raise struct.error(length)
            return [value(inner) for _ in range(length)]
        return take(_SCALARS[kind])

    facts = {}
    for _ in range(key_count):
        key = text()
        facts[key] = value(take("I"))
    tensors = {}
    for _ in range(tensor_count):
        key = text()
        dimensions = take("I")
        if dimensions > 4:
            raise struct.error(dimensions)
        tensors[key] = (tuple(take("Q") for _ in range(dimensions)), take("I"), take("Q"))
    alignment = facts.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
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
            raise ValueError(f"{source.name} has {size / 2**20:.1f} MB, at most 5 are read: shorten or split it.")
        text, kind = _decoded(source), source.suffix.lower()
        if kind not in (".csv", ".tsv", ".json", ".jsonl", ".txt"):
            raise ValueError(f"{source.name} ends with {kind or 'nothing'}: give a .csv, .json, .jsonl or .txt file.")
    else:
        text, kind = source, ".txt"
        if len(text) > EXAMPLES_MAX_BYTES:
            raise ValueError(f"The text has {len(text):,} characters, at most 5 million are read: shorten or split it.")
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
    return [(n, _line(n, line)) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _json_rows(text: str, kind: str) -> list[tuple[int, Any]]:
    """A list, one object, or an object a line, as the text turns out to be."""
    if kind != ".jsonl" and text.lstrip().startswith("["):
        return list(enumerate(_json(text, 0), 1))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return [(n, _json(line, n)) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [(1, whole)]


def _json(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise ValueError(f"The JSON breaks off at {where} ({error.msg}): expected such as {SAMPLE_JSON}") from error
    except RecursionError as error:
        raise ValueError(f"The JSON is nested too deeply: expected such as {SAMPLE_JSON}") from error


def _csv(text: str) -> list[tuple[int, Any]]:
    first = text.lstrip().splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in ("prompt", "completion", "label") if name not in columns]
        if missing:
            shown = ", ".join(columns)[:60]
            raise ValueError(
                f"The CSV has the columns {shown} but not {', '.join(missing)}: expected such as {SAMPLE_CSV}"
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
            f"The CSV breaks off near line {reader.line_num} ({error}): expected such as {SAMPLE_CSV}"
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
            keys = ", ".join(map(str, row))[:60] if isinstance(row, dict) else f"no keys but a {type(row).__name__}"
            raise ValueError(
                f"Row {number} has {keys or 'no keys'}: expected prompt, completion and label, such as {SAMPLE_JSON}"
            )
        label = _label(row["label"])
        if label is None:
            wrong.append(f"row {number} has {str(row['label'])[:20]!r}")
            continue
        for key in ("prompt", "completion"):
            if not isinstance(row[key], str) and not (key == "prompt" and row[key] is None):
                raise ValueError(f"The {key} of row {number} is {str(row[key])[:20]!r}: it must be a text.")
            if len(row[key] or "") > EXAMPLE_CHARACTERS:
                raise ValueError(
                    f"The {key} of row {number} has {len(row[key]):,} characters, at most {EXAMPLE_CHARACTERS:,} "
                    "are read: shorten it."
                )
        history = _history(number, row.get("conversation_history"))
        made.append(Example((row["prompt"] or "").strip(), row["completion"].strip(), label, history))
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
    turns = value if isinstance(value, list) else [None]
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise ValueError(
                f"The conversation_history of row {number} is not a list of turns: expected such as "
                '[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]'
            )
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not text in UTF-8 (byte {error.start}): save it again with the encoding UTF-8."
        ) from error
