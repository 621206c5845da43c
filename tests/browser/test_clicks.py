"""A click is the pixel under it, right to two pixels of the screen: in the page and in full screen, on phones, however the browser is
zoomed. Where a pixel is on the screen is seen: a mark is put there, and looked for in a screenshot."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy
import pytest
from PIL import Image

from demos.core.handlers import LIGHT
from tests.browser import test_studio
from tests.browser.test_page import page_of
from tests.browser.test_studio import RUN_MS, Visit, at_rest, browser, expect, sync_api  # noqa: F401

pytestmark = [*test_studio.pytestmark, pytest.mark.long]

MARK = numpy.array((255, 0, 255))
SIZES = {"small": (96, 64), "tall": (300, 700), "wide": (1536, 512), "large": (2400, 1600)}
"""Width and height of the pictures that are clicked."""
PLACES = ((0.12, 0.4), (0.9, 0.86), (0.45, 0.2), (0.07, 0.93))
"""Of the mark, one for each of them, as shares of width and height."""
DEVICES: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1920, "height": 1080}},
    "sharp": {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 2},
    "zoomed out": {"viewport": {"width": 2560, "height": 1600}, "device_scale_factor": 0.5},
    "zoomed in": {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
"""Zoom of a browser is a viewport of fewer, larger pixels."""
PUT_MARK = """async (image, [x, y, radius]) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#787878";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#ff00ff";
  pen.arc(x + 0.5, y + 0.5, radius, 0, 7);
  pen.fill();
  image.src = canvas.toDataURL();
  await image.decode();
  const box = image.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  scrollBy({ top: box.top + box.height / 2 + (y - canvas.height / 2) * scale - innerHeight / 2, behavior: "instant" });
}"""
"""Puts a grey picture of the same size with a mark in the place of the one that an element shows, and the mark into view."""


def radius_of(size: tuple[int, int]) -> float:
    """Of a mark, in pixels of the picture."""
    return max(size) / 60 + 1


def put_mark(image: Any, share: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """A mark on the picture that ``image`` shows; the picture's width and height, and the pixel in the middle of the mark."""
    image.scroll_into_view_if_needed()  # a lazy one is not fetched while it is off the screen
    image.page.wait_for_function("image => image.naturalWidth", arg=image.element_handle())
    size = tuple(image.evaluate("image => [image.naturalWidth, image.naturalHeight]"))
    at = tuple(round(part * side) for part, side in zip(share, size, strict=True))
    image.evaluate(PUT_MARK, [*at, radius_of(size)])
    return size, at


def mark_seen(page: Any) -> tuple[float, float] | None:
    """Where the mark is on the screen, if it is."""
    shot = numpy.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)
    scale = shot.shape[1] / page.evaluate("innerWidth")
    rows, columns = numpy.nonzero(numpy.abs(shot - MARK).max(-1) < 90)
    return ((columns.mean() + 0.5) / scale, (rows.mean() + 0.5) / scale) if len(rows) else None


def presser(page: Any, device: str) -> Callable[[float, float], None]:
    """How somebody with this device presses a place on the screen."""
    return page.touchscreen.tap if DEVICES[device].get("has_touch") else page.mouse.click


def check(sent: Any, at: Any, size: tuple[int, int], image: Any, what: str) -> None:
    """``sent`` is the pixel ``at`` of a picture of this size, to two pixels of the screen or one of the picture."""
    box = image.bounding_box()
    pixel = min(box["width"] / size[0], box["height"] / size[1])
    off = max(abs(a - b) for a, b in zip(sent, at, strict=True))
    assert off <= max(2 / pixel, 1), f"{what}: {sent} instead of {at}"


def fill_the_screen(block: Any) -> None:
    """To full screen, with the button on the picture."""
    block.get_by_label("Fullscreen").click()
    block.page.locator(".block.fullscreen").wait_for()
    box = at_rest(block)
    width, height = block.page.evaluate("[innerWidth, innerHeight]")
    assert box["y"] + box["height"] <= height + 1 and box["x"] + box["width"] <= width + 1


def leave_full_screen(page: Any) -> None:
    page.keyboard.press("Escape")
    expect(page.locator(".block.fullscreen")).to_have_count(0)


