"""What is wrong with the machine is said as such, wherever it came up, and no half of a file stays."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import SafetensorError

from demos.core import visitors
from demos.core.handlers import explain
from demos.georemover.batch import added_to
from demos.megaportrait import people
from pipelines.core import saving
from pipelines.megaportrait import person as portrait_person


def raised(error: BaseException, *then: BaseException) -> BaseException:
    """The error as a handler gets it, and each of `then` raised because of the one before."""
    try:
        raise error
    except BaseException as first:
        last = first
    for following in then:
        try:
            raise following from last
        except BaseException as other:
            last = other
    return last


def made_by(work) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


DISK = "The disk of the machine that runs the studio is full"
RAM = "There is not enough RAM on the machine that runs the studio"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/place"), DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "has no room left for the studio (a quota)"),
        (OSError(errno.EROFS, "Read-only file system"), "is on a disk that may only be read"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/place"), "may not be read or written"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files open at once"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), RAM),
        (OSError(errno.EIO, "Input/output error"), "cannot be read or written"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "The connection broke"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/secret/place"), "A file or folder that is needed here is gone"),
        (OSError(errno.ENOTEMPTY, "Directory not empty"), "refused something (error 39)"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), DISK),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "There is not enough GPU memory"),
        (RuntimeError("CUDA error: out of memory"), "There is not enough GPU memory"),
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_named(error, says):
    told = explain(raised(error))
    assert says in told and "/secret" not in told and "Errno" not in told and told.endswith(".")


@pytest.mark.parametrize(
    "work",
    [lambda: bytearray(2**62), lambda: numpy.zeros(2**55), lambda: torch.empty(2**50)],
    ids=["python", "numpy", "torch"],
)
def test_memory_that_ran_out_is_named_whoever_asked_for_it(work):
    assert explain(made_by(work)).startswith(RAM)


def test_a_wrong_reason_gives_way_to_the_machine_that_led_to_it():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert explain(raised(full, ValueError("This is no person that this studio saved."))).startswith(DISK)
    assert explain(raised(full, KeyError("x"), ValueError("This is no person."))).startswith(DISK)
    gone = FileNotFoundError(errno.ENOENT, "No such file")
    better = "net needs the file a.bin, which is missing."
    assert explain(raised(gone, FileNotFoundError(better))) == "Net needs the file a.bin, which is missing."
    short = raised(torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Make one candidate."))
    assert explain(short) == "Make one candidate."


def test_words_of_libraries_are_not_shown():
    for work in (lambda: int("no number"), lambda: numpy.zeros(3).reshape(2, 2), lambda: json.loads("{")):
        assert explain(made_by(work)).startswith("Something went wrong on our side")
    assert explain(raised(ValueError("the seed is 7: choose another"))) == "The seed is 7: choose another."


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    kept = tmp_path / "kept.txt"
    saving.write_text(kept, "before")
    with pytest.raises(OSError, match="full"), saving.whole(kept, tmp_path / "other") as (scratch, other):
        scratch.write_text("half")
        other.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert kept.read_text() == "before" and [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_result_has_all_of_its_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visitors, "workspace", lambda who: tmp_path)
    with pytest.raises(OSError, match="full"), visitors.new_folder("somebody") as folder:
        (folder / "one.png").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")
    assert not list(tmp_path.iterdir())
    with visitors.new_folder("somebody") as folder:
        (folder / "one.png").write_bytes(b"whole")
    assert (folder / "one.png").read_bytes() == b"whole"


def test_a_batch_keeps_what_was_packed_when_the_disk_is_full(tmp_path: Path):
    path = tmp_path / "all.zip"
    with added_to(path) as archive:
        archive.writestr("one.png", b"first" * 100)
    whole = path.read_bytes()
    with pytest.raises(OSError, match="full"), added_to(path) as archive:
        archive.writestr("two.png", b"second" * 1000)
        raise OSError(errno.ENOSPC, "full")
    assert path.read_bytes() == whole
    with added_to(path) as archive:
        archive.writestr("two.png", b"second")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["one.png", "two.png"] and archive.testzip() is None


def test_a_person_on_a_full_disk_is_not_called_a_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    person = portrait_person.Person(
        "Ada", numpy.zeros((1, 128, 128, 3), numpy.uint8), numpy.zeros((1, 5, 2), numpy.float32),
        numpy.zeros((0, 128), numpy.float32), {}, {"model_set": "mini"},
    )  # fmt: skip
    path = people.person_file(person, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["Ada.zip"]
    assert people.read_person(path).name == "Ada"

    class Full:
        def __init__(self, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("demos.megaportrait.people._unpack", Full)
        assert explain(made_by(lambda: people.read_person(path))).startswith(DISK)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.megaportrait.person.safe_open", Full)
        assert explain(made_by(lambda: people.read_person(path))).startswith(DISK)
    with monkeypatch.context() as patch:
        message = "Error while serializing: I/O error: No space left on device (os error 28)"
        patch.setattr(
            "pipelines.megaportrait.person.save_file", lambda *_: (_ for _ in ()).throw(SafetensorError(message))
        )
        assert explain(made_by(lambda: people.person_file(person, tmp_path))).startswith(DISK)
    assert [one.name for one in tmp_path.iterdir()] == ["Ada.zip"]
