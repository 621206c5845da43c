"""Many pictures at once: a zip of image and mask pairs in, a table and the composites out."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.figures import safe
from demos.core.form import Form
from demos.core.handlers import BROKE, LIGHT, TALKS, halt, on_gpu, workspace
from demos.core.hold import held
from demos.core.page import drop_zone, pump, run_event, run_row
from demos.core.quantities import Quantity, table
from demos.core.uploads import clear_on_refusal, download, errors_shown
from demos.core.widgets import progress_line
from demos.georemover.files import SLUG
from pipelines.core import saving
from pipelines.core.lane import live
from pipelines.core.registry import Registry
from pipelines.georemover import Settings
from pipelines.georemover import batch as pairs
from pipelines.georemover.batch import BatchRow, Planned

LIMIT_S = 3600.0
READY = "Drop a zip, then press Run the batch."
STOPPED = "Stopped. What was done stays, and its files can be downloaded."
INTRO = """<p>A zip with pairs such as <code>sofa.png</code> and <code>sofa_mask.png</code>; a <code>sofa_gt.png</code>, the same place without
the object, brings the measurements along. White in a mask is what goes. Pictures are PNG, JPEG or WebP; each file of the zip has a row below:
used, or why not. The settings are those of the first part; of variants only the first is made.</p>"""
SHOWN = {
    "residual_effect": Quantity("Residual effect", "lower", "", 3, about="0 clean, 1 untouched"),
    "psnr_effect": Quantity("PSNR effect", "higher", " dB", 1),
    "over_erasure": Quantity("Over-erasure", "lower", " %", 2, 100),
    "changed_outside": Quantity("Changed outside", "neither", " %", 1, 100),
    "seconds": Quantity("Seconds", "lower", " s", 2),
}


TABLE, PACKED = "georemover.csv", "georemover_composites.zip"


class Board:
    """The widgets of the part, and what they do."""

    def __init__(self, registry: Registry, asked: Form[Settings]) -> None:
        self.registry, self.asked = registry, asked
        gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
        self.packed = drop_zone("Zip of pictures and masks", "georemover-zip", ".zip")
        self.white = gr.Checkbox(value=False, label="In these masks, white = keep")
        self.run, self.stop = run_row("Run the batch", "Stop the batch", "lab-row")
        self.line = gr.HTML(progress_line(READY), padding=False, elem_classes="batch-line")
        self.board = gr.HTML(padding=False)
        with gr.Row(elem_classes="run-row"):
            self.save_csv = gr.DownloadButton("Download CSV", size="md", interactive=False, min_width=120)
            self.save_zip = gr.Button("Download pictures (zip)", size="md", interactive=False, min_width=120)
        self.place = gr.State("")
        """The folder of the last batch."""
        self._bind()

    def _bind(self) -> None:
        outputs = [self.line, self.board, self.place, self.save_csv, self.save_zip]
        clear_on_refusal(self.packed, held(SLUG, self.packed.upload, self.look_into, self.packed, outputs, **TALKS))
        # Every update of a file is one more copy of it on the disk, so the pictures wait until they are asked for.
        download(self.save_zip, packed_pictures, self.place)
        guarded = on_gpu(self.batch, stopped=self._over(STOPPED), broken=self._over(f"{BROKE} What was done stays."))
        self.run.click(**run_event(guarded, *outputs, inputs=[self.packed, self.white], **self.asked.widgets))
        self.stop.click(halt, **LIGHT)

    def _over(self, words: str, share: float = 0.0, how: str = "stopped") -> dict[Any, Any]:
        return {self.line: progress_line(words, share, how), self.save_zip: gr.Button(interactive=True)}

    def _empty(self, line: str) -> dict[Any, Any]:
        return {
            self.line: line,
            self.board: "",
            self.save_csv: gr.DownloadButton(value=None, interactive=False),
            self.save_zip: gr.Button(interactive=False),
        }

    def look_into(self, path: str | None) -> dict[Any, Any]:
        """A zip is opened when it comes, so that one that is refused does not stay; the table of another one goes."""
        if path is not None:
            with errors_shown("This zip was not taken"):
                pairs.check_batch(path)
        return {**self._empty(progress_line(READY)), self.place: ""}

    def batch(self, session: str, path: str | None, keep: bool, **values: object) -> Iterator[Any]:
        if not path:
            raise ValueError("There is no zip yet: drop one with pictures and masks.")
        settings = self.asked.settings({**values, "variants": 1})
        rows: dict[tuple[str, str], BatchRow] = {}
        folder = workspace(session) / secrets.token_hex(6)
        folder.mkdir()
        yield {**self._empty(progress_line("Starting…", 0.0, "running")), self.place: str(folder)}

        def shown(new: list[BatchRow]) -> dict[Any, Any]:
            rows.update({(row.name, row.files): row for row in new})
            table = write_table(list(rows.values()), folder)
            return {
                self.board: board_html(list(rows.values())),
                self.save_csv: gr.DownloadButton(value=table, interactive=True),
            }

        def done(_count: int, seconds: float) -> dict[Any, Any]:
            text = f"Done: {made_words(list(rows.values()))} in {seconds:.0f} s · {Path(path).name[:60]}"
            return self._over(text, 1.0, "done")

        shows = {Planned: lambda planned: shown(planned.rows), BatchRow: lambda row: shown([pack(row, folder)])}
        items = live(pairs.run, self.registry, path, settings, bool(keep), limit_s=LIMIT_S)
        try:
            yield from pump(items, self.line, done, shows, digits=0)
        except TimeoutError:
            yield self._over(f"Stopped after {LIMIT_S / 60:.0f} minutes, the limit of one run. What was done stays.")


def packed_pictures(folder: str) -> str:
    """The zip of a batch's pictures."""
    with errors_shown("Nothing to download"):
        if not folder or not (Path(folder) / PACKED).is_file():
            raise ValueError("No picture of this batch was finished: the table says why.")
    return str(Path(folder) / PACKED)


