"""The Dockerfile, read and acted out: what it copies is there, and the app runs with it as a user who may write into one folder only."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from pipelines.core import environment
from tests.core.test_app import ROOT
from tests.environment import free_port


def instructions() -> list[tuple[str, str]]:
    """(word, what follows) of the Dockerfile, lines joined, without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in of("ENV") for pair in shlex.split(rest))


def ignored(path: str) -> bool:
    """Whether `.dockerignore` leaves out a path of the repository, or a folder above it."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    parts = path.split("/")
    above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    names = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    whole = [rule for rule in rules if not rule.startswith("**/")]
    # Docker's star does not cross a slash.
    deep = any(fnmatch.fnmatch(part, name) for part in parts for name in names)
    return deep or any(
        one.count("/") == rule.count("/") and fnmatch.fnmatch(one, rule) for one in above for rule in whole
    )


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a checkout")
    return [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]


def copied() -> dict[str, str]:
    """Path in the repository -> path in the image, of every file that is copied."""
    found = {}
    for rest in of("COPY"):
        *sources, target = rest.split()
        for source in sources:
            below = [path for path in tracked() if path == source or path.startswith(source.rstrip("/") + "/")]
            for path in below:
                if not ignored(path):
                    rest_of_path = path.removeprefix(source) if source.endswith("/") else Path(path).name
                    found[path] = os.path.normpath(os.path.join(target, rest_of_path))
    return found


def test_what_is_copied_is_there_and_what_the_app_imports_is_copied():
    for rest in of("COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists() and not ignored(source.rstrip("/")), source
    paths = copied()
    assert all(source == target for source, target in paths.items()), "the image looks like the repository"
    modules = [path for path in tracked() if path.endswith(".py") and path.startswith(("pipelines/", "demos/"))]
    assert {"app.py", "requirements.txt", *modules} <= paths.keys()
    weights = [path for path in tracked() if path.startswith("assets/") and path.endswith((".safetensors", ".json"))]
    assert set(weights) <= paths.keys()
    assert not [path for path in paths if path.startswith(("tests", ".")) or path.endswith("-desktop-light.png")]


def test_it_runs_as_a_user_of_its_own_and_writes_into_one_folder():
    (user,), (folder,) = of("USER"), of("VOLUME")
    assert user not in ("root", "0") and f"--uid 1000 --no-create-home --home-dir {folder} {user}" in " ".join(
        of("RUN")
    )
    words = [name for name, _rest in instructions()]
    assert words.index("USER") > max(place for place, name in enumerate(words) if name in ("RUN", "COPY"))
    known = variables()
    for name in ("HOME", "TMPDIR", "HF_HOME", "LATENT_STUDIO_WORK"):
        assert known[name] == folder or known[name].startswith(folder + "/"), name
    environment.check(known)


def test_its_torch_is_chosen_by_an_argument_and_all_else_by_the_one_list():
    assert of("ARG") == ["TORCH=cpu"]
    install = next(rest for rest in of("RUN") if "requirements.txt" in rest)
    assert '--torch-backend "$TORCH" -r requirements.txt' in install
    (python,) = of("FROM")
    assert re.fullmatch(r"python:3\.1[12]-slim", python), "a version that the tests run"


def test_its_health_check_asks_what_the_app_answers(served: str):
    (check,) = of("HEALTHCHECK")
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert url and url[1] == variables()["GRADIO_SERVER_PORT"] == of("EXPOSE")[0]
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command[0] == "python" and served
    asked = [sys.executable, *command[1:2], command[2].replace(f"http://127.0.0.1:{url[1]}", served)]
    assert subprocess.run(asked, timeout=60).returncode == 0
    dead = [part.replace(served, "http://127.0.0.1:9") for part in asked]
    assert subprocess.run(dead, timeout=60, stderr=subprocess.DEVNULL).returncode != 0


INSIDE = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd "$1" && shift && exec unshare --user --map-user=1000 "$@"'
"""A shell's words: of the file system only the folder $0 may be written, and the command runs in $1 as user 1000, without a privilege."""


def as_in_a_container(data: Path, folder: Path, *command: str) -> list[str]:
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", INSIDE, str(data), str(folder), *command]


@pytest.mark.long
def test_the_image_s_files_run_as_a_user_without_privileges_with_one_folder_to_write_into(tmp_path: Path):
    studio, data, port = tmp_path / "studio", tmp_path / "data", free_port()
    for source, target in copied().items():
        (studio / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, studio / target)
    data.mkdir(mode=0o700)
    tried = as_in_a_container(data, studio, "sh", "-c", "touch app.py; id -u")
    try:
        seen = subprocess.run(tried, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if seen.returncode:
        pytest.skip(f"no namespaces here: {seen.stderr.strip()}")
    assert seen.stdout == "1000\n" and "Read-only file system" in seen.stderr

    given = {name: value.replace("/data", str(data)) for name, value in variables().items()}
    given |= {"PATH": os.environ["PATH"], "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    (command,) = (json.loads(rest) for rest in of("CMD"))
    with (tmp_path / "log").open("w") as log:
        app = subprocess.Popen(
            as_in_a_container(data, studio, sys.executable, *command[1:]), env=given, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/healthz", app, tmp_path / "log")
        client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=str(tmp_path / "got"))
        asked = {"prompt": "a red cube on a wooden floor", "seed": 1, "steps": 2, "model_set": "mini"}
        made = client.predict(**asked, api_name="/golden_noise")
        assert Path(made[0]).stat().st_size > 1000 and (data / "work").is_dir()
    finally:
        app.terminate()
        app.wait(30)


def _wait_for(url: str, app: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert app.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(url, timeout=5).text == "ok":
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])
