"""Who reads what Gradio's queue answers, and what ends when nobody does.

Gradio runs whatever joined its queue, whether anybody reads the answer or not, takes 24 runs from one client as gladly as
from 24, and keeps what it noted of a session. Here

- a client that joined opens its event stream within `OPEN_S`, or its event ends;
- a client whose stream breaks has gone, and its event ends at once. A page may come back: its run goes on for `BLIP_S`,
  unless somebody else waits, or the page said goodbye (`pagehide`, `GOODBYE`) without being loaded again;
- a client has a share of the queue (`SHARE`) and the next is told so, in its stream, where page and programs look;
- a session that nobody is connected to is forgotten: a program's after `GAP_S`, a page's after `PAGE_S`.

`Readers(page).app_kwargs()` is what `launch` needs to serve the page so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio import caching, routes
from gradio.blocks import BlockFunction
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage, ProcessGeneratingMessage
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demos.core import visitors
from demos.core.runs import PLACES, runs
from demos.core.sessions import SlimStates
from pipelines.core import lane

log = logging.getLogger(__name__)

TICK_S = 0.1
"""How often the watch looks. While a run is unread it counts turns of the event loop, not the clock: a server that is
loading a model and does not answer is no reason to end a run."""
LOOK_S = 0.02
"""How often Gradio looks for an event that waits. Its own choice, each millisecond, keeps a twentieth of a core busy on a page that
nobody has open."""
OPEN_S = 2.0
"""A client opens its stream within this time after joining the queue, or between two streams."""
BLIP_S = 60.0
"""So long a page's run goes on after its stream broke, while nobody else waits."""
RELOAD_S = 5.0
"""A page that is loaded again says goodbye like one that closes, but its browser has asked for the page before: so long before,
at the most."""
UNREAD_S = 30.0
"""So long an answer is kept that nobody has read yet."""
GAP_S = 5.0
"""So long a session is kept without any connection: between two calls, or before a page has opened its own."""
PAGE_S = 3600.0
"""So long the states of a page are kept that went without a goodbye."""
LONGEST = 128
"""Characters of a session's name; Gradio's own have eleven."""
GOODBYE = "/goodbye"
"""Where a page says that it closes: POST, with its session as the body."""
STREAM = re.compile(r"/gradio_api/(?:queue/data|heartbeat/(?P<session>[^/]+)|call/(?:v2/)?[^/]+/(?P<event>[^/]+))$")
"""The long answers that a client stays connected for."""


@dataclass(frozen=True)
class Share:
    """How many events may run or wait: of one visitor, of one address, of all together."""

    visitor: int
    address: int
    all: int


SHARE = {True: Share(3, 8, PLACES), False: Share(12, 24, 96)}
"""Of events that need a model, and of those that do not but pass through the queue."""
REFUSED = 32
"""So many refusals may lie unread for one address; further ones are answered at once, with less words on the page."""


@dataclass(frozen=True)
class Client:
    """Who sent a request."""

    address: str
    visitor: str = ""
    """Of `visitors.visitor`, for a browser's page; empty for a program."""

    @property
    def name(self) -> str:
        return self.visitor or self.address


def client_of(request: HTTPConnection) -> Client:
    """Who sent this request, as far as the server itself can see."""
    host = request.client.host if request.client else ""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.version == 6:  # whoever has one has a network of them
            host = str(ipaddress.ip_network((address, 64), strict=False))
    who = visitors.visitor(request)
    return Client(host, who if visitors.has_page(who) else "")


@dataclass(eq=False)
class Session:
    """What is connected under one of Gradio's session names."""

    streams: int = 0
    heartbeats: int = 0
    page: bool = False
    """A browser's, known by its cookie: it may come back after a blip of the connection."""
    broken: bool = False
    """Its last stream was cut off, not ended."""
    closed: bool = False
    """Its page said goodbye."""
    visitor: str = ""
    """Whose page it is."""
    alone_s: float = 0.0
    """Since when it has no stream, while an event of it runs or waits."""
    idle_s: float = 0.0
    """Since when nothing is connected and nothing runs."""
    refused: str = ""
    """The address whose event was refused here and has not been told yet."""


