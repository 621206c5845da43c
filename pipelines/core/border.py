"""What crosses from the page's process to a worker's and back, as bytes: a visitor's files as their content, an error with what is said of it."""

from __future__ import annotations

import io
import os
import pickle
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core import lane, troubles

_REGISTRY = b"the worker's own registry"


class _Packer(pickle.Pickler):
    def __init__(self, into: io.BytesIO, registry: object, root: Path | None, sent: Mapping[str, str]) -> None:
        super().__init__(into, pickle.HIGHEST_PROTOCOL)
        self.registry, self.root, self.sent = registry, root, sent

    def persistent_id(self, value: Any) -> Any:
        """In what it gives there is no text: that would be looked at in turn."""
        if value is self.registry and value is not None:
            return (_REGISTRY,)
        if not isinstance(value, str | Path):
            return None
        text = str(value)
        if text in self.sent:  # it goes back to where it came from
            return b"here", os.fsencode(self.sent[text]), isinstance(value, Path)
        if self.root is not None and text.startswith(f"{self.root}/") and len(text) < 4096 and Path(text).is_file():
            return b"file", os.fsencode(text), Path(text).read_bytes(), isinstance(value, Path)
        return None


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, registry: object, folder: Path | None) -> None:
        super().__init__(io.BytesIO(data))
        self.registry, self.folder = registry, folder
        self.sent: dict[str, str] = {}

    def persistent_load(self, told: Any) -> Any:
        if told[0] == _REGISTRY:
            return self.registry
        text = os.fsdecode(told[1])
        if told[0] == b"here":
            return Path(text) if told[2] else text
        _file, _text, content, is_path = told
        known = {there: here for here, there in self.sent.items()}
        if text not in known:
            assert self.folder is not None
            place = self.folder / str(len(self.sent)) / Path(text).name
            place.parent.mkdir(parents=True)
            place.write_bytes(content)
            self.sent[str(place)], known[text] = text, str(place)
        return Path(known[text]) if is_path else known[text]


def pack(
    value: object, registry: object = None, root: Path | None = None, sent: Mapping[str, str] | None = None
) -> bytes:
    """``value`` as bytes.

    Args:
        registry: the one that stands for the worker's own.
        root: files below it are sent with their content wherever their name stands.
        sent: of a worker, place -> name on the page, for what goes back.
    """
    into = io.BytesIO()
    _Packer(into, registry, root, sent or {}).dump(value)
    return into.getvalue()


def unpack(data: bytes, registry: object = None, folder: Path | None = None) -> tuple[Any, dict[str, str]]:
    """The value, and which files came with it: their places in ``folder`` -> their names on the page."""
    unpacker = _Unpacker(data, registry, folder)
    return unpacker.load(), unpacker.sent


def packed_item(item: object, sent: Mapping[str, str]) -> bytes:
    """An item of a run, or the error in place of one that cannot be sent."""
    if isinstance(item, lane.Failure):
        item = lane.Failure(sealed(item.error))
    try:
        return pack(item, sent=sent)
    except Exception as error:
        what = item.error if isinstance(item, lane.Failure) else error
        instead = RuntimeError(f"{type(what).__name__}: {what}")
        instead.told_elsewhere = getattr(what, "told_elsewhere", (None, False))  # type: ignore[attr-defined]
        return pack(lane.Failure(instead))


def sealed(error: BaseException) -> BaseException:
    """The error with what only its own process can tell: whether its text is ours, what is wrong with the machine, its traceback."""
    if not isinstance(error, lane.Cancelled):
        told = (troubles.sentence(error), troubles.ours(error))
        error.add_note("".join(traceback.format_exception(error)).rstrip())
        error.told_elsewhere = told  # type: ignore[attr-defined]
    return error
