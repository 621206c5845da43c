"""The lane: one thread, one job at a time, and a bridge that stops when its reader goes away."""

import contextvars
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core import lane
from pipelines.core.lane import IDLE, Job, Progress, Result, live, run_blocking, stream, waiting, warm

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Wait for another thread; True when it came about in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())


def not_idle(items) -> list:
    return [item for item in items if item is not IDLE]


class Blocker:
    """A job that holds the lane until it is let go: `with Blocker(): ...`."""

    def __enter__(self) -> "Blocker":
        self.go, self.begun = threading.Event(), threading.Event()
        self.reader = threading.Thread(target=run_blocking, args=(self._work,))
        self.reader.start()
        assert self.begun.wait(5)
        return self

    def _work(self, job: Job) -> None:
        self.begun.set()
        self.go.wait(10)

    def __exit__(self, *_) -> None:
        self.go.set()
        self.reader.join(5)


def test_importing_it_starts_no_thread_and_imports_no_torch_or_gradio():
    code = (
        "import sys, threading, pipelines.core.lane, pipelines.core.registry; "
        "assert not {'torch', 'gradio', 'diffusers', 'transformers'} & set(sys.modules); "
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_items_come_in_order_and_the_result_last():
    def work(job, count, *, step):
        for index in range(count):
            job.check()
            job.emit(index * step)
        job.progress(0.5, "half way")
        return "done"

    items = not_idle(stream(work, 40, step=2))
    assert items == [*range(0, 80, 2), Progress(0.5, "half way"), Result("done")]


def test_none_is_a_result_too_and_progress_is_clipped():
    def work(job):
        job.emit(None)
        job.progress(7, "too much")
        job.progress(-1)

    assert not_idle(stream(work)) == [None, Progress(1.0, "too much"), Progress(0.0, ""), Result(None)]


def test_a_silent_job_beats_at_least_twice():
    items = list(stream(lambda job: time.sleep(0.2), beat_s=0.05))
    assert items.count(IDLE) >= 2
    assert items[-1] == Result(None)


def test_a_page_is_told_of_progress_no_faster_than_it_can_show_and_of_all_else_at_once():
    def hasty(job: Job) -> int:
        for step in range(40):
            job.progress(step / 40, f"step {step}")
            if step == 20:
                job.emit("a picture")
            time.sleep(0.01)
        job.progress(1.0, "saving")
        time.sleep(1.3)
        return 7

    items = list(live(hasty, pace_s=0.2))
    told = [item.text for item in items if isinstance(item, Progress)]
    assert told[0] == "step 0" and told[-1] == "saving", "what stays for long is shown, however early it came"
    assert 3 <= len(told) <= 6, told
    assert "a picture" in items and items[-1] == Result(7)


def test_of_words_that_are_being_written_a_page_is_sent_the_newest_ten_times_a_second():
    def writing(job: Job) -> None:
        for count in range(1, 101):
            job.emit(count)
            time.sleep(0.01)
        time.sleep(0.5)  # the last word does not wait for the end

    shown = [(item, time.monotonic()) for item in live(writing, newest=(int,)) if isinstance(item, int)]
    assert [count for count, _ in shown] == sorted({count for count, _ in shown}) and shown[-1][0] == 100
    assert len(shown) >= 3
    assert min(later - before for (_, before), (_, later) in itertools.pairwise(shown)) >= 0.99 * lane.NEWEST_S


def test_leaving_a_page_stops_its_job():
    stopped = threading.Event()

    def endless(job: Job) -> None:
        try:
            while True:
                job.progress(0.5, "on and on")
                time.sleep(0.01)
        finally:
            stopped.set()

    items = live(endless)
    next(items)
    items.close()
    assert stopped.wait(5)


def test_run_blocking_returns_the_value_and_shows_what_was_emitted():
    seen = []

    def work(job):
        time.sleep(0.1)
        job.emit("preview")
        return 3

    assert run_blocking(work, on_item=seen.append, beat_s=0.02) == 3
    assert seen == ["preview"]


def test_all_jobs_share_one_thread_and_never_overlap():
    inside, most, threads = [], [], set()

    def work(job):
        inside.append(job)
        most.append(len(inside))
        threads.add((threading.get_ident(), threading.current_thread().name))
        time.sleep(0.02)
        inside.remove(job)

    readers = [threading.Thread(target=run_blocking, args=(work,)) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(5)
    assert most == [1] * 6
    assert len(threads) == 1
    assert threads.pop()[1] == "gpu_0"


def test_jobs_start_in_the_order_they_came():
    order, readers = [], []
    with Blocker():
        for name in "abcd":
            readers.append(threading.Thread(target=run_blocking, args=(lambda job, name: order.append(name), name)))
            readers[-1].start()
            assert until(lambda: waiting() == 1 + len(readers))
    for reader in readers:
        reader.join(5)
    assert order == list("abcd")


def test_closing_the_reader_stops_the_job_at_its_next_check_and_cleans_up():
    ended = threading.Event()

    def work(job):
        try:
            for step in range(1000):
                job.emit(step)  # a check() too
                time.sleep(0.01)
        finally:
            ended.set()

    reader = stream(work)
    next(reader)
    closed = time.monotonic()
    reader.close()
    assert ended.wait(2)
    assert time.monotonic() - closed < 0.5
    assert run_blocking(lambda job: "next") == "next"


def test_a_silent_job_stops_too_because_the_heartbeat_lets_the_reader_close():
    steps = []

    def work(job):
        for step in range(1000):
            job.check()
            steps.append(step)
            time.sleep(0.01)

    reader = stream(work, beat_s=0.03)
    assert next(reader) is IDLE
    reader.close()
    run_blocking(lambda job: None)  # the next job starts after it
    assert len(steps) < 50


def test_a_job_closed_while_it_waits_never_starts():
    ran = []
    with Blocker():
        reader = stream(lambda job: ran.append(1), beat_s=0.01)
        next(reader)
        reader.close()
        assert waiting() == 1  # the closed one counts no more
    run_blocking(lambda job: None)
    assert ran == []


def test_a_job_that_ends_normally_is_not_cancelled_by_a_late_close():
    reader = stream(lambda job: 5)
    assert not_idle(reader) == [Result(5)]
    reader.close()


def test_waiting_counts_the_jobs_ahead_and_the_reader_is_told_its_place():
    assert waiting() == 0
    with Blocker():
        assert waiting() == 1
        reader = stream(lambda job: "mine", beat_s=0.01)
        assert next(reader).text.startswith("Waiting: 1 job ahead")
        assert next(reader) is IDLE  # told once
        assert waiting() == 2
        second = stream(lambda job: None, beat_s=0.01)
        assert next(second).text.startswith("Waiting: 2 jobs ahead")
        second.close()
    assert not_idle(reader)[-1] == Result("mine")
    assert until(lambda: waiting() == 0)


def owned(owner: str, ran: list[str]) -> Callable[[], None]:
    """Puts a job of `owner` into the line; what is returned reads it to its end."""
    with lane.read_by(lane.Reader(owner)):
        reader = stream(lambda job: ran.append(owner), beat_s=0.01)
        next(reader)
    return lambda: list(reader)


def test_owners_take_turns():
    ran: list[str] = []
    with Blocker():
        readers = [owned(owner, ran) for owner in "AAABAB"]
    for read in readers:
        read()
    assert "".join(ran) == "ABABAA"


def test_nobody_is_passed_for_ever():
    ran: list[str] = []
    with Blocker():
        readers = [owned(owner, ran) for owner in ["A", "A", *(f"other {n}" for n in range(12))]]
    for read in readers:
        read()
    assert ran.index("A", 1) == 1 + lane.MOST_PASSED


def test_a_reader_that_has_gone_ends_its_job_from_another_thread_and_starts_no_more():
    begun, steps = threading.Event(), []

    def silent(job: Job) -> None:
        while True:
            job.check()
            steps.append(1)
            begun.set()
            time.sleep(0.01)

    reader = lane.Reader("somebody")
    with lane.read_by(reader):
        items = stream(silent, beat_s=10.0)
    gone = threading.Thread(target=lambda: (begun.wait(5), reader.end()))
    gone.start()
    before = time.monotonic()
    with pytest.raises(lane.Cancelled), lane.read_by(reader):
        next(items)
    assert time.monotonic() - before < 5, "not one beat"
    gone.join()
    with pytest.raises(lane.Cancelled), lane.read_by(reader):
        next(stream(lambda job: steps.append("never")))
    assert "never" not in steps


def test_the_wait_is_estimated_from_jobs_of_the_same_kind():
    class Kind:
        def short(self, job: Job) -> None:
            time.sleep(0.05)

        def never_seen(self, job: Job) -> None:
            pass

    for _ in range(3):
        run_blocking(Kind().short)
    with Blocker() as blocker:
        lane._current_lane().typical_s[f"{__name__}.{Blocker._work.__qualname__}"] = 60.0
        first = stream(Kind().short, beat_s=0.01)
        assert re.fullmatch(r"Waiting: 1 job ahead, about (59|60) s", next(first).text)
        assert 59 < lane.wait_s() < 62
        reader = lane.Reader()
        assert lane.wanted(reader)
        second = stream(Kind().never_seen, beat_s=0.01)
        next(second)
        assert lane.wait_s() is None, "who knows"
        first.close()
        second.close()
        assert not lane.wanted(reader)
        blocker.go.set()
    assert lane.jobs_ahead(2, 200.0) == "2 jobs ahead, about 3 min"


def test_past_the_limit_one_sentence_and_the_lane_goes_on():
    def work(job):
        while True:
            job.check()
            time.sleep(0.005)

    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"stopped after 0\.1 s, the limit of one run: use fewer steps"):
        run_blocking(work, limit_s=0.1)
    assert time.monotonic() - started < 1.0
    assert run_blocking(lambda job: 1) == 1


def test_the_limit_counts_from_the_start_not_from_queueing():
    def work(job):
        job.check()
        return "in time"

    got = []
    with Blocker():
        reader = threading.Thread(target=lambda: got.append(run_blocking(work, limit_s=0.1)))
        reader.start()
        time.sleep(0.3)
    reader.join(5)
    assert got == ["in time"]


def test_an_error_reaches_the_reader_with_the_jobs_own_lines():
    def work(job):
        raise KeyError("from the job")

    with pytest.raises(KeyError, match="from the job") as caught:
        run_blocking(work)
    assert 'raise KeyError("from the job")' in "".join(traceback.format_tb(caught.value.__traceback__))


def test_an_error_that_is_kept_does_not_keep_what_the_job_held():
    class Latents:
        alive = 0

        def __init__(self):
            Latents.alive += 1

        def __del__(self):
            Latents.alive -= 1

    def work(job):
        latents = Latents()
        assert latents
        raise KeyError("failed")

    with pytest.raises(KeyError) as caught:
        run_blocking(work)
    assert caught.value.args == ("failed",)
    assert until(lambda: Latents.alive == 0)


def test_pictures_are_not_kept_by_the_lane_whether_somebody_took_them_or_not():
    class Picture:
        alive = 0

        def __init__(self):
            Picture.alive += 1

        def __del__(self):
            Picture.alive -= 1

    def work(job):
        for _ in range(3):
            job.emit(Picture())
        return Picture()

    run_blocking(work)
    assert until(lambda: Picture.alive == 0)
    reader = stream(work)
    next(reader)
    assert until(lambda: waiting() == 0)
    assert Picture.alive > 0  # unread previews wait for the reader
    reader.close()
    del reader
    assert until(lambda: Picture.alive == 0)


def test_the_readers_context_travels_and_does_not_come_back():
    visitor = contextvars.ContextVar("visitor", default="nobody")

    def work(job):
        seen = visitor.get()
        visitor.set("the job")
        return seen

    visitor.set("Ada")
    assert run_blocking(work) == "Ada"
    assert visitor.get() == "Ada"
    assert contextvars.Context().run(run_blocking, work) == "nobody"


def test_a_job_that_starts_a_job_gets_an_error_not_a_deadlock():
    with pytest.raises(RuntimeError, match="a job must not start another job on the lane"):
        run_blocking(lambda job: run_blocking(lambda inner: None))


# ---- warm-ups ----


def test_a_warm_up_runs_on_the_lane_when_it_is_idle_and_is_refused_when_busy():
    ran = []
    with Blocker():
        assert not warm(ran.append)
    assert until(lambda: waiting() == 0)
    assert ran == []
    assert warm(lambda job, name: ran.append((name, threading.current_thread().name)), "unet")
    assert until(lambda: ran)
    assert ran == [("unet", "gpu_0")]


def test_a_visitors_job_stops_a_warm_up_at_its_next_check():
    begun, ended = threading.Event(), []

    def slow(job):
        begun.set()
        try:
            while True:
                job.check()
                time.sleep(0.005)
        finally:
            ended.append(time.monotonic())

    assert warm(slow)
    assert begun.wait(5)
    assert waiting() == 0  # nobody has to wait for a warm-up
    started = time.monotonic()
    assert run_blocking(lambda job: time.monotonic()) >= ended[0]
    assert time.monotonic() - started < 1.0


def test_a_failed_warm_up_is_logged_and_harms_nobody(caplog):
    def broken(job):
        raise OSError("no such file")

    with caplog.at_level("WARNING"):
        assert warm(broken)
        assert until(lambda: "no such file" in caplog.text)
    assert run_blocking(lambda job: 1) == 1


# ---- processes ----


def _in_child(connection) -> None:
    connection.send((os.getpid(), run_blocking(lambda job: threading.current_thread().name)))
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_a_lane_of_its_own_even_while_the_parents_is_busy():
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    with Blocker():
        child = context.Process(target=_in_child, args=(there,))
        child.start()
        assert here.poll(10)
        process_id, name = here.recv()
        child.join(5)
    assert process_id != os.getpid()
    assert name == "gpu_0"
    assert child.exitcode == 0


def test_a_process_that_ends_in_the_middle_of_a_job_stops_it_and_leaves():
    code = (
        "import time\n"
        "from pipelines.core.lane import stream\n"
        "def work(job):\n"
        "    try:\n"
        "        while True: job.check(); time.sleep(0.01)\n"
        "    finally: print('cleaned up', flush=True)\n"
        "reader = stream(work, beat_s=0.05)\n"
        "next(reader)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cleaned up\n"


def test_eight_readers_at_once_half_of_which_leave():
    """Whoever stays gets an answer of their own; whoever leaves is stopped; nothing is left on the lane."""
    answers, started = {}, []

    def work(job, name):
        started.append(name)
        for step in range(10):
            job.check()
            job.emit((name, step))
            time.sleep(0.002)
        return name

    def visit(name):
        reader = stream(work, name, beat_s=0.01)
        seen = []
        for item in reader:
            if isinstance(item, tuple):
                seen.append(item)
                if name % 2 and len(seen) == 3:
                    reader.close()
            elif isinstance(item, Result):
                answers[name] = (item.value, seen)

    readers = [threading.Thread(target=visit, args=(name,)) for name in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    assert answers == {name: (name, [(name, step) for step in range(10)]) for name in (0, 2, 4, 6)}
    assert sorted(started) == list(range(8))
    assert until(lambda: waiting() == 0)
    assert not lane._current_lane().jobs
