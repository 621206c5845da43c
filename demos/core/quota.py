"""How much a visitor may send: counted by who he is, given back when it is removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from gradio.utils import get_upload_folder

from demos.core.owners import Visitor


class Refusal(Exception):
    """A request that is not passed on: a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass
class _Sent:
    """One upload of one visitor."""

    path: str
    size: int
    when: float


@dataclasses.dataclass
class Quota:
    """What visitors may upload. ``file`` is the largest file in bytes; the rest follows from it."""

    file: int
    files_held: int = 2_000
    """Files of one visitor on the disk."""
    files_hour: int = 5_000
    total: int = 0
    """Bytes of all uploads and results on the disk; 0 is 100 of the largest file."""
    spare: int = 256 * 2**20
    """Bytes that stay free on the disk."""
    clock: Callable[[], float] = time.monotonic
    _sent: OrderedDict[str, deque[_Sent]] = dataclasses.field(default_factory=OrderedDict)

    NEIGHBOURS: ClassVar[int] = 10
    """Shares of all visitors at one address: a new cookie is easily had."""

    def __post_init__(self) -> None:
        self.held, self.hour, self.day = 15 * self.file, 25 * self.file, 100 * self.file
        self.total = self.total or 100 * self.file

    def room(self, visitor: Visitor) -> int:
        """Bytes that this visitor may send now.

        Raises:
            Refusal: none, and why.
        """
        left = min(self._share(key, shares) for key, shares in self._keys(visitor))
        stored, free = self._disk()
        if min(self.total - stored, free - self.spare) <= 0:
            raise Refusal(507, "This server has no room for more files just now: try again later.")
        return min(left, self.total - stored, free - self.spare)

    def add(self, visitor: Visitor, paths: list[str]) -> None:
        """Count files that arrived."""
        for key, _shares in self._keys(visitor):
            for path in paths:
                with contextlib.suppress(OSError):
                    self._of(key).append(_Sent(path, os.path.getsize(path), self.clock()))

    def _keys(self, visitor: Visitor) -> list[tuple[str, int]]:
        address = (f"at {visitor.address}", self.NEIGHBOURS)
        return [(visitor.who, 1), address] if visitor.has_page else [(visitor.address, 1), address]

    def _share(self, key: str, shares: int) -> int:
        now, sent = self.clock(), self._of(key)
        while sent and now - sent[0].when > 86_400:
            sent.popleft()
        here = [one for one in sent if os.path.exists(one.path)]
        hour = [one for one in sent if now - one.when < 3_600]
        if len(here) >= shares * self.files_held:
            raise Refusal(
                429, f"You have {len(here)} files here, and more are not taken: press Clear my work, or wait a day."
            )
        if len(hour) >= shares * self.files_hour:
            raise Refusal(429, f"You sent {len(hour):,} files within an hour, and more are not taken: wait an hour.")
        left = {
            "the files you have here": shares * self.held - sum(one.size for one in here),
            "what you sent within an hour": shares * self.hour - sum(one.size for one in hour),
            "what you sent within a day": shares * self.day - sum(one.size for one in sent),
        }
        which = min(left, key=left.__getitem__)
        if left[which] <= 0:
            raise Refusal(
                429, f"With {which}, your share of this server is used up: wait, or start the studio yourself."
            )
        return left[which]

    def _of(self, key: str) -> deque[_Sent]:
        self._sent[key] = self._sent.pop(key, deque())
        if len(self._sent) > 10_000:
            self._sent.popitem(last=False)
        return self._sent[key]

    def _disk(self) -> tuple[int, int]:
        """Bytes in the upload folder, and free on its disk."""
        folder, stored = Path(get_upload_folder()), 0
        folder.mkdir(parents=True, exist_ok=True)
        for root, _folders, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    stored += os.lstat(os.path.join(root, name)).st_size
        disk = os.statvfs(folder) if hasattr(os, "statvfs") else None
        return stored, disk.f_bavail * disk.f_frsize if disk else self.total + self.spare


def size_of(text: str) -> int:
    """Bytes of "40mb"."""
    found = re.fullmatch(r"(\d+)\s*(kb|mb|gb)", text.lower())
    assert found, text
    return int(found[1]) * {"kb": 2**10, "mb": 2**20, "gb": 2**30}[found[2]]
