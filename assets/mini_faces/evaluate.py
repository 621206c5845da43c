"""How well the face models know people and places that they never saw: error rates, points, parts, detection.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_faces.evaluate --write     # the card's figures
    python -m assets.mini_faces.evaluate --people 20                                        # a look

Everything is read as in the studio: the parser finds the face, its points align it, the embedder reads it. The threshold is set on
other people (stream ``validation``) than those of whom the rates are told (``test``). Pieces are files under
``data/evaluation/faces``, marked with a hash over weights and code, so that a killed run goes on and processes share the work.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
from numpy.typing import NDArray

from assets.lab import chunks, training
from assets.mini_faces import data
from pipelines.core.geometry import POINTS
from pipelines.core.registry import Registry
from pipelines.models import face_nets
from pipelines.models import faces as face_models
from pipelines.models.face_nets import FaceEmbedder, FaceParser
from pipelines.models.faces import LABELS, Face
from pipelines.worlds import portrait, tabletop
from pipelines.worlds.portrait import clay, paint, shapes
from pipelines.worlds.portrait import people as persons

HERE = Path(__file__).parent
DONE = Path("data/evaluation/faces")
STREAMS = {"test": 700_000, "validation": 500_000}
SHOTS = 5
PIECE = 10
FALSE_MATCHES = 0.01
YAWS = ((0.0, 0.17), (0.17, 0.34), (0.34, 0.5))
"""Bins of the head's turn to either side, in radians."""


# ------------------------------------------------------------------------------------------ statistics


def rates(scores: NDArray[numpy.floating], same: NDArray[numpy.bool_]) -> dict[str, NDArray[numpy.float64]]:
    """False match and false non-match rate at every threshold at which one of them changes; a pair matches from it on."""
    thresholds = numpy.unique(scores)
    genuine, impostor = numpy.sort(scores[same]), numpy.sort(scores[~same])
    return {
        "threshold": thresholds,
        "false_match": 1 - numpy.searchsorted(impostor, thresholds) / max(len(impostor), 1),
        "false_non_match": numpy.searchsorted(genuine, thresholds) / max(len(genuine), 1),
    }


def equal_error_rate(scores: NDArray[numpy.floating], same: NDArray[numpy.bool_]) -> float:
    """The rate at which both errors are as frequent: the mean of the two where they come nearest."""
    curve = rates(scores, same)
    nearest = int(numpy.abs(curve["false_match"] - curve["false_non_match"]).argmin())
    return float((curve["false_match"][nearest] + curve["false_non_match"][nearest]) / 2)


def threshold_at(scores: NDArray[numpy.floating], same: NDArray[numpy.bool_], false_matches: float) -> float:
    """The lowest threshold at which at most a share ``false_matches`` of the pairs of different people matches."""
    impostor = numpy.sort(scores[~same])
    allowed = int(false_matches * len(impostor))
    return float(numpy.nextafter(impostor[len(impostor) - 1 - allowed], numpy.inf))


def pairs(embeddings: NDArray[numpy.floating], people: NDArray[numpy.integer]) -> tuple[NDArray, NDArray]:
    """Similarity of every pair of pictures, and whether it shows one person."""
    first, second = numpy.triu_indices(len(people), 1)
    return (embeddings @ embeddings.T)[first, second], people[first] == people[second]


def interval(embeddings: NDArray, people: NDArray, draws: int = 100) -> list[float]:
    """95 % of the equal error rates when the people are drawn again, with replacement; pairs of a person with her double are left out."""
    rng, known, found = numpy.random.default_rng(0), numpy.unique(people), []
    rows = {person: numpy.flatnonzero(people == person) for person in known}
    table = embeddings @ embeddings.T
    for _ in range(draws):
        drawn = rng.choice(known, len(known))
        index = numpy.concatenate([rows[person] for person in drawn])
        place = numpy.concatenate([numpy.full(len(rows[person]), n) for n, person in enumerate(drawn)])
        first, second = numpy.triu_indices(len(index), 1)
        one_draw, one_person = place[first] == place[second], people[index[first]] == people[index[second]]
        kept = one_draw | ~one_person
        found.append(equal_error_rate(table[index[first], index[second]][kept], one_draw[kept]))
    return [round(float(v), 4) for v in numpy.quantile(found, (0.025, 0.975))]


def quantiles(values: Sequence[float] | NDArray) -> dict[str, float]:
    known = numpy.asarray(values, float)
    if not len(known):
        return {"n": 0}
    names = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
    found = {name: round(float(numpy.quantile(known, q)), 4) for name, q in names.items()}
    return {"mean": round(float(known.mean()), 4), **found, "n": len(known)}


# --------------------------------------------------------------------------------------------- reading


