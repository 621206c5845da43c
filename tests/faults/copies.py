"""A copy of the studio whose files may be damaged: code is copied, assets are linked until they are written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def assets_in(folder: Path) -> Path:
    """``folder/assets`` with links to every file of the real ones; returns ``folder``."""
    for path in (ROOT / "assets").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    return folder


def studio_in(folder: Path) -> Path:
    """``app.py``, ``demos``, ``pipelines`` and the assets; returns ``folder``."""
    for name in ("demos", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", folder)
    return assets_in(folder)


def write(path: Path, content: bytes) -> None:
    """Put other content into a copy; the file that it was linked to stays as it is."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def restore(path: Path, folder: Path) -> None:
    """The right file again, as a link."""
    path.unlink(missing_ok=True)
    path.symlink_to(ROOT / path.relative_to(folder))


def python(folder: Path, *arguments: str, seconds: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python <arguments>`` in a copy, offline, with files of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "LATENT_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "LATENT_STUDIO_WORK": str(folder / "work"), "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=seconds,
        check=False,
    )  # fmt: skip
