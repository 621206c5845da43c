"""The app with workers of its own Ray, in a process of its own: for the tests and the bench."""

from __future__ import annotations

import contextlib
import html
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.environment import free_port
from tests.faults import storm
from tests.faults.storm import Visitor

ROOT = Path(__file__).resolve().parents[1]
SECONDS = re.compile(r"second|took|_s$|speed")
"""Names of figures that no two runs share."""


@dataclass
class WorkersPage:
    """A running page with workers."""

    address: str
    process: subprocess.Popen[bytes]

    def line(self) -> str:
        """The status line as text."""
        told = httpx.get(f"{self.address}/studio/status", timeout=30).json()["line"]
        return html.unescape(re.sub(r"<[^>]+>", " ", told))

    def workers(self) -> list[psutil.Process]:
        """The processes of the workers, those of this page only."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if one.cmdline()[:1] and one.cmdline()[0].startswith("ray::Actor"):
                    found.append(one)
        return found

    def ray(self, name: str) -> list[psutil.Process]:
        """Processes of Ray's own by their program's name."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if Path(one.exe()).name == name:
                    found.append(one)
        return found

    def ready(self, count: int, seconds: float = 180.0) -> float:
        """Wait until so many workers are there and none starts; the seconds that it took."""
        return until(
            lambda: f"Workers {count}, 0 busy" in (line := _plain(self.line())) and "starting" not in line, seconds
        )


def _plain(text: str) -> str:
    return " ".join(text.split())


def until(true: Callable[[], object], seconds: float, step: float = 0.1) -> float:
    began = time.monotonic()
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if true():
                return time.monotonic() - began
        assert time.monotonic() - began < seconds, "it did not come about in time"
        time.sleep(step)


@contextlib.contextmanager
def serving(workers: int | str, **environment: str) -> Iterator[WorkersPage]:
    """``python app.py --workers`` once its page is there; without workers where ``workers`` is 0."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *(["--workers", str(workers)] if workers else [])]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    page = WorkersPage(f"http://127.0.0.1:{port}", process)
    try:
        until(lambda: process.poll() is not None or page.line(), 180, 0.3)
        assert process.poll() is None, "the page did not start"
        yield page
    finally:
        children = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _gone, alive = psutil.wait_procs(children, 30)
        assert not alive, f"outlived the page: {alive}"


def contents(visitor: Visitor, value: Any) -> Any:
    """An answer with the bytes of its files in place of their names, and without seconds."""
    if isinstance(value, dict) and "url" in value and "path" in value:
        return visitor.http.get(value["url"]).content
    if isinstance(value, dict):
        return {key: contents(visitor, one) for key, one in value.items() if not SECONDS.search(key)}
    if isinstance(value, list):
        return [contents(visitor, one) for one in value]
    return value


def kill_now_and_then(page: WorkersPage, times: int, over: threading.Event, rng: random.Random) -> list[int]:
    """SIGKILL to a worker at random moments; the next one once both answer again."""
    killed: list[int] = []
    while len(killed) < times and not over.is_set():
        over.wait(rng.uniform(0.5, 3.0))
        line = " ".join(page.line().split())
        busy = re.search(r"Workers 2, [12] busy", line)
        workers = page.workers()
        if busy and "starting" not in line and len(workers) == 2:
            victim = rng.choice(workers)
            victim.kill()
            killed.append(victim.pid)
            over.wait(1.0)
    return killed


def visits_with_kills(page: WorkersPage, pictures: dict[int, bytes], kills: int, steps: int) -> tuple[int, int]:
    """Four visitors run one thing after another until so many workers were killed; how many runs there were, and kills."""
    over, lock, runs = threading.Event(), threading.Lock(), []

    def visit(number: int) -> None:
        turn = number
        while not over.is_set():
            seed = turn % len(pictures)
            with contextlib.closing(Visitor(page.address)) as visitor:
                assert visitor.picture(storm.noise(seed, steps)) == pictures[seed]
            with lock:
                runs.append(seed)
            turn += 1

    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit, number) for number in range(4)]
        try:
            killed = kill_now_and_then(page, kills, over, random.Random(5))
        finally:
            over.set()
        for one in visits:
            one.result(120)
    return len(runs), len(killed)
