"""The pool before workers, with stand-ins that sleep; and what crosses the border to them."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import border, lane, troubles
from pipelines.core.lane import IDLE, Progress, Result
from pipelines.core.registry import OutOfBudget, Registry
from pipelines.core.workers import AGAIN, MOST_TRIES, TOO_OFTEN, Errand, Lost, PageRegistry, Pool, State, Unreachable

ROOT = Path(__file__).parents[2]


class StandIn:
    """A worker that sleeps for as long as the job says, with room for the models of one kind. ``deaths``: before so many items it dies."""

    def __init__(self, name: str = "one", deaths: tuple[int, ...] = ()) -> None:
        self.name, self.deaths, self.holding = name, list(deaths), ()
        self.ran: list[str] = []
        self.loads = 0

    def run(self, errand: Errand) -> tuple[Any, State]:
        what, seconds, count = errand.work.args
        self.ran.append(what)
        dies = self.deaths.pop(0) if self.deaths else None
        if self.holding != (errand.kind,):
            self.loads += 1
            self.holding = (errand.kind,)
        for item in range(count):
            if item == dies:
                raise Lost(self.name)
            errand.check()
            errand.hear(Progress(item / count, what))
            errand.hear(f"{what} {item}")
            errand.stop.wait(seconds / count)
        errand.check()
        return what, State(self.rows(), "cpu", frozenset(self.holding), {errand.kind: seconds})

    def rows(self) -> tuple[dict[str, Any], ...]:
        return tuple({"key": key, "state": "ram", "bytes": 1, "uses": 1} for key in self.holding)

    def state(self) -> State:
        return State(self.rows())


def pictures(job: lane.Job, what: str, seconds: float, count: int) -> None:
    """Its name is what the pool sees."""


def words(job: lane.Job, what: str, seconds: float, count: int) -> None:
    """Another kind."""


@pytest.fixture
def pool():
    made = Pool()
    lane.send_elsewhere(made.dispatch, made)
    yield made
    made.close("The test is over.")
    lane.send_elsewhere(None)


def run(*arguments: Any, fn=pictures) -> list[Any]:
    return [item for item in lane.stream(fn, *arguments) if item is not IDLE]


def test_items_come_in_order_and_the_value_last(pool):
    pool.add(StandIn())
    items = run("a", 0.01, 2)
    assert items == [Progress(0.0, "a"), "a 0", Progress(0.5, "a"), "a 1", Result("a")]


def test_a_lost_worker_costs_one_line_and_nothing_comes_twice(pool):
    dying, whole = StandIn("dying", deaths=(2,)), StandIn("whole")
    pool.add(dying)
    items = []
    for item in lane.stream(pictures, "a", 0.01, 3):
        if item == "a 1":
            pool.add(whole)
        if item is not IDLE:
            items.append(item)
    assert [item for item in items if isinstance(item, str)] == ["a 0", "a 1", "a 2"]
    assert items.count(Progress(0.0, AGAIN)) == 1 and items[-1] == Result("a")
    assert len(dying.ran) + len(whole.ran) == 2


def test_too_many_losses_are_a_sentence_and_not_another_try(pool):
    worker = StandIn(deaths=(1,) * MOST_TRIES)
    pool.add(worker)
    with pytest.raises(ConnectionError, match="Ten workers were lost") as told:
        run("a", 0.01, 3)
    assert str(told.value) == TOO_OFTEN and worker.ran == ["a"] * MOST_TRIES
    assert run("b", 0.01, 1)[-1] == Result("b"), "the worker came back and takes the next job"


def test_a_lost_worker_of_a_stopped_run_is_nobodys_retry(pool):
    worker, reader = StandIn(deaths=(1,)), lane.Reader()
    pool.add(worker)
    with lane.read_by(reader), pytest.raises(lane.Cancelled):
        for item in lane.stream(pictures, "a", 0.4, 2):
            if item == "a 0":
                reader.end()
    time.sleep(0.7)
    assert worker.ran == ["a"] and reader.done


def test_without_a_way_to_the_workers_there_is_a_sentence_until_one_is_back(pool):
    worker = StandIn()
    pool.add(worker)
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            run("waits", 0.01, 1)
        except BaseException as error:
            waiting.append(error)

    with contextlib.closing(lane.stream(pictures, "first", 0.5, 1)) as first:
        assert next(item for item in first if item is not IDLE) == Progress(0.0, "first")
        thread = threading.Thread(target=wait)
        thread.start()
        while not pool.jobs:
            time.sleep(0.01)
        pool.close("The workers are away.")
        thread.join(2)
    assert [str(error) for error in waiting] == ["The workers are away."] and isinstance(waiting[0], Unreachable)
    assert troubles.ours(waiting[0])
    with pytest.raises(Unreachable, match="away"):
        run("b", 0.01, 1)
    pool.add(StandIn())
    assert run("c", 0.01, 1)[-1] == Result("c")


def test_stop_ends_a_run_and_one_that_waits_never_starts(pool):
    worker = StandIn()
    pool.add(worker)
    with contextlib.closing(lane.stream(pictures, "long", 5.0, 50)) as items:
        next(items)
        with contextlib.closing(lane.stream(pictures, "waits", 0.01, 1)) as other:
            next(other)
    began = time.monotonic()
    assert run("next", 0.01, 1)[-1] == Result("next") and time.monotonic() - began < 1.0
    assert worker.ran == ["long", "next"]


def test_two_kinds_settle_on_two_workers_and_nothing_is_loaded_again(pool):
    workers = [StandIn("one"), StandIn("two")]
    for worker in workers:
        pool.add(worker)
    rng = random.Random(1)
    jobs = [(rng.choice((pictures, words)), f"job {n}") for n in range(60)]
    threads = [threading.Thread(target=run, args=(name, 0.02, 1), kwargs={"fn": fn}) for fn, name in jobs]
    for thread in threads:
        thread.start()
        time.sleep(0.004)
    for thread in threads:
        thread.join()
    assert sum(len(worker.ran) for worker in workers) == 60
    assert sum(worker.loads for worker in workers) <= 14, "in the line's order it would be about 30"


def test_nobody_waits_for_ever_behind_the_others_kind(pool):
    worker, busy = StandIn("one"), StandIn("two")
    pool.add(worker)
    run("first", 0.01, 1)
    pool.add(busy)
    run("words", 0.01, 1, fn=words)  # goes to the one that holds nothing
    assert busy.ran == ["words"]
    order: list[str] = []

    def one(name: str, fn, seconds: float) -> None:
        run(name, seconds, 1, fn=fn)
        order.append(name)

    threads = [threading.Thread(target=one, args=("words go on", words, 3.0))]
    threads += [threading.Thread(target=one, args=("pictures", pictures, 0.3))]
    for name, fn in (("waits", words), *((f"p {n}", pictures) for n in range(20))):
        threads.append(threading.Thread(target=one, args=(name, fn, 0.05)))
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert order.index("waits") - order.index("pictures") == lane.MOST_PASSED + 1


def test_the_place_in_the_line_counts_all_hands(pool):
    for name in ("one", "two"):
        pool.add(StandIn(name))
    run("known", 0.01, 1)
    pool.typical_s[lane._kind(pictures)] = 10.0
    gone = [lane.stream(pictures, f"job {n}", 30.0, 60) for n in range(6)]
    for items in gone:
        next(items)
    assert lane.waiting() == 6
    wait = lane.wait_s()
    assert wait is not None and 25 < wait <= 30, "two at a time: what is left of ten seconds, and two rounds"
    for items in gone:
        items.close()


@pytest.mark.long
def test_sixty_four_workers_are_sixty_times_one_with_a_thousand_waiting():
    lengths = [
        0.47,
        0.83,
        1.4,
        0.25,
    ]  # a tenth of a picture's, a removal's, a long answer's and a short one's seconds here

    def rate(count: int, jobs: int) -> tuple[float, float]:
        """Jobs' seconds worked off a second, and the slowest answer about the line meanwhile, with 1,000 visitors."""
        pool = Pool()
        lane.send_elsewhere(pool.dispatch, pool)
        reader, done, lock, over = lane.Reader(), [0.0], threading.Lock(), threading.Event()
        began = [0.0]

        def visit(number: int) -> None:
            seconds = lengths[number % len(lengths)]
            with lane.read_by(reader), contextlib.suppress(lane.Cancelled, Unreachable):
                for item in lane.stream(pictures, str(number), seconds, 1):
                    if isinstance(item, Result):
                        with lock:
                            done[0] += seconds
                            done.append(time.monotonic())
                            if len(done) > jobs:
                                over.set()

        threads = [threading.Thread(target=visit, args=(n,), daemon=True) for n in range(1000)]
        for thread in threads:
            thread.start()
        while len(pool.jobs) < 1000:
            time.sleep(0.05)
        began[0] = time.monotonic()
        for number in range(count):
            pool.add(StandIn(str(number)))
        answers = []
        while not over.wait(0.05):
            asked = time.monotonic()
            lane.waiting(), lane.wait_s(), pool.facts()
            answers.append(time.monotonic() - asked)
        rate = done[0] / (time.monotonic() - began[0])
        reader.end()
        pool.close("over")
        lane.send_elsewhere(None)
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads)
        return rate, statistics.quantiles(answers, n=20)[-1]

    # While all wait: the last visitors of a line leave workers without a job.
    one, _ = rate(1, 8)
    many, answer = rate(64, 900)
    assert many / one >= 60, (many, one)
    assert answer < 0.2


