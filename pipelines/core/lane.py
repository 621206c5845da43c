"""One worker thread for all model work, and a generator bridge from it to the page.

    for item in stream(work, prompt, limit_s=120):      # in the handler's generator, on any thread
        if item is IDLE: ...                            # nothing new; a heartbeat so that Gradio can stop us
        elif isinstance(item, Progress): ...
        elif isinstance(item, Result): picture = item.value
        else: ...                                       # what work() emitted

    def work(job: Job, prompt: str) -> Picture:         # runs on the lane's thread
        job.progress(0.5, "half way"); job.check(); ...

Why a thread of its own: Gradio advances a generator on different threads, so locks, leases and
`torch.inference_mode()` must not be held around its `yield`s; diffusers pipelines are not thread-safe; and
loading models on two threads corrupts them (see `pipelines/core/registry.py`).

Stopping is co-operative. Closing the generator (Stop button, closed tab), `Reader.end()` from any thread, or passing
the wall-clock limit makes the job's next `check()`, `emit()` or `progress()` raise; clean-up belongs into the job's
`finally`, because nobody reads the bridge after a close. A job that is closed while it waits never starts.

Jobs of different owners take turns: who has many jobs in the line does not keep the others waiting for all of them.

The thread is started at the first job of a process; a forked child gets one of its own. No torch here.
"""

import atexit
import contextlib
import contextvars
import heapq
import itertools
import logging
import math
import os
import queue
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

LIMIT_S = 120.0
log = logging.getLogger(__name__)


class _Idle:
    def __repr__(self) -> str:
        return "IDLE"

    def __reduce__(self) -> str:
        return "IDLE"  # the very same object on the other side of a process border


IDLE = _Idle()
"""Yielded while a job is silent. Map it to `gr.skip()`: Gradio can close a generator at a `yield` only."""


class Cancelled(Exception):
    """Raised inside a job after its reader has gone. Let it pass; the lane swallows it."""


@dataclass(frozen=True)
class Progress:
    """`fraction` in [0, 1] and a few words for the visitor."""

    fraction: float
    text: str


@dataclass(frozen=True)
class Result:
    """The last item of a stream: what the job returned."""

    value: Any


@dataclass(frozen=True)
class Failure:
    error: BaseException


@dataclass(eq=False)
class Reader:
    """Who waits for the jobs that are started inside `read_by(reader)`."""

    owner: str = ""
    """Jobs of different owners take turns in the line."""
    gone: bool = False
    _jobs: "weakref.WeakSet[Job]" = field(default_factory=weakref.WeakSet, repr=False)
    _began: bool = False

    @property
    def done(self) -> bool:
        """Whether there were jobs and all have come to their end."""
        return self._began and all(job.over for job in list(self._jobs))

    def end(self) -> None:
        """Stop all jobs at their next check, and refuse new ones. May be called from any thread, more than once."""
        self.gone = True
        for job in list(self._jobs):
            job.stop.set()


_reader: contextvars.ContextVar[Reader | None] = contextvars.ContextVar("reader", default=None)


@contextlib.contextmanager
def read_by(reader: Reader) -> Iterator[None]:
    """Jobs that `stream` starts inside the block belong to `reader`. Not to be held around a `yield`."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


@dataclass(eq=False)
class Job:
    """What the work sees of its run: a way to talk back, and to learn that it should end."""

    limit_s: float = LIMIT_S
    reader: Reader | None = field(default=None, repr=False)
    kind: str = ""
    """Jobs of one kind take about as long."""
    out: queue.SimpleQueue = field(default_factory=queue.SimpleQueue, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    started: float | None = None
    over: bool = False
    """It has come to its end, whichever."""
    turn: int = 0
    """How many jobs of the same owner were there before it."""
    passed: int = 0
    """How many later jobs went first."""
    loading: bool = False
    """Models are fetched and loaded, which counts for no run's limit."""
    _call: Callable[[], Any] | None = field(default=None, repr=False)

    def check(self) -> None:
        """Raise `Cancelled` when the reader has gone, `TimeoutError` past the limit. Call it every step."""
        if self.stop.is_set():
            raise Cancelled
        if self.started is not None and not self.loading and time.monotonic() - self.started > self.limit_s:
            raise TimeoutError(
                f"stopped after {self.limit_s:g} s, the limit of one run: use fewer steps or a smaller picture"
            )

    def emit(self, item: object) -> None:
        """Send an item (a live preview) to the reader; also a `check()`."""
        self.check()
        self.out.put(item)

    def progress(self, fraction: float, text: str = "") -> None:
        """Send a `Progress`; `fraction` is clipped to [0, 1]."""
        self.emit(Progress(min(max(float(fraction), 0.0), 1.0), text))


