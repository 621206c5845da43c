"""Presses that come too early: while the answer to another press is on its way, nothing starts; two presses at once start one run."""

from __future__ import annotations

import re
import threading

import pytest

from tests.browser import test_studio
from tests.browser.test_studio import SEEN, WIDE, Visit, browser, expect, sync_api  # noqa: F401

pytestmark = [*test_studio.pytestmark, pytest.mark.long]

CASES = {
    "a prompt, then Run": ("Golden Noise", "", "Surprise me", "Run"),
    "a seed, then the lab": ("Golden Noise", "Win-rate lab", "New seed", "Run the lab"),
    "a scene, then Remove": ("GeoRemover", "", "Roll a new scene", "Remove"),
    "a scene, then its depth": ("GeoRemover", "", "Roll a new scene", "1 Estimate depth"),
    "a reference, then the portrait": ("MegaPortrait", "", "Roll a reference", "Make the portrait"),
    "a person, then training": ("MegaPortrait", "", "Roll a person", "Train this person"),
    "a seed, then Send": ("Concept Guidance", "", "New seed", "Send"),
    "examples, then Train": ("Concept Guidance", "Make your own", "Fill in an example", "Train"),
}
"""What is pressed: the tab, a part of it, the first button, and the one that starts a run."""
JOINS = re.compile(r"/gradio_api/(run/|queue/join)")


@pytest.mark.parametrize("case", CASES)
def test_a_press_while_another_is_on_its_way(browser: sync_api.Browser, served: str, case: str):  # noqa: F811
    tab, part, first, starts = CASES[case]
    visit = Visit(browser, served, "light", **WIDE)
    page = visit.page
    page.get_by_role("tab", name=tab, exact=True).click()
    paper = page.locator(f"#paper-{tab.lower().replace(' ', '_')}")
    if part:
        visit.part(part)
    if "scene" in first:
        paper.locator("button.label-wrap", has_text=first).first.click()
    if starts == "Send":
        page.get_by_label("Your message").fill("What does the goat eat?")
        page.get_by_label("Your message").blur()  # or the form is saved with the press that takes the focus
    earlier, run = (
        paper.get_by_role("button", name=name, exact=True).locator("visible=true").last for name in (first, starts)
    )
    expect(earlier).to_be_visible()
    visit.traffic.settle()

    waiting: list[sync_api.Route] = []
    answered = threading.Event()
    page.route(JOINS, lambda route: route.continue_() if answered.is_set() else waiting.append(route))
    earlier.dblclick()
    expect(run).to_have_attribute("aria-disabled", "true")
    run.click(force=True)
    run.dblclick(force=True)
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(200)  # the key waits a moment before it presses
    assert len(waiting) == 1, [route.request.post_data for route in waiting]
    answered.set()
    waiting[0].continue_()

    expect(run).not_to_have_attribute("aria-disabled", "true")
    visit.traffic.settle()
    page.evaluate(SEEN)
    runs: list[str] = []
    page.on("request", lambda request: runs.append(request.url) if "/queue/join" in request.url else None)
    run.dblclick()
    paper.locator(".progress-line:is(.running, .done):not([data-seen])").first.wait_for(timeout=test_studio.RUN_MS)
    assert len(runs) == 1 and page.locator(".toast-body").count() == 0
    visit.context.close()
    assert not visit.outside and not visit.problems
