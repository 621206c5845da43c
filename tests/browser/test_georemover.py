"""A visitor of the GeoRemover tab in a real browser: wide and on a phone, light and dark.

The tab is on its own models; nothing here says how good a result is.
"""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import numpy
import pytest
from PIL import Image, ImageOps

import app
from demos.georemover import run, scenes
from demos.georemover.scenes import FIRST_MASK, first
from pipelines.core import images
from tests.browser.test_studio import CHROMIUM, SEEN, WIDE, Visit, at_rest, browser, expect, sync_api  # noqa: F401
from tests.environment import free_port

PHONE = {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True}
RUN_MS = 240_000
"""The first run loads the models on a busy machine."""
pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A studio with the tab, launched in this process."""
    page, port = app.build(app.from_environment()), free_port()
    app.serve(page, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


class Remover(Visit):
    """The tab's page."""

    def __init__(self, *arguments: object, **device: object) -> None:
        super().__init__(*arguments, **device)
        self.page.get_by_role("tab", name="GeoRemover", exact=True).click()
        self.remove = self.page.get_by_role("button", name="Remove", exact=True)
        self.remove.wait_for()
        self.said = self.page.locator(".georemover-line:visible .progress-line").first

    def ends(self, words: str = "Done in") -> None:
        """Wait until the line says so, in other words than when it was read last."""
        said = re.compile(rf"^\s*{words}")
        fresh = self.page.locator(".georemover-line:visible .progress-line:not([data-seen])", has_text=said)
        fresh.wait_for(timeout=RUN_MS)
        self.page.evaluate(SEEN)

    def goes(self) -> None:
        self.page.locator(".georemover-line .progress-line.running:visible").first.wait_for()

    def fast(self) -> None:
        """Few steps, so that the tests do not take long."""
        self.fold("Settings")
        self.steps(4)

    def steps(self, number: int) -> None:
        for stage in ("1 steps, geometry", "2 steps, rendering"):
            self.set(f"Stage {stage}", number)

    def fold(self, name: str) -> None:
        """Open or close an accordion."""
        head = self.page.locator("button.label-wrap:visible", has_text=name).first
        was = "open" in (head.get_attribute("class") or "")
        head.click()
        expect(head).to_have_class(re.compile(r"^(?!.*\bopen\b)" if was else r"\bopen\b"))
        at_rest(head)

    def press(self, name: str) -> None:
        """A button with this text: pictures have small ones that are only called so."""
        self.page.locator("button:visible", has_text=re.compile(rf"^\s*{re.escape(name)}\s*$")).click()

    def source(self, label: str) -> str:
        """Where the picture with this label comes from; empty without one."""
        image = self.page.get_by_alt_text(label, exact=True)
        return (image.first.get_attribute("src") or "") if image.count() else ""

    def seen(self, label: str) -> numpy.ndarray:
        """The picture with this label, RGB."""
        file = self.page.request.get(urljoin(self.page.url, self.source(label))).body()
        return numpy.asarray(Image.open(io.BytesIO(file)).convert("RGB"), int)

    def pick(self, name: str) -> None:
        self.page.get_by_label(name, exact=True).check()

    def save(self, name: str, path: Path) -> str:
        """Press a download button; the name that the file was given."""
        with self.page.expect_download() as download:
            self.page.locator("a:visible, button:visible").filter(has_text=name).last.click()
        download.value.save_as(path)
        return download.value.suggested_filename

    def looks(self, part: sync_api.Locator, right: Callable[[numpy.ndarray], bool]) -> None:
        """Wait until a part of the page looks right, and the same for a while."""
        before, same = b"", 0
        for _ in range(600):
            shot = part.screenshot()
            same = (
                same + 1
                if shot == before and right(numpy.asarray(Image.open(io.BytesIO(shot)).convert("L"), int))
                else 0
            )
            if same == 3:
                return
            before = shot
            self.page.wait_for_timeout(100)
        raise AssertionError("it does not come to look so")

    # The mask: its line follows every change.

    def area(self) -> float:
        found = re.search(r"([\d.]+) %", self.page.locator(".mask-line:visible").inner_text())
        return float(found[1]) if found else 0.0

    def area_is(self, wanted: float, off: float = 0.25) -> None:
        self.page.wait_for_function(AREA + " && Math.abs(area - wanted) <= off }", arg={"wanted": wanted, "off": off})

    def area_left(self, was: float) -> float:
        """Wait until the line tells of another area than ``was``; that area."""
        self.page.wait_for_function(AREA + " && Math.abs(area - wanted) > 0.05 }", arg={"wanted": was})
        return self.area()

    def stroke(self, dx: float = 45, dy: float = 0) -> float:
        """Paint (or erase) around the middle of the picture; the area after it."""
        was, canvas = self.area(), self.page.locator(".painter-canvas:visible")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x - dx, y + dy)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=6)
        self.page.mouse.up()
        return self.area_left(was)


