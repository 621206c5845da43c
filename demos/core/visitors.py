"""Whose work is whose: who a visitor is, where everything of his lies, and when it goes.

A page's visitor is known by a random secret that his browser keeps in a cookie (``Cookie``); a program without one by
its session, or by its address before it has one. Everything that he sent, and everything that was made of it, lies in
one folder of his own (``workspace``, and by ``claim_gradio_files`` also Gradio's uploads and copies), so that one
removal forgets him: when he says so, or a day after his last visit (a program: after an hour).

    <root>/<server>/visitors/<who>/    a page's visitor: survives a reload and a restart
    <root>/<server>/guests/<who>/      a program without the cookie: gone with the server
    <root>/page-<random>/              the page's own pictures, the same for everybody: gone with the process
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from gradio import blocks, routes
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

try:
    import fcntl
except ImportError:  # not on Windows: there two servers need folders of their own
    fcntl = None  # type: ignore[assignment]  # a module, where there is one

log = logging.getLogger(__name__)

MAX_AGE_S = 86_400
"""Work of a visitor is removed a day after his last visit."""
GUEST_AGE_S = 3_600
"""Files of a program that keeps no cookie are removed an hour after its last call."""
SWEEP_S = 600.0
"""Seconds between two looks for what is too old."""
COOKIE = "studio_visitor"
VARIABLE = "LATENT_STUDIO_WORK"
VISITORS, GUESTS, PAGE = "visitors", "guests", "page-"
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_WHO = re.compile(r"[vsa][0-9a-f]{24}")


# --- who ---------------------------------------------------------------------------------------------------------


def visitor(request: object) -> str:
    """Who sent this request: the same for all pages of a browser, another for everybody else.

    Args:
        request: a ``gr.Request``, a Starlette request, or anything with ``cookies``, ``session_hash`` or ``client``.

    Returns:
        A name without a secret in it, fit for a folder: see :func:`has_page`.
    """
    inner = getattr(request, "request", None) or request
    cookies: Any = getattr(inner, "cookies", None)
    secret = cookies.get(COOKIE) if hasattr(cookies, "get") else None
    if isinstance(secret, str) and _SECRET.fullmatch(secret):
        return _name("v", secret)
    session = getattr(request, "session_hash", None)
    if session:
        return _name("s", str(session))
    client = getattr(inner, "client", None)
    return _name("a", str(getattr(client, "host", "") or "nobody"))


def has_page(who: str) -> bool:
    """True for a visitor whose browser keeps the cookie, so that his work can be given back to him."""
    return who.startswith("v")


def _name(kind: str, what: str) -> str:
    return kind + hashlib.sha256(f"{kind}:{what}".encode(errors="surrogatepass")).hexdigest()[:24]


_present: ContextVar[str | None] = ContextVar("studio_visitor", default=None)


def present() -> str | None:
    """Whose request is being answered, or None outside of one."""
    return _present.get()


@contextlib.contextmanager
def as_visitor(who: str | None) -> Iterator[None]:
    """For the block, files that Gradio keeps are those of ``who``."""
    token = _present.set(who)
    try:
        yield
    finally:
        _present.reset(token)


class Cookie:
    """ASGI middleware: gives every browser its secret, and says whose request it is.

    The cookie is for this server only and no script can read it. In a Space the page is a frame inside another site, where
    browsers keep only cookies that say so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        secret = request.cookies.get(COOKIE, "")
        secret = secret if _SECRET.fullmatch(secret) else secrets.token_urlsafe(32)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                if any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    headers.append((b"set-cookie", cookie(secret, scope.get("root_path", "")).encode()))
            await send(message)

        with as_visitor(visitor(request)):
            await self.app(scope, receive, answer)


def cookie(secret: str, path: str = "") -> str:
    """The header that has the browser keep ``secret``."""
    framed = bool(os.environ.get("SPACE_ID"))
    site = "SameSite=None; Secure; Partitioned" if framed else "SameSite=Lax"
    return f"{COOKIE}={secret}; Max-Age={MAX_AGE_S}; Path={path or '/'}; HttpOnly; {site}"


# --- where -------------------------------------------------------------------------------------------------------


