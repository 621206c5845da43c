"""Fetching a part through the real client: what goes wrong is one sentence, nothing is half loaded, and the next try works."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from demos.core.handlers import explain
from pipelines.core import downloads, lane, weights
from pipelines.core.lane import Progress, run_blocking
from pipelines.core.registry import Registry
from pipelines.models import language
from tests.hub import make
from tests.hub.server import Hub, serving

PART = language.language_model("full", "llama-2-7b-chat").parts["model"]
CONFIG, INDEX = (f"{PART.source}/{name}" for name in ("config.json", "model.safetensors.index.json"))
SHARDS = [f"{PART.source}/model-0000{number}-of-00002.safetensors" for number in (1, 2)]
TOKEN = "hf_of_somebody"
PARTIAL = "fetched/models--*/blobs/*.incomplete"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub")
    make.make(made, PART.source)
    return made


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[Hub]:
    with serving(folder, tmp_path) as served:
        yield served


def tried(registry: Registry | None = None) -> str:
    """What a visitor is told; empty where the part was loaded. Nothing of it stays in memory otherwise."""
    registry = registry or Registry("cpu")
    try:
        run_blocking(lambda job: registry.run(PART, lambda model: None))
    except Exception as error:
        assert registry.summary()["ram_bytes"] == 0 and registry.status()[0]["state"] == "failed"
        said = explain(error)
        assert said.startswith(("Llama-2-7b-chat/model", "llama-2-7b-chat/model")) and said.count("\n") == 0, said
        return said
    return ""


def until(done: Callable[[], bool]) -> None:
    for _ in range(200):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def gated(hub: Hub, token: str = "") -> None:
    hub.gated.add(PART.source)
    if token:
        os.environ["HF_TOKEN"] = token  # the hub's fixture takes it away again


def gone(hub: Hub) -> None:
    constants.ENDPOINT = "http://127.0.0.1:9"  # nobody listens there


FAULTS: dict[str, tuple[Callable[[Hub], object], str, int]] = {
    "no token": (
        lambda hub: gated(hub),
        "accept the licence at huggingface.co/meta-llama/Llama-2-7b-chat-hf and set HF_TOKEN",
        0,
    ),
    "licence not accepted": (
        lambda hub: (hub.tokens.add(TOKEN), gated(hub, TOKEN)),
        "the owner of the token in HF_TOKEN has not accepted the licence",
        0,
    ),
    "unknown token": (lambda hub: gated(hub, TOKEN), "the Hub does not know the token in HF_TOKEN", 0),
    "no settings": (lambda hub: hub.missing.add(CONFIG), "needs config.json, which the repository", 0),
    "no index": (lambda hub: hub.missing.add(INDEX), "needs model.safetensors.index.json, which the repository", 0),
    "no shard": (lambda hub: hub.missing.add(SHARDS[1]), "needs model-00002-of-00002.safetensors, which", 0),
    "wrong hash": (lambda hub: hub.damaged.add(SHARDS[1]), "of which something else arrived (SHA-256", 2),
    "cut for good": (lambda hub: hub.cut.update({SHARDS[1]: 99}), "connection to the Hub broke or cannot be made", 5),
    "nobody there": (gone, "connection to the Hub broke or cannot be made", 0),
}
"""What goes wrong, a part of the sentence, and how many files are fetched at least before it is told."""


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_sentence_and_the_next_try_works(hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch):
    fault, sentence, fetched = FAULTS[name]
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fault(hub)
    registry = Registry("cpu")
    assert sentence in tried(registry)
    assert len(hub.fetched()) >= fetched and (fetched or not hub.fetched()), "told before anything is fetched"
    for broken in (hub.gated, hub.missing, hub.damaged, hub.cut):
        broken.clear()
    os.environ.pop("HF_TOKEN", None)
    constants.ENDPOINT = hub.url
    whole = {path for path in hub.fetched() if hub.fetched().count(path) == 1}
    before = len(hub.fetched())
    assert tried(registry) == ""
    assert not (set(hub.fetched()[before:]) & whole - {*SHARDS}), "what had arrived whole is not fetched again"


def test_a_connection_that_breaks_once_is_taken_up_where_it_broke(hub: Hub):
    hub.cut[SHARDS[0]] = 1
    assert tried() == ""
    assert hub.fetched().count(SHARDS[0]) == 2


def test_offline_the_whole_is_used_and_a_part_is_not(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not on this machine and cannot be fetched now: go online once" in tried()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert tried() == ""
    (shard,) = tmp_path.glob(f"fetched/models--*/snapshots/*/{Path(SHARDS[1]).name}")
    shard.rename(tmp_path / "aside")
    weights._fetched.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not on this machine and cannot be fetched now" in tried(), "a partial download does not count as there"
    (tmp_path / "aside").rename(shard)
    for offline in (True, False):  # and what was fetched once does without the Hub
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        weights._fetched.clear()
        assert tried() == ""


def stopped_half_way(hub: Hub, tmp_path: Path, registry: Registry) -> tuple[list[str], float]:
    """A run that is stopped while the first shard waits for its second half: what it said, and how long the stop took."""
    go_on = hub.waiting[SHARDS[0]] = threading.Event()
    run, said = lane.stream(lambda job: registry.run(PART, lambda model: None)), []
    for item in run:
        if isinstance(item, Progress) and "fetching" in item.text:
            said.append(item.text)
            if [*tmp_path.glob(PARTIAL)] and hub.fetched():
                break
    size = (hub.folder / SHARDS[0]).stat().st_size
    until(lambda: sum(path.stat().st_size for path in tmp_path.glob(PARTIAL)) > size // 4)
    began = time.monotonic()
    run.close()
    run_blocking(lambda job: None)  # the lane is free again
    took = time.monotonic() - began
    hub.waiting.clear()
    go_on.set()
    downloads._fetching[0].join(10)
    return said, took


def test_a_download_tells_its_bytes_and_ends_at_once_when_it_is_stopped(hub: Hub, tmp_path: Path):
    registry = Registry("cpu")
    said, took = stopped_half_way(hub, tmp_path, registry)
    assert took < 2, "although the Hub says nothing"
    assert said and said[-1].startswith(f"fetching {PART.source}: ") and re.search(r"[\d.]+ MB of 0\.6 MB", said[-1])
    assert registry.summary()["ram_bytes"] == 0
    assert [(row["state"], row["error"]) for row in registry.status()] == [("cold", None)], "stopped is not failed"


def test_the_next_try_takes_up_a_file_where_it_was_stopped(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry = Registry("cpu")
    stopped_half_way(hub, tmp_path, registry)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not on this machine" in tried(registry), "a partial download does not count as there"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.sent.clear()
    assert tried(registry) == ""
    size = (hub.folder / SHARDS[0]).stat().st_size
    assert 0 < hub.sent[SHARDS[0]] < 0.8 * size, "only the rest was sent"
    assert not [*tmp_path.glob(PARTIAL)]


def test_what_is_wrong_in_a_part_that_was_kept_is_noticed_and_fetched_again(hub: Hub, tmp_path: Path):
    registry = Registry("cpu")
    stopped_half_way(hub, tmp_path, registry)
    (kept,) = tmp_path.glob(PARTIAL)
    kept.write_bytes(bytes(kept.stat().st_size))
    assert "of which something else arrived (SHA-256" in tried(registry)
    assert tried(registry) == ""


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_on_the_way_is_told_and_the_next_try_fetches_the_rest(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    registry = Registry("cpu")
    with small_disk(tmp_path / "disk", 1024) as disk:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk / "fetched"))
        monkeypatch.setattr("pipelines.core.hub.free_room", lambda: 10**9)  # there was room when it began
        (disk / "others").write_bytes(bytes(600 << 10))
        with pytest.raises(OSError, match="No space left") as caught:
            run_blocking(lambda job: registry.run(PART, lambda model: None))
        assert "The disk of the machine that runs the studio is full" in explain(caught.value)
        assert registry.summary()["ram_bytes"] == 0 and [*disk.glob("**/blobs/*.incomplete")]
        (disk / "others").unlink()
        hub.sent.clear()
        assert tried(registry) == ""
        assert sum(hub.sent[shard] for shard in SHARDS) < 0.9 * sum(
            (hub.folder / name).stat().st_size for name in SHARDS
        )


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with small_disk(tmp_path / "disk", 400) as disk:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk / "fetched"))
        told = tried()
        assert "is 0.6 MB to fetch and the disk of the machine that runs the studio has 0.4 MB free" in told, told
        assert not hub.fetched() and str(tmp_path) not in told
    assert tried() == ""
