"""The app as a whole: layers, discovery, one queue, the public endpoint, limits, and nothing sent to anybody."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio.utils import get_function_params
from gradio_client import Client
from PIL import Image

import app
from demos.core import handlers, links, tabs, visitors, widgets
from demos.core.hold import STARTS
from demos.golden_noise import SLUG, from_python, inside, lab, write
from pipelines import golden_noise
from pipelines.core import images, lane
from pipelines.core.paper import Paper
from pipelines.core.registry import Registry
from pipelines.core.scores import Paired
from pipelines.golden_noise import Settings, generate
from pipelines.golden_noise import lab as noise_lab
from pipelines.golden_noise.lab import Tally
from tests.environment import free_port

ROOT = Path(__file__).resolve().parents[2]
TABS = tabs.discover()
API = "/golden_noise"
ENDPOINTS = {f"/{name}" for tab in TABS for name in tab.endpoints}
PROMPT = "a red cube to the left of a blue ball on a wooden floor"


def python(code: str, timeout: float = 120) -> str:
    """Standard output of `code` in a process of its own, in the repository."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- one queue ---


def functions():
    return [function for function in app.demo.fns.values() if callable(function.fn)]


def test_everything_on_the_lane_waits_in_one_queue_and_nothing_else_does():
    guarded = [function for function in functions() if getattr(function.fn, "needs_gpu", False)]
    assert guarded
    for function in functions():
        on_queue = function.concurrency_id == "gpu"
        assert on_queue == getattr(function.fn, "needs_gpu", False), (
            f"{function.fn.__name__}: use on_gpu(...) and **GPU"
        )
    public = {function.api_name for function in guarded}
    assert all(public & set(tab.endpoints) for tab in TABS), "every tab has a function that works on the lane"


def test_what_only_changes_the_page_does_not_wait_behind_a_run():
    for function in functions():
        if not getattr(function.fn, "needs_gpu", False):
            assert not function.queue or function.concurrency_limit != 1, function.fn.__name__


def test_the_public_endpoints():
    public = {f"/{f.api_name}" for f in app.demo.fns.values() if f.api_visibility == "public" and f.api_name}
    assert public == ENDPOINTS >= {API, "/guide", "/train_concept", "/remove_object", "/train_person", "/portrait"}


# --- over HTTP ---


def test_the_page_answers_and_keeps_its_doors_shut(served: str):
    assert httpx.get(f"{served}/").status_code == 200
    assert httpx.get(f"{served}/healthz").text == "ok"
    assert httpx.get(f"{served}/monitoring/summary").status_code in (401, 403, 404)
    for path in ("/etc/passwd", str(ROOT / "app.py"), "http://127.0.0.1:1/"):
        assert httpx.get(f"{served}/gradio_api/file={path}").status_code == 403
    big = {"files": ("big.png", b"\0" * 42_000_000)}
    assert httpx.post(f"{served}/gradio_api/upload", files=big).status_code == 413


BAD = {
    "empty prompt": ({"prompt": "   "}, "prompt is empty"),
    "100,000 characters": ({"prompt": "a" * 100_000}, "100,000 characters"),
    "prompt is a number": ({"prompt": 7}, "prompt"),
    "NaN": ({"guidance": float("nan")}, "guidance is nan"),
    "infinity": ({"strength": float("inf")}, "strength is inf"),
    "10^9 steps": ({"steps": 10**9}, "steps"),
    "no steps": ({"steps": 0}, "steps"),
    "half a step": ({"steps": 2.5}, "steps"),
    "negative seed": ({"seed": -1}, "seed"),
    "seed above 2^31": ({"seed": 2**31}, "seed"),
    "true as seed": ({"seed": True}, "seed"),
    "text as steps": ({"steps": "25"}, "steps"),
    "nothing as guidance": ({"guidance": None}, "guidance"),
    "a list": ({"strength": [1.0]}, "strength"),
    "strength too low": ({"strength": -1.01}, "strength"),
    "unknown model set": ({"model_set": "maxi"}, "'maxi' is unknown"),
    "model set is a list": ({"model_set": ["mini"]}, "odel set"),
    "unknown source": ({"source": "magic"}, "choose one of npnet, npnet_paper, redenoise"),
    "source is a number": ({"source": 1}, "source is 1 but must be a text"),
}