AREA = """({ wanted, off }) => {
  const line = [...document.querySelectorAll(".mask-line")].find((node) => node.offsetParent);
  const area = line ? Number((line.innerText.match(/([0-9.]+) %/) || [0, 0])[1]) : NaN;
  return line"""


def visit_of(browser, address: str, theme: str, device: dict) -> Iterator[Remover]:  # noqa: F811
    visit = Remover(browser, address, theme, **device)
    yield visit
    visit.context.close()
    assert not visit.outside, "the page asked somebody else"
    assert not [problem for problem in visit.problems if "the server responded with a status" not in problem]


@pytest.fixture(params=[("light", WIDE), ("dark", PHONE)], ids=["wide-light", "phone-dark"])
def remover(request, browser, address) -> Iterator[Remover]:  # noqa: F811
    yield from visit_of(browser, address, *request.param)


@pytest.fixture
def wide(browser, address) -> Iterator[Remover]:  # noqa: F811
    yield from visit_of(browser, address, "dark", WIDE)


@pytest.fixture
def phone(browser, address) -> Iterator[Remover]:  # noqa: F811
    yield from visit_of(browser, address, "light", PHONE)


def test_one_press_shows_the_claim(remover: Remover, tmp_path: Path):
    """The first scene, removed; beside it what others do; a download, and the download restored; every part fits the screen."""
    assert remover.overflow() <= 0
    remover.remove.click()
    remover.ends()
    for label in ("Depth of the picture, near is bright", "Depth without the object, near is bright"):
        assert remover.source(label)
    board = remover.page.locator(".facts-board:visible")
    assert "Residual effect" in board.inner_text() and "Mask only" in board.inner_text()
    assert remover.page.locator(".beside-each-other:visible img").count() == 4
    assert remover.page.locator(".georemover-slide:visible img").count() >= 2
    assert remover.page.locator(".toast-body").count() == 0, "nothing may complain"
    assert remover.overflow() <= 0

    path = tmp_path / "composite.png"
    assert remover.save("Download composite", path).endswith("_composite.png")
    inside = images.read_settings(path, tab="georemover")["settings"]
    assert inside["kind"] == "composite" and "seed" in inside["scene"]

    for name in ("Change heat map", "The raw strip of stage 2", "Edit or bring the depth after", "Roll a new scene",
                 "Mask tools", "How it works", "Use it from Python", "Settings"):  # fmt: skip
        remover.fold(name)
    assert remover.overflow() <= 0
    seed = remover.page.get_by_label("Removal seed", exact=True).locator("visible=true")
    seed.fill("5")
    remover.page.locator(".restore:visible input[type=file]").set_input_files(path)
    remover.message("Settings restored")
    expect(seed).to_have_value("0")
    for part in ("Batch", "Measured figures"):
        remover.page.locator(".parts:visible").get_by_role("tab", name=part, exact=True).click()
        remover.page.locator(".batch-line:visible, .board table.tally:visible, .remark:visible").first.wait_for()
        assert remover.overflow() <= 0


