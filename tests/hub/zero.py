"""The full set as ZeroGPU runs it, on a hub of random weights: the platform's own package with its emulated CUDA and its forks.

    SPACES_ZERO_GPU=true SPACES_ZERO_DEVICE_API_URL=http://127.0.0.1:PORT python -m tests.hub.zero FOLDER PORT

FOLDER is what `tests.hub.make` wrote. The models load on the main thread onto a GPU that `spaces` pretends, which refuses tensors on two
devices; `launch` packs them to disk; each call asks the scheduler (here `tests/hub/gpus.py`), forks, and works in the fork. There a real
GPU would take the weights up: here the fork takes them up in RAM. The last line is JSON: what each tab answered, and what was asked.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spaces.zero.torch as zero_torch
from spaces.zero.torch import patching

from tests.environment import free_port
from tests.hub.gpus import scheduling
from tests.hub.server import serving

TABS = ("talk", "removal", "golden_noise", "portrait")


def _taken_up_in_ram(callback: Callable[[int], Any] | None = None) -> None:
    """In the fork, in place of `spaces`' move to the GPU: the packed weights, read back."""
    import torch

    for pack in patching.tensor_packs:
        with open(pack.path(), "rb") as file:
            sized = [one for batch in pack.batches for one in batch] + pack.big_tensors
            for meta, size, aligned in sized:
                data = torch.frombuffer(bytearray(file.read(aligned)), dtype=torch.uint8)[:size]
                tensor = torch.tensor([], dtype=meta.dtype)
                tensor.set_(data.untyped_storage(), 0, meta.shape, meta.stride())
                if meta.dtype in (torch.float16, torch.bfloat16):
                    tensor = tensor.float()  # which a CPU computes many times faster
                for fake in pack.fakes[meta]:
                    fake.data = tensor


def main(folder: Path, port: int) -> dict[str, Any]:
    zero_torch.init = lambda uuid: None  # there is no GPU to wake
    zero_torch.move = _taken_up_in_ram
    with scheduling(port) as asked, tempfile.TemporaryDirectory() as machine, serving(folder, Path(machine)) as hub:
        os.environ["HF_TOKEN"] = "hf_of_a_reader"
        hub.readers.add("hf_of_a_reader")
        os.environ["LATENT_STUDIO_MODEL_SET"] = "full"
        from tests.hub import test_tabs  # imports the app, which loads everything

        page_port = free_port()
        test_tabs.app.serve(test_tabs.app.demo, "127.0.0.1", page_port, block=False, model_set="full")
        client = test_tabs.Client(f"http://127.0.0.1:{page_port}", verbose=False)
        studio = test_tabs.Studio(test_tabs.Registry("zero"), client)
        files = test_tabs.sent_files(Path(machine))
        answers: dict[str, Any] = {}
        for name in TABS:
            try:
                answers[name] = [len(part) for part in test_tabs.content(test_tabs.TABS[name](studio, files))]
            except Exception as error:
                answers[name] = f"{type(error).__name__}: {error}"
        test_tabs.app.demo.close()
    return {"packed": sum(pack.total_size for pack in patching.tensor_packs), "answers": answers, "asked": asked}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