def people(stream: str, count: int, shots: int = SHOTS, first: int = 0) -> list[tuple[int, int]]:
    """(identity, shot) of ``count`` people that no training saw; rows as in :func:`data.seeds`."""
    start = STREAMS[stream] + first
    return [(identity, 10 * identity + place) for identity in range(start, start + count) for place in range(shots)]


def face_width(outline: NDArray[numpy.floating]) -> float:
    """Width of a face in pixels, of the renderer's outline from ear to ear (13, 2)."""
    return float(numpy.ptp(outline[:, 0]))


def point_error(found: NDArray[numpy.floating], points: NDArray[numpy.floating], outline: NDArray) -> NDArray:
    """Distances (5,) between found and true points, in % of the face's width."""
    return 100 * numpy.hypot(*(found - points).T) / face_width(outline)


def nearest(faces: Sequence[Face], points: NDArray[numpy.floating]) -> Face | None:
    """The face whose points lie nearest to the true ones, if there is any."""
    return min(faces, key=lambda face: float(numpy.abs(face.points - points).mean()), default=None)


def found_rightly(faces: Sequence[Face], points: NDArray, outline: NDArray) -> bool:
    """Exactly one face, and no point further from the truth than a tenth of the face's width."""
    return len(faces) == 1 and bool(point_error(faces[0].points, points, outline).max() < 10)


