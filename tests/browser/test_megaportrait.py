"""A visitor of the MegaPortrait tab in a real browser: wide and on a phone, light and dark, on random models of toy size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image

import app
from demos.megaportrait.people import first_reference
from pipelines.core import images
from pipelines.megaportrait.recipes import EXAMPLES
from tests.browser.test_studio import CHROMIUM, PHONE, SEEN, WIDE, Visit, browser, expect  # noqa: F401
from tests.environment import free_port
from tests.toys import portrait as toy

RUN_MS = 240_000
"""The first run loads the models on a busy machine."""
pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A studio with the tab, launched in this process."""
    with toy.installed():
        page, port = app.build(app.from_environment()), free_port()
        app.serve(page, "127.0.0.1", port, block=False)
        yield f"http://127.0.0.1:{port}"
        page.close()


class Sitting(Visit):
    """The tab's page."""

    def __init__(self, *arguments: object, **device: object) -> None:
        super().__init__(*arguments, **device)
        self.page.get_by_role("tab", name="MegaPortrait", exact=True).click()
        self.make = self.page.get_by_role("button", name="Make the portrait", exact=True)
        self.make.wait_for()
        self.words = self.page.locator(".prose.megaportrait-words:visible")

    def ends(self, words: str = "Done in") -> None:
        """Wait until the line says so, in other words than when it was read last."""
        said = re.compile(rf"^\s*{words}")
        fresh = self.page.locator(".megaportrait-line:visible .progress-line:not([data-seen])", has_text=said)
        fresh.wait_for(timeout=RUN_MS)
        self.page.evaluate(SEEN)

    def pick(self, name: str) -> None:
        self.page.get_by_label(name, exact=True).check()

    def bring(self, path: Path) -> None:
        self.page.locator(".megaportrait-photo input[type=file]").set_input_files(path)

    def press_on_reference(self, across: float, down: float) -> None:
        """Click the reference at these shares of its width and height."""
        picture = self.page.locator(".megaportrait-reference img")
        picture.scroll_into_view_if_needed()  # a lazy one is not fetched while it is off the screen
        self.page.wait_for_function("image => image.naturalWidth", arg=picture.element_handle())
        box = picture.bounding_box()
        size = picture.evaluate("node => [node.naturalWidth, node.naturalHeight]")
        scale = min(box["width"] / size[0], box["height"] / size[1])  # it is shown whole, with bars beside it
        left = box["x"] + (box["width"] - scale * size[0]) / 2
        top = box["y"] + (box["height"] - scale * size[1]) / 2
        self.page.mouse.click(left + across * scale * size[0], top + down * scale * size[1])

    def save(self, name: str, path: Path) -> str:
        """Press a download button; the name that the file was given."""
        with self.page.expect_download() as download:
            self.page.locator("a:visible, button:visible").filter(has_text=name).last.click()
        download.value.save_as(path)
        return download.value.suggested_filename


def sitting_of(browser, address: str, theme: str, device: dict) -> Iterator[Sitting]:  # noqa: F811
    visit = Sitting(browser, address, theme, **device)
    yield visit
    visit.context.close()
    assert not visit.outside, "the page asked somebody else"
    assert not [problem for problem in visit.problems if "the server responded with a status" not in problem]


@pytest.fixture(params=[("light", WIDE), ("dark", PHONE)], ids=["wide-light", "phone-dark"])
def sitting(request, browser, address) -> Iterator[Sitting]:  # noqa: F811
    yield from sitting_of(browser, address, *request.param)


@pytest.fixture
def wide(browser, address) -> Iterator[Sitting]:  # noqa: F811
    yield from sitting_of(browser, address, "dark", WIDE)


@pytest.fixture
def phone(browser, address) -> Iterator[Sitting]:  # noqa: F811
    yield from sitting_of(browser, address, "light", PHONE)


