"""What a visitor's page shows, kept on the server, so that a reload, a lost connection or a restart loses nothing.

``KeepsWork`` is ``gr.Blocks`` that notes what goes through it: what a visitor's widgets sent, what his page was sent, and what
his ``gr.State`` hold. No tab does anything for that. It is plain JSON in his folder (:mod:`demos.core.visitors`), with arrays and
pictures beside it (:mod:`demos.core.stored`). When his page loads it is given back what it showed.

Each tab of a browser has a page of its own, by a token that it remembers while it is open; a new one begins as a copy of the
one that was used last. A :func:`shared` state is one for all pages of a visitor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import gradio as gr
from gradio.blocks import Block, BlockFunction
from gradio.components import _Keywords
from gradio.components.api_component import Api
from gradio.events import Dependency
from gradio.state_holder import SessionState

from demos.core import visitors
from demos.core.sessions import SlimState
from demos.core.stored import Store, import_classes, write_whole

log = logging.getLogger(__name__)

NEVER = (gr.Button, gr.File, Api)
"""What a visitor sends by these is no value of a form: a file that is dropped is taken, and its zone is empty again."""
FORM = (gr.Textbox, gr.Number, gr.Slider, gr.Radio, gr.Dropdown, gr.Checkbox, gr.CheckboxGroup)
"""Widgets whose values are kept while a visitor fills them in, before anything runs."""
PART_MOST = 12
"""Widgets of a form that are sent together: those near one that changed, and not all of a page's."""
PAGES_MOST = 4
"""Pages of one visitor that are kept: those used last."""
VALUE_MOST = 4 * 2**20
"""Characters of one widget's value in JSON; what is longer is not kept."""
VISITORS_MOST = 64
"""Visitors whose pages are held in memory; those of others are read when they come back."""
SESSIONS_MOST = 4
"""Sessions of a page that are known: one that it left may still have a run."""
FLUSH_S = 2.0
"""Seconds between two writes while a run goes on."""
CHECKED = ("choices", "minimum", "maximum")
"""Properties by which Gradio checks what is sent."""
FILES = "/gradio_api/file="
TOKEN = """() => {
  let token = "";
  try {
    token = sessionStorage.getItem("studio-page") || "";
    if (!token) {
      token = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      sessionStorage.setItem("studio-page", token);
    }
  } catch { /* a frame that may keep nothing: the page used last is given back */ }
  return [token];
}"""
"""Runs in the browser: the token of this tab, which a reload keeps."""
_TOKEN = re.compile(r"[0-9a-f]{32}")
CLEAR = """<p class='quiet'>What you sent and made here is kept on this server, for this browser only, until a day after your last visit.
Download what you want to keep for longer.</p>"""
SURE = "<p class='remark'>All of your pictures, results, saved persons and concepts here, in every tab, are removed at once. Sure?</p>"
RELOAD = "() => { try { sessionStorage.removeItem('studio-page'); } catch {} location.reload(); }"


def shared(value: object) -> gr.State:
    """A state that all pages of a visitor have in common, such as his results."""
    state: Any = gr.State(value)  # no class of its own: Gradio would write a .pyi beside this file
    state.shared = True
    return state


