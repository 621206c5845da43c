"""A signal in the middle of a run ends the studio soon, whole, and so that it starts again at the same address."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.environment import free_port
from tests.faults import storm
from tests.faults.copies import ROOT

RUNS: dict[str, dict[str, Any]] = {
    "golden_noise": {"prompt": "a red cube on a wooden floor", "seed": 1, "steps": 100},
    "guide": {"prompt": "What does the goat eat?", "concepts": {"humour": 0.3}, "seed": 1},
    "remove_object": {"image": "image", "mask": "mask", "seed": 0, "steps": 0},
    "portrait": {"pictures": ["image"], "reference": "image", "mode": "instant", "consent": True},
}
SOON_S = 6.0
"""Processor time from a signal to the end: on a busy machine it lasts longer, and is no more work."""


@contextmanager
def studio(port: int, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "LATENT_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "LATENT_STUDIO_WORK": str(work), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port)]
    with (work.parent / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (work.parent / "log.txt").read_text()[-2000:]
                assert time.monotonic() < until, "the page does not come up"
                time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def begin(address: str, name: str, client: httpx.Client) -> None:
    """Start a run by the API and read its first event."""
    info = client.get(f"{address}/gradio_api/info").json()["named_endpoints"][f"/{name}"]["parameters"]
    given = {key: sent(address, client, value) for key, value in RUNS[name].items()}
    data = [given.get(one["parameter_name"], one.get("parameter_default")) for one in info]
    event = client.post(f"{address}/gradio_api/call/{name}", json={"data": data}).raise_for_status().json()["event_id"]
    with client.stream("GET", f"{address}/gradio_api/call/{name}/{event}", timeout=30) as stream:
        began = time.monotonic()
        for _line in stream.iter_lines():
            if time.monotonic() - began > 1:
                return


def sent(address: str, client: httpx.Client, value: Any) -> Any:
    if isinstance(value, list):
        return [sent(address, client, one) for one in value]
    if value not in ("image", "mask"):
        return value
    path = ROOT / "assets/example_scenes/removal_mask.png"
    (there,) = client.post(f"{address}/gradio_api/upload", files={"files": path.open("rb")}).raise_for_status().json()
    return {"path": there, "meta": {"_type": "gradio.FileData"}}


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def processor_s_of_ended() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ended(process: subprocess.Popen[bytes], signals: list[int], code: tuple[int, ...], port: int, work: Path) -> None:
    below = children(process.pid)
    ended_before, used = processor_s_of_ended(), storm.processor_s(process.pid)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(60) in code
    assert processor_s_of_ended() - ended_before - used < SOON_S
    assert not [child for child in below if Path(f"/proc/{child}").exists()]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    left = [path for path in work.rglob("*") if path.is_file() and path.name != "lock"]
    assert not [path for path in left if "guests" in path.parts or path.name.startswith("tmp")], left


TERMINATED, INTERRUPTED = (-signal.SIGTERM, 128 + signal.SIGTERM), (-signal.SIGINT, 128 + signal.SIGINT)


def interrupted(tmp_path: Path, name: str) -> None:
    port, work = free_port(), tmp_path / "work"
    for signals, code in (
        ([signal.SIGTERM], TERMINATED),
        ([signal.SIGINT], INTERRUPTED),
        ([signal.SIGINT, signal.SIGINT], INTERRUPTED),
    ):
        with studio(port, work) as process, httpx.Client(timeout=60) as client:
            begin(f"http://127.0.0.1:{port}", name, client)
            ended(process, signals, code, port, work)
    log = (tmp_path / "log.txt").read_text()
    assert "Traceback" not in log, log[-2000:]


@pytest.mark.long
def test_a_signal_in_a_run_ends_the_studio_and_it_starts_again(tmp_path: Path):
    interrupted(tmp_path, "golden_noise")


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in RUNS if name != "golden_noise"])
def test_a_signal_in_a_run_of_every_tab(tmp_path: Path, name: str):
    interrupted(tmp_path, name)
