"""What a run found, as files and back: plain JSON, with each array, picture and tensor in a file beside it.

Not pickle: reading runs nothing that a file names. Of classes only the dataclasses of this studio are written and read, by
their fields; what holds anything else is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import math
import weakref
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

OURS = ("pipelines", "demos")
MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F")
"""Of pictures: those that an array of numpy holds pixel by pixel."""
TAG = "~"
"""A dictionary with this key is something that JSON has no word for."""


class Store:
    """Objects in one folder. The same array or picture, of however many objects, is one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._records: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def record(self, value: object) -> Any:
        """``value`` as JSON; its arrays and pictures are written into the folder.

        Raises:
            TypeError: it holds what cannot be kept.
        """
        if value is None or isinstance(value, bool | str):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "is": repr(value)}
        if isinstance(value, list):
            return [self.record(item) for item in value]
        if isinstance(value, tuple):
            if type(value) is not tuple:
                raise TypeError(f"{type(value).__name__} cannot be kept")
            return {TAG: "tuple", "is": [self.record(item) for item in value]}
        if isinstance(value, dict):
            if all(type(key) is str for key in value) and TAG not in value:
                return {key: self.record(item) for key, item in value.items()}
            return {TAG: "dict", "is": [[self.record(key), self.record(item)] for key, item in value.items()]}
        if isinstance(value, set | frozenset):
            return {TAG: type(value).__name__, "is": [self.record(item) for item in sorted(value)]}
        if isinstance(value, Path):
            return {TAG: "path", "is": str(value)}
        if isinstance(value, numpy.generic):
            return {TAG: "number", "is": self._array(numpy.asarray(value))}
        if isinstance(value, numpy.ndarray):
            return {TAG: "array", "is": self._kept(value, self._array)}
        if isinstance(value, Image.Image):
            return {TAG: "picture", "is": self._kept(value, self._picture)}
        if type(value).__module__ == "torch" and type(value).__name__ == "Tensor":
            return self._tensor(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value)
        raise TypeError(f"{type(value).__name__} cannot be kept")

    def value(self, record: object) -> Any:
        """What :meth:`record` was given.

        Raises:
            ValueError, OSError: the record is none, or a file of it is gone or is another.
        """
        if isinstance(record, list):
            return [self.value(item) for item in record]
        if not isinstance(record, dict):
            return record
        if TAG not in record:
            return {key: self.value(item) for key, item in record.items()}
        kind, held = record[TAG], record["is"]
        plain: dict[str, Callable[[Any], Any]] = {"float": float, "path": Path, "array": self._load}
        plain |= {"number": lambda name: self._load(name)[()]}
        plain |= {"picture": lambda name: Image.fromarray(self._load(name))}
        many = {"tuple": tuple, "set": set, "frozenset": frozenset}
        if kind in plain:
            return plain[kind](held)
        if kind in many:
            return many[kind](self.value(item) for item in held)
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in held}
        if kind == "tensor":
            torch = _torch()
            dtype, shape, flat = getattr(torch, record["dtype"]), record["shape"], self._load(held)
            return torch.from_numpy(flat).view(dtype).reshape(shape) if flat.size else torch.empty(shape, dtype=dtype)
        if kind == "class":
            return self._object(record)
        raise ValueError(f"{kind!r} is no kind of record")

    def clean(self, records: Iterable[Any]) -> None:
        """Remove the files that none of these records needs."""
        needed = set(files_of(list(records)))
        for file in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def _kept(self, value: object, write: Callable[[Any], str]) -> str:
        """The file's name; what was written a moment ago is not written again."""
        known = self._known.get(id(value))
        if known is not None and known[0]() is value and (self.folder / known[1]).exists():
            return known[1]
        name = write(value)
        frozen = not isinstance(value, numpy.ndarray) or not value.flags.writeable
        if frozen:
            self._known[id(value)] = weakref.ref(value), name
        return name

    def _array(self, value: numpy.ndarray, level: int = 0) -> str:
        if value.dtype.hasobject:
            raise TypeError("an array of objects cannot be kept")
        file = io.BytesIO()
        numpy.save(file, value, allow_pickle=False)
        return self._write(zlib.compress(file.getvalue(), level), ".npy")

    def _picture(self, value: Image.Image) -> str:
        if value.mode not in MODES:
            raise TypeError(f"a picture of mode {value.mode} cannot be kept")
        return self._array(numpy.asarray(value), level=1)

    def _tensor(self, value: Any) -> dict[str, Any]:
        plain = value.detach().to("cpu").contiguous()
        name = self._array(plain.reshape(-1).view(_torch().uint8).numpy() if plain.numel() else numpy.zeros(0, "uint8"))
        return {TAG: "tensor", "is": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}

    def _dataclass(self, value: Any) -> dict[str, Any]:
        cls = type(value)
        if cls.__module__.partition(".")[0] not in OURS:
            raise TypeError(f"{cls.__name__} cannot be kept")
        # What cannot change was written when it was new; the others are small or few.
        fixed = cls.__dataclass_params__.frozen and not cls.__dataclass_params__.eq
        if fixed:
            known = self._records.get(id(value))
            if (
                known is not None
                and known[0]() is value
                and all((self.folder / n).exists() for n in files_of(known[1]))
            ):
                return known[1]
        fields = {field.name: self.record(getattr(value, field.name)) for field in dataclasses.fields(value)}
        record = {TAG: "class", "is": f"{cls.__module__}:{cls.__qualname__}", "fields": fields}
        if fixed:
            self._records[id(value)] = weakref.ref(value), record
        return record

    def _object(self, record: dict[str, Any]) -> Any:
        module, _, name = record["is"].partition(":")
        if module.partition(".")[0] not in OURS:
            raise ValueError(f"{record['is']} is no class of this studio")
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part, None)
        fields = {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        since = {name: field.default for name, field in fields.items() if name not in record["fields"]}
        known = fields.keys() >= record["fields"].keys() and dataclasses.MISSING not in since.values()
        if not isinstance(cls, type) or not known:
            raise ValueError(f"{record['is']} is not what it was when this was kept")
        made: Any = object.__new__(cls)
        for field, default in since.items():  # the class has it since, and what was kept before did without
            object.__setattr__(made, field, default)
        for field, held in record["fields"].items():
            object.__setattr__(made, field, self.value(held))
        return made

    def _write(self, data: bytes, suffix: str) -> str:
        name = hashlib.sha256(data).hexdigest()[:40] + suffix
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        return name

    def _load(self, name: str) -> numpy.ndarray:
        try:
            data = zlib.decompress(self._file(name).read_bytes())
        except zlib.error:
            raise ValueError(f"{name} is damaged") from None
        return numpy.load(io.BytesIO(data), allow_pickle=False)

    def _file(self, name: str) -> Path:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{name!r} is no file of this folder")
        return self.folder / name


def files_of(record: object) -> Iterable[str]:
    """The files that a record needs."""
    if isinstance(record, list):
        for item in record:
            yield from files_of(item)
    elif isinstance(record, dict):
        if record.get(TAG) in ("array", "number", "picture", "tensor"):
            yield record["is"]
        else:
            for item in record.values():
                yield from files_of(item)


def import_classes(record: object) -> None:
    """Import the modules that a record's objects are of, so that reading it does not have to."""
    if isinstance(record, list):
        for item in record:
            import_classes(item)
    elif isinstance(record, dict):
        if record.get(TAG) == "class" and record["is"].partition(".")[0] in OURS:
            with contextlib.suppress(ImportError):
                importlib.import_module(record["is"].partition(":")[0])
        for item in record.values():
            import_classes(item)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is either there whole or not at all, whenever the process is killed."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _torch() -> Any:
    import torch

    return torch
