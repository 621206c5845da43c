"""A model as data: where its files come from, that they are whole, and how it is made of them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.core import asset_files, hub, troubles
from pipelines.core.troubles import ROOT

_hashed: set[tuple[str, int, int, str]] = set()
_fetched: dict[tuple[str, str | None, tuple[str, ...]], Path] = {}


_loading_device: ContextVar[str] = ContextVar("loading_device", default="cpu")


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
    brings: Callable[[ModelSpec], tuple[ModelSpec, ...]] | None = None
    """What `fetch` fetches from the Hub, as specs of files, where that is not the spec's own."""
    stays_in_ram: bool = False
    """True for what never moves to the GPU as a whole: a model whose layers visit it, tensors that a loaded model takes up."""


def multiplies_halves() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AMX, or AVX512-bf16); else it would be emulated."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def for_cpu(spec: ModelSpec) -> ModelSpec:
    """The spec as a CPU should load it: in float32 where it would have to emulate the half precision.

    An AVX2 core computes float16 convolutions 54 and bfloat16 ones 76 times slower than float32 ones, linear layers 3 and 11 times.
    """
    if spec.dtype == "float16" or (spec.dtype == "bfloat16" and not multiplies_halves()):
        return replace(spec, dtype="float32", bytes=2 * spec.bytes)
    return spec


def is_folder(source: str) -> bool:
    """Whether a source is a folder of this machine, and no repository of the Hub."""
    place = Path(source)
    return place.is_absolute() or place.parts[:1] == ("assets",) or (ROOT / place).is_dir()


def local_copy(source: str) -> Path | None:
    """The copy of a Hub repository that the host put into his folder of models."""
    models = os.environ.get("LATENT_STUDIO_MODELS")
    folder = Path(models) / Path(source).name if models else None
    return folder if folder is not None and folder.is_dir() else None


def from_hub(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """What the part takes from the Hub, as specs of files, whether it is here already or not."""
    if spec.brings is not None:
        return spec.brings(spec)
    return () if is_folder(spec.source) else (spec,)


def resolve(spec: ModelSpec) -> Path:
    """The local folder of a spec. A Hub repository that is not local yet is fetched, at its revision."""
    source = Path(spec.source)
    if is_folder(spec.source):
        folder = source if source.is_absolute() else ROOT / source
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{spec.key} needs the folder {spec.source}, which is missing: "
                "check the repository out completely or train the model again with the train.py of its card"
            )
        return folder
    copy = local_copy(spec.source)
    if copy is not None:
        return hub.with_all_files(spec, copy)
    key = (spec.source, spec.revision, spec.files)
    if key not in _fetched or not _fetched[key].is_dir():
        _fetched[key] = hub.with_all_files(
            spec, hub.fetch(spec)
        )  # once in a process: asking the Hub again takes a while
    return _fetched[key]


def placement() -> dict[str, Any]:
    """``from_pretrained``'s option that puts weights straight onto the GPU, shard by shard; empty where they go to RAM.

    With it a model needs no more RAM than one of its shards.
    """
    device = _loading_device.get()
    return {} if device == "cpu" else {"device_map": device}


def _read(spec: ModelSpec, device: str = "cpu") -> Any:
    """The part by its loader. What a library says about a file that it cannot read becomes a sentence."""
    before = _loading_device.set(device)
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
    finally:
        _loading_device.reset(before)


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


def part_folder(spec: ModelSpec) -> Path:
    """The folder of a shipped part, named as the end of its key."""
    folder = resolve(spec) / spec.key.rsplit("/", 1)[1]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{spec.key} needs the folder {folder.name} in {spec.source}: train it with its train.py"
        )
    return folder


def manifest(folder: str) -> dict[str, Any]:
    """What the training script wrote about shipped weights: hashes, sizes, scores. Empty before the first training."""
    return asset_files.facts(ROOT / folder / "manifest.json", "sha256")


def asset_spec(key: str, folder: str, load: Callable[[ModelSpec], Any], part: str = "", card: str = "") -> ModelSpec:
    """A spec for weights shipped in ``folder`` (of which ``part`` is a subfolder), with hashes from its manifest."""
    facts = manifest(folder)
    prefix = f"{part}/" if part else ""
    hashes = {name: value for name, value in asset_files.hashes(facts).items() if name.startswith(prefix)}
    sizes = asset_files.sizes(facts.get("bytes"))
    for name in hashes:
        asset_files.check(ROOT / folder / name, sizes.get(name), hashes[name])
    size = 2 * sum(sizes.get(name, 0) for name in hashes)  # float16 on disk, float32 in memory
    return ModelSpec(key, folder, load, "Apache-2.0", size or 1 << 20, sha256=hashes, card=card)
