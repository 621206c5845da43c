"""Every drop zone of the page: a file that is refused gets a sentence and leaves its zone, and may be dropped again."""

from __future__ import annotations

import re

import pytest

from tests.browser.test_studio import CHROMIUM, WIDE, Visit, browser, expect, sync_api  # noqa: F401

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]

FOLD, PART, CHOICE = "fold", "part", "choice"
ZONES = {
    "Golden Noise": [(".restore", "x.png")],
    "GeoRemover": [
        ((CHOICE, "My own picture"), ".georemover-photo", "x.png"),
        ((CHOICE, "A rendered scene"), (FOLD, "Mask tools"), ".georemover-mask", "x.png"),
        ((FOLD, "Edit or bring"), ".georemover-depth-file", "x.png"),
        ((FOLD, "Settings"), ".restore", "x.png"),
        ((PART, "Batch"), ".georemover-zip", "x.zip"),
    ],
    "MegaPortrait": [
        (".megaportrait-photo", "x.png"),
        ((CHOICE, "My own pictures"), ".megaportrait-pictures", "x.png"),
        ((FOLD, "Keep, download"), ".megaportrait-person", "x.zip"),
        ((FOLD, "Advanced"), ".restore", "x.png"),
    ],
    "Concept Guidance": [
        ((PART, "Make your own"), ".examples-file", "x.csv"),
        (".load-concept", "x.safetensors"),
    ],
}
"""Tab -> what to open, the zone, and a name that it takes; what is in the file it cannot take."""


@pytest.mark.parametrize("tab", ZONES)
def test_a_refused_file_leaves_its_zone_and_may_come_again(browser, served, tab):  # noqa: F811
    visit = Visit(browser, served, "dark", **WIDE)
    page = visit.page
    page.set_default_timeout(60_000)
    opened = page.get_by_role("tab", name=tab, exact=True)
    if not opened.count():
        pytest.skip("this tab is not shown without its models")
    opened.click()
    for *ways, where, name in ZONES[tab]:
        for kind, words in ways:
            if kind == FOLD:
                page.locator("button.label-wrap:visible", has_text=words).first.click()
            elif kind == PART:
                page.locator(".parts:visible").get_by_role("tab", name=words, exact=True).click()
            else:
                page.get_by_label(words, exact=True).locator("visible=true").check()
        zone = page.locator(f"#paper-{tab.lower().replace(' ', '_')} {where}").first
        for _again in range(2):
            file = {"name": name, "mimeType": "application/octet-stream", "buffer": b"nothing of the kind"}
            zone.locator("input[type=file]").set_input_files(file)
            page.locator(".toast-body").first.wait_for()
            expect(zone).to_contain_text(re.compile("Drop File Here"), timeout=60_000)
            page.locator(".toast-close").first.click()
            expect(page.locator(".toast-body")).to_have_count(0)
    visit.context.close()
    assert not visit.outside
