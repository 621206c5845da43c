"""The training scripts: they learn, resume after a kill, and their statistics are right."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from assets.golden_noise import evaluate as golden_evaluation
from assets.lab import chunks, training
from assets.lab import shards as data
from assets.mini_npnet import train as npnet_training
from assets.mini_sdxl import evaluate
from assets.mini_sdxl import train as sdxl_training
from assets.verifier import train as verifier_training
from pipelines.golden_noise import arms as golden_noise_arms
from pipelines.models import sdxl_parts, verifier
from pipelines.worlds import grammar, portrait, tabletop


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


def test_distances_between_sets_of_features():
    generator = torch.Generator().manual_seed(0)
    near = [torch.randn(400, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    far = torch.randn(400, 6, generator=generator, dtype=torch.float64) + 1.0
    assert evaluate.frechet(near[0], near[0]) == pytest.approx(0, abs=1e-6)
    assert evaluate.frechet(near[0], far) == pytest.approx(6, rel=0.25)  # squared distance of the means
    assert abs(evaluate.kernel_distance(*near)) < 0.1 < evaluate.kernel_distance(near[0], far)


def arms(points: float, p: float, baseline: float) -> dict[str, dict]:
    """Figures of an evaluation on 100 cases, as far as the sentence reads them."""
    row = {"of": 100, "share": 0.5, "wins": 9, "losses": 4, "p": 1.0, "points": 0.0}
    ours = {**row, "share": 0.5 + points / 100, "p": p, "points": points}
    return {"standard": row, "npnet": ours, "first_step": {**row, "share": 0.5 + baseline / 100, "points": baseline}}


def test_the_sentence_reports_whatever_came_out():
    better = golden_evaluation.sentence(arms(10.0, 0.004, 2.0), 25)
    assert "more right pictures, unlikely to be chance" in better and "better than golden noise" not in better
    worse = golden_evaluation.sentence(arms(-10.0, 0.04, 2.0), 25)
    assert "fewer right pictures, which may be chance" in worse
    assert "(+2.0 points): better than golden noise." in worse
    assert "as many right pictures" in golden_evaluation.sentence(arms(0.0, 1.0, 0.0), 25)


# -------------------------------------------------------------------------------- work in pieces


def test_pieces_that_are_there_are_not_made_again(tmp_path):
    made = []

    def make(item: int) -> dict[str, object]:
        made.append(item)
        if item == 3 and len(made) < 5:
            raise KeyboardInterrupt  # the kill in the middle
        return {"square": item * item, "row": torch.full((2,), float(item))}

    with pytest.raises(KeyboardInterrupt):
        chunks.complete(tmp_path, range(5), str, make)
    found = chunks.complete(tmp_path, range(5), str, make)
    assert made == [0, 1, 2, 3, 3, 4] and [found[i]["square"] for i in range(5)] == [0, 1, 4, 9, 16]
    assert not list(tmp_path.glob("*.tmp"))


def small_collection(monkeypatch, folder, recipe: str, shards: list[int]) -> dict[str, dict]:
    """Pairs of tiny shards, collected with the shipped models into ``folder``."""
    for name, value in {"PAIRS": folder, "PER_SHARD": 4, "BATCH": 2, "DRAW_STEPS": 2, "TAUGHT_STEPS": 2}.items():
        monkeypatch.setattr(npnet_training, name, value)
    npnet_training.collect(recipe, shards, "cpu")
    return {path.name: torch.load(path, weights_only=True) for path in sorted((folder / recipe).glob("*.pt"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [pytest.param(one, marks=[pytest.mark.long] * (one == "reward")) for one in npnet_training.RECIPES]
)
def test_shards_of_pairs_are_the_same_however_they_are_shared_out(tmp_path, monkeypatch, recipe):
    whole = small_collection(monkeypatch, tmp_path / "one", recipe, [0, 1])
    small_collection(monkeypatch, tmp_path / "two", recipe, [1])
    kept = (tmp_path / "two" / recipe / "001.pt").stat().st_mtime_ns
    parts = small_collection(monkeypatch, tmp_path / "two", recipe, [0, 1])
    assert (tmp_path / "two" / recipe / "001.pt").stat().st_mtime_ns == kept, "a finished shard is not made again"
    assert sorted(whole) == sorted(parts) == ["000.pt", "001.pt"]
    for name in whole:
        assert torch.equal(whole[name]["change"], parts[name]["change"])
        assert whole[name]["seeds"] == parts[name]["seeds"] and whole[name]["texts"] == parts[name]["texts"]
    if recipe == "reward":
        sizes = torch.cat([part["change"].float().square().mean((1, 2, 3)).sqrt() for part in whole.values()])
        assert 0 < sizes.min() and sizes.max() < npnet_training.BOUND + 0.01, "the change stays within its bound"


@pytest.mark.slow
def test_the_differentiable_sampler_draws_what_the_pipeline_draws(monkeypatch):
    # Rounding to bfloat16 would make much of the last bits' differences.
    monkeypatch.setattr(sdxl_parts, "multiplies_halves", lambda: False)
    golden, reward = npnet_training.models()
    texts = ["a red cube on wood", "a person with black hair"]
    noises = golden_noise_arms.start_noise([1, 2], golden.pipe)
    with torch.no_grad():
        embeds = golden.embed(texts)
        wanted = golden.draw(noises, embeds, 4, 5.5)
    leaf = noises.clone().requires_grad_()
    # Four, because diffusers' DDIM rounds its step down where the number of steps does not divide 1,000.
    drawn = npnet_training.sample(golden, leaf, embeds, 4, 5.5)
    torch.testing.assert_close(drawn.detach(), wanted, atol=1e-4, rtol=0)
    golden_noise_arms.rewards(reward, drawn, texts).sum().backward()
    assert leaf.grad.isfinite().all() and (leaf.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    for name, value in {"DONE": tmp_path, "CHUNK": 2}.items():
        monkeypatch.setattr(golden_evaluation, name, value)
    few = golden_evaluation.measure(["standard", "npnet"], "validation", 2, 2, 2, 5.5, 1.0)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    more = golden_evaluation.measure(["standard", "npnet"], "validation", 4, 4, 2, 5.5, 1.0)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert more["npnet"][0] == few["npnet"][0] and len(more["standard"]) == 2
    rows = golden_evaluation.table(more, 2)
    assert rows["npnet"]["of"] == 4 and rows["npnet"]["evaluations"] == 4 and rows["standard"]["wins"] == 0
    arms = ["standard", "npnet", "more_steps"]
    rows = golden_evaluation.table(golden_evaluation.measure(arms, "validation", 4, 2, 2, 5.5, 1.0), 2)
    assert rows["more_steps"]["of"] == 2 and rows["npnet"]["of"] == 4, "arms that decide nothing draw fewer"


def test_cases_of_an_evaluation_are_fixed_and_apart():
    test, validation = golden_evaluation.cases("test", 40), golden_evaluation.cases("validation", 40)
    assert golden_evaluation.cases("test", 60)[:40] == test
    assert not {seed for _, seed in test} & {seed for _, seed in validation}
    assert not {text for text, _ in test} & {text for text, _ in validation}


def test_the_average_counts_tied_weights_once():
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 2, bias=False)
            self.second = torch.nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            torch.nn.init.zeros_(self.first.weight)

    model = Tied()
    average = training.Average(model, decay=0.5)
    average.steps = 1000
    torch.nn.init.ones_(model.first.weight)
    average.update(model)
    assert torch.equal(average.model.first.weight, torch.full((2, 2), 0.5))
