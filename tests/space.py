"""Build and open the Space that README's front matter describes, as Spaces does it: `python -m tests.space [plain] [zero]`.

plain: a fresh environment of requirements.txt with the platform's Gradio, on a CPU: the page opens in Chromium and an example runs.
zero:  the same with the torch that ZeroGPU has and its package's emulated GPU: the models load onto it, the page opens. (An example
       needs a real GPU there; `tests/hub/test_zero.py` runs the tabs with the package's forks.)

Minutes, several GB from the package index, and Chromium; not part of .ci/run. Outside of its home the Space can write nothing, where this
machine has namespaces. Not acted out: https, the frame around the page, the hub's own build of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.test_studio import CHROMIUM, FLAGS, WIDE
from tests.core.test_app import ROOT
from tests.core.test_container import as_in_a_container, tracked
from tests.environment import free_port
from tests.hub.gpus import scheduling

HOST = "somebody-latent-studio.hf.space"
ZERO = ("torch==2.11.*", "torchvision==0.26.*")
"""What ZeroGPU has of torch; `.ci/resolve` checks that the rest resolves with it."""


def front_matter() -> dict[str, str]:
    head = (ROOT / "README.md").read_text().split("---\n")[1]
    return {key: value.strip().strip('"') for key, value in (line.split(":", 1) for line in head.splitlines())}


def platform_packages(about: dict[str, str]) -> list[str]:
    """What Spaces installs beside the requirements."""
    return [f"gradio[oauth,mcp]=={about['sdk_version']}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


def python_of(version: str) -> str:
    """A Python of this version on this machine."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = [str(path) for path in pyenv] or [path for path in [shutil.which(f"python{version}")] if path]
    if not found:
        sys.exit(f"The Space wants Python {version}, which is not on this machine.")
    return found[-1]


def build(home: Path, about: dict[str, str], extra: tuple[str, ...]) -> Path:
    """The repository in ``home``/app, and a fresh environment; gives its Python."""
    for path in tracked():
        target = home / "app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    environment = home / "environment"
    subprocess.run(["uv", "venv", "-q", "-p", python_of(about["python_version"]), environment], check=True)
    python = environment / "bin" / "python"
    wanted = ["-r", home / "app" / "requirements.txt", *platform_packages(about), *extra]
    subprocess.run(["uv", "pip", "install", "-q", "-p", python, *wanted], check=True)
    return python


@contextlib.contextmanager
def started(home: Path, python: Path, app_file: str, port: int, given: dict[str, str]) -> Iterator[None]:
    """The app with a Space's variables, once it answers."""
    (home / "tmp").mkdir()
    variables = {
        "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home / "tmp"), "SYSTEM": "spaces",
        "SPACE_ID": "somebody/latent-studio", "SPACE_HOST": HOST, "SPACE_AUTHOR_NAME": "somebody", "SPACE_REPO_NAME": "latent-studio",
        "CPU_CORES": "2", "MEMORY": "16Gi", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port),
        "PYTHONUNBUFFERED": "1", **given,
    }  # fmt: skip
    command = [str(python), app_file]
    inside = as_in_a_container(home, home / "app", *command)
    alone = subprocess.run(as_in_a_container(home, home, "true"), capture_output=True).returncode == 0
    with (home / "log").open("w") as log:
        app = subprocess.Popen(inside if alone else command, cwd=home / "app", env=variables, stdout=log, stderr=log)
    try:
        began = time.monotonic()
        while "Running on" not in (home / "log").read_text():
            if app.poll() is not None or time.monotonic() - began > 900:
                sys.exit(f"The Space did not start:\n{(home / 'log').read_text()[-3000:]}")
            time.sleep(0.5)
        print(
            f"  up after {time.monotonic() - began:.0f} s, {'nothing but its home writable' if alone else 'no namespaces here'}"
        )
        yield
    finally:
        app.terminate()
        app.wait(60)


def opened(port: int, press: bool) -> None:
    """The page under the Space's name; with ``press`` an example of the first tab, to its end."""
    flags = [*FLAGS, f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = chromium.new_context(**WIDE).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://{HOST}:{port}/")
        page.get_by_role("tab", name="Golden Noise", exact=True).wait_for(timeout=120_000)
        if press:
            page.locator(".chips button.example:visible").first.click()
            page.locator(".progress-line.done:visible").wait_for(timeout=600_000)
        chromium.close()
        assert not errors, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", choices=("plain", "zero"), default=["plain", "zero"])
    about = front_matter()
    for way in parser.parse_args().ways:
        zero, port, api = way == "zero", free_port(), free_port()
        with tempfile.TemporaryDirectory() as folder, scheduling(api) as asked:
            home, began = Path(folder) / "user", time.monotonic()
            print(f"{way}: Gradio {about['sdk_version']}, Python {about['python_version']}")
            python = build(home, about, ZERO if zero else ())
            versions = subprocess.run(
                ["uv", "pip", "freeze", "-p", python], capture_output=True, text=True, check=True
            ).stdout
            print("  installed", ", ".join(re.findall(r"^(?:torch|gradio|pydantic|spaces)==\S+", versions, re.M)))
            given = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{api}"} if zero else {}
            with started(home, python, about["app_file"], port, given):
                opened(port, press=not zero)
            assert not zero or asked == ["/startup-report"], asked
            print(f"  {'opened' if zero else 'opened, and an example ran'}: {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
