"""A part's files from the Hub: listed before anything is fetched, fetched while a run can be stopped, and compared with their hashes.

What goes wrong is one sentence that begins with the part's key: a `FileNotFoundError` where the files cannot be had, a
`ConnectionError` where trying again may help. What has arrived is kept, so that the next try fetches the rest
(``downloads.py``).
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipelines.core import downloads, lane, troubles
from pipelines.core.downloads import in_bytes

if TYPE_CHECKING:
    from pipelines.core.weights import ModelSpec

LIST_TIMEOUT_S = 15
File = tuple[int, str | None]
"""Size of a repository's file in bytes, and the SHA-256 of a large one."""
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def fetch(spec: ModelSpec) -> Path:
    """The folder with the files of `spec` at its revision: those on this machine, and what is missing from the Hub.

    Raises:
        FileNotFoundError: offline and not here, no such repository, a file that it lacks, a licence that nobody has accepted.
        ConnectionError: the Hub cannot be reached, the connection broke, or something else arrived than was sent.
        ValueError: the disk has no room for it.
    """
    if constants.HF_HUB_OFFLINE:
        return _kept(spec)
    try:
        return downloads.stoppable(spec.source, lambda arrived: _fetch(spec, arrived))
    except Exception as error:
        said = _sentence(spec, error)
        if said is None:
            raise
        kept = kept_whole(spec)
        if kept is not None:  # fetched before: it does without the Hub
            return kept
        raise said from error


def missing(spec: ModelSpec, names: Iterable[str]) -> list[str]:
    """What the part needs and is not among `names`: patterns without a file, shards, and the index that says what is in which."""
    names = list(names)
    lost = [pattern for pattern in spec.files if not fnmatch.filter(names, pattern)]
    for stem, count in sorted({(found[1], found[3]) for found in map(_SHARD.fullmatch, _wanted(spec, names)) if found}):
        shards = (f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1))
        lost += [name for name in (f"{stem}.safetensors.index.json", *shards) if name not in names]
    return lost


def missing_shards(index: Path) -> list[str]:
    """Shards that a file's index names and that are not beside it."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(shard for shard in shards if not index.with_name(shard).is_file())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # the loader says that it is damaged
        return []


def with_all_files(spec: ModelSpec, folder: Path) -> Path:
    """`folder`, if it has all that the part needs: an interrupted download or another part's may have left some only.

    Raises:
        FileNotFoundError: it has not.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")] if spec.files else []
    lost = missing(spec, names)
    for index in _wanted(spec, names):
        if index.endswith(".safetensors.index.json"):
            lost += missing_shards(folder / index)
    if lost:
        raise FileNotFoundError(_not_here(spec, f"{lost[0]} of {spec.source}"))
    return folder


BARRIERS = {
    "token missing": "accept the licence at huggingface.co/{} and set HF_TOKEN, then start the studio again",
    "licence not accepted": (
        "the owner of the token in HF_TOKEN has not accepted the licence, accept it at huggingface.co/{} and try again"
    ),
    "token too narrow": (
        "the token in HF_TOKEN cannot read gated repositories, allow that in its settings or make one of type read"
    ),
    "token unknown": "the Hub does not know the token in HF_TOKEN, make a new one at huggingface.co/settings/tokens",
}
"""Why a repository is not given out -> what to do about it; the place is for the repository."""


def barrier(error: BaseException) -> str | None:
    """Which of :data:`BARRIERS` an error means; None where it is none.

    The Hub refuses without a token (401) and with one whose owner has not accepted the licence (403).
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 403 and (not isinstance(error, GatedRepoError) or "fine-grained" in str(error)):
        return "token too narrow"
    if isinstance(error, GatedRepoError):
        return "licence not accepted" if status == 403 else "token missing"
    if status == 401 and isinstance(error, HfHubHTTPError) and not isinstance(error, RepositoryNotFoundError):
        return "token unknown"
    return None


def gate(error: BaseException, source: str) -> str | None:
    """What to do about a repository that is not given out; None where that is not why it was refused."""
    why = barrier(error)
    return BARRIERS[why].format(source) if why else None


# ---- what is there ----


def _wanted(spec: ModelSpec, names: Iterable[str]) -> list[str]:
    if not spec.files:
        return list(names)
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in spec.files)]


@dataclass(frozen=True)
class Repository:
    """What the Hub says of a repository."""

    commit: str
    files: Mapping[str, File]
    gated: bool


def ask(source: str, revision: str | None = None, timeout_s: float = LIST_TIMEOUT_S) -> Repository:
    """Ask the Hub about a repository; what goes wrong is the client's error."""
    about = HfApi().model_info(source, revision=revision, files_metadata=True, timeout=timeout_s)
    files = {one.rfilename: (one.size or 0, one.lfs.sha256 if one.lfs else None) for one in about.siblings or ()}
    return Repository(about.sha or constants.DEFAULT_REVISION, files, bool(about.gated))


