"""A visitor in a real browser: headless Chromium, wide and on a phone, light and dark.

The browser is `LATENT_STUDIO_CHROMIUM`, or `chromium` on the path; without one these tests are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipelines.core import images

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
expect = sync_api.expect
CHROMIUM = os.environ.get("LATENT_STUDIO_CHROMIUM") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader", "--disable-background-networking"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]

WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
RUN_MS = 240_000
"""The first run loads the models on a busy machine."""
WAIT_MS = 60_000
"""Everything else; a limit that is met only where something is wrong, on a busy machine, too."""
expect.set_options(timeout=WAIT_MS)


SEEN = "document.querySelectorAll('.progress-line').forEach(line => (line.dataset.seen = 1))"
"""Marks the lines that a test has read; new words come in a new element."""


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def at_rest(found: sync_api.Locator) -> dict[str, float]:
    """Wait until an element is where it stays: what opens or grows moves for some frames. Its box on the screen."""
    found.evaluate(
        """node => new Promise(done => {
          let before = "", same = 0;
          const look = () => {
            const { x, y, width, height } = node.getBoundingClientRect();
            const now = [x, y, width, height].join();
            same = now === before ? same + 1 : 0;
            before = now;
            same < 12 ? requestAnimationFrame(look) : done();
          };
          look();
        })"""
    )
    return found.bounding_box()


LINES = """
window.studioLines = [];
new MutationObserver(() => {
  for (const line of document.querySelectorAll(".progress-line")) {
    const said = line.className + line.textContent;
    if (line.said === said) continue;
    line.said = said;
    window.studioLines.push([line.className.split(" ").pop(), line.parentElement.closest("[class*='-line']"), line.textContent]);
  }
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["class"]});
"""
"""Notes every state that a line of progress has been in, with the line and its words: some are over within a look."""
REACHED = """([state, where]) => {
  const noted = (window.studioRead ??= {}), from = noted[where] ?? 0;
  const lines = window.studioLines.map(([one, host], at) => [one, at, host]).filter(([, at, host]) => at >= from && host?.matches(where));
  const found = state === "running" ? lines.find(([one]) => one === state) : lines.at(-1);
  if (!state.split(" or ").includes(found?.[0])) return false;
  noted[where] = found[1] + 1;
  return true;
}"""
"""Whether the line has been running since it was read last, or is in another state now; what comes after that is unread."""


class Traffic:
    """What a page has asked the studio for and is not answered yet."""

    def __init__(self, page: sync_api.Page) -> None:
        self.page, self.open, self.changed = page, set(), time.monotonic()
        page.on("request", lambda request: self._note(request, self.open.add))
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: self._note(request, self.open.discard))

    def _note(self, request: sync_api.Request, change: Callable[[sync_api.Request], None]) -> None:
        if request.method == "POST" and "/gradio_api/" in request.url:
            change(request)
            self.changed = time.monotonic()

    def settle(self) -> None:
        """Wait until nothing has been on its way for a second from now: a form is kept 0.4 s after its last change."""
        self.changed = time.monotonic()
        until = self.changed + WAIT_MS / 1000
        while self.open or time.monotonic() < self.changed + 1:
            assert time.monotonic() < until, [request.url for request in self.open]
            self.page.wait_for_timeout(100)


class Visit:
    """The page as a visitor uses it, by labels and roles, and a record of what went wrong or went out."""

    def __init__(self, browser: sync_api.Browser, url: str, theme: str, **device: object) -> None:
        self.context = browser.new_context(accept_downloads=True, **device)
        self.context.add_init_script(LINES)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        self.page.on("request", lambda request: self._note(request.url, url))
        self.traffic = Traffic(self.page)
        self.page.goto(f"{url}/?__theme={theme}")
        self.run = self.page.get_by_role("button", name="Run", exact=True)
        self.stop = self.page.get_by_role("button", name="Stop", exact=True)
        self.prompt = self.page.get_by_label("Prompt", exact=True)
        self.seed = self.page.get_by_label("Seed", exact=True)
        self.line = self.page.locator(".run-line .progress-line")
        self.lab_line = self.page.locator(".lab-line .progress-line")
        self.run.wait_for()
        self.page.wait_for_timeout(500)

    def _note(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:")):
            self.outside.append(url)

    def set(self, label: str, value: object) -> None:
        field = self.page.get_by_label(f"number input for {label}")
        field.fill(str(value))
        field.press("Tab")

    def wait_for(self, state: str, where: str = ".run-line") -> None:
        """Wait until a run's line is in this state ("stopped or done": in one of them), later than when this was waited for last. A
        run that is over before it could be looked at was running all the same."""
        self.page.wait_for_function(REACHED, arg=[state, where], timeout=RUN_MS)

    def part(self, name: str) -> None:
        """Open a part of the tab."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def picture(self, kind: str) -> str:
        """Where the picture comes from: another address for every preview."""
        image = self.page.locator(f".picture.{kind} img")
        return image.get_attribute("src") if image.count() else ""

    def message(self, words: str) -> str:
        toast = self.page.locator(".toast-body", has_text=re.compile(words))
        toast.first.wait_for()
        return toast.first.inner_text()

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - screen.width")


