"""“Use it”: the exact Python and curl call for what a tab shows now, made from the declaration of its endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demos.core.endpoint import FILE, FILES, MODEL_SET, Endpoint, Parameter
from demos.core.handlers import LIGHT, explain
from demos.core.uploads import download

PLAIN = "The call for what this page asks for now. What is left out has its default."
WITH_FILES = f"{PLAIN} Download its files and start it beside them."


@dataclass(frozen=True)
class File:
    """A file of a call, by the name under which a program has it."""

    name: str


def arguments(endpoint: Endpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be in a call: what is required, the seed, and what differs from its default."""
    known = {one.name: one for one in endpoint.parameters if one is not MODEL_SET}
    assert given.keys() <= known.keys(), given.keys() - known.keys()
    return {name: value for name, value in given.items() if name == "seed" or _said(known[name], value)}


def _said(parameter: Parameter, value: object) -> bool:
    return parameter.required or parameter.kind in (FILE, FILES) or value != parameter.default


def python(endpoint: Endpoint, given: Mapping[str, Any], address: str) -> str:
    """The program."""

    def text(value: object) -> str:
        if isinstance(value, File):
            return f'handle_file("{value.name}")'
        if isinstance(value, list) and value and isinstance(value[0], File):
            return f"[{', '.join(map(text, value))}]"
        # Any text stays inside of the Markdown that shows it.
        return repr(value).replace("`", "\\x60")

    said = arguments(endpoint, given)
    files = any(isinstance(value, File | list) and text(value).find("handle_file") >= 0 for value in said.values())
    answers = ", ".join(label.replace(" ", "_") for _kind, label in endpoint.outputs)
    lines = [f"    {name}={text(value)}," for name, value in said.items()]
    return "\n".join(
        [
            f"from gradio_client import Client{', handle_file' if files else ''}",
            "",
            f'client = Client("{address}")',
            f"{answers} = client.predict(",
            *lines,
            f'    api_name="/{endpoint.name}",',
            ")",
            f"print({answers})",
        ]
    )


def curl(endpoint: Endpoint, given: Mapping[str, Any], address: str) -> str:
    """The same for a shell: each file is sent first, then the call, then its answer is read."""
    said = arguments(endpoint, given)
    names = {one.name: f"FILE_{place}" for place, one in enumerate(_files(said), 1)}

    def value_of(value: object) -> object:
        if isinstance(value, File):
            return {"path": f"@{names[value.name]}@", "meta": {"_type": "gradio.FileData"}}
        return list(map(value_of, value)) if isinstance(value, list) and _files({"": value}) else value

    body = json.dumps({name: value_of(value) for name, value in said.items()})
    body = body.replace("'", "\\u0027").replace("`", "\\u0060")
    for variable in names.values():
        body = body.replace(f"@{variable}@", f"'\"${variable}\"'")
    sent = [
        f"{variable}=$(curl -sf -F 'files=@{name}' $STUDIO/upload | tr -d '[]\"')" for name, variable in names.items()
    ]
    return "\n".join(
        [
            f"STUDIO={address}/gradio_api",
            *sent,
            f"EVENT=$(curl -sf $STUDIO/call/v2/{endpoint.name} -H 'Content-Type: application/json' \\",
            f'  -d \'{body}\' | sed \'s/.*"event_id": *"\\([^"]*\\)".*/\\1/\')',
            f"curl -sfN $STUDIO/call/{endpoint.name}/$EVENT",
        ]
    )


def _files(said: Mapping[str, Any]) -> list[File]:
    each = [value if isinstance(value, list) else [value] for value in said.values()]
    return [one for values in each for one in values if isinstance(one, File)]


def shown(endpoint: Endpoint, given: Mapping[str, Any], address: str) -> str:
    """Both, as Markdown."""
    words = WITH_FILES if _files(given) else PLAIN
    return (
        f"{words}\n\n```python\n{python(endpoint, given, address)}\n```\n\nThe same from a shell:\n\n"
        f"```bash\n{curl(endpoint, given, address)}\n```"
    )


def address_of(request: gr.Request) -> str:
    """Where the visitor reaches the studio, also through a proxy that is believed (the door leaves out others' headers)."""
    inner, headers = request.request, request.headers
    assert inner is not None
    scheme = headers.get("x-forwarded-proto", inner.url.scheme).split(",")[0].strip()
    host = headers.get("x-forwarded-host", headers.get("host", inner.url.netloc)).split(",")[0].strip()
    return f"{scheme}://{host}{inner.scope.get('root_path', '').rstrip('/')}"


def use_panel(
    slug: str,
    box: gr.Accordion,
    endpoint: Endpoint,
    asked: Callable[..., Mapping[str, Any]],
    widgets: Mapping[str, gr.components.Component],
    inputs: Sequence[gr.components.Component] = (),
    files: tuple[Callable[..., str], Sequence[gr.components.Component]] | None = None,
) -> None:
    """The calls, inside ``box``; renewed when it is opened, and while it is open whenever something is changed.

    Args:
        asked: what is sent by the names of the endpoint's parameters, of ``inputs`` and of ``widgets`` by name; ``ValueError``
            where the page holds nothing that can be sent.
        files: what makes a zip of the call's files, and its inputs.
    """
    code = gr.Markdown(elem_classes=["reading", "use-code"], elem_id=f"use-code-{slug}")
    if files is not None:
        save = gr.Button("Download the files of this call (zip)", size="md")
        download(save, *files)
    again = gr.Button(visible="hidden", elem_id=f"studio-use-{slug}")

    def show_call(request: gr.Request, *held: Any, **values: Any) -> str:
        try:
            return shown(endpoint, asked(*held, **values), address_of(request))
        except ValueError as error:
            return explain(error)

    bound: dict[str, Any] = {"inputs": list(inputs), "inputs_kwargs": dict(widgets), "outputs": code, **LIGHT}
    box.expand(show_call, **bound)
    again.click(show_call, trigger_mode="always_last", **bound)
    changes = [one.change for one in (*inputs, *widgets.values()) if hasattr(one, "change")]
    gr.on(changes, None, None, None, js=f'() => window.studioUse?.("{slug}")', **LIGHT)