class Readers:
    """The watch over one page's queue; see the head of this file. All of it happens on the server's event loop."""

    def __init__(self, page: gr.Blocks) -> None:
        self.page = page
        self.queue: Queue = page._queue
        self.states = SlimStates(page)
        self.sessions: dict[str, Session] = {}
        self.clients: dict[str, Client] = {}
        """Who sent the events that run or wait."""
        self._loaded: dict[str, float] = {}
        """Visitor -> when his browser last asked for the page, lately."""
        self._lost: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looked = time.monotonic()

    def app_kwargs(self) -> dict[str, Any]:
        """For `launch`: the watch, its middleware and its routes."""
        return {
            "lifespan": self.lifespan,
            "middleware": [Middleware(Watching, readers=self)],
            "routes": [
                Route(GOODBYE, self._goodbye, methods=["POST"]),
                Route("/gradio_api/reset", self._reset, methods=["POST"]),
            ],
        }

    @contextlib.asynccontextmanager
    async def lifespan(self, app: routes.App) -> AsyncIterator[None]:
        """Watch while `app` is served."""
        self.states.set_blocks(self.page)
        app.state_holder = self.states
        queue: Any = self.queue
        queue.push, queue.clean_events = self.push, self.clean_events
        queue.pending_messages_per_session.max_size = 2**20  # forgotten here, not by pushing others out
        queue.ANALYTICS_MAX_EVENTS = 1  # nobody looks at them: 10,000, and a table made of all after each event
        queue.ANAYLTICS_CACHE_FREQUENCY = 2**62
        queue.sleep_when_free, queue.progress_update_sleep_when_free = LOOK_S, TICK_S
        self._loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()

    # --- connections ---

    def session(self, name: str) -> Session:
        return self.sessions.setdefault(name, Session())

    def opened(self, name: str, kind: str, visitor: str) -> None:
        """A "stream" or a "heartbeat" begins."""
        session = self.session(name)
        session.closed = False
        if kind == "heartbeat":
            session.heartbeats += 1
            session.page |= visitor != ""
            session.visitor = visitor or session.visitor
        else:
            session.streams += 1
            session.alone_s, session.broken, session.refused = 0.0, False, ""

    def left(self, name: str, kind: str, whole: bool) -> None:
        """It has ended; `whole`: by the server, not by a connection that broke."""
        session = self.session(name)
        if kind == "heartbeat":
            session.heartbeats -= 1
            return
        session.streams -= 1
        if session.streams == 0 and not whole:
            session.broken = True
            if not self._may_come_back(name):
                self.end(name)

    def waits(self, name: str) -> None:
        """The page of this session was loaded again and asks how far its run is."""
        if name in self.sessions:
            self.sessions[name].alone_s = 0.0

    def loads(self, visitor: str) -> None:
        """A visitor's browser asks for the page: a goodbye that follows is that of a page which is loaded again."""
        if visitor:
            self._loaded[visitor] = time.monotonic()

    def has_stream(self, name: str) -> bool:
        """Whether there is something to be read under this name, now or later.

        A stream that broke may have taken the end of its run with it: then nothing more will come, though the session has its place still.
        """
        messages = self.queue.pending_messages_per_session.get(name)
        return messages is not None and (
            not messages.empty() or any(one.session_hash == name for one in self._events())
        )

    def session_of(self, event_id: str) -> str:
        """An event's session, also after its end while its answer is unread."""
        if event_id in self.queue.event_ids_to_events:
            return self.queue.event_ids_to_events[event_id].session_hash
        return next((name for name, ids in self.queue.pending_event_ids_session.items() if event_id in ids), event_id)

    def _may_come_back(self, name: str) -> bool:
        session, run = self.session(name), runs.by_session.get(name)
        return session.page and not session.closed and not (run is not None and lane.wanted(run))

    async def _goodbye(self, request: Request) -> Response:
        name = (await request.body())[: LONGEST + 1].decode(errors="replace")
        if name in self.sessions:
            session = self.sessions[name]
            loaded = self._loaded.pop(session.visitor, -RELOAD_S)
            if time.monotonic() - loaded > RELOAD_S:
                session.closed = True
                self.end(name)
        return Response(status_code=204)

    async def _reset(self, request: Request) -> Response:
        """Gradio's own does nothing, but it is all that its client calls when it cancels before it knows its event."""
        with contextlib.suppress(ValueError, AttributeError):
            event_id = (await request.json()).get("event_id")
            event = self.queue.event_ids_to_events.get(event_id) if isinstance(event_id, str) else None
            if event is not None:
                self._stop(event)
                await Queue.clean_events(self.queue, event_id=event_id)
                self._answer(event.session_hash, event_id, None)
        return JSONResponse({"success": True})

    # --- the queue ---

    async def push(self, body: PredictBodyInternal, request: Request, username: str | None) -> tuple[bool, Any, str]:
        """In place of the queue's own: what is more than a client's share is refused, in the stream where all look."""
        if len(body.session_hash or "") > LONGEST:
            return False, f"The session's name is longer than {LONGEST} characters.", "error"
        client = client_of(request)
        refusal = self._refusal(body.fn_index, client)
        if refusal is not None:
            if sum(session.refused == client.address for session in self.sessions.values()) >= REFUSED:
                return False, refusal, "queue_full"
            refused_id = secrets.token_hex(16)
            name = body.session_hash or refused_id
            self.session(name).refused = client.address
            self._answer(name, refused_id, refusal)
            return True, refused_id, "success"
        done, event_id, state = await Queue.push(self.queue, body=body, request=request, username=username)
        event = self.queue.event_ids_to_events.get(event_id) if done and isinstance(event_id, str) else None
        if event is not None and isinstance(event_id, str):
            self.clients[event_id] = client
            session = self.session(event.session_hash)
            session.closed = False
            if not session.streams:
                session.alone_s, session.broken = 0.0, False
        return done, event_id, state

    def _refusal(self, fn_index: int | None, client: Client) -> str | None:
        needs_model = _needs_model(None if fn_index is None else self.page.fns.get(fn_index))
        share, over, events = SHARE[needs_model], runs.ended(), self.queue.event_ids_to_events
        going = [
            self.clients[event_id]
            for event_id in events.keys() & self.clients.keys() - over
            if events[event_id].alive and _needs_model(events[event_id].fn) == needs_model
        ]
        mine = sum(sender.visitor == client.visitor != "" for sender in going)
        here = sum(sender.address == client.address for sender in going)
        advice = "as many as one may have: wait until one is done, or stop one."
        if mine >= share.visitor:
            return f"You have {mine} runs going or waiting, {advice}"
        if here >= share.address:
            return f"{here} runs of your address are going or waiting, {advice}"
        if len(going) >= share.all:
            return f"The line is full: {lane.jobs_ahead(len(going), lane.wait_s())}. Try again in a while."
        return None

    async def clean_events(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """In place of the queue's own, which Gradio calls when a stream breaks: a page may come back."""
        if session_hash and self._may_come_back(session_hash):
            self.queue.pending_messages_per_session.setdefault(session_hash, asyncio.Queue())
        else:
            await Queue.clean_events(self.queue, session_hash=session_hash, event_id=event_id)

    def end(self, name: str, why: str | None = None) -> None:
        """End what a session has going; `why` is for a reader who comes too late."""
        going = [event for event in self._events() if event.session_hash == name and event.alive]
        for event in going:
            self._stop(event)

        async def clean() -> None:
            await Queue.clean_events(self.queue, session_hash=name)
            for event in going:
                if why is not None:
                    self._answer(name, event._id, why)

        if going:
            task = asyncio.get_running_loop().create_task(clean())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _stop(self, event: Event) -> None:
        event.alive = False
        run = runs.of(event._id)
        if run is not None:
            run.end()

    def _answer(self, name: str, event_id: str, error: str | None) -> None:
        """The last message of an event, without running it."""
        output: dict[str, Any] = (
            {} if error is None else {"error": error, "title": "Not run", "visible": True, "duration": 10}
        )
        message = ProcessCompletedMessage(output=output, title=output.get("title"), success=error is None)
        message.event_id = event_id
        self.queue.pending_event_ids_session.setdefault(name, set()).add(event_id)
        self.queue.pending_messages_per_session.setdefault(name, asyncio.Queue()).put_nowait(message)

    def _events(self) -> list[Event]:
        return list(self.queue.event_ids_to_events.values())

    # --- the watch ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception:  # a fault of ours must not end the watch
                log.exception("the watch over the queue")

    def tick(self) -> None:
        """Look once: end what nobody reads, forget whom nobody is connected to."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._drop_lost_events()
        self._loaded = {who: when for who, when in self._loaded.items() if now - when < RELOAD_S}
        busy = {event.session_hash for event in self._events()}
        for name in busy:
            if not self.session(name).streams:
                self._judge(name)
        for run in runs.all():
            if run.page is self.page and run.event_id is not None:
                event = self.queue.event_ids_to_events.get(run.event_id)
                if event is None or not event.alive:  # cancelled; else the work would hear of it with its next report
                    run.end()
        for name in {*self.states.session_data, *self.queue.pending_messages_per_session} - self.sessions.keys():
            self.session(name)  # of a call past the queue
        for name, session in list(self.sessions.items()):
            if session.streams or session.heartbeats or name in busy:
                session.idle_s = 0.0
                continue
            session.idle_s += passed
            messages = self.queue.pending_messages_per_session.get(name)
            unread = messages is not None and not messages.empty() and not session.broken
            page = session.page and not session.closed
            if session.idle_s > (PAGE_S if page else UNREAD_S if unread else GAP_S):
                self.forget(name)

    def _judge(self, name: str) -> None:
        """A session has events but no stream."""
        session = self.sessions[name]
        session.alone_s += TICK_S
        if session.broken:
            self._drop_progress(name)
        if session.closed:
            self.end(name)
        elif self._may_come_back(name):
            if session.alone_s > BLIP_S:
                self.end(name)
        elif session.broken:
            self.end(name)
        elif session.alone_s > OPEN_S:
            self.end(
                name,
                f"Nobody read this run for {OPEN_S:.0f} s, so it was ended: open its stream right after starting it.",
            )

    def _drop_progress(self, name: str) -> None:
        """What a page missed was progress: differences to what it may not have seen."""
        messages = self.queue.pending_messages_per_session.get(name)
        if messages is None:
            return
        kept = []
        while not messages.empty():
            kept.append(messages.get_nowait())
        for message in kept:
            if not isinstance(message, ProcessGeneratingMessage):
                messages.put_nowait(message)

    def _drop_lost_events(self) -> None:
        """Gradio never lets go of an event that was cancelled once more while it ended."""
        ids = self.queue.event_ids_to_events
        held = {event._id for events in self.queue.active_jobs if events for event in events}
        held |= {event._id for waiting in self.queue.event_queue_per_concurrency_id.values() for event in waiting.queue}
        lost = ids.keys() - held
        for event_id in lost & self._lost:  # not only between two places
            del ids[event_id]
        self._lost = lost
        for event_id in self.clients.keys() - ids.keys():
            del self.clients[event_id]

    def forget(self, name: str) -> None:
        """Keep nothing of a session."""
        self.sessions.pop(name, None)
        self.states.forget(name)
        self.queue.pending_messages_per_session.pop(name, None)
        self.queue.pending_event_ids_session.pop(name, None)
        self.page.pending_streams.pop(name, None)
        self.page.pending_diff_streams.pop(name, None)
        caching.clear_session_caches(name)


def _needs_model(fn: BlockFunction | None) -> bool:
    return fn is not None and getattr(fn.fn, "needs_gpu", False)


class Watching:
    """ASGI middleware: tells `readers` of the streams that clients open and leave."""

    def __init__(self, app: ASGIApp, readers: Readers) -> None:
        self.app, self.readers = app, readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = STREAM.search(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if scope["type"] == "http" and scope["path"] in ("", "/"):
            self.readers.loads(client_of(HTTPConnection(scope)).visitor)
        if match is None:
            return await self.app(scope, receive, send)
        kind = "heartbeat" if match["session"] else "stream"
        query = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        name = match["session"] or (self.readers.session_of(match["event"]) if match["event"] else query)
        whole = False

        async def sending(message: Message) -> None:
            nonlocal whole
            await send(message)
            whole |= message["type"] == "http.response.body" and not message.get("more_body", False)

        if not 0 < len(name) <= LONGEST:
            return await self.app(scope, receive, send)
        self.readers.opened(name, kind, client_of(HTTPConnection(scope)).visitor)
        try:
            await self.app(scope, receive, sending)
        finally:
            self.readers.left(name, kind, whole)