# --- what is kept of one visitor -----------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class Sheet:
    """One page of a visitor: by the number of a widget what it shows, and by the number of a state a record of it."""

    token: str
    shown: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    states: dict[str, Any] = dataclasses.field(default_factory=dict)
    used: float = 0.0
    """Seconds since the epoch."""
    sessions: list[str] = dataclasses.field(default_factory=list)
    """Of Gradio, those that used it last: a reload begins a new one."""
    changed: bool = False
    versions: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often each state changed since this was read."""


class Work:
    """All pages of one visitor, in his folder."""

    def __init__(self, who: str, layout: str) -> None:
        self.who, self.layout = who, layout
        self.folder = visitors.workspace(who)
        self.store = Store(self.folder / "objects")
        self.lock = threading.RLock()
        self.gone = False
        self.flushed = 0.0
        self.shared = Sheet("shared")
        self.sheets: dict[str, Sheet] = {}
        for path in sorted((self.folder / "pages").glob("*.json")):
            sheet = self._read(path)
            if sheet is not None and sheet.token == "shared":
                self.shared = sheet
            elif sheet is not None:
                self.sheets[sheet.token] = sheet

    def _read(self, path: Path) -> Sheet | None:
        try:
            record = json.loads(path.read_text())
            if record["layout"] != self.layout:  # of another version of the studio
                return None
            return Sheet(path.stem, record["shown"], record["states"], record["used"], record["sessions"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("a page that was kept cannot be read (%s)", type(error).__name__)
            return None

    def sheet(self, token: str, session: str) -> Sheet:
        """The page of a browser's tab; a new one is a copy of the one that was used last."""
        with self.lock:
            found = self.sheets.get(token) or next((s for s in self.sheets.values() if session in s.sessions), None)
            if found is None or (token and found.token != token):
                last = max(self.sheets.values(), key=lambda sheet: sheet.used, default=None)
                if last is not None and not token:
                    found = last
                else:
                    found = Sheet(token or hashlib.sha256(session.encode()).hexdigest()[:32])
                    if last is not None:
                        found.shown = {number: dict(props) for number, props in last.shown.items()}
                        found.states = dict(last.states)
                    self.sheets[found.token] = found
            found.sessions = [*(one for one in found.sessions if one != session), session][-SESSIONS_MOST:]
            found.used, found.changed = time.time(), True
            return found

    def flush(self) -> None:
        """Write what changed. A file is whole or not there, whenever the process ends."""
        with self.lock:
            if self.gone:
                return
            for sheet in sorted(self.sheets.values(), key=lambda s: s.used)[:-PAGES_MOST]:
                del self.sheets[sheet.token]
                self._path(sheet).unlink(missing_ok=True)
            folder = self.folder / "pages"
            if any(sheet.changed for sheet in self._all()):
                visitors.workspace(self.who)
                folder.mkdir(exist_ok=True)
            for sheet in self._all():
                if sheet.changed:
                    record = {
                        "layout": self.layout,
                        "shown": sheet.shown,
                        "states": sheet.states,
                        "used": sheet.used,
                        "sessions": sheet.sessions,
                    }
                    write_whole(self._path(sheet), json.dumps(record).encode(errors="replace"))
                    sheet.changed = False
            self.flushed = time.monotonic()

    def keep(self, sheet: Sheet, number: str, value: object) -> None:
        """Note what a state holds now."""
        with self.lock:
            try:
                record = self.store.record(value)
            except (TypeError, OSError, ValueError) as error:
                log.warning("a state is not kept: %s", error)
                return
            if sheet.states.get(number) != record:
                sheet.states[number], sheet.changed = record, True
                sheet.versions[number] = sheet.versions.get(number, 0) + 1
                self.store.clean([one.states for one in self._all()])

    def _all(self) -> list[Sheet]:
        return [self.shared, *self.sheets.values()]

    def _path(self, sheet: Sheet) -> Path:
        return self.folder / "pages" / f"{sheet.token}.json"


_works: OrderedDict[str, Work] = OrderedDict()
_works_lock = threading.Lock()


def work_of(who: str, layout: str) -> Work:
    with _works_lock:
        work = _works.get(who)
        if work is None or work.layout != layout or not work.folder.is_dir():
            work = _works[who] = Work(who, layout)
        visitors.workspace(who)  # he is here
        _works.move_to_end(who)
        while len(_works) > VISITORS_MOST:
            _works.popitem(last=False)
        return work


def _drop(who: str) -> None:
    with _works_lock:
        work = _works.pop(who, None)
    if work is not None:
        with work.lock:
            work.gone = True


visitors.when_forgotten(_drop)