MOST_PASSED = 8
"""A job lets at most so many later ones of other owners go first."""


class Line:
    """A queue in which owners take turns, before ``width`` hands that work it off."""

    width = 1
    """So many jobs may go at once."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.typical_s: dict[str, float] = {}

    def going(self) -> list[Job]:
        """The jobs of visitors that are worked on. Called with `changed` held."""
        raise NotImplementedError

    def submit(self, job: Job) -> None:
        with self.changed:
            job.turn = sum(_owner(other) == _owner(job) for other in (*self.jobs, *self.going()))
            place = len(self.jobs)
            while place and self.jobs[place - 1].turn > job.turn and self.jobs[place - 1].passed < MOST_PASSED:
                place -= 1
                self.jobs[place].passed += 1
            self.jobs.insert(place, job)
            self.changed.notify_all()

    def ahead(self, job: Job | None = None) -> int:
        """Jobs that go or wait before `job` (before a new one, if None), less cancelled ones; 0 where a hand is free for it."""
        with self.changed:
            going, before = self._before(job)
            return len(going) + len(before) if before or len(going) >= self.width else 0

    def wait_s(self, job: Job | None = None) -> float | None:
        """Seconds until `job` (a new one, if None) starts, by how long such jobs took before; None: not known."""
        with self.changed:
            going, before = self._before(job)
            if not self.width or any(other.kind not in self.typical_s for other in (*going, *before)):
                return None
            now = time.monotonic()
            free = [max(self.typical_s[one.kind] - (now - (one.started or now)), 1.0) for one in going]
            free = heapq.nsmallest(self.width, free + [0.0] * (self.width - len(going)))
            for other in before:
                heapq.heapreplace(free, free[0] + max(self.typical_s[other.kind], 1.0))
            return free[0]

    def wanted(self, reader: Reader) -> bool:
        """Whether a job of somebody else waits."""
        with self.changed:
            return any(job.reader is not reader and not job.stop.is_set() for job in self.jobs)

    def _before(self, job: Job | None) -> tuple[list[Job], list[Job]]:
        before = itertools.takewhile(lambda other: other is not job, self.jobs)
        return [one for one in self.going() if one is not job], [one for one in before if not one.stop.is_set()]


class _Lane(Line):
    """The line of this process: one daemon thread, and one slot for low-priority work."""

    def __init__(self) -> None:
        super().__init__()
        self.warm: Job | None = None
        self.running: Job | None = None
        self.running_is_warm = False
        self.thread = threading.Thread(target=self._work, name="gpu_0", daemon=True)
        self.thread.start()

    def going(self) -> list[Job]:
        return [self.running] if self.running is not None and not self.running_is_warm else []

    def submit(self, job: Job) -> None:
        super().submit(job)
        with self.changed:
            if self.running is not None and self.running_is_warm:
                self.running.stop.set()  # a visitor is here: the warm-up ends at its next check

    def submit_warm(self, job: Job) -> bool:
        with self.changed:
            if self.jobs or self.running is not None:
                return False
            self.warm = job
            self.changed.notify()
            return True

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.jobs or self.warm)
                self.running_is_warm = not self.jobs
                if self.jobs:
                    job = self.jobs.popleft()
                else:
                    assert self.warm is not None
                    job, self.warm = self.warm, None
                self.running = job
            done = _execute(job)
            with self.changed:
                self.running = None
                if done and job.kind:
                    assert job.started is not None
                    took = time.monotonic() - job.started
                    self.typical_s[job.kind] = (self.typical_s.get(job.kind, took) + took) / 2
            del job  # its result and its tensors must not live until the next job comes


_lane: _Lane | None = None
_birth = threading.Lock()


_elsewhere: Callable[..., Generator[Any]] | None = None
_line_elsewhere: Line | None = None


def send_elsewhere(dispatch: Callable[..., Generator[Any]] | None, line: Line | None = None) -> None:
    """Let `dispatch(fn, args, kwargs, limit_s)` answer every `stream` (ZeroGPU, workers); None: run here again.

    `line`: where those jobs wait, if they wait in this process.
    """
    global _elsewhere, _line_elsewhere
    _elsewhere, _line_elsewhere = dispatch, line


def _line() -> Line | None:
    """Where jobs of this process wait, if one ever did."""
    return _line_elsewhere or _lane


def _kind(fn: Callable[..., Any]) -> str:
    return f"{fn.__module__}.{fn.__qualname__}" if hasattr(fn, "__qualname__") else ""


def stream(
    fn: Callable[..., Any], *args: object, limit_s: float = LIMIT_S, beat_s: float = 0.5, **kwargs: object
) -> Generator[Any]:
    """`stream_here`, or its equal in another process where the platform gives a GPU only there."""
    if _elsewhere is None:
        return stream_here(fn, *args, limit_s=limit_s, beat_s=beat_s, **kwargs)
    return _elsewhere(fn, args, kwargs, limit_s)


def stream_here(
    fn: Callable[..., Any], *args: object, limit_s: float = LIMIT_S, beat_s: float = 0.5, **kwargs: object
) -> Generator[Any]:
    """Run `fn(job, *args, **kwargs)` on the lane and yield what it emits, then `Result(its value)`.

    While nothing comes, yields `IDLE` every `beat_s` seconds, or a `Progress` with the place in the queue
    when that changed. `limit_s` counts from the start of the job, not from queueing. What the job raises is
    raised here with its traceback.
    """
    lane = _current_lane()
    if threading.current_thread() is lane.thread:
        raise RuntimeError("a job must not start another job on the lane: call the function directly")
    job = Job(limit_s, _reader.get(), _kind(fn))
    enrol(job)
    context = contextvars.copy_context()
    job._call = lambda: context.run(fn, job, *args, **kwargs)
    yield from follow(lane, job, beat_s)


def enrol(job: Job) -> None:
    """Make it one of its reader's; raises `Cancelled` where he has gone."""
    if job.reader is not None:
        job.reader._jobs.add(job)
        job.reader._began = True
        if job.reader.gone:
            raise Cancelled