def changed(picture: NDArray[numpy.uint8]) -> dict[str, NDArray[numpy.uint8]]:
    """The picture under harder conditions, by name."""
    side = picture.shape[0]
    half = cv2.resize(picture, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    tilt = {
        f"tilted by {angle}°": cv2.warpAffine(
            picture,
            cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0),
            (side, side),
            borderMode=cv2.BORDER_REPLICATE,
        )
        for angle in (-25, 25)
    }
    return {
        "enlarged three times": cv2.resize(picture, (3 * side, 3 * side), interpolation=cv2.INTER_CUBIC),
        "face of a tenth of the width": cv2.copyMakeBorder(half, *4 * (3 * side // 4,), cv2.BORDER_REPLICATE),
        "dark": (picture * 0.35).astype(numpy.uint8),
        "blurred": cv2.GaussianBlur(picture, (0, 0), side / 64),
        **tilt,
    }


def read_piece(parser: FaceParser, embedder: FaceEmbedder, rows: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Everything that is measured of each row's picture, as what ``torch.save`` keeps."""
    table, found = data.render_rows(rows), []
    for place, (identity, shot) in enumerate(rows):
        picture, points, outline = (table[name][place] for name in ("images", "points", "outline"))
        faces = parser.detect(picture)
        face = nearest(faces, points)
        row: dict[str, Any] = {
            "identity": identity,
            "yaw": portrait.sample_shot(shot).yaw,
            "faces": len(faces),
            "right": found_rightly(faces, points, outline),
            "true": torch.from_numpy(embedder.embed(picture, points)),
        }
        if face:
            truth = table["labels"][place]
            row["read"] = torch.from_numpy(embedder.embed(picture, face.points))
            row["error"] = [float(v) for v in point_error(face.points, points, outline)]
            row["common"] = [int((face.parts[name] & (truth == n)).sum()) for n, name in enumerate(LABELS)]
            row["either"] = [int((face.parts[name] | (truth == n)).sum()) for n, name in enumerate(LABELS)]
        if shot % 10 == 0:  # the harder conditions on one shot of each person
            row["hard"] = {name: len(parser.detect(hard)) == 1 for name, hard in changed(picture).items()}
            both = numpy.concatenate((picture, table["images"][(place - SHOTS) % len(rows)]), 1)
            row["hard"]["two people side by side"] = len(parser.detect(both)) == 2
        found.append(row)
    return found


def identity_figures(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rates of ``rows`` at the threshold that ``others`` set. Pictures without a face count as no match for anyone."""

    def taken(found: Sequence[dict[str, Any]], kind: str) -> tuple[NDArray, NDArray]:
        nobody = torch.zeros(face_models.EMBEDDING)
        embeddings = torch.stack([row.get(kind, nobody) for row in found]).numpy()
        return embeddings, numpy.array([row["identity"] for row in found])

    embeddings, names = taken(rows, "read")
    scores, same = pairs(embeddings, names)
    threshold = threshold_at(*pairs(*taken(others, "read")), FALSE_MATCHES)
    curve = rates(scores, same)
    shown = [int(numpy.abs(curve["false_match"] - share).argmin()) for share in numpy.geomspace(1e-4, 1, 41)]
    return {
        "equal_error_rate": round(equal_error_rate(scores, same), 4),
        "interval": interval(embeddings, names),
        "equal_error_rate_true_points": round(equal_error_rate(*pairs(*taken(rows, "true"))), 4),
        "pairs": {"same": int(same.sum()), "different": int((~same).sum())},
        "threshold": round(threshold, 4),
        "false_match_at_threshold": round(float((scores[~same] >= threshold).mean()), 4),
        "true_match_at_threshold": round(float((scores[same] >= threshold).mean()), 4),
        "similarity": {"same": quantiles(scores[same]), "different": quantiles(scores[~same])},
        "roc": [
            [round(float(curve["false_match"][n]), 5), round(1 - float(curve["false_non_match"][n]), 5)] for n in shown
        ],
    }


def report(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], alarms: Sequence[int]) -> dict[str, Any]:
    """What the card and the page show. ``alarms``: faces found in each picture that has none."""

    def of(low: float, high: float) -> list[dict[str, Any]]:
        return [row for row in rows if low <= abs(row["yaw"]) <= high]

    def errors(some: Sequence[dict[str, Any]]) -> dict[str, float]:
        return quantiles([float(numpy.mean(row["error"])) for row in some if "error" in row])

    def share(values: Sequence[bool]) -> dict[str, Any]:
        return {"share": round(float(numpy.mean(values)), 4) if values else None, "n": len(values)}

    seen = [row for row in rows if "error" in row]
    hard = [row["hard"] for row in rows if "hard" in row]
    common, either = (numpy.sum([row[name] for row in seen] or [[0] * len(LABELS)], 0) for name in ("common", "either"))
    return {
        "people": len({row["identity"] for row in rows}),
        "shots": SHOTS,
        "identity": identity_figures(rows, others),
        "landmarks": {
            "unit": "mean distance of the five points, % of the face's width",
            "all": errors(rows),
            "by yaw": {f"{low:g} to {high:g}": errors(of(low, high)) for low, high in YAWS},
            "by point": {name: quantiles([row["error"][n] for row in seen]) for n, name in enumerate(POINTS)},
        },
        "detection": {
            "found": share([row["right"] for row in rows]),
            "by yaw": {f"{low:g} to {high:g}": share([row["right"] for row in of(low, high)]) for low, high in YAWS},
            "hard": {name: share([row[name] for row in hard]) for name in (hard[0] if hard else ())},
            "false alarms": share([count > 0 for count in alarms]),
        },
        "parts": {name: round(float(common[n] / max(either[n], 1)), 4) for n, name in enumerate(LABELS)},
    }


def mark() -> str:
    """Short hash over what decides a figure: weights, and the code that reads and measures."""
    sources = [inspect.getsource(module) for module in (face_models, face_nets, data, persons, clay, paint, shapes)]
    facts = [training.hashes(HERE), [hashlib.sha256(text.encode()).hexdigest() for text in sources], SHOTS]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def measure(count: int, others: int) -> dict[str, Any] | None:
    """The figures of ``count`` test people with the threshold of ``others``; None in processes that do not write."""
    hashed = mark()
    with Registry("cpu").lease(face_models.PARSER, face_models.EMBEDDER) as parts:
        parser, embedder = FaceParser(parts[0]), FaceEmbedder(parts[1])

        def make(item: tuple[str, int]) -> list[Any]:
            stream, first = item
            if stream == "empty":
                scenes = [tabletop.sample(STREAMS["test"] + n) for n in range(first, first + PIECE)]
                images = (tabletop.render(scenes, data.SIZE).image * 255).byte().permute(0, 2, 3, 1).numpy()
                return [len(parser.detect(image)) for image in images]
            sizes = {"test": count, "validation": others}
            return read_piece(parser, embedder, people(stream, min(PIECE, sizes[stream] - first), first=first))

        work = [
            (stream, first)
            for stream, total in (("validation", others), ("test", count), ("empty", count))
            for first in range(0, total, PIECE)
        ]
        pieces = chunks.complete(DONE, work, lambda item: f"{item[0]}-{item[1]:04d}-{hashed}", make)
    if not chunks.is_main():
        return None
    told = {name: [row for item in work if item[0] == name for row in pieces[item]] for name in (*STREAMS, "empty")}
    return report(told["test"], told["validation"], told["empty"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--others", type=int, default=100, help="people who set the threshold")
    parser.add_argument("--write", action="store_true", help="write evaluation.json")
    given = chunks.arguments_of(parser)
    torch.set_num_threads(1)
    found = measure(given.people, given.others)
    if found is None:
        return
    print(json.dumps({name: value for name, value in found.items() if name != "identity"}, indent=1))
    print(json.dumps({name: value for name, value in found["identity"].items() if name != "roc"}))
    if given.write:
        training.write_json(HERE / "evaluation.json", found)


if __name__ == "__main__":
    main()