def post(served: str, values: dict) -> tuple[str, str]:
    """Event and data of the raw endpoint's last message: what a program without our client would see."""
    given = {"prompt": PROMPT, "seed": 0, "steps": 1, "guidance": 5.0, "strength": 1.0, "model_set": "mini"}
    given |= {"source": "npnet"} | values
    body = json.dumps({"data": list(given.values())})  # Python writes NaN and Infinity, as some clients do
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{served}/gradio_api/call{API}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    event = answer.json()["event_id"]
    stream = httpx.get(f"{served}/gradio_api/call{API}/{event}", timeout=120).text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    return kind, data


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD.keys())
def test_wrong_input_gets_one_clear_sentence(served: str, values: dict, words: str):
    kind, data = post(served, values)
    assert kind == "error"
    text = json.loads(data)["error"]
    assert words in text
    assert text.endswith(".")
    assert len(text) < 250
    assert "\n" not in text
    assert "Traceback" not in text


def test_wrong_input_through_the_client(served: str):
    client = Client(served, verbose=False)
    for values, words in (BAD["empty prompt"], BAD["10^9 steps"], BAD["negative seed"]):
        with pytest.raises(Exception, match=words):
            client.predict(**{"prompt": PROMPT, "api_name": API} | values)
    assert httpx.get(f"{served}/healthz").status_code == 200


def test_a_body_that_is_no_json_or_has_too_few_values(served: str):
    url, headers = f"{served}/gradio_api/call{API}", {"content-type": "application/json"}
    assert httpx.post(url, content=b"{", headers=headers).status_code in (400, 422)
    assert httpx.post(url, json={}).status_code in (400, 422)
    assert httpx.get(f"{served}/healthz").status_code == 200


# --- real pictures; these load the models ---


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_the_pipeline_gives_them_too(served: str, tmp_path: Path):
    client = Client(served, verbose=False)
    given = {"prompt": PROMPT, "seed": 7, "steps": 4, "guidance": 4.0, "strength": 1.5, "source": "redenoise"}
    runs = [client.predict(**given, api_name=API) for _ in range(2)]
    files = [[Path(path).read_bytes() for path in run[:2]] for run in runs]
    assert files[0] == files[1]

    outcome = lane.run_blocking(generate, app.from_environment(), Settings(**given))
    direct = write(outcome, "test")
    assert files[0] == [Path(direct.standard).read_bytes(), Path(direct.golden).read_bytes()]

    inside = images.read_settings(runs[0][1], tab="golden_noise")["settings"]
    assert {name: inside[name] for name in given} == given
    facts = runs[0][2]
    assert facts["seconds"] > 0
    assert {"verdict_standard", "verdict_golden", "fully_right", "models", "claim", "settings"} <= set(facts)
    assert {"attribute", "wanted", "seen", "confidence", "right"} == set(facts["verdict_golden"][0])
    pairs = {f"{name}_{when}" for name in ("mean", "std", "channel_means", "singular_values", "spectrum")
             for when in ("before", "after")}  # fmt: skip
    assert {"change_rms", "change_peak", "energy", "frequency"} | pairs == set(facts["noise"])


@pytest.mark.slow
def test_the_programs_on_the_page_work(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    over_http, in_process = re.findall(r"```python\n(.*?)```", from_python(), re.DOTALL)
    seen: dict = {}
    exec(over_http.replace("http://127.0.0.1:7860", served).replace("steps=25", "steps=2"), seen)
    assert images.read_settings(seen["golden"], tab="golden_noise")["settings"]["seed"] == 7
    exec(in_process.replace("seed=7", "seed=7, steps=2"), {})
    assert images.open_picture(tmp_path / "golden.png").tobytes() == images.open_picture(seen["golden"]).tobytes()


@pytest.mark.slow
def test_strength_zero_is_the_same_noise(served: str):
    standard, golden, _ = Client(served, verbose=False).predict(
        prompt=PROMPT, seed=3, steps=3, strength=0, api_name=API
    )
    assert images.open_picture(standard).tobytes() == images.open_picture(golden).tobytes()


@pytest.mark.slow
def test_eight_visitors_at_once_get_what_each_would_get_alone(served: str):
    def picture(seed: int) -> bytes:
        run = Client(served, verbose=False).predict(prompt=PROMPT, seed=seed, steps=3, api_name=API)
        return Path(run[0]).read_bytes() + Path(run[1]).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(picture, range(8)))
    assert together == [picture(seed) for seed in range(8)]
    assert len(set(together)) == 8


