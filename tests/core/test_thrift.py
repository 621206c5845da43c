"""What Gradio does more often than anybody needs, and is not done here: stubs, configurations, components of skipped outputs, looks at the queue."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.blocks import BlocksConfig
from gradio.queueing import Queue

import app
from demos.core.payloads import Page
from demos.core.sessions import SlimState

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = """
    import ast, inspect, json
    parsed, parse = [], ast.parse
    ast.parse = lambda source, *rest, **more: parsed.append(str(source)) or parse(source, *rest, **more)
    {first}
    import gradio
    classes = [c for c in vars(gradio.components).values() if isinstance(c, type)]
    events = [getattr(c, str(event)).__doc__ for c in classes for event in getattr(c, "EVENTS", ())]
    print(json.dumps([events, any("(Component" in source for source in parsed), inspect.getfile(gradio.Textbox)]))
"""


def test_gradio_says_of_itself_what_it_says_and_reads_no_source_of_its_own():
    def told(first: str) -> list[Any]:
        code = textwrap.dedent(DOCUMENTED).format(first=first)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    quick, usual = told("from demos.core import quick_gradio; quick_gradio.load()"), told("")
    assert quick[0] == usual[0] and len(quick[0]) > 100
    assert (quick[1], usual[1]) == (False, True)
    assert quick[2] == usual[2]


def test_the_pages_configuration_is_gradios_own():
    usual = BlocksConfig(app.demo)
    usual.blocks, usual.fns = app.demo.blocks, app.demo.fns
    assert app.demo.default_config.get_config() == usual.get_config()


def answers(*predictions: Any) -> list[Any]:
    """Outputs of an event, what a message says to them, what is sent, and which of them were made anew."""
    with Page() as page:
        outputs = [gr.Textbox(), gr.Number(), gr.State()][: len(predictions) or 3]
        gr.Button().click(lambda: None, None, outputs)
    (function,) = page.fns.values()
    state = SlimState(page)
    given: Any = predictions or gr.skip()
    data = asyncio.run(page.postprocess_data(function, given[0] if len(predictions) == 1 else given, state))
    anew = [state.blocks_config.blocks[block._id] is not block for block in outputs]
    return [data, anew]


@pytest.mark.parametrize(
    ("predictions", "sent", "anew"),
    [
        ((), [gr.skip(), gr.skip(), gr.skip()], [False, False, False]),
        ((gr.skip(),), [gr.skip()], [False]),
        (("words",), ["words"], [False]),
        ((gr.skip(), 3), [gr.skip(), 3], [False, False]),
        (
            ("words", gr.update(label="Count"), gr.skip()),
            ["words", {"__type__": "update", "label": "Count"}, gr.skip()],
            [False, True, False],
        ),
        ((gr.update(value=None), gr.skip()), [{"__type__": "update", "value": None}, gr.skip()], [True, False]),
    ],
)
def test_an_output_that_is_skipped_is_not_made_anew(predictions: tuple[Any, ...], sent: list[Any], anew: list[bool]):
    assert answers(*predictions) == [sent, anew]


def test_outputs_may_be_named_and_too_few_values_are_still_refused():
    with Page() as page:
        outputs = [gr.Textbox(), gr.Number()]
        gr.Button().click(lambda: None, None, outputs)
    (function,) = page.fns.values()
    state = SlimState(page)
    assert asyncio.run(page.postprocess_data(function, {outputs[1]: 4}, state)) == [gr.skip(), 4]
    with pytest.raises(ValueError, match="didn't return enough"):
        asyncio.run(page.postprocess_data(function, ["words"], state))


@pytest.mark.usefixtures("served")
def test_a_page_that_nobody_uses_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    looks, length = [], Queue.__len__
    monkeypatch.setattr(Queue, "__len__", lambda queue: looks.append(queue) or length(queue))
    time.sleep(1.0)
    assert 10 < len(looks) < 120
