"""Gradio imported without what it does for its developers' editors, which takes a third of the time.

For each of its component classes Gradio reads and parses its own source and writes a stub file (``.pyi``) beside it, at every start,
and a template engine fills the same documentation in for every class. Nothing of that is used when a page is served, and a
read-only installation cannot take the files.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from unittest import mock

import jinja2


def load() -> None:
    """Import Gradio. Nothing happens where somebody has done so before."""
    if "gradio" in sys.modules:
        return
    find_file = inspect.getfile

    def without_components(asked: object) -> str:
        if type(asked).__name__ == "ComponentMeta":
            raise OSError("no stub is written")  # what Gradio takes for a class that is in no file, and passes over
        return find_file(asked)  # type: ignore[arg-type]

    with (
        mock.patch.object(inspect, "getfile", without_components),
        mock.patch.object(jinja2, "Template", functools.cache(jinja2.Template)),
    ):
        importlib.import_module("gradio")
