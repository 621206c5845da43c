"""Who reads a run, who has gone, who waits: a small page with the studio's watch, without models."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio import utils
from gradio_client import Client

from demos.core import handlers, readers, visitors
from demos.core.readers import Readers, Share
from demos.core.runs import runs
from pipelines.core import lane
from tests.environment import free_port
from tests.faults import storm
from tests.faults.storm import Visitor, until

STEP_S = 0.05
SOON_S = 1.5
"""A step, a turn of the watch, and a busy machine."""


@dataclass
class Studio:
    address: str
    readers: Readers
    steps: list[float]
    """When each step of a run was made."""

    def left(self) -> dict[str, int]:
        """What is still held of anybody."""
        queue = self.readers.queue
        return {
            "runs": len(runs.all()) + len(runs.by_session),
            "events": len(queue.event_ids_to_events),
            "clients": len(self.readers.clients),
            "sessions": len(self.readers.sessions),
            "states": len(self.readers.states.session_data) + len(self.readers.states.time_last_used),
            "messages": len(queue.pending_messages_per_session),
            "ids": len(queue.pending_event_ids_session),
            "differences": len(self.readers.page.pending_diff_streams),
        }


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    steps: list[float] = []

    def job(job: lane.Job, seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job.check()
            steps.append(time.monotonic())
            time.sleep(STEP_S)
        return "done"

    def work(session: str, seconds: float) -> Iterator[Any]:
        for item in lane.live(job, seconds):
            yield item.value if isinstance(item, lane.Result) else gr.skip()

    def silent(session: str, seconds: float) -> Iterator[Any]:
        for item in lane.live(job, seconds, beat_s=30):
            yield item.value if isinstance(item, lane.Result) else gr.skip()

    def count(state: int) -> tuple[int, int, Any]:
        return state + 1, state + 1, gr.Textbox(value="x", label=f"call {state + 1}")

    with gr.Blocks(analytics_enabled=False) as page:
        state, number, text = gr.State(0), gr.Number(), gr.Textbox("large " * 1000)
        button = gr.Button()
        button.click(handlers.on_gpu(work), number, text, api_name="work", **handlers.GPU)
        button.click(handlers.on_gpu(silent), number, text, api_name="silent", **handlers.GPU)
        button.click(handlers.halt, **{**handlers.LIGHT, "api_name": "halt"})
        button.click(count, state, [state, number, text], **{**handlers.TALKS, "api_name": "count"})
    page.queue(max_size=None, api_open=False)
    utils.get_heartbeat_rate, rate = lambda: 0.5, utils.get_heartbeat_rate
    watch, port = Readers(page), free_port()
    page.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, app_kwargs=watch.app_kwargs()
    )
    yield Studio(f"http://127.0.0.1:{port}", watch, steps)
    page.close()
    utils.get_heartbeat_rate = rate


@pytest.fixture(autouse=True)
def nobody_is_left(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readers, "GAP_S", 0.3)
    monkeypatch.setattr(readers, "OPEN_S", 1.0)
    monkeypatch.setattr(readers, "UNREAD_S", 1.0)
    monkeypatch.setattr(readers, "PAGE_S", 0.5)
    yield
    until(lambda: not any(studio.left().values()), 20)
    assert lane.waiting() == 0


def idle() -> bool:
    return lane.waiting() == 0


@pytest.mark.parametrize("endpoint", ["work", "silent"])
@pytest.mark.parametrize("way", storm.WAYS)
def test_a_run_ends_within_a_step_however_its_visitor_went(studio: Studio, way, endpoint: str):
    visitor = Visitor(studio.address)
    way(visitor, endpoint, [60], lambda: until(lambda: lane.waiting() == 1))
    before = len(studio.steps)
    until(idle)
    took = STEP_S * (len(studio.steps) - before)  # a busy machine makes them later, and not more of them
    assert took < SOON_S + (readers.OPEN_S if way in storm.UNREAD else 0.0), took
    visitor.close()


def test_a_stream_that_broke_with_the_end_of_its_run_is_over(studio: Studio):
    queue, name = studio.readers.queue, "page"
    assert not studio.readers.has_stream(name)
    queue.pending_messages_per_session[name] = (
        asyncio.Queue()
    )  # as Gradio leaves it when the reader of the end has gone
    try:
        assert not studio.readers.has_stream(name), "nothing will come, so nobody should wait"
        queue.pending_messages_per_session[name].put_nowait("the end, unread")
        assert studio.readers.has_stream(name)
    finally:
        del queue.pending_messages_per_session[name]


def test_gradios_own_client_cancels_at_once(studio: Studio):
    client = Client(studio.address, verbose=False)
    job = client.submit(60, api_name="/work")
    job.cancel()
    time.sleep(0.5)  # the join is on its way meanwhile
    assert until(idle) < SOON_S + readers.OPEN_S
    client.close()


def test_a_run_that_is_read_runs_to_its_end(studio: Studio):
    visitor = Visitor(studio.address)
    assert visitor.run("work", [readers.OPEN_S + 0.5])["output"]["data"] == ["done"]
    assert visitor.run("work", [0.1])["success"], "once more, with another stream of the same session"
    event_id = visitor.http.post("/call/work", json={"data": [0.1]}).json()["event_id"]
    assert 'data: ["done"]' in visitor.http.get(f"/call/work/{event_id}").text
    event_id = visitor.http.post("/call/work", json={"data": [0.1]}).json()["event_id"]
    time.sleep(0.6)
    assert 'data: ["done"]' in visitor.http.get(f"/call/work/{event_id}").text, "a short run may be read after its end"


def test_who_reads_too_late_is_told_why_there_is_nothing(studio: Studio):
    visitor = Visitor(studio.address)
    event_id = visitor.http.post("/call/work", json={"data": [60]}).json()["event_id"]
    until(lambda: lane.waiting() == 1)
    until(idle)
    answer = visitor.http.get(f"/call/work/{event_id}").text
    assert "event: error" in answer and "Nobody read this run for 1 s" in answer


def test_a_server_that_stands_still_ends_nobodys_run(studio: Studio):
    """Loading a model may keep the event loop from its work for long, and its clients from opening their streams."""
    visitor = Visitor(studio.address)
    visitor.join("work", [60])
    loop = next(iter(studio.readers._tasks), None)  # nothing ended so far
    assert loop is None
    studio.readers._loop.call_soon_threadsafe(time.sleep, readers.OPEN_S + 0.5)
    with visitor.stream() as messages:
        assert next(messages)["msg"] == "estimation"
        time.sleep(0.5)
        assert lane.waiting() == 1


# --- a page may come back ---


@contextlib.contextmanager
def page_of(studio: Studio, cookie: str = "a" * 43) -> Iterator[Visitor]:
    """A browser's page: a cookie and a heartbeat."""
    visitor = Visitor(studio.address, cookie)
    with visitor.socket(f"/heartbeat/{visitor.session}"):
        until(lambda: studio.readers.sessions.get(visitor.session) is not None)
        yield visitor
    visitor.close()


