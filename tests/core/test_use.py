"""The calls under “Use it from Python” are what the page does: run as they stand there, they give the same pictures and texts."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

import app
from demos.core import tabs
from demos.core.endpoint import FILE, FILES, MODEL_SET, NUMBER, TEXT, Endpoint, Parameter
from demos.core.use import File, curl, python, shown
from demos.georemover.api import FINE
from pipelines.core import images
from pipelines.georemover import Settings
from tests.core.test_app import visit

SLUGS = [tab.slug for tab in tabs.discover()]
RUNS = {"golden_noise": "compare", "georemover": "remove", "megaportrait": "make_portrait", "concept_guidance": "ask"}
"""Handlers of the tabs whose page is not a `PicturesPage`."""
QUICK: dict[str, dict[str, Any]] = {
    "golden_noise": {"prompt": "a red `cube` & it's 'one'", "steps": 2, "strength": 1.5, "seed": 9},
    "georemover": {"steps_1": 2, "steps_2": 2, "seed": 4, "scale_2": 0.9},
    "megaportrait": {"candidates": 1, "seed": 5, "shading_transfer": 0.3},
    "concept_guidance": {"message": "What does the goat eat?", "max_tokens": 12},
}
DECLARED = Endpoint(
    "x",
    (
        Parameter("image", FILE, required=True),
        Parameter("others", FILES, optional=True),
        Parameter("words", TEXT, "as usual"),
        Parameter("seed", NUMBER, 0),
        MODEL_SET,
    ),
    (("file", "the result"), ("json", "facts")),
    "",
)


def event_of(slug: str, name: str) -> Any:
    """The page's event with the handler ``name``, of the tab."""
    found = [one for one in app.demo.fns.values() if getattr(one.fn, "__name__", "") == name]
    if name == "show_call":
        return next(one for one in found if one.outputs[0].elem_id == f"use-code-{slug}")
    return next(one for one in found if one.api_visibility == "private")


def held(event: Any, changed: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What the page gives a handler when it has just been opened, but for what was ``changed``."""
    names = list(event.input_keyword_names or ())
    values = copy.deepcopy([block.value for block in event.inputs])
    loose = values[: len(values) - len(names)]
    named = dict(zip(names, values[len(loose) :], strict=True))
    return loose, named | {name: value for name, value in changed.items() if name in named}


def request(address: str) -> gr.Request:
    class Inner:
        headers = {"host": address.removeprefix("http://")}  # noqa: RUF012
        scope: dict[str, str] = {}  # noqa: RUF012

        class url:
            scheme = "http"
            netloc = ""

    return gr.Request(Inner(), session_hash="use")  # type: ignore[arg-type]


def test_only_what_is_needed_is_said():
    given = {"image": File("a b.png"), "words": "as usual", "seed": 0}
    assert python(DECLARED, given, "http://h").splitlines() == [
        "from gradio_client import Client, handle_file",
        "",
        'client = Client("http://h")',
        "the_result, facts = client.predict(",
        '    image=handle_file("a b.png"),',
        "    seed=0,",
        '    api_name="/x",',
        ")",
        "print(the_result, facts)",
    ]
    assert '"words"' not in curl(DECLARED, given, "http://h")
    assert "handle_file" not in python(DECLARED, {"seed": 1, "words": "x"}, "http://h")


@pytest.mark.parametrize("words", ["it's `code`", '```\n$(rm x) \\ "', "ü – 日本"])
def test_any_text_stays_a_text(words: str):
    given = {"words": words, "image": File("a.png"), "others": [File("b.png"), File("c.png")]}
    text = shown(DECLARED, given, "http://h")
    assert text.count("```") == 4, "two blocks of code, and no text ends one"
    values: dict[str, Any] = {}
    call = re.search(r"predict\((.*)\)\nprint", python(DECLARED, given, "http://h"), re.DOTALL)
    assert call is not None
    exec(f"def handle_file(name): return name\nvalues = dict({call[1]})", values)
    assert values["values"]["words"] == words and values["values"]["others"] == ["b.png", "c.png"]
    assert subprocess.run(["bash", "-n"], input=curl(DECLARED, given, "http://h"), text=True).returncode == 0


@pytest.mark.parametrize("slug", SLUGS)
def test_every_tab_shows_the_call_for_what_it_shows(slug: str):
    event = event_of(slug, "show_call")
    loose, named = held(event, QUICK.get(slug, {}))
    text = event.fn(request("http://studio:1"), *loose, **named)
    assert 'Client("http://studio:1")' in text and "curl -sf" in text
    assert {f'api_name="/{name}"' for name in next(t for t in tabs.discover() if t.slug == slug).endpoints} & set(
        re.findall(r'api_name="[^"]+"', text)
    )
    if "prompt" in named:
        wrong = event.fn(request("http://studio:1"), *loose, **{**named, "prompt": " "})
        assert wrong.startswith("The prompt is empty")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": 1}, "There is no setting 'colour' here: choose among steps_1, "),
        ({"seed": 1}, "There is no setting 'seed' here"),
        ({"scale_2": "much"}, "strength of adapter 2 is 'much'"),
    ],
)
def test_settings_that_are_sent_by_name_are_checked(given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Settings.of("mini").changed(given, FINE).validated()


@pytest.mark.long
@pytest.mark.parametrize("slug", SLUGS)
def test_the_shown_program_gives_what_the_page_gives(
    slug: str, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    quick = QUICK.get(slug, {"steps": 1})
    page = event_of(slug, RUNS.get(slug, f"{slug}_page"))
    loose, named = held(page, quick)
    updates: dict[Any, Any] = {}
    for update in page.fn(visit(f"use-{slug}"), *loose, **named):
        updates |= update if isinstance(update, dict) and "__type__" not in update else {}

    event = event_of(slug, "show_call")
    inputs, values = held(event, quick)
    text = event.fn(request(served), *inputs, **values)
    program, shell = re.search(r"```python\n(.*?)```.*```bash\n(.*?)```", text, re.DOTALL).groups()  # type: ignore[union-attr]
    monkeypatch.chdir(tmp_path)
    if "handle_file" in program:
        maker = next(
            one
            for one in app.demo.fns.values()
            if getattr(one.fn, "__name__", "") == "files" and set(one.inputs) <= set(event.inputs)
        )
        with zipfile.ZipFile(maker.fn(*held(maker, {})[0], visit(f"use-{slug}"))) as archive:
            archive.extractall(tmp_path)
    answers: dict[str, Any] = {}
    exec(program, answers)

    shown_now = flat(updates.values())
    pictures = {
        pixels(one) for one in shown_now if isinstance(one, str) and one.endswith(".png") and Path(one).is_file()
    }
    files = [one for one in answers.values() if isinstance(one, str) and one.endswith(".png")]
    if files:
        assert pixels(answers.get("result", files[0])) in pictures
        assert "result" in answers or {pixels(one) for one in files} <= pictures
    else:
        assert answers["unguided"] in str(shown_now) and answers["guided"] in str(shown_now)
    if shutil.which("curl"):
        said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=300).stdout
        assert "event: complete" in said and "event: error" not in said


def flat(values: Any) -> list[Any]:
    """All that is in lists, in tuples and in updates of widgets."""
    found: list[Any] = []
    for one in values:
        if isinstance(one, list | tuple):
            found += flat(one)
        elif isinstance(one, dict):
            found += flat(one.values())
        elif isinstance(one, gr.blocks.Block):
            found += flat([getattr(one, "value", None)])
        else:
            found.append(one)
    return found


def pixels(path: str) -> tuple[Any, bytes]:
    made = images.open_picture(path)
    return made.size, made.tobytes()
