"""The training scripts: they learn, resume after a kill, and their statistics are right."""

from __future__ import annotations

import math
import random

import numpy
import pytest
import torch

from assets import data, training
from assets.mini_npnet import train as npnet_training
from assets.mini_sdxl import evaluate
from assets.mini_sdxl import train as sdxl_training
from assets.verifier import train as verifier_training
from pipelines import verifier
from pipelines.scenes import grammar, portrait, tabletop


def regression():
    """A problem with a known answer: learn y = 2 x."""
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1, bias=False)

    def step(number: int) -> torch.Tensor:
        x = torch.randn(64, 1, generator=torch.Generator().manual_seed(number))
        return (model(x) - 2 * x).square().mean()

    return model, step


def test_training_learns_and_resumes_after_a_kill(tmp_path):
    class Killed(Exception):
        pass

    model, step = regression()
    checkpoint = tmp_path / "run.pt"
    first, facts = training.train(model, step, 0.02, checkpoint, 0.05, seed=0, warmup=1, decay=0.9)
    assert facts["steps"] > 10 and abs(first.weight.item() - 2) < 0.5
    seen = []

    def killed(number: int) -> torch.Tensor:
        seen.append(number)
        if len(seen) > 3:
            raise Killed
        return step(number)

    model, _ = regression()
    with pytest.raises(Killed):
        training.train(model, killed, 60, checkpoint, 0.05, seed=0)
    assert seen[0] == facts["steps"], "a new start goes on with the next step"
    assert torch.load(checkpoint, weights_only=True)["step"] == facts["steps"], "the kill left the checkpoint whole"


def test_one_broken_batch_does_not_end_a_run(tmp_path):
    model, step = regression()

    def sometimes_broken(number: int) -> torch.Tensor:
        return step(number) * (math.nan if number == 2 else 1.0)

    trained, _ = training.train(model, sometimes_broken, 0.01, tmp_path / "run.pt", 0.05, seed=0, warmup=1, decay=0.9)
    assert torch.isfinite(trained.weight).all()


def test_shards_have_seeds_of_their_own_and_are_skipped_when_there(tmp_path, monkeypatch, capsys):
    assert data.seeds(0)[0] >= data.TRAINING_SEED and not set(data.seeds(0)) & set(data.seeds(1))
    monkeypatch.setattr(data, "PER_SHARD", 2)
    monkeypatch.setattr("sys.argv", ["data", "--world", "tabletop", "--shards", "0:2", "--root", str(tmp_path)])
    data.main()
    first = (tmp_path / "tabletop-128-000.npy").stat().st_mtime_ns
    pictures = training.Pictures(tmp_path, "tabletop")
    assert len(pictures) == 4 and pictures.picture(3).shape == (3, 128, 128)
    again = tabletop.render([tabletop.sample(pictures.seed(3))], 128).image[0]
    assert numpy.abs(pictures.picture(3) - (again.numpy() * 255).round()).max() <= 1
    (tmp_path / "tabletop-128-001.npy").unlink()
    data.main()
    assert (tmp_path / "tabletop-128-000.npy").stat().st_mtime_ns == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tabletop-128-000.npy", "tabletop-128-001.npy"]


def test_text_answers_say_what_the_caption_says():
    answers = sdxl_training.text_answers("a matte red cube right of a blue ball on wood", False)
    assert answers["count"] == 2 and answers["relation"] == grammar.RELATIONS.index("right") + 1
    assert answers["left colour"] == grammar.COLOURS.index("blue") + 1, "the first thing is the right one"
    assert answers["right finish"] == grammar.FINISHES.index("matte") + 1 and answers["backdrop"] == 0
    person = portrait.sample(3)
    answers = sdxl_training.text_answers(portrait.caption(person), True)
    assert (
        answers["world"] == 1 and answers["hair_colour"] == portrait.HAIR_COLOURS.index(person.identity.hair_colour) + 1
    )


def test_labels_of_a_mirrored_scene_are_mirrored():
    scene = next(
        s for s in map(tabletop.sample, range(99)) if len(s.solids) == 2 and s.solids[0].shape != s.solids[1].shape
    )
    plain, mirrored = verifier_training.labels(scene), verifier_training.labels(scene.mirrored())
    assert (plain["0 shape"], plain["1 shape"]) == (mirrored["1 shape"], mirrored["0 shape"])
    assert plain["floor"] == mirrored["floor"] and set(plain) <= set(verifier.HEADS)


def test_held_out_prompts_are_fixed_and_readable():
    for kind in evaluate.KINDS:
        texts = evaluate.prompts(kind, 30)
        assert texts == evaluate.prompts(kind, 40)[:30] and len(set(texts)) > 25
    assert all(len(grammar.parse(text).things) == 2 for text in evaluate.prompts("two objects", 30))


# ---------------------------------------------------------------------------------------- statistics


def test_exact_mcnemar_against_known_values():
    assert npnet_training.mcnemar(0, 0) == 1.0
    assert npnet_training.mcnemar(5, 0) == pytest.approx(2 / 32)
    assert npnet_training.mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert npnet_training.mcnemar(7, 7) == 1.0


def test_mcnemar_is_calibrated_under_the_null():
    rng = random.Random(1)
    tables = [sum(rng.random() < 0.5 for _ in range(60)) for _ in range(2000)]
    rejected = sum(npnet_training.mcnemar(wins, 60 - wins) < 0.05 for wins in tables) / 2000
    assert 0.01 < rejected < 0.06


def test_wilson_interval_against_known_values():
    low, high = evaluate.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert evaluate.wilson(0, 0) == (0.0, 1.0) and evaluate.wilson(10, 10)[1] == pytest.approx(1.0)


def test_distances_between_sets_of_features():
    generator = torch.Generator().manual_seed(0)
    near = [torch.randn(400, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    far = torch.randn(400, 6, generator=generator, dtype=torch.float64) + 1.0
    assert evaluate.frechet(near[0], near[0]) == pytest.approx(0, abs=1e-6)
    assert evaluate.frechet(near[0], far) == pytest.approx(6, rel=0.25)  # squared distance of the means
    assert abs(evaluate.kernel_distance(*near)) < 0.1 < evaluate.kernel_distance(near[0], far)


def test_the_sentence_reports_whatever_came_out():
    plain = {"share": 0.5, "of": 100}
    better = npnet_training.sentence(
        {"standard": plain, "NPNet": {"share": 0.6, "wins": 15, "losses": 5, "p": 0.004, "points": 10.0}}, 25
    )
    worse = npnet_training.sentence(
        {"standard": plain, "NPNet": {"share": 0.4, "wins": 5, "losses": 15, "p": 0.04, "points": -10.0}}, 25
    )
    assert "more right pictures" in better and "unlikely to be chance" in better
    assert "fewer right pictures" in worse and "may be chance" in worse
    even = {"share": 0.5, "wins": 4, "losses": 4, "p": 1.0, "points": 0.0}
    assert "as many right pictures" in npnet_training.sentence({"standard": plain, "NPNet": even}, 25)
