"""What a call brings is looked at here before Gradio does anything with it, whichever of its routes it came by.

Gradio takes file data anywhere in a call, in a text as well: it would fetch an address, or refuse a path with a traceback
and an empty message. So :class:`Page` goes through each value first. What is wrong with it is one sentence, and nothing that
a call names is fetched, moved or read unless the visitor sent it here. What still breaks, in Gradio or in a handler, ends in
one sentence as well.
"""

from __future__ import annotations

import contextvars
import logging
import re
from copy import copy
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction, convert_component_dict_to_list
from gradio.components.api_component import Api
from gradio.data_classes import FileData
from gradio.state_holder import SessionState

from demos.core import visitors
from demos.core.handlers import explain
from demos.core.owners import OWNERS, RAW, Visitor, file_paths
from demos.core.sessions import Config
from demos.core.uploads import uploaded_path
from pipelines.core import limits

log = logging.getLogger(__name__)

DEEP, MANY = 32, 200_000
"""Levels and values that one parameter may hold."""
TITLE = "Not accepted"
_caller: contextvars.ContextVar[tuple[Visitor, str]] = contextvars.ContextVar("caller", default=(Visitor(), RAW))


class Page(gr.Blocks):
    """`gr.Blocks` whose calls are checked before they are processed, and that does nothing twice for one answer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.default_config = Config(self)

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *rest: Any, **more: Any
    ) -> dict[str, Any]:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        session, event = more.get("session_hash"), more.get("event_id")
        session = RAW if session is None or session == event else session  # a call without one gets its event's name
        visitor = visitor_of(more.get("request"))
        token = _caller.set((visitor, session))
        try:
            with visitors.as_visitor(visitor.who):
                if more.get("iterator") is None:
                    check_call(function, inputs, more.get("event_data"), visitor, session, more.get("state"))
                return await super().process_api(block_fn, inputs, *rest, **more)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            raise gr.Error(explain(error), title=TITLE, print_exception=False) from None
        finally:
            _caller.reset(token)

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list[Any], *rest: Any, **more: Any) -> list[Any]:
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **more)
        except Exception as error:  # Gradio's own words, for a value that its widget cannot hold
            raise gr.Error(_unfit(error), title=TITLE, print_exception=False) from None

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], *rest: Any, **more: Any
    ) -> Any:
        data = await self._postprocessed(block_fn, predictions, *rest, **more)
        OWNERS.made(file_paths(data), *_caller.get())
        return data

    async def _postprocessed(self, block_fn: BlockFunction, predictions: Any, *rest: Any, **more: Any) -> list[Any]:
        """As Gradio does, of those outputs that change: it makes a component anew, and its schema, also for one that is skipped."""
        count = len(block_fn.outputs)
        if _skipped(predictions):
            predictions = [gr.skip()] * count if count > 1 else gr.skip()
        elif isinstance(predictions, dict) and predictions:
            predictions = convert_component_dict_to_list(list(block_fn.outputs), predictions)
        values = [predictions] if count == 1 else predictions
        if not isinstance(values, list | tuple) or len(values) != count:
            return await super().postprocess_data(block_fn, predictions, *rest, **more)  # has words for it
        changes = [place for place, value in enumerate(values) if not _skipped(value)]
        if len(changes) == count:
            return await super().postprocess_data(block_fn, predictions, *rest, **more)
        data: list[Any] = [gr.skip() for _output in values]
        if changes:
            fewer = copy(block_fn)
            fewer.outputs = [block_fn.outputs[place] for place in changes]
            told = [values[place] for place in changes]
            made = await super().postprocess_data(fewer, told[0] if len(told) == 1 else told, *rest, **more)
            for place, value in zip(changes, made, strict=True):
                data[place] = value
        return data


def _skipped(value: object) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def visitor_of(request: object) -> Visitor:
    """Who made a call."""
    client = getattr(getattr(request, "request", None), "client", None)
    return Visitor(getattr(client, "host", ""), visitors.visitor(request))


def check_call(
    function: BlockFunction,
    inputs: list[Any],
    event: gr.EventData | None,
    visitor: Visitor,
    session: str,
    state: SessionState | None = None,
) -> None:
    """Refuse a call that a handler, or Gradio on the way to it, could not read.

    Raises:
        gr.Error: in one sentence.
    """
    try:
        _check_count(function, inputs)
        if function.collects_event_data and not _is_of_page(function, event, state):
            raise ValueError("This call names no part of the page that it could come from: reload the page.")
        for block, value in zip(function.inputs, inputs, strict=False):
            if not block.stateful:
                check_value(value, block, visitor, session)
    except ValueError as error:
        raise gr.Error(explain(error), title=TITLE, print_exception=False) from None


def check_value(value: object, block: object, visitor: Visitor, session: str) -> None:
    """Refuse what one widget or parameter cannot hold.

    Raises:
        ValueError: in one sentence.
    """
    words = (getattr(block, "label", None) or "value").replace("_", " ")
    words = words if isinstance(block, Api) else f"field “{words}”"
    waiting, seen = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        seen += 1
        if depth > DEEP or seen > MANY:
            raise ValueError(f"The {words} holds more than {DEEP} levels or {MANY:,} values: send something simpler.")
        if isinstance(one, str):
            _check_text(one, words)
        elif isinstance(one, list):
            waiting.extend((item, depth + 1) for item in one)
        elif isinstance(one, dict):
            if _is_file(one, block):
                _check_file(one, block, words.removesuffix("s") if depth else words, visitor, session)
            for key, item in one.items():
                _check_text(key, words)
                waiting.append((item, depth + 1))


def _check_count(function: BlockFunction, inputs: list[Any]) -> None:
    wanted = len(function.inputs)
    # What an endpoint has learnt to take since a program was written may be left out.
    while (
        isinstance(inputs, list) and len(inputs) < wanted and getattr(function.inputs[len(inputs)], "optional", False)
    ):
        inputs.append(getattr(function.inputs[len(inputs)], "left_out", None))
    if not isinstance(inputs, list) or len(inputs) != wanted:
        names = ", ".join(str(block.label) for block in function.inputs if isinstance(block, Api))
        known = f"takes {wanted}: {names}" if names else f"takes {wanted}: reload the page"
        came = f"{len(inputs)} values" if isinstance(inputs, list) else limits.described(inputs)
        raise ValueError(f"This call brings {came} and /{function.api_name or 'this'} {known}.")


def _is_of_page(function: BlockFunction, event: gr.EventData | None, state: SessionState | None = None) -> bool:
    """Whether the event comes from a widget that it can come from, with what such an event tells."""
    target = getattr(event, "target", None)
    # A widget that a run has changed is another object in its session, with a number of its own.
    held = state.blocks_config.blocks if state is not None else {}
    names = {
        name
        for block, name in function.targets
        if target is not None and (block == target._id or (block is not None and held.get(block) is target))
    }
    data = getattr(event, "_data", None)
    if "select" not in names:
        return bool(names)
    if not isinstance(data, dict) or not {"index", "value"} <= data.keys():
        return False
    return not isinstance(target, gr.Image) or _is_place(data["index"])


def _is_place(index: object) -> bool:
    """Whether it can be a pixel of a picture that was clicked."""
    if not isinstance(index, list) or len(index) != 2:
        return False
    return all(limits.is_number(one) and -1e6 < one < 1e6 for one in index)


def _check_text(text: str, words: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = ord(text[error.start])
        raise ValueError(f"The {words} holds U+{wrong:04X}, which is no character of a text: take it out.") from None


def takes_files(block: object) -> bool:
    """Whether a widget or parameter can hold a file."""
    if isinstance(block, Api):
        return getattr(block, "takes_files", False)
    model = getattr(block, "data_model", None)
    return model is not None and "FileData" in str(model.model_json_schema())


def _is_file(value: dict, block: object) -> bool:
    """Whether Gradio, or a widget or handler that takes files, would see a file in it."""
    return "path" in value and ("meta" in value or takes_files(block))


def _check_file(value: dict, block: object, words: str, visitor: Visitor, session: str) -> None:
    if not takes_files(block):
        raise ValueError(f"The {words} is a file, and no file can be sent there: send what it should hold itself.")
    path = uploaded_path(value, words)
    if not OWNERS.may_use(str(path), visitor, session):
        raise ValueError(f"The {words} is no file that was sent here by you: send it with handle_file(...).")
    known = {"meta": {"_type": "gradio.FileData"}} | {
        name: value[name] for name in FileData.model_fields if name in value
    }
    try:
        odd = FileData.model_validate(known, context={"validate_meta": True}).is_stream
    except (ValueError, AttributeError):  # a meta that is no dictionary
        odd = True
    if odd:
        raise ValueError(f"The {words} is file data with parts that it cannot have: send it with handle_file(...).")


def _unfit(error: BaseException) -> str:
    """What to tell of a value that its widget does not hold; of Gradio's own sentences the two short ones about a range."""
    text = str(error)
    if isinstance(error, gr.Error) and re.fullmatch(
        r"Value \S{1,40} is (less|greater) than (minimum|maximum) value \S{1,40}", text.strip("'.")
    ):
        return text.strip("'.") + ": choose one in that range."
    log.info("a field of the page cannot hold what came: %s", type(error).__name__)
    return "A field of this page cannot hold what came for it: reload the page and choose again."
