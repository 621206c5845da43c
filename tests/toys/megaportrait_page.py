"""The studio with the MegaPortrait tab on random weights, for tests and for trying the page: `python -m tests.toys.megaportrait_page`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

import tests.environment  # noqa: F401  (before anything imports gradio)

from demos.core import tabs  # isort: skip
from demos import megaportrait  # isort: skip
from pipelines.megaportrait.results import TAB

from tests.toys import portrait as toy_portrait  # isort: skip
from pipelines.megaportrait import person


@contextlib.contextmanager
def shown(toy: bool = True) -> Iterator[None]:
    """Inside the block the studio finds the tab; its models are random ones unless the real ones are asked for and shipped."""
    had = hasattr(megaportrait, "TAB")
    real = not toy and person.shipped()
    if not had:
        megaportrait.TAB = tabs.Tab(TAB, megaportrait.SLUG, 30, megaportrait.build, megaportrait.PAPER)
    try:
        with contextlib.nullcontext() if real else toy_portrait.installed():
            yield
    finally:
        if not had:
            del megaportrait.TAB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7991)
    parser.add_argument("--model-set", default="mini")
    parser.add_argument("--real", action="store_true", help="the shipped weights")
    chosen = parser.parse_args()
    with shown(toy=not chosen.real):
        import app

        app.serve(app.build(app.from_environment(), chosen.model_set), "127.0.0.1", chosen.port)


if __name__ == "__main__":
    main()
