"""Addresses in a real browser: a copied link opened elsewhere makes the same bytes; Back, reload and files that are dropped anywhere."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from pipelines.core import images
from tests.browser.test_studio import CHROMIUM, WIDE, Visit, browser, expect, sync_api, wide  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]
DROP = """(file) => {
  const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "x.png", { type: "image/png" }));
  const there = document.querySelector(".masthead");
  return ["dragover", "drop"].map((kind) =>
    !there.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer })));
}"""


def chosen(page: sync_api.Page) -> sync_api.Locator:
    return page.locator(".papers > .tab-wrapper [role=tab][aria-selected=true]").first


def test_a_copied_link_opened_elsewhere_makes_the_same_bytes(browser: sync_api.Browser, served: str):  # noqa: F811
    first = Visit(browser, served, "light", **WIDE)
    first.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first.prompt.fill("a green cone & a white ball")
    first.seed.fill("123")
    first.set("Steps", 2)
    first.run.click()
    first.wait_for("done")
    first.page.locator("#paper-golden_noise a.copy-link").click()
    expect(first.page.locator("#paper-golden_noise .copied")).to_have_text("Copied.")
    address = first.page.evaluate("navigator.clipboard.readText()")
    made = first.context.request.get(first.picture("golden")).body()
    first.context.close()

    second = Visit(browser, served, "light", **WIDE)
    second.page.goto(address)
    expect(second.prompt).to_have_value("a green cone & a white ball")
    expect(second.seed).to_have_value("123")
    expect(second.line).to_contain_text("came with a link")
    assert urlsplit(second.page.url).query == "tab=golden_noise", "taken once"
    second.run.click()
    second.wait_for("done")
    assert second.context.request.get(second.picture("golden")).body() == made
    second.context.close()
    assert not first.problems and not second.problems


@pytest.mark.long
def test_the_address_follows_the_tab_and_a_reload_stays_there(wide: Visit):  # noqa: F811
    page = wide.page
    for name, slug in (("TIME", "time_edit"), ("GeoRemover", "georemover")):
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_url(f"**/*tab={slug}*")
    assert "__theme=light" in page.url
    page.go_back()
    expect(chosen(page)).to_have_text("TIME")
    page.go_back()
    expect(chosen(page)).to_have_text("Golden Noise")
    page.go_forward()
    expect(chosen(page)).to_have_text("TIME")
    page.reload()
    expect(chosen(page)).to_have_text("TIME")


@pytest.mark.long
def test_a_picture_that_is_dropped_anywhere_finds_its_tab(wide: Visit, tmp_path: Path):  # noqa: F811
    red = Image.new("RGB", (8, 8), "red")
    record = {"edits": "a ball => a red ball", "seed": 77}
    for name, tab in (("ours", "time_edit"), ("other", "elsewhere")):
        images.save_png(red, tmp_path / name, record, tab=tab)
    files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in tmp_path.iterdir()}
    assert wide.page.evaluate(DROP, files["other"]) == [True, True], "the browser does not show it in place of the page"
    wide.message("which this page does not have")
    wide.page.evaluate(DROP, files["ours"])
    expect(chosen(wide.page)).to_have_text("TIME")
    expect(wide.page.locator("#paper-time_edit").get_by_label("Seed", exact=True)).to_have_value("77")
