"""A model as data: where its files come from, that they are whole, and how it is made of them."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.core import troubles
from pipelines.core.troubles import ROOT

_hashed: set[tuple[str, int, int, str]] = set()
_fetched: dict[tuple[str, str | None, tuple[str, ...]], Path] = {}


class DamagedModel(ValueError):
    """A part's files cannot be read; its text is one sentence for the visitor."""


@dataclass(frozen=True)
class ModelSpec:
    """One part of a model, as data. Equal keys mean the same object in memory."""

    key: str
    """Unique name, e.g. "mini-sdxl/unet"; another revision or dtype is another key."""
    source: str
    """Folder below the repository root ("assets/mini-sdxl"), an absolute folder, or a Hub id "owner/name"."""
    load: Callable[[ModelSpec], Any]
    """Returns the loaded part on the CPU; calls `resolve(spec)` for the folder; imports torch etc. inside."""
    licence: str
    """SPDX id or name of the weights' licence, shown on the page."""
    bytes: int
    """Size of the weights in memory, for the check before loading."""
    revision: str | None = None
    """Commit of a Hub repository."""
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)
    """File (relative to the source) -> hash in hex; checked once per process before loading."""
    dtype: str = "float32"
    card: str = ""
    """One line for the page: what is this."""
    files: tuple[str, ...] = ()
    """Patterns of the Hub files to fetch ("unet/*"); empty means the whole repository."""
    fetch: Callable[[ModelSpec], Any] | None = None
    """Brings the files onto this machine, where that is not `resolve(spec)`; called before any lock is taken."""


def resolve(spec: ModelSpec) -> Path:
    """The local folder of a spec. A Hub repository that is not local yet is fetched, at its revision."""
    source = Path(spec.source)
    if source.is_absolute() or source.parts[:1] == ("assets",) or (ROOT / source).is_dir():
        folder = source if source.is_absolute() else ROOT / source
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{spec.key} needs the folder {spec.source}, which is missing: "
                "check the repository out completely or train the model again with the train.py of its card"
            )
        return folder
    models = os.environ.get("LATENT_STUDIO_MODELS")
    if models and (Path(models) / source.name).is_dir():
        return _with_all_files(spec, Path(models) / source.name)
    key = (spec.source, spec.revision, spec.files)
    if key not in _fetched or not _fetched[key].is_dir():
        _fetched[key] = _with_all_files(spec, _snapshot(spec))  # once in a process: asking the Hub again takes a while
    return _fetched[key]


def _read(spec: ModelSpec) -> Any:
    """The part by its loader. What a library says about a file that it cannot read becomes a sentence."""
    try:
        return spec.load(spec)
    except Exception as error:
        gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
        if isinstance(error, MemoryError) or troubles.ours(error) or (not gone and troubles.sentence(error)):
            raise
        raise DamagedModel(
            f"{spec.key} cannot be read: its files in {spec.source} are damaged, incomplete or of another version, "
            f"so {_again(spec)}"
        ) from error


def _again(spec: ModelSpec) -> str:
    if Path(spec.source).parts[:1] == ("assets",):
        return "put back those that the studio came with (git checkout, git lfs pull, or install it again)"
    return "delete them and fetch them again"


def _bring(spec: ModelSpec) -> None:
    (spec.fetch or resolve)(spec)
    check_files(spec)


def check_files(spec: ModelSpec) -> None:
    """Compare the spec's files with their SHA-256, again when they have changed. Raises a sentence naming the file."""
    for name, wanted in spec.sha256.items():
        path = resolve(spec) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{spec.key} needs the file {name} in {spec.source}, which is missing: {_again(spec)}"
            )
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            seen = (str(path), facts.st_size, facts.st_mtime_ns, wanted)
            if seen in _hashed:
                continue
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted.lower():
            raise ValueError(
                f"{name} of {spec.key} has SHA-256 {found[:12]}… but {wanted[:12]}… was expected: "
                f"restore the file in {spec.source} ({_again(spec)}), or update the spec if you trained it again"
            )
        _hashed.add(seen)


def _snapshot(spec: ModelSpec) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {spec.revision}" if spec.revision else ""
    try:
        return Path(
            snapshot_download(
                spec.source,
                revision=spec.revision,
                allow_patterns=list(spec.files) or None,
                local_files_only=bool(constants.HF_HUB_OFFLINE),
            )
        )
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(_not_here(spec, f"{spec.source}{at}")) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{spec.key} needs {spec.source}{at}, which the Hub does not give out: "
            "check the name, or log in and accept its licence there"
        ) from error


def _with_all_files(spec: ModelSpec, folder: Path) -> Path:
    """An interrupted download or another tab's may have left only some of the files that this part needs."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")] if spec.files else []
    for pattern in spec.files:
        if not fnmatch.filter(names, pattern):
            raise FileNotFoundError(_not_here(spec, f"{pattern} of {spec.source}"))
    return folder


def _not_here(spec: ModelSpec, what: str) -> str:
    return (
        f"{spec.key} needs {what}, which is not on this machine and cannot be fetched now: "
        f"go online once, or put it into $LATENT_STUDIO_MODELS/{Path(spec.source).name}"
    )


def part_folder(spec: ModelSpec) -> Path:
    """The folder of a shipped part, named as the end of its key."""
    folder = resolve(spec) / spec.key.rsplit("/", 1)[1]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{spec.key} needs the folder {folder.name} in {spec.source}: train it with its train.py"
        )
    return folder
