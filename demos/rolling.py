"""Rendering beside the lane: tabs roll scenes and people while no model is being loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.registry import LOAD_LOCK

WAIT_S = 20.0
"""Longest time that a picture waits for models that are being loaded."""


@contextmanager
def while_nothing_loads() -> Iterator[None]:
    """Loading a model changes torch's default dtype for the whole process: a picture that is rendered meanwhile would come out coarse.

    Raises:
        ValueError: loading takes long.
    """
    if not LOAD_LOCK.acquire(timeout=WAIT_S):
        raise ValueError("Models are being loaded, which takes a while: try again when that is done.")
    try:
        yield
    finally:
        LOAD_LOCK.release()
