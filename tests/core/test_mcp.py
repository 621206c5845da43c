"""The public functions as tools, through the protocol's own client: the same limits and files as for every program."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

import app
from demos.core import mcp_tools, tabs
from demos.core.door import CALLER
from tests.environment import free_port

mcp = pytest.importorskip("mcp", reason='mcp is not installed: pip install "gradio[mcp]"')

PICTURE = {"prompt": "a red cube on a wooden floor", "seed": 3, "steps": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    page = app.build(app.from_environment())
    port = free_port()
    app.serve(page, "127.0.0.1", port, block=False, mcp=True)
    yield f"http://127.0.0.1:{port}"
    page.close()


def asked(address: str, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """The tools, and what came of calls in one conversation."""

    async def talk() -> list[Any]:
        from mcp.client.streamable_http import streamablehttp_client

        async with streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _):
            async with mcp.ClientSession(read, write) as session:
                await session.initialize()
                found = [(await session.list_tools()).tools]
                return found + [await session.call_tool(name, values) for name, values in calls]

    return anyio.run(talk)


def data_of(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def said(result: Any) -> str:
    assert result.isError
    (content,) = result.content
    return content.text


def test_every_public_function_is_a_tool_and_one_draws(address: str):
    tools, drawn = asked(address, ("golden_noise", PICTURE))
    assert {tool.name for tool in tools} == {name for tab in tabs.discover() for name in tab.endpoints}
    for tool in tools:
        assert "Model set: mini" in tool.description, tool.name
    known = {tool.name: tool.inputSchema for tool in tools}
    assert known["golden_noise"]["properties"]["steps"]["type"] == "integer"
    assert known["train_person"]["properties"]["pictures"]["items"]["description"] == mcp_tools.A_FILE

    assert not drawn.isError
    pictures = [one for one in drawn.content if one.type == "image"]
    sizes = [Image.open(io.BytesIO(base64.b64decode(one.data))).size for one in pictures]
    assert len(sizes) == 2 and sizes[0] == sizes[1]
    assert json.loads(drawn.content[-1].text)["seconds"] > 0
    file = re.search(r"http\S+", drawn.content[1].text)[0]
    assert httpx.get(file).content == base64.b64decode(pictures[0].data), "its address is this program's"
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as neighbour:
        assert neighbour.get(file).status_code == 403, "and nobody else's"
    _, refused = asked(address, ("remove_object", {"image": file, "mask": data_of(Image.new("L", sizes[0]))}))
    assert "mask" in said(refused), "the picture was taken"


def test_what_is_wrong_is_one_sentence_and_no_file_of_the_server_is_read(address: str):
    picture = data_of(Image.new("RGB", (64, 64)))
    here = {"path": app.__file__, "meta": {"_type": "gradio.FileData"}}
    asks = {
        "number of steps is 0 but must be a whole number from 1 to 100": ("golden_noise", PICTURE | {"steps": 0}),
        "steps is 'many' but must be a whole number": ("golden_noise", PICTURE | {"steps": "many"}),
        "/golden_noise takes no 'colour'": ("golden_noise", PICTURE | {"colour": "red"}),
        "There is no tool 'paint' here": ("paint", {}),
        "This server runs the model set mini, not full": ("golden_noise", PICTURE | {"model_set": "full"}),
        "no file that was sent here": ("remove_object", {"image": app.__file__, "mask": picture}),
        "fetches nothing from other places": ("remove_object", {"image": "https://example.org/x.png", "mask": picture}),
        "The image is an object with 2 keys .* but must be a file": ("remove_object", {"image": here, "mask": picture}),
        "The concepts is a file, and no file can be sent": ("guide", {"prompt": "What?", "concepts": here}),
        "The image is 'data:image/png;base64,%' but must be a file": (
            "remove_object",
            {"image": "data:image/png;base64,%", "mask": picture},
        ),
    }
    _, *answers = asked(address, *asks.values())
    for words, answer in zip(asks, answers, strict=True):
        text = said(answer)
        assert re.search(words, text) and "\n" not in text and len(text) < 400, text


def test_nobody_speaks_for_somebody_else(address: str):
    """The header by which the server speaks for a program is believed with its secret only."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    both = {"accept": "application/json, text/event-stream"}
    fine = httpx.post(f"{address}/gradio_api/mcp/", json=call, headers=both)
    assert fine.status_code == 200 and "golden_noise" in fine.text
    other = httpx.post(
        f"{address}/gradio_api/mcp/", json=call, headers=both | {"host": "evil.example", CALLER: "x 10.0.0.1"}
    )
    assert other.status_code == 421
    assert (
        httpx.post(
            f"{address}/gradio_api/mcp/", json=call, headers=both | {"origin": "http://evil.example"}
        ).status_code
        == 403
    )
    for path in ("mcp/sse", "mcp/messages/", "mcp/schema"):
        assert httpx.get(f"{address}/gradio_api/{path}").status_code == 404
    assert httpx.post(f"{address}/gradio_api/mcp/", content=b"x" * (8 * 2**20 + 1)).status_code == 413


def test_without_the_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mcp_tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        app.serve(app.demo, mcp=True)
