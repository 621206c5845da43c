"""A visitor who comes back: after a reload, in a second tab, after a blip of the connection or a restart of the server, in Chromium."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image

from demos.core import visitors
from pipelines.core.weights import ROOT
from pipelines.golden_noise import EXAMPLES
from tests.browser.test_studio import CHROMIUM, SEEN, WIDE, Traffic, Visit, browser, expect, sync_api  # noqa: F401
from tests.environment import free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name it in LATENT_STUDIO_CHROMIUM"),
]
RUN_MS = 240_000
RUN_LINE = ".run-line .progress-line"
STEPS = """least => window.studioLines.slice((window.studioRead ?? {})[".run-line"] ?? 0).some(
  ([, host, words]) => host?.matches(".run-line") && +(/Step (\\d+) of/.exec(words) ?? [0, 0])[1] >= least)"""
PROMPT = "a blue ball to the left of a red cube on tiles"


class Guest(Visit):
    """A visitor whose page is marked, so that a reload shows."""

    def __init__(self, *arguments: object, **device: object) -> None:
        super().__init__(*arguments, **device)
        self.settled()
        self.mark()

    def mark(self) -> None:
        self.page.evaluate("window.studioMark = 1")

    @property
    def marked(self) -> bool:
        """Whether this is still the page that was marked."""
        return self.page.evaluate("window.studioMark === 1")

    def settled(self) -> None:
        """What was filled in has reached the server, and what that answers is on the page."""
        self.traffic.settle()

    def again(self, tab: str | None = None) -> None:
        """Load the page again."""
        self.page.reload()
        self.run.wait_for(state="attached")
        self.open(tab)
        self.settled()

    def open(self, tab: str | None) -> None:
        if tab is not None:
            self.page.get_by_role("tab", name=tab, exact=True).click()

    def draws(self, steps: int) -> None:
        """Golden Noise, begun and not waited for."""
        self.prompt.fill(PROMPT)
        self.set("Steps", steps)
        self.run.click()

    def drawn(self) -> str:
        """The address of the picture once the run is done."""
        self.wait_for("done")
        return self.picture("golden")

    def results(self) -> int:
        return self.page.locator(".history-strip:visible img").count()

    def steps_done(self, at_least: int) -> None:
        """Wait until the run that was begun last has done so many steps."""
        self.page.wait_for_function(STEPS, arg=at_least, timeout=RUN_MS)


@pytest.fixture
def guest(browser: sync_api.Browser, served: str) -> Iterator[Guest]:  # noqa: F811
    guest = Guest(browser, served, "light", **WIDE)
    yield guest
    guest.context.close()
    assert not guest.outside, "the page asked somebody else"


def folders() -> set[Path]:
    return set(visitors._children(visitors.home() / visitors.VISITORS))


# --- the page is loaded again --------------------------------------------------------------------------------------


def test_form_result_and_history_are_there_after_a_reload_and_in_a_second_tab(guest: Guest, browser, served):  # noqa: F811
    guest.draws(3)
    address = guest.drawn()
    guest.prompt.fill("half a thought")
    guest.seed.fill("77")
    guest.page.get_by_label("Re-denoise", exact=False).first.check()
    guest.settled()
    guest.again()
    assert not guest.marked
    assert guest.prompt.input_value() == "half a thought" and guest.seed.input_value() == "77"
    assert guest.page.get_by_label("Re-denoise", exact=False).first.is_checked()
    assert guest.picture("golden") == address and guest.results() == 1
    assert guest.page.request.get(address).status == 200
    assert "This run" in guest.page.locator(".figures:visible").first.inner_text()

    guest.page.locator(".history-strip:visible img").first.click()
    expect(guest.prompt).to_have_value(PROMPT)
    guest.page.get_by_role("button", name="Last seed").click()
    expect(guest.seed).to_have_value(str(EXAMPLES[0][1]))

    second = guest.context.new_page()
    second.goto(served)
    expect(second.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    expect(second.locator(".history-strip:visible img")).to_have_count(1)

    other = Guest(browser, served, "light", **WIDE)
    assert other.results() == 0 and other.prompt.input_value() != PROMPT and other.picture("golden") != address
    assert other.page.request.get(address).status == 403, "another visitor’s file"
    other.context.close()


def test_results_of_two_tabs_are_one_history(guest: Guest, served: str):
    second = guest.context.new_page()
    traffic = Traffic(second)
    second.goto(served)
    second.get_by_role("button", name="Run", exact=True).wait_for()
    traffic.settle()
    guest.draws(1)
    guest.drawn()
    second.get_by_label("Prompt", exact=True).fill("a green cone")
    second.get_by_label("number input for Steps").fill("1")
    second.get_by_label("number input for Steps").press("Tab")
    second.get_by_role("button", name="Run", exact=True).click()
    second.locator(f"{RUN_LINE}.done").wait_for(timeout=RUN_MS)
    expect(second.locator(".history-strip:visible img")).to_have_count(2)
    traffic.settle()
    guest.again()
    expect(guest.prompt).to_have_value(PROMPT)  # each tab has its own form


def test_a_picture_and_its_mask_are_there_after_a_reload(guest: Guest, tmp_path: Path):
    guest.open("GeoRemover")
    photo = tmp_path / "garden.png"
    pixels = numpy.random.default_rng(1).integers(60, 200, (8, 12, 3), numpy.uint8)
    Image.fromarray(pixels).resize((300, 200), Image.Resampling.BICUBIC).save(photo)
    guest.page.get_by_label("My own picture", exact=True).check()
    guest.page.locator(".georemover-photo input[type=file]").set_input_files(photo)
    canvas = guest.page.locator(".painter-canvas:visible")
    canvas.wait_for()
    guest.settled()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    guest.page.mouse.move(x - 45, y)
    guest.page.mouse.down()
    guest.page.mouse.move(x + 45, y, steps=6)
    guest.page.mouse.up()
    line = guest.page.locator(".mask-line:visible")
    expect(line).to_contain_text("%")
    guest.settled()
    said = line.inner_text()
    guest.again("GeoRemover")
    expect(guest.page.locator(".mask-line:visible")).to_have_text(said)
    assert guest.page.get_by_label("My own picture", exact=True).is_checked()
    guest.page.locator(".painter-canvas:visible").wait_for()
    with guest.page.expect_download() as download:
        guest.page.get_by_text("Mask tools").first.click()
        guest.page.get_by_role("button", name="Download mask").click()
    mask = numpy.asarray(Image.open(download.value.path()).convert("L"))
    assert mask.shape == (200, 300) and 0 < (mask > 127).mean() < 0.5, "the server has the picture and the strokes, too"


def test_a_person_is_there_after_a_reload(guest: Guest):
    guest.open("MegaPortrait")
    number = guest.page.get_by_label("Person seed", exact=True)
    before = guest.page.locator(".megaportrait-steps img:visible").first.get_attribute("src")
    number.fill("4321")
    guest.page.get_by_role("button", name="Render", exact=True).first.click()
    expect(guest.page.get_by_label("Name", exact=True)).to_have_value("Person 4321")
    guest.settled()
    shown = guest.page.locator(".megaportrait-steps img:visible").first.get_attribute("src")
    assert shown != before
    guest.again("MegaPortrait")
    expect(guest.page.get_by_label("Name", exact=True)).to_have_value("Person 4321")
    assert guest.page.locator(".megaportrait-steps img:visible").first.get_attribute("src") == shown


def test_a_chat_and_a_concept_of_ones_own_are_there_after_a_reload(guest: Guest):
    guest.open("Concept Guidance")
    guest.part("Make your own")
    shipped = next((ROOT / "assets/mini_llama/vectors").glob("politeness.dim.safetensors"))
    guest.page.locator(".load-concept input[type=file]").set_input_files(shipped)
    guest.page.locator(".make-line", has_text="Loaded").first.wait_for()
    guest.part("Chat")
    guest.page.locator(".chips button.example:visible").first.click()
    guest.wait_for("done", ".chat-line")
    guest.settled()
    own = guest.page.get_by_label("Concept 1").input_value()
    assert "yours" in own
    said = guest.page.locator(".chat-pane.steered [data-testid=bot]").all_inner_texts()
    guest.again("Concept Guidance")
    bubbles = guest.page.locator(".chat-pane.steered [data-testid=bot]")
    expect(bubbles).to_have_count(len(said))
    assert bubbles.all_inner_texts() == said
    expect(guest.page.get_by_label("Concept 1")).to_have_value(own)
    # The answer with its settings is known there, too: only another seed would answer otherwise.
    guest.page.evaluate(SEEN)
    guest.page.get_by_role("button", name="Retry", exact=True).click()
    guest.wait_for("done", ".chat-line")
    expect(guest.page.get_by_label("Chat seed")).not_to_have_value("7")
    expect(guest.page.locator(".status:visible").first).to_contain_text("politeness +0.40")
    assert bubbles.all_inner_texts() != said
    assert guest.page.locator(".chat-pane.steered .user-row").count() == 1


@pytest.mark.long
def test_a_run_goes_on_while_its_page_is_loaded_again_and_its_outcome_is_shown(guest: Guest):
    guest.draws(100)
    guest.steps_done(2)
    guest.again()
    expect(guest.page.locator(RUN_LINE)).to_have_class(re.compile("running|done"))
    guest.drawn()
    expect(guest.page.locator(".history-strip:visible img")).to_have_count(1)


# --- the connection goes away for a while ----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [2, pytest.param(25, marks=pytest.mark.long)])
def test_a_blip_changes_nothing_and_what_is_pressed_meanwhile_is_done_after_it(guest: Guest, seconds: int):
    guest.draws(1)
    guest.drawn()  # a page that has shown a result needs no more of its parts
    guest.mark()
    guest.context.set_offline(True)
    expect(guest.page.locator("#studio-lost")).to_contain_text("connection to the studio is lost")
    guest.prompt.fill("typed meanwhile")
    guest.run.click()
    guest.page.wait_for_timeout(1000 * seconds)
    guest.context.set_offline(False)
    expect(guest.page.locator("#studio-lost:not(:empty)")).to_have_count(0)
    expect(guest.page.locator(".history-strip:visible img")).to_have_count(2, timeout=RUN_MS)
    assert guest.marked and guest.prompt.input_value() == "typed meanwhile"
    assert not guest.page.locator(".toast-body").count()


class Wire:
    """A TCP connection to the studio that can be cut."""

    def __init__(self, to: int) -> None:
        self.to, self.whole, self.ends = to, True, set()
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one = self.door.accept()[0]
            except OSError:
                return
            if not self.whole:
                one.close()
                continue
            other = socket.create_connection(("127.0.0.1", self.to))
            self.ends |= {one, other}
            for pair in ((one, other), (other, one)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()
            self.ends.discard(end)

    def cut(self) -> None:
        self.whole = False
        for end in list(self.ends):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_a_run_outlives_a_cut_connection(browser: sync_api.Browser, served: str):  # noqa: F811
    wire = Wire(int(served.rsplit(":", 1)[1]))
    guest = Guest(browser, wire.url, "light", **WIDE)
    guest.draws(1)
    guest.drawn()
    guest.draws(100)
    guest.steps_done(3)
    wire.cut()
    guest.page.route("**/run/**", lambda route: (time.sleep(2.5), route.continue_()))  # and it comes back slow
    expect(guest.page.locator("#studio-lost")).to_contain_text("connection to the studio is lost")
    guest.page.wait_for_timeout(2000)
    wire.whole = True
    expect(guest.page.locator("#studio-lost:not(:empty)")).to_have_count(0)
    expect(guest.page.locator(".history-strip:visible img")).to_have_count(2, timeout=RUN_MS)
    guest.drawn()
    assert guest.marked
    guest.context.close()
    wire.door.close()


# --- it is cleared ---------------------------------------------------------------------------------------------------


def test_clear_my_work_leaves_no_file(guest: Guest):
    guest.draws(1)
    address = guest.drawn()
    guest.settled()
    mine = max(folders(), key=lambda folder: folder.stat().st_mtime)
    assert list(mine.rglob("*.png"))
    guest.page.get_by_role("button", name="Clear my work").click()
    guest.page.get_by_role("button", name="Keep it").click()
    assert mine.exists()
    guest.page.get_by_role("button", name="Clear my work").click()
    guest.page.get_by_role("button", name="Remove everything").click()
    guest.page.wait_for_function("window.studioMark === undefined")
    guest.run.wait_for()
    guest.settled()
    assert guest.results() == 0 and guest.prompt.input_value() != PROMPT and guest.picture("golden") != address
    assert not [path for path in mine.rglob("*") if path.suffix in (".png", ".npy")]


# --- the server is started again -------------------------------------------------------------------------------------


class Studio:
    """A server in a process of its own."""

    def __init__(self, work: Path) -> None:
        self.work, self.port = work, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, visitors.VARIABLE: str(self.work)}
        command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                return urllib.request.urlopen(f"{self.url}/healthz", timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "the studio did not start"
                time.sleep(0.2)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(30)

    def files(self) -> set[str]:
        """All files but those of visitors and of the server's own page."""
        found = (path.relative_to(self.work) for path in self.work.rglob("*") if path.is_file() and path.name != "lock")
        return {path.as_posix() for path in found if "visitors" not in path.parts}


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(tmp_path / "work")
    yield studio
    studio.kill()


