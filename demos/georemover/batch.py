"""Many pictures at once: a zip of image and mask pairs in, a table and the composites out."""

from __future__ import annotations

import io
import secrets
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from demos.core.figures import safe
from demos.core.handlers import BROKE, GPU, LIGHT, TALKS, halt, on_gpu, workspace
from demos.core.hold import held
from demos.core.uploads import download, emptied, told
from demos.core.widgets import progress_line, running_line
from demos.georemover.files import SLUG
from demos.georemover.input import Input
from demos.georemover.settings import Controls
from pipelines.core import saving
from pipelines.core.lane import IDLE, Progress, Result, live
from pipelines.core.registry import Registry
from pipelines.georemover import batch as pairs
from pipelines.georemover.batch import BatchRow, Planned

LIMIT_S = 3600.0
READY = "Drop a zip, then press Run the batch."
STOPPED = "Stopped. What was done stays, and its files can be downloaded."
INTRO = """<p>A zip with pairs such as <code>sofa.png</code> and <code>sofa_mask.png</code>; a <code>sofa_gt.png</code>, the same place without
the object, brings the measurements along. White in a mask is what goes. Pictures are PNG, JPEG or WebP; each file of the zip has a row below:
used, or why not. The settings are those of the first part; of variants only the first is made.</p>"""
SHOWN = (
    ("residual_effect", "Residual effect"),
    ("psnr_effect", "PSNR effect"),
    ("over_erasure", "Over-erasure"),
    ("changed_outside", "Changed outside"),
    ("seconds", "Seconds"),
)


TABLE, PACKED = "georemover.csv", "georemover_composites.zip"


def build(registry: Registry, model_set: str, given: Input, controls: Controls) -> None:
    """The widgets and what they do."""
    gr.HTML(f"<div class='lab-intro'>{INTRO}</div>", padding=False)
    packed = gr.File(label="Zip of pictures and masks", file_types=[".zip"], type="filepath", height=100,
                     elem_classes="removal-zip")  # fmt: skip
    white = gr.Checkbox(value=False, label="In these masks, white = keep")
    with gr.Row(elem_classes=["run-row", "lab-row"]):
        run = gr.Button(
            "Run the batch", variant="primary", size="lg", scale=3, min_width=110, elem_classes="studio-run"
        )
        stop = gr.Button("Stop the batch", size="lg", scale=1, min_width=90, elem_classes="studio-stop")
    line = gr.HTML(progress_line(READY), padding=False, elem_classes="batch-line")
    board = gr.HTML(padding=False)
    with gr.Row(elem_classes="run-row"):
        save_csv = gr.DownloadButton("Download CSV", size="md", interactive=False, min_width=120)
        save_zip = gr.Button("Download pictures (zip)", size="md", interactive=False, min_width=120)
    place = gr.State("")  # the folder of the last batch

    def batch(session, path, keep, grow, fill, *values) -> Iterator[Any]:
        if not path:
            raise ValueError("There is no zip yet: drop one with pictures and masks.")
        settings = controls.asked([1 if name == "variants" else value for name, value in zip(controls.names, values, strict=True)],
                                  grow, fill, model_set)  # fmt: skip
        began, rows = time.monotonic(), {}
        folder = workspace(session) / secrets.token_hex(6)
        folder.mkdir()
        yield {
            line: progress_line("Starting…", 0.0, "running"), board: "", place: str(folder),
            save_csv: gr.DownloadButton(value=None, interactive=False), save_zip: gr.Button(interactive=False),
        }  # fmt: skip
        try:
            for item in live(pairs.run, registry, path, settings, bool(keep), limit_s=LIMIT_S):
                if item is IDLE:
                    yield gr.skip()
                elif isinstance(item, Progress):
                    yield {line: running_line(item, began, 0)}
                elif isinstance(item, Planned | BatchRow):
                    new = item.rows if isinstance(item, Planned) else [pack(item, folder)]
                    rows |= {(row.name, row.files): row for row in new}
                    known = list(rows.values())
                    path_ = write_table(known, folder)
                    yield {board: board_html(known), save_csv: gr.DownloadButton(value=path_, interactive=True)}
                elif isinstance(item, Result):
                    text = f"Done: {made_words(list(rows.values()))} in {time.monotonic() - began:.0f} s · {Path(path).name[:60]}"
                    yield {line: progress_line(text, 1.0, "done"), **over}
        except TimeoutError:
            text = f"Stopped after {LIMIT_S / 60:.0f} minutes, the limit of one run. What was done stays."
            yield {line: progress_line(text, 0.0, "stopped"), **over}

    def packed_pictures(folder: str) -> str:
        with told("Nothing to download"):
            if not folder or not (Path(folder) / PACKED).is_file():
                raise ValueError("No picture of this batch was finished: the table says why.")
        return str(Path(folder) / PACKED)

    def look_into(path: str | None) -> dict[Any, Any]:
        """A zip is opened when it comes, so that one that is refused does not stay; the table of another one goes."""
        if path is not None:
            with told("This zip was not taken"):
                pairs.check_batch(path)
        return {
            line: progress_line(READY), board: "", place: "",
            save_csv: gr.DownloadButton(value=None, interactive=False), save_zip: gr.Button(interactive=False),
        }  # fmt: skip

    emptied(packed, held(SLUG, packed.upload, look_into, packed, [line, board, place, save_csv, save_zip], **TALKS))
    # Every update of a file is one more copy of it on the disk, so the pictures wait until they are asked for.
    over = {save_zip: gr.Button(interactive=True)}
    download(save_zip, packed_pictures, place)
    run.click(
        on_gpu(
            batch, stopped={line: progress_line(STOPPED, 0.0, "stopped"), **over},
            broken={line: progress_line(f"{BROKE} What was done stays.", 0.0, "stopped"), **over},
        ),
        [packed, white, given.grow, given.fill, *controls.widgets], [line, board, save_csv, save_zip, place],
        show_progress="hidden", api_visibility="private", trigger_mode="multiple", **GPU,
    )  # fmt: skip
    stop.click(halt, **LIGHT)


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
    heads = "".join(f"<th role='columnheader' scope='col'>{name}</th>" for _, name in SHOWN)
    lines = "".join(_row(row) for row in rows)
    return (
        f"<div class='board'><h4>{made_words(rows)}</h4><div class='scroll' tabindex='0' role='region' aria-label='The pictures of the batch'>"
        "<table class='tally removal-table' role='table'><thead role='rowgroup'><tr role='row'><th role='columnheader' scope='col'>Picture</th>"
        f"{heads}</tr></thead><tbody role='rowgroup'>{lines}</tbody></table></div><p class='quiet'>Empty: not known without a truth, or not "
        "defined. The CSV has all measures, and which files each row is about.</p></div>"
    )


def _row(row: BatchRow) -> str:
    if row.error:
        return (
            f"<tr role='row'><th role='rowheader' scope='row'>{safe(row.name)}</th><td role='cell' class='error' colspan='{len(SHOWN)}' "
            f"data-label='Not done'>{safe(row.error)}</td></tr>"
        )
    values = row.values
    cells = "".join(
        f"<td role='cell' data-label='{name}'{'' if values[key] != '' else ' class=none'}>{_number(values[key])}</td>"
        for key, name in SHOWN
    )
    return f"<tr role='row'><th role='rowheader' scope='row'>{safe(row.name)}</th>{cells}</tr>"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else safe(value)
