"""Every model of the studio lives here once: declared as data, loaded when first needed, shared, evicted.

    UNET = ModelSpec(key="mini-sdxl/unet", source="assets/mini-sdxl", load=load_unet, licence="Apache-2.0",
                     bytes=31_000_000)
    with registry.lease(UNET, VAE) as (unet, vae):
        ...                                    # both are loaded, on the device, and stay till the block ends

Rules that the tests in `tests/core/test_registry.py` hold us to:

* The same key is the same object. A key therefore names source, part, revision and dtype.
* What is leased is never evicted, whoever asks. What is idle goes in least-recently-used order:
  from the GPU to RAM while the RAM budget allows, otherwise away; a later lease loads it again.
* Sizes are checked before loading (`ModelSpec.bytes`) and measured after it. A part counts where it lives: on the GPU, or,
  where its spec says `stays_in_ram`, in RAM. What goes to the GPU is read
  straight into it, shard by shard, and needs no room in RAM.
* Concurrent `from_pretrained` calls corrupt models silently: the loaders patch `nn.Module` for the whole
  process meanwhile, and unrelated modules come back with empty *meta* weights. So all loading in this
  process holds `LOAD_LOCK`, and is expected on the lane's thread (`pipelines/core/lane.py`). Files are fetched and
  checked before any lock is taken. The renderers of `pipelines/worlds` need no lock: they name every dtype.
* A lease holds its registry's lock until the block ends, so leases of different threads take turns
  (pipelines and tokenizers are not thread-safe either). Enter and leave a lease on one thread: never put
  it around the `yield` of a Gradio generator, which is advanced on different threads.
* Lock order: the registry's lock first, then `LOAD_LOCK`. A loader must not lease anything.
* Pipelines are built from leased parts per lease and not kept: a kept pipeline holds on to its parts, and
  eviction would free nothing. Parts do not share tensors with each other.

Environment variables, read by `from_environment()` and `resolve()` (sizes in GiB, fractions allowed):

    LATENT_STUDIO_MODE             cpu, cuda, zero or auto (default: zero on ZeroGPU, cuda if torch sees a GPU)
    LATENT_STUDIO_RAM_GIB          budget for weights in RAM  (default: half of the available memory, or of
                                   the container's limit where that is less)
    LATENT_STUDIO_GPU_GIB          budget for weights on the GPU  (default: what is free at the first lease,
                                   less the reserve)
    LATENT_STUDIO_GPU_RESERVE_GIB  left free on the GPU for the work itself  (default 4)
    LATENT_STUDIO_MODELS           folder that may hold Hub models: <folder>/<name without the owner>

This module imports neither torch nor gradio, so declaring models costs nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pipelines.core import lane, troubles
from pipelines.core.weights import ModelSpec, _bring, _read, for_cpu

if TYPE_CHECKING:
    from torch import nn

GIB = 2**30
MODES = ("auto", "cpu", "cuda", "zero")
LOAD_LOCK = threading.RLock()
"""Held while any model of this process is loaded. Hold it too when building modules on another thread."""


class OutOfBudget(MemoryError):
    """The parts of one job do not fit; its text is one sentence for the visitor. Trying again is no use.

    `tier` is what is too small, "gpu" or "ram".
    """

    def __init__(self, sentence: str, tier: str = "gpu") -> None:
        super().__init__(sentence)
        self.tier = tier


def too_little_ram(error: BaseException) -> bool:
    """Whether the budget for RAM refused the parts: a preset that takes less of the GPU is no help then."""
    return isinstance(error, OutOfBudget) and error.tier == "ram" and error.__cause__ is None


@dataclass(eq=False)
class _Part:
    """What the registry knows about one key. Written with the lock held, read by `status()` without it."""

    spec: ModelSpec
    size: int
    obj: Any = None
    state: str = "cold"  # cold | loading | ram | gpu | failed
    moves: bool = True  # to the GPU; until it is loaded, as its spec says
    pins: int = 0
    used: float = 0.0
    uses: int = 0
    load_seconds: float | None = None
    error: str | None = None


def _to(module: nn.Module, device: str) -> nn.Module:
    return module.to(device)


class Registry:
    """Loads, shares, places and evicts models within two byte budgets.

    `mode`: "cpu" keeps everything in RAM; "cuda" keeps leased parts on the GPU and idle ones there or in RAM;
    "zero" (ZeroGPU) loads what is declared at import on the main thread, moves it to "cuda" and never moves
    it again; "auto" picks cpu or cuda at the first lease. A budget of None for RAM means no limit; for the
    GPU it means the default of the module's docstring. `move(module, device)` stands in for `module.to`.
    """

    def __init__(
        self,
        mode: str = "cpu",
        gpu_bytes: int | None = None,
        ram_bytes: int | None = None,
        move: Callable[[Any, str], Any] | None = None,
        gpu_reserve_bytes: int = 4 * GIB,
    ):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: set LATENT_STUDIO_MODE to one of {', '.join(MODES)}")
        self.mode = mode
        self._move = move or _to
        self._real_device = move is None
        self._limits = {"gpu": gpu_bytes, "ram": ram_bytes}
        self._gpu_reserve_bytes = gpu_reserve_bytes
        self._parts: dict[str, _Part] = {}
        self._lock = threading.RLock()
        self._device: str | None = {"cpu": "cpu", "zero": "cuda"}.get(mode)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda". In the modes auto and cuda the first call imports torch to look."""
        if self._device is None:
            self._settle_device()
        return self._device or "cpu"

    def declare(self, *specs: ModelSpec) -> None:
        """Make parts known to `status()`; in the zero mode also load and place them (main thread only)."""
        if self.mode == "zero" and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("ZeroGPU emulates CUDA on the main thread only: declare models at import")
        for spec in specs:
            part = self._part(spec)
            if self.mode == "zero" and part.obj is None:
                self._load(part)
                if part.moves and _is_module(part.obj):
                    part.obj = self._move(part.obj, "cuda")
                    part.state = "gpu"

    @contextlib.contextmanager
    def lease(self, *specs: ModelSpec) -> Iterator[tuple[Any, ...]]:
        """Load and place the parts, and keep them there until the block ends. Leases may be nested.

        Raises `OutOfBudget` (a `MemoryError`) before anything is loaded or moved when they cannot fit.
        """
        if self.mode == "zero":
            yield self._lease_zero(specs)
            return
        self._bring_files(specs)
        with self._lock:
            parts = list(dict.fromkeys(self._part(spec) for spec in specs))
            for part in parts:
                part.pins += 1
            try:
                self._check_fit(parts)
                self._retried(lambda: self._load_and_place(parts), parts)
                yield tuple(self._parts[spec.key].obj for spec in specs)
            finally:
                now = time.monotonic()
                for part in parts:
                    part.pins -= 1
                    part.used = now

    def run(
        self,
        specs: ModelSpec | Sequence[ModelSpec] | Mapping[str, ModelSpec],
        fn: Callable[..., Any],
        smaller: str = troubles.SMALLER,
    ) -> Any:
        """`fn(*parts)` in a lease; with `specs` by name, `fn(**parts)`. Out of memory: evict everything idle, try once more,
        then one sentence.

        `fn` may therefore be called twice. What else it raises passes through. `smaller` is what a visitor can do to
        need less memory, for the end of that sentence.
        """
        names = list(specs) if isinstance(specs, Mapping) else []
        wanted = (
            [specs] if isinstance(specs, ModelSpec) else list(specs.values() if isinstance(specs, Mapping) else specs)
        )

        def work() -> Any:
            return fn(**dict(zip(names, parts, strict=True))) if names else fn(*parts)

        with self.lease(*wanted) as parts:
            return self._retried(work, [self._part(spec) for spec in wanted], smaller)

    def free(self) -> int:
        """Let go of everything idle; returns the bytes freed on the device. Waits for other threads' leases.

        On a GPU the parts go back to RAM as far as its budget allows; in the cpu mode they go away.
        """
        if self.mode == "zero":
            return 0
        with self._lock:
            tier = "gpu" if self._device == "cuda" else "ram"
            before = self._in_use(tier)
            self._evict_idle(keep_in_ram=tier == "gpu")
            return before - self._in_use(tier)

    def drop(self, key: str) -> bool:
        """Forget one loaded part, at once: True when it is cold now. False, and no change, while leased."""
        if self.mode == "zero" or not self._lock.acquire(blocking=False):
            return False
        try:
            part = self._parts[key]
            if part.pins:
                return False
            self._forget(part)
            _collect()
            return True
        finally:
            self._lock.release()

    def status(self) -> list[dict[str, Any]]:
        """One row per declared part, for the page. Takes no lock: it answers while a job runs or loads."""
        return [
            {
                "key": key,
                "state": part.state,
                "bytes": part.size,
                "uses": part.uses,
                "leased": part.pins > 0,
                "load_seconds": part.load_seconds,
                "error": part.error,
                "licence": part.spec.licence,
                "source": part.spec.source,
                "card": part.spec.card,
            }
            for key, part in list(self._parts.items())
        ]

    def summary(self) -> dict[str, Any]:
        """Mode, device (None until the first lease decides), bytes in use and budgets. No lock, no torch."""
        return {
            "mode": self.mode,
            "device": self._device,
            "gpu_bytes": self._in_use("gpu"),
            "gpu_budget": self._limits["gpu"],
            "ram_bytes": self._in_use("ram"),
            "ram_budget": self._limits["ram"],
        }

    def room(self, specs: Iterable[ModelSpec]) -> dict[str, tuple[int, int | None]]:
        """By tier ("gpu", "ram") the bytes that the parts of one lease take there, declared or measured, and the budget (None: no
        limit is known). Takes no lock and loads nothing; the first call imports torch to look for a device."""
        needed: dict[str, int] = {}
        for spec in dict.fromkeys(specs):
            known = self._parts.get(spec.key)
            measured = known is not None and known.load_seconds is not None and known.error is None
            size = known.size if known and measured else (for_cpu(spec) if self.device == "cpu" else spec).bytes
            moves = known.moves if known else not spec.stays_in_ram
            tier = "gpu" if self.device == "cuda" and moves else "ram"
            needed[tier] = needed.get(tier, 0) + size
        return {tier: (size, self._limits[tier]) for tier, size in needed.items()}

    def _bring_files(self, specs: Sequence[ModelSpec]) -> None:
        """Fetch and check the files of parts that are not loaded, without a lock: a download may take an hour."""
        with self._lock:
            parts = list(dict.fromkeys(self._part(spec) for spec in specs))
            cold = [part for part in parts if part.obj is None]
            if cold:
                self._settle_precision(cold)
                self._check_fit(parts)  # nothing is fetched that has no room
            for part in cold:
                part.state, part.error = "loading", None
        failed: dict[_Part, str] = {}
        try:
            for part in cold:
                _bring(part.spec)
        except lane.Cancelled:
            raise
        except BaseException as error:
            failed[part] = f"{type(error).__name__}: {error}"
            raise
        finally:
            with self._lock:
                for part in cold:
                    if part.obj is None:  # another thread may have loaded it meanwhile
                        part.state, part.error = "failed" if part in failed else "cold", failed.get(part)

    # ---- below: with the lock held, except in the zero mode's import ----

    def _part(self, spec: ModelSpec) -> _Part:
        # setdefault: `declare` may run on another thread while a lease holds the lock
        part = self._parts.setdefault(spec.key, _Part(spec, spec.bytes, moves=not spec.stays_in_ram))
        known = part.spec
        if (known.source, known.revision, known.dtype) != (spec.source, spec.revision, spec.dtype):
            raise ValueError(
                f"key {spec.key!r} is already {known.source} {known.revision} {known.dtype}, "
                f"not {spec.source} {spec.revision} {spec.dtype}: give one of them another key"
            )
        return part

    def _lease_zero(self, specs: Sequence[ModelSpec]) -> tuple[Any, ...]:
        parts = [self._part(spec) for spec in specs]
        missing = [part.spec.key for part in parts if part.obj is None]
        if missing:
            raise RuntimeError(
                f"{' + '.join(missing)} cannot be loaded now: on ZeroGPU declare it at import (registry.declare)"
            )
        for part in parts:
            part.uses += 1
        return tuple(part.obj for part in parts)

    def _retried(self, attempt: Callable[[], Any], parts: list[_Part], smaller: str = troubles.SMALLER) -> Any:
        """Call it; when memory runs out, evict everything idle and call it once more."""
        try:
            return attempt()
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # tensors of the dead frames would stay alive
            on_gpu = troubles.on_gpu(error)
        self._evict_idle(keep_in_ram=on_gpu)
        try:
            return attempt()
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            raise self._out_of_memory(parts, smaller, error) from error

    def _evict_idle(self, keep_in_ram: bool) -> None:
        """Empty the GPU of idle parts; unless they may stay in RAM, let go of all of them."""
        if self.mode != "zero":
            for part in self._idle("gpu"):
                if keep_in_ram:
                    self._evict(part)
                else:
                    self._forget(part)
            if not keep_in_ram:
                for part in self._idle("ram"):
                    self._forget(part)
        _collect()

    def _load_and_place(self, parts: list[_Part]) -> None:
        # What goes to the GPU comes first, what is loaded before the rest: there it takes no room in RAM from the parts still to load.
        for part in sorted(parts, key=lambda part: (not self._goes_to_gpu(part), part.obj is None)):
            lane.check()
            if part.obj is None:
                straight = self._goes_to_gpu(part)
                self._make_room("gpu" if straight else "ram", part.size, parts)
                self._load(part, "cuda" if straight and self._real_device else "cpu")
                self._settle_size(part, parts)
            if self._goes_to_gpu(part) and part.state != "gpu":
                self._make_room("gpu", part.size, parts)
                self._place(part)
        for part in parts:
            part.used, part.uses = time.monotonic(), part.uses + 1

    def _check_fit(self, parts: list[_Part]) -> None:
        """Refuse what can never fit beside the parts in use, before anything is loaded or moved."""
        pinned = [part for part in list(self._parts.values()) if part.pins or part in parts]
        for tier in ("gpu", "ram"):
            here = [part for part in pinned if (tier == "gpu") == self._goes_to_gpu(part)]
            limit = self._limits[tier]
            if limit is not None and sum(part.size for part in here) > limit:
                raise self._too_big(parts, tier, limit)

    def _goes_to_gpu(self, part: _Part) -> bool:
        return self.device == "cuda" and part.moves

    def _settle_precision(self, parts: list[_Part]) -> None:
        if self.device == "cpu":
            for part in parts:
                if part.load_seconds is None:  # what was loaded once was measured
                    part.size = for_cpu(part.spec).bytes

    def _load(self, part: _Part, device: str = "cpu") -> None:
        """cold -> ram, or on its way to the GPU. A failure leaves no object behind, and the next lease tries again."""
        started = time.monotonic()
        part.state, part.error = "loading", None
        try:
            _bring(part.spec)
            with LOAD_LOCK:
                part.obj = _read(for_cpu(part.spec) if self.device == "cpu" else part.spec, device)
            module = _is_module(part.obj)
            part.moves = module and not part.spec.stays_in_ram
            if module:
                part.obj.eval().requires_grad_(False)  # shared models serve; nobody trains them in place
                part.size = _weight_bytes(part.obj, part.spec.key)
            part.state = "ram"
        except BaseException as error:
            part.obj, part.state = None, "failed"
            part.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            part.load_seconds = time.monotonic() - started

    def _settle_size(self, part: _Part, parts: list[_Part]) -> None:
        """After loading, the measured size counts: make room for a part that was declared too small."""
        try:
            if not self._goes_to_gpu(part):
                self._make_room("ram", 0, parts)
            self._check_fit(parts)
        except OutOfBudget:
            self._forget(part)
            raise

    def _place(self, part: _Part) -> None:
        """ram -> gpu. A part that got half-way is brought back before the error goes on."""
        try:
            if not _is_on_gpu(part.obj):  # 8-bit models refuse to be moved, even to where they are
                part.obj = self._move(part.obj, "cuda")
            part.state = "gpu"
        except BaseException:
            try:
                part.obj = self._move(part.obj, "cpu")
            except Exception:
                self._forget(part)
            raise

    def _make_room(self, tier: str, need: int, parts: list[_Part]) -> None:
        limit = self._limits[tier]
        if limit is None:
            return
        for part in self._idle(tier):
            if self._in_use(tier) + need <= limit:
                return
            self._evict(part)
            _return_cached_memory()  # without gc: it takes 0.3 s here, and evicted models have no cycles
        if self._in_use(tier) + need > limit:
            raise self._too_big(parts, tier, limit)

    def _evict(self, part: _Part) -> None:
        """gpu -> ram while it is among the recently used that fit there, otherwise -> cold."""
        # bitsandbytes keeps 8-bit weights on the GPU.
        if part.state == "gpu" and part.spec.dtype != "int8" and self._fits_in_ram(part):
            try:
                part.obj = self._move(part.obj, "cpu")
                part.state = "ram"
                return
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
        self._forget(part)

    def _fits_in_ram(self, part: _Part) -> bool:
        """Make room in RAM by dropping idle parts used before this one, if that is enough."""
        limit = self._limits["ram"]
        if limit is None:
            return True
        older = [other for other in self._idle("ram") if other.used < part.used]
        if self._in_use("ram") - sum(other.size for other in older) + part.size > limit:
            return False
        for other in older:
            if self._in_use("ram") + part.size > limit:
                self._forget(other)
        return True

    def _forget(self, part: _Part) -> None:
        part.obj, part.state = None, "cold"

    def _idle(self, tier: str) -> list[_Part]:
        """Loaded, unleased parts of one tier, least recently used first."""
        parts = [part for part in list(self._parts.values()) if part.state == tier and not part.pins]
        return sorted(parts, key=lambda part: part.used)

    def _in_use(self, tier: str) -> int:
        return sum(part.size for part in list(self._parts.values()) if part.state == tier)

    def _settle_device(self) -> None:
        import torch

        available = torch.cuda.is_available()
        if self.mode == "cuda" and self._real_device and not available:
            raise RuntimeError(
                "LATENT_STUDIO_MODE is cuda but torch sees no GPU: install torch for CUDA, or set it to cpu"
            )
        device = "cuda" if self.mode == "cuda" or available else "cpu"
        if device == "cuda" and self._real_device and self._limits["gpu"] is None:
            free, _total = torch.cuda.mem_get_info()
            self._limits["gpu"] = max(0, free - self._gpu_reserve_bytes)
        self._device = device

    def _too_big(self, parts: list[_Part], tier: str, limit: int) -> OutOfBudget:
        """The tier that is too small with its `limit`, and what would lie there: `parts`, beside what others use."""

        def in_tier(some: list[_Part]) -> list[_Part]:
            return [part for part in some if (tier == "gpu") == self._goes_to_gpu(part)]

        others = in_tier([part for part in list(self._parts.values()) if part.pins and part not in parts])
        parts = in_tier(parts) or parts
        needed = sum(part.size for part in parts)
        beside = f" beside {_size(sum(part.size for part in others))} in use" if others else ""
        place, variable = ("the GPU", "LATENT_STUDIO_GPU_GIB") if tier == "gpu" else ("RAM", "LATENT_STUDIO_RAM_GIB")
        return OutOfBudget(
            f"{_names(parts)} needs {_size(needed)}{beside} and the budget for models in {place} is "
            f"{_size(limit)}: raise {variable} or choose a smaller model set",
            tier,
        )

    def _out_of_memory(self, parts: list[_Part], smaller: str, error: BaseException) -> OutOfBudget:
        tier = "gpu" if troubles.on_gpu(error) else "ram"
        limit = self._limits[tier]
        budget = f" (budget {_size(limit)})" if limit is not None else ""
        place = "the GPU" if tier == "gpu" else "RAM"
        return OutOfBudget(
            f"{place} ran out of memory with {_names(parts)} loaded, which needs "
            f"{_size(sum(part.size for part in parts))}{budget} and room to work in: "
            f"{smaller}",
            tier,
        )