@pytest.mark.long
def test_work_is_there_after_a_kill_and_after_a_stop(studio: Studio, browser: sync_api.Browser):  # noqa: F811
    guest = Guest(browser, studio.url, "light", **WIDE)
    guest.draws(2)
    address = guest.drawn()
    guest.draws(90)
    guest.steps_done(2)
    kept = visitors.VISITORS + "/*/pages/*.json"
    while not any("progress-line running" in path.read_text() for path in studio.work.rglob(kept)):
        guest.page.wait_for_timeout(100)
    first = studio.files()
    studio.kill()
    studio.start()
    assert not studio.files() & first, "what the killed server had for itself is gone"
    expect(guest.page.locator("#studio-lost:not(:empty)")).to_have_count(0)
    expect(guest.page.locator(f"{RUN_LINE}.stopped")).to_contain_text("Interrupted")
    assert guest.marked and guest.prompt.input_value() == PROMPT and guest.results() == 1
    guest.page.locator(".history-strip:visible img").first.click()
    guest.page.locator(RUN_LINE, has_text="Brought back").wait_for(timeout=RUN_MS)  # reading it imports torch
    assert guest.picture("golden") == address and guest.page.request.get(address).status == 200

    studio.kill(signal.SIGTERM)
    assert not studio.files()
    studio.start()
    guest.again()
    expect(guest.page.locator(".history-strip:visible img")).to_have_count(1)
    assert guest.picture("golden") == address
    guest.context.close()
