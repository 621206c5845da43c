"""Take the README's pictures: `python -m tests.screenshots`. Needs Chromium, as the browser tests do.

Desktop and phone, light and dark: each tab after a finished run of an example; with ``--talk`` each slide of the talk.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.test_studio import CHROMIUM, FLAGS, PHONE, WIDE
from tests.environment import free_port


def keep(page: Page, path: Path, **asked: Any) -> None:
    """A picture of the page, lossless: half the bytes of a PNG."""
    Image.open(io.BytesIO(page.screenshot(**asked))).save(path, lossless=True, method=6)
    print(path)


def slides(page: Page, address: str, folder: Path, name: str) -> None:
    """Each slide of the talk."""
    page.goto(f"{address}&present=1")
    slide = page.locator("#studio-talk [data-slide]:visible")
    for number in range(1, 1000):
        slide.wait_for(timeout=300_000)
        page.wait_for_timeout(1500)
        keep(page, folder / f"talk-{number:02}-{name}.webp")
        if page.get_by_role("button", name="Next", exact=True).is_disabled():
            return
        page.keyboard.press("ArrowRight")


def main() -> None:
    # After tests.environment, which says where Gradio keeps its files: pictures made before would be refused.
    import app
    from demos.core import tabs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("assets/screenshots"))
    parser.add_argument("--example", type=int, default=0, help="which example to run")
    titles = {tab.slug.replace("_", "-"): tab.name for tab in tabs.discover()}
    parser.add_argument("--tabs", nargs="*", choices=tuple(titles), default=list(titles))
    parser.add_argument("--full", action="store_true", help="the whole page instead of the first screen")
    parser.add_argument("--talk", action="store_true", help="the slides of the talk instead of the tabs")
    parser.add_argument("--only", nargs="*", help="such as desktop-light phone-dark")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    app.serve(app.demo, "127.0.0.1", port, block=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, device in {"desktop": WIDE, "phone": PHONE}.items():
            for scheme in ("light", "dark"):
                if chosen.only and f"{name}-{scheme}" not in chosen.only:
                    continue
                if chosen.talk:
                    page = chromium.new_context(**device).new_page()
                    slides(page, f"http://127.0.0.1:{port}/?__theme={scheme}", chosen.folder, f"{name}-{scheme}")
                    page.context.close()
                for tab in [] if chosen.talk else chosen.tabs:
                    page = chromium.new_context(**device).new_page()
                    page.goto(f"http://127.0.0.1:{port}/?__theme={scheme}")
                    page.get_by_role("tab", name=titles[tab], exact=True).click()
                    page.locator(".chips button.example:visible").nth(chosen.example).click()
                    page.locator(".progress-line.done:visible").wait_for(timeout=300_000)
                    page.wait_for_timeout(5000)  # the status line has been renewed, the results have faded in
                    page.evaluate("scrollTo(0, 0)")
                    results = page.locator(".studio-results:visible").first
                    below = results.bounding_box()["y"] > device["viewport"]["height"] * 0.9
                    if below and not chosen.full:
                        results.evaluate("node => node.scrollIntoView({ block: 'start' })")
                    keep(page, chosen.folder / f"{tab}-{name}-{scheme}.webp", full_page=chosen.full)
                    page.context.close()
        chromium.close()
    app.demo.close()


if __name__ == "__main__":
    main()
