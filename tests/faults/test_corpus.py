"""A corpus of bad inputs over every endpoint and every parameter, as the running app lists them.

Each request is a good call with one bad value in it. ``python -m tests.faults.test_corpus 1600`` runs that many of them
and prints the table that CONTRIBUTING.md holds.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.environment import free_port
from tests.faults import storm

ROOT = Path(__file__).resolve().parents[2]
SEED = 16
SLOW_S = 2.0
BUSY = 10
"""So many times longer an answer may take than the server computes for it: the machine may be busy."""
"""What is refused is refused within this time."""
HUNG_S = 180.0
CHEAP = {"steps": 4, "seconds": 1, "max_tokens": 4, "candidates": 1, "person": None}
"""What a good call asks for, so that one that is accepted costs little; other parameters have their defaults."""
MARK = {"_type": "gradio.FileData"}
RAW_WORDS = re.compile(
    r"Traceback|Error\b|Exception|NoneType|object has no attribute|codec can't|line \d+ column|site-packages|/tmp/|\.py\b"
    r"|not subscriptable|unexpected keyword|invalid literal|embedded null|surrogates"
)


# --- bad values --------------------------------------------------------------------------------------------------


def png(width: int = 24, height: int = 16, mode: int = 2) -> bytes:
    """A picture of one colour, written by hand so that nothing else decides what is in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = b"\0" + b"\xc0" * width * (3 if mode == 2 else 1)
    head = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(line * min(height, 4096))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def odd_files() -> dict[str, tuple[str, bytes]]:
    """Label, and (name, content) of files that no endpoint can use."""
    good, bomb = png(), archive(**{"person.json": b"0" * 60_000_000})
    cut = archive(a=b"x" * 5000)[:-30]
    tensors = json.dumps({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 10**12]}}).encode()
    return {
        "an empty file": ("a.png", b""),
        "a text as PNG": ("a.png", b"no picture at all"),
        "an EPS as PNG": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) show\nshowpage\n"),
        "a DDS as PNG": ("a.png", b"DDS " + struct.pack("<6I", 124, 0x1007, 16, 16, 0, 0) + b"\0" * 200),
        "a QOI as PNG": ("a.png", b"qoif" + struct.pack(">IIBB", 16, 16, 3, 0) + b"\0" * 60),
        "a PPM as PNG": ("a.png", b"P6 4 4 255\n" + b"\0" * 48),
        "a GIF as PNG": ("a.png", b"GIF89a\x10\0\x10\0\x80\0\0" + b"\0" * 30),
        "an SVG as PNG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='https://example.com/x'/></svg>"),
        "a PNG that is cut off": ("a.png", good[: len(good) // 2]),
        "a PNG with a wrong sum": ("a.png", good[:-20] + b"\xff" * 8 + good[-12:]),
        "a PNG of 30,000 by 30,000": ("a.png", png(30_000, 30_000, 0)),
        "a PNG of no width": ("a.png", png(0, 16)),
        "a picture of one pixel": ("a.png", png(1, 1)),
        "a zip that unpacks to 60 MB": ("a.zip", bomb),
        "a zip that is cut off": ("a.zip", cut),
        "a zip in which a path leads out": ("a.zip", archive(**{"../../evil.json": b"{}"})),
        "a zip without anything": ("a.zip", archive()),
        "tensors of garbage": ("a.safetensors", os.urandom(4096)),
        "tensors that end before they begin": ("a.safetensors", struct.pack("<Q", len(tensors)) + tensors),
        "a header of 10^18 bytes": ("a.safetensors", struct.pack("<Q", 10**18) + b"{}"),
        "GGUF of garbage": ("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 10**9, 10**9)),
        "a deep JSON": ("a.json", b"[" * 100_000),
    }  # fmt: skip


def deep(levels: int) -> list:
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


def odd_values() -> dict[str, Any]:
    """Label and value; every parameter gets every one, whatever its type."""
    return {
        "nothing": None, "true": True, "false": False, "an empty text": "", "blanks": " \t\n", "a text": "seven",
        "an empty list": [], "an empty object": {}, "a list": [1, "a", None], "an object": {"a": 1}, "a list of lists": [[[1]]],
        "a fraction": 2.5, "a negative number": -1, "a number as text": "7", "10^9": 10**9, "-10^9": -(10**9), "10^18": 10**18,
        "2^31": 2**31, "2^53": 2**53 + 1, "400 digits": 10**400, "4000 digits": 10**4000, "1e308": 1e308, "-1e308": -1e308,
        "1e-308": 1e-308, "NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf"),
        "NUL": "a\0b", "control characters": "a\x01\x07\x1b[31mb", "half a character": "a\ud83db", "half a character at the end": "\udc00",
        "no character": "\ufffe\uffff", "zero width": "\u200b\u200b", "right to left": "\u202eabc", "line ends": "a\u2028b\x85c\r\vd",
        "marks": "Z" + "\u0301" * 500, "emoji": "👩‍👩‍👧‍👦" * 20, "a text of 1 MB": "a" * 10**6, "1 MB of blanks": " " * 10**6,
        "a line of 1 MB": "+ a => b " * 10**5, "100,000 lines": "a\n" * 10**5, "markup": "<script>alert(1)</script><img src=x onerror=y>",
        "a template": "{0.__class__} %s %n ${x} {{7*7}}", "control tokens": "<bot><eos><|im_start|>system", "a path": "../../../etc/passwd",
        "an address": "https://example.com/a.png", "an object as text": '{"path": "/etc/passwd"}', "the other model set": "full",
        "an unknown model set": "maxi", "40 levels": deep(40), "1000 levels": deep(1000), "20 levels": deep(20),
        "10,000 values": list(range(10_000)), "100,000 texts": ["a"] * 100_000, "1000 keys": {f"k{n}": n for n in range(1000)},
        "an object with odd keys": {"": 1, "\0": 2, "__class__": 3}, "half a character as key": {"\ud800": 1},
        "messages without a user": [{"role": "assistant", "content": "x"}], "messages of numbers": [{"role": "user", "content": 7}],
        "a message with a file": [{"role": "user", "content": [{"type": "file", "file": {"path": "/etc/passwd", "meta": MARK}}]}],
        "examples of nothing": [{"prompt": None, "completion": [], "label": "x"}], "a huge strength": {"humour": 1e300},
        "a strength that is NaN": {"humour": float("nan")}, "an unknown concept": {"magic": 0.3}, "five concepts": dict.fromkeys("abcde", 0.1),
        **{f"file data with {label}": value for label, value in odd_file_data().items()},
    }  # fmt: skip


def odd_file_data() -> dict[str, Any]:
    return {
        "an address": {"path": "https://example.com/a.png", "meta": MARK}, "an address only": {"url": "https://example.com/a.png"},
        "an address without a scheme": {"path": "//example.com/a.png", "meta": MARK}, "ftp": {"path": "ftp://example.com/a", "meta": MARK},
        "an address of this machine": {"path": "http://127.0.0.1:22/", "meta": MARK}, "data in it": {"path": "data:image/png;base64,AAAA", "meta": MARK},
        "a foreign path": {"path": "/etc/passwd", "meta": MARK}, "a foreign path without a mark": {"path": "/etc/passwd"},
        "a path of the process": {"path": "/proc/self/environ", "meta": MARK}, "our own source": {"path": str(ROOT / "app.py"), "meta": MARK},
        "a path that leads out": {"path": "../../../etc/passwd", "meta": MARK}, "NUL": {"path": "/tmp/\0", "meta": MARK},
        "half a character": {"path": "/tmp/\ud800", "meta": MARK}, "a very long path": {"path": "/tmp/" + "a" * 10_000, "meta": MARK},
        "a folder": {"path": tempfile.gettempdir(), "meta": MARK}, "no path": {"path": "", "meta": MARK}, "nothing as path": {"path": None, "meta": MARK},
        "a number as path": {"path": 7, "meta": MARK}, "a list as path": {"path": ["/etc/passwd"], "meta": MARK}, "an odd mark": {"path": "x", "meta": {"_type": "x"}},
        "no mark": {"path": "x", "meta": None}, "a number as mark": {"path": "x", "meta": 7}, "a stream": {"path": "x", "is_stream": True, "meta": MARK},
        "an odd size": {"path": "x", "size": "huge", "orig_name": [], "meta": MARK}, "a list of them": [{"path": "/etc/passwd", "meta": MARK}] * 3,
        "one inside an object": {"a": {"b": {"path": "https://example.com/a.png", "meta": MARK}}}, "both": {"path": "x", "url": "https://example.com/a", "meta": MARK},
    }  # fmt: skip


# --- requests ----------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One request: a good call of ``endpoint`` but for ``parameter``."""

    endpoint: str
    parameter: str
    label: str
    value: Any = None
    file: tuple[str, bytes] | None = None
    """Uploaded and then sent as the value."""
    foreign: bool = False
    """The value is a file that another visitor sent."""

    @property
    def is_empty(self) -> bool:
        """Whether it may be called empty."""
        plain = re.sub(r"[\s\u200b]", "", self.value) if isinstance(self.value, str) else self.value
        return (
            (self.file is not None and not self.file[1])
            or plain in ("", [], {})
            or self.label == "a zip without anything"
        )


def cases(endpoints: dict[str, Any], seed: int = SEED) -> Iterator[Case]:
    """All cases, in an order in which each endpoint and parameter comes early and often."""
    values, files, chance = odd_values(), odd_files(), random.Random(seed)
    piles = []
    for name, endpoint in endpoints.items():
        for parameter in (one["parameter_name"] for one in endpoint["parameters"]):
            pile = [Case(name, parameter, label, value) for label, value in values.items()]
            pile += [Case(name, parameter, label, file=file) for label, file in files.items()]
            pile.append(Case(name, parameter, "another visitor's file", foreign=True))
            chance.shuffle(pile)
            piles.append(pile)
        piles.append([Case(name, "", label) for label in ("half of the values", "no values", "a value too many")])
    chance.shuffle(piles)
    for row in itertools.zip_longest(*piles):
        yield from (case for case in row if case is not None)


@dataclass
class Count:
    """What came of the requests."""

    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    resident: list[int] = field(default_factory=list)
    """Bytes of the server after every hundred requests."""

    def add(self, case: Case, kind: str, words: str, seconds: float) -> None:
        self.seen["tried"] += 1
        self.seen[kind] += 1
        where = f"{case.endpoint} {case.parameter}: {case.label}"
        if kind == "hung":
            self.faults.append(f"{where}: no answer within {HUNG_S:.0f} s")
        if kind != "refused":
            return
        self.slowest = max(self.slowest, seconds)
        checks = {
            "empty message": not words.strip(),
            "our side": "on our side" in words,
            "wrong reason": bool(re.search(r"\bis empty|\bare empty|no prompt|no message", words))
            and not case.is_empty,
            "not one sentence": bool(words)
            and (not words.endswith((".", "!", "?")) or "\n" in words or len(words) > 400),
            "raw words": bool(RAW_WORDS.search(words)),
            "later than 2 s": seconds > SLOW_S,
        }
        for what, true in checks.items():
            if true:
                self.seen[what] += 1
                self.faults.append(f"{where}: {what}: {words[:200]!r} after {seconds:.1f} s")

    def table(self) -> str:
        """For CONTRIBUTING.md."""
        names = (
            "tried",
            "refused",
            "accepted",
            "empty message",
            "traceback",
            "our side",
            "wrong reason",
            "not one sentence",
        )
        names += ("raw words", "later than 2 s", "hung", "looked up or connected to")
        words = {"refused": "refused in one sentence", "accepted": "accepted: the value was fine there"}
        rows = [f"| {words.get(name, name)} | {self.seen[name]:,} |" for name in names]
        return "\n".join(["| | requests |", "|---|---:|", *rows])


class Server:
    """The app in a process of its own."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.log = tempfile.TemporaryFile()
        self.scratch = tempfile.TemporaryDirectory(prefix="latent-studio-corpus-")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": self.scratch.name}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(port)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self.log, env=environment,
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.url, timeout=HUNG_S)
        self.stranger = httpx.Client(base_url=self.url, timeout=HUNG_S)
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                self.endpoints = self.http.get("/gradio_api/info").json()["named_endpoints"]
                break
            assert self.process.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
        self.stranger.get("/")  # has a cookie now
        self.good_file = self.upload("good.png", png())

    def upload(self, name: str, content: bytes, of: httpx.Client | None = None) -> dict[str, Any]:
        sent = (of or self.http).post("/gradio_api/upload", files={"files": (name, content)})
        assert sent.status_code == 200, sent.text
        return {"path": sent.json()[0], "meta": MARK}

    def good(self, endpoint: str) -> dict[str, Any]:
        """A call of the endpoint in which nothing is wrong with any single value."""
        found = {}
        for one in self.endpoints[endpoint]["parameters"]:
            title, value = one["type"].get("title"), one.get("parameter_default")
            if title == "FileData":
                value = self.good_file
            elif title == "ListFiles":
                value = [self.good_file]
            elif one["type"].get("type") == "boolean":
                value = True
            found[one["parameter_name"]] = CHEAP.get(one["parameter_name"], value)
        return found

    def ask(self, case: Case, route: str) -> tuple[str, str, float]:
        """("refused", "accepted" or "hung", what was said, seconds that the server computed)."""
        values = self.good(case.endpoint)
        if case.file is not None:
            case.value = self.upload(*case.file)
        if case.foreign:
            case.value = self.upload("hers.png", png(), self.stranger)
        listed = "ListFiles" == next(
            (
                p["type"].get("title")
                for p in self.endpoints[case.endpoint]["parameters"]
                if p["parameter_name"] == case.parameter
            ),
            "",
        )
        if case.parameter:
            values[case.parameter] = [case.value] if listed and (case.file or case.foreign) else case.value
        data = list(values.values())
        data = {"half of the values": data[: len(data) // 2], "no values": [], "a value too many": [*data, 1]}.get(
            case.label, data
        )
        began, used = time.monotonic(), storm.processor_s(self.process.pid)
        try:
            kind, words = self._send(case, route, data, values)
        except httpx.TimeoutException:
            kind, words = "hung", ""
        used = storm.processor_s(self.process.pid) - used
        return kind, words, max(used, (time.monotonic() - began) / BUSY)

    def _send(self, case: Case, route: str, data: list[Any], values: dict[str, Any]) -> tuple[str, str]:
        name = case.endpoint.strip("/")
        session = f"corpus-{random.getrandbits(64):x}"
        if route == "queue":
            number = next(d["id"] for d in self._config["dependencies"] if d["api_name"] == name)
            url, body = "/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": session}
        elif route == "named" and case.parameter:
            url, body = f"/gradio_api/call/v2/{name}", values
        else:
            url, body = f"/gradio_api/call/{name}", {"data": data}
        try:
            content = _dumps(body)
        except RecursionError:
            content = '{"data": ' + "[" * 1000 + "]" * 1000 + "}"
        posted = self.http.post(url, content=content, headers={"content-type": "application/json"})
        if posted.status_code != 200:
            return "refused", str(posted.json().get("error") or "")
        if route == "queue":
            stream = self.http.get(f"/gradio_api/queue/data?session_hash={session}").text
            told = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
            last = next(
                message for message in reversed(told) if message["msg"] in ("process_completed", "unexpected_error")
            )
            return (
                ("accepted", "")
                if last.get("success")
                else ("refused", str((last.get("output") or {}).get("error") or ""))
            )
        stream = self.http.get(f"/gradio_api/call/{name}/{posted.json()['event_id']}").text
        kind, told = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
        if kind == "complete":
            return "accepted", ""
        return "refused", str((json.loads(told) or {}).get("error") or "")

    @property
    def _config(self) -> dict[str, Any]:
        if "config" not in vars(self):
            self.config = self.http.get("/config").json()
        return self.config

    def counts(self) -> dict[str, Any]:
        told = self.http.get("/counts?collect=1")
        assert told.status_code == 200, told.text
        return told.json()

    def tracebacks(self) -> list[str]:
        """Each with its last line."""
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        return re.findall(r"Traceback \(most recent call last\):\n(?:.*\n)*?(?=\S)(.*)", text)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.scratch.cleanup()


def _dumps(body: Any) -> str:
    """JSON as Python writes it, with NaN, and integers of any length."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(body)
    finally:
        sys.set_int_max_str_digits(limit)


def run(server: Server, many: int, seed: int = SEED) -> Count:
    """Ask ``many`` cases and count what comes of them."""
    count, chance = Count(), random.Random(seed)
    for number, case in enumerate(itertools.islice(cases(server.endpoints, seed), many), 1):
        count.add(case, *server.ask(case, chance.choice(("call", "call", "queue", "named"))))
        if number % 100 == 0:
            count.resident.append(server.counts()["rss"])
    count.seen["traceback"] = len(server.tracebacks())
    count.faults += [f"traceback: {line[:300]}" for line in server.tracebacks()]
    asked = server.counts()["asked"]
    count.seen["looked up or connected to"] = len(asked)
    count.faults += [f"looked up or connected to {name}" for name in asked]
    return count


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_the_corpus_covers_every_parameter_of_every_endpoint():
    endpoints = {
        "/a": {"parameters": [{"parameter_name": "x"}, {"parameter_name": "y"}]},
        "/b": {"parameters": [{"parameter_name": "z"}]},
    }
    made = list(cases(endpoints))
    assert {(case.endpoint, case.parameter) for case in made[:5]} >= {("/a", "x"), ("/a", "y"), ("/b", "z")}
    assert len(made) == 3 * (len(odd_values()) + len(odd_files()) + 1) + 6
    assert [case.label for case in made] == [case.label for case in cases(endpoints)], "seeded"


@pytest.mark.slow
def test_bad_values_get_one_sentence_soon(server: Server):
    count = run(server, 120)
    assert not count.faults, "\n".join(count.faults)
    assert count.seen["tried"] == 120 and count.seen["refused"] > 90


@pytest.mark.long
def test_the_whole_corpus(server: Server):
    count = run(server, 1600)
    assert not count.faults, "\n".join(count.faults)
    # Each is asked once more: what is loaded by the first is there, so that what grows now is never given back.
    before = count.resident[-1]
    after = run(server, 800).resident[-1]
    assert after <= 1.05 * before, f"{before / 2**20:.0f} MiB before, {after / 2**20:.0f} after"


if __name__ == "__main__":
    running = Server()
    try:
        found = run(running, int(sys.argv[1]))
        print(found.table(), *found.faults, f"slowest {found.slowest:.2f} s", sep="\n")
        print("MiB after every hundred:", *(size // 2**20 for size in found.resident))
    finally:
        running.close()
