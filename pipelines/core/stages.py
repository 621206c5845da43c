"""A run in stages: each shows its pictures, and is kept by what it depends on, so that it is not computed twice."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy
from PIL.Image import Image


@dataclass
class Preview:
    """What a stage looks like after ``step`` of ``steps``; after the last, its finished picture."""

    stage: str
    step: int
    steps: int
    picture: Image


class Cache:
    """Results of stages by a hash of everything that they depend on; what was used least recently goes first.

    One for a visitor: a key holds no name, but a result is somebody's picture.
    """

    def __init__(self, entries: int = 48, most_bytes: int = 256 * 2**20) -> None:
        self.entries, self.most_bytes = entries, most_bytes
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    @staticmethod
    def key(*inputs: object) -> str:
        """A hash of arrays (type, shape, bytes) and of plain values."""
        digest = hashlib.sha256()
        for value in inputs:
            if isinstance(value, numpy.ndarray):
                digest.update(f"{value.dtype}{value.shape}".encode())
                digest.update(numpy.ascontiguousarray(value).tobytes())
            else:
                digest.update(repr(value).encode())
            digest.update(b"|")
        return digest.hexdigest()

    def get(self, key: str) -> Any | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: str, value: object) -> None:
        self._kept[key] = (value, _bytes_of(value))
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (
            len(self._kept) > self.entries or sum(size for _value, size in self._kept.values()) > self.most_bytes
        ):
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()


@dataclass(frozen=True, eq=False)
class Stored:
    """An entry of the run's cache, emitted when it is made."""

    key: str
    value: Any


def keeping(items: Generator[Any], cache: Cache) -> Generator[Any]:
    """A run's ``items`` without its :class:`Stored` ones, which are put into ``cache``: where the run is in another process
    (ZeroGPU), it fills a copy of its own."""
    with contextlib.closing(items):
        for item in items:
            if isinstance(item, Stored):
                cache.put(item.key, item.value)
            else:
                yield item


def _bytes_of(value: object) -> int:
    if isinstance(value, numpy.ndarray):
        return value.nbytes
    if isinstance(value, Image):
        return value.width * value.height * len(value.getbands())
    if dataclasses.is_dataclass(value):
        return sum(_bytes_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple | list):
        return sum(_bytes_of(part) for part in value)
    return 64
