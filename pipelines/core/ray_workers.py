"""Workers on Ray: an actor each, with a registry and a lane of its own. Imported only where ``--workers`` asks for it.

The page's process is a Ray *client*, of a cluster on this machine as of one elsewhere: it holds no part of Ray that could take it along
when a head node dies. Ray's client refuses streaming generators (2.60), so a run's items are taken in turn: `Actor.take` waits for
the next and brings all that have gathered.

Ray restarts an actor that dies; the pool begins its run once more on another.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from pipelines.core import border, lane
from pipelines.core.registry import GIB, Registry, default_ram_bytes, from_environment
from pipelines.core.workers import Errand, Lost, Pool, State, Unreachable

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
AWAY = (
    "The workers of the studio cannot be reached: try again in a minute; the studio goes on as soon as they are back."
)
LINGER_S = {lane.Progress: lane.PACE_S}
"""So long an item of this type waits for others that go along with it, and any other :data:`lane.NEWEST_S`: words come by the dozen
a second, and a call takes some milliseconds of four processes. A page shows them no sooner."""
LOOK_S = 2.0
"""Between two looks at what the cluster has."""
GRACE_S = 5
"""So long a broken connection may be mended before the workers count as lost."""


# --------------------------------------------------------------------------- in a worker's process


@dataclass(eq=False)
class _Ongoing:
    """A run in an actor."""

    reader: lane.Reader = field(default_factory=lane.Reader)
    out: queue.SimpleQueue[tuple[bytes, float]] = field(default_factory=queue.SimpleQueue)
    """Items, packed, and how long each may wait for others; the last waits for none."""


class Actor:
    """A worker's process. Calls of one run come one after the other, `stop` beside them."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or from_environment()
        self.runs: dict[str, _Ongoing] = {}
        self.over: deque[str] = deque(maxlen=256)
        self.used: frozenset[str] = frozenset()
        self.lock = threading.Lock()

    def begin(self, run: str, work: bytes) -> tuple[list[bytes], State | None]:
        """Start a run; answers as `take`."""
        threading.Thread(target=self._run, args=(self._ongoing(run), work), daemon=True).start()
        return self.take(run)

    def take(self, run: str) -> tuple[list[bytes], State | None]:
        """What the run has to say, after half a second at the latest; with its last item comes the worker's state."""
        items: list[bytes] = []
        ongoing, linger = self._ongoing(run), 1.0
        until = time.monotonic() + lane.BEAT_S
        with contextlib.suppress(queue.Empty):
            while linger:
                item, linger = ongoing.out.get(timeout=max(until - time.monotonic(), 0.0))
                until = min(until, time.monotonic() + linger)
                items.append(item)
        last = not linger
        if last:
            with self.lock:
                del self.runs[run]
                self.over.append(run)
        return items, self.state() if last else None

    def stop(self, run: str) -> None:
        """End it at its next check; also one that has not begun."""
        with self.lock:
            known = run not in self.over
        if known:
            self._ongoing(run).reader.end()

    def state(self) -> State:
        summary = self.registry.summary()
        lane_of_mine = lane._current_lane()
        return State(tuple(self.registry.status()), summary["device"], self.used, dict(lane_of_mine.typical_s))

    def _ongoing(self, run: str) -> _Ongoing:
        with self.lock:
            return self.runs.setdefault(run, _Ongoing())

    def _run(self, ongoing: _Ongoing, packed: bytes) -> None:
        before = {row["key"]: row["uses"] for row in self.registry.status()}
        sent: dict[str, str] = {}
        last: object = None
        with tempfile.TemporaryDirectory(prefix="latent-studio-") as folder:
            try:
                work, sent = border.unpack(packed, self.registry, Path(folder))
                with lane.read_by(ongoing.reader):
                    for item in lane.stream_here(work.fn, *work.args, limit_s=work.limit_s, **work.kwargs):
                        if isinstance(item, lane.Result):
                            last = item
                        elif item is not lane.IDLE:
                            linger = LINGER_S.get(type(item), lane.NEWEST_S)
                            ongoing.out.put((border.packed_item(item, sent), linger))
            except Exception as error:
                last = lane.Failure(error)
            rows = self.registry.status()
            self.used = frozenset(row["key"] for row in rows if row["uses"] > before.get(row["key"], 0))
            ongoing.out.put((border.packed_item(last, sent), 0.0))


# --------------------------------------------------------------------------- in the page's process


