"""The public functions as tools of the Model Context Protocol: ``python app.py --mcp``, at ``/gradio_api/mcp``.

Gradio lists the tools, from the endpoints as they are declared. A call is handed on here, for Gradio's own client would run it under one
session for everybody, with the rights of the server: it reads any file here that an argument names. So each goes through
the door (:mod:`demos.core.door`) as a call of whoever asked, by his address, as any program's: the same limits, the same files
and no others, the same sentences.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib.util
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import gradio.mcp
import httpx

from demos.core.door import API, CALLER
from demos.core.payloads import takes_files
from pipelines.core import limits

if TYPE_CHECKING:
    from starlette.requests import Request

LACKING = 'Serving the functions as tools needs a package more: pip install "gradio[mcp]", or start without --mcp.'
A_FILE = "a file: its content as data:image/png;base64,..., or the address of one that this server has sent you"
PICTURE_MOST = 4 * 2**20
"""Bytes of a result that is shown in the answer; of a larger one there is the address alone."""
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.+-]+)*?;base64,(.*)", re.DOTALL)


def install() -> None:
    """Have Gradio make its tools by :class:`Tools`; before the page is launched.

    Raises:
        ValueError: the package is not there.
    """
    if importlib.util.find_spec("mcp") is None:
        raise ValueError(LACKING)
    setattr(gradio.mcp, "GradioMCPServer", Tools)  # noqa: B010  (a name of a class is no variable to a type checker)


class Tools(gradio.mcp.GradioMCPServer):
    """Gradio's server with calls of ours."""

    types: Any
    """Of the package mcp."""

    def create_mcp_server(self) -> Any:
        server: Any = super().create_mcp_server()

        @server.call_tool(validate_input=False)  # the endpoints' own sentences say what is wrong
        async def call_tool(name: str, arguments: dict[str, Any]) -> list[Any]:
            return await self.call(server.request_context.request, name, arguments)

        return server

    def get_input_schema(self, tool_name: str, parameters: dict[str, str] | None = None) -> tuple[dict[str, Any], Any]:
        """As Gradio's, but for files: what this server takes as one, and that no address of another place is."""
        schema, _ = super().get_input_schema(tool_name, parameters)
        for block in self._files_of(tool_name):
            one = {"type": "string", "description": A_FILE}
            schema["properties"][block.label] = (
                {"type": "array", "items": one} if block.api_info().get("type") == "array" else one
            )
        return schema, []

    def _files_of(self, tool: str) -> list[Any]:
        function = self.get_block_fn_from_endpoint_name(self.tool_to_endpoint[tool])
        return [block for block in getattr(function, "inputs", ()) if takes_files(block)]

    async def call(self, request: Request, name: str, arguments: Mapping[str, Any]) -> list[Any]:
        """Run an endpoint for whoever sent ``request``; what it answers with, as contents of a message.

        Raises:
            ValueError: what was wrong, in one sentence.
        """
        endpoint = self.tool_to_endpoint.get(name)
        if endpoint is None:
            raise ValueError(
                f"There is no tool {limits.described(name)} here: there are {', '.join(self.tool_to_endpoint)}."
            )
        who = {CALLER: request.headers.get(CALLER, "")}
        async with httpx.AsyncClient(base_url=self.local_url or "", headers=who, timeout=None, trust_env=False) as web:
            values = dict(arguments)
            for block in self._files_of(name):
                if values.get(block.label) is not None:
                    values[block.label] = await self._sent(web, values[block.label], str(block.label))
            answer = await web.post(f"{API}call/v2{endpoint}", json=values)
            _check(answer)
            outputs = await _outcome(web, f"{API}call{endpoint}/{answer.json()['event_id']}")
            return [content for one in outputs for content in await self._contents(web, one, str(request.base_url))]

    async def _sent(self, web: httpx.AsyncClient, value: object, words: str) -> Any:
        """Files of an argument, as the endpoint takes them."""
        if isinstance(value, list):
            return [await self._sent(web, one, words.removesuffix("s")) for one in value]
        if not isinstance(value, str):
            raise ValueError(f"The {words} is {limits.described(value)} but must be {A_FILE}.")
        path = _path_of(value)
        if value.startswith("data:"):
            kind, content = _content(value, words)
            name = f"{words}.{kind.rpartition('/')[2].partition('+')[0]}"
            answer = await web.post(f"{API}upload", files={"files": (name, content, kind)})
            _check(answer)
            path = answer.json()[0]
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    async def _contents(self, web: httpx.AsyncClient, value: Any, root: str) -> list[Any]:
        """An output as contents: pictures, also, as such."""
        if not isinstance(value, dict) or "path" not in value or "meta" not in value:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return [self.types.TextContent(type="text", text=text)]
        file = await web.get(f"{API}file={value['path']}")
        _check(file)
        address = f"{root.rstrip('/')}{API}file={value['path']}"
        contents = [self.types.TextContent(type="text", text=f"{value.get('orig_name') or 'File'}: {address}")]
        kind = file.headers.get("content-type", "")
        if kind.startswith("image/") and len(file.content) <= PICTURE_MOST:
            shown = base64.b64encode(file.content).decode()
            contents.insert(0, self.types.ImageContent(type="image", data=shown, mimeType=kind))
        return contents


def _path_of(text: str) -> str:
    """The path in the address of a file of this server; anything else as it is, for the door to judge."""
    return unquote(text.partition(f"{API}file=")[2]) or text


def _content(text: str, words: str) -> tuple[str, bytes]:
    found = _DATA.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text[:40])
        return found[1] or "application/octet-stream", base64.b64decode(found[3], validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"The {words} is {limits.described(text[:40])} but must be {A_FILE}.") from None


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        told = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        raise ValueError(_sentence(told))


def _sentence(told: object) -> str:
    said = told.get("error") or told.get("detail") if isinstance(told, dict) else told
    return said if isinstance(said, str) and said else "This server could not answer: try again later."


async def _outcome(web: httpx.AsyncClient, address: str) -> list[Any]:
    """The outputs of a call when it is over; whoever stops listening ends it."""
    async with contextlib.aclosing(_events(web, address)) as events:
        async for event, data in events:
            if event == "complete":
                return data or []
            if event == "error":
                raise ValueError(_sentence(data))
    raise ValueError(_sentence(None))


async def _events(web: httpx.AsyncClient, address: str) -> AsyncGenerator[tuple[str, Any], None]:
    event = ""
    async with web.stream("GET", address) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield event, json.loads(line.removeprefix("data: "))
