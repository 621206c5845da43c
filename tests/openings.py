"""Draw the results with which the tabs open: `python -m tests.openings`, or of some tabs, by their slugs. To be done again when a model,
an example or the look of a result has changed; takes about a minute."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from unittest import mock

import tests.environment  # noqa: F401  (says where Gradio keeps its files)


@contextlib.contextmanager
def alike_everywhere() -> Iterator[None]:
    """Inside the block no processor multiplies in halves: openings are not to depend on the one that draws them."""
    from pipelines.models import sdxl_parts

    with mock.patch.object(sdxl_parts, "multiplies_halves", return_value=False):
        yield


@alike_everywhere()
def main() -> None:
    import app
    from demos.core import opening

    del app  # built
    for slug, one in opening.OPENINGS.items():
        if len(sys.argv) == 1 or slug in sys.argv[1:]:
            one.save(one.draw("opening"), one.folder)
            files = list(one.folder.iterdir())
            print(f"{slug}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
