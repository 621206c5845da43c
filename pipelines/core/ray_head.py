"""Ray's head in a folder of its own, ended when the standard input closes: with the process that started it, however that ends.

python -m pipelines.core.ray_head FOLDER start --head --block ...
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading


def behind_a_token() -> None:
    """Let nobody else talk to a head that this process starts. Ray reads it while it is imported, so call this before."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


if __name__ == "__main__":
    folder = sys.argv[1]
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # meant for the page, whose whole group gets them: its end is what counts
        signal.signal(number, lambda *told: None)
    ray = [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[2:], f"--temp-dir={folder}"]
    head = subprocess.Popen(ray, stdin=subprocess.DEVNULL, start_new_session=True)  # away from the terminal's Ctrl-C

    def end_with_the_page() -> None:
        sys.stdin.read()
        head.terminate()

    threading.Thread(target=end_with_the_page, daemon=True).start()
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)
