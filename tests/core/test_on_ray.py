"""Long offline work on a Ray of its own: killed and resumed it makes the same files, byte for byte, and none twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="needs the extra: pip install '.[ray]'")
pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 6
COLLECT = f"""
import sys
from pathlib import Path
from assets.lab import chunks, on_ray
from assets.mini_npnet import train
train.PAIRS, train.PER_SHARD, train.BATCH, train.DRAW_STEPS = Path(sys.argv[1]), 6, 3, 2
chunks._on = sys.argv[2]
if chunks._on == chunks.RAY:
    on_ray._settle()
    from ray import cloudpickle
    cloudpickle.register_pickle_by_value(train)  # with the small sizes
train.collect("paper", list(range({SHARDS})), "cpu")
"""


def collecting(folder: Path, on: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", COLLECT, str(folder), on], cwd=ROOT, env=environment)


def shards(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in sorted(folder.glob("paper/*.pt"))}


def test_pairs_collected_on_ray_are_those_of_one_process_also_after_a_kill(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert collecting(here, "here").wait(200) == 0
    killed = collecting(there, "ray")
    began = time.monotonic()
    while len(before := shards(there)) < 2:
        assert killed.poll() is None and time.monotonic() - began < 200
        time.sleep(0.01)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    _gone, alive = psutil.wait_procs(children, 30)
    alive = [one for one in alive if "Agent" not in one.name()]  # they look for their node now and then
    assert not alive, "Ray's processes end with the script"
    before = shards(there)
    assert 2 <= len(before) < SHARDS
    assert collecting(there, "ray").wait(200) == 0
    after = shards(there)
    assert len(after) == SHARDS and all(after[name] == before[name] for name in before), "nothing is made twice"
    assert {name: one[0] for name, one in after.items()} == {name: one[0] for name, one in shards(here).items()}