@pytest.mark.slow
def test_a_visitor_who_leaves_frees_the_lane(served: str):
    client = Client(served, verbose=False)
    client.predict(prompt=PROMPT, steps=1, api_name=API)  # models are loaded
    job = client.submit(prompt=PROMPT, steps=100, api_name=API)
    wait_until(lambda: lane.waiting() > 0)
    job.cancel()
    before = time.monotonic()
    wait_until(lambda: lane.waiting() == 0, 10)
    assert time.monotonic() - before < 5


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


# --- errors and visitors, without a server ---


def visit(session: str = "s") -> gr.Request:
    return gr.Request(session_hash=session)


def handler(name: str):
    """The page's handler of that name, as Gradio calls it."""
    return next(function.fn for function in functions() if function.fn.__name__ == name)


def shown(updates: list) -> str:
    """Everything that the updates put on the page, as text."""
    return " ".join(str(value) for update in updates if isinstance(update, dict) for value in update.values())


def tallies(updates: list) -> list[Tally]:
    values = [value for update in updates if isinstance(update, dict) for value in update.values()]
    return [value for value in values if isinstance(value, Tally)]


@pytest.mark.slow
def test_the_lab_stops_goes_on_and_starts_anew(monkeypatch: pytest.MonkeyPatch):
    asked = dict(prompt=PROMPT, steps=1, guidance=3.0, strength=1.0, seed=3, count=8, arms=["npnet", "first_step"])
    straight = list(handler("lab")(visit("lab"), **asked))
    assert [tally.done for tally in tallies(straight)] == [4, 8]
    page = shown(straight)
    for words in ("8 of 8 seeds counted", "Head to head", "Done: 8 seeds", "Decide how many seeds"):
        assert words in page
    assert page.count("✓ right") + page.count("✗ wrong") == page.count("<li><img") == (4 + 6) * 3
    assert page.count("<li><img") == page.count(" alt='Seed "), "a mark has its word, a picture its description"

    run, seen = handler("lab")(visit("lab"), **asked), []
    while not tallies(seen):
        seen.append(next(run))
    assert handlers.stop_run(visit("lab"))
    rest = list(run)
    assert "What was counted stays" in shown(rest) and not tallies(rest)
    (kept,) = tallies(seen)
    on = list(handler("lab_continued")(visit("lab"), **asked, before=kept))
    assert [tally.done for tally in tallies(on)] == [8] and tallies(on)[0].right == tallies(straight)[-1].right

    assert not tallies(list(handler("lab_continued")(visit("lab"), **asked, before=tallies(on)[0]))), (
        "nothing is left to count"
    )
    other = asked | {"prompt": "a shiny purple sphere on tiles", "count": 2}
    anew = list(handler("lab_continued")(visit("lab"), **other, before=kept))
    assert [tally.done for tally in tallies(anew)] == [2] and tallies(anew)[0].settings.prompt == other["prompt"]

    monkeypatch.setattr(lab, "LIMIT_S", 0.0)
    late = list(handler("lab_continued")(visit("lab"), **asked, before=kept))
    assert "the limit of one run. What was counted stays" in shown(late) and not tallies(late)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("prompt", "", "prompt is empty"), ("prompt", "zebra", "nothing that the judge knows"), ("seed", None, "seed is nothing"),
     ("count", 0, "number of seeds"), ("arms", [], "compare nothing"), ("arms", ["magic"], "'magic'")],
)  # fmt: skip
def test_the_lab_tells_what_is_wrong_and_clears_nothing(name: str, value: object, words: str):
    asked = dict(prompt=PROMPT, steps=1, guidance=3.0, strength=1.0, seed=3, count=8, arms=["npnet"]) | {name: value}
    for event, more in (("lab", {}), ("lab_continued", {"before": None})):
        with pytest.raises(gr.Error) as caught:
            next(handler(event)(visit("lab"), **asked, **more))
        assert words in caught.value.message and caught.value.message.endswith(".")


