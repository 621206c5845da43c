"""The tabletop world: its truth is consistent, its words say what is there, a seed means one scene."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from demos.georemover import scenes as removal_scenes
from demos.megaportrait import people
from pipelines.core.registry import LOAD_LOCK
from pipelines.georemover import Recipe
from pipelines.worlds import grammar, portrait, prompts, tabletop
from pipelines.worlds.grammar import Request, Thing
from pipelines.worlds.portrait import words
from pipelines.worlds.prompts import PortraitRequest

SIZE = (40, 56)  # height, width: never square


def render(scene, **options):
    return tabletop.render([scene], SIZE, **options)


def test_a_seed_is_one_scene_and_one_picture():
    assert tabletop.sample(4) == tabletop.sample(4)
    assert tabletop.sample(4) != tabletop.sample(5)
    assert torch.equal(render(tabletop.sample(4)).image, render(tabletop.sample(4)).image)


def test_a_batch_of_scenes_equals_one_by_one():
    scenes = [tabletop.sample(seed) for seed in range(5)]
    together = tabletop.render(scenes, SIZE, truth=True)
    for row, scene in enumerate(scenes):
        alone = render(scene, truth=True)
        torch.testing.assert_close(together.image[row], alone.image[0], atol=1e-5, rtol=0)
        assert torch.equal(together.instances[row], alone.instances[0])
        assert torch.equal(together.shadows[row], alone.shadows[0])


def test_pictures_are_in_range_and_every_kind_of_thing_occurs():
    scenes = [tabletop.sample(seed) for seed in range(200)]
    solids = [solid for scene in scenes for solid in scene.solids]
    assert {s.shape for s in solids} == set(grammar.SHAPES)
    assert {s.colour for s in solids} == set(grammar.COLOURS) == set(tabletop.ALBEDO)
    assert {s.finish for s in solids} == set(grammar.FINISHES)
    assert {s.floor for s in scenes} == set(grammar.FLOORS)
    assert {len(s.solids) for s in scenes} == {1, 2, 3}
    image = tabletop.render(scenes[:6], SIZE).image
    assert image.shape == (6, 3, *SIZE)
    assert 0 <= image.min() and image.max() <= 1 and image.std() > 0.05


def test_solids_do_not_touch_and_stay_in_the_picture():
    for seed in range(300):
        solids = tabletop.sample(seed).solids
        for i, a in enumerate(solids):
            for b in solids[i + 1 :]:
                assert ((a.x - b.x) ** 2 + (a.z - b.z) ** 2) ** 0.5 > (a.size + b.size) * 0.9, seed
    for seed in range(12):
        truth = tabletop.render([tabletop.sample(seed)], 48, truth=True)
        for slot in range(len(tabletop.sample(seed).solids)):
            mask = truth.instances[0, slot]
            assert mask.sum() > 20, seed
            assert not mask[:, 0].any() and not mask[:, -1].any(), f"seed {seed} is cut off at the side"


def test_masks_do_not_overlap_where_they_must_not():
    truth = render(tabletop.sample(1, 2), truth=True)
    assert not (truth.instances[:, 0] & truth.instances[:, 1]).any()
    assert not (truth.instances & truth.shadows).any(dim=(0, 2, 3)).any(), "a solid's own pixels are not its shadow"
    on_things = truth.instances.any(1, keepdim=True)
    assert not (truth.reflections & on_things).any()


def test_taking_a_solid_out_changes_its_pixels_its_shadow_and_its_reflection():
    scene = replace(tabletop.sample(11, 2), floor="marble")
    before, after = render(scene, truth=True), render(scene.without(0), truth=True)
    changed = (before.image - after.image).abs().amax(1)[0] > 0.02
    for mask in (before.instances[0, 0], before.shadows[0, 0], before.reflections[0, 0]):
        assert mask.sum() > 10
        assert (changed & mask).sum() / mask.sum() > 0.6
    assert after.instances[0].sum() < before.instances[0].sum()
    far_away = ~(before.instances[0, 0] | before.shadows[0, 0] | before.reflections[0, 0])
    assert changed[far_away].float().mean() < 0.2
    untouched = before.depth[0, 0][before.instances[0, 1]]
    assert torch.equal(untouched, after.depth[0, 0][before.instances[0, 1]])


def test_shadows_fall_away_from_the_light():
    scene = replace(tabletop.sample(3, 1), backdrop="sky", light_azimuth=1.4, light_elevation=0.7)
    scene = replace(scene, solids=(replace(scene.solids[0], shape="sphere", x=0.0),))
    columns = torch.arange(SIZE[1]).float()

    def centre(mask):
        return (mask.sum(0) * columns).sum() / mask.sum()

    right = render(scene, truth=True)
    left = render(replace(scene, light_azimuth=-1.4), truth=True)
    assert centre(right.shadows[0, 0]) < centre(right.instances[0, 0]) < centre(left.shadows[0, 0])


def test_depth_and_normals_of_known_geometry():
    scene = replace(tabletop.sample(3, 1), backdrop="wall")
    ball = replace(scene.solids[0], shape="sphere", x=0.0, z=0.0, size=0.8)
    truth = render(replace(scene, solids=(ball,)), truth=True)
    eye = torch.tensor((0.0, scene.camera_height, scene.camera_distance))
    distance = (eye - torch.tensor((0.0, 0.8, 0.0))).norm().item()
    nearest = truth.depth[0, 0][truth.instances[0, 0]].min().item()
    assert nearest == pytest.approx(distance - 0.8, abs=0.03)
    lengths = truth.normals.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-4, rtol=0)
    sky = render(replace(scene, backdrop="sky", camera_height=1.0), truth=True)
    assert sky.depth.max() == tabletop.FAR


def test_a_glossy_solid_has_a_highlight():
    scene = replace(tabletop.sample(3, 1), floor="plain")
    ball = replace(scene.solids[0], shape="sphere", colour="red", x=0.0)
    truths = [render(replace(scene, solids=(replace(ball, finish=f),)), truth=True) for f in grammar.FINISHES]
    brightest = [t.image[0, 1][t.instances[0, 0]].max() for t in truths]  # green on a red ball: only the highlight
    assert brightest[1] > brightest[0] + 0.2


@pytest.mark.parametrize("bad", [0, 4, -1])
def test_a_wrong_number_of_solids_is_refused(bad):
    with pytest.raises(ValueError, match="1, 2 or 3 solids"):
        tabletop.sample(0, bad)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(IndexError, match="does not exist"):
        tabletop.sample(0, 1).without(1)
    with pytest.raises(ValueError, match="at least one"):
        tabletop.render([])
    with pytest.raises(ValueError, match="too small"):
        tabletop.render([tabletop.sample(0)], 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_agree():
    scenes = [tabletop.sample(seed) for seed in range(4)]
    difference = (tabletop.render(scenes, SIZE).image - tabletop.render(scenes, SIZE, "cuda").image.cpu()).abs()
    assert difference.mean() < 1e-3


# --------------------------------------------------------------------------------------------- words


def test_every_caption_is_read_back_exactly():
    for seed in range(1500):
        rng = random.Random(seed)
        state = rng.getstate()
        asked = tabletop.request(tabletop.sample(seed), rng)
        rng.setstate(state)
        text = tabletop.caption(tabletop.sample(seed), rng)
        assert grammar.parse(text) == asked, text
        assert set(grammar.words(text)) <= set(grammar.vocabulary()), text


def test_captions_are_true_of_their_scene():
    for seed in range(400):
        scene = tabletop.sample(seed)
        asked, facts = tabletop.request(scene, random.Random(seed)), tabletop.attributes(scene)
        assert asked.floor in (None, facts["floor"])
        order = list(asked.things[::-1]) if asked.relation == "right" else list(asked.things)
        if asked.relation in ("left", "right", "row") or len(order) == 1:
            for said, there in zip(order, facts["things"], strict=True):
                assert (said.shape, said.colour) == (there.shape, there.colour)
                assert said.finish in (None, there.finish)
                assert said.finish is None or said.colour != "white"
        if asked.relation in ("front", "behind"):
            names = [(t.shape, t.colour) for t in facts["things"]]
            nearer = names[facts["nearer"][0]]
            first = (asked.things[0].shape, asked.things[0].colour)
            assert (first == nearer) == (asked.relation == "front") or names[0] == names[1]


def test_captions_vary_in_their_wording():
    scene = tabletop.sample(1)
    assert len({tabletop.caption(scene, random.Random(i)) for i in range(40)}) > 15
    assert tabletop.caption(scene) == tabletop.caption(scene)


def test_free_text_is_read_as_far_as_it_is_known():
    asked = grammar.parse("Two gigantic RED boxes? No: a red box, behind a ball on tiles!")
    assert asked.things == (Thing("cube", "red"), Thing("sphere")) and asked.relation == "behind"
    assert asked.floor == "tile" and "gigantic" in asked.unknown
    assert grammar.parse("") == Request()


def test_prompts_of_both_worlds():
    assert isinstance(prompts.read_prompt("a red cube"), Request)
    person = prompts.read_prompt("A man with short blue hair and a beard, without glasses")
    assert person == PortraitRequest({"hair_colour": "blue", "hair_style": "short", "glasses": "no", "beard": "yes"})
    for seed in range(200):
        assert prompts.surprise(seed) == prompts.surprise(seed)
        assert not prompts.read_prompt(prompts.surprise(seed)).unknown


def test_portrait_captions_are_read_alike_by_both_readers():
    for seed in range(300):
        text = portrait.caption(portrait.sample(seed), random.Random(seed))
        assert prompts.read_prompt(text).attributes == portrait.parse(text), text


def test_brief_captions_of_a_portrait_are_understood_and_say_little():
    said = set()
    for seed in range(300):
        one = portrait.sample(seed)
        text = words.brief(one, random.Random(seed))
        request = prompts.read_prompt(text)
        assert not request.unknown and request.attributes.items() <= portrait.attributes(one).items(), text
        said.add(len(request.attributes))
    assert said == {0, 1, 2, 3}


class OnlyFloat32(TorchDispatchMode):
    """Fails at the first tensor of another floating type."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                assert tensor.dtype == torch.float32, f"{function} made {tensor.dtype}"
        return made


