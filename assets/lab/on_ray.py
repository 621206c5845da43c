"""Pieces of long work on Ray: an actor on each GPU of the cluster, or on each core where there is none, beside torchrun.

``RAY_ADDRESS`` names the cluster, as for everything of Ray's; without it, Ray is started on this machine and ends with the script.
Every node needs the studio at the same place of its Python's path. Ray makes a piece again whose actor died; the files are written
by the script that asked, so that a kill of that costs the pieces that were being made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipelines.core import ray_head

T = TypeVar("T", bound=Hashable)
ROOT = Path(__file__).resolve().parents[2]


def made(make: Callable[[T], Any], items: Iterable[T]) -> Iterator[tuple[T, bytes]]:
    """Each item with the packed value of ``make(item)``, in the order in which they are done.

    ``make`` is sent to every actor once, so that models which it opened at its first piece are there for the next.
    """
    _settle()
    import ray
    from ray.util import ActorPool

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0))
    actor: Any = ray.remote(Maker).options(
        num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1, max_restarts=-1, max_task_retries=-1
    )
    packed = ray.cloudpickle.dumps(make)
    pool = ActorPool([actor.remote(packed) for _ in range(gpus or int(have["CPU"]))])
    yield from pool.map_unordered(lambda one, item: one.made.remote(item), items)


class Maker:
    """In a process of the cluster."""

    def __init__(self, packed: bytes) -> None:
        from ray import cloudpickle

        self.make = cloudpickle.loads(packed)

    def made(self, item: Any) -> tuple[Any, bytes]:
        from assets.lab import chunks

        return item, chunks.packed(self.make(item))


def _settle() -> None:
    """Ray reads these while it is imported: nothing is reported, and a Ray of our own is nobody else's."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if not os.environ.get("RAY_ADDRESS"):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # stay on loopback
        ray_head.behind_a_token()
