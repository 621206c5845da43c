"""More than one worker for the line of jobs: who takes which job, and what happens when one dies. Nothing of Ray here, no torch.

    pool = Pool()
    lane.send_elsewhere(pool.dispatch, pool)      # every `lane.stream` of this process goes through the pool
    pool.add(worker)                              # of any kind: `pipelines/core/ray_workers.py` makes those of a cluster

A worker is a process with a registry and a lane of its own, which runs one job at a time. A job goes to the idle worker that
holds most of the models it needs (those that the last job of its kind used), then to the one that was least busy, so that two
visitors of two tabs do not evict each other's models. The line is `lane.Line`: owners take turns.

A worker that is lost in the middle of a job: the job begins again on the next free one, with the same arguments and so with the same
seed. What its reader has seen already is not sent twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.core import lane
from pipelines.core.registry import Registry

AGAIN = "The worker that made this was lost: the run begins again on the next free one."
MOST_TRIES = 10
"""So often a run begins at most: one that takes its worker along each time must not take them all for ever. (Five are too few: where one
worker of two is killed as soon as both are back, every second kill finds the run that was lost before, on a worker that is still loading.)"""
TOO_OFTEN = "Ten workers were lost while they worked on this: try again in a minute, or make less at once."
STARTING = "The workers are starting"
ASK_AGAIN_S = 0.5
"""Between two questions to a worker that was lost whether it is back."""


class Lost(Exception):
    """The worker is gone, and its job with it; perhaps it comes back without it."""


class Unreachable(ConnectionError):
    """All workers are gone at once: what led to them is. Its text is a sentence for the visitor."""


@dataclass(frozen=True)
class State:
    """What a worker tells of itself after each job."""

    rows: tuple[dict[str, Any], ...] = ()
    """`Registry.status()` of the worker's own."""
    device: str | None = None
    used: frozenset[str] = frozenset()
    """Keys of the parts that its last job leased."""
    typical_s: dict[str, float] = field(default_factory=dict)
    """Seconds of a job by its kind, without fetching and loading."""

    @property
    def holds(self) -> frozenset[str]:
        """Keys of the parts that are loaded."""
        return frozenset(row["key"] for row in self.rows if row["state"] in ("ram", "gpu"))


@dataclass(frozen=True)
class Work:
    """What a job does: ``fn(job, *args, **kwargs)``."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    limit_s: float


@dataclass(eq=False)
class Errand(lane.Job):
    """A job for a worker. The limit of a run is kept by the worker, which knows how long it loaded."""

    work: Work = field(kw_only=True)
    tries: int = 0
    seen: int = 0
    """Items of this try; those of them that were told before are not told again."""
    told: int = 0

    def hear(self, item: object) -> None:
        """An item of the worker, for the reader."""
        if isinstance(item, lane.Progress):
            self.out.put(item)
            return
        self.seen += 1
        if self.seen > self.told:
            self.told = self.seen
            self.out.put(item)


class Worker(Protocol):
    """One that runs jobs elsewhere. Both methods block, and raise `Lost` or `Unreachable`."""

    name: str

    def run(self, errand: Errand) -> tuple[Any, State]:
        """The work's value, after each of its items went to ``errand.hear``; raises what the work raises. Ends soon once
        ``errand.stop`` is set."""

    def state(self) -> State:
        """Answers when the worker can take a job."""


@dataclass(eq=False)
class Hand:
    """What the pool knows of a worker. Changed with the line's lock held."""

    worker: Worker
    state: State = field(default_factory=State)
    ready: bool = False
    removed: bool = False
    job: Errand | None = None
    busy_s: float = 0.0
    jobs: int = 0

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None and not self.removed


