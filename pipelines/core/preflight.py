"""What a run would fetch and need, told before it is started: nothing is fetched or loaded, and the Hub is asked once, briefly.

:func:`look` goes through the leases of a run and gives, of each repository, what is still to fetch, under which licence, and whether
the Hub gives it out; of each kind of memory what is needed and what is there; and the room on the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import constants

from pipelines.core import hub
from pipelines.core.downloads import in_bytes
from pipelines.core.weights import ModelSpec, from_hub, local_copy

if TYPE_CHECKING:
    from pipelines.core.registry import Registry

Leases = Sequence[Sequence[ModelSpec]]
"""The parts of a run: those that are in memory together, one lease after the other."""

TIMEOUT_S = 4.0
KEEP_S = {True: 600.0, False: 30.0}
"""How long an answer of the Hub counts: one that came, and one that did not."""
OPEN, GRANTED, UNKNOWN, COPY = "open", "licence accepted", "not known", "a copy on this machine"
"""Words for how a repository may be had, beside those of ``hub.BARRIERS``."""
TIERS = {"gpu": "GPU", "ram": "RAM"}


@dataclass(frozen=True)
class Checkpoint:
    """A repository that parts of a run come from."""

    source: str
    licences: tuple[str, ...]
    to_fetch: int | None
    """Bytes that are not on this machine; None: not known, because the Hub was not reached."""
    declared: int
    """About how many bytes its parts are, as we say."""
    access: str
    """How it may be had, in two or three words."""
    todo: str = ""
    """What stands in the way and what to do about it; empty where nothing does."""


@dataclass(frozen=True)
class Memory:
    """Weights in one kind of memory."""

    name: str
    """ "GPU" or "RAM"."""
    needed: int
    there: int | None
    """What the studio may use for weights; None: not known before a run."""

    @property
    def fits(self) -> bool:
        return self.there is None or self.needed <= self.there


@dataclass(frozen=True)
class Preflight:
    """What is known of a run before it begins."""

    checkpoints: tuple[Checkpoint, ...]
    memory: tuple[Memory, ...]
    free: int
    """Bytes on the disk for what is fetched."""
    reached: bool
    """Whether the Hub answered; True where it need not be asked."""

    @property
    def to_fetch(self) -> int:
        """Bytes that are not on this machine, as far as they are known."""
        return sum(one.to_fetch or 0 for one in self.checkpoints)

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why a run would end before its first step, a sentence each."""
        found = [f"{one.source}: {one.todo}." for one in self.checkpoints if one.todo]
        found += [
            f"{one.name}: the models need {in_gib(one.needed)} and the studio may use {in_gib(one.there)}."
            for one in self.memory
            if one.there is not None and not one.fits
        ]
        if self.to_fetch > self.free:
            found.append(f"Disk: {in_bytes(self.to_fetch)} are to fetch and {in_bytes(self.free)} are free.")
        return tuple(found)


@dataclass(frozen=True)
class Answer:
    """What came of asking the Hub about a repository: it, and what stands in the way, or nothing."""

    repository: hub.Repository | None = None
    barrier: str | None = None
    reached: bool = True


_answers: dict[tuple[str, str | None], tuple[float, Answer]] = {}
_asking = threading.Lock()


def forget() -> None:
    """Ask the Hub anew at the next look."""
    _answers.clear()


def look(registry: Registry, leases: Leases, timeout_s: float = TIMEOUT_S) -> Preflight:
    """What is known of a run with these ``leases``. May take ``timeout_s`` and a little, at the first look."""
    wanted: dict[tuple[str, str | None], list[ModelSpec]] = {}
    for spec in dict.fromkeys(spec for lease in leases for spec in lease):
        for one in from_hub(spec):
            files = wanted.setdefault((one.source, one.revision), [])
            files += [] if one in files else [one]
    to_ask = [place for place in wanted if local_copy(place[0]) is None]
    answers = _ask(to_ask, timeout_s)
    found = tuple(_checkpoint(specs, answers.get(place)) for place, specs in wanted.items())
    reached = all(answer.reached for answer in answers.values())
    return Preflight(found, _memory(registry, leases), hub.free_room(), reached)


def _ask(places: Iterable[tuple[str, str | None]], timeout_s: float) -> Mapping[tuple[str, str | None], Answer]:
    places = list(places)
    with _asking:  # all tabs of a page look at once
        now = time.monotonic()
        old = [place for place in places if place not in _answers or now > _answers[place][0]]
        with ThreadPoolExecutor(max(1, len(old))) as pool:
            for place, answer in zip(old, pool.map(lambda one: _answer(one, timeout_s), old), strict=True):
                _answers[place] = time.monotonic() + KEEP_S[answer.reached and answer.barrier is None], answer
        return {place: _answers[place][1] for place in places}


def _answer(place: tuple[str, str | None], timeout_s: float) -> Answer:
    if constants.HF_HUB_OFFLINE:
        return Answer(reached=False)
    (source, revision), repository = place, None
    try:
        repository = hub.ask(source, revision, timeout_s)
        large = max(repository.files, key=lambda name: repository.files[name][0], default=None)
        if repository.gated and large is not None:
            hub.knock(source, large, timeout_s)
    except Exception as error:  # of the client, which has many; a run tells each in its sentence
        barrier = hub.barrier(error)
        return Answer(repository, barrier, reached=barrier is not None)
    return Answer(repository)


def _checkpoint(specs: Sequence[ModelSpec], answer: Answer | None) -> Checkpoint:
    """``specs`` of one repository; ``answer``: None where the host put a copy of it beside the studio."""
    source = specs[0].source
    licences, declared = tuple(dict.fromkeys(one.licence for one in specs)), sum(one.bytes for one in specs)
    if answer is None:
        return Checkpoint(source, licences, 0, declared, COPY)
    to_fetch, lacks = _to_fetch(specs, answer)
    if answer.barrier is not None and to_fetch != 0:
        return Checkpoint(
            source, licences, to_fetch, declared, answer.barrier, hub.BARRIERS[answer.barrier].format(source)
        )
    if answer.repository is None:
        todo = "" if to_fetch == 0 else "it is not on this machine and the Hub cannot be reached"
        return Checkpoint(source, licences, to_fetch, declared, UNKNOWN if todo else "on this machine", todo)
    return Checkpoint(source, licences, to_fetch, declared, GRANTED if answer.repository.gated else OPEN, lacks)


def _to_fetch(specs: Sequence[ModelSpec], answer: Answer) -> tuple[int | None, str]:
    """Bytes that are not here (None: not known), and what the repository lacks."""
    if answer.repository is None:
        return (0 if all(hub.kept_whole(one) is not None for one in specs) else None), ""
    todo: dict[str, hub.File] = {}
    for one in specs:
        try:
            files = hub.wanted(one, answer.repository)
        except FileNotFoundError as error:
            return None, str(error)
        todo |= {name: file for name, file in files.items() if not hub.is_kept(one, name)}
    return hub.to_fetch(specs[0], todo), ""


def _memory(registry: Registry, leases: Leases) -> tuple[Memory, ...]:
    """The most that any lease needs, by tier."""
    most: dict[str, Memory] = {}
    for lease in leases:
        for tier, (needed, there) in registry.room(lease).items():
            if tier not in most or needed > most[tier].needed:
                most[tier] = Memory(TIERS[tier], needed, there)
    return tuple(most[tier] for tier in TIERS if tier in most)


def in_gib(count: int) -> str:
    """ "9.1 GiB", as the budgets are given."""
    return f"{count / 2**30:.1f} GiB"
