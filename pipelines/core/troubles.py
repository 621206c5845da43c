"""What is wrong with the machine, not with what somebody asked for: a full disk, no memory left, a file that may not be read.

Such an error often reaches us inside a library's own, or while a file of a visitor's is read or written; then "this file is
damaged" would be a wrong reason. So readers call :func:`raise_machines` before they blame the file, and whoever shows an
error asks :func:`sentence` first. No torch here.
"""

from __future__ import annotations

import errno
import opcode
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = ("pipelines", "demos", "app.py", "assets", "tests")
RAISE = opcode.opmap["RAISE_VARARGS"]

HOST = "if the studio is yours,"
SMALLER = "make less at once (a smaller picture, a shorter text, fewer steps), or close other programs on that machine"
GPU_TEXTS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
RAM_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "Cannot allocate memory",
    "Insufficient memory",
    "std::bad_alloc",
)

_FULL = f"The disk of the machine that runs the studio is full, so nothing can be saved: try again later, or {HOST} free some space there."
_CLOSED = (
    f"A file or folder that the studio needs may not be read or written: {HOST} give its user the right to its "
    "temporary folder and to its models."
)
_GONE = "A file or folder that is needed here is gone: try again, and if it stays away, send your files again."
_BROKEN = (
    f"The disk of the machine that runs the studio cannot be read or written: try again, or {HOST} look at its disk."
)
_OPEN = f"The studio has too many files open at once: try again in a minute, or {HOST} raise its limit (ulimit -n)."
_LINE = "The connection broke before everything was there: try again."
_NAME = "The name of this file is longer than the disk takes: shorten it and send it again."
SENTENCES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL.replace("is full", "has no room left for the studio (a quota)"),
    errno.EFBIG: _FULL.replace("is full", "takes no file of this size"),
    errno.EROFS: _CLOSED.replace("may not be read or written", "is on a disk that may only be read"),
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EIO: _BROKEN,
    errno.ENODEV: _BROKEN,
    errno.ENXIO: _BROKEN,
    errno.ESTALE: _BROKEN,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.EISDIR: _GONE,
    errno.ENAMETOOLONG: _NAME,
    errno.EPIPE: _LINE,
    errno.ECONNRESET: _LINE,
    errno.ECONNABORTED: _LINE,
    errno.ETIMEDOUT: _LINE,
    errno.EHOSTUNREACH: _LINE,
    errno.ENETUNREACH: _LINE,
    errno.ECONNREFUSED: _LINE,
}
"""What to say for each of the operating system's own error numbers."""


CERTAIN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
"""Numbers that explain an error which they led to; the others may have been met on the way to a better sentence."""


def sentence(error: BaseException, smaller: str = SMALLER) -> str | None:
    """One sentence for whoever is at the page: what is short or broken, and what to do; None if the machine is not at fault.

    What led to ``error`` is looked at too: a "damaged file" that came of a full disk is a full disk.

    Args:
        smaller: what makes the same work need less memory, for the end of the sentence.
    """
    told = getattr(error, "told_elsewhere", None)  # by the worker that it comes from: see pipelines/core/border.py
    if told is not None:
        return told[0]
    if isinstance(error, MemoryError) and ours(error):
        return None
    for one in _chain(error):
        memory = out_of_memory(one)
        if memory:
            return f"There is not enough {memory} on the machine that runs the studio: {smaller}."
        if isinstance(one, RuntimeError) and "can't start new thread" in str(one):
            return _OPEN.replace("files open", "threads").replace("ulimit -n", "ulimit -u")
        number = _number(one)
        if number is not None and (one is error or number in CERTAIN):
            other = f"The operating system of the machine that runs the studio refused something (error {number})"
            return SENTENCES.get(number, f"{other}: try again, or {HOST} look into its log.")
    return None


def raise_machines(error: BaseException) -> None:
    """Raise ``error`` itself if the machine is at fault; call it before a file is blamed for it."""
    if sentence(error) is not None:
        raise error


def out_of_memory(error: BaseException) -> str:
    """ "RAM" or "GPU memory", where this very error says that it ran out; else empty. Our own sentences about it are not meant."""
    text = str(error)
    if on_gpu(error):
        return "GPU memory"
    number = error.errno if isinstance(error, OSError) else None
    told = isinstance(error, Exception) and not ours(error) and any(known in text for known in RAM_TEXTS)
    return "RAM" if told or number == errno.ENOMEM or (isinstance(error, MemoryError) and not ours(error)) else ""


def ran_out(error: BaseException) -> str:
    """:func:`out_of_memory` of ``error`` or of what led to it: empty where memory was only foreseen not to suffice."""
    return next(filter(None, map(out_of_memory, _chain(error))), "")


def on_gpu(error: BaseException) -> bool:
    """True where the GPU's memory ran out."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(known in str(error) for known in GPU_TEXTS)


def ours(error: BaseException) -> bool:
    """True for an error that a ``raise`` of our own code made, whose text is therefore a sentence of ours.

    Libraries raise ``ValueError`` and ``MemoryError`` too, with words that help nobody here. An error without a traceback
    was handed over from another process by our own code.
    """
    told = getattr(error, "told_elsewhere", None)
    if told is not None:
        return told[1]
    last = error.__traceback__
    if last is None:
        return bool(str(error))
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    try:
        place = Path(code.co_filename).resolve().relative_to(ROOT).parts[0]
    except ValueError:
        return False
    return place in OWN and code.co_code[last.tb_lasti] == RAISE


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno if error.errno is not None and error.errno > 0 else None
    told = re.search(r"\(os error (\d+)\)", str(error))  # libraries written in Rust
    return int(told[1]) if told else None
