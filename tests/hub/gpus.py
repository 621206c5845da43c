"""As much of ZeroGPU's device API as the package `spaces` calls: every GPU is free."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        name = self.path.split("?")[0]
        self.asked.append(name)
        free = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"}
        data = json.dumps(free if name == "/schedule" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def scheduling(port: int) -> Iterator[list[str]]:
    """Answer on a port of this machine; gives the paths that are asked."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Asked", (Handler,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