# --------------------------------------------------------------------------- the border


def test_files_of_a_visitor_go_with_the_run_and_their_names_come_back(tmp_path):
    mine, there = tmp_path / "page", tmp_path / "worker"
    mine.mkdir(), there.mkdir()
    photo = mine / "photo.png"
    photo.write_bytes(b"pixels")
    registry, other = Registry("cpu"), Registry("cpu")
    packed = border.pack((registry, [str(photo), photo], "photo.png", str(mine / "none")), registry, mine)
    (got, (text, path), plain, absent), sent = border.unpack(packed, other, there)
    assert got is other and plain == "photo.png" and absent == str(mine / "none")
    assert isinstance(text, str) and isinstance(path, Path) and Path(text) == path
    assert path.read_bytes() == b"pixels" and path.name == "photo.png" and there in path.parents
    back, _ = border.unpack(border.packed_item({"path": path, "text": text}, sent))
    assert back == {"path": photo, "text": str(photo)}


def told(error: BaseException) -> BaseException:
    failure, _ = border.unpack(border.packed_item(lane.Failure(error), {}))
    return failure.error


def test_errors_keep_their_type_their_sentence_and_whose_it_is():
    with pytest.raises(ValueError, match="no mode") as ours:
        Registry("no mode")
    got = told(ours.value)
    assert type(got) is ValueError and str(got) == str(ours.value) and troubles.ours(got)
    with pytest.raises(ValueError, match="invalid literal") as foreign:
        int("x")
    assert not troubles.ours(told(foreign.value)) and "Traceback" in "".join(told(foreign.value).__notes__)
    assert told(OutOfBudget("Too small.", "ram")).tier == "ram"
    full = OSError(28, "No space left on device")
    assert troubles.sentence(told(full)) == troubles.sentence(full)


