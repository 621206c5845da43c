"""Labelled answers to make a concept from: files of four kinds, or lines of pasted text. No torch.

examples = read_examples("+ Hello => Hi, you marvel!\\n- Hello => Hello.")
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.limits import BREAKS, choice, described, plain, shown

EXAMPLES_MAX_BYTES = 5 * 2**20
EXAMPLES_MAX = 2000
EXAMPLE_CHARACTERS = 20_000
TURNS_MAX = 200
SAMPLE_CSV = "prompt,completion,label / Hello,Hi there!,1"
SAMPLE_JSON = '[{"prompt": "Hello", "completion": "Hi there!", "label": 1}]'


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


def _label(value: object) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        words = {"1": 1, "1.0": 1, "yes": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "false": 0}
        return words.get(word)
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _history(number: int, value: object) -> tuple[dict[str, str], ...]:
    if value in (None, "", [], "[]"):
        return ()
    if isinstance(value, str):
        value = _json(value, number)
    turns: Sequence[Any] = value if isinstance(value, list | tuple) and len(value) <= TURNS_MAX else [None]
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