def knock(source: str, name: str, timeout_s: float) -> None:
    """Ask for the head of a file, which says whether it is given out to us; what goes wrong is the client's error."""
    get_hf_file_metadata(hf_hub_url(source, name), timeout=timeout_s)


def wanted(spec: ModelSpec, repository: Repository) -> dict[str, File]:
    """Those of a repository's files that the part needs.

    Raises:
        FileNotFoundError: the repository lacks one, before anything large is fetched.
    """
    lost = missing(spec, repository.files)
    if lost:
        raise FileNotFoundError(
            f"{spec.key} needs {lost[0]}, which the repository {spec.source} does not have: "
            f"ask its owner, or put the files into $LATENT_STUDIO_MODELS/{Path(spec.source).name}"
        )
    return {name: repository.files[name] for name in _wanted(spec, repository.files)}


def is_kept(spec: ModelSpec, name: str) -> bool:
    """Whether a file arrived whole."""
    return isinstance(try_to_load_from_cache(spec.source, name, revision=spec.revision), str)


def _kept(spec: ModelSpec) -> Path:
    """The folder as far as it is on this machine."""
    try:
        return _snapshot(spec, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(_not_here(spec, spec.source + _at(spec))) from error


def kept_whole(spec: ModelSpec) -> Path | None:
    """The folder with all that the part needs, where it is on this machine; the Hub is not asked."""
    try:
        return with_all_files(spec, _kept(spec)) if spec.files else None
    except FileNotFoundError:
        return None


def _snapshot(spec: ModelSpec, **options: Any) -> Path:
    patterns = list(spec.files) or None
    return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=patterns, **options))


# ---- fetching ----


def _fetch(spec: ModelSpec, arrived: downloads.Arrived) -> Path:
    """Called on a thread of its own: see :func:`downloads.stoppable`."""
    repository = ask(spec.source, spec.revision)
    todo = {name: file for name, file in wanted(spec, repository).items() if not is_kept(spec, name)}
    arrived.total = sum(size for size, _ in todo.values())
    arrived.bytes = arrived.kept = arrived.total - to_fetch(spec, todo)
    _check_room(spec, arrived.total - arrived.kept)
    for name, (size, sha256) in todo.items():
        arrived.check()
        if sha256:
            try:
                downloads.fetch_large(spec.source, repository.commit, name, size, sha256, arrived)
            except downloads.Damaged as error:
                raise ConnectionError(
                    f"{spec.key} needs {name} of {spec.source}, of which something else arrived ({error}): "
                    "it was removed, so try again"
                ) from error
    return _snapshot(spec, tqdm_class=downloads.bar(arrived))


def to_fetch(spec: ModelSpec, files: Mapping[str, File]) -> int:
    """Bytes of ``files`` that are not on this machine, not even in part."""
    there = sum(
        size if sha256 and downloads.blob(spec.source, sha256).exists() else downloads.here(spec.source, sha256)
        for size, sha256 in files.values()
    )
    return sum(size for size, _ in files.values()) - there


def free_room() -> int:
    """Bytes that are free on the disk of the client's cache."""
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _check_room(spec: ModelSpec, size: int) -> None:
    free = free_room()
    if size > free:
        raise ValueError(
            f"{spec.key} is {in_bytes(size)} to fetch and the disk of the machine that runs the studio has {in_bytes(free)} free: "
            f"{troubles.HOST} make room there, or set HF_HOME to a folder on another disk."
        )


# ---- in words ----


def _sentence(spec: ModelSpec, error: Exception) -> FileNotFoundError | ConnectionError | None:
    """What to raise in place of a library's error; None for those of other kinds, and for our own."""
    if troubles.ours(error) or isinstance(error, lane.Cancelled):
        return None
    why = gate(error, spec.source)
    if why:
        return FileNotFoundError(f"{spec.key} needs {spec.source}: {why}")
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
        return FileNotFoundError(
            f"{spec.key} needs {spec.source}{_at(spec)}, which the Hub does not give out: "
            "check the name, or log in and accept its licence there"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return FileNotFoundError(_not_here(spec, spec.source + _at(spec)))
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "?")
        return ConnectionError(
            f"{spec.key} needs {spec.source}, and the Hub is in trouble (status {status}): try again later"
        )
    short = isinstance(error, OSError) and "Consistency check failed" in str(
        error
    )  # the client's word for too few bytes
    if short or isinstance(error, ConnectionError) or downloads.broke(error):
        return ConnectionError(
            f"{spec.key} needs {spec.source}, and the connection to the Hub broke or cannot be made: what has arrived is kept, "
            f"so try again, or put the files into $LATENT_STUDIO_MODELS/{Path(spec.source).name}"
        )
    return None


def _at(spec: ModelSpec) -> str:
    return f" at revision {spec.revision}" if spec.revision else ""


def _not_here(spec: ModelSpec, what: str) -> str:
    return (
        f"{spec.key} needs {what}, which is not on this machine and cannot be fetched now: "
        f"go online once, or put it into $LATENT_STUDIO_MODELS/{Path(spec.source).name}"
    )
