"""Long measurements in pieces: each finished piece is a file, so a kill costs one piece and processes share the work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

WAIT_S = 5


def complete(
    folder: Path, work: Sequence[Hashable], name: Callable[[Any], str], make: Callable[[Any], Any]
) -> dict[Any, Any]:
    """``make(item)`` for every item whose file ``folder/name(item).pt`` is not there yet; returns all, read from the files.

    Under ``torchrun`` or ``accelerate launch`` every process makes its share of the items, then waits until all are there. The folder
    must belong to one state of everything that decides a result (weights, settings): put a hash into its name.
    Values are what ``torch.load(weights_only=True)`` reads: tensors, numbers, strings, lists and dicts.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def path(item: Hashable) -> Path:
        return folder / f"{name(item)}.pt"

    state = PartialState(cpu=True)
    mine = list(work)[state.process_index :: state.num_processes]  # in turn, so that what is missing is shared fairly
    for place, item in enumerate(mine):
        if path(item).exists():
            continue
        scratch = path(item).with_suffix(f".{os.getpid()}.tmp")
        torch.save(make(item), scratch)
        scratch.rename(path(item))
        print(f"{name(item)}: {place + 1} of {len(mine)}", flush=True)
    while missing := [item for item in work if not path(item).exists()]:
        print(f"waiting for {len(missing)} pieces of other processes", flush=True)
        time.sleep(WAIT_S)
    return {item: torch.load(path(item), weights_only=True) for item in work}


def is_main() -> bool:
    """Is this the process that writes results?"""
    return PartialState(cpu=True).is_main_process
