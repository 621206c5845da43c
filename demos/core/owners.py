"""Whose file is whose, where the folders of :mod:`demos.core.visitors` do not say it: among programs, which keep no cookie.

Programs send files before they have a session, all into one folder. So what one sent is its address's; once a session that stays
connected has named it, it is that session's alone. What was made for a program is its session's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from demos.core import visitors

RAW = "raw"
"""The session of calls that come without one."""


@dataclass(frozen=True)
class Visitor:
    """Who sent a request."""

    address: str = ""
    who: str = ""
    """Of :func:`demos.core.visitors.visitor`."""

    @property
    def has_page(self) -> bool:
        return visitors.has_page(self.who)

    def is_same(self, owner: Visitor) -> bool:
        """Whether what is ``owner``'s is this visitor's: by the cookie, or by the address where there was none."""
        return self.who == owner.who if owner.has_page else self.address == owner.address


@dataclass
class _Claims:
    addresses: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    """Those whose it is; empty: everybody's at these addresses."""
    sent: int = 0
    """Times that it was sent; each may become a session's."""


class Owners:
    """Who may use and who may fetch a file. Safe to call from any thread."""

    MOST = 100_000

    def __init__(self) -> None:
        self._claims: dict[str, _Claims] = {}
        self._staying: dict[str, None] = {}
        self._lock = threading.Lock()

    def sent(self, paths: Iterable[str], visitor: Visitor) -> None:
        """Somebody uploaded files."""
        self._add(paths, visitor, None)

    def made(self, paths: Iterable[str], visitor: Visitor, session: str) -> None:
        """Files are the results of somebody's run."""
        self._add(paths, visitor, session)

    def _add(self, paths: Iterable[str], visitor: Visitor, session: str | None) -> None:
        if visitor.has_page:
            return
        with self._lock:
            for path in paths:
                claims = self._claims.setdefault(os.path.realpath(path), _Claims())
                claims.addresses.add(visitor.address)
                if session is None:
                    claims.sent += 1
                else:
                    claims.sessions.add(session)
                if len(self._claims) > self.MOST:
                    del self._claims[next(iter(self._claims))]

    def stays(self, session: str) -> None:
        """A program stays connected under this session, as Gradio's own client does."""
        with self._lock:
            self._staying[session] = None
            if len(self._staying) > self.MOST:
                del self._staying[next(iter(self._staying))]

    def may_use(self, path: str, visitor: Visitor, session: str) -> bool:
        """Whether a call of this visitor may name the file."""
        if not self.may_fetch(path, visitor):
            return False
        with self._lock:
            claims = self._claims.get(os.path.realpath(path))
            if visitor.has_page or claims is None or session in claims.sessions:
                return True
            if len(claims.sessions) >= max(claims.sent, 1):
                return False
            if session in self._staying:
                claims.sessions.add(session)
            return True

    def may_fetch(self, path: str, visitor: Visitor) -> bool:
        """Whether the file may be sent to this visitor."""
        if not visitors.may_read(visitor.who, path):
            return False
        if visitor.has_page or visitors.is_of_page(path):
            return True
        with self._lock:
            claims = self._claims.get(os.path.realpath(path))
        return claims is not None and visitor.address in claims.addresses


OWNERS = Owners()


def file_paths(value: object) -> Iterable[str]:
    """The paths of all file data in what a handler gave to the page."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("path"), str) and "meta" in one:
                yield one["path"]
            else:
                waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