def write_table(rows: Sequence[BatchRow], folder: Path) -> str:
    """The table of what is done."""
    return str(saving.write_text(folder / TABLE, pairs.rows_to_csv(rows)))


@contextmanager
def added_to(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip, made if it is not there, to add files to; what was in it stays whole where the block raises."""
    with path.open("ab"):
        pass
    size = path.stat().st_size
    listing, start = b"", 0
    if size:
        with zipfile.ZipFile(path) as before, path.open("rb") as file:  # new files are written over its list of files
            start = before.start_dir
            file.seek(start)
            listing = file.read()
    try:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            yield archive
    except BaseException:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(listing)
            file.truncate(size)
        raise


def pack(row: BatchRow, folder: Path) -> BatchRow:
    """The row without its outcome, whose composite is added to the zip: on the disk it takes no memory."""
    if row.outcome is not None:
        data = io.BytesIO()
        # Quickly, or finished pictures pile up behind this one.
        row.outcome.composites[0].save(data, "PNG", compress_level=1)
        with added_to(folder / PACKED) as archive:
            archive.writestr(f"{row.name}_composite.png", data.getvalue())
        row.outcome = None
    return row


def made_words(rows: Sequence[BatchRow]) -> str:
    """How many rows have a result."""
    made = sum(not row.error for row in rows)
    rest = len(rows) - made
    return f"{made} picture{'' if made == 1 else 's'}" + (
        f", {rest} row{'' if rest == 1 else 's'} without a result" if rest else ""
    )


def board_html(rows: Sequence[BatchRow]) -> str:
    """A row per pair, and one for each other file; what could not be done says why."""
    heads = "".join(one.head("col") for one in SHOWN.values())
    first = "<th role='columnheader' scope='col'>Picture</th>"
    drawn = table(first + heads, "".join(map(_row, rows)), "The pictures of the batch", "tally facts-table")
    return (
        f"<div class='board'><h3>{made_words(rows)}</h3>{drawn}<p class='quiet'>Each picture was drawn once, so no figure has an interval. "
        "Empty: not known without a truth, or not defined. The CSV has all measures, and which files each row is about.</p></div>"
    )


def _row(row: BatchRow) -> str:
    if row.error:
        return (
            f"<tr role='row'><th role='rowheader' scope='row'>{safe(row.name)}</th><td role='cell' class='error' colspan='{len(SHOWN)}' "
            f"data-label='Not done'>{safe(row.error)}</td></tr>"
        )
    values = row.values
    cells = "".join(one.cell(_number(values[key], one)) for key, one in SHOWN.items())
    return f"<tr role='row'><th role='rowheader' scope='row'>{safe(row.name)}</th>{cells}</tr>"


def _number(value: object, quantity: Quantity) -> str:
    return quantity.write(value) if isinstance(value, float) else safe(value)