def before(who: str, session: str) -> list[str]:
    """The sessions that the page of this one had before it was loaded again."""
    with _works_lock:
        work = _works.get(who)
    sheets = [] if work is None else [sheet for sheet in list(work.sheets.values()) if session in sheet.sessions]
    return [one for sheet in sheets for one in sheet.sessions if one != session]


# --- the page -------------------------------------------------------------------------------------------------------


class KeepsWork(gr.Blocks):
    """A page that keeps each visitor's work. Call :meth:`keep_work` when all of it is built."""

    def keep_work(self, running: Callable[[str], bool], interrupted: Callable[[Any], Any]) -> Dependency:
        """Bind what saves and gives back. Inside the page's ``with``, after everything else. The event that gives back when the page
        loads.

        Args:
            running: whether a run of this session goes on.
            interrupted: what stands in place of a value that says something is running, when nothing is.
        """
        self.run_goes_on, self.interrupted = running, interrupted
        inputs: dict[int, Any] = {}
        outputs: dict[int, Any] = {}
        for fn in self.fns.values():
            if _of_page(fn):
                inputs |= {block._id: block for block in fn.inputs if isinstance(block, FORM)}
                outputs |= {block._id: block for block in fn.outputs if not block.stateful}
        outputs = {number: block for number, block in {**inputs, **outputs}.items() if not isinstance(block, Api)}
        layout = [
            (number, type(block).__name__, getattr(block, "label", None)) for number, block in self.blocks.items()
        ]
        self.kept_layout = hashlib.sha256(json.dumps(layout, default=str).encode()).hexdigest()
        self.kept_states = {
            number: block
            for number, block in self.blocks.items()
            if isinstance(block, gr.State) and _keepable(block.value)
        }
        token = gr.Textbox(visible=False)
        light: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        given = {"inputs": token, "outputs": list(outputs.values()), "js": TOKEN, **light}
        loaded = self.load(give_back, **given)
        again = gr.Button(visible="hidden", elem_id="studio-give-back")
        # Asked for while an answer is on its way, it comes once more: what has ended meanwhile is in that one only.
        again.click(give_back, trigger_mode="always_last", **given)
        fields = list(inputs.values())
        for number, first in enumerate(range(0, len(fields), PART_MOST)):
            part = fields[first : first + PART_MOST]
            for block in part:  # by its class ``connection.js`` knows which part a change belongs to
                block.elem_classes = [*(block.elem_classes or ()), f"studio-part-{number}"]
            save = gr.Button(visible="hidden", elem_id=f"studio-save-{number}")
            save.click(note_form, part, None, preprocess=False, trigger_mode="always_last", **light)
        return loaded

    def runs_of(self, who: str, token: str) -> list[str]:
        """The sessions in which this page of a visitor has a run going, begun before it was loaded again or now."""
        with _works_lock:
            work = _works.get(who)
        sheet = None if work is None else work.sheets.get(token)
        return [] if sheet is None else [session for session in sheet.sessions if self.run_goes_on(session)]

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *rest: Any, **more: Any
    ) -> dict[str, Any]:
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        request, state = more.get("request"), more.get("state")
        who = visitors.visitor(request) if request is not None else ""
        if (
            request is None
            or state is None
            or not visitors.has_page(who)
            or not _of_page(fn)
            or not hasattr(self, "kept_states")
        ):
            return await super().process_api(block_fn, inputs, *rest, **more)
        token = inputs[0] if fn.name == give_back.__name__ and isinstance(inputs, list) and len(inputs) == 1 else None
        work = await anyio.to_thread.run_sync(self._arrive, who, fn, token, state, request.session_hash or "")
        goes_on = False
        try:
            answer = await super().process_api(block_fn, inputs, *rest, **more)
            goes_on = bool(answer.get("is_generating"))
            return answer
        finally:  # also what was shown before an error
            await anyio.to_thread.run_sync(self._depart, work, fn, state, goes_on)

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], state: SessionState | None, *rest: Any, **more: Any
    ) -> list[Any]:
        values = await super().preprocess_data(block_fn, inputs, state, *rest, **more)
        sheet = getattr(state, "sheet", None)
        if sheet is not None and _of_page(block_fn) and block_fn.name != give_back.__name__:
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                if not block.stateful and not isinstance(block, NEVER):
                    _note(sheet, block._id, value)
        return values

    def _arrive(self, who: str, fn: BlockFunction, token: object, state: SlimState, session: str) -> Work:
        """Give the session what it lacks of its visitor's states."""
        work = work_of(who, self.kept_layout)
        sheet: Sheet | None = getattr(state, "sheet", None)
        token = token if isinstance(token, str) and _TOKEN.fullmatch(token) else ""
        if fn.name == give_back.__name__ and not self.run_goes_on(session):  # which may change what it holds in place
            for number in self.kept_states:
                state.state_data.pop(number, None)
        if token or sheet is None or work.sheets.get(sheet.token) is not sheet:
            sheet = work.sheet(token or ("" if sheet is None else sheet.token), session)
            state.sheet, state.versions = sheet, {}
            _renew_widgets(self, state, sheet)
        sheet.used = time.time()
        for number in {block._id for block in (*fn.inputs, *fn.outputs)} & self.kept_states.keys():
            self._give_state(work, state, number)
        if (
            fn.name == give_back.__name__
        ):  # he will go on with his results: what it takes to read them is loaded meanwhile
            records = [*sheet.states.values(), *work.shared.states.values()]
            threading.Thread(target=import_classes, args=(records,), daemon=True).start()
        return work

    def _give_state(self, work: Work, state: SlimState, number: int) -> None:
        """Read what the session has not, or, of a state that other pages share, what is newer."""
        common, name = hasattr(self.kept_states[number], "shared"), str(number)
        sheet = work.shared if common else state.sheet
        assert sheet is not None  # `_arrive` gave it
        version = sheet.versions.get(name, 0)
        known = number in state.state_data and (not common or state.versions.get(number) == version)
        if known or name not in sheet.states:
            return
        try:
            state.state_data[number] = work.store.value(sheet.states[name])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            log.warning("a state that was kept cannot be read (%s: %s)", type(error).__name__, error)
        state.versions[number] = version

    def _depart(self, work: Work, fn: BlockFunction, state: SlimState, goes_on: bool) -> None:
        """Note what the session's states hold now, and write it."""
        if work.gone:  # he has just cleared it
            state.state_data.clear()
            state.sheet = None
            return
        if goes_on and time.monotonic() - work.flushed < FLUSH_S:
            return
        for number in {block._id for block in fn.outputs} & self.kept_states.keys() & state.state_data.keys():
            common, name = hasattr(self.kept_states[number], "shared"), str(number)
            sheet = work.shared if common else state.sheet
            assert sheet is not None  # `_arrive` gave it
            work.keep(sheet, name, state.state_data[number])
            state.versions[number] = sheet.versions.get(name, 0)
        work.flush()

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        sheet = getattr(state, "sheet", None)
        if (
            sheet is None and block_fn.name == give_back.__name__
        ):  # to a browser that keeps no cookie there is nothing to give
            return [gr.skip() for _block in block_fn.outputs]
        if sheet is None or not visitors.present() or not _of_page(block_fn):
            return await super().postprocess_data(block_fn, predictions, state)
        if block_fn.name == give_back.__name__:
            return [self._shown(sheet, block) for block in block_fn.outputs]
        data = await super().postprocess_data(block_fn, predictions, state)
        if not _ended(predictions):
            for block, sent in zip(block_fn.outputs, data, strict=True):
                if not block.stateful and not isinstance(block, Api):
                    _note(sheet, block._id, sent)
        return data

    def _shown(self, sheet: Sheet, block: Block) -> dict[str, Any]:
        """The update that has a widget show what it showed."""
        props = dict(sheet.shown.get(str(block._id), {}))
        if "value" in props:
            if not all(Path(path).is_file() for path in _paths(props["value"])):
                del props["value"]
            elif not any(self.run_goes_on(session) for session in sheet.sessions):  # sessions of this page
                props["value"] = self.interrupted(props["value"])
        return {"__type__": "update", **props}


