"""The HTTP door: which requests reach Gradio at all. :func:`install` puts it around everything that the server answers with.

- Only hosts that are this server's own, and pages of its own: another site's page that a visitor has open can neither post
  here nor read (also not by a name that it lets point here). What a proxy says of host, scheme and visitor is believed
  from proxies that the host of the studio named.
- Only the routes that the page and the two clients use: no proxy, no recorder, no editor, no deep links.
- Bodies of calls are read to a limit, and what is no call is refused in one sentence before it is validated.
- Uploads are counted and bounded, by visitor and in all.
- A session belongs to the visitor who opened it; of a program's event stream there is one reader.

A refusal is JSON with one sentence, under "error" and, where Gradio's clients look for it, under "detail".
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from gradio import routes
from starlette.requests import Request

from demos.core import visitors
from demos.core.handlers import explain
from demos.core.hosts import Rules, _is_ip, same_origin
from demos.core.owners import OWNERS, Visitor
from demos.core.payloads import DEEP
from demos.core.quota import Quota, Refusal, size_of
from demos.core.readers import GOODBYE
from demos.core.uploads import is_address
from pipelines.core import limits

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

API = "/gradio_api/"
BODY_MAX = 8 * 2**20
"""Bytes of a call; pictures come as uploads."""
SESSION = re.compile(r"[\w.-]{1,128}", re.ASCII)
PUBLIC = re.compile(
    r"/|/config/?|/info/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(static|assets|svelte)/.*"
)
GETS = re.compile(
    r"(info|openapi\.json|app_id|user|login_check|startup-events|theme\.css|queue/status|queue/data|upload_progress)/?"
    r"|heartbeat/[^/]+|call/(v2/)?[^/]+/[^/]+|file[=/].*"
)
POSTS = re.compile(r"(queue/join|cancel|reset|upload)/?|(run|api|call|call/v2)/[^/]+/?")
TOOLS = re.compile(r"mcp/?")
"""Where the tools are, on a server that has them."""
CALLER = "x-studio-caller"
"""Header of what the server asks of itself for somebody who uses a tool (:mod:`demos.core.mcp_tools`): the secret, and his address."""
_SECRET = secrets.token_hex(16)


# --- hosts, origins, proxies ----------------------------------------------------------------------------------------


# --- counting uploads ------------------------------------------------------------------------------------------------


# --- the door ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Who reads a session's messages; he can be asked to leave."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.leave, self.gone = receive, asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        """As his connection's own, which breaks off when he is asked to leave."""
        message, asked = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self.leave.wait())
        try:
            await asyncio.wait((message, asked), return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            asked.cancel()


class Door:
    """An ASGI application around Gradio's."""

    def __init__(
        self, inside: App, rules: Rules, quota: Quota, gradio_app: routes.App, own: frozenset[str] = frozenset()
    ) -> None:
        self.inside, self.rules, self.quota, self.gradio, self.own = inside, rules, quota, gradio_app, own
        self._uploads = 0
        self._reading: dict[str, _Reader] = {}
        self._sessions: OrderedDict[str, Visitor] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.inside(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._pass(dict(scope), receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal.status, str(refusal))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            reference = secrets.token_hex(3)
            log.error("unexpected error in a request, reference %s", reference, exc_info=error)
            await answer.refuse(500, f"Something went wrong on our side; the log has it as reference {reference}.")

    async def _pass(self, scope: Scope, receive: Receive, send: _Answer) -> None:
        headers = _headers(scope)
        path, method = scope["path"], scope["method"]
        proxied = self.rules.trusts(_peer(scope))
        asked_for = _asked_for(headers)
        address = asked_for or self._address(_peer(scope), headers)
        scope["client"] = (address, (scope.get("client") or ("", 0))[1])
        visitor = Visitor(address, visitors.visitor(Request(scope)))
        host = headers.get("host", "")
        if proxied:
            host = headers.get("x-forwarded-host", host).split(",")[0].strip()
        if path != "/healthz" and asked_for is None and not self.rules.serves(host):
            raise Refusal(
                421,
                f"This server does not answer to the name {limits.described(host)}: its host can add it with LATENT_STUDIO_HOSTS.",
            )
        self._check_origin(headers, host, method)
        scope["headers"] = self._clean(scope, headers, proxied)
        if path == GOODBYE and method == "POST":
            body = await _body(receive, headers)
            self._own_session(body[:200].decode(errors="replace"), visitor)
            await self.inside(scope, _replay(body, receive), send)
            return
        if path in self.own:
            await self.inside(scope, receive, send)
            return
        if PUBLIC.fullmatch(path):
            if method not in ("GET", "HEAD", "OPTIONS"):
                raise Refusal(405, f"{path[:80]} can only be read.")
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            if "deep_link" in query:
                raise Refusal(404, "There are no links to saved pages here: open the page without deep_link.")
            await self.inside(scope, receive, send)
            return
        rest = path.removeprefix(API) if path.startswith(API) else ""
        if TOOLS.fullmatch(rest) and self.gradio.get_blocks().mcp_server and method in ("GET", "POST", "DELETE"):
            await self._tool(scope, receive, send, address, headers)
            return
        if method in ("GET", "HEAD") and GETS.fullmatch(rest):
            await self._get(rest, scope, receive, send, visitor)
        elif method == "POST" and POSTS.fullmatch(rest):
            await self._post(rest.rstrip("/"), scope, receive, send, visitor, headers)
        else:
            raise Refusal(
                404,
                f"There is nothing at {limits.described(path)} for {method}: the page is at /, its functions at /?view=api.",
            )

    def _address(self, address: str, headers: dict[str, str]) -> str:
        """Where the request comes from, through proxies that are believed."""
        if self.rules.trusts(address):
            said = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if _is_ip(part.strip())]
            # From the right: what a visitor wrote himself stands left of what the proxies added.
            outer = [one for one in reversed(said) if ipaddress.ip_address(one).is_global or not self.rules.trusts(one)]
            address = (outer or said[-1:] or [address])[0]
        return address

    def _check_origin(self, headers: dict[str, str], host: str, method: str) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        own = origin is None or same_origin(origin, host)
        if not own:
            raise Refusal(
                403,
                f"A page of another site, {limits.described(origin)}, asked this; use the studio from its own page.",
            )
        changes = method not in ("GET", "HEAD", "OPTIONS")
        if origin is None and site in ("cross-site", "same-site") and changes:
            raise Refusal(403, "A page of another site asked this; use the studio from its own page.")

    def _clean(self, scope: Scope, headers: dict[str, str], proxied: bool) -> list[tuple[bytes, bytes]]:
        """The headers that Gradio sees: no origin to allow, and of a proxy only what is believed."""
        doubtful = {b"origin", b"x-gradio-server", b"forwarded", CALLER.encode()}
        if not proxied:
            doubtful |= {name.encode() for name in headers if name.startswith("x-forwarded-")}
        if not re.fullmatch(r"bytes=\d*-\d*", headers.get("range", "bytes=0-")):
            doubtful.add(b"range")
        return [(name, value) for name, value in scope["headers"] if name.lower() not in doubtful]

    # Reading

    async def _get(self, rest: str, scope: Scope, receive: Receive, send: _Answer, visitor: Visitor) -> None:
        query = {k: v[-1] for k, v in parse_qs(scope.get("query_string", b"").decode("latin-1")).items()}
        if rest.startswith("file"):
            self._check_file(rest[5:], visitor)
        elif rest.startswith("upload_progress"):
            if not SESSION.fullmatch(query.get("upload_id", "")):
                raise Refusal(422, "The upload_id is none: give the one that the upload was sent with.")
        elif rest.startswith("heartbeat/"):
            self._own_session(rest.removeprefix("heartbeat/"), visitor)
            OWNERS.stays(rest.removeprefix("heartbeat/"))
        elif rest.rstrip("/") == "queue/data":
            session = query.get("session_hash", "")
            self._own_session(session, visitor)
            known = session in self._queue.pending_messages_per_session
            lost = {"msg": "unexpected_error", "message": _NO_SESSION, "session_not_found": True, "success": False}
            await self._stream(session, known, f"data: {json.dumps(lost)}\n\n", scope, receive, send, visitor)
            return
        elif rest.startswith("call/"):
            event = rest.rsplit("/", 1)[-1]
            session = self._session_of(event)
            if session is not None and session != event:
                self._own_session(session, visitor)
            lost_event = f"event: error\ndata: {json.dumps({'error': _NO_EVENT})}\n\n"
            await self._stream(session or event, session is not None, lost_event, scope, receive, send, visitor)
            return
        await self.inside(scope, receive, send)

    def _check_file(self, path: str, visitor: Visitor) -> None:
        try:
            fine = not is_address(path) and os.path.isfile(path) and OWNERS.may_fetch(path, visitor)
        except (OSError, ValueError):  # NUL or half a character in it
            fine = False
        if not fine:
            raise Refusal(403, "There is no such file here, or it is not yours.")

    async def _stream(
        self, session: str, known: bool, lost: str, scope: Scope, receive: Receive, send: _Answer, visitor: Visitor
    ) -> None:
        """One reader of a session's messages at a time: each message is given out once."""
        if not known:
            await send.text(lost)
            return
        before = self._reading.get(session)
        if (
            before is not None and visitor.has_page
        ):  # the same browser, after a blip of which the server has heard nothing yet
            before.leave.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(before.gone.wait(), 3)
        if session in self._reading:
            raise Refusal(409, "Somebody reads this session's messages already: one reader at a time.")
        reader = self._reading[session] = _Reader(receive)
        try:
            await self.inside(scope, reader.receive, send)
        finally:
            del self._reading[session]
            reader.gone.set()

    def _session_of(self, event: str) -> str | None:
        queue = self._queue
        if event in queue.event_ids_to_events:
            return queue.event_ids_to_events[event].session_hash
        return next((session for session, ids in queue.pending_event_ids_session.items() if event in ids), None)

    @property
    def _queue(self) -> Any:
        return self.gradio.get_blocks()._queue

    def _own_session(self, session: object, visitor: Visitor) -> None:
        """Refuse a session of somebody else; the first who names one opens it."""
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refusal(
                422, f"The session {limits.described(session)} is none: letters, digits, dots and dashes, at most 128."
            )
        owner = self._sessions.setdefault(session, visitor)
        self._sessions.move_to_end(session)
        while len(self._sessions) > 20_000:
            self._sessions.popitem(last=False)
        if not visitor.is_same(owner):
            raise Refusal(403, "This session is somebody else's: reload the page to get one of your own.")

    # Calls

    async def _post(
        self, rest: str, scope: Scope, receive: Receive, send: _Answer, visitor: Visitor, headers: dict[str, str]
    ) -> None:
        if rest == "upload":
            await self._upload(scope, receive, send, visitor, headers)
            return
        body = await _body(receive, headers)
        call = _parsed(body)
        if rest == "reset":
            self._fields(call, {"event_id": str})
            session = self._session_of(call["event_id"])
            if session is not None and session != call["event_id"]:
                self._own_session(session, visitor)
        elif rest == "cancel":
            self._fields(call, {"session_hash": str, "fn_index": int, "event_id": str})
            self._own_session(call["session_hash"], visitor)
            session = self._session_of(call["event_id"])
            if session is not None and session != call["session_hash"]:
                raise Refusal(403, "This run belongs to another session.")
        else:
            self._check_call(rest, call, visitor)
        await self.inside(scope, _replay(body, receive), send)

    def _check_call(self, rest: str, call: dict[str, Any], visitor: Visitor) -> None:
        functions = self.gradio.get_blocks().fns
        kind, _, name = rest.rpartition("/")
        if kind == "call/v2":
            self._check_named(name, call)
            return
        if not isinstance(call.get("data"), list):
            raise Refusal(
                422, f"The call's data is {limits.described(call.get('data'))} but must be a list of its values."
            )
        for field, wanted in (("session_hash", str), ("fn_index", int), ("trigger_id", int), ("event_id", str)):
            value = call.get(field)
            if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
                raise Refusal(422, f"The call's {field} is {limits.described(value)}, which is none.")
        for field in ("simple_format", "batched"):
            if not isinstance(call.get(field, False), bool) or (field == "batched" and call.get(field)):
                raise Refusal(422, f"The call's {field} is {limits.described(call[field])} but must be false.")
        if call.get("oauth_token") is not None:
            raise Refusal(422, "The call has an oauth_token, and nothing here takes one: leave it out.")
        if call.get("session_hash") is not None:
            self._own_session(call["session_hash"], visitor)
        elif kind == "queue":
            raise Refusal(422, "The call names no session_hash, and the queue needs one.")
        if call.get("fn_index") is not None:
            if call["fn_index"] not in functions:
                raise Refusal(404, f"There is no function {limits.described(call['fn_index'])} here: reload the page.")
        elif kind == "queue":
            raise Refusal(422, "The call names no fn_index: say which function it is for.")
        elif not any(function.api_name == name for function in functions.values()):
            raise Refusal(404, f"There is no endpoint /{name[:40]} here: there are {self._names()}.")

    def _check_named(self, name: str, call: dict[str, Any]) -> None:
        """A call that names its values."""
        endpoints = self.gradio.get_blocks().get_api_info()["named_endpoints"]
        if f"/{name}" not in endpoints:
            raise Refusal(404, f"There is no endpoint /{name[:40]} here: there are {self._names()}.")
        parameters = endpoints[f"/{name}"]["parameters"]
        known = [parameter["parameter_name"] for parameter in parameters]
        for given in call:
            if given not in known:
                raise Refusal(422, f"/{name} takes no {limits.described(given)}: it takes {', '.join(known)}.")
        lacking = [
            p["parameter_name"]
            for p in parameters
            if not p["parameter_has_default"] and p["parameter_name"] not in call
        ]
        if lacking:
            raise Refusal(422, f"/{name} needs {', '.join(lacking)} as well.")

    def _names(self) -> str:
        functions = self.gradio.get_blocks().fns.values()
        return ", ".join(f"/{f.api_name}" for f in functions if f.api_visibility == "public" and f.api_name)

    def _fields(self, call: dict[str, Any], wanted: dict[str, type]) -> None:
        for field, kind in wanted.items():
            value = call.get(field)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise Refusal(422, f"The {field} is {limits.described(value)}, which is none.")

    async def _tool(self, scope: Scope, receive: Receive, send: _Answer, address: str, headers: dict[str, str]) -> None:
        """A message of somebody who uses a tool; what is done for him is done under his address."""
        body = await _body(receive, headers)
        if body:
            _parsed(body)
        scope["headers"] = [*scope["headers"], (CALLER.encode(), f"{_SECRET} {address}".encode())]
        await self.inside(scope, _replay(body, receive), send)

    # Uploads

    async def _upload(
        self, scope: Scope, receive: Receive, send: _Answer, visitor: Visitor, headers: dict[str, str]
    ) -> None:
        left = self.quota.room(visitor)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > left + 64 * 2**10:
            raise Refusal(413, _TOO_MUCH)

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < -64 * 2**10:
                raise Refusal(413, _TOO_MUCH)
            return message

        self._uploads += 1
        try:
            send.held = []  # whose the files are is noted before anybody knows their names
            await self.inside(scope, counted, send)
            if send.status == 200:
                paths = json.loads(b"".join(message.get("body", b"") for message in send.held))
                self.quota.add(visitor, paths)
                OWNERS.sent(paths, visitor)
            await send.release()
        except Refusal:
            send.status = 0
            raise
        except OSError as error:
            send.status = 0
            raise Refusal(507, explain(error)) from None
        except Exception as error:  # Gradio's parser, of what is no form or broke off
            send.status = 0
            log.info("an upload could not be read: %s", type(error).__name__)
            raise Refusal(400, "This is no upload: send files in the field “files” of a form.") from None
        finally:
            self._uploads -= 1
            if send.status != 200 and self._uploads == 0:
                with visitors.as_visitor(visitor.who):
                    _sweep(Path(visitors.upload_folder()))


_TOO_MUCH = "These files are larger together than what this server takes from you now: send fewer or smaller ones."
_NO_SESSION = "This server does not know this session, or nothing of it is waiting: reload the page."
_NO_EVENT = "There is no such call, or its answer was fetched already: post it again."


def _sweep(folder: Path) -> None:
    """Remove the pieces of uploads that did not end; called while none is on its way."""
    for piece in folder.glob("tmp*"):
        with contextlib.suppress(OSError):
            if piece.is_file():
                piece.unlink()


def _peer(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _asked_for(headers: dict[str, str]) -> str | None:
    """Whose tool call this is, where the server itself makes it."""
    secret, _, address = headers.get(CALLER, "").partition(" ")
    return address if secrets.compare_digest(secret.encode(), _SECRET.encode()) else None


def _headers(scope: Scope) -> dict[str, str]:
    """By name in small letters; a name that came twice counts with its last value, but for the host."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key == "host" and key in found:
            raise Refusal(400, "The request names two hosts: send one.")
        found[key] = value.decode("latin-1")
    return found


async def _body(receive: Receive, headers: dict[str, str]) -> bytes:
    """The body of a call, up to :data:`BODY_MAX`."""
    sentence = f"The call has more than {BODY_MAX // 2**20} MB: send pictures and other files as uploads."
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > BODY_MAX:
        raise Refusal(413, sentence)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The call broke off: send it again.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_MAX:
            raise Refusal(413, sentence)
        if not message.get("more_body"):
            return b"".join(parts)


def _parsed(body: bytes) -> dict[str, Any]:
    """The call as JSON, not deeper than what every part of the server can walk."""
    too_deep = f"The call is nested deeper than {DEEP} levels: send something simpler."
    try:
        call = json.loads(body)
    except RecursionError:
        raise Refusal(422, too_deep) from None
    except UnicodeDecodeError:
        raise Refusal(422, "The call is not UTF-8: send it as JSON in UTF-8.") from None
    except ValueError as error:
        if "digits" in str(error):
            raise Refusal(422, "The call has a number of thousands of digits: send a smaller one.") from None
        raise Refusal(422, "The call is no JSON: send an object with its data as a list.") from None
    if not isinstance(call, dict):
        raise Refusal(422, f"The call is {limits.described(call)} but must be an object with its data as a list.")
    level: list[Any] = [call]
    depth = 0
    while level:
        depth += 1
        if depth > DEEP + 4:  # the object, its list of values, and a parameter's own levels
            raise Refusal(422, too_deep)
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
    return call


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class _Answer:
    """What goes back: Gradio's answer, or a refusal where none has begun. A bare "Internal Server Error" is kept back."""

    def __init__(self, send: Send) -> None:
        self.send, self.status = send, 0
        self.held: list[Message] | None = None
        """Messages that wait for :meth:`release`."""
        self._silent = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            if message["status"] == 500 and kind.startswith(b"text/plain"):
                self._silent = True  # the error itself comes up through the door
                return
            self.status = message["status"]
        elif self._silent:
            return
        if self.held is None:
            await self.send(message)
        else:
            self.held.append(message)

    async def release(self) -> None:
        """Send what was held back."""
        for message in self.held or ():
            await self.send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        """A refusal in JSON; to clients of Gradio, of status 422, as the list that they read."""
        if self.status:
            return
        detail: Any = sentence
        if status == 422:
            detail = [{"__type__": "validate", "is_valid": False, "message": sentence, "parameter_name": "call"}]
        await self._whole(status, json.dumps({"error": sentence, "detail": detail}).encode(), b"application/json")

    async def text(self, events: str) -> None:
        """An event stream that is over at once."""
        await self._whole(200, events.encode(), b"text/event-stream")

    async def _whole(self, status: int, body: bytes, kind: bytes) -> None:
        self.status = status
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def install(host: str | None, largest_file: str, app_kwargs: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A lifespan for ``launch(app_kwargs=...)`` in place of the one there: it puts the door before all of the server.

    ``host`` is what the server listens on, ``largest_file`` such as "40mb"; the routes in ``app_kwargs`` are the studio's own.
    """
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # uvicorn would believe every proxy on this machine
    rules, quota, before = Rules.of(host), Quota(size_of(largest_file)), app_kwargs["lifespan"]
    own = frozenset(route.path for route in app_kwargs["routes"] if not route.path.startswith(API))

    @contextlib.asynccontextmanager
    async def lifespan(gradio_app: routes.App) -> AsyncIterator[None]:
        inside = gradio_app.middleware_stack
        assert inside is not None  # it is built before the lifespan begins
        gradio_app.middleware_stack = Door(inside, rules, quota, gradio_app, own)
        async with before(gradio_app):
            yield

    return lifespan
