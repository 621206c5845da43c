"""The full set on ZeroGPU's own package: loaded onto its emulated GPU, packed at launch, each call in a fork of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.test_app import ROOT
from tests.environment import free_port

pytestmark = pytest.mark.long


def test_tabs_of_the_full_set_answer_from_forks_of_the_platform_s_package(whole_hub: Path, tmp_path: Path):
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("spaces") is None:
        pytest.skip("the package spaces is not installed")
    if torch.version.cuda is None:
        pytest.skip("spaces needs a torch that was built for CUDA")
    port = free_port()
    given = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    given |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{port}",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.hub.zero", str(whole_hub), str(port)],
        cwd=ROOT, env=given, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    failed = {tab: answer for tab, answer in told["answers"].items() if isinstance(answer, str)}
    assert not failed and told["answers"], failed
    assert told["packed"] > 1e8, "the weights were given to the platform"
    calls = told["asked"]
    assert calls[0] == "/startup-report" and calls.count("/schedule") == calls.count("/release") >= len(told["answers"])
    assert "/allow" in calls, "from the fork"