def test_an_example_is_one_click(sitting: Sitting, tmp_path: Path):
    assert sitting.overflow() <= 0
    sitting.page.locator("button.label-wrap:visible", has_text="Strengths, seed and pace").click()
    sitting.pick("fast, 12 + 9 + 7")
    sitting.page.locator(".chips:visible button.example").nth(1).click()
    sitting.page.locator(".megaportrait-strip:visible", has_text="1. Reference").wait_for(timeout=RUN_MS)
    line = sitting.page.locator(".megaportrait-line:visible .progress-line").first
    expect(line).to_be_in_viewport()
    sitting.ends()
    expect(sitting.page.locator(".megaportrait-strip:visible li", has_text="Laid over")).to_have_count(1)
    expect(sitting.page.locator(".megaportrait-strip:visible li")).to_have_count(7)
    board = sitting.page.locator(".megaportrait-board:visible").inner_text()
    assert "Who it is" in board and "Measured against the truth" in board
    assert sitting.page.locator(".megaportrait-slide img").count() == 2
    expect(sitting.words).to_contain_text("One face")
    assert sitting.page.locator(".toast-body").count() == 0, "nothing may complain"
    assert sitting.overflow() <= 0
    path = tmp_path / "portrait.png"
    assert sitting.save("Download portrait", path) == "megaportrait_0.png"
    inside = images.read_settings(path, tab="MegaPortrait")["settings"]
    recipe = EXAMPLES[1]
    assert (
        inside["recipe"] == {"person": recipe.person, "reference": recipe.reference} and inside["identity_steps"] == 12
    )
    assert sitting.save("Download all", tmp_path / "all.zip") == "megaportrait_0.zip"


def test_a_portrait_of_ones_own_with_two_faces(wide: Sitting, tmp_path: Path):
    one = first_reference().picture[20:180]
    path = tmp_path / "two.png"
    Image.fromarray(numpy.concatenate([one, one[:, ::-1]], 1)).save(path)
    wide.pick("Preview without AI models")
    wide.bring(path)
    expect(wide.words).to_contain_text("of 2")
    faces = wide.page.locator("fieldset:visible", has_text="Face that is replaced")
    expect(faces.locator("input[type=radio]")).to_have_count(2)
    wide.press_on_reference(0.75, 0.5)
    expect(wide.words).to_contain_text("Face 2 of 2")
    expect(faces.locator("input[type=radio]").nth(1)).to_be_checked()
    faces.locator("input[type=radio]").nth(0).check()
    expect(wide.words).to_contain_text("Face 1 of 2")
    faces.locator("input[type=radio]").nth(1).check()
    expect(wide.words).to_contain_text("Face 2 of 2")
    wide.make.click()
    wide.message("tick that everybody in them is of age")
    wide.ends("This run ended early")
    wide.page.get_by_label("Everybody in this reference is of age", exact=False).check()
    wide.page.keyboard.press("Control+Enter")
    wide.ends()
    assert "Measured against the truth" not in wide.page.locator(".megaportrait-board:visible").inner_text()

    # Rolling another one tells that the result is of the one before; the history brings that back.
    wide.page.get_by_role("button", name="Show it", exact=True).click()
    wide.ends("Another person or reference is chosen")
    wide.page.locator(".history-strip:visible .thumbnail-item").first.click()
    wide.ends("Brought back from your results")
    expect(wide.words).to_contain_text("Face 2 of 2")


def test_a_box_drawn_by_hand(phone: Sitting, tmp_path: Path):
    path, bad = tmp_path / "flat.png", tmp_path / "bad.png"
    Image.new("RGB", (300, 200), (90, 90, 90)).save(path)
    bad.write_text("hello")
    phone.bring(bad)
    phone.message("not a picture that can be read")
    phone.bring(path)
    expect(phone.words).to_contain_text("No face found in the reference")
    expect(phone.page.get_by_label("Draw the face box", exact=True)).to_be_checked()
    phone.press_on_reference(0.3, 0.2)
    expect(phone.words).to_contain_text("opposite corner")
    phone.press_on_reference(0.7, 0.8)
    expect(phone.words).to_contain_text("Your box")
    expect(phone.words).to_contain_text(re.compile(r"1(19|20|21) px wide"))
    assert phone.overflow() <= 0