@pytest.fixture(params=["light", pytest.param("dark", marks=pytest.mark.long)])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[WIDE, pytest.param(PHONE, marks=pytest.mark.long)], ids=["wide", "phone"])
def visit(request: pytest.FixtureRequest, browser: sync_api.Browser, served: str, scheme: str) -> Iterator[Visit]:
    visit = Visit(browser, served, scheme, **request.param)
    yield visit
    visit.context.close()
    assert not visit.outside, "the page asked somebody else"
    assert not visit.problems


@pytest.fixture
def wide(browser: sync_api.Browser, served: str) -> Iterator[Visit]:
    visit = Visit(browser, served, "light", **WIDE)
    yield visit
    visit.context.close()
    assert not visit.outside
    assert not [problem for problem in visit.problems if "the server responded with a status" not in problem]


def test_a_first_visit(visit: Visit, scheme: str, tmp_path: Path):
    """An example, previews, Stop, another run at once, a download, and the download restored."""
    assert visit.overflow() <= 0
    assert ("dark" in visit.page.evaluate("document.body.className")) == (scheme == "dark")

    example = visit.page.locator(".chips button.example").nth(2)
    example.click()
    visit.wait_for("running")
    visit.wait_for("done")
    assert visit.prompt.input_value() == example.inner_text().strip()
    assert re.match(r"Done: 25 steps in \d", visit.line.inner_text())

    visit.set("Steps", 100)
    finished = visit.picture("golden")
    visit.run.click()
    visit.page.wait_for_function(
        "before => { const i = document.querySelector('.picture.golden img'); return i && i.src !== before }",
        arg=visit.page.locator(".picture.golden img").evaluate("image => image.src"),
        timeout=RUN_MS,
    )
    assert visit.picture("golden") != finished
    assert re.match(r"Step \d+ of 100 · \d", visit.line.inner_text())

    visit.stop.click()
    visit.wait_for("stopped")
    visit.set("Steps", 4)
    visit.seed.fill("42")
    visit.run.click()
    visit.wait_for("done")
    assert visit.line.inner_text().startswith("Done: 4 steps")
    assert visit.page.locator(".toast-body").count() == 0, "nothing may complain"
    assert visit.overflow() <= 0

    prompt = visit.prompt.input_value()
    with visit.page.expect_download() as download:
        visit.page.locator("a, button").filter(has_text="Download golden PNG").last.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "golden_noise_42_golden.png"
    inside = images.read_settings(path, tab="golden_noise")["settings"]
    assert (inside["prompt"], inside["seed"], inside["steps"]) == (prompt, 42, 4)

    visit.prompt.fill("something else")
    visit.seed.fill("1")
    visit.page.locator(".restore:visible input[type=file]").set_input_files(path)
    visit.message("Settings restored")
    expect(visit.prompt).to_have_value(prompt)
    expect(visit.seed).to_have_value("42")

    strip = visit.page.locator(".history-strip:visible .thumbnail-item")
    assert strip.count() == 2
    strip.nth(1).click()
    visit.page.get_by_text("Brought back from your results").wait_for()
    expect(visit.seed).not_to_have_value("42")
    visit.page.locator("summary:visible").click()
    for name in ("How it works", "Use it from Python"):
        visit.page.get_by_role("button", name=name).click()
    visit.page.get_by_text("gradio_client import Client").locator("visible=true").first.wait_for()
    assert visit.overflow() <= 0