def lose(visitor: Visitor, seconds: float = 60) -> None:
    """Start a run and lose the connection."""
    storm.leave_reset(visitor, "work", [seconds], lambda: until(lambda: lane.waiting() == 1))


def test_a_page_that_lost_its_connection_keeps_its_run_while_nobody_waits(studio: Studio):
    with page_of(studio) as visitor:
        lose(visitor)
    time.sleep(1.0)
    assert lane.waiting() == 1, "the heartbeat broke too"
    other = Visitor(studio.address)
    before = time.monotonic()
    assert other.run("work", [0.1])["success"]
    assert time.monotonic() - before < 2 * SOON_S, "who waits is not kept waiting"
    assert until(idle) < SOON_S


def test_it_keeps_it_for_so_long_only(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "BLIP_S", 0.5)
    with page_of(studio) as visitor:
        lose(visitor)
        assert until(idle) < 0.5 + SOON_S


def test_its_run_comes_to_its_end_without_it(studio: Studio):
    with page_of(studio) as visitor:
        lose(visitor, 1.0)
        before = len(studio.steps)
        until(idle)
        assert len(studio.steps) - before > 5


def test_it_may_run_something_again_when_it_is_back(studio: Studio):
    with page_of(studio) as visitor:
        lose(visitor, 0.5)
        until(idle)
        assert visitor.run("work", [0.1])["success"]


