"""The talk: through all papers by arrow keys alone, as a tour, by touch; and the map over the page."""

from __future__ import annotations

import pytest

from demos.core import tabs
from tests.browser import test_studio
from tests.browser.test_first_visit import LAPTOP
from tests.browser.test_studio import PHONE, Visit, browser, expect  # noqa: F401

pytestmark = test_studio.pytestmark
SLIDE = "#studio-talk [data-slide]:visible"


def test_all_papers_by_arrow_keys_alone_then_by_itself(browser, served):  # noqa: F811
    visit = Visit(browser, f"{served}", "light", **LAPTOP)
    page = visit.page
    page.get_by_role("button", name="Present", exact=True).press("Enter")
    slide = page.locator(SLIDE)
    expect(slide).to_have_attribute("data-slide", "claim")
    kinds = []
    while (kind := slide.get_attribute("data-slide")) != "map":
        kinds.append(kind)
        if kind == "live":  # the paper's own page, with its result
            panel = page.locator(f"#paper-{slide.get_attribute('data-paper')}")
            expect(panel.locator(".studio-run").first).to_be_visible()
            expect(page.locator(".top")).to_be_hidden()
        elif page.evaluate("innerHeight") == LAPTOP["viewport"]["height"]:
            assert page.evaluate("document.documentElement.scrollHeight - innerHeight") <= 0, f"{len(kinds)} {kind}"
        assert visit.overflow() <= 0
        page.keyboard.press("ArrowRight")
    assert kinds == ["claim", "live", "evidence", "limits"] * len(tabs.discover()) + ["table"]
    assert f"present={len(kinds) + 1}" in page.url
    page.keyboard.press("ArrowRight")
    expect(slide).to_have_attribute("data-slide", "map")

    # A tour, until a key is pressed.
    page.evaluate("document.querySelectorAll('[data-slide]').forEach(one => (one.dataset.seconds = 0.5))")
    page.get_by_role("button", name="Play").click()
    expect(slide).to_have_attribute("data-slide", "evidence")
    page.keyboard.press("Shift")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    held = page.url
    page.wait_for_timeout(1200)
    assert page.url == held
    page.keyboard.press("Escape")
    expect(page.locator(".top")).to_be_visible()
    assert "present" not in page.url
    assert not visit.outside and not visit.problems
    visit.context.close()


@pytest.mark.long
def test_a_field_keeps_its_arrows_and_a_run_its_escape(browser, served):  # noqa: F811
    visit = Visit(browser, served, "light", **LAPTOP)
    page, slide = visit.page, visit.page.locator(SLIDE)
    page.get_by_role("button", name="Present", exact=True).click()
    expect(slide).to_be_visible()
    page.keyboard.press("PageDown")
    expect(slide).to_have_attribute("data-slide", "live")
    visit.prompt.click()
    page.keyboard.press("ArrowRight")
    expect(slide).to_have_attribute("data-slide", "live")
    visit.set("Steps", 100)
    page.keyboard.press("Control+Enter")
    visit.wait_for("running")
    page.keyboard.press("Escape")
    visit.wait_for("stopped")
    expect(slide).to_have_attribute("data-slide", "live")
    page.reload()
    expect(slide).to_have_attribute("data-slide", "live")
    page.keyboard.press("PageDown")
    expect(slide).to_have_attribute("data-slide", "evidence")
    visit.context.close()


@pytest.mark.long
def test_on_a_phone_by_touch_and_the_map_leads_to_a_tab(browser, served):  # noqa: F811
    visit = Visit(browser, served, "dark", **PHONE)
    page, slide = visit.page, visit.page.locator(SLIDE)
    page.get_by_role("button", name="Present", exact=True).tap()
    for kind in ("claim", "live", "evidence", "limits"):
        expect(slide).to_have_attribute("data-slide", kind)
        assert visit.overflow() <= 0, kind
        page.get_by_role("button", name="Next").tap()
    page.get_by_role("button", name="Leave").tap()
    page.get_by_role("button", name="Where they steer").tap()
    sheet = page.get_by_role("dialog", name="Where each paper steers")
    expect(sheet).to_be_visible()
    assert visit.overflow() <= 0
    last = tabs.discover()[-1]
    sheet.get_by_role("button", name=last.name, exact=True).tap()
    expect(sheet).to_be_hidden()
    expect(page.locator(f"#paper-{last.slug}")).to_be_visible()
    assert not visit.outside and not visit.problems
    visit.context.close()
