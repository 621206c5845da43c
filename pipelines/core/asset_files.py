"""Files that come along with the weights and say something of them: manifests, figures, sweeps, first pictures.

A copy of the studio may lack one, or hold half of it. Then the page starts without, and says so: :func:`problems`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.core.troubles import ROOT

T = TypeVar("T")
GARBLED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file may raise that is not what it should be."""
RESTORE = "put back the files that the studio came with (git checkout, git lfs pull, or install it again)"

_problems: dict[str, str] = {}


def facts(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in a file; empty, and noted, where there is none that can be read or has no such ``keys``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(found.get(key) for key in keys):
            raise ValueError(path.name)
    except FileNotFoundError:
        _note(path, "missing")
    except GARBLED:
        _note(path, "damaged")
    else:
        _problems.pop(_name(path), None)
        return found
    return {}


def reading(path: Path, read: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """``read()``; where what is in the file cannot be read so, that is noted and ``otherwise()`` stands for it."""
    try:
        return read()
    except GARBLED as error:
        _note(path, "missing" if isinstance(error, FileNotFoundError) else "damaged")
        return otherwise()


def claim(path: Path) -> str:
    """The one measured sentence in an evaluation's file."""
    return str(facts(path, "claim").get("claim", "Not measured yet."))


def hashes(facts: dict[str, Any]) -> dict[str, str]:
    """File -> SHA-256 of all files that a manifest knows: weights, and the settings and words beside them."""
    return {name: value for key in ("sha256", "settings sha256") for name, value in strings(facts.get(key)).items()}


def strings(found: object) -> dict[str, str]:
    """The pairs of two texts in what should be a dictionary of such."""
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, str)}


def sizes(found: object) -> dict[str, int]:
    """The pairs of a text and a whole number in what should be a dictionary of such."""
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: size for name, size in pairs if isinstance(size, int) and 0 <= size < 2**50}


def check(path: Path, size: int | None, sha256: str) -> None:
    """Note a file that is missing or is another one: weights by their size, what is small by its hash."""
    try:
        if size is None:
            whole = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
        else:
            whole = path.stat().st_size == size
    except FileNotFoundError:
        _note(path, "missing")
    except OSError:
        _note(path, "damaged")
    else:
        if not whole:
            _note(path, "damaged")


def problems() -> dict[str, str]:
    """File (relative to the studio's folder) -> "missing" or "damaged", as far as was noticed."""
    return dict(_problems)


def problem(path: Path) -> str:
    """ "missing" or "damaged", if that was noticed of this file."""
    return _problems.get(_name(path), "")


def sentence() -> str:
    """What is missing or damaged, and what to do; empty when nothing is."""
    if not _problems:
        return ""
    told = [f"{name} is {what}" for name, what in sorted(_problems.items())]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return f"{', '.join(told[:3])}{more}: {RESTORE}."


def _note(path: Path, what: str) -> None:
    _problems[_name(path)] = what


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