def test_stop_and_run_in_one_breath(wide: Visit):
    wide.set("Steps", 100)
    wide.run.click()
    wide.wait_for("running")
    wide.stop.click()
    wide.run.click()
    wide.page.locator(".run-line .progress-line.running", has_text="Step").wait_for(timeout=RUN_MS)
    assert wide.page.locator(".toast-body").count() == 0
    wide.run.click()
    wide.message("One run at a time")
    assert "running" in wide.line.get_attribute("class"), "a refusal leaves the run alone"
    wide.stop.click()
    wide.wait_for("stopped")


def test_keys(wide: Visit):
    wide.set("Steps", 100)
    wide.prompt.fill("a shiny purple sphere on tiles under the sky")
    wide.page.keyboard.press("Control+Enter")
    wide.wait_for("running")
    wide.page.keyboard.press("Escape")
    wide.wait_for("stopped")
    assert wide.prompt.input_value() == "a shiny purple sphere on tiles under the sky"


def test_wrong_input_keeps_the_work_on_the_page(wide: Visit):
    wide.set("Steps", 2)
    wide.run.click()
    wide.wait_for("done")
    before = wide.picture("golden")
    wide.prompt.fill("")
    wide.run.click()
    wide.message("The prompt is empty")
    wide.prompt.fill("x" * 5000)
    wide.run.click()
    wide.message("5,000 characters")
    assert wide.picture("golden") == before


