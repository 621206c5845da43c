"""Where the tests, the bench and the screenshots keep their files, and that nothing of theirs reaches the network.

Import it before anything imports gradio or huggingface_hub.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile

_scratch = tempfile.mkdtemp(prefix="latent-studio-tests-")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    LATENT_STUDIO_WORK=os.path.join(_scratch, "work"),
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DO_NOT_TRACK="1",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
