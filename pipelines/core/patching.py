"""Shared models are put back exactly: the only place that changes one for the length of a block.

    with edited_outputs(blocks, lambda module, output: output * 0.5):
        ...                                     # forward hooks; exactly these are removed, also on error
    with edited_inputs(attentions, lambda module, named: {**named, "encoder_hidden_states": other}):
        ...                                     # forward pre-hooks, on the arguments given by name
    with adapter(unet, weights, scale=0.8):
        ...                                     # a LoRA; the layers are the original objects again afterwards
    with frozen(unet, verifier):
        ...                                     # eval mode, no gradients for weights; flags as before afterwards
    with unchanged(unet, vae):
        ...                                     # puts back what the block left behind, and says so

A model's *layout* is everything about it but the numbers in its weights: training flags, the tensor objects
and their storage (so also dtype and device), requires_grad, submodules, hooks and attributes such as attention
processors. Layouts are compared by identity, so noting one costs no memory and restoring one
gives back the very tensors, without a rounding cast. A write into the weights' numbers cannot be undone
here; `unchanged` reports it, and tests compare `fingerprint`s, which hash every byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.configuration_utils import ConfigMixin

_PLAIN = (bool, int, float, str, tuple, set, torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, list, set)


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Inside the block diffusers says nothing of parts that are not of the class in a pipeline's signature, an ``AutoencoderTiny`` where an
    ``AutoencoderKL`` is named; nor of what a small autoencoder's file says beyond its class, because SDXL's pipeline asks it; nor of layers
    to be kept in float32, at a cast of a UNet that has none."""
    names = ("pipelines.pipeline_utils", "configuration_utils", "models.modeling_utils")
    loggers = [logging.getLogger(f"diffusers.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel("ERROR")
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def edited_outputs(modules: Iterable[nn.Module], fn: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Inside the block, `fn(module, output)` replaces each module's output; returning None keeps it.

    `fn` must return a new tensor, not edit its input. Blocks may be nested; the inner one sees what the
    outer one made. A module given twice is edited once.
    """

    def hook(module: nn.Module, _inputs: tuple[object, ...], output: object) -> object:
        return fn(module, output)

    with contextlib.ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextlib.contextmanager
def edited_inputs(
    modules: Iterable[nn.Module], fn: Callable[[nn.Module, dict[str, Any]], dict[str, Any]]
) -> Iterator[None]:
    """Inside the block each module is called with `fn(module, named)` in place of the arguments `named` that come by name.

    `fn` must return a new dictionary. A module given twice is edited once.
    """

    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, fn(module, named)

    with contextlib.ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextlib.contextmanager
def adapter(model: nn.Module, weights: Mapping[str, Tensor], scale: float = 1.0) -> Iterator[None]:
    """Inside the block, a diffusers model (UNet2DConditionModel, ...) wears a LoRA given as its state dict.

    Keys as `peft` or diffusers write them for this model, without a prefix. Blocks may be nested: the
    adapters add up. The way back is the layout noted before, so nothing of peft stays on the model.
    """
    if not hasattr(model, "load_lora_adapter"):
        raise ValueError(f"{type(model).__name__} takes no adapters: give a diffusers model such as the UNet")
    with _restored(model):
        before = set(getattr(model, "peft_config", {}))
        name = f"adapter_{len(before)}"
        adapted: Any = model
        adapted.load_lora_adapter(dict(weights), adapter_name=name, prefix=None)
        adapted.set_adapters([*before, name], [*(_scale_of(model, old) for old in before), scale])
        yield


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside the block: eval mode, and no gradients are kept for weights. Afterwards each flag is as before."""
    with _restored(*modules):
        for module in modules:
            module.eval().requires_grad_(False)
        yield


@contextlib.contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Put back what the block changed about the modules; if it ended well, tell what that was.

    Raises `RuntimeError` after restoring. When the block itself raises, its error passes and the restoring
    is silent. Numbers written into weights in place are reported, not undone: drop such a part.
    """
    layouts = [_Layout(module) for module in modules]
    try:
        yield
    except BaseException:
        for layout in layouts:
            layout.restore()
        raise
    changes = [change for layout in layouts for change in layout.restore()]
    if changes:
        raise RuntimeError(
            "a block changed a shared model: " + "; ".join(changes[:5]) + ("; ..." if len(changes) > 5 else "")
        )


def fresh_scheduler(scheduler: ConfigMixin) -> Any:
    """A new scheduler of the same class and settings. Schedulers keep step state: never share one."""
    return type(scheduler).from_config(scheduler.config)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) over every parameter's and buffer's name, dtype, shape and bytes, and all flags and hooks.

    Equal before and after means: nothing about this model has changed. Reads all weights, so it is for tests.
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        hooks = sum(len(value) for key, value in vars(part).items() if key.endswith("_hooks") and value)
        digest.update(f"{name}|{type(part).__qualname__}|{part.training}|{hooks}\n".encode())
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{tensor.requires_grad}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _restored(*modules: nn.Module) -> Iterator[None]:
    layouts = [_Layout(module) for module in modules]
    try:
        yield
    finally:
        for layout in layouts:
            layout.restore()


class _Layout:
    """How a model is put together, noted by reference."""

    def __init__(self, module: nn.Module):
        self.parts = {name: (part, _attributes(part)) for name, part in module.named_modules()}
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self.tensors = {name: (tensor, tensor.data, tensor.requires_grad, _version(tensor)) for name, tensor in tensors}

    def restore(self) -> list[str]:
        """Put everything back; returns what had to be, in words."""
        changes = []
        for name, (part, before) in self.parts.items():
            where = name or type(part).__name__
            now = _attributes(part)
            for key in sorted({*before, *now}):
                if key in before and key in now and _same(before[key], now[key]):
                    continue
                if _is_noted(key):
                    changes.append(f"{where}: {_difference(key, before, now)}")
                _put_back(part, key, before)
        for name, (tensor, data, requires_grad, version) in self.tensors.items():
            if tensor.data_ptr() != data.data_ptr() or tensor.dtype != data.dtype or tensor.device != data.device:
                changes.append(f"{name}: {data.dtype} on {data.device} became {tensor.dtype} on {tensor.device}")
                tensor.data = data
            elif _version(tensor) != version:
                changes.append(f"{name}: its numbers were overwritten, drop this model and load it again")
            if tensor.requires_grad != requires_grad:
                changes.append(f"{name}: requires_grad became {tensor.requires_grad}")
                tensor.requires_grad_(requires_grad)
        return changes


def _attributes(part: nn.Module) -> dict[str, Any]:
    """All instance attributes; containers (parameters, modules, hooks, peft's tables) as shallow copies."""
    return {key: value.copy() if type(value) in _CONTAINERS else value for key, value in vars(part).items()}


def _is_torch_dict(key: str) -> bool:
    return key in ("_parameters", "_buffers", "_modules") or key.endswith("_hooks")


def _is_noted(key: str) -> bool:
    """Private attributes are put back too, but a model may keep notes in them: no reason to complain."""
    return not key.startswith("_") or _is_torch_dict(key)


def _same(before: object, now: object) -> bool:
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_same(before[key], now[key]) for key in before)
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_same, before, now))
    return isinstance(before, _PLAIN) and before == now


def _difference(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if key.endswith("_hooks"):
        return f"{key[1:].replace('_', ' ')} went from {len(before.get(key, ()))} to {len(now.get(key, ()))}"
    if _is_torch_dict(key):
        names = [name for name in {**before[key], **now[key]} if before[key].get(name) is not now[key].get(name)]
        return f"{', '.join(names[:3])} replaced"
    return f"attribute {key} was {'removed' if key not in now else 'changed' if key in before else 'added'}"


def _put_back(part: nn.Module, key: str, before: dict[str, Any]) -> None:
    kept: Any = vars(part).get(key)
    if key not in before:
        vars(part).pop(key)
    elif type(kept) is not type(before[key]) or type(kept) not in _CONTAINERS:
        vars(part)[key] = before[key]
    else:  # refill the same container: the handles of hooks hold a weak reference to it
        kept.clear()
        (kept.extend if isinstance(kept, list) else kept.update)(before[key])


def _version(tensor: Tensor) -> int | None:
    """torch's count of in-place writes; tensors made in inference mode have none."""
    return None if tensor.is_inference() else tensor._version


def _scale_of(model: nn.Module, name: str) -> float:
    """The strength at which an adapter is worn now: peft keeps it times alpha / rank."""
    parts: Iterator[Any] = model.modules()
    for part in parts:
        if name in getattr(part, "scaling", {}):
            return part.scaling[name] * part.r[name] / part.lora_alpha[name]
    return 1.0
