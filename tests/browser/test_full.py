"""The full set before anything is fetched: what a run needs, told on a phone, where the Hub cannot be reached."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demos.core import tabs
from tests.bench import serving
from tests.browser import test_studio
from tests.browser.test_studio import PHONE, Visit, browser, expect  # noqa: F401
from tests.environment import free_port

pytestmark = [*test_studio.pytestmark, pytest.mark.long]


def test_what_is_missing_is_told_in_every_tab_without_a_sideways_scroll(
    browser,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    port = free_port()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # where nobody listens
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with serving([sys.executable, "app.py", "--model-set", "full", "--port", str(port)], port):
        visit = Visit(browser, f"http://127.0.0.1:{port}", "light", **PHONE)
        for tab in tabs.discover():
            visit.page.locator(".papers > .tab-wrapper").first.get_by_role("tab", name=tab.name, exact=True).click()
            panel = visit.page.locator(f"#paper-{tab.slug}")
            expect(panel.locator(".obstacles").first).to_contain_text("the Hub cannot be reached")
            panel.locator(".preflight summary").first.click()
            assert visit.overflow() <= 0, tab.name
        assert visit.problems == []
