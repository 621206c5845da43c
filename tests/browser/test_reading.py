"""The page is there for all: axe-core finds nothing of ours, and whole jobs are done by keys alone.

Of Gradio's own we cannot mend the editor of depth maps, which paints by mouse only: a depth from a file does its job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy
import pytest

from demos.core import tabs
from demos.georemover import scenes
from tests.browser import test_studio
from tests.browser.reading import in_both_schemes, needs_axe
from tests.browser.test_studio import PHONE, Visit, browser, expect, sync_api  # noqa: F401

pytestmark = test_studio.pytestmark

LAPTOP = {"viewport": {"width": 1280, "height": 720}}
OUTSIDE = """() => {
  const inside = (node) => {
    for (let one = node.parentElement; one; one = one.parentElement) {
      if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(one).overflowX)) return true;
    }
  };
  return [...document.querySelectorAll("table, svg.chart, pre, img")].filter((node) => node.offsetParent && !inside(node))
    .map((node) => [node, node.getBoundingClientRect()]).filter(([, box]) => box.right > innerWidth + 1)
    .map(([node, box]) => `${node.tagName} ${node.className} to ${Math.round(box.right)}`);
}"""
"""Tables, charts and pictures that stick out of the window and cannot be scrolled where they are."""
FOCUSED = "node => node === document.activeElement"
UNSEEN_FOCUS = """() => {
  const node = document.activeElement, rings = [];
  for (let one = node; one && one !== document.body && rings.length < 4; one = one.parentElement) {
    const look = getComputedStyle(one);
    rings.push((look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2) || look.boxShadow !== "none");
  }
  return node === document.body || rings.some(Boolean) ? "" : node.outerHTML.slice(0, 160);
}"""
"""What has the focus, where no ring shows it."""


UNFOLD = """() => document.querySelectorAll("details:not([open]) > summary, button.label-wrap:not(.open)")
  .forEach((fold) => fold.offsetParent && fold.click())"""
MOVING = """() => [...document.querySelectorAll("*")].filter((node) => {
  const { transitionDuration, animationDuration, animationName } = getComputedStyle(node);
  return parseFloat(transitionDuration) > 0.01 || (animationName !== "none" && parseFloat(animationDuration) > 0.01);
}).map((node) => node.outerHTML.slice(0, 120))"""


@pytest.fixture
def visit(browser, served) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, served, "light", reduced_motion="reduce", **LAPTOP)
    yield visit
    visit.context.close()
    assert not visit.outside and not visit.problems


def opened(visit: Visit) -> Iterator[str]:
    """Each tab, and each part of it with all that folds opened; the name of each."""
    page = visit.page
    for tab in tabs.discover():
        page.get_by_role("tab", name=tab.name, exact=True).click()
        page.locator(".studio-run:visible").first.wait_for()
        parts = page.locator(".papers [role=tabpanel]:visible .parts [role=tab]:visible").all_inner_texts() or [""]
        for part in parts:
            if part:
                page.locator(".parts [role=tab]:visible", has_text=re.compile(f"^{re.escape(part)}$")).click()
            page.evaluate(UNFOLD)
            page.wait_for_timeout(700)
            yield f"{tab.name} {part}"


@needs_axe
def test_axe_finds_nothing_in_any_tab_as_it_opens(visit: Visit):
    """With the results that the tabs open with, light and dark; and who wants no motion sees none."""
    for tab in tabs.discover():
        visit.page.get_by_role("tab", name=tab.name, exact=True).click()
        visit.page.locator(".studio-run:visible").first.wait_for()
        visit.page.wait_for_timeout(600)
        found = in_both_schemes(visit.page)
        assert not found, "\n".join([tab.name, *found])
        assert not visit.page.evaluate(MOVING)


@needs_axe
@pytest.mark.long
@pytest.mark.parametrize("device", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_axe_finds_nothing_in_all_that_opens(browser, served, device):  # noqa: F811
    """Every part and fold of every tab; nothing there is wider than the window."""
    visit = Visit(browser, served, "light", **device)
    for name in opened(visit):
        found = in_both_schemes(visit.page)
        assert not found, "\n".join([name, *found])
        assert visit.overflow() <= 0 and not visit.page.evaluate(OUTSIDE), name
    visit.context.close()


@needs_axe
@pytest.mark.long
def test_axe_finds_nothing_in_what_the_labs_show_and_in_messages(visit: Visit):
    page = visit.page
    visit.set("Steps", 2)
    visit.part("Win-rate lab")
    visit.set("Number of seeds", 4)
    page.get_by_role("button", name="Run the lab").click()
    visit.wait_for("done", ".lab-line")
    visit.prompt.fill(" ")
    visit.run.click()
    visit.message("prompt")
    found = in_both_schemes(page)
    page.get_by_role("tab", name="Concept Guidance", exact=True).click()
    visit.part("Token heat map")
    page.get_by_label("a text of my own").check()
    page.get_by_label("Text to read").fill("Dear guest, the goat eats postcards.")
    page.get_by_role("button", name="Read", exact=True).click()
    visit.wait_for("done", ".heat-line")
    found += in_both_schemes(page)
    visit.part("Make your own")
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Train", exact=True).click()
    visit.wait_for("done", ".make-line")
    found += in_both_schemes(page)
    assert not found, "\n".join(found)
    visit.problems.clear()  # the refusal


# --- keys ---


def press(visit: Visit, *keys: str) -> None:
    for key in keys:
        visit.page.keyboard.press(key)


def reach(visit: Visit, wanted: sync_api.Locator, most: int = 250) -> None:
    """Press Tab until ``wanted`` has the focus, and see on the way that the focus is seen."""
    for _ in range(most):
        if wanted.evaluate(FOCUSED):
            return
        press(visit, "Tab")
        unseen = visit.page.evaluate(UNSEEN_FOCUS)
        assert not unseen, f"no ring shows the focus on {unseen}"
    pytest.fail(f"{wanted} is not reached by {most} Tabs")


def test_sliders_pictures_and_the_brush_obey_keys(visit: Visit):
    """Two pictures under a slider, a click on a picture and a painted mask, without a mouse; the focus is seen."""
    page = visit.page
    slider = page.locator(".slide [role=slider]")
    slider.focus()
    press(visit, "ArrowRight", "ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "10")
    cut = page.locator(".slide img.fixed").evaluate("image => image.style.clipPath")
    assert float(re.search(r"([\d.]+)%", cut)[1]) == pytest.approx(10, abs=0.5)
    for key, value in {"End": "100", "PageDown": "75", "Home": "0"}.items():
        press(visit, key)
        expect(slider).to_have_attribute("aria-valuenow", value)

    page.get_by_role("tab", name="GeoRemover", exact=True).click()
    scene = page.locator(".georemover-scene button:has(> .image-frame)")
    scene.wait_for()
    visit.traffic.settle()
    page.locator(".georemover-scene").get_by_role("button", name="Fullscreen").focus()
    reach(visit, scene, 2)
    expect(page.locator("#picture-cross")).to_be_visible()
    other = next(number for number in range(len(scenes.first().names)) if number != scenes.first().index)
    rows, columns = numpy.nonzero(scenes.first().solids[other])
    height, width = scenes.first().solids[other].shape
    for at, middle, back, on in (
        (columns, width / 2, "ArrowLeft", "ArrowRight"),
        (rows, height / 2, "ArrowUp", "ArrowDown"),
    ):
        steps = round((numpy.median(at) - middle) / (0.02 * max(width, height)))
        press(visit, *[on if steps > 0 else back] * abs(steps))
    press(visit, "Enter")
    expect(page.get_by_role("radio", name=scenes.first().names[other], exact=True)).to_be_checked()

    page.get_by_label("Brush over it").focus()
    press(visit, "Space")
    canvas, mask = page.locator(".painter-canvas:visible"), page.locator(".mask-line")
    canvas.wait_for()
    visit.traffic.settle()
    clicked = mask.inner_text()
    page.get_by_label("Size of the brush").focus()
    press(visit, "End", "Tab")
    assert canvas.evaluate(FOCUSED) and not page.evaluate(UNSEEN_FOCUS)
    press(visit, "Shift+ArrowLeft", "Space", *["ArrowDown"] * 4, "Space")
    expect(page.locator(".painter-keys")).to_contain_text("Brush lifted")
    expect(mask).not_to_have_text(clicked)


@pytest.mark.long
@pytest.mark.parametrize("name", [tab.name for tab in tabs.discover()])
def test_a_run_is_begun_and_stopped_by_keys_alone(visit: Visit, name: str):
    """By Tab and Enter, and by the keys that the page tells of; in the dark the focus is seen as well."""
    page = visit.page
    page.evaluate("document.body.classList.add('dark')")
    reach(visit, page.get_by_role("tab", name=name, exact=True))
    press(visit, "Enter")
    run, stop = page.locator(".studio-run:visible").first, page.locator(".studio-stop:visible").first
    run.wait_for()
    chip = page.locator(".chips .example:visible").first
    message = page.get_by_label("Your message").locator("visible=true")
    for start, *keys in ((chip, "Enter", "Enter"), (run, "Enter", "Enter"), (None, "Control+Enter", "Escape")):
        if start is not chip and message.count():  # an answered question is gone from its box
            reach(visit, message)
            press(visit, "Control+a", *"Hens", "Tab")
        if start:
            reach(visit, start)
        press(visit, keys[0])
        visit.wait_for("running", "*")
        if start:
            reach(visit, stop)
        press(visit, keys[1])
        visit.wait_for("stopped or done", "*")
        # Tab went through dropdowns: none is left open.
        expect(page.locator("[role=combobox][aria-expanded=true]:not(:focus)")).to_have_count(0)
    visit.traffic.settle()


@pytest.mark.long
def test_a_pair_is_drawn_and_looked_at_by_keys(visit: Visit):
    page = visit.page
    reach(visit, visit.prompt)
    press(visit, "Control+a")
    page.keyboard.type("a red cube on tiles")
    reach(visit, page.get_by_label("number input for Steps"))
    press(visit, "Control+a", "2", "Tab", "Control+Enter")
    visit.wait_for("running")
    visit.wait_for("done")
    reach(visit, page.locator(".slide [role=slider]"))
    press(visit, "ArrowRight")
    expect(page.locator(".slide [role=slider]")).to_have_attribute("aria-valuenow", "5")
    reach(visit, page.get_by_role("button", name="Inspect the noise"))
    press(visit, "Enter")
    page.locator(".heat img").wait_for()
    reach(visit, page.locator(".history-strip .thumbnail-item").first)
    press(visit, "Enter")
    page.get_by_text("Brought back from your results").wait_for()


@pytest.mark.long
def test_an_answer_is_asked_for_and_read_by_keys(visit: Visit):
    page = visit.page
    reach(visit, page.get_by_role("tab", name="Concept Guidance", exact=True))
    press(visit, "Enter")
    reach(visit, page.get_by_label("number input for Strength 1"))
    press(visit, "Control+a", *"0.2", "Tab")
    reach(visit, page.get_by_label("Your message"))
    page.keyboard.type("What does the goat eat?")
    press(visit, "Enter")
    visit.wait_for("done", ".chat-line")
    page.evaluate("document.activeElement.blur()")
    reach(visit, page.get_by_role("tab", name="Token heat map", exact=True))
    press(visit, "Enter")
    reach(visit, page.locator(".heatmap input:checked"))
    before = page.locator(".profile:visible").inner_text()
    press(visit, "ArrowRight")
    assert page.locator(".profile:visible").inner_text() != before


@pytest.mark.long
def test_a_picture_speaks_on_a_phone(browser, served):  # noqa: F811
    """All parts of the tab are in sight, and the table scrolls inside itself."""
    visit = Visit(browser, served, "light", **PHONE)
    visit.page.get_by_role("tab", name="InstantStyle", exact=True).click()
    visit.part("Style of a picture")
    visit.page.get_by_role("button", name="Take this scene").locator("visible=true").click()
    visit.page.get_by_text("scene_912795", exact=True).locator("visible=true").wait_for()
    visit.page.locator(".studio-run:visible").click()
    visit.wait_for("done")
    assert visit.page.locator(".paints:visible").count() == 1 and visit.overflow() <= 0
    visit.context.close()
    assert not visit.outside and not visit.problems
