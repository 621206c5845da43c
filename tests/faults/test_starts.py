"""The studio starts with what is there, says what is missing or damaged, and refuses a wrong address in one line."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core import asset_files, environment
from tests.faults.copies import ROOT, python, studio_in, write

START = """
import json, app
from demos.core import widgets
from pipelines.core import asset_files
from pipelines.core.registry import Registry
pages = " ".join(str(block["props"].get("value")) for block in app.demo.get_config_file()["components"])
print("TOLD", json.dumps([asset_files.problems(), widgets.status_text(Registry("cpu"), "mini"), pages]))
"""
FIGURES = sorted(
    path.relative_to(ROOT).as_posix()
    for name in ("evaluation.json", "manifest.json", "config.json", "tokenizer.json", "scheduler_config.json")
    for path in (ROOT / "assets").rglob(name)
)  # fmt: skip
FIRST = ["removal.npz", "person.webp", "reference.webp"]
JUNK = [
    b"", b"{", b"null", b"[]", b"{}", b'{"a": 1}', b"\xff\xfe\x00garbage", b"[" * 100_000,
    b'{"rows": 3, "concepts": [1], "sha256": 7, "bytes": "x", "best": 1, "evaluation": 5, "identity": 2, "ours": null}',
    b'{"rows": {"ours": 1}, "concepts": {"humour": {"dim": {}}}, "evaluation": {"arms": {"standard": 1}}, "identity": {"threshold": "x"}}',
]  # fmt: skip


def started(folder: Path) -> tuple[dict[str, str], str, str]:
    """What is noted, the status line and all text of the page."""
    done = python(folder, "-c", START)
    assert done.returncode == 0, done.stderr[-2000:]
    return tuple(json.loads(done.stdout[done.stdout.index("TOLD") + 4 :]))


def test_everything_garbled_or_missing_and_the_page_is_up(tmp_path: Path):
    studio_in(tmp_path)
    for number, name in enumerate([*FIGURES, *(f"assets/example_scenes/{first}" for first in FIRST)]):
        if number % 4 == 3:
            (tmp_path / name).unlink()
        else:
            write(tmp_path / name, JUNK[number % len(JUNK)])
    (tmp_path / "assets/mini_sdxl/unet").rename(tmp_path / "elsewhere")
    problems, status, page = started(tmp_path)
    assert "Missing or damaged" in status
    assert len(problems) > 8 and set(problems.values()) == {"missing", "damaged"}, problems
    assert page.count("so its figures are not shown") >= 2 and asset_files.RESTORE.split(" (")[0] in page


@pytest.mark.long
@pytest.mark.parametrize("junk", range(len(JUNK)))
def test_every_file_of_figures_garbled_in_one_way(tmp_path: Path, junk: int):
    studio_in(tmp_path)
    for name in FIGURES:
        write(tmp_path / name, JUNK[junk])
    started(tmp_path)


def test_nothing_is_said_to_be_damaged_where_all_is_well():
    # In a process of its own: other tests read files that are damaged on purpose.
    code = "import app; from pipelines.core import asset_files; print(asset_files.problems(), asset_files.sentence())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{}"


def test_a_port_that_is_taken_is_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = python(ROOT, "app.py", LATENT_STUDIO_WORK=str(tmp_path), GRADIO_SERVER_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"The port {port} on 127.0.0.1 is taken: choose another")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GRADIO_SERVER_PORT": "seven"}, "GRADIO_SERVER_PORT is 'seven': set it to a whole number from 1 to 65535"),
        ({"GRADIO_SERVER_PORT": "99999"}, "GRADIO_SERVER_PORT is '99999'"),
        ({"GRADIO_SERVER_PORT": ""}, "GRADIO_SERVER_PORT is ''"),
        ({"GRADIO_NUM_PORTS": "-1"}, "GRADIO_NUM_PORTS is '-1'"),
        ({"LATENT_STUDIO_MDOE": "cpu"}, "LATENT_STUDIO_MDOE is not known: did you mean LATENT_STUDIO_MODE?"),
        ({"LATENT_STUDIO_QQQQQQQQQQQQQQQQ": "1"}, "is not known: known are LATENT_STUDIO_"),
    ],
)
def test_a_variable_that_would_be_overlooked_is_refused(variables: dict[str, str], says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        environment.check(variables)


def test_a_wrong_variable_is_one_line_of_the_program(tmp_path: Path):
    done = python(ROOT, "app.py", LATENT_STUDIO_WORK=str(tmp_path), GRADIO_SERVER_PORT="seven")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("nowhere.invalid", 7999, "is not known"),
        ("no host\udcff", 7999, "is not known"),
        ("192.0.2.7", 7999, "is no address of this machine"),
        ("192.0.2.7", None, "is no address of this machine"),
    ],
)
def test_a_host_on_which_nothing_can_listen_is_one_line(host: str, port: int | None, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        environment.check_address(host, port)
    assert "\n" not in str(caught.value)


def test_an_address_that_is_free_is_taken():
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        environment.check_address(host, None)


def test_every_variable_of_ours_is_known():
    named = set()
    for folder in ("app.py", "demos", "pipelines", "assets", "README.md"):
        files = [ROOT / folder] if (ROOT / folder).is_file() else (ROOT / folder).rglob("*.py")
        for path in files:
            named |= set(re.findall(r"LATENT_STUDIO_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
    assert named <= set(environment.KNOWN) | {"LATENT_STUDIO_MDOE"}
