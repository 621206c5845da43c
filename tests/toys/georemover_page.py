"""The studio with the GeoRemover tab on random weights, for tests and for trying the page: `python -m tests.toys.georemover_page`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace

from demos import georemover
from demos.core import tabs
from pipelines.core.registry import ROOT
from pipelines.models import flux
from tests.toys import flux as toy_flux


def complete() -> bool:
    """Whether the real weights are there, both adapters too."""
    folders = (ROOT / flux.FOLDER / stage for stage in ("stage1", "stage2"))
    return flux.shipped() and all((folder / flux.ADAPTER_FILE).exists() for folder in folders)


@contextlib.contextmanager
def shown(toy: bool = True) -> Iterator[None]:
    """Inside the block the studio finds the tab; its models are random ones unless the real ones are asked for and shipped."""
    had = hasattr(georemover, "TAB")
    if not had:
        georemover.TAB = tabs.Tab("GeoRemover", georemover.SLUG, 20, georemover.build, georemover.PAPER)
    try:
        with (
            contextlib.nullcontext()
            if not toy and complete()
            else toy_flux.installed(replace(toy_flux.toy_base(), steps=(4, 4), fast=(4, 4)))
        ):
            yield
    finally:
        if not had:
            del georemover.TAB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7990)
    parser.add_argument("--model-set", default="mini")
    chosen = parser.parse_args()
    with shown():
        import app

        app.serve(app.build(app.from_environment(), chosen.model_set), "127.0.0.1", chosen.port)


if __name__ == "__main__":
    main()