def test_brush_eraser_undo_mask_files_and_a_removal(wide: Remover, tmp_path: Path):
    """The brush goes on from the click; the line follows every change; a mask goes out and comes back, either way round."""
    clicked = wide.area()
    assert clicked > 1
    wide.fast()
    wide.pick("Brush over it")
    wide.page.locator(".painter-canvas:visible").wait_for()
    wide.area_is(clicked)
    drawn = wide.stroke(60, 60)
    assert drawn > clicked
    wide.press("Erase")
    erased = wide.stroke(60, 60)
    assert erased < drawn
    wide.press("Undo")
    wide.area_is(drawn, 0.01)
    wide.press("Undo")
    wide.area_is(clicked, 0.01)
    wide.press("Redo")
    wide.area_is(drawn, 0.01)

    wide.fold("Mask tools")
    wide.set("Grow or shrink the mask, pixels", 6)
    grown = wide.area_left(drawn)
    assert grown > drawn
    wide.set("Grow or shrink the mask, pixels", 2)
    wide.area_is(drawn, 0.01)
    path = tmp_path / "mask.png"
    assert wide.save("Download mask", path).endswith("_mask.png")
    wide.press("Clear")
    wide.page.locator(".mask-line:visible", has_text="Nothing is marked").wait_for()
    wide.remove.click()
    wide.message("Paint over the object first")

    drop = wide.page.locator(".georemover-mask input[type=file]")
    drop.set_input_files(path)
    wide.area_is(drawn, 0.01)
    wide.press("Erase")
    assert wide.stroke(150, 60) < drawn, "a mask from a file can be erased"
    kept = tmp_path / "kept.png"
    ImageOps.invert(Image.open(path)).save(kept)
    wide.pick("In mask files, white = keep")
    drop.set_input_files(kept)
    wide.area_is(drawn, 0.01)
    wide.press("Snap the strokes to the object")
    wide.area_left(drawn)
    wide.remove.click()
    wide.ends()
    assert wide.page.locator(".facts-board:visible").count() == 1


def test_a_photograph_is_brushed_and_only_what_was_marked_changes(phone: Remover, tmp_path: Path):
    photo = tmp_path / "garden.jpg"
    pixels = numpy.random.default_rng(1).integers(60, 200, (40, 60, 3), numpy.uint8)
    Image.fromarray(pixels).resize((1500, 1000), Image.Resampling.BICUBIC).save(photo)
    phone.fast()
    phone.fold("Settings")
    phone.pick("My own picture")
    phone.page.locator(".remark:visible", has_text="rendered tabletop scenes only").wait_for()
    phone.remove.click()
    phone.message("There is no picture yet")
    bad = tmp_path / "bad.png"
    bad.write_text("hello")
    drop = phone.page.locator(".georemover-photo input[type=file]")
    drop.set_input_files(bad)
    phone.message("not a picture that can be read")
    drop.set_input_files(photo)
    phone.page.locator(".painter-canvas:visible").wait_for()
    phone.page.locator(".mask-line:visible", has_text="Nothing is marked").wait_for()
    assert phone.overflow() <= 0
    assert phone.stroke() > 0, "the first stroke is told at once"
    phone.remove.click()
    phone.ends()
    assert "Self-checks" in phone.page.locator(".facts-board:visible").inner_text()
    path = tmp_path / "composite.png"
    phone.save("Download composite", path)
    made, original = (numpy.asarray(Image.open(p).convert("RGB"), int) for p in (path, photo))
    assert made.shape == original.shape
    if "random" not in phone.page.locator(".licence:visible").inner_text():  # random weights change everything
        assert (made[:20] == original[:20]).all() or (made[-20:] == original[-20:]).all()
    assert phone.overflow() <= 0


