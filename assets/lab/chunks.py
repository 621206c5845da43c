"""Long measurements in pieces: each finished piece is a file, so a kill costs one piece and processes share the work.

torchrun --nproc-per-node 2 -m assets.golden_noise.evaluate     # on one machine
python -m assets.golden_noise.evaluate --on ray                 # or on those of a cluster: see assets/lab/on_ray.py
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState

WAIT_S = 5
HERE, RAY = "here", "ray"
T = TypeVar("T", bound=Hashable)
_on = HERE


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed arguments of a script whose pieces are made by `complete`, with ``--on`` among them."""
    global _on
    parser.add_argument("--on", choices=(HERE, RAY), default=HERE, help="who makes the pieces: these processes, or Ray")
    arguments = parser.parse_args()
    _on = arguments.on
    return arguments


def packed(value: object) -> bytes:
    """The bytes of a piece's file: of a value always the same (into a file of its own name torch would write that name)."""
    into = io.BytesIO()
    torch.save(value, into)
    return into.getvalue()


def write(path: Path, content: bytes) -> None:
    """Under another name first, so that what is there is whole."""
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_bytes(content)
    scratch.rename(path)


def made(make: Callable[[T], Any], items: Iterable[T]) -> Iterator[tuple[T, bytes]]:
    """Each item with the bytes of what ``make`` gives for it, as they come; ``--on`` says who makes them."""
    if _on == RAY:
        from assets.lab import on_ray  # the optional extra

        yield from on_ray.made(make, items)
        return
    for item in items:
        yield item, packed(make(item))


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
    for place, (item, content) in enumerate(made(make, (item for item in mine if not path(item).exists()))):
        write(path(item), content)
        print(f"{name(item)}: {place + 1} of {len(mine)}", flush=True)
    while missing := [item for item in work if not path(item).exists()]:
        print(f"waiting for {len(missing)} pieces of other processes", flush=True)
        time.sleep(WAIT_S)
    return {item: torch.load(path(item), weights_only=True) for item in work}


def is_main() -> bool:
    """Is this the process that writes results?"""
    return PartialState(cpu=True).is_main_process
