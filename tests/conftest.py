"""Every test is offline and leaves nothing behind; `served` is the running app."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator

from tests.environment import free_port  # before anything imports gradio or huggingface_hub

import pytest  # isort: skip


def pytest_report_header() -> str:
    names = ("torch", "gradio", "diffusers", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"Latent Studio on Python {platform.python_version()}: {versions}; {os.cpu_count()} CPU cores"


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The address of the app, launched in this process the way `python app.py` does it."""
    import app

    port = free_port()
    app.serve(app.demo, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    app.demo.close()
