"""Every test is offline and leaves nothing behind; `served` is the running app."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator

# Before anything imports gradio or huggingface_hub.
_scratch = tempfile.mkdtemp(prefix="latent-studio-tests-")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_TEMP_DIR=os.path.join(_scratch, "gradio"),
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DO_NOT_TRACK="1",
)

import pytest  # noqa: E402


def pytest_report_header() -> str:
    names = ("torch", "gradio", "diffusers", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"Latent Studio on Python {platform.python_version()}: {versions}; {os.cpu_count()} CPU cores"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The address of the app, launched in this process the way `python app.py` does it."""
    import app

    port = free_port()
    app.serve(app.demo, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}"
    app.demo.close()
