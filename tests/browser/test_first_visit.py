"""What a visitor has before him in his first minute, on a laptop and on a phone."""

from __future__ import annotations

import pytest

from demos.core import tabs
from tests.browser import test_studio
from tests.browser.test_studio import PHONE, WAIT_MS, Visit, browser, expect  # noqa: F401

pytestmark = test_studio.pytestmark

LAPTOP = {"viewport": {"width": 1280, "height": 720}}
FOLD = {"laptop": (LAPTOP, 720), "phone": (PHONE, 1.5 * PHONE["viewport"]["height"])}
"""Device, and the pixel row down to which the eye comes by itself; on a phone with one stroke of the thumb."""
ENDS = """(selector) => Math.min(...[...document.querySelectorAll(selector)].filter((node) => node.offsetParent)
  .map((node) => node.getBoundingClientRect().bottom + scrollY))"""


@pytest.mark.parametrize("name", FOLD)
def test_action_and_an_example_are_before_ones_eyes(browser, served, name):  # noqa: F811
    device, fold = FOLD[name]
    visit = Visit(browser, served, "light", **device)
    for tab in tabs.discover():
        visit.page.get_by_role("tab", name=tab.name, exact=True).click()
        visit.page.locator(".studio-run:visible").first.wait_for()
        for what in (".studio-run", ".chips button"):
            try:
                visit.page.wait_for_function(
                    f"([what, fold]) => ({ENDS})(what) <= fold", arg=[what, fold], timeout=WAIT_MS
                )
            except test_studio.sync_api.TimeoutError:
                at = visit.page.evaluate(ENDS, what)
                pytest.fail(f"{tab.name}: the first {what} ends at {at} px, below {fold}")
        assert visit.page.locator(".paper-card:visible").bounding_box()["height"] <= 0.25 * device["viewport"]["height"]
        assert visit.overflow() <= 0
    visit.context.close()


def test_a_message_is_headed_by_what_kind_it_is(browser, served):  # noqa: F811
    """Its title, for a refused run as for a refused file; Gradio itself heads all with "Error"."""
    visit = Visit(browser, served, "dark", **LAPTOP)
    head = visit.page.locator(".toast-title")
    visit.prompt.fill(" ")
    visit.run.click()
    visit.message("prompt")
    expect(head).to_have_attribute("data-title", "Not started")
    visit.page.locator(".toast-close").first.click()
    expect(head).to_have_count(0)
    file = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    visit.page.locator(".restore:visible input[type=file]").set_input_files(file)
    visit.message("PNG")
    expect(head).to_have_attribute("data-title", "Nothing was restored")
    visit.context.close()
