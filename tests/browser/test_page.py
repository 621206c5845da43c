"""Clicks, keys and waiting on small pages that carry the studio's style sheet and scripts: what all tabs rely on."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy
import pytest
from PIL import Image

from demos.core import handlers, hold, theme
from demos.core.handlers import LIGHT, TALKS, halt, on_gpu
from demos.core.widgets import progress_line
from tests.browser.test_studio import CHROMIUM, browser, expect, sync_api  # noqa: F401
from tests.environment import free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]

MARK = numpy.array((255, 0, 255))
SIZES = {"small": (96, 64), "tall": (300, 700), "wide": (1536, 512), "large": (2400, 1600)}
"""Width and height of the pictures that are clicked."""
PLACES = ((0.12, 0.4), (0.9, 0.86), (0.45, 0.12), (0.07, 0.93))
"""Of the mark, one for each of them, as shares of width and height."""
DEVICES: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1920, "height": 1080}},
    "sharp": {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 2},
    "zoomed out": {"viewport": {"width": 2560, "height": 1600}, "device_scale_factor": 0.5},
    "zoomed in": {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
"""Zoom of a browser is a viewport of fewer, larger pixels."""


@contextmanager
def page_of(build: Any, footer_links: Sequence[str] = ()) -> Iterator[str]:
    """The address of a page made by ``build``, served as the studio is."""
    with gr.Blocks(analytics_enabled=False) as page:
        build()
    port = free_port()
    look: dict[str, Any] = {"head": theme.head(), "js": theme.script(), "theme": theme.StudioTheme()}
    look |= {"footer_links": list(footer_links), "ssr_mode": False, "quiet": True}
    page.queue().launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **look)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        page.close()


# --- clicks ---------------------------------------------------------------------------------------------------------


def marked(size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """A grey picture with a mark around the pixel ``at``."""
    rows, columns = numpy.mgrid[: size[1], : size[0]]
    inside = numpy.hypot(columns - at[0], rows - at[1]) <= max(size) / 60 + 1
    return Image.fromarray(numpy.where(inside[..., None], MARK, 120).astype(numpy.uint8))


def mark_seen(page: Any) -> tuple[float, float]:
    """Where the mark is on the screen."""
    shot = numpy.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)
    scale = shot.shape[1] / page.evaluate("innerWidth")
    rows, columns = numpy.nonzero(numpy.abs(shot - MARK).max(-1) < 90)
    assert len(rows), "the mark is out of sight"
    return (columns.mean() + 0.5) / scale, (rows.mean() + 0.5) / scale


@pytest.fixture(scope="module")
def clicked() -> Iterator[SimpleNamespace]:
    """A page with a picture that takes clicks; what the server was told of them."""
    told: list[Any] = []
    cases = [
        (name, (round(x * size[0]), round(y * size[1])))
        for (name, size), (x, y) in zip(SIZES.items(), PLACES, strict=True)
    ]

    def note(event: gr.SelectData) -> None:
        told.append(event.index)

    def build() -> None:
        number = gr.Number(0, label="Case", precision=0)
        look = {"buttons": ["fullscreen"], "elem_classes": ["frame", "clicked"], "show_label": False}
        picture = gr.Image(type="pil", format="png", interactive=False, **look)
        number.submit(lambda n: marked(SIZES[cases[n][0]], cases[n][1]), number, picture, **LIGHT)
        picture.select(note, None, None, **LIGHT)

    with page_of(build) as url:
        yield SimpleNamespace(url=url, told=told, cases=cases)


@pytest.mark.parametrize("device", DEVICES)
def test_a_click_is_the_pixel_under_it(browser, clicked, device):  # noqa: F811
    """In the page and in full screen, small pictures and large ones, upright and wide: right to 2 pixels of the screen."""
    context = browser.new_context(**DEVICES[device])
    page = context.new_page()
    page.goto(clicked.url)
    press = page.touchscreen.tap if DEVICES[device].get("has_touch") else page.mouse.click
    shown = page.locator(".clicked img")
    for full, (number, (name, at)) in itertools.product((False, True), enumerate(clicked.cases)):
        before = shown.get_attribute("src") if shown.count() else ""
        page.get_by_label("Case").fill(str(number))
        page.get_by_label("Case").press("Enter")
        page.wait_for_function(
            "([src, width]) => { const image = document.querySelector('.clicked img');"
            " return image && image.src !== src && image.complete && image.naturalWidth === width }",
            arg=[before, SIZES[name][0]],
        )
        shown.scroll_into_view_if_needed()
        if full:
            page.locator(".clicked").get_by_label("Fullscreen").click()
            page.wait_for_timeout(350)  # the block grows into place
            box = page.locator(".clicked").bounding_box()
            width, height = page.evaluate("[innerWidth, innerHeight]")
            assert box["y"] + box["height"] <= height + 1 and box["x"] + box["width"] <= width + 1
        clicked.told.clear()
        press(*mark_seen(page))
        deadline = time.monotonic() + 10
        while not clicked.told and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert clicked.told, f"{device}, {name}: the click was not told"
        box = shown.bounding_box()
        pixel = min(box["width"] / SIZES[name][0], box["height"] / SIZES[name][1])
        off = max(abs(a - b) for a, b in zip(clicked.told[0], at, strict=True))
        assert off <= max(2 / pixel, 1), f"{device}, {name}, full screen {full}: {clicked.told[0]} instead of {at}"
        assert len(clicked.told) == 1
        if full:
            page.keyboard.press("Escape")
            expect(page.locator(".block.fullscreen")).to_have_count(0)
    context.close()


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_tabs() -> Iterator[SimpleNamespace]:
    """Two tabs with runs that go on until they are stopped, and things that can be open."""
    seen = SimpleNamespace(began=[], stopped=[], url="")

    def tab(name: str) -> None:
        def goes_on(session) -> Iterator[Any]:
            seen.began.append(name)
            try:
                for step in range(2000):
                    yield progress_line(f"Step {step}", 0.5, "running")
                    time.sleep(0.05)
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
            gr.Image(marked((300, 200), (150, 100)), type="pil", interactive=False, **look)
            gr.Button(f"Say it in {name}").click(lambda: gr.Warning("Said", duration=None), None, None, **TALKS)

    def build() -> None:
        with gr.Tabs():
            tab("first")
            tab("second")

    with page_of(build, footer_links=["api"]) as seen.url:
        yield seen


def test_esc_closes_what_is_open_and_then_stops_what_is_seen(browser, two_tabs):  # noqa: F811
    """A list, full screen, a message, a dialog: each takes one Esc, and the run goes on; the next Esc stops it. In
    another tab no Esc does; Ctrl+Enter starts nothing over an open dialog, nor twice."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(two_tabs.url)
    page.get_by_label("Text of first").click()
    page.keyboard.press("Control+Enter")
    page.locator(".line-first .running").wait_for()
    page.keyboard.press("Control+Enter")  # goes already: nothing, and no complaint
    page.wait_for_timeout(300)
    assert two_tabs.began == ["first"] and page.locator(".toast-body").count() == 0

    def goes_on() -> None:
        page.wait_for_timeout(300)
        assert not two_tabs.stopped

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
    context.close()


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
        page.set_default_timeout(20_000)
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
            run.click()
            page.wait_for_timeout(500)
            assert ran == [1]
        context.close()
