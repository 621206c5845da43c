"""A few tables of numbers, and a JSON text about them, in a small safetensors that a visitor brings: checked before it is read. Torch-free."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

HEADER_MOST = 2**16


def header_fits(path: str | Path, most: int = HEADER_MOST) -> bool:
    """Whether the header says that it has at most ``most`` bytes: safetensors reads as much as it says."""
    with Path(path).open("rb") as file:
        start = file.read(8)
    return len(start) == 8 and struct.unpack("<Q", start)[0] <= most


def read(
    path: Path, about: str, names: Sequence[str], version: int, most: int, wrong: str
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The tables ``names``, in that order, and what the header's text ``about`` says, whose "format" is ``version``.

    Raises:
        ValueError: with the words ``wrong``; it has more than ``most`` bytes, cannot be read, or lacks some of this.
    """
    if path.stat().st_size > most or not header_fits(path):
        raise ValueError(wrong)
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in names if name in file.keys()}  # not a dictionary
            facts: Any = json.loads((file.metadata() or {}).get(about, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError, TypeError) as error:
        raise ValueError(wrong) from error
    if len(found) < len(names) or not isinstance(facts, dict) or facts.get("format") != version:
        raise ValueError(wrong)
    return found, facts