def test_the_stages_one_by_one_and_a_depth_of_ones_own(wide: Remover, tmp_path: Path):
    wide.fast()
    drawn_earlier = wide.source("Depth without the object, near is bright")
    wide.press("1 Estimate depth")
    wide.ends("Depth before done")
    assert wide.source("Depth without the object, near is bright") == drawn_earlier
    wide.press("2 Remove from depth")
    wide.ends("Depth after done")
    assert wide.source("Where the depth changed is bright")
    wide.press("3 Render")
    wide.ends()

    wide.fold("Edit or bring the depth after")
    wide.press("What if the depth had not changed?")
    wide.page.locator(".remark:visible", has_text="The depth did not change").first.wait_for(timeout=RUN_MS)
    wide.ends()

    label = "Depth without the object, near is bright"
    after, source = wide.seen(label), wide.source(label)
    wide.press("Paint over the depth after")
    editor = wide.page.locator(".georemover-editor:visible canvas").first
    editor.wait_for()
    editor.scroll_into_view_if_needed()
    wide.looks(editor, lambda shot: shot.std() > 10)  # it opens empty and puts its picture on later
    box = editor.bounding_box()
    wide.page.mouse.move(box["x"] + box["width"] / 2 - 30, box["y"] + box["height"] / 2)
    wide.page.mouse.down()
    wide.page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + box["height"] / 2, steps=8)
    wide.page.mouse.up()
    wide.traffic.settle()
    wide.press("Use what I painted")
    wide.page.locator(".remark:visible", has_text="3 Render uses your depth").wait_for()
    expect(wide.page.get_by_alt_text(label, exact=True).first).not_to_have_attribute("src", source)
    painted = numpy.abs(wide.seen(label) - after).max(-1) > 24
    assert 0.002 < painted.mean() < 0.3, "the stroke is in the depth, and little else"
    wide.press("Render from my depth")
    wide.ends()
    flat = tmp_path / "photo.png"
    Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 96, 3), numpy.uint8)).save(flat)
    wide.page.locator(".georemover-depth-file input[type=file]").set_input_files(flat)
    wide.message("This is no depth map")