def test_files_that_restore_nothing(wide: Visit, tmp_path: Path):
    files = {name: tmp_path / f"{name}.png" for name in ("text", "cut", "foreign", "huge", "limits")}
    files["text"].write_text("hello")
    Image.new("RGB", (64, 48)).save(files["foreign"])
    files["cut"].write_bytes(files["foreign"].read_bytes()[:60])
    data = bytearray(files["foreign"].read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    files["huge"].write_bytes(data)
    images.save_png(Image.new("RGB", (8, 6)), files["limits"], {"prompt": "a", "steps": 10**9}, tab="golden_noise")
    words = {"text": "not a PNG", "cut": "cut short", "foreign": "holds no settings", "huge": "20,000 x 20,000",
             "limits": "1000000000"}  # fmt: skip
    prompt = wide.prompt.input_value()
    for name, path in files.items():
        wide.page.locator(".restore:visible input[type=file]").set_input_files(path)
        wide.message(words[name])
        wide.page.reload()  # the file that was refused stays in the zone; start from an empty one
        wide.run.wait_for()
        wide.page.wait_for_timeout(500)
    assert wide.prompt.input_value() == prompt


def test_dice_surprise_and_last_seed(wide: Visit):
    seed, prompt = wide.seed.input_value(), wide.prompt.input_value()
    wide.page.get_by_role("button", name="New seed").click()
    wide.page.wait_for_function("before => document.querySelector('.seed-row input').value !== before", arg=seed)
    wide.page.get_by_role("button", name="Surprise me").click()
    wide.page.wait_for_function("before => document.querySelector('textarea').value !== before", arg=prompt)
    drawn = wide.seed.input_value()
    assert 0 <= int(drawn) < 2**31
    wide.set("Steps", 1)
    wide.run.click()
    wide.wait_for("done")
    wide.seed.fill("1")
    wide.page.get_by_role("button", name="Last seed").click()
    wide.page.wait_for_function("wanted => document.querySelector('.seed-row input').value === wanted", arg=drawn)


# --- golden noise: a look inside, the lab, the figures ---

CHARTS = ("What the change is made of", "Singular values", "Difference of the singular values", "Radial spectrum")


def test_a_look_inside_the_noise(visit: Visit, tmp_path: Path):
    """Both ends of the strength run; map and charts are there, fit the screen and are told in words."""
    visit.set("Steps", 2)
    visit.page.get_by_label("Re-denoise sampling, no network").check()
    for strength in (-1, 4):
        visit.set("Golden strength", strength)
        visit.run.click()
        visit.wait_for("running")
        visit.wait_for("done")
    visit.page.get_by_role("button", name="Inspect the noise").click()
    heat = visit.page.locator(".heat img")
    heat.wait_for()
    assert heat.evaluate("image => image.naturalWidth") == 256
    assert "root mean square" in heat.get_attribute("alt")
    for name in CHARTS:
        chart = visit.page.locator(f'.inspect svg[role=img][aria-label^="{name}."]')
        box = chart.bounding_box()
        assert box["width"] > 250 and box["height"] > 100, name
        assert box["x"] >= 0 and box["x"] + box["width"] <= visit.page.viewport_size["width"], name
    words = visit.page.locator(".inspect text").all()
    assert {word.evaluate("node => getComputedStyle(node).fontSize") for word in words} == {"13px"}
    assert visit.page.locator(".figures dt", has_text="Re-denoising").count() == 1
    assert visit.overflow() <= 0

    with visit.page.expect_download() as download:
        visit.page.locator("a, button").filter(has_text="Download golden PNG").last.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert images.read_settings(path)["settings"]["source"] == "redenoise"
    visit.page.get_by_label("NPNet, the paper's network").check()
    visit.page.locator(".restore:visible input[type=file]").set_input_files(path)
    visit.message("Settings restored")
    expect(visit.page.get_by_label("Re-denoise sampling, no network")).to_be_checked()


def counted(visit: Visit) -> int:
    return int(visit.page.locator(".board h3").first.inner_text().split()[0])


def test_the_lab_runs_is_stopped_and_goes_on(visit: Visit):
    visit.set("Steps", 2)
    visit.part("Win-rate lab")
    visit.set("Number of seeds", 40)
    assert visit.overflow() <= 0
    visit.page.get_by_role("button", name="Run the lab").click()
    visit.page.locator(".board table.tally").wait_for(timeout=RUN_MS)
    visit.page.keyboard.press("Escape")
    visit.wait_for("stopped", ".lab-line")
    before = counted(visit)
    assert 0 < before < 40 and before % 4 == 0
    visit.page.wait_for_timeout(1500)
    assert counted(visit) == before, "nothing is counted after Stop"

    visit.set("Number of seeds", before + 4)
    visit.page.get_by_role("button", name="Continue").click()
    visit.wait_for("done", ".lab-line")
    assert counted(visit) == before + 4
    rows = visit.page.locator(".board ul.strip")
    assert rows.count() == 3
    seeds = [int(node.inner_text()) for node in rows.first.locator("li > span").all() if node.is_visible()]
    assert seeds == list(range(seeds[0], before + 5)), "each seed once, up to the last"
    pictures = rows.locator("img")
    assert all(re.match(r"Seed \d+, .+: (right|wrong)", image.get_attribute("alt")) for image in pictures.all())
    for row in visit.page.locator(".board .tally tbody tr").all()[1:]:
        cells = [row.locator(f"td[data-label^='{name}']").inner_text() for name in ("Won", "Lost", "Tied")]
        assert sum(int(cell.split()[-1]) for cell in cells) == before + 4
    chart = visit.page.locator('.board svg[aria-label^="Points gained over standard noise."]').bounding_box()
    assert chart["width"] > 250 and chart["x"] + chart["width"] <= visit.page.viewport_size["width"]
    assert visit.overflow() <= 0

    visit.page.get_by_role("button", name="Continue").click()
    visit.message(f"All {before + 4} seeds are counted")
    visit.prompt.fill("a shiny purple sphere on tiles under the sky")
    visit.page.get_by_role("button", name="Continue").click()
    visit.message("it starts anew")
    visit.page.locator(".board", has_text="purple sphere").wait_for(timeout=RUN_MS)
    visit.page.get_by_role("button", name="Stop the lab").click()
    visit.page.locator(".lab-line .progress-line:is(.stopped, .done)").wait_for(timeout=RUN_MS)

    visit.run.click()
    visit.wait_for("done")
    assert visit.page.locator(".picture.golden img").is_visible(), "Run shows the pictures, whatever part was open"


def test_the_lab_and_a_run_do_not_go_at_once(wide: Visit):
    wide.part("Win-rate lab")
    wide.page.get_by_role("button", name="Run the lab").click()
    wide.wait_for("running", ".lab-line")
    wide.run.click()
    wide.message("One run at a time")
    assert "running" in wide.lab_line.get_attribute("class")
    assert wide.lab_line.is_visible(), "a refusal leaves the visitor where they are"
    wide.stop.click()
    wide.wait_for("stopped", ".lab-line")


def test_the_figures_are_shown_or_said_to_be_missing(visit: Visit):
    visit.part("Measured figures")
    visit.page.locator(
        ".board table.tally, .remark", has_text=re.compile("Standard noise|not been measured")
    ).wait_for()
    assert visit.overflow() <= 0


# --- concept guidance: steer, stop, sweep, make a concept, read tokens ---


class Chat(Visit):
    """The second tab."""

    def __init__(self, *arguments: object, **device: object) -> None:
        super().__init__(*arguments, **device)
        self.page.get_by_role("tab", name="Concept Guidance", exact=True).click()
        self.send = self.page.get_by_role("button", name="Send", exact=True)
        self.message_box = self.page.get_by_label("Your message")
        self.send.wait_for()
        self.page.wait_for_timeout(500)

    def answers(self, side: str) -> list[str]:
        """The messages of the model in a pane, with what stands below each."""
        return self.page.locator(f".chat-pane.{side} [data-testid=bot]").all_inner_texts()


@pytest.fixture(params=[WIDE, pytest.param(PHONE, marks=pytest.mark.long)], ids=["wide", "phone"])
def chat(request: pytest.FixtureRequest, browser: sync_api.Browser, served: str, scheme: str) -> Iterator[Chat]:
    chat = Chat(browser, served, scheme, **request.param)
    yield chat
    chat.context.close()
    assert not chat.outside, "the page asked somebody else"
    assert not chat.problems


def test_a_model_is_steered_stopped_and_asked_again(chat: Chat):
    assert chat.overflow() <= 0
    chat.set("Strength 1", 0)
    chat.page.locator(".chips button.example:visible").first.click()
    chat.wait_for("done", ".chat-line")
    plain, guided = chat.answers("plain"), chat.answers("steered")
    assert len(plain) == len(guided) == 2 and plain[0] == guided[0], "strength 0 changes nothing"
    assert "grammatical" in plain[1] and "perplexity" in plain[1] and "humour" in plain[1]

    chat.set("Strength 1", 0.9)
    chat.page.locator(".concept-row .safe b:visible").first.wait_for()
    assert re.search(
        "Beyond the usual|Fluency suffers|Over the cliff", chat.page.locator(".safe:visible").first.inner_text()
    )
    chat.page.get_by_role("button", name="Retry", exact=True).click()
    expect(chat.page.locator(".status")).to_contain_text(
        "politeness +0.90", timeout=RUN_MS
    )  # it may run too short to be seen
    chat.wait_for("done", ".chat-line")
    assert chat.answers("plain")[0] == plain[0] and chat.answers("steered")[0] != guided[0]

    chat.page.get_by_role("button", name="A polite liar").click()  # sets the strengths, and asks once more
    expect(chat.page.get_by_label("number input for Strength 2")).to_have_value("-0.3")
    expect(chat.page.locator(".chat-pane.plain .user-row")).to_have_count(2, timeout=RUN_MS)
    chat.wait_for("done", ".chat-line")
    chat.message_box.fill("What is the parrot afraid of?")
    chat.page.keyboard.press("Enter")
    chat.page.wait_for_function("document.querySelectorAll('.chat-pane.plain .bot-row').length === 3", timeout=RUN_MS)
    chat.page.keyboard.press("Escape")
    chat.page.locator(".chat-line .progress-line:is(.stopped, .done)").wait_for(timeout=RUN_MS)
    expect(chat.message_box).to_have_value("")

    chat.page.get_by_role("button", name="Undo", exact=True).click()
    expect(chat.message_box).to_have_value("What is the parrot afraid of?")
    expect(chat.page.locator(".chat-pane.plain .user-row")).to_have_count(2)
    chat.message_box.fill("")
    chat.send.click()
    chat.message("The message is empty")
    assert chat.answers("plain")[0] == plain[0]
    assert chat.overflow() <= 0

    chat.part("Token heat map")
    token = chat.page.locator(".heatmap .token").first
    token.wait_for()
    token.click()
    profile = chat.page.locator(".profile:visible")
    assert profile.locator("li").count() == 6
    first = profile.inner_text()
    chat.page.keyboard.press("ArrowRight")
    assert chat.page.locator(".profile:visible").inner_text() != first
    assert re.match(r".+, [+−]?[01]\.\d\d", token.locator("input").get_attribute("aria-label"))
    assert chat.overflow() <= 0


def test_a_text_of_my_own_is_read(chat: Chat):
    chat.part("Token heat map")
    chat.page.get_by_label("a text of my own").check()
    chat.page.get_by_label("Text to read").fill("Dear guest, the goat eats postcards.")
    chat.page.get_by_role("button", name="Read", exact=True).click()
    chat.wait_for("done", ".heat-line")
    assert chat.page.locator(".heatmap .token").count() == 8
    assert chat.overflow() <= 0


def test_a_sweep_runs_and_is_stopped(chat: Chat):
    chat.part("Sweep lab")
    chat.set("Number of strengths", 9)
    chat.set("Questions at each strength", 4)
    chat.page.get_by_role("button", name="Run the sweep").click()
    chat.page.locator(".board", has_text=re.compile("[3-8] of 9 strengths")).wait_for(timeout=3 * RUN_MS)
    chat.page.get_by_role("button", name="Stop the sweep").click()
    chat.wait_for("stopped", ".sweep-line")
    for name in ("How much of the concept", "What it costs"):
        box = chat.page.locator(f'.board svg[role=img][aria-label^="{name}."]').bounding_box()
        assert box["width"] > 250 and box["x"] + box["width"] <= chat.page.viewport_size["width"], name
    with chat.page.expect_download() as download:
        chat.page.locator("a, button").filter(has_text="Download CSV").last.click()
    assert download.value.suggested_filename == "sweep_humour.csv"
    assert chat.overflow() <= 0
    chat.part("Detect is not guide")
    chat.page.locator(
        ".board table.measured, .remark", has_text=re.compile("humour|not been measured")
    ).first.wait_for()
    assert chat.overflow() <= 0


def test_a_concept_is_made_of_ten_lines_and_comes_back_from_its_file(chat: Chat, tmp_path: Path):
    chat.part("Make your own")
    chat.page.get_by_role("button", name="Fill in an example").click()
    expect(chat.page.get_by_label("Name of the concept")).to_have_value("warm welcome")
    chat.page.get_by_role("button", name="Train", exact=True).click()
    chat.wait_for("done", ".make-line")
    assert "A sample" in chat.page.locator(".board:visible").inner_text() and chat.overflow() <= 0
    with chat.page.expect_download() as download:
        chat.page.locator("a, button").filter(has_text="Download .safetensors").last.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "warm_welcome.safetensors"

    chat.context.clear_cookies()  # somebody else
    chat.page.reload()
    chat.page.get_by_role("tab", name="Concept Guidance", exact=True).click()
    chat.part("Make your own")
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(b"\x80\x04x")
    drop = chat.page.locator(".load-concept input[type=file]")
    drop.set_input_files(bad)
    chat.message("is a pickle")
    drop.set_input_files(path)
    chat.page.locator(".make-line", has_text="Loaded warm welcome").first.wait_for()
    chat.part("Chat")
    expect(chat.page.get_by_label("Concept 1")).to_have_value("warm welcome (yours)")
    chat.page.locator(".chips button.example:visible").first.click()
    chat.wait_for("done", ".chat-line")
    assert "warm welcome +0.40" in chat.page.locator(".status").inner_text()