# --- pictures of all shapes, on a page of our own -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clicked() -> Iterator[SimpleNamespace]:
    """A page with a picture that takes clicks; what the server was told of them."""
    told: list[Any] = []
    sizes = list(SIZES.values())

    def note(event: gr.SelectData) -> None:
        told.append(event.index)

    def build() -> None:
        number = gr.Number(0, label="Case", precision=0)
        look = {"buttons": ["fullscreen"], "elem_classes": ["frame", "clicked"], "show_label": False}
        picture = gr.Image(type="pil", format="png", interactive=False, **look)
        number.submit(lambda n: Image.new("RGB", sizes[n]), number, picture, **LIGHT)
        picture.select(note, None, None, **LIGHT)

    with page_of(build) as url:
        yield SimpleNamespace(url=url, told=told)


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_of_all_shapes(browser, clicked, device):  # noqa: F811
    """Small pictures and large ones, upright and wide."""
    context = browser.new_context(**DEVICES[device])
    page = context.new_page()
    page.goto(clicked.url)
    press, image, block = presser(page, device), page.locator(".clicked img"), page.locator(".clicked")
    cases = enumerate(zip(SIZES.items(), PLACES, strict=True))
    for full, (number, ((name, size), share)) in itertools.product((False, True), list(cases)):
        page.get_by_label("Case").fill(str(number))
        page.get_by_label("Case").press("Enter")
        page.wait_for_function(
            "width => document.querySelector('.clicked img')?.naturalWidth === width", arg=size[0], timeout=RUN_MS
        )
        if full:
            fill_the_screen(block)
        _size, at = put_mark(image, share)
        at_rest(image)
        clicked.told.clear()
        with page.expect_response(lambda answer: "/run/" in answer.url, timeout=RUN_MS):
            press(*mark_seen(page))
        assert len(clicked.told) == 1
        check(clicked.told[0], at, size, image, f"{device}, {name}, full screen {full}")
        if full:
            leave_full_screen(page)
    context.close()


# --- the studio's own -----------------------------------------------------------------------------------------------------


class Picker(Visit):
    """The studio on a device of :data:`DEVICES`."""

    def __init__(self, browser: sync_api.Browser, url: str, device: str) -> None:  # noqa: F811
        super().__init__(browser, url, "light", **DEVICES[device])
        self.device, self.press = device, presser(self.page, device)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()
        self.page.locator(".studio-run:visible").wait_for()

    def free(self) -> None:
        """What the last click asked for is there, and no message covers the page."""
        expect(self.page.locator(".studio-run:visible")).not_to_have_attribute("aria-disabled", "true")
        self.page.evaluate("document.querySelectorAll('.toast-close').forEach(node => node.click())")
        expect(self.page.locator(".toast-body")).to_have_count(0)

    def press_mark(self, image: Any, share: tuple[float, float], words: str) -> tuple[Any, Any, dict[str, Any]]:
        """Press a mark on ``image``; the picture's size, the marked pixel, and the request with ``words`` that follows."""
        for _ in range(3):  # the page may put another picture there, once, for what it knows by now
            size, at = put_mark(image, share)
            at_rest(image)
            if seen := mark_seen(self.page):
                break
        assert seen, f"{self.device}: the mark at {share} is out of sight"
        with self.page.expect_request(lambda request: words in (request.post_data or "")) as asked:
            self.press(*seen)
        return size, at, asked.value.post_data_json

    def picture(self, where: str) -> None:
        """Press a picture that takes clicks, in the page and in full screen."""
        image = self.page.locator(f"{where} img")
        for full, share in zip((False, False, True, True), PLACES, strict=True):
            self.free()
            if full and not self.page.locator(".block.fullscreen").count():
                fill_the_screen(self.page.locator(where))
            size, at, sent = self.press_mark(image, share, "event_data")
            check(sent["event_data"]["index"], at, size, image, f"{self.device}, {where}, full screen {full}")
        self.free()
        leave_full_screen(self.page)

    def brush(self, photo: Path) -> None:
        """Touch a picture with the smallest brush."""
        self.page.get_by_label("My own picture", exact=True).check()
        self.page.locator(".georemover-photo input[type=file]").set_input_files(photo)
        canvas, image = self.page.locator(".painter-canvas:visible"), self.page.locator("img.painter-picture:visible")
        canvas.evaluate("canvas => (canvas.style.opacity = 0)")  # the mark is looked for in its true colour
        self.page.locator(".painter-size:visible").fill("4")
        for share in PLACES[::2]:
            self.free()
            self.page.locator(".painter-clear:visible").click()
            self.page.locator(".mask-line:visible", has_text="Nothing is marked").wait_for()
            size, at, sent = self.press_mark(image, share, '"mask":"data:')
            (mask,) = [value["mask"] for value in sent["data"] if isinstance(value, dict) and "mask" in value]
            drawn = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(mask.split(",")[1]))))[..., 3]
            assert drawn.shape == size[::-1]
            rows, columns = numpy.nonzero(drawn > 127)
            check((columns.mean(), rows.mean()), at, size, image, f"{self.device}, the brush")


@pytest.mark.parametrize("device", DEVICES)
def test_the_studios_own_pictures(browser, served, device, tmp_path):  # noqa: F811
    """The scene in which an object is chosen, the portrait in which a face is, and the brush of the mask: what the server is sent."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (900, 640), "grey").save(photo)
    visit = Picker(browser, served, device)
    visit.open("GeoRemover")
    visit.picture(".georemover-scene")
    visit.brush(photo)
    visit.open("MegaPortrait")
    visit.picture(".megaportrait-reference")
    visit.context.close()
    assert not visit.outside and not visit.problems
