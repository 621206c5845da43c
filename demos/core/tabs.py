"""A tab per paper, found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import demos
from demos.core.talk import Talk
from pipelines.core.paper import Paper
from pipelines.core.registry import Registry


@dataclass(frozen=True)
class Tab:
    """One page of the studio."""

    name: str
    slug: str
    """The paper's folder, "golden_noise": pipelines/<slug>, demos/<slug>, tests/<slug>."""
    order: int
    build: Callable[[Registry, str], None]
    paper: Paper
    endpoints: tuple[str, ...] = ()
    """The names of the public functions that ``build`` publishes."""
    warm: Callable[[Registry, str], Any] | None = None
    """Loads what its first run needs; called on the lane, where the tab is the first."""
    talk: Talk | None = None
    """What is said of it where papers are presented."""


def discover() -> list[Tab]:
    """The tabs of all packages in ``demos`` that have one, in their order."""
    modules = [importlib.import_module(f"demos.{found.name}") for found in pkgutil.iter_modules(demos.__path__)]
    return sorted((module.TAB for module in modules if hasattr(module, "TAB")), key=lambda tab: tab.order)