class RayWorker:
    """An actor, as the pool sees it."""

    def __init__(self, name: str, registry: Registry, files: Path | None, **options: Any) -> None:
        self.name, self.registry, self.files = name, registry, files
        made: Any = ray.remote(Actor)
        self.actor = made.options(max_restarts=-1, max_concurrency=4, scheduling_strategy="SPREAD", **options).remote()

    def run(self, errand: Errand) -> tuple[Any, State]:
        run = secrets.token_hex(8)
        reply = self._called("begin", run, border.pack(errand.work, self.registry, self.files), errand=errand)
        while True:
            items, state = reply
            for packed in items:
                item, _ = border.unpack(packed)
                if isinstance(item, lane.Failure):
                    raise item.error
                if isinstance(item, lane.Result):
                    return item.value, state
                errand.hear(item)
            reply = self._called("take", run)

    def state(self) -> State:
        return self._called("state")

    def end(self) -> None:
        """Stop the process."""
        with contextlib.suppress(Exception):
            ray.kill(self.actor)

    def _called(self, method: str, *arguments: object, errand: Errand | None = None) -> Any:
        """
        Raises:
            Lost: the actor died, or answers no more.
            Unreachable: the connection to the cluster is gone.
        """
        try:
            answer = getattr(self.actor, method).remote(*arguments)
            if errand is not None:
                threading.Thread(target=self._pass_stop, args=(errand, arguments[0]), daemon=True).start()
            return ray.get(answer)
        except RayActorError as error:
            raise Lost(str(error)) from None
        except RayError as error:  # the work's own errors come as items: this is the node's, or the store's
            log.warning("%s: %s", self.name, error)
            raise Lost(str(error)) from None
        except Exception as error:  # of the client or of gRPC, which have many
            log.warning("%s cannot be asked: %s", self.name, str(error)[:300])
            raise Unreachable(AWAY) from None

    def _pass_stop(self, errand: Errand, run: object) -> None:
        """Tell the actor at once when the reader has gone. Every errand's stop is set in the end."""
        errand.stop.wait()
        with contextlib.suppress(Exception):
            self.actor.stop.remote(run)


class Cluster:
    """Keeps the pool in step with a cluster: connects, makes an actor for each place, and again after a loss.

    Args:
        asked: a number of workers on this machine, or the address of a cluster, ``ray://host:10001``.
        files: the folder of the visitors' files, which are sent to the workers with the runs that read them.
    """

    def __init__(self, asked: str, pool: Pool, registry: Registry, files: Path | None = None) -> None:
        self.asked, self.pool, self.registry, self.files = asked, pool, registry, files
        self.head: Head | None = None
        self.workers: list[RayWorker] = []
        self.made = 0
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="cluster", daemon=True)

    def start(self) -> None:
        """Returns at once; runs wait until the first worker is there."""
        atexit.register(self.close)
        self.thread.start()

    def close(self) -> None:
        self.closed.set()
        self.thread.join(60)
        _disconnect()
        if self.head is not None:
            self.head.close()

    def _keep(self) -> None:
        while not self.closed.is_set():
            try:
                self._connect()
                while not self.closed.wait(LOOK_S):
                    self._match()
            except Exception as error:  # of Ray's client or of gRPC, which have many
                log.warning("no way to the workers: %s", str(error)[:300])
                self.pool.close(AWAY)
                self.workers.clear()
                _disconnect()
                self.closed.wait(LOOK_S)

    def _connect(self) -> None:
        if self.asked.isdigit():
            if self.head is None or not self.head.alive():
                self.head = Head(int(self.asked))
            self.head.wait(self.closed)
        address = self.head.address if self.head is not None else self.asked
        os.environ["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = str(GRACE_S)
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
        self._match()

    def _match(self) -> None:
        """One actor a place: those that the user asked for here, one a GPU (without any, one a node) in a cluster."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0.0) for node in nodes)
        places = int(self.asked) if self.asked.isdigit() else int(gpus) or len(nodes)
        share = min(1.0, gpus / places) if places else 0.0
        options = {"num_gpus": share, "num_cpus": 0} if gpus else {"num_cpus": 1}
        while len(self.workers) < places:
            self.made += 1
            worker = RayWorker(f"Worker {self.made}", self.registry, self.files, **options)
            self.workers.append(worker)
            self.pool.add(worker)
        away = [hand.worker for hand in self.pool.hands if not hand.ready]
        for worker in sorted(self.workers, key=lambda one: one not in away)[: len(self.workers) - places]:
            self.pool.remove(worker)
            self.workers.remove(worker)
            worker.end()


def _disconnect() -> None:
    with contextlib.suppress(Exception):
        ray.shutdown()


class Head:
    """Ray on this machine, for the page alone: bound to loopback, behind a token (`ray_head.behind_a_token`), without dashboard,
    gone with this process."""

    def __init__(self, workers: int) -> None:
        self.port = _free_port()
        self.address = f"ray://127.0.0.1:{self.port}"
        self.folder = tempfile.mkdtemp(prefix="ls-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
        gib = default_ram_bytes() / workers / GIB
        threads = max(1, (os.cpu_count() or 1) // workers)
        given = {"LATENT_STUDIO_RAM_GIB": f"{gib:.3f}", "OMP_NUM_THREADS": str(threads), **os.environ}
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # Ray's switch for machines on which it stays on loopback: other systems than Linux have it so from the start.
        given["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        command = [sys.executable, "-m", "pipelines.core.ray_head", self.folder]
        command += ["start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--port={_free_port()}", f"--ray-client-server-port={self.port}"]
        command += ["--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"]
        command += [f"--num-cpus={workers}", f"--object-store-memory={2**29}"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, closed: threading.Event, most_s: float = 120.0) -> None:
        """Until it listens."""
        until = time.monotonic() + most_s
        while not closed.is_set() and self.alive() and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            closed.wait(0.2)
        raise ConnectionError("Ray does not start on this machine")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
