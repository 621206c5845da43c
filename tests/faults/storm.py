"""Starting runs over HTTP and leaving them in every way there is; for `tests/faults`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy
from PIL import Image

from demos.megaportrait.people import first_person, first_reference
from tests.environment import free_port

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red cube to the left of a blue ball on a wooden floor"


@contextlib.contextmanager
def serving(folder: Path = ROOT, **environment: str) -> Iterator[str]:
    """The address of the app in a process of its own; ``folder``: that of a copy (`copies.studio_in`)."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.server", str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or answers(address), 120, 0.2)
        assert process.poll() is None, "the server did not start"
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/counts").status_code == 200
    return False


def until(true: Callable[[], object], seconds: float = 30.0, step: float = 0.02) -> float:
    """Seconds that it took to come true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come about in time"
        time.sleep(step)
    return time.monotonic() - began


def processor_s(pid: int) -> float:
    """Processor time of a process so far, all its threads."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Visitor:
    """One session of Gradio's protocol, without Gradio's client."""

    address: str
    cookie: str = ""
    session: str = field(default_factory=lambda: os.urandom(6).hex())
    event_id: str = ""

    def __post_init__(self) -> None:
        cookies = {"studio_visitor": self.cookie} if self.cookie else None
        self.http = httpx.Client(base_url=f"{self.address}/gradio_api", cookies=cookies, timeout=60, verify=False)
        self.functions = {
            function["api_name"]: function["id"]
            for function in self.http.get(f"{self.address}/config").json()["dependencies"]
            if function["api_name"]
        }

    def join(self, endpoint: str, data: list[Any]) -> str:
        body = {"data": data, "fn_index": self.functions[endpoint], "session_hash": self.session}
        answer = self.http.post("/queue/join", json=body)
        assert answer.status_code == 200, answer.text
        self.event_id = answer.json()["event_id"]
        return self.event_id

    @contextlib.contextmanager
    def stream(self) -> Iterator[Iterator[dict[str, Any]]]:
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as answer:
            yield (json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:"))

    def run(self, endpoint: str, data: list[Any]) -> dict[str, Any]:
        """The last message of a whole run."""
        event_id = self.join(endpoint, data)
        with self.stream() as messages:
            return next(m for m in messages if m["msg"] == "process_completed" and m["event_id"] == event_id)

    def picture(self, data: list[Any]) -> bytes:
        """Both pictures of a whole run of Golden Noise."""
        done = self.run("golden_noise", data)
        assert done["success"], done
        return b"".join(self.http.get(shown["url"]).content for shown in done["output"]["data"][:2])

    def socket(self, path: str) -> socket.socket:
        """A connection that asks for an event stream and can be broken by hand."""
        host, port = self.address.removeprefix("http://").split(":")
        link = socket.create_connection((host, int(port)), 20)
        cookie = f"Cookie: studio_visitor={self.cookie}\r\n" if self.cookie else ""
        link.sendall(f"GET /gradio_api{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{cookie}\r\n".encode())
        return link

    def upload(self, *files: Path) -> list[dict[str, Any]]:
        sent = [("files", (file.name, file.read_bytes())) for file in files]
        paths = self.http.post("/upload", files=sent).json()
        return [
            {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
            for path, file in zip(paths, files, strict=True)
        ]

    def close(self) -> None:
        self.http.close()


# --- ways to leave ---

READER = """
import http.client, json, sys, time
host, port, session, body = sys.argv[1:5]
link = http.client.HTTPConnection(host, int(port))
link.request("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
link.getresponse().read()
link.request("GET", "/gradio_api/queue/data?session_hash=" + session)
answer = link.getresponse()
print("reading", flush=True)
while answer.read(64): pass
"""


def leave_stop(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The page's Stop button, while the stream stays open to the end."""
    visitor.join(endpoint, data)
    with visitor.stream() as messages:
        wait()
        stop = {"data": [], "fn_index": visitor.functions["halt"], "session_hash": visitor.session}
        assert visitor.http.post("/run/halt", json=stop).status_code == 200
        for message in messages:
            if message["msg"] == "process_completed":
                return


def leave_cancel(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """`submit(...).cancel()`."""
    visitor.join(endpoint, data)
    with visitor.stream():
        wait()
        body = {"fn_index": visitor.functions[endpoint], "session_hash": visitor.session, "event_id": visitor.event_id}
        visitor.http.post("/cancel", json=body)


def leave_cancel_early(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The same before the client knows its event: all that it sends then is a reset."""
    visitor.join(endpoint, data)
    with visitor.stream():
        wait()
        visitor.http.post("/reset", json={"event_id": visitor.event_id})


def leave_unread(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """Joined, and never heard of again."""
    visitor.join(endpoint, data)


def leave_call_unread(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The same through the simple address."""
    assert visitor.http.post(f"/call/{endpoint}", json={"data": data}).status_code == 200


def leave_close(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The connection is closed."""
    visitor.join(endpoint, data)
    with visitor.socket(f"/queue/data?session_hash={visitor.session}"):
        wait()


def leave_reset(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The connection is reset, in the middle of whatever comes."""
    visitor.join(endpoint, data)
    link = visitor.socket(f"/queue/data?session_hash={visitor.session}")
    wait()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def leave_killed(visitor: Visitor, endpoint: str, data: list[Any], wait: Callable[[], None]) -> None:
    """The client's process is killed."""
    host, port = visitor.address.removeprefix("http://").split(":")
    body = json.dumps({"data": data, "fn_index": visitor.functions[endpoint], "session_hash": visitor.session})
    command = [sys.executable, "-I", "-S", "-c", READER, host, port, visitor.session, body]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    wait()
    process.kill()
    process.wait()
    process.stdout.close()


WAYS = [
    leave_stop, leave_cancel, leave_cancel_early, leave_unread, leave_call_unread, leave_close, leave_reset, leave_killed,
]  # fmt: skip
UNREAD = {leave_unread, leave_call_unread}


# --- what is run ---


def write_pictures(folder: Path) -> dict[str, list[Path]]:
    """A scene with a mask, and pictures of a person with a reference."""
    rows, columns = numpy.mgrid[:128, :192]
    scene = numpy.stack([rows + 60, columns, rows // 2 + 90], -1).astype(numpy.uint8)
    scene[50:90, 80:120] = (200, 40, 40)
    mask = numpy.zeros((128, 192), numpy.uint8)
    mask[48:92, 78:122] = 255
    pictures = {"scene": [scene], "mask": [mask], "reference": [first_reference().picture]}
    pictures["person"] = [picture for _name, picture in first_person().pictures[:3]]
    paths: dict[str, list[Path]] = {}
    for name, ones in pictures.items():
        paths[name] = [folder / f"{name}_{number}.png" for number in range(len(ones))]
        for path, one in zip(paths[name], ones, strict=True):
            Image.fromarray(one).save(path)
    return paths


SENT = {"image": "scene", "mask": "mask", "picture": "scene", "pictures": "person", "reference": "reference"}
"""Parameter of an endpoint -> what of `write_pictures` is sent for it."""
UNSENT = {("prospect", "pictures")}
"""Of these names, those that take files which an endpoint has made, and may be left out."""
CHEAP = {"steps": 2, "seconds": 5, "max_tokens": 8, "candidates": 1, "consent": True}
"""What a call asks for so that it costs little; other parameters have their defaults."""


def call_of(visitor: Visitor, endpoint: str, files: dict[str, list[Path]]) -> list[Any]:
    """A good and cheap call of any endpoint that the app lists; uploads what it needs."""
    info = visitor.http.get("/info").json()["named_endpoints"][f"/{endpoint}"]
    data = []
    for one in info["parameters"]:
        name, value = one["parameter_name"], one.get("parameter_default")
        if name in SENT and (endpoint, name) not in UNSENT:
            value = visitor.upload(*files[SENT[name]])
            value = value if one["type"].get("title") == "ListFiles" else value[0]
        data.append(CHEAP.get(name, value))
    return data


def noise(seed: int = 0, steps: int = 100) -> list[Any]:
    return [PROMPT, seed, steps, 5.5, 1.0, "mini", "npnet"]


def run_of(visitor: Visitor, endpoint: str, files: dict[str, list[Path]], long: bool = True) -> list[Any]:
    """What is sent to an endpoint for a run of many seconds, or for one that is short; uploads what it needs."""

    def sent(name: str) -> list[Any]:
        return visitor.upload(*files[name])

    tokens = 96 if long else 4
    if endpoint == "golden_noise":
        return noise(0, 100 if long else 1)
    if endpoint == "remove_object":
        return [*sent("scene"), *sent("mask"), 0, 50 if long else 1, "mini"]
    if endpoint == "guide":
        return ["What does the goat eat?", {"humour": 0.3}, "", 0, tokens, "mini", 0.7, 0.95, "share", "all", ""]
    if endpoint == "portrait":
        mode, candidates = ("instant", 4) if long else ("preview", 1)
        return [None, sent("person"), *sent("reference"), mode, 0, candidates, True, "mini"]
    assert endpoint == "train_person", endpoint
    return [sent("person"), "Ada", 60 if long else 5, 0, True, "mini"]