def test_an_error_that_cannot_be_sent_is_still_one():
    class Local(Exception):
        pass

    got = told(Local("inside a function"))
    assert type(got) is RuntimeError and str(got) == "Local: inside a function"
    failure, _ = border.unpack(border.packed_item(lambda: 0, {}))
    assert isinstance(failure, lane.Failure) and not troubles.ours(failure.error)


def test_the_page_tells_what_the_workers_hold(pool):
    registry = PageRegistry(pool)
    assert registry.device == "cpu" and pool.facts() == [("Workers", "The workers are starting")]
    pool.add(StandIn("Worker 1"))
    run("a", 0.01, 1)
    assert [row["key"] for row in registry.status()] == [lane._kind(pictures)]
    assert pool.facts() == [("Workers", "1, 0 busy"), ("Worker 1", "1 part")]
    pool.close("The workers are away.")
    assert pool.facts() == [("Workers", "The workers are away.")]


# --------------------------------------------------------------------------- without the extra


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_without_the_extra_the_flag_says_what_to_install():
    gone = "import sys, runpy; sys.modules['ray'] = None; sys.argv = ['app.py', '--workers', '2']; "
    find = "import importlib.util as u; real = u.find_spec; u.find_spec = lambda n, *a: None if n == 'ray' else real(n, *a); "
    ended = python(gone + find + "runpy.run_path('app.py', run_name='__main__')")
    assert ended.returncode == 1 and ended.stderr.strip().splitlines()[-1] == (
        '--workers needs Ray, which is not installed here: pip install ".[ray]", then start again.'
    )


def test_nothing_of_ray_is_imported_unless_asked_for():
    ended = python("import app, sys; print([n for n in sys.modules if n.split('.')[0] in ('ray', 'grpc')])")
    assert ended.stdout.strip().splitlines()[-1] == "[]", ended.stderr


@pytest.mark.parametrize("asked", ["0", "65", "two", "-1", "http://head:10001", "ray://head", "ray://:1", "²"])
def test_what_is_no_number_and_no_address_is_refused(asked):
    app = pytest.importorskip("app")
    with pytest.raises(SystemExit):
        app.options(["--workers", asked])
    assert app.options(["--workers", "2"]).workers == "2"
    assert app.options(["--workers", "ray://head:10001"]).workers == "ray://head:10001"