class Pool(lane.Line):
    """The line before all workers, with a thread of this process for each, which waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.hands: list[Hand] = []
        self.needs: dict[str, frozenset[str]] = {}
        """Keys of the parts that the last job of a kind used."""
        self.trouble = ""
        """Why there are no workers, where that is more than a matter of waiting."""

    # --- for whoever sends jobs ---

    def dispatch(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], limit_s: float
    ) -> Generator[Any]:
        """For `lane.send_elsewhere`. Raises `Unreachable` at once while there is no way to the workers."""
        errand = Errand(reader=lane._reader.get(), kind=lane._kind(fn), work=Work(fn, args, kwargs, limit_s))
        lane.enrol(errand)
        if self.trouble:
            raise Unreachable(self.trouble)
        yield from lane.follow(self, errand, lane.BEAT_S)

    @property
    def width(self) -> int:  # type: ignore[override]
        return sum(hand.ready for hand in self.hands)

    def going(self) -> list[lane.Job]:
        return [hand.job for hand in self.hands if hand.job is not None]

    def facts(self) -> list[tuple[str, str]]:
        """For the status line: how many work, and what each holds."""
        with self.changed:
            hands = list(self.hands)
            if self.trouble or not hands:
                return [("Workers", self.trouble or STARTING)]
            busy = sum(hand.job is not None for hand in hands)
            away = sum(not hand.ready and hand.job is None for hand in hands)
            told = f"{len(hands)}, {busy} busy" + (f", {away} starting" if away else "")
            return [("Workers", told), *((hand.worker.name, _parts(len(hand.state.holds))) for hand in hands[:8])]

    # --- for whoever brings workers ---

    def add(self, worker: Worker) -> None:
        """Let it take jobs as soon as it answers."""
        hand = Hand(worker)
        with self.changed:
            self.hands.append(hand)
            self.trouble = ""
        threading.Thread(target=self._serve, args=(hand,), name=worker.name, daemon=True).start()

    def remove(self, worker: Worker) -> None:
        """Give it no more jobs; the one that it has goes on."""
        with self.changed:
            for hand in [hand for hand in self.hands if hand.worker is worker]:
                hand.removed = True
                self.hands.remove(hand)
            self.changed.notify_all()

    def close(self, trouble: str) -> None:
        """All workers are gone: whoever waits is told ``trouble``, and so is whoever comes until one is added."""
        with self.changed:
            self.trouble = trouble
            for hand in self.hands:
                hand.removed = True
            self.hands.clear()
            waiting, self.jobs = list(self.jobs), type(self.jobs)()
            self.changed.notify_all()
        for job in waiting:
            _end(job, lane.Failure(Unreachable(trouble)))

    # --- a thread for each worker ---

    def _serve(self, hand: Hand) -> None:
        while not hand.removed:
            if not hand.ready:
                self._greet(hand)
            elif (errand := self._next(hand)) is not None:
                self._work_off(hand, errand)

    def _greet(self, hand: Hand) -> None:
        try:
            state = hand.worker.state()
        except (Lost, Unreachable):
            time.sleep(ASK_AGAIN_S)
            return
        with self.changed:
            hand.state, hand.ready = state, True
            self.changed.notify_all()

    def _next(self, hand: Hand) -> Errand | None:
        """The job that this worker takes now, once there is one; None when it was removed."""
        with self.changed:
            chosen: list[Errand | None] = [None]

            def found() -> bool:
                chosen[0] = None if hand.removed else self._choice(hand)
                return hand.removed or chosen[0] is not None

            self.changed.wait_for(found)
            if chosen[0] is not None:
                self.jobs.remove(chosen[0])
                hand.job = chosen[0]
                hand.job.started = time.monotonic()
                self.changed.notify_all()
            return chosen[0]

    def _choice(self, hand: Hand) -> Errand | None:
        """From the front of the line each job goes to the idle worker that suits it best; which is for ``hand``?"""
        idle = [one for one in self.hands if one.idle]
        for job in list(self.jobs):
            if not idle:
                return None
            best = max(idle, key=lambda one: self._suits(one, job))
            if best is hand:
                return self._better(hand, job)
            idle.remove(best)
        return None

    def _suits(self, hand: Hand, job: lane.Job) -> tuple[float, ...]:
        needs, holds = self.needs.get(job.kind, frozenset()), hand.state.holds
        return len(needs & holds), -len(holds - needs), -hand.busy_s

    def _better(self, hand: Hand, job: lane.Job) -> Errand:
        """``job``, or a later one whose models this worker holds, where those of ``job`` lie in a busy one. So a job lets at most
        `lane.MOST_PASSED` others go first."""

        def held(other: lane.Job, by: Hand) -> bool:
            return self.needs.get(other.kind, frozenset("?")) <= by.state.holds

        assert isinstance(job, Errand)
        if held(job, hand) or not any(held(job, one) for one in self.hands if one.ready):
            return job
        for place, other in enumerate(self.jobs):
            if held(other, hand):
                assert isinstance(other, Errand)
                for passed in list(self.jobs)[:place]:
                    passed.passed += 1
                return other
            if other.passed >= lane.MOST_PASSED:
                break
        return job

    def _work_off(self, hand: Hand, errand: Errand) -> None:
        errand.tries, errand.seen = errand.tries + 1, 0
        began, state = time.monotonic(), None
        last: lane.Result | lane.Failure | None
        try:
            errand.check()  # cancelled while waiting: do nothing
            value, state = hand.worker.run(errand)
            last = lane.Result(value)
        except Lost:
            last = self._lost(hand, errand)
        except Exception as error:
            hand.ready = hand.ready and not isinstance(error, Unreachable)
            last = lane.Failure(error)
        with self.changed:
            hand.job, hand.jobs = None, hand.jobs + 1
            hand.busy_s += time.monotonic() - began
            if state is not None:
                hand.state = state
                self.needs[errand.kind] = state.used
                self.typical_s.update(state.typical_s)
            if last is None:
                errand.started = None
                self.jobs.appendleft(errand)
            self.changed.notify_all()
        if last is not None:
            _end(errand, last)

    def _lost(self, hand: Hand, errand: Errand) -> lane.Failure | None:
        """What its reader gets: nothing where it begins again."""
        hand.ready, hand.state = False, State()
        if errand.stop.is_set():
            return lane.Failure(lane.Cancelled())
        if self.trouble:
            return lane.Failure(Unreachable(self.trouble))
        if errand.tries >= MOST_TRIES:
            return lane.Failure(ConnectionError(TOO_OFTEN))
        errand.out.put(lane.Progress(0.0, AGAIN))
        return None


def _end(job: lane.Job, last: lane.Result | lane.Failure) -> None:
    job.over = True
    job.out.put(last)


class PageRegistry(Registry):
    """The registry of a page whose models are all in workers: it knows what is declared, and tells what they hold."""

    def __init__(self, pool: Pool) -> None:
        super().__init__("cpu")
        self.pool = pool

    def _states(self) -> Iterable[State]:
        return [hand.state for hand in list(self.pool.hands)]

    @property
    def device(self) -> str:
        """Of the workers; "cpu" until one has said."""
        return self.summary()["device"] or "cpu"

    def status(self) -> list[dict[str, Any]]:
        rows = {row["key"]: row for row in super().status()}
        for state in self._states():
            for row in state.rows:
                if rows.get(row["key"], {"state": "cold"})["state"] not in ("ram", "gpu"):
                    rows[row["key"]] = row
        return list(rows.values())

    def summary(self) -> dict[str, Any]:
        device = next((state.device for state in self._states() if state.device), None)
        return {**super().summary(), "device": device}


def _parts(count: int) -> str:
    return f"{count} {'part' if count == 1 else 'parts'}" if count else "nothing yet"
