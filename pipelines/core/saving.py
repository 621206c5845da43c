"""Files are there whole or not at all: written under another name beside their place, then moved there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(*paths: str | Path) -> Iterator[tuple[Path, ...]]:
    """Write to the paths that this gives; they become ``paths`` when the block ends, and are removed if it raises."""
    scratch = tuple(Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part") for path in paths)
    try:
        yield scratch
        for made, path in zip(scratch, paths, strict=True):
            os.replace(made, path)
    except BaseException:
        for made in scratch:
            made.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """The text in UTF-8, whole or not at all."""
    with whole(path) as (scratch,):
        scratch.write_text(text, encoding="utf-8")
    return Path(path)