_lock = threading.RLock()
_server = "studio"
_home: Path | None = None
_page: Path | None = None
_unusual: Path | None = None
_held: dict[Path, Any] = {}
"""Folders of this process and their locked files."""
_sweeper: threading.Thread | None = None
_listeners: list[Callable[[str], None]] = []


def root() -> Path:
    """The folder of all servers of this user: ``LATENT_STUDIO_WORK``, or one in the temporary folder; only he may read it.

    Raises:
        ValueError: the folder that was asked for cannot be used.
    """
    global _unusual
    asked = os.environ.get(VARIABLE)
    if asked:
        return _private(Path(asked).expanduser().absolute())
    with _lock:
        if _unusual is not None:
            return _private(_unusual)
        user = os.getuid() if hasattr(os, "getuid") else "own"
        try:
            return _private(Path(tempfile.gettempdir()) / f"latent-studio-{user}")
        except ValueError as error:  # somebody else on this machine made it first
            log.warning("%s Work will not survive a restart of this server.", error)
            _unusual = Path(tempfile.mkdtemp(prefix="latent-studio-"))
            atexit.register(shutil.rmtree, _unusual, ignore_errors=True)
            return _unusual


def _private(folder: Path) -> Path:
    """Make the folder, or check that it is one of ours that nobody else can read."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
        ours = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
        if not stat.S_ISDIR(facts.st_mode) or not ours:
            raise ValueError(f"{folder} is no folder of this user: set {VARIABLE} to one that is.")
        if stat.S_IMODE(facts.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise ValueError(f"{folder} cannot be used for visitors' work ({error.strerror}): set {VARIABLE}.") from None
    return folder


def open_for(server: str) -> Path:
    """Take the folder of this server and remove what earlier ones left behind.

    Args:
        server: a name that is the same after a restart. Where another server that runs has its folder, this one takes
            the next: no two share one.
    """
    global _server, _home, _sweeper
    with _lock:
        _server, _home = re.sub(r"[^a-z0-9-]", "-", server.lower()) or "studio", None
        _remove(home() / GUESTS)
        sweep()
        if _sweeper is None:
            _sweeper = threading.Thread(target=_sweep_for_ever, name="visitors", daemon=True)
            _sweeper.start()
        return home()


def home() -> Path:
    """This server's folder. Made again where it is gone."""
    global _home
    with _lock:
        names = (_server if number == 1 else f"{_server}-{number}" for number in range(1, 1000))
        while _home is None or not _hold(_home):
            _home = root() / next(names)
        return _home


def page_folder() -> Path:
    """For the page's own pictures: what everybody may see."""
    global _page
    with _lock:
        if _page is None:
            _page = root() / f"{PAGE}{secrets.token_hex(6)}"
        _hold(_page)
        return _page


def _hold(folder: Path) -> bool:
    """Make the folder and keep it for this process. False where another process has it."""
    held = _held.get(folder)
    if held is not None and folder.is_dir():
        return True
    root()
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / "lock").open("a")
    if not _lockable(file):
        file.close()
        return False
    if not _held:
        atexit.register(_close)
    _held[folder] = file
    return True


