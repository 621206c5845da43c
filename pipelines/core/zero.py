"""ZeroGPU: model work runs in a process that the platform forks for each call, and only there is a GPU.

:func:`install` sends every ``lane.stream`` through ONE function that the platform's decorator wraps. One, because
the platform copies all weights to the GPU once per decorated function. The fork inherits the registry with the weights
that were declared at import; arguments and items travel pickled, so nothing else of the parent changes.

Off ZeroGPU nothing here is used. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from pipelines.core import lane
from pipelines.core.registry import Registry

MOST_S = 120.0
"""Longest GPU time that a call asks for: shorter requests wait less and cost a visitor's quota less."""
_REGISTRY = "the registry that the fork inherited"


def install(registry: Registry, gpu: Callable[..., Any] | None = None) -> None:
    """From now on ``lane.stream`` runs in the platform's process; ``gpu`` stands for its decorator ``spaces.GPU``."""
    if gpu is None:
        import spaces

        gpu = spaces.GPU

    def seconds(work: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], limit_s: float) -> float:
        return min(limit_s, MOST_S)

    @gpu(duration=seconds)
    def run(
        work: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], limit_s: float
    ) -> Generator[Any]:
        """In the forked process: the same lane as everywhere, on a thread of this process."""
        given = (registry if isinstance(a, str) and a == _REGISTRY else a for a in arguments)
        try:
            yield from lane.stream_here(work, *given, limit_s=limit_s, **named)
        except Exception as error:
            yield lane.Failure(error)  # as an item: an exception that crosses the border may lose its type

    def dispatch(
        work: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], limit_s: float
    ) -> Generator[Any]:
        given = tuple(_REGISTRY if a is registry else a for a in arguments)
        for item in run(work, given, named, limit_s):
            if isinstance(item, lane.Failure):
                raise item.error
            yield item

    lane.send_elsewhere(dispatch)