def test_a_run_that_breaks_does_not_look_as_if_it_went_on(monkeypatch: pytest.MonkeyPatch):
    def breaks(job, *rest):
        raise MemoryError("there is no room")

    monkeypatch.setattr(noise_lab, "compare", breaks)
    monkeypatch.setattr(golden_noise, "generate", breaks)
    for name, asked in (
        ("lab", dict(prompt=PROMPT, arms=["npnet"])),
        ("compare", dict(prompt=PROMPT, entries=[])),
    ):
        seen = []
        with pytest.raises(gr.Error, match="There is no room."):
            for update in handler(name)(visit("lab"), **asked):
                seen.append(update)  # not a comprehension: what came before the error is kept
        assert "running" in shown(seen[:1]) and "progress-line stopped" in shown(seen[-1:])


def test_the_measured_figures_are_a_table_or_one_sentence(monkeypatch: pytest.MonkeyPatch):
    standard, better = [True, False] * 50, [True] * 60 + [False] * 40
    rows = {
        key: Paired.of(hits, standard).as_dict() | {"evaluations": cost, "seconds": 0.31}
        for key, hits, cost in (("standard", standard, 50), ("npnet", standard, 50), ("best_of_two", better, 100))
    }
    found = {"arms": rows, "pairs": 100, "steps": 25, "guidance": 5.5, "strength": 1.0}
    monkeypatch.setattr(noise_lab, "measured", lambda: found)
    told = lab.measured_html("mini")
    assert "Best of two seeds, +10.0 points at 2 times the cost" in told and "100 held-out prompts" in told
    assert told.count("<tr role='row'>") == 4 and "of the mini set" not in told
    assert "of the mini set, not of SDXL" in lab.measured_html("full")
    monkeypatch.setattr(noise_lab, "measured", lambda: None)
    assert lab.measured_html("mini").count(".") == lab.NOT_MEASURED.count(".") == 1


def test_the_full_set_says_why_it_has_no_lab():
    page = app.build(app.from_environment(), "full")
    words = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "--model-set mini" in words  # what it fetches is told by the preflight
    assert not [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == "lab"]
    radio = next(b for b in page.blocks.values() if isinstance(b, gr.Radio) and b.label == "Golden noise from")
    assert [key for _, key in radio.choices] == [
        "npnet_paper",
        "redenoise",
        "redenoise_released",
    ] and radio.value == "npnet_paper"


def raises(error: BaseException):
    def handler(session):
        yield 1
        raise error

    return handler


@pytest.mark.parametrize("error", [ValueError("the seed is odd"), MemoryError("no room"), TimeoutError("too slow")])
def test_foreseen_errors_are_told_in_one_sentence(error: Exception):
    run = handlers.on_gpu(raises(error))(visit())
    assert next(run) == 1
    with pytest.raises(gr.Error) as caught:
        next(run)
    assert str(error)[1:] in caught.value.message
    assert caught.value.message[0].isupper()
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("error", [RuntimeError("/secret/path"), OSError("gone: /secret/path"), KeyError("x")])
def test_unforeseen_errors_show_a_reference_and_are_logged(error: Exception, caplog: pytest.LogCaptureFixture):
    with pytest.raises(gr.Error) as caught:
        list(handlers.on_gpu(raises(error))(visit()))
    reference = re.search(r"reference (\w{6})", caught.value.message)[1]
    assert "secret" not in caught.value.message
    assert reference in caplog.text
    assert "Traceback" in caplog.text


def test_a_cancelled_run_ends_quietly():
    assert list(handlers.on_gpu(raises(lane.Cancelled()))(visit())) == [1]


def forever(session):
    yield from itertools.repeat(session)


def test_one_run_per_visitor_until_stop_is_pressed():
    handler = handlers.on_gpu(forever)
    first, other = handler(visit("a")), handler(visit("b"))
    a, b = visitors.visitor(visit("a")), visitors.visitor(visit("b"))
    assert (next(first), next(other)) == (a, b)
    with pytest.raises(gr.Error, match="One run at a time"):
        next(handler(visit("a")))
    assert next(first) == a, "the refusal must not end the run that is going"

    assert handlers.stop_run(visit("a"))
    assert not handlers.stop_run(visit("a"))
    again = handler(visit("a"))
    assert next(again) == a, "after Stop the next run starts at once"
    assert list(first) == []
    with pytest.raises(gr.Error, match="One run at a time"):
        next(handler(visit("a")))
    again.close()
    assert next(handler(visit("a"))) == a
    other.close()
    assert not handlers.stop_run(visit("b"))