def from_environment() -> Registry:
    """The app's registry, from the environment variables named at the top. Imports no torch."""
    mode = os.environ.get("LATENT_STUDIO_MODE", "auto").strip().lower() or "auto"
    if mode == "auto" and os.environ.get("SPACES_ZERO_GPU"):
        mode = "zero"
    reserve = _gib("LATENT_STUDIO_GPU_RESERVE_GIB")
    ram = _gib("LATENT_STUDIO_RAM_GIB")
    return Registry(
        mode=mode,
        gpu_bytes=_gib("LATENT_STUDIO_GPU_GIB"),
        ram_bytes=default_ram_bytes() if ram is None else ram,
        gpu_reserve_bytes=4 * GIB if reserve is None else reserve,
    )


def default_ram_bytes() -> int:
    """Half of the memory that is available now, or of the container's limit where that is less."""
    limits = [_available_memory()]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup version 2, version 1
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limits) // 2


def _available_memory() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):  # macOS has no /proc
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * GIB


def _is_module(obj: object) -> TypeGuard[nn.Module]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def _is_on_gpu(module: nn.Module) -> bool:
    first = next(module.parameters(), None)
    return first is not None and first.device.type == "cuda"


def _weight_bytes(module: nn.Module, key: str) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise RuntimeError(f"{key} came back with empty weights: another thread built a model without LOAD_LOCK")
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _is_out_of_memory(error: BaseException) -> bool:
    return not isinstance(error, OutOfBudget) and (
        isinstance(error, MemoryError) or troubles.out_of_memory(error) != ""
    )


def _collect() -> None:
    gc.collect()
    _return_cached_memory()


def _return_cached_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _gib(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e6:
        raise ValueError(f"{variable} is {text!r}: set it to a number of GiB, such as 6 or 0.5")
    return int(value * GIB)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def _names(parts: Sequence[_Part]) -> str:
    return " + ".join(part.spec.key for part in parts)