def give_back(token: str) -> None:
    """For the page's load: ``KeepsWork`` answers it."""


def note_form(*values: object) -> None:
    """For a part of a form that is being filled in: ``KeepsWork`` notes the values."""


def _ended(predictions: object) -> bool:
    """True for what Gradio makes of the end of a generator: nothing new for any widget."""
    last = predictions[:1] if isinstance(predictions, list | tuple) else [predictions]
    return any(one is _Keywords.FINISHED_ITERATING for one in last)


def _of_page(fn: object) -> bool:
    """False for what programs call: they keep their results themselves."""
    return getattr(fn, "api_visibility", "private") == "private"


def _keepable(value: object) -> bool:
    """Whether a state that begins so is kept. One that begins with something of its own kind, such as a cache, is not."""
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    return plain or dataclasses.is_dataclass(value)


def _note(sheet: Sheet, number: int, sent: object) -> None:
    """What a widget holds now: ``sent`` is its value, or an update with some of its properties."""
    update = sent if isinstance(sent, dict) and sent.get("__type__") == "update" else {"value": sent}
    update = {name: value for name, value in update.items() if name != "__type__"}
    if not update:
        return
    try:
        text = json.dumps(update)
    except (TypeError, ValueError):
        return
    if len(text) > VALUE_MOST:
        return
    kept = sheet.shown.setdefault(str(number), {})
    fresh = _addressed(json.loads(text))
    if any(kept.get(name, kept) != value for name, value in fresh.items()):
        kept.update(fresh)
        sheet.changed = True