def follow(line: Line, job: Job, beat_s: float) -> Generator[Any]:
    """Put `job` into `line` and yield what `stream_here` does."""
    line.submit(job)
    told = 0
    try:
        while True:
            try:
                item = job.out.get(timeout=beat_s)
            except queue.Empty:
                ahead = 0 if job.started else line.ahead(job)
                if ahead not in (0, told):
                    told = ahead
                    yield Progress(0.0, f"Waiting: {jobs_ahead(ahead, line.wait_s(job))}")
                else:
                    yield IDLE
                continue
            if isinstance(item, Failure):
                raise item.error
            yield item
            if isinstance(item, Result):
                return
    finally:
        job.stop.set()


PACE_S = 0.3
"""Least time between two reports of progress on a page: showing one costs a browser a tenth of a second."""


NEWEST_S = 0.1
"""The same of two items of which the newest says all: words that are being written."""
BEAT_S = 0.5
"""While nothing comes, a generator yields so often, so that it can be closed."""


def live(
    fn: Callable[..., Any], *args: object, pace_s: float = PACE_S, newest: tuple[type, ...] = (), **kwargs: Any
) -> Generator[Any]:
    """`stream` for a page: at most one `Progress` every `pace_s` seconds and one item of each type of `newest` every
    `NEWEST_S`, so that the page keeps up and Stop is heard at once. The time that the page takes for one is not counted.

    What came too early is shown when its time comes, unless a newer one or anything else follows first.
    Everything else passes in its order, at once.
    """
    pace = {Progress: pace_s, **dict.fromkeys(newest, NEWEST_S)}
    free: dict[type, float] = {}
    held: dict[type, Any] = {}
    last = time.monotonic()
    with contextlib.closing(stream(fn, *args, **{"beat_s": NEWEST_S if newest else BEAT_S, **kwargs})) as items:
        for item in items:
            if item is not IDLE and type(item) not in pace:
                held.clear()
                yield item
                continue
            if item is not IDLE:
                held[type(item)] = item
            now = time.monotonic()
            due = [kind for kind in held if (item is IDLE and not newest) or now >= free.get(kind, -math.inf)]
            for kind in due:
                yield held.pop(kind)
                last = time.monotonic()
                free[kind] = last + pace[kind]
            if item is IDLE and not due and now >= last + 0.9 * BEAT_S:
                last = now
                yield IDLE