def drawn() -> bytes:
    """Everything that both renderers can make, of scenes with every floor and of every kind of head."""
    made: list[torch.Tensor] = []
    for seed, floor in enumerate(grammar.FLOORS):
        scene = replace(tabletop.sample(seed), floor=floor, backdrop=grammar.BACKDROPS[seed % 2])
        truth = tabletop.render([scene], (16, 20), truth=True)
        made += [value for value in vars(truth).values() if isinstance(value, torch.Tensor)]
        made += tabletop.geometry([scene], (16, 20))
    for seed, style in enumerate(portrait.HAIR_STYLES):
        head = portrait.sample(seed, hair_style=style, glasses=seed % 2 == 0, beard=seed % 2 == 1, freckles=True)
        truth = portrait.render([head], (16, 20), truth=True)
        made += [value for value in vars(truth).values() if isinstance(value, torch.Tensor)]
    return b"".join(str(tensor.dtype).encode() + tensor.contiguous().numpy().tobytes() for tensor in made)


def test_pictures_do_not_depend_on_the_default_type_that_a_loader_sets_for_the_whole_process():
    before = drawn()
    for other in (torch.float64, torch.float16):
        torch.set_default_dtype(other)
        try:
            with OnlyFloat32():
                assert drawn() == before
        finally:
            torch.set_default_dtype(torch.float32)


def test_rendering_waits_for_no_loader():
    held, done = threading.Event(), threading.Event()

    def loads() -> None:
        with LOAD_LOCK:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=loads)
    thread.start()
    held.wait(10)
    try:
        removal_scenes.roll(Recipe(77, 1))
        people.roll_reference(77)
        assert thread.is_alive()
    finally:
        done.set()
        thread.join()
