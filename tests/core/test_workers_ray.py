"""A page with two workers on a Ray of its own: the same bytes as one process, Stop, workers that are killed, a head that goes."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from demos.core import tabs
from pipelines.core import border, lane
from pipelines.core.registry import Registry
from tests.faults import storm
from tests.faults.storm import Visitor
from tests.workers_page import WorkersPage, contents, serving, until, visits_with_kills

ray_workers = pytest.importorskip(
    "pipelines.core.ray_workers", reason="needs the extra: pip install '.[ray]'", exc_type=ImportError
)
pytestmark = pytest.mark.long

STEPS = 8


@pytest.fixture(scope="module")
def page() -> Iterator[WorkersPage]:
    with serving(2, OMP_NUM_THREADS="1") as started:
        started.ready(2)
        yield started


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list[Path]]:
    return storm.write_pictures(tmp_path_factory.mktemp("sent"))


@pytest.fixture(scope="module")
def pictures(page: WorkersPage) -> dict[int, bytes]:
    """Both pictures of some seeds, before anything is killed."""
    return {seed: Visitor(page.address).picture(storm.noise(seed, STEPS)) for seed in range(4)}


def test_ray_listens_on_loopback_only(page):
    everything = psutil.Process(page.process.pid).children(recursive=True)
    listening = [link.laddr.ip for one in everything for link in one.net_connections("inet") if link.status == "LISTEN"]
    assert listening and {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


TIMED = ("train_person",)
"""It learns for as long as the call says, so that no two runs agree."""


@pytest.fixture(scope="module")
def alone() -> Iterator[WorkersPage]:
    """The studio without workers, with as many threads as one of them: another number gives other roundings."""
    with serving(0, OMP_NUM_THREADS="1") as started:
        yield started


def test_every_endpoint_answers_as_in_one_process(page, alone, files):
    there, here = Visitor(page.address), Visitor(alone.address)
    for endpoint in (name for tab in tabs.discover() for name in tab.endpoints):
        one, two = (visitor.run(endpoint, storm.call_of(visitor, endpoint, files)) for visitor in (there, here))
        assert one["success"] and two["success"], (endpoint, one, two)
        if endpoint not in TIMED:
            got, wanted = (contents(visitor, done["output"]["data"]) for visitor, done in ((there, one), (here, two)))
            assert got == wanted, endpoint


def test_the_status_line_tells_what_each_holds(page, pictures):
    def drawn(seed: int) -> bytes:
        return Visitor(page.address).picture(storm.noise(seed, STEPS))

    with ThreadPoolExecutor(2) as both:  # at once, so that the second goes to whom holds nothing yet
        assert list(both.map(drawn, range(2))) == [pictures[0], pictures[1]]
    until(lambda: re.search(r"Workers +2, 0 busy +Worker 1 +\d+ parts +Worker 2 +\d+ parts", page.line()), 20)


def test_an_error_of_a_run_is_the_sentence_of_one_process(page, served):
    told = []
    for address in (page.address, served):
        done = Visitor(address).run(
            "guide", ["What?", {"nothing": 0.3}, "", 0, 4, "mini", 0.7, 0.95, "share", "all", ""]
        )
        assert not done["success"]
        told.append(done["output"]["error"])
    assert told[0] == told[1] and "nothing" in html.unescape(told[0])


def test_stop_works_within_a_step(page, pictures):
    visitor, began = Visitor(page.address), time.monotonic()
    visitor.picture(storm.noise(1, STEPS))
    step = (time.monotonic() - began) / STEPS
    visitor.join("golden_noise", storm.noise(1, 100))
    with visitor.stream() as messages:
        until(lambda: "Workers 2, 1 busy" in " ".join(page.line().split()), 20)
        time.sleep(3 * step)
        next(messages)
        body = {"session_hash": visitor.session, "event_id": visitor.event_id, "fn_index": 0}
        visitor.http.post("/cancel", json=body)
        stopped = until(lambda: "2, 0 busy" in " ".join(page.line().split()), 20, 0.01)
    assert stopped < step + 0.5, "the status line is asked for over HTTP, too"
    assert Visitor(page.address).picture(storm.noise(2, STEPS)) == pictures[2], "the next run is whole"


def test_workers_that_are_killed_cost_nobody_a_picture(page, pictures):
    runs, killed = visits_with_kills(page, pictures, 5, STEPS)
    assert killed == 5 and runs >= 4  # of each visitor one at the least; each looks at his bytes
    page.ready(2)


def test_without_its_head_the_page_says_so_and_answers_again(page, pictures):
    (head,) = page.ray("gcs_server")
    head.kill()
    until(lambda: "cannot be reached" in page.line() or "starting" in page.line(), 60)
    told = Visitor(page.address).run("golden_noise", storm.noise(0, STEPS))
    if not told["success"]:
        assert "The workers of the studio cannot be reached" in told["output"]["error"]
    page.ready(2, 180)
    assert Visitor(page.address).picture(storm.noise(3, STEPS)) == pictures[3]


def test_a_reply_waits_for_what_goes_along_and_the_last_item_for_nothing():
    actor, told = ray_workers.Actor(Registry("cpu")), lane.Progress(0.5, "step 1 of 2")
    out = actor._ongoing("run").out

    def take_s() -> tuple[list[bytes], float]:
        began = time.monotonic()
        items, _state = actor.take("run")
        return items, time.monotonic() - began

    linger = ray_workers.LINGER_S[lane.Progress]
    out.put((border.packed_item(told, {}), linger))
    threading.Timer(linger / 2, out.put, [(border.packed_item(told, {}), linger)]).start()
    items, seconds = take_s()
    assert len(items) == 2 and linger * 0.9 < seconds < linger * 1.8
    out.put((border.packed_item(told, {}), linger))
    out.put((border.packed_item(lane.Result(1), {}), 0.0))
    items, seconds = take_s()
    assert len(items) == 2 and seconds < linger / 2
