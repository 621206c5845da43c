"""Every endpoint that the app lists, when memory ends in the middle of its work and when its weights are damaged: one sentence that
says what to do, nothing is held, and the next run is right, without a restart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from tests.faults import storm
from tests.faults.copies import restore, studio_in, write
from tests.faults.storm import Visitor, until

ENDPOINTS = sorted(event.api_name for event in app.demo.fns.values() if event.api_visibility == "public")
CLOCKED = ("train_person",)
"""What these make depends on how far they come in their time, so it is not the same to the byte;"""
PACE = re.compile(r"/(checks|best_step|steps|(\w+_)?seconds)\b")
"""nor are these facts."""
RUNS = ("runs", "events", "jobs", "active", "iterators", "tasks")
pytestmark = pytest.mark.long


class Studio:
    """A copy of the studio, served, and what each endpoint answers in it when all is well."""

    def __init__(self, address: str, folder: Path, files: dict[str, list[Path]]) -> None:
        self.address, self.folder, self.files = address, folder, files
        self.http = httpx.Client(timeout=60)
        self.right: dict[str, tuple[dict[str, Any], int]] = {}

    def get(self, path: str, **asked: Any) -> Any:
        return self.http.get(f"{self.address}/{path}", params=asked).raise_for_status().json()

    def run(self, endpoint: str) -> tuple[dict[str, Any], str]:
        """What it answers, flat, with files as bytes; or why not. Then nothing may be held any more."""
        visitor = Visitor(self.address)
        done = visitor.run(endpoint, storm.call_of(visitor, endpoint, self.files))
        until(lambda: not any(self.held().values()), 10)
        answer = {}
        if done["success"]:
            answer = dict(self.leaves(visitor, done["output"]["data"]))
        visitor.close()
        return answer, "" if done["success"] else done["output"]["error"]

    def held(self) -> dict[str, int]:
        counts = self.get("counts")
        return {name: counts[name] for name in ("running", "waiting", "leases")} | {
            name: counts["left"][name] for name in RUNS
        }

    def leaves(self, visitor: Visitor, value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value.get("url"):
            yield f"{at} file", visitor.http.get(value["url"]).content
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from self.leaves(visitor, inner, f"{at}/{key}")
        else:
            yield at, value

    def reference(self, endpoint: str) -> tuple[dict[str, Any], int]:
        """What is the same in two runs, and how many layers the second called."""
        if endpoint not in self.right:
            first, why = self.run(endpoint)
            assert not why, why
            self.get("memory")
            second, _why = self.run(endpoint)
            same = {name: value for name, value in first.items() if second.get(name) == value and not PACE.search(name)}
            assert len(same) > len(first) / 3, first.keys() - same.keys()
            files = {name for name in first if name.endswith(" file")}
            assert endpoint in CLOCKED or files <= same.keys(), files - same.keys()
            self.right[endpoint] = same, self.get("memory")
        return self.right[endpoint]

    def is_right(self, endpoint: str) -> None:
        answer, why = self.run(endpoint)
        assert not why, why
        right, _calls = self.reference(endpoint)
        assert {name: answer.get(name) for name in right} == right


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = studio_in(tmp_path_factory.mktemp("studio"))
    files = storm.write_pictures(tmp_path_factory.mktemp("sent"))
    with storm.serving(folder, TMPDIR=str(tmp_path_factory.mktemp("server"))) as address:
        yield Studio(address, folder, files)


def check_sentence(words: str, folder: Path) -> None:
    assert words.endswith((".", "!")) and "\n" not in words and len(words) < 400, words
    assert not re.search(r"[.!?] [A-Z]", words), f"more than one sentence: {words}"
    assert not re.search(r"Traceback|Error\b|on our side|CUDA|Allocator", words) and str(folder) not in words, words


@pytest.mark.parametrize(("kind", "share"), [("python", 0.25), ("torch", 0.5), ("gpu", 0.9)])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_memory_that_ends_in_the_middle_of_the_work(studio: Studio, endpoint: str, kind: str, share: float):
    _right, calls = studio.reference(endpoint)
    assert calls > 10, "it computes nothing"
    after = max(int(share * calls / (4 if endpoint in CLOCKED else 1)), 1)  # a busy machine comes less far
    studio.get("memory", after=after, kind=kind)
    answer, why = studio.run(endpoint)
    assert studio.get("memory") >= after and not answer, "it came to its end without memory"
    check_sentence(why, studio.folder)
    assert ("GPU" if kind == "gpu" else "RAM") in why, why
    assert re.search(r": (make|draw|choose|ask|give|close|start|measure)\b", why), f"what to do? {why}"
    studio.is_right(endpoint)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_damaged_weights_of_each_part_and_the_right_ones_again(studio: Studio, endpoint: str):
    studio.reference(endpoint)
    studio.get("free")
    studio.is_right(endpoint)
    parts = studio.get("free")
    files = {next((name for name in names if name.endswith(".safetensors")), names[0]) for names in parts.values()}
    for file in sorted(files):
        path = studio.folder / file
        write(path, path.read_bytes()[: path.stat().st_size // 2])
        try:
            answer, why = studio.run(endpoint)
        finally:
            restore(path, studio.folder)
        assert not answer, f"it runs with a damaged {file}"
        check_sentence(why, studio.folder)
        assert any(key in why.lower() for key, names in parts.items() if file in names), (file, why)
        assert re.search("restore|put back", why), why
        studio.get("free")
    studio.is_right(endpoint)
