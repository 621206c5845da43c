"""The toy hub, made once and served while a module's tests run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import make
from tests.hub.server import Hub, serving

TOKEN = "hf_of_a_reader"


@pytest.fixture(scope="session")
def whole_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every repository of the full set."""
    folder = tmp_path_factory.mktemp("hub")
    make.make(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(whole_hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The full set's hub, and a machine that has fetched nothing yet, with a token that has accepted the licences."""
    with serving(whole_hub, tmp_path_factory.mktemp("machine")) as served, pytest.MonkeyPatch.context() as patch:
        served.gated |= {*make.GATED}
        served.tokens.add(TOKEN)
        served.readers.add(TOKEN)
        patch.setenv("HF_TOKEN", TOKEN)
        yield served