def _renew_widgets(page: gr.Blocks, state: SlimState, sheet: Sheet) -> None:
    """A session's own widgets, such as a dropdown with other choices, by which Gradio checks what is sent."""
    for number, props in sheet.shown.items():
        block = page.blocks.get(int(number))
        more = {name: value for name, value in props.items() if name in CHECKED}
        if block is None or not more:
            continue
        known = {**block.constructor_args, **more, "render": False}
        known.pop("value", None)
        try:
            state[int(number)] = type(block)(**known)
        except (TypeError, ValueError) as error:
            log.warning("a widget is not as it was (%s)", error)


# --- files ----------------------------------------------------------------------------------------------------------


def _paths(value: object) -> Iterator[str]:
    """The paths of all files in what Gradio sends."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        for item in value.values():
            yield from _paths(item)


def _addressed(value: object) -> Any:
    """With addresses of files that hold on any host and port."""
    if isinstance(value, list):
        return [_addressed(item) for item in value]
    if isinstance(value, dict):
        inside = {name: _addressed(item) for name, item in value.items()}
        if isinstance(inside.get("path"), str) and inside.get("url"):
            inside["url"] = FILES + quote(inside["path"])
        return inside
    return value


# --- clear my work --------------------------------------------------------------------------------------------------


def clear_section(forget: Callable[[gr.Request], None]) -> None:
    """Says how long work is kept, and removes it on the visitor's word."""
    light: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Column(elem_classes="clear-work"):
        with gr.Row():
            gr.HTML(CLEAR, padding=False)
            clear = gr.Button("Clear my work", size="sm", min_width=120, scale=0)
        with gr.Row(visible=False) as sure:
            gr.HTML(SURE, padding=False)
            yes = gr.Button("Remove everything", size="sm", min_width=140, scale=0, variant="stop")
            no = gr.Button("Keep it", size="sm", min_width=90, scale=0)
    clear.click(None, None, sure, js="() => ({ __type__: 'update', visible: true })", **light)
    no.click(None, None, sure, js="() => ({ __type__: 'update', visible: false })", **light)
    yes.click(forget, None, None, **light).success(None, None, None, js=RELOAD, **light)
