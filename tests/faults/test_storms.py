"""Runs that are stopped or abandoned at any moment, in every way there is, against the served app with its real models."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demos.core import readers
from tests.faults import storm
from tests.faults.storm import Visitor, noise, until

TURNS_S = 1.0
"""What the lane may still compute while watch and network take their turns, beside the step of the run itself."""
SEEDS = (1, 2, 3)
QUICK = ("golden_noise", "remove_object", "guide")
"""Whose models are there within seconds."""


class Server:
    """The served app, and what is compared with what."""

    def __init__(self, address: str, files: dict[str, list[Path]]) -> None:
        self.address, self.files = address, files
        self.visitor = Visitor(address)
        self.http = httpx.Client(verify=False, timeout=60)
        self.alone = {seed: self.picture(seed) for seed in SEEDS}
        """What each visitor gets who is alone; the models are loaded now."""

    def counts(self, **asked: int) -> dict[str, Any]:
        return self.http.get(f"{self.address}/counts", params=asked).json()

    def picture(self, seed: int) -> bytes:
        self.visitor.session = f"picture-{time.monotonic_ns()}"
        return self.visitor.picture(noise(seed, 2))

    def idle(self) -> bool:
        counts = self.counts()
        return not counts["running"] and not counts["waiting"]

    def warm(self, endpoints: tuple[str, ...]) -> None:
        """Have every model loaded: loading cannot be interrupted, and says so."""
        for endpoint in endpoints:
            data = storm.run_of(self.visitor, endpoint, self.files, long=False)
            self.visitor.session = f"warm-{endpoint}"
            assert self.visitor.run(endpoint, data)["success"], endpoint

    def abandon(self, endpoint: str, way: Any, delay: float) -> float:
        """Start a run, leave it; seconds that the worker computed from then on until it was free."""
        visitor = Visitor(self.address)
        data = storm.run_of(visitor, endpoint, self.files)
        worked = self.counts()["worked"]

        def wait() -> None:
            nonlocal worked
            time.sleep(delay)
            worked = self.counts()["worked"]

        way(visitor, endpoint, data, wait)
        until(self.idle, 60)
        visitor.close()
        return self.counts()["worked"] - worked

    def storm(self, count: int, seed: int, endpoints: tuple[str, ...]) -> None:
        dice = random.Random(seed)
        late = []
        self.counts(clear=1)  # what loading took is no step
        for number in range(count):
            way = storm.WAYS[number % len(storm.WAYS)]
            endpoint, delay = dice.choice(endpoints), dice.uniform(0.0, 1.2)
            took = self.abandon(endpoint, way, delay)
            step = max(longest for longest, _where in self.counts()["gaps"].values())
            if took > 2 * step + TURNS_S + (readers.OPEN_S if way in storm.UNREAD else 0.0):
                late.append((number, endpoint, way.__name__, round(delay, 2), round(took, 2), round(step, 2)))
            after = dice.choice(SEEDS)
            assert self.picture(after) == self.alone[after], (number, endpoint, way.__name__)
        assert not late, late


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files = storm.write_pictures(tmp_path_factory.mktemp("sent"))
    with storm.serving(TMPDIR=str(tmp_path_factory.mktemp("server"))) as address:
        yield Server(address, files)


def check_nothing_is_left(server: Server, before: dict[str, Any]) -> dict[str, Any]:
    """Sessions may be kept for a while: until what nobody has read is given up."""
    until(lambda: not any(server.counts()["left"].values()), 60, 0.2)
    after = server.counts(collect=1)
    assert after["leases"] == 0
    assert set(after["threads"]) <= set(before["threads"])
    assert after["descriptors"] <= before["descriptors"] + 4
    assert after["scratch"] <= before["scratch"], "files beside those that visitors sent and got"
    return after


@pytest.mark.long
def test_runs_that_are_left_at_any_moment_leave_nothing(server: Server):
    server.warm(QUICK)
    before = server.counts(collect=1)
    server.storm(len(storm.WAYS), seed=16, endpoints=QUICK)
    check_nothing_is_left(server, before)


@pytest.mark.long
def test_a_hundred_runs_that_are_left_at_any_moment_leave_nothing(server: Server):
    endpoints = (*QUICK, "portrait", "train_person")
    server.warm(endpoints)
    server.storm(25, seed=1, endpoints=endpoints)
    before = check_nothing_is_left(server, server.counts(collect=1))
    server.storm(75, seed=2, endpoints=endpoints)
    after = check_nothing_is_left(server, before)
    assert after["rss"] <= 1.05 * before["rss"]


@pytest.mark.long
def test_many_small_requests_and_many_that_are_left_leave_no_memory(server: Server):
    def refused(number: int) -> None:
        visitor = server.visitor
        visitor.session = f"small-{number}"
        assert not visitor.run("golden_noise", noise(0, -number))["success"]

    for number in range(300):
        refused(number)
    for _ in range(30):
        server.abandon("golden_noise", storm.leave_cancel, 0.1)
    before = check_nothing_is_left(server, server.counts(collect=1))
    for number in range(3000):
        refused(number)
    after = check_nothing_is_left(server, before)
    assert after["rss"] <= 1.05 * before["rss"], "small requests"
    for _ in range(300):
        server.abandon("golden_noise", storm.leave_cancel, 0.1)
    after = check_nothing_is_left(server, before)
    assert after["rss"] <= 1.05 * before["rss"], "cancelled runs"