def run_blocking(
    fn: Callable[..., Any], *args: object, on_item: Callable[[Any], None] | None = None, **kwargs: Any
) -> Any:
    """Run `fn(job, ...)` on the lane and return its value: for scripts, tests and the API.

    `on_item` sees what the job emits, progress included. `limit_s` and `beat_s` as in `stream`.
    """
    for item in stream(fn, *args, **kwargs):
        if isinstance(item, Result):
            return item.value
        if on_item is not None and item is not IDLE:
            on_item(item)
    raise AssertionError("a stream ends with a Result or raises")


def warm(fn: Callable[..., Any], *args: object) -> bool:
    """Run `fn(job, *args)` on the lane if it is idle; the newest warm-up replaces one that has not started.

    False, and nothing happens, when the lane is busy. A job that comes meanwhile goes first, and sets the
    running warm-up's stop flag. What a warm-up raises is logged: the job that needs the model will tell.
    """
    job = Job()

    def call() -> None:
        try:
            fn(job, *args)
        except Cancelled:
            pass
        except Exception:
            log.warning("warm-up failed", exc_info=True)

    job._call = call
    return _current_lane().submit_warm(job)


def typical_s(fn: Callable[..., Any]) -> float | None:
    """How many seconds earlier jobs of ``fn`` took in this process, without fetching and loading; None before the first."""
    here = _line()
    return here.typical_s.get(_kind(fn)) if here is not None else None


def running() -> Job | None:
    """The job that runs on this thread, if one does."""
    here = _lane
    return here.running if here is not None and threading.current_thread() is here.thread else None


def check() -> None:
    """`Job.check()` of the job that runs on this thread, if one does: for a loop that is far from its job."""
    job = running()
    if job is not None:
        job.check()


def waiting() -> int:
    """How many jobs a new one would find ahead of it: the running one and those that wait."""
    here = _line()
    return 0 if here is None else here.ahead()


def wait_s() -> float | None:
    """Seconds that a new job would wait, by how long such jobs took before; None: not known."""
    here = _line()
    return 0.0 if here is None else here.wait_s()


def wanted(reader: Reader) -> bool:
    """Whether somebody else than `reader` waits for the lane."""
    here = _line()
    return here is not None and here.wanted(reader)


def jobs_ahead(count: int, seconds: float | None) -> str:
    """A place in the line for a visitor: "2 jobs ahead, about 40 s"."""
    text = f"{count} {'job' if count == 1 else 'jobs'} ahead"
    if seconds is None:
        return text
    return f"{text}, about " + (f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min")


def _owner(job: Job) -> str:
    return job.reader.owner if job.reader is not None else ""


def _execute(job: Job) -> bool:
    """Run it; True when it came to its end."""
    try:
        job.check()  # cancelled while waiting: do nothing
        job.started = time.monotonic()
        assert job._call is not None
        job.out.put(Result(job._call()))
        return True
    except BaseException as error:
        # The reader keeps the error for a while; its frames must not keep the job's tensors.
        chained: BaseException | None = error
        while chained is not None:
            traceback.clear_frames(chained.__traceback__)
            chained = chained.__cause__ or chained.__context__
        if not isinstance(error, Exception):  # raised in the reader's thread it would end that, or the server
            error = _as_exception(error)
        job.out.put(Failure(error))
        return False
    finally:
        job._call, job.over = None, True


def _as_exception(error: BaseException) -> RuntimeError:
    told = RuntimeError(f"the work ended by {type(error).__name__}")
    told.__cause__ = error
    return told


def _current_lane() -> _Lane:
    global _lane
    with _birth:
        if _lane is None:
            _lane = _Lane()
        return _lane


def _forget_after_fork() -> None:
    global _lane, _birth  # threads and held locks do not survive a fork
    _lane, _birth = None, threading.Lock()


def _stop_at_exit() -> None:
    if _lane is not None and _lane.running is not None:
        _lane.running.stop.set()
        deadline = time.monotonic() + 5.0
        while _lane.running is not None and time.monotonic() < deadline:
            time.sleep(0.02)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_stop_at_exit)
