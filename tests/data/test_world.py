"""The embedded world against an independent model checker, and what it writes against what it drew."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cusa_jax.data import world
from cusa_jax.data.world import files
from cusa_jax.data.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, meanings
from cusa_jax.errors import InputError

ROOT = Path(__file__).parents[2]
MEANING = {  # every word or phrase of a caption -> the fact it tells
    **dict.fromkeys(["circle", "disc", "ball"], "circle"),
    **dict.fromkeys(["square", "box", "block"], "square"),
    **dict.fromkeys(["triangle", "wedge"], "triangle"),
    **dict.fromkeys(["cross", "plus"], "cross"),
    **dict.fromkeys(["ring", "hoop", "loop"], "ring"),
    **dict.fromkeys(["bar", "stick", "plank"], "bar"),
    **dict.fromkeys(["shape", "thing", "object", "figure"], None),
    **dict.fromkeys(["red", "crimson"], "red"),
    **dict.fromkeys(["green", "emerald"], "green"),
    **dict.fromkeys(["blue", "azure"], "blue"),
    **dict.fromkeys(["yellow", "golden"], "yellow"),
    **dict.fromkeys(["purple", "violet"], "purple"),
    **dict.fromkeys(["white", "pale"], "white"),
    **dict.fromkeys(["small", "tiny", "little"], "small"),
    **dict.fromkeys(["big", "large", "huge"], "big"),
}
PLACES = {
    "night": "at night|in the dark|under a black sky",
    "day": "by day|in daylight|under a blue sky",
    "grass": "on grass|on a lawn|in a meadow",
    "sand": "on sand|on a beach|in a desert",
}
JOINTS = {
    "left": "beside and left of|left of",
    "right": "beside and right of|right of",
    "above": "above|over|on top of",
    "below": "below|under|beneath",
    None: "and",
}


def parse(caption: str) -> tuple[list[set[str]], str | None, str | None]:
    """Objects as sets of facts, the relation, the background: read from the words alone."""
    background = None
    for name, phrases in PLACES.items():
        if ending := re.search(f" ({phrases})$", caption):
            background, caption = name, caption[: ending.start()]
    relation, parts = None, [caption]
    for name, phrases in JOINTS.items():
        if len(split := re.split(f" (?:{phrases}) (?=a )", caption)) > 1:
            relation, parts = name, split
            break
    phrases = [part.removeprefix("a ").split() for part in parts]
    assert all(part.startswith("a ") for part in parts)
    return [{MEANING[word] for word in words} - {None} for words in phrases], relation, background


def holds(relation: str | None, first: np.ndarray, second: np.ndarray) -> bool:
    (x0, y0), (x1, y1) = first, second
    return {None: True, "left": x0 < x1, "right": x0 > x1, "above": y0 < y1, "below": y0 > y1}[relation]


def satisfies(scenes: world.Scenes, n: int, caption: str) -> bool:
    """Is what the caption says true of scene n?"""
    phrases, relation, background = parse(caption)
    if background not in (None, BACKGROUNDS[scenes.background[n]]):
        return False
    things = [
        ({SHAPES[shape], COLOURS[colour], SIZES[size]}, cell)
        for (shape, colour, size), cell in zip(scenes.objects[n], scenes.cell[n], strict=True)
        if shape >= 0
    ]
    return any(
        all(said <= facts for said, (facts, _) in zip(phrases, chosen, strict=True))
        and (relation is None or holds(relation, chosen[0][1], chosen[1][1]))
        for chosen in itertools.permutations(things, len(phrases))
    )


@pytest.mark.parametrize("specificity", [0.5, world.SPECIFICITY])
def test_relevance_is_what_the_words_say(specificity):
    drawn = world.generate("val", 60, specificity=specificity)
    expected = [[satisfies(drawn.scenes, n, caption) for n in range(60)] for caption in drawn.captions]
    assert drawn.relevance.tolist() == expected
    assert drawn.relevance[np.arange(300), drawn.caption_image].all()


def test_the_default_is_as_many_to_many_as_published():
    """500 images: 3.2 relevant images a caption (median 2) and 16 relevant captions an image."""
    relevant = world.generate("test", 500).relevance
    assert relevant.sum(1).mean() == pytest.approx(3.2, abs=0.3)
    assert np.median(relevant.sum(1)) == 2
    assert relevant.sum(0).mean() == pytest.approx(16, abs=1.5)


def test_less_specific_captions_are_true_of_more_images():
    density = [world.generate("val", 100, specificity=s).relevance.mean() for s in (0.5, 1.3, 2.2)]
    assert density[0] > 1.5 * density[1] > 1.5 * density[2]


def test_same_arguments_same_world():
    digests = [
        world.generate(*arguments, **options).sha256()
        for arguments, options in [
            (("val", 20), {}),
            (("test", 20), {}),
            (("val", 20, 1), {}),
            (("val", 21), {}),
            (("val", 20), {"specificity": 1.0}),
            (("val", 20), {"image_size": 64}),
        ]
    ]
    assert len(set(digests)) == len(digests)
    assert digests[0] == "2a4eaf77f1b202a6190e1a947e449e65c3c30c2362103b5470a1d6b637688480"


def test_scenes_and_captions_do_not_depend_on_the_image_size():
    small, large = (world.generate("val", 20, image_size=size) for size in (32, 64))
    assert large.images.shape == (20, 64, 64, 3)
    assert small.captions == large.captions
    np.testing.assert_array_equal(small.scenes.objects, large.scenes.objects)


def test_pictures_show_the_scene():
    """The middle of the cell of a lone big circle has its colour, the far corner that of the background."""
    rgb = {"red": (217, 38, 38), "green": (38, 179, 51), "blue": (51, 77, 230)}
    drawn = world.generate("train", 2000)
    seen = 0
    for n in np.flatnonzero(drawn.scenes.present.sum(1) == 1):
        shape, colour, size = drawn.scenes.objects[n, 0]
        if (SHAPES[shape], SIZES[size]) != ("circle", "big") or COLOURS[colour] not in rgb:
            continue
        x, y = drawn.scenes.cell[n, 0] * 10 + 6
        patch = drawn.images[n, y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
        assert np.abs(patch - rgb[COLOURS[colour]]).max() < 60
        seen += 1
    assert seen > 20


def test_fact_overlap_grades_from_none_to_all():
    def scene(*objects, background=0):
        rows = [*objects, *[(-1, -1, -1)] * (3 - len(objects))]
        return np.array(rows, np.int8), background

    listed = [
        scene((0, 0, 0)),
        scene((0, 0, 1)),  # another size
        scene((0, 1, 0)),  # another colour
        scene((5, 5, 1), (0, 0, 0)),  # with a second object before it
        scene((1, 1, 1), background=1),  # nothing in common
    ]
    scenes = world.Scenes(
        objects=np.stack([objects for objects, _ in listed]),
        cell=np.zeros((5, 3, 2), np.int8),
        background=np.array([background for _, background in listed], np.int8),
    )
    overlap = world.fact_overlap(scenes, scenes)
    np.testing.assert_allclose(overlap, overlap.T)
    np.testing.assert_allclose(overlap.diagonal(), 1)
    # A lone object weighs 2.5 and the background 1; Dice: twice the common weight over the sum of both.
    np.testing.assert_allclose(overlap[0], [1, 6 / 7, 5 / 7, 7 / 9.5, 0], rtol=1e-6)


def test_equal_meanings_are_scenes_that_no_caption_tells_apart():
    drawn = world.generate("train", 400)
    keys = meanings(drawn.scenes)
    same = [(a, b) for a, b in itertools.combinations(range(400), 2) if keys[a] == keys[b]]
    assert len(same) > 20
    for a, b in same:
        np.testing.assert_array_equal(drawn.relevance[:, a], drawn.relevance[:, b])


SIZES_WRITTEN = {"train": 30, "val": 6, "test": 6}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return world.write(tmp_path_factory.mktemp("data") / "world", SIZES_WRITTEN, seed=3)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_writes_what_it_drew(written, split):
    drawn = world.generate(split, SIZES_WRITTEN[split], 3)
    rows = json.loads((written / f"{split}.json").read_text())
    assert [row["caption"] for row in rows] == drawn.captions
    order = list(dict.fromkeys(row["image_id"] for row in rows))
    assert [order.index(row["image_id"]) for row in rows] == drawn.caption_image.tolist()
    assert order == sorted(order)  # the reference sorts images by id, we keep them as they come: same
    for row, n in zip(rows, drawn.caption_image, strict=True):
        assert set(row) == {"image_path", "caption", "image_id"}
        with Image.open(written / row["image_path"]) as image:
            np.testing.assert_array_equal(np.asarray(image), drawn.images[n])
    assert json.loads((written / "world.json").read_text())["sha256"][split] == drawn.sha256()
    if split != "train":
        relevant = np.load(written / f"{split}_relevance.npy", allow_pickle=False)
        assert relevant.dtype == bool
        np.testing.assert_array_equal(relevant, drawn.relevance)


def test_counts_test_scenes_that_repeat_a_training_scene(tmp_path):
    folder = world.write(tmp_path / "world", {"train": 400, "val": 50})
    train = set(meanings(world.generate("train", 400).scenes))
    expected = sum(key in train for key in meanings(world.generate("val", 50).scenes))
    assert json.loads((folder / "world.json").read_text())["meanings_also_in_train"] == {"val": expected}
    assert expected > 0


def test_meanings_tell_relations_but_not_places():
    pair = np.array([[(0, 0, 0), (1, 1, 1), (-1, -1, -1)]] * 4, np.int8)
    pair[3] = pair[3, [1, 0, 2]]  # the same two objects, listed the other way round
    places = [[(0, 0), (1, 0)], [(1, 2), (2, 2)], [(0, 0), (1, 1)], [(1, 0), (0, 0)]]
    cell = np.array([[*place, (0, 0)] for place in places], np.int8)
    keys = meanings(world.Scenes(objects=pair, cell=cell, background=np.zeros(4, np.int8)))
    assert keys[0] == keys[1] == keys[3] != keys[2]


def test_writing_again_draws_and_touches_nothing(written, monkeypatch):
    monkeypatch.setattr(files, "_write_draft", None)
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert world.write(written, SIZES_WRITTEN, seed=3) == written
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert [path.name for path in written.parent.iterdir()] == ["world"]


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"image_size": 64}, {"sizes": {"train": 31}}, {"specificity": 1.0}]
)
def test_refuses_the_folder_of_another_world(written, change):
    arguments = {"sizes": SIZES_WRITTEN, "seed": 3, **change}
    with pytest.raises(InputError, match=f"world.json: {next(iter(change))} is .* remove"):
        world.write(written, **arguments)


@pytest.mark.parametrize("record", [None, "[]", "{}", "{"])
def test_refuses_a_folder_that_is_something_else(tmp_path, record):
    (tmp_path / "precious.txt").write_text("kept")
    if record is not None:
        (tmp_path / "world.json").write_text(record)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        world.write(tmp_path, {"val": 2})
    assert (tmp_path / "precious.txt").read_text() == "kept"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.json, "dumps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.write(tmp_path / "world", {"val": 2})
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_runs_are_removed_and_others_are_not(tmp_path):
    """A run is killed while it draws, another one is drawing, and somebody's folder has a similar name."""
    script = f"""
import os, signal
from cusa_jax.data import world
from cusa_jax.data.world import files
def stay(folder, arguments):
    print(folder.name, flush=True)
    signal.pause()
files._write_draft = stay
world.write({str(tmp_path / "world")!r}, {{"val": 2}})
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    killed, alive = (run.stdout.readline().strip() for run in runs)
    (tmp_path / ".world-of-somebody").mkdir()
    try:
        runs[0].kill()
        runs[0].wait()
        assert (tmp_path / killed).is_dir()
        world.write(tmp_path / "world", {"val": 2})
        assert sorted(os.listdir(tmp_path)) == sorted([alive, ".world-of-somebody", "world"])
    finally:
        for run in runs:
            run.kill()
            run.wait()
            run.stdout.close()


def test_of_two_writers_at_once_the_first_wins(tmp_path, monkeypatch):
    draft = files._write_draft

    def overtaken(folder, arguments):
        monkeypatch.setattr(files, "_write_draft", draft)
        world.write(tmp_path / "world", {"val": 2})
        draft(folder, arguments)

    monkeypatch.setattr(files, "_write_draft", overtaken)
    assert world.write(tmp_path / "world", {"val": 2}) == tmp_path / "world"
    assert os.listdir(tmp_path) == ["world"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("dev", 3), "no split 'dev'"), (("val", 0), "n_images >= 1, not 0"), (("val", 3, -1), "seed >= 0")],
)
def test_refuses_impossible_worlds(arguments, message):
    with pytest.raises(InputError, match=message):
        world.generate(*arguments)