def test_a_run_that_gives_way_begins_beside_no_other_and_ends_where_one_begins():
    look, run = handlers.on_gpu(forever, gives_way=True), handlers.on_gpu(forever)
    going = run(visit("a"))
    next(going)
    assert list(look(visit("a"))) == [], "nothing, without a word"
    going.close()
    looking = look(visit("a"))
    assert next(looking) is not None
    going = run(visit("a"))
    assert next(going) is not None and list(looking) == []
    assert list(look(visit("a"))) == []
    assert handlers.stop_run(visit("a")) and list(going) == []
    newer = look(visit("a"))
    assert next(newer) is not None and handlers.stop_run(visit("a")) and list(newer) == []


def test_a_live_look_is_marked_and_leaves_nothing_of_an_earlier_result_beside_it():
    asked = {
        name: getattr(Settings.of("mini"), name)
        for name in ("prompt", "seed", "source", "strength", "steps", "guidance")
    }
    seen = list(handler("live_look")(visit("a"), **asked))
    page = shown(seen)
    assert "Live: 6 steps in" in page and "not judged and not kept: Run draws 25 steps." in page
    assert sum(isinstance(value, Image.Image) for value in seen[-1].values()) == 2
    assert "" in seen[-1].values() and any(isinstance(v, gr.Column) and not v.visible for v in seen[-1].values())
    (told,) = handler("live_look")(visit("a"), **{**asked, "prompt": " "})
    assert "Live: The prompt is empty" in shown([told])


def test_the_large_models_have_no_live_look_on_a_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(links, "LINKS", {})  # those of the page that is tested stay
    page = app.build(Registry("cpu"), "full")
    (look,) = [event.fn for event in page.fns.values() if getattr(event.fn, "__name__", "") == "live_look"]
    (told,) = look(visit("a"), prompt="a red cube")
    assert "needs a GPU" in shown([told])


def test_every_button_that_starts_a_run_waits_for_what_is_on_its_way():
    """`hold.js` knows them by their classes."""
    page = app.demo
    buttons = [
        page.blocks[number]
        for event in page.fns.values()
        if getattr(event.fn, "needs_gpu", False) and event.api_visibility != "public"
        for number, kind in event.targets
        if kind == "click"
    ]
    assert len(buttons) > 12
    known = {"studio-run", "example", STARTS, "live-draw"}  # the last gives way to each of them
    assert not [button.value for button in buttons if not known & set(button.elem_classes)]


def test_a_run_that_has_shown_its_result_keeps_nobody_waiting():
    """Whoever presses Run when he reads "Done" is not told that his run still goes."""
    results = threading.Event()

    def short(session):
        yield from lane.stream(lambda job: 1)
        results.wait(10)  # as long as the server takes to send it

    handler = handlers.on_gpu(short)
    first, second = handler(visit("a")), handler(visit("a"))
    assert lane.Result(1) in first
    threading.Timer(0.3, results.set).start()
    with ThreadPoolExecutor() as pool:
        started = pool.submit(next, second)
        assert list(first) == []
        assert started.result(20) is not None
    second.close()


def test_the_session_is_no_parameter_of_the_endpoint():
    def handler(session, prompt, seed=3):
        yield session

    assert [p[:3] for p in get_function_params(handlers.on_gpu(handler))] == [
        ("prompt", False, None),
        ("seed", True, 3),
    ]


def test_files_of_a_visitor_go_when_he_is_forgotten():
    folder = handlers.workspace("somebody")
    (folder / "a.png").write_bytes(b"x")
    assert handlers.workspace("somebody") == folder
    assert handlers.workspace("../somebody else") not in (folder, folder.parent.parent)
    handlers.forget_visitor(visit("somebody"))
    assert not folder.exists()


# --- words on the page ---


