"""Many pictures at once: the pairs of a zip, one after the other, and a table of their measurements."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipelines.core import batch_files, images, masks, troubles
from pipelines.core.archives import Archive, Member, open_archive
from pipelines.core.images import open_picture
from pipelines.georemover import Outcome, Request, Settings, generate, metrics

if TYPE_CHECKING:
    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

MOST_FILES, MOST_BYTES = 600, 64 * 2**20
"""Most files in a zip, and bytes of one of them, unpacked."""


@dataclass
class BatchRow:
    """One pair of a zip, or a file that belongs to none: its outcome, or one sentence about why there is none."""

    name: str
    outcome: Outcome | None = None
    """May be let go of once its pictures are saved: a hundred of them would fill the memory."""
    error: str = ""
    files: str = ""
    """Those of the zip that it is about."""
    values: dict[str, Any] = field(init=False, repr=False)
    """Its row of the table."""

    def __post_init__(self) -> None:
        empty: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        self.values = empty | {"name": self.name, "files": self.files, "error": self.error}
        if self.outcome is None:
            return
        scores = self.outcome.metrics[0]
        self.values |= {key: scores[key] for key in COLUMNS if scores.get(key) is not None}
        for region, values in scores.get("regions", {}).items():
            self.values |= {f"{key}_{region}": value for key, value in values.items() if value is not None}
        self.values["seconds"] = round(sum(self.outcome.seconds.values()), 2)
        self.values["notes"] = " ".join(self.outcome.notes)


COLUMNS = (
    "name",
    "files",
    "error",
    "residual_effect",
    "change_iou",
    "over_erasure",
    "inserted",
    *(f"{score}_{region}" for region in metrics.REGIONS for score in ("psnr", "ssim")),
    "changed_outside",
    "depth_change_inside",
    "depth_change_outside",
    "off_palette",
    "panels",
    "seconds",
    "notes",
)


@dataclass(frozen=True)
class Planned:
    """All rows of a batch, before the first pair is done: what can be made waits, and every other file has its sentence."""

    rows: list[BatchRow]


class _OneOf:
    """A job's word for one picture of ``count``: its progress is a part of the whole's, and nothing else is sent."""

    def __init__(self, job: Job, number: int, count: int) -> None:
        self.job, self.number, self.count = job, number, count
        self.check = job.check

    @property
    def started(self) -> float | None:
        return self.job.started

    @started.setter
    def started(self, when: float) -> None:
        self.job.started = when

    def emit(self, _item: object) -> None:
        self.job.check()

    def progress(self, fraction: float, text: str = "") -> None:
        self.job.progress((self.number - 1 + fraction) / self.count, f"{self.number} of {self.count}: {text}")


def remove_all(
    job: Job, registry: Registry, path: str | Path | BinaryIO, settings: Settings, white_is_keep: bool = False
) -> Iterator[Planned | BatchRow]:
    """First what is to be done (:class:`Planned`), then every pair of a zip, one after the other. A pair that cannot be done is a row
    with a sentence; the others go on.

    Raises:
        ValueError: the file is no zip, or holds no pictures.
    """
    settings = settings.validated()
    with open_archive(path, MOST_FILES) as archive:
        entries = _entries(archive)
        pairs = [entry for entry in entries if not entry.problem]
        yield Planned([BatchRow(one.name, error=one.problem or WAITS, files=_names(one)) for one in entries])
        for number, entry in enumerate(pairs, 1):
            job.check()
            try:
                request = dataclasses.replace(_pair_of(archive, entry, white_is_keep), settings=settings)
                yield BatchRow(
                    entry.name,
                    generate(cast("Job", _OneOf(job, number, len(pairs))), registry, request),
                    files=_names(entry),
                )
            except ValueError as error:
                troubles.raise_machines(error)
                yield BatchRow(entry.name, error=str(error), files=_names(entry))


def check_batch(path: str | Path | BinaryIO) -> None:
    """See that a zip holds something for :func:`remove_all`, by the names in it.

    Raises:
        ValueError: as :func:`remove_all`.
    """
    with open_archive(path, MOST_FILES) as archive:
        _entries(archive)


def _entries(archive: Archive) -> list[batch_files.Entry]:
    entries = batch_files.entries(archive.members)
    if all(entry.problem and len(entry.files) == 1 and entry.name == entry.files[0].name for entry in entries):
        raise ValueError(_nothing_in(entries))
    return entries


WAITS = "Not reached: the batch has not come to it."


def _names(entry: batch_files.Entry) -> str:
    return ", ".join(member.name for member in entry.files)


def _nothing_in(entries: Sequence[batch_files.Entry]) -> str:
    why = f" {entries[0].files[0].file}: {entries[0].problem}" if entries else ""
    return f"The zip holds no pictures: put a.png and a_mask.png into it, and a_gt.png where there is a truth.{why}"


def _pair_of(archive: Archive, entry: batch_files.Entry, white_is_keep: bool) -> Request:
    picture, mask, *truth = entry.files
    opened = _opened(archive, picture, images.open_upload)
    drawn = _opened(archive, mask, lambda data: masks.from_picture(data, opened.image.size, white_is_keep))
    if not drawn.any():
        raise ValueError(f"{mask.file} marks nothing: white is what goes, so if its white means keep, say so.")
    clean = _opened(archive, truth[0], open_picture) if truth else None
    return Request(opened.image, drawn, clean=clean, layered=opened.layered, lost=opened.notes)


def _opened(archive: Archive, member: Member, read: Callable[[bytes], Any]) -> Any:
    """What ``read`` makes of a file; its refusals name the file."""
    data = archive.read(member, MOST_BYTES)
    if not data:
        raise ValueError(f"{member.file} is empty: pack it again.")
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(f"{member.file}: {error}") from error


def run(job: Job, registry: Registry, path: str | Path, settings: Settings, white_is_keep: bool = False) -> int:
    """:func:`remove_all` for the lane: emits each row as it is done, and keeps none. Returns how many pairs there were."""
    count = 0
    for row in remove_all(job, registry, path, settings, white_is_keep):
        job.emit(row)
        count += isinstance(row, BatchRow)
        del row
    return count


def rows_to_csv(rows: Sequence[BatchRow]) -> str:
    """A table with a line per pair; an empty field means "not defined" or "not known"."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for row in rows:
        # A spreadsheet would take a name that begins so for a formula.
        values = {
            k: f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t", "\r") else v
            for k, v in row.values.items()
        }
        table.writerow(values)
    return text.getvalue()