def _lockable(file: IO[Any]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def close_on_signal() -> None:
    """End soon and clean at SIGTERM and SIGINT, whatever runs: a process that ends by a signal sees no ``atexit``, and one that ends
    otherwise waits for all threads. Only the main thread can ask for it."""
    if threading.current_thread() is not threading.main_thread():
        return

    def ended(number: int, frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)  # once is enough: a second one would find half of it done
        try:
            _close()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in ENDING:
        signal.signal(number, ended)


ENDING = (signal.SIGTERM, signal.SIGINT)


def _close() -> None:
    """At exit: what has no owner any more goes; a visitor's work waits for him."""
    for folder in list(_held):
        _clean(folder, time.time())
    if _page is not None:
        _remove(_page)


def workspace(who: str) -> Path:
    """This visitor's folder. It is there until he clears it, or a day after his last visit.

    Args:
        who: of :func:`visitor`. Any other text is taken for the hash of a session.
    """
    folder = _folder(who)
    while True:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.utime(folder)
            return folder
        except (FileNotFoundError, FileExistsError):  # forgotten meanwhile
            continue


@contextlib.contextmanager
def new_folder(who: str) -> Iterator[Path]:
    """A new folder among this visitor's for the files of one result: all of them, or, if the block raises, none."""
    folder = workspace(who) / secrets.token_hex(6)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _folder(who: str) -> Path:
    who = who if _WHO.fullmatch(who) else _name("s", who)
    return home() / (VISITORS if has_page(who) else GUESTS) / who


# --- when it goes ------------------------------------------------------------------------------------------------


def when_forgotten(listener: Callable[[str], None]) -> None:
    """Call ``listener(who)`` before a visitor's folder is removed."""
    _listeners.append(listener)


def forget(who: str) -> None:
    """Remove everything of this visitor, now."""
    folder = _folder(who)
    for listener in _listeners:
        listener(folder.name)
    _remove(folder)


def sweep() -> None:
    """Remove what is too old: of this server, and of those that run no more."""
    now = time.time()
    for place, age in ((home() / VISITORS, MAX_AGE_S), (home() / GUESTS, GUEST_AGE_S)):
        for folder in _children(place):
            if _too_old(folder, now, age):
                forget(folder.name) if _WHO.fullmatch(folder.name) else _remove(folder)
    for other in _children(root()):
        if other in _held or not other.is_dir():
            continue
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context((other / "lock").open("a"))
            except OSError:  # is just being removed by another server
                continue
            if _lockable(file):
                _clean(other, now)


def _clean(folder: Path, now: float) -> None:
    """A server's folder, without that server: only work that is not too old stays."""
    _remove(folder / GUESTS)
    for work in _children(folder / VISITORS):
        if _too_old(work, now, MAX_AGE_S) or not _WHO.fullmatch(work.name):
            _remove(work)
    if not _children(folder / VISITORS):
        _remove(folder)


def _sweep_for_ever() -> None:
    while True:
        time.sleep(SWEEP_S)
        try:
            sweep()
        except (OSError, ValueError) as error:
            log.warning("what is too old could not be removed: %s", error)


def _too_old(folder: Path, now: float, age: float) -> bool:
    try:
        return now - folder.stat().st_mtime > age
    except FileNotFoundError:
        return False


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(folder: Path) -> None:
    """Out of the way in one step, so that nobody meets half of it; then file by file."""
    away = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.rename(away)
    except FileNotFoundError:  # is gone; what stands there a moment later is somebody's new work
        return
    except OSError:
        away = folder
    if away.is_dir():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)


# --- Gradio's own files ------------------------------------------------------------------------------------------


def may_read(who: str, path: str | Path) -> bool:
    """True for a file in the visitor's own folder, or of the page itself.

    A program without the cookie may read what lies in any guest's folder: it sends files before it has a session, and
    nobody else knows the names.
    """
    inside = Path(os.path.realpath(path))
    own = workspace(who) if has_page(who) else home() / GUESTS
    return any(inside.is_relative_to(os.path.realpath(place)) for place in (own, page_folder()))


def is_of_page(path: str | Path) -> bool:
    """True for the page's own pictures, which everybody may see."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(page_folder()))


def cache_folder() -> str:
    """Where Gradio keeps what it copies while it answers somebody, where his uploads are too: what lies there is not copied.
    At other times, in the page's folder."""
    return str(page_folder()) if present() is None else upload_folder()


def upload_folder() -> str:
    """Where an upload of this request goes, and the only place, beside the page's own, that its answer may come from."""
    who = present()
    if who is None:
        return str(root())
    return str(workspace(who) if has_page(who) else home() / GUESTS)


def claim_gradio_files() -> None:
    """Have Gradio put each visitor's files into his folder, not into one that all share and nobody empties."""
    os.environ["GRADIO_TEMP_DIR"] = str(root())
    block_class: Any = blocks.Block
    app_class: Any = routes.App
    block_class.GRADIO_CACHE = property(lambda block: cache_folder(), lambda block, value: None)
    app_class.uploaded_file_dir = property(lambda app: upload_folder(), lambda app, value: None)
