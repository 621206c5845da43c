"""How closely the page follows an answer that is being written, and what that costs the browser."""

from __future__ import annotations

import time

import psutil
import pytest

from pipelines.concept_guidance import Partial
from pipelines.core.lane import Job
from tests.browser.test_reading import visit  # noqa: F401
from tests.browser.test_studio import Visit, browser  # noqa: F401

LATE_S, BROWSER_S = 0.3, 3.0
"""From the making of the last token to its being on the screen; time of all the browser's processes from the click until all stands."""
WATCH = """() => {
  window.answerChanged = 0;
  let before = "";
  new MutationObserver(() => {
    const now = [...document.querySelectorAll(".chats [data-testid=bot]")].map((node) => node.innerText).join("|");
    if (now !== before) window.answerChanged = Date.now();
    before = now;
  }).observe(document.querySelector(".chats"), { subtree: true, childList: true, characterData: true });
}"""


def browser_seconds() -> float:
    """Processor time of every Chromium of this test."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                found += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.long
def test_an_answer_is_on_the_screen_as_it_is_made(visit: Visit, monkeypatch):  # noqa: F811
    made: list[float] = []
    emit = Job.emit

    def noted(job: Job, item: object) -> None:
        if isinstance(item, Partial):
            made.append(time.time())
        emit(job, item)

    page = visit.page
    page.get_by_role("tab", name="Concept Guidance", exact=True).click()
    ask = page.locator(".chips .example:visible").first
    ask.click()  # loads the model
    visit.wait_for("done", ".chat-line")
    visit.traffic.settle()
    page.evaluate(WATCH)
    monkeypatch.setattr(Job, "emit", noted)
    late, spent, tokens = [], [], []
    for _ in range(3):
        made.clear()
        before = browser_seconds()
        ask.click()
        visit.wait_for("done", ".chat-line")
        page.wait_for_timeout(1000)
        spent.append(browser_seconds() - before)
        late.append(page.evaluate("window.answerChanged") / 1000 - made[-1])
        tokens.append(page.locator(".chat-line .progress-line").inner_text())
    told = f"last token {late} s late, {spent} s of the browser's processes, {tokens}"
    assert min(late) <= LATE_S and min(spent) <= BROWSER_S, told