def test_stop_variants_history_and_other_scenes(wide: Remover):
    wide.fast()
    wide.set("Variants", 2)
    wide.page.keyboard.press("Control+Enter")
    wide.ends()
    pictures = wide.page.locator(".variants:visible .thumbnail-item, .variants:visible button.thumbnail-lg")
    expect(pictures).to_have_count(2)
    shown = wide.page.locator(".georemover-slide img").last.get_attribute("src")
    pictures.nth(1).click()
    wide.page.wait_for_function(
        "shown => [...document.querySelectorAll('.georemover-slide img')].at(-1).src !== shown", arg=shown
    )
    wide.steps(60)
    wide.set("Variants", 4)
    wide.remove.click()
    wide.goes()
    wide.remove.click()
    wide.message("One run at a time")
    wide.page.keyboard.press("Escape")  # takes the message away
    expect(wide.page.locator(".toast-body")).to_have_count(0)
    wide.page.keyboard.press("Escape")
    wide.ends("Stopped. Stages that were finished are kept")

    # Another scene clears what belongs to the first; nothing is lost.
    wide.fold("Roll a new scene")
    wide.page.get_by_label("Scene seed").fill("45")
    wide.page.get_by_label("Objects", exact=True).click()
    wide.page.get_by_role("option", name="3", exact=True).click()
    wide.press("Render it")
    wide.page.wait_for_function("!document.querySelector('.facts-board')", timeout=RUN_MS)
    assert not wide.source("Depth of the picture, near is bright")
    expect(wide.said).to_contain_text("press Remove")
    objects = wide.page.locator("fieldset:visible", has_text="Object that is to go")
    expect(objects.locator("input[type=radio]")).to_have_count(3)
    was = wide.area()
    objects.locator("input[type=radio]").nth(2).check()
    wide.area_left(was)

    wide.page.locator(".history-strip:visible .thumbnail-item").first.click()
    wide.page.get_by_text("Brought back from your results").locator("visible=true").first.wait_for()
    expect(wide.page.get_by_label("number input for Variants")).to_have_value("2")
    assert wide.page.locator(".facts-board:visible").count() == 1

    # A click in the scene chooses.
    picture = first()
    rows, columns = numpy.nonzero(picture.solids[0])
    at = (float(numpy.median(columns)) / picture.image.width, float(numpy.median(rows)) / picture.image.height)
    expect(wide.page.get_by_label(picture.names[1], exact=True)).to_have_count(1)
    wide.page.get_by_label(picture.names[1], exact=True).check()
    scene = wide.page.locator(".georemover-scene img")
    scene.scroll_into_view_if_needed()
    box = scene.bounding_box()
    wide.page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 3)
    wide.message("There is no object here")
    wide.traffic.settle()  # a click while another one's answer is on its way is none
    wide.page.mouse.click(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
    expect(wide.page.get_by_label(picture.names[0], exact=True)).to_be_checked()


def test_a_batch(wide: Remover, tmp_path: Path):
    picture = tmp_path / "a.png"
    first().image.save(picture)
    packed = tmp_path / "many.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(picture, "a.png")
        archive.write(FIRST_MASK, "a_mask.png")
        archive.write(picture, "lonely.png")
    wide.fast()
    wide.part("Batch")
    wide.press("Run the batch")
    wide.message("There is no zip yet")
    wide.page.locator(".georemover-zip input[type=file]").set_input_files(packed)
    wide.page.locator(".georemover-zip", has_text="many").wait_for()
    wide.press("Run the batch")
    wide.page.locator(".batch-line .progress-line.done:visible").wait_for(timeout=RUN_MS)
    assert "There is no lonely_mask.png" in wide.page.locator(".board:visible").inner_text()
    assert wide.save("Download CSV", tmp_path / "table.csv") == "georemover.csv"
    assert wide.overflow() <= 0


def test_roll_and_remove_in_either_order_never_mix_two_scenes(wide: Remover, monkeypatch):
    """Remove waits for the scene that is being rolled; a run whose scene goes while it runs ends in the history, not beside the new one."""
    roll, write, may, ready = scenes.roll, run.write, threading.Event(), threading.Event()
    monkeypatch.setattr(scenes, "roll", lambda recipe: may.wait(RUN_MS) and roll(recipe))
    monkeypatch.setattr(run, "write", lambda *given: ready.wait(RUN_MS) and write(*given))
    ready.set()
    wide.fast()
    wide.fold("Roll a new scene")
    number = wide.page.get_by_label("Scene seed", exact=True)
    before = number.input_value()
    wide.press("Roll a new scene")
    expect(wide.remove).to_have_attribute("aria-disabled", "true")
    wide.remove.click(force=True)  # a click that does not wait
    wide.page.keyboard.press("Control+Enter")
    expect(number).not_to_have_value(before)
    assert wide.page.locator(".georemover-line .progress-line.idle:visible").count(), "the old scene was removed"
    seed = number.input_value()
    may.set()
    wide.remove.click()  # waits until it may
    wide.ends()
    assert number.input_value() == seed
    expect(wide.page.locator(".georemover-slide:visible img").first).to_be_visible()

    ready.clear()
    wide.remove.click()
    wide.goes()
    wide.press("Roll a new scene")
    expect(wide.page.locator(".georemover-slide:visible img")).to_have_count(
        0
    )  # the results of the scene before are gone
    ready.set()
    wide.page.locator(".georemover-line:visible .progress-line.done", has_text="in “Your results”").wait_for(
        timeout=RUN_MS
    )
    assert wide.page.locator(".georemover-slide:visible img").count() == 0
    assert not wide.source("Depth of the picture, near is bright")
    assert wide.page.locator(".facts-board:visible").count() == 0
    expect(wide.page.locator(".history-strip:visible img")).to_have_count(2)
    wide.page.locator(".history-strip:visible button").last.click()
    expect(wide.page.locator(".georemover-slide:visible img").first).to_be_visible()