def test_a_page_that_says_goodbye_ends_its_run(studio: Studio):
    with page_of(studio) as visitor:
        visitor.join("work", [60])
        with visitor.stream():
            until(lambda: lane.waiting() == 1)
            httpx.post(f"{studio.address}{readers.GOODBYE}", content=visitor.session)
            assert until(idle) < SOON_S
    with page_of(studio) as visitor:
        lose(visitor)
        httpx.post(f"{studio.address}{readers.GOODBYE}", content=visitor.session)
        assert until(idle) < SOON_S, "also after its stream"


def test_a_page_that_is_loaded_again_says_goodbye_and_keeps_its_run(studio: Studio):
    for loads, goes_on in (("its own", True), ("another's", False)):
        with page_of(studio) as visitor, page_of(studio, "b" * 43) as stranger:
            visitor.join("work", [60])
            with visitor.stream():
                until(lambda: lane.waiting() == 1)
                httpx.get(studio.address, cookies=dict((visitor if goes_on else stranger).http.cookies))
                httpx.post(f"{studio.address}{readers.GOODBYE}", content=visitor.session)
            time.sleep(SOON_S)
            assert idle() is not goes_on, loads
            httpx.post(f"{studio.address}{readers.GOODBYE}", content=visitor.session)
            assert until(idle) < SOON_S, "the next one counts"


# --- a share of the line ---


def at(studio: Studio, address: str, cookie: str = "") -> Visitor:
    """A client at another address of this machine."""
    visitor = Visitor(studio.address, cookie)
    visitor.http = httpx.Client(
        base_url=f"{studio.address}/gradio_api",
        transport=httpx.HTTPTransport(local_address=address),
        cookies={visitors.COOKIE: cookie} if cookie else None,
        timeout=30,
    )
    return visitor


def start(visitor: Visitor, endpoint: str = "work", seconds: float = 60) -> str | None:
    """Start a run in a session of its own and leave its stream open; the sentence of a refusal, or None."""
    one = Visitor.__new__(Visitor)
    one.__dict__ |= visitor.__dict__ | {"session": f"{visitor.session}{time.monotonic_ns()}"}
    one.join(endpoint, [seconds])
    stack = contextlib.ExitStack()
    messages = stack.enter_context(one.stream())
    opened.append((stack, messages))  # a generator that is let go of closes its connection
    for message in messages:
        if message["msg"] == "process_completed":
            return message["output"]["error"]
        if message["msg"] == "process_starts":
            return None
    raise AssertionError("the stream ended")


opened: list[tuple[contextlib.ExitStack, Any]] = []


@pytest.fixture
def streams() -> Iterator[None]:
    yield
    while opened:
        opened.pop()[0].close()


@pytest.mark.usefixtures("streams")
def test_one_visitor_does_not_fill_the_line(studio: Studio):
    one, other = at(studio, "127.0.0.2", "c" * 43), at(studio, "127.0.0.2", "d" * 43)
    assert [start(one) for _ in range(3)] == [None] * 3
    assert (
        start(one) == "You have 3 runs going or waiting, as many as one may have: wait until one is done, or stop one."
    )
    assert start(other) is None
    assert [start(at(studio, "127.0.0.2")) for _ in range(4)] == [None] * 4
    assert start(at(studio, "127.0.0.2", "e" * 43)).startswith("8 runs of your address are going or waiting")
    assert start(at(studio, "127.0.0.3")) is None, "another address"


