"""The live switch: pictures follow the settings while they change, and give way to a run."""

from __future__ import annotations

import pytest

from tests.browser import test_studio
from tests.browser.test_reading import visit  # noqa: F401
from tests.browser.test_studio import RUN_MS, WAIT_MS, Visit, browser, expect  # noqa: F401

pytestmark = [*test_studio.pytestmark, pytest.mark.long]
SHOWN = "() => document.querySelector('.golden img').src"


def changes(visit: Visit, before: str) -> str:  # noqa: F811
    """The golden picture's address once it is another one than ``before``."""
    visit.page.wait_for_function(f"before => ({SHOWN})() !== before", arg=before, timeout=RUN_MS)
    return visit.page.evaluate(SHOWN)


def test_pictures_follow_the_settings_and_give_way_to_a_run(visit: Visit):  # noqa: F811
    page = visit.page
    line = page.locator("#paper-golden_noise .progress-line").first
    prompt, switch = page.locator("#golden-prompt textarea"), page.get_by_label("Live", exact=True)
    expect(line).to_contain_text("Drawn earlier")
    opened = page.evaluate(SHOWN)

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "queue/join" in request.url else None)
    prompt.fill("a green ball on a marble floor")
    page.wait_for_timeout(1500)
    assert not asked and page.evaluate(SHOWN) == opened  # off: the server hears nothing

    switch.check()
    first = changes(visit, opened)
    expect(line).to_contain_text("Live: 6 steps in")
    expect(line).to_contain_text("not judged and not kept")
    expect(page.locator("#paper-golden_noise .verdicts")).to_have_count(0)
    expect(page.get_by_text("Download golden PNG")).to_be_hidden()

    prompt.press("End")
    prompt.press_sequentially(" in front of a blue wall", delay=40)
    second = changes(visit, first)
    visit.traffic.settle()
    page.get_by_role("button", name="New seed").click()
    third = changes(visit, second if page.evaluate(SHOWN) == second else page.evaluate(SHOWN))

    prompt.fill("")
    expect(line).to_contain_text("Live: The prompt is empty")
    assert page.evaluate(SHOWN) == third
    expect(page.locator(".toast-body")).to_have_count(0)

    prompt.fill("a red cone on a wooden floor")
    page.locator("#paper-golden_noise .studio-run").click()  # at once, while the look is drawn or about to be
    visit.wait_for("done")
    expect(line).to_contain_text("Done: 25 steps")
    expect(page.locator("#paper-golden_noise .verdicts").first).to_be_visible()
    expect(page.locator(".toast-body")).to_have_count(0)
    visit.traffic.settle()
    expect(line).to_contain_text("Done: 25 steps", timeout=WAIT_MS)
