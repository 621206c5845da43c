"""The disk for visitors' work is full: every endpoint says so, keeps nothing half written, and works again when there is room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import storm
from tests.faults.storm import Visitor

SIZE = "320m"
"""A little more than what the door leaves free on a disk when it takes uploads."""
ENDPOINTS = ("golden_noise", "remove_object", "portrait", "train_person")
"""Those that answer with files."""
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0, reason="a small disk can only be mounted by root"
    ),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of :data:`SIZE`."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_by_every_endpoint(disk: Path, tmp_path: Path):
    with storm.serving(TMPDIR=str(disk)) as address:
        tried(address, disk, storm.write_pictures(tmp_path))


def tried(address: str, disk: Path, files: dict[str, list[Path]]) -> None:
    for endpoint in ENDPOINTS:
        visitor = Visitor(address)
        asked = storm.run_of(visitor, endpoint, files, long=False)
        filler = disk / "filler"
        kept = {path for path in disk.rglob("*") if path.is_file()}
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        done = visitor.run(endpoint, asked)
        assert not done["success"], endpoint
        assert re.search("disk .*full", done["output"]["error"]), (endpoint, done["output"])
        filler.unlink()
        left = {path for path in disk.rglob("*") if path.is_file() and path.stat().st_size} - kept
        assert not [path for path in left if path.suffix in (".png", ".zip", ".tmp")], (endpoint, left)
        again = storm.run_of(visitor, endpoint, files, long=False)  # a person's pictures went with the first run
        assert visitor.run(endpoint, again)["success"], endpoint
        visitor.close()
