"""Bytes from the Hub into its client's cache: counted, stopped at once, and taken up where they broke off.

The client throws a file away that did not arrive whole. Here what has arrived lies beside the cache's files, as ``<hash>.incomplete``,
and the next try asks for the rest. A file gets its name in the cache once its hash is right, so that nothing partial ever
counts as there. Small files, and those whose hash the Hub does not tell, are left to the client, which begins them anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import get_hf_file_metadata, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status, tqdm

from pipelines.core import lane

T = TypeVar("T")

SAY_EVERY_S = 0.5
LOOK_EVERY_S = 0.1
RATE_AFTER_S = 5.0
"""A download's pace is told once it has gone on for so long."""
TRIES, AGAIN_AFTER_S = 4, 1.0
"""How often a connection that brings nothing is made again, and how soon."""
CHUNK = 1 << 16

# The client takes 10 MB at a time, so that a slow download would not hear of a stop for minutes. Its Xet transfers hear of none
# and are thrown away: plain HTTP is taken unless the host says otherwise.
constants.DOWNLOAD_CHUNK_SIZE = CHUNK
if "HF_HUB_DISABLE_XET" not in os.environ:
    constants.HF_HUB_DISABLE_XET = True


class Stopped(Exception):
    """The run that wanted the files has ended."""


class Damaged(Exception):
    """What arrived has not the hash that the Hub tells; it was removed."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"SHA-256 {found[:12]}…, not {wanted[:12]}…")


@dataclass
class Arrived:
    """How many bytes of a download are there. Written by the thread that fetches, read by the run's."""

    total: int = 0
    bytes: int = 0
    kept: int = 0
    """Of them, those that were there before."""
    over: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise :class:`Stopped` where the run has ended."""
        if self.over.is_set():
            raise Stopped

    def add(self, count: int) -> None:
        """Count bytes that have just come."""
        self.check()
        self.bytes += count

    @property
    def share(self) -> float:
        return min(1.0, self.bytes / self.total) if self.total else 0.0

    def in_words(self) -> str:
        """ "1.2 GB of 5.1 GB", and how long the rest takes at this pace."""
        words = f"{in_bytes(min(self.bytes, self.total))} of {in_bytes(self.total)}"
        took, new = time.monotonic() - self.began, self.bytes - self.kept
        if took < RATE_AFTER_S or new <= 0:
            return words
        left = took / new * max(0, self.total - self.bytes)
        return f"{words}, about {f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left"


_fetching: list[threading.Thread] = []
"""The thread of the last download, which may still wait for the Hub after its run was stopped."""


def stoppable(what: str, work: Callable[[Arrived], T]) -> T:
    """``work(arrived)`` on a thread of its own, so that a stopped run ends at once, even while the Hub says nothing.

    The thread ends when it next counts bytes; another download waits for that. ``what`` is fetched, for the line of progress.
    """
    job = lane.running()
    arrived, outcome = Arrived(), dict[str, Any]()
    if job is None:
        return work(arrived)

    def fetch() -> None:
        try:
            outcome["value"] = work(arrived)
        except BaseException as error:  # raised again below, on the run's thread
            outcome["error"] = error

    thread, said = threading.Thread(target=fetch, name="download", daemon=True), 0.0
    try:
        while _fetching and _fetching[0].is_alive():
            job.progress(0.0, f"fetching {what}: waiting for an earlier download to end")
            _fetching[0].join(SAY_EVERY_S)
        _fetching[:] = [thread]
        thread.start()
        while thread.is_alive():
            thread.join(LOOK_EVERY_S)
            job.check()
            if arrived.total and time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                job.progress(arrived.share, f"fetching {what}: {arrived.in_words()}")
    finally:
        arrived.over.set()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def blob(source: str, sha256: str) -> Path:
    """Where the client's cache keeps a large file of the repository ``source``."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model") / "blobs" / sha256


def partial(source: str, sha256: str) -> Path:
    """Where what has arrived of it lies."""
    file = blob(source, sha256)
    return file.with_name(f"{sha256}.incomplete")


def here(source: str, sha256: str | None) -> int:
    """Bytes of a file that did not arrive whole."""
    with contextlib.suppress(OSError):
        return partial(source, sha256).stat().st_size if sha256 else 0
    return 0


def fetch_large(source: str, revision: str, name: str, size: int, sha256: str, arrived: Arrived) -> None:
    """Bring a large file into the client's cache, or the rest of it; does nothing where it is there.

    Raises:
        Damaged: something else arrived than the Hub says; the next try begins anew.
    """
    place, file = blob(source, sha256), partial(source, sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.parents[2] / ".locks" / place.parents[1].name / f"{sha256}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    while not place.exists():
        arrived.check()
        # The client's own lock: another program may be fetching the file.
        with contextlib.suppress(TimeoutError), WeakFileLock(lock, timeout=LOOK_EVERY_S):
            if not place.exists():
                _fetch_rest(hf_hub_url(source, name, revision=revision), file, size, arrived)
                _check_hash(file, sha256)
                file.replace(place)


def _fetch_rest(url: str, file: Path, size: int, arrived: Arrived) -> None:
    """Append to ``file`` what it lacks, over as many connections as it takes."""
    headers = build_hf_headers() | {
        "Accept-Encoding": "identity"
    }  # a packed answer could not be taken up in the middle
    get_hf_file_metadata(url, headers=headers)  # who may not have it is told so before anything is asked for
    with file.open("ab") as opened:
        if opened.tell() > size:
            opened.truncate(0)
        vain = 0
        while (before := opened.tell()) < size:
            try:
                _append(url, headers, opened, arrived)
            except Exception as error:
                if not broke(error) or vain >= TRIES:
                    raise
            vain = vain + 1 if opened.tell() == before else 0
            if vain > TRIES:
                raise ConnectionError("the Hub sends less than it announced")
            if opened.tell() < size:
                arrived.over.wait(AGAIN_AFTER_S)
                arrived.check()


def _append(url: str, headers: dict[str, str], opened: BinaryIO, arrived: Arrived) -> None:
    kept = opened.tell()
    asked = headers | ({"Range": f"bytes={kept}-"} if kept else {})
    stream = get_session().stream("GET", url, headers=asked, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with stream as response:
        hf_raise_for_status(response)
        if kept and response.status_code != 206:  # the whole comes again
            opened.truncate(0)
            arrived.bytes -= kept
        for chunk in response.iter_bytes(CHUNK):
            arrived.add(len(chunk))
            opened.write(chunk)


def broke(error: BaseException) -> bool:
    """Whether an error is the connection's: of httpx, whichever the client uses."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _check_hash(file: Path, wanted: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wanted:
        file.unlink()
        raise Damaged(found, wanted)


def bar(arrived: Arrived) -> type[tqdm]:
    """The client's progress bar, which shows nothing and counts bytes instead."""

    class Bar(tqdm):
        """Used on the client's own threads."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            name = str(options.get("name") or "")
            self.counts = options.get("unit") == "B" and not name.endswith(".transfer")  # which counts the same again

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                arrived.add(int(n or 0))
            else:
                arrived.check()

    return Bar


def in_bytes(count: int) -> str:
    """ "5.1 GB", "123 MB", "0.4 MB", "12 kB"."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    if count >= 1e5:
        return f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
    return f"{count / 1e3:.0f} kB"
