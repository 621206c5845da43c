"""Keys and waiting on small pages that carry the studio's style sheet and scripts: what all tabs rely on."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from demos.core import handlers, hold, theme
from demos.core.handlers import LIGHT, TALKS, halt, on_gpu
from demos.core.widgets import progress_line
from tests.browser import test_studio
from tests.browser.test_studio import RUN_MS, browser, expect, sync_api  # noqa: F401
from tests.environment import free_port

pytestmark = [*test_studio.pytestmark, pytest.mark.long]


@contextmanager
def page_of(build: Any, footer_links: Sequence[str] = ()) -> Iterator[str]:
    """The address of a page made by ``build``, with what the studio's scripts ask the server for."""
    with gr.Blocks(analytics_enabled=False) as page:
        build()
    port = free_port()
    status = {"line": "", "running": False, "stream": False, "layout": ""}
    routes = [
        Route("/studio/status", lambda request: JSONResponse(status)),
        Route("/goodbye", lambda request: Response(status_code=204), methods=["POST"]),
    ]
    look: dict[str, Any] = {"head": theme.head(), "js": theme.script(), "theme": theme.StudioTheme()}
    look |= {"footer_links": list(footer_links), "ssr_mode": False, "quiet": True}
    look["app_kwargs"] = {"routes": routes}
    page.queue().launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **look)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        page.close()


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_tabs() -> Iterator[SimpleNamespace]:
    """Two tabs with runs that go on until they are stopped, and things that can be open."""
    seen, over = SimpleNamespace(began=[], stopped=[], url=""), threading.Event()

    def tab(name: str) -> None:
        def goes_on(session) -> Iterator[Any]:
            seen.began.append(name)
            try:
                for step in itertools.count():
                    yield progress_line(f"Step {step}", 0.5, "running")
                    if over.wait(0.05):
                        return
            finally:
                seen.stopped.append(name)

        with gr.Tab(name, elem_id=hold.paper_id(name)):
            run, stop = gr.Button("Run", elem_classes="studio-run"), gr.Button("Stop", elem_classes="studio-stop")
            line = gr.HTML(progress_line("Ready"), elem_classes=f"line-{name}")
            run.click(on_gpu(goes_on, stopped=progress_line("Stopped", 0.0, "stopped")), None, line, **handlers.GPU)
            stop.click(halt, **LIGHT)
            gr.Dropdown(["one", "two"], label=f"List of {name}", interactive=True)
            gr.Textbox(label=f"Text of {name}", lines=3, interactive=True)
            look = {"buttons": ["fullscreen"], "elem_classes": ["frame", f"picture-{name}"]}
            gr.Image(Image.new("RGB", (300, 200)), type="pil", interactive=False, **look)
            gr.Button(f"Say it in {name}").click(lambda: gr.Warning("Said", duration=None), None, None, **TALKS)

    def build() -> None:
        with gr.Tabs():
            tab("first")
            tab("second")

    with page_of(build, footer_links=["api"]) as seen.url:
        yield seen
        over.set()


def running(chromium: Any, url: str) -> Any:
    """The page of two tabs, on which the first one's run goes on; it was started by keys from its text."""
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(RUN_MS)
    page.goto(url)
    page.get_by_label("Text of first").click()
    page.keyboard.press("Control+Enter")
    page.locator(".line-first .running").wait_for()
    return page


def test_esc_closes_what_is_open_and_then_stops_what_is_seen(browser, two_tabs):  # noqa: F811
    """A list, full screen, a message, a dialog: each takes one Esc, and the run goes on; the next Esc stops it. In
    another tab no Esc does; Ctrl+Enter starts nothing over an open dialog, nor twice."""
    page = running(browser, two_tabs.url)

    def goes_on() -> None:
        """Long enough for a Stop to have come."""
        page.wait_for_function(
            "before => Number(/\\d+/.exec(document.querySelector('.line-first .progress-line').innerText)) > before + 8",
            arg=int(re.search(r"\d+", page.locator(".line-first .progress-line").inner_text())[0]),
        )
        assert not two_tabs.stopped

    page.keyboard.press("Control+Enter")  # goes already: nothing, and no complaint
    goes_on()
    assert two_tabs.began == ["first"] and page.locator(".toast-body").count() == 0

    page.get_by_label("List of first").click()
    page.locator("[role=listbox]").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator("[role=listbox]")).to_have_count(0)
    goes_on()
    page.locator(".picture-first").get_by_label("Fullscreen").click()
    page.locator(".block.fullscreen").wait_for()
    page.keyboard.down("Escape")
    for _ in range(5):  # held down
        page.keyboard.down("Escape")
    page.keyboard.up("Escape")
    expect(page.locator(".block.fullscreen")).to_have_count(0)
    goes_on()
    page.get_by_role("button", name="Say it in first").click()
    page.locator(".toast-body").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".toast-body")).to_have_count(0)
    goes_on()
    page.get_by_text("API").first.click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    goes_on()

    page.get_by_role("tab", name="second").click()
    page.get_by_label("Text of second").click()
    page.keyboard.press("Escape")
    goes_on()
    page.get_by_role("tab", name="first").click()
    page.keyboard.press("Escape")
    page.locator(".line-first .stopped").wait_for()
    assert two_tabs.stopped == ["first"]

    page.get_by_text("API").first.click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(300)
    assert two_tabs.began == ["first"]
    page.context.close()


# --- what waits -----------------------------------------------------------------------------------------------------


def test_nothing_runs_while_another_input_is_on_its_way(browser):  # noqa: F811
    """Roll, then Run at once, by mouse and by key: Run waits for what was rolled, also when that fails; two presses of
    Roll hold it once."""
    ran, may = [], threading.Event()

    def roll(now: int) -> int:
        may.wait(20)
        if now >= 1:
            raise gr.Error("Nothing was rolled", print_exception=False)
        return now + 1

    def build() -> None:
        with gr.Column(elem_id=hold.paper_id("x")):
            number = gr.Number(0, label="Rolled", interactive=True)
            word = gr.Textbox("a", label="Word", elem_classes=hold.STARTS)
            run, dice = gr.Button("Run", elem_classes="studio-run"), gr.Button("Roll")
            hold.hold("x", dice.click)(dice.click(roll, number, number, **TALKS))
            gr.on([run.click, word.submit], ran.append, number, None, **LIGHT)

    with page_of(build) as url:
        context = browser.new_context(viewport={"width": 800, "height": 600})
        page = context.new_page()
        page.set_default_timeout(RUN_MS)
        page.goto(url)
        run, dice = (page.get_by_role("button", name=name, exact=True) for name in ("Run", "Roll"))
        for press in (1, 2):
            may.clear()
            ran.clear()
            dice.dblclick()
            expect(run).to_have_attribute("aria-disabled", "true")
            run.click(force=True)
            page.keyboard.press("Control+Enter")
            page.get_by_label("Word").press("Enter")
            page.wait_for_timeout(200)
            assert not ran
            may.set()
            expect(run).not_to_have_attribute("aria-disabled", "true")
            if press == 2:
                page.locator(".toast-body").first.wait_for()
            with page.expect_response(lambda answer: "/run/" in answer.url):
                run.click()
            assert ran == [1]
        context.close()
