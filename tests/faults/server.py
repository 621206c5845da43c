"""The app in a process of its own, which also tells what it holds: `python -m tests.faults.server 7999`."""

from __future__ import annotations

import tests.environment  # isort: skip  # noqa: F401  (before anything imports gradio)

import gc
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import app
from demos.core import readers, visitors
from demos.core.readers import Readers
from demos.core.runs import runs
from pipelines.core import lane
from pipelines.core.registry import Registry

registries = [one for one in gc.get_objects() if isinstance(one, Registry)]
gaps: dict[str, tuple[float, str]] = {}
"""Of each kind of job, the longest time of the lane's thread between two looks at whether it should end, and where it was then:
processor time, because that is the same on a busy machine."""


def watch_checks() -> None:
    """Note how long jobs go without a look."""
    check = lane.Job.check

    def noting(job: lane.Job) -> None:
        now = time.thread_time()
        before = getattr(job, "looked", None)
        if before is not None and now - before > gaps.get(job.kind, (0.0, ""))[0]:
            frames, frame = [], sys._getframe(1)
            while frame is not None and len(frames) < 6:
                frames.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                frame = frame.f_back
            gaps[job.kind] = (now - before, " < ".join(frames) + f" after {getattr(job, 'place', 'its start')}")
        job.looked = now
        frame = sys._getframe(1)
        while frame.f_code.co_filename == lane.__file__:
            frame = frame.f_back
        job.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        check(job)

    lane.Job.check = noting  # type: ignore[method-assign]


def scratch() -> int:
    """Files of this process that are no visitor's."""
    own = {visitors.home() / visitors.VISITORS, visitors.home() / visitors.GUESTS, visitors.page_folder()}
    files = (path for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file())
    return sum(not any(path.is_relative_to(place) for place in own) for path in files)


asked: set[str] = set()
"""Machines that this process looked up or went out to."""


def watch_network() -> None:
    """Note every name that is looked up and every connection that is opened to another machine."""
    look_up, connect = socket.getaddrinfo, socket.socket.connect
    local = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "None")

    def noting(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in local:
            asked.add(name)
        return look_up(host, *rest, **more)

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in local:
                asked.add(str(address[0]))
            connect(self, address)

    socket.getaddrinfo, socket.socket = noting, Socket  # type: ignore[assignment, misc]


def counts(whole: bool = False) -> dict[str, Any]:
    """What is held now. `left` should be all zeros when nobody is there."""
    queue = app.demo._queue
    readers: Readers = queue.push.__self__  # type: ignore[attr-defined]
    worker = lane._current_lane()
    return {
        "worked": time.clock_gettime(time.pthread_getcpuclockid(worker.thread.ident)),
        "running": 0 if worker.running is None else 1,
        "waiting": lane.waiting(),
        "left": {
            "runs": len(runs.all()) + len(runs.by_session),
            "events": len(queue.event_ids_to_events),
            "clients": len(readers.clients),
            "jobs": len(worker.jobs),
            "active": sum(job is not None for job in queue.active_jobs),
            "sessions": len(readers.sessions),
            "states": len(readers.states.session_data) + len(readers.states.time_last_used),
            "messages": len(queue.pending_messages_per_session),
            "event_ids": len(queue.pending_event_ids_session),
            "iterators": len(app.demo.app.iterators),
            "differences": len(app.demo.pending_diff_streams),
            "streams": len(app.demo.pending_streams),
            "tasks": len(readers._tasks),
        },
        "leases": sum(part.pins for held in registries for part in held._parts.values()),
        "scratch": scratch() if whole else 0,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "gaps": gaps,
        "asked": sorted(asked),
    }


class Memory:
    """Memory that ends in the middle of the work: every call of a layer from the `after`-th on raises, until told otherwise."""

    def __init__(self) -> None:
        self.calls = self.after = 0
        self.kind = "python"

    def ends(self, after: int, kind: str) -> int:
        """From the `after`-th call on, 0: never; the calls since this was asked last."""
        from torch.nn.modules import module

        if self not in module._global_forward_pre_hooks.values():
            module.register_module_forward_pre_hook(self)
        calls, self.calls, self.after, self.kind = self.calls, 0, after, kind
        return calls

    def __call__(self, *_layer: Any) -> None:
        self.calls += 1
        if 0 < self.after <= self.calls:
            import torch

            if self.kind == "gpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            bytearray(2**62) if self.kind == "python" else torch.empty(2**50)


def loaded() -> dict[str, list[str]]:
    """Of each part in memory the files that it was read from."""
    parts = [part for held in registries for part in held._parts.values() if part.obj is not None]
    return {part.spec.key: [f"{part.spec.source}/{name}" for name in part.spec.sha256] for part in parts}


def end_with(parent: int) -> None:
    """A test that was killed leaves no server."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(port: int) -> None:
    readers.UNREAD_S = 3.0  # answers that nobody reads are kept for less long than usual
    threading.Thread(target=end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    watch_checks()
    watch_network()
    app.serve(app.demo, "127.0.0.1", port, block=False)

    def told(request: Request) -> JSONResponse:
        if "collect" in request.query_params:
            gc.collect()
        if "clear" in request.query_params:
            gaps.clear()
        return JSONResponse(counts("collect" in request.query_params))

    memory = Memory()

    def ends(request: Request) -> JSONResponse:
        asked = request.query_params
        return JSONResponse(memory.ends(int(asked.get("after", 0)), asked.get("kind", "python")))

    def free(request: Request) -> JSONResponse:
        parts = loaded()
        for held in registries:
            held.free()
        return JSONResponse(parts)

    for path, answer in (("/counts", told), ("/memory", ends), ("/free", free)):
        app.demo.app.router.routes.insert(0, Route(path, answer))
        app.demo.app.middleware_stack.own |= {path}  # through the door
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
