"""Many pictures at once, and the files of one run."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy
import pytest
from PIL import Image

from pipelines.core.lane import Job, Progress
from pipelines.georemover import Settings, batch, export, generate
from pipelines.georemover.depth import open_depth
from tests.georemover.toys import FAST, drain
from tests.toys.pictures import photograph, png, saved


def archive_of(files: dict[str, bytes]) -> io.BytesIO:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data.seek(0)
    return data


def test_a_zip_is_done_pair_by_pair_and_a_bad_pair_stops_nothing(registry, pair):
    mask, keep = (pair.mask * 255).astype(numpy.uint8), (~pair.mask * 255).astype(numpy.uint8)
    files = {
        "set/a.png": png(pair.image),
        "set/a_mask.png": png(mask),
        "set/a_gt.png": png(pair.clean),
        "set/b.jpg": saved(photograph(), "JPEG").getvalue(),
        "set/b_mask.png": png(mask),
        "c.png": png(pair.image),
        "d.png": b"broken",
        "d_mask.png": png(mask),
        "e.png": png(pair.image),
        "e_mask.png": b"broken",
        "__MACOSX/._a.png": b"x",
        "notes.txt": b"x",
    }
    job = Job()
    count = batch.run(job, registry, archive_of(files), FAST)
    sent = drain(job)
    planned = sent.pop(0)
    rows = [item for item in sent if isinstance(item, batch.BatchRow)]
    assert count == len(rows) == len(sent) - sum(isinstance(item, Progress) for item in sent)
    assert [row.name for row in planned.rows] == ["c", "d", "e", "set/a", "set/b", "__MACOSX/._a.png", "notes.txt"]
    assert sorted(", ".join(row.files for row in planned.rows).split(", ")) == sorted(files), "every file is in one row"
    assert [row.error == batch.WAITS for row in planned.rows] == [False] + 4 * [True] + 2 * [False]
    assert planned.rows[0].error == "There is no c_mask.png in its folder: add the mask."
    rows = [planned.rows[0], *rows]
    assert [row.name for row in rows] == ["c", "d", "e", "set/a", "set/b"]
    assert [bool(row.error) for row in rows] == [True, True, True, False, False]
    assert rows[1].error.startswith("d.png: This file is not a picture") and rows[2].error.startswith(
        "e_mask.png: This file"
    )
    assert rows[3].outcome.metrics[0]["truth"] and not rows[4].outcome.metrics[0]["truth"]
    told = [item for item in sent if isinstance(item, Progress)]
    assert told[0].text.startswith("3 of 4: loading") and any(item.text.startswith("4 of 4: Result") for item in told)
    assert [item.fraction for item in told] == sorted(item.fraction for item in told) and told[0].fraction == 0.5
    table = list(csv.DictReader(io.StringIO(batch.rows_to_csv(rows))))
    assert [row["name"] for row in table] == [row.name for row in rows]
    assert float(table[3]["residual_effect"]) == rows[3].outcome.metrics[0]["residual_effect"]
    assert table[4]["residual_effect"] == "" and float(table[4]["changed_outside"]) >= 0
    white = archive_of({"a.png": png(pair.image), "a_mask.png": png(keep)})
    _planned, row = batch.remove_all(Job(), registry, white, FAST, white_is_keep=True)
    assert numpy.array_equal(row.outcome.mask, rows[3].outcome.mask)


def test_zips_that_are_none_are_refused(registry, monkeypatch: pytest.MonkeyPatch, pair):
    def first(data):
        return next(batch.remove_all(Job(), registry, data, FAST))

    with pytest.raises(ValueError, match="not a zip that can be read"):
        first(io.BytesIO(b"x"))
    for files in ({}, {"a.txt": b"x"}):
        with pytest.raises(ValueError, match="holds no pictures"):
            first(archive_of(files))
    with pytest.raises(ValueError, match="holds 601 files and at most 600"):
        first(archive_of({f"{i}.png": b"" for i in range(601)}))
    monkeypatch.setattr(batch, "MOST_BYTES", 100)
    large = archive_of({"a.png": png(pair.image), "a_mask.png": png(pair.image)})
    _planned, row = batch.remove_all(Job(), registry, large, FAST)
    assert "unpacks to more than 100 bytes" in row.error


def test_a_pair_says_which_of_its_files_is_at_fault(registry, pair):
    mask, eps = png((pair.mask * 255).astype(numpy.uint8)), b"%!PS-Adobe-3.0 EPSF-3.0\n"
    files = {
        "a": eps,
        "a_mask": mask,
        "b": png(pair.image),
        "b_mask": png(numpy.zeros_like(pair.image)),
        "c": b"",
        "c_mask": mask,
    }
    sent = list(
        batch.remove_all(Job(), registry, archive_of({f"{name}.png": data for name, data in files.items()}), FAST)
    )
    assert "a.png: This file is a PostScript file" in sent[1].error and "b_mask.png marks nothing" in sent[2].error
    assert sent[3].error == "c.png is empty: pack it again."


def test_no_cell_of_the_table_is_a_formula():
    table = batch.rows_to_csv([batch.BatchRow("=1+1", error="-x")])
    assert "'=1+1" in table and "'-x" in table


def test_a_zip_of_a_run_holds_everything(registry, request_, tmp_path: Path):
    outcome = generate(Job(), registry, dataclasses.replace(request_, compare=True))
    with zipfile.ZipFile(export.save_zip(outcome, tmp_path / "a.zip")) as archive:
        names = set(archive.namelist())
        assert names == {
            "input.png",
            "mask.png",
            "depth_before.png",
            "depth_after.png",
            "telea.png",
            "fill_only.png",
            "result_3.png",
            "strip_3.png",
            "composite_3.png",
            "settings.json",
        }
        told = json.loads(archive.read("settings.json"))
        again = numpy.asarray(Image.open(io.BytesIO(archive.read("result_3.png"))))
        depth, _limits = open_depth(io.BytesIO(archive.read("depth_before.png")), limits_=(0.0, 1.0))
    assert numpy.array_equal(again, outcome.results[0])
    assert numpy.abs(depth - outcome.depth_before).max() <= 0.5 / 255 + 1e-6
    assert Settings(**told["settings"]).validated() == outcome.settings
    assert told["working_size"] == told["original_size"] == [192, 128] and "torch" in told["versions"]
    assert told["depth"] == "stage 1"
    row = batch.BatchRow("a", outcome)
    table = batch.rows_to_csv([row])
    row.outcome = None
    assert batch.rows_to_csv([row]) == table and str(outcome.metrics[0]["panels"]) in table
    # After the largest seed comes 0, in the names as in the pictures.
    two = {name: getattr(outcome, name) * 2 for name in ("results", "strips", "composites")}
    last = dataclasses.replace(outcome, settings=dataclasses.replace(FAST, seed=2**31 - 1, variants=2), **two)
    with zipfile.ZipFile(export.save_zip(last, tmp_path / "b.zip", {"mask": "drawn"})) as archive:
        assert {"result_2147483647.png", "result_0.png", "composite_0.png"} <= set(archive.namelist())
        assert json.loads(archive.read("settings.json"))["mask"] == "drawn"


def test_what_was_measured_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(export, "MEASURED", tmp_path / "evaluation.json")
    assert export.measured() is None
    (tmp_path / "evaluation.json").write_text('{"rows": {"ours": {"n": 200}}}')
    assert export.measured() == {"rows": {"ours": {"n": 200}}}