@pytest.mark.usefixtures("streams")
def test_a_full_line_tells_how_long_it_is(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(readers.SHARE, True, Share(3, 8, 4))
    assert [start(at(studio, f"127.0.0.{4 + n}")) for n in range(4)] == [None] * 4
    told = start(at(studio, "127.0.0.9"))
    assert told.startswith("The line is full: 4 jobs ahead") and told.endswith("Try again in a while.")


def test_two_hundred_that_nobody_reads_do_not_keep_anybody_waiting(studio: Studio):
    flood = at(studio, "127.0.0.2")
    codes = []
    for number in range(200):
        body = {"data": [60], "fn_index": flood.functions["work"], "session_hash": f"flood {number}"}
        codes.append(flood.http.post("/queue/join", json=body).status_code)
    assert set(codes) == {200, 503}, "after some that are told in their streams, at once"
    before = time.monotonic()
    assert at(studio, "127.0.0.3").run("work", [0.1])["success"]
    assert time.monotonic() - before < readers.OPEN_S + 2 * SOON_S
    until(idle)
    assert flood.run("work", [0.1])["success"], "and its own share is free again"


@pytest.mark.usefixtures("streams")
def test_stop_gives_the_place_back_at_once(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(readers.SHARE, True, Share(1, 8, 24))
    visitor = at(studio, "127.0.0.2", "f" * 43)
    visitor.join("work", [60])
    with visitor.stream() as messages:
        until(lambda: lane.waiting() == 1)
        assert start(visitor).startswith("You have 1 runs")
        stop = {"data": [], "fn_index": visitor.functions["halt"], "session_hash": visitor.session}
        visitor.http.post("/run/halt", json=stop)
        assert start(visitor, seconds=0.1) is None
        assert any(message["msg"] == "process_completed" for message in messages)


# --- what is kept of a session ---


def test_states_are_the_sessions_own_and_the_rest_is_shared(studio: Studio):
    with page_of(studio, "g" * 43) as one, page_of(studio, "h" * 43) as other:
        assert one.run("count", [None])["output"]["data"][1] == 1
        assert one.run("count", [None])["output"]["data"][1] == 2
        assert other.run("count", [None])["output"]["data"][1] == 1
        states = studio.readers.states.session_data
        texts = [
            next(block for block in states[v.session].blocks_config.blocks.values() if isinstance(block, gr.Textbox))
            for v in (one, other)
        ]
        assert [text.label for text in texts] == ["call 2", "call 1"]
        assert not states[one.session].config_values
        first = next(block for block in studio.readers.page.blocks.values() if isinstance(block, gr.Textbox))
        assert first.label is None and texts[0].temp_files is first.temp_files


def test_nothing_is_kept_of_calls(studio: Studio):
    visitor = Visitor(studio.address)
    for number in range(20):
        visitor.session = f"call {number}"
        visitor.run("count", [None])
        visitor.http.post(
            "/run/halt", json={"data": [], "fn_index": visitor.functions["halt"], "session_hash": f"light {number}"}
        )
    until(lambda: not any(studio.left().values()))


def test_the_states_of_a_page_outlive_a_blip(studio: Studio):
    with page_of(studio) as visitor:
        visitor.run("count", [None])
    time.sleep(0.2)
    assert visitor.session in studio.readers.states.session_data


def test_a_session_with_an_endless_name_is_refused(studio: Studio):
    visitor = Visitor(studio.address)
    body = {"data": [1], "fn_index": visitor.functions["work"], "session_hash": "x" * 10_000}
    assert visitor.http.post("/queue/join", json=body).status_code == 400
    assert not any(studio.left().values())


def test_runs_may_not_go_past_the_queue(studio: Studio):
    visitor = Visitor(studio.address)
    body = {"data": [1], "fn_index": visitor.functions["work"], "session_hash": "s"}
    assert visitor.http.post("/run/work", json=body).status_code == 404
    assert threading.active_count() < 200