def test_the_paper_card_tells_the_facts_and_escapes_them():
    paper = Paper(
        "<b>T</b>", ("A & B", "C"), "V", 'https://x.org/"', "in a line", "idea", "ours", "theirs", "Apache-2.0"
    )
    with gr.Blocks():
        card = widgets.paper_card(paper).value
    assert "&lt;b&gt;T&lt;/b&gt;" in card
    assert "A &amp; B, C" in card
    assert '"https://x.org/&quot;"' in card
    for word in ("in a line", "idea", "ours", "theirs", "Apache-2.0"):
        assert word in card


def test_models_are_not_loaded_in_advance_where_the_host_has_no_room_for_them():
    registry = Registry("cpu", ram_bytes=1000)
    app.build(registry).warm(lane.Job())
    assert {part["state"] for part in registry.status()} == {"cold"}


@pytest.mark.slow
def test_the_first_tabs_models_are_there_once_somebody_has_the_page():
    registry, port = Registry("cpu"), free_port()
    page = app.build(registry)
    app.serve(page, "127.0.0.1", port, block=False, warm=True)
    try:
        assert not any(part["state"] == "ram" for part in registry.status())
        answer = httpx.get(f"http://127.0.0.1:{port}/studio/status", timeout=60)
        assert "nothing yet" in answer.json()["line"], "the page does not wait for them"
        until = time.monotonic() + 200
        needed = {spec.key for spec in golden_noise.parts("mini", Settings.of("mini").source).values()}
        while not needed <= {part["key"] for part in registry.status() if part["state"] == "ram"}:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        page.close()


def test_the_status_line_loads_nothing():
    registry = app.from_environment()
    text = widgets.status_text(registry, "mini")
    for word in ("mini", "nothing yet", "MiB", "Queue"):
        assert word in text


def test_restoring_checks_the_settings_inside(tmp_path: Path):
    image, path = Image.new("RGB", (8, 6)), tmp_path / "a.png"
    good = {"prompt": "a red cube", "seed": 5, "noise": "golden", "from a later version": 1}
    assert inside(images.save_png(image, path, good, tab=SLUG))[0].seed == 5
    assert inside(path)[0].source == "npnet", "PNGs from before there was a choice still restore"
    images.save_png(image, path, good | {"source": "redenoise"}, tab=SLUG)
    assert inside(path)[0].source == "redenoise"
    for bad in (
        {"prompt": "x" * 5000},
        {"steps": 10**9},
        {"seed": "5"},
        {"seed": [5]},
        {"model_set": "maxi"},
        {"source": "x"},
    ):
        images.save_png(image, path, good | bad, tab=SLUG)
        with pytest.raises(ValueError, match=r"\.$"):
            inside(path)
    images.save_png(image, path, {"seed": 5}, tab=SLUG)
    with pytest.raises(ValueError, match="no prompt"):
        inside(path)


# --- quiet ---


def test_nothing_phones_home():
    names = python(
        """
        import socket, sys, time
        asked, real = [], socket.getaddrinfo
        def recorder(host, *rest, **more):
            asked.append(host)
            return real(host, *rest, **more)
        socket.getaddrinfo = recorder
        import app, urllib.request
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0)); port = probe.getsockname()[1]
        app.serve(app.demo, "127.0.0.1", port, block=False)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/").read()
        time.sleep(4)
        local = {None, "", "localhost", "127.0.0.1", "0.0.0.0", "::1", b"127.0.0.1", b"localhost"}
        print("ASKED", sorted({str(host) for host in asked if host not in local}))
        sys.stdout.flush()
        app.demo.close()
        """
    )
    assert "ASKED []" in names


def test_no_weights_are_read_as_a_program():
    """diffusers and transformers fall back to pickle where a safetensors file is missing, unless they are told not to."""
    for path in (ROOT / "pipelines").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                not isinstance(node, ast.Call)
                or not isinstance(node.func, ast.Attribute)
                or node.func.attr != "from_pretrained"
            ):
                continue
            text = ast.unparse(node)
            if any(
                word in text for word in ("okenizer", "Scheduler", "_class_name", "split_special_tokens", "super()")
            ):
                continue
            given = {word.arg for word in node.keywords}
            assert "use_safetensors" in given or None in given, f"{path}: {text}"
