"""What a visitor types is what the page shows, in every place: in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import test_studio
from tests.browser.test_studio import RUN_MS, WIDE, Chat, Visit, browser, expect, sync_api  # noqa: F401

pytestmark = [*test_studio.pytestmark, pytest.mark.long]
TYPED = [
    "Where does <Mabel> work?\n# hi\n**x** and _y_ <think>",
    "1. one\n2. two\n\n    a  b\n$x$ $$y$$ `x`",
    "![a](http://127.0.0.1:9/a.png) <img src=http://127.0.0.1:9/b.png>",
    "&lt;b&gt; &amp; <b>x</b> {{7*7}} ${7*7} [a](www.a.example)",
    "\u05e9\u05dc\u05d5\u05dd <\u202eabc\u202c> \u017a\u0301",
]


@pytest.fixture
def page(browser: sync_api.Browser, served: str) -> Iterator[Chat]:  # noqa: F811
    chat = Chat(browser, served, "light", **WIDE)
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.page.on("dialog", lambda dialog: chat.problems.append(dialog.message))
    yield chat
    chat.context.close()
    assert not chat.outside, "the page asked somebody else"
    assert not chat.problems


def plain(text: str) -> str:
    return "".join(letter for letter in text if letter not in "\u2068\u2069")


def test_bubbles_show_what_was_typed_and_copy_it(page: Chat):
    for number, typed in enumerate(TYPED, 1):
        page.message_box.fill(typed)
        page.send.click()
        page.page.wait_for_function(
            f"document.querySelectorAll('.chat-pane.steered .user-row').length === {number}", timeout=RUN_MS
        )
        page.wait_for("done", ".chat-line")
        for side in ("plain", "steered"):
            shown = page.page.locator(f".chat-pane.{side} [data-testid=user] .md").nth(number - 1)
            assert plain(shown.text_content() or "") == typed
            assert shown.locator("img, a, strong, em, b, h1, ol, code, .katex, script").count() == 0
            lines = plain(shown.inner_text()).split("\n")
            assert [line.rstrip() for line in lines] == [line.rstrip() for line in typed.split("\n")], (
                "lines and blanks, too"
            )
    first = page.page.locator(".chat-pane.steered [data-testid=user]").first
    expect(first).to_have_attribute("aria-label", f"user's message: {TYPED[0]}")
    below = page.page.locator(".chat-pane.steered [data-testid=bot] .md").nth(1)
    assert below.locator("b").count() >= 1 and "<b>" not in (below.text_content() or "")
    page.page.locator(".chat-pane.steered button[title='Copy message']").first.click()
    page.page.wait_for_function("text => navigator.clipboard.readText().then(now => now === text)", arg=TYPED[0])


def test_messages_show_what_was_typed(page: Chat):
    page.page.get_by_role("button", name="Layers, scale and sampling").click()
    page.page.locator("label:visible", has_text="best 3, all").locator("input, textarea").fill("<b>9</b> &amp; <Mabel>")
    page.message_box.fill("hello")
    page.send.click()
    assert "The layers are '<b>9</b> &amp; <Mabel>': give best" in page.message("The layers are")


def test_the_names_of_own_concepts_show_as_they_were_typed(page: Chat):
    name = "<b>warm</b> **x** {{7}} &amp;"
    page.part("Make your own")
    page.page.get_by_role("button", name="Fill in an example").click()
    box = page.page.get_by_label("Name of the concept")
    expect(box).to_have_value("warm welcome")
    box.fill(name)
    page.page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for("done", ".make-line")
    assert (
        name in page.page.locator(".make-line .progress-line").inner_text()
        and page.page.locator(".board h3:visible").first.inner_text() == name
    )
    page.part("Chat")
    expect(page.page.get_by_label("Concept 1", exact=True)).to_have_value(f"{name} (yours)")
    page.message_box.fill("What does the goat eat?")
    page.send.click()
    page.wait_for("done", ".chat-line")
    assert name in page.page.locator(".status:visible").first.inner_text()
    page.part("Token heat map")
    page.page.locator(".heatmap .token").first.wait_for()
    assert name in page.page.locator(".heatmap").inner_text()


def test_prompts_show_as_they_were_typed_and_say_what_is_not_read(browser: sync_api.Browser, served: str):  # noqa: F811
    visit = Visit(browser, served, "light", **WIDE)
    typed = "a <b>red</b> cube ${7*7} {{7*7}} " + "and a dull purplish ball " * 7 + "on <i>wood</i>"
    visit.set("Steps", 2)
    visit.prompt.fill(typed)
    visit.run.click()
    visit.wait_for("done")
    remark = visit.page.locator(".remark:visible", has_text="was not read").first.inner_text()
    assert (
        "on <i>wood</i>” was not read" in remark
        and "– not read" in visit.page.locator(".verdicts:visible").first.inner_text()
    )
    caption = visit.page.locator(".history-strip .caption-label").first
    assert (caption.text_content() or "").strip().startswith("a <b>red</b> cube ${7*7} {{7*7}} and")
    expect(visit.prompt).to_have_value(typed)
    visit.context.close()
    assert not visit.outside and not visit.problems
