"""ECCV Caption and CxC recalls against the package's own `Metrics`, the recorded reference, and brute force."""

import contextlib
import io
import warnings

import golden
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation import coco, eccv
from cusa_jax.evaluation.scores import InnerProducts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have ujson
    from eccv_caption import Metrics

WIDTH = 16


@pytest.fixture(scope="module")
def metrics():
    return Metrics()


@pytest.fixture(scope="module")
def embeddings(metrics):
    """Those of the golden: an image's captions are near it."""
    truth = coco.ground_truth()
    image_of = {caption: images[0] for caption, images in metrics.coco_gts["t2i"].items()}
    image = {i: golden.hash_uniform(f"eccv/i{i}", (WIDTH,)) for i in truth.image_ids.tolist()}
    text = [
        image[image_of[c]] + 0.8 * golden.hash_uniform(f"eccv/c{c}", (WIDTH,))
        for c in truth.caption_ids.tolist()
    ]
    return np.array(list(image.values()), np.float32), np.array(text, np.float32)


def official(metrics, scores):
    """The package's numbers, from the ranked lists that it takes."""
    truth = coco.ground_truth()
    lists = {}
    for way, matrix, queries, items in (
        ("i2t", scores, truth.image_ids, truth.caption_ids),
        ("t2i", scores.T, truth.caption_ids, truth.image_ids),
    ):
        asked = np.isin(queries, list(metrics.eccv_gts[way]))
        matrix, queries = matrix[asked], queries[asked]
        near = np.argpartition(-matrix, 50, axis=1)[:, :50]
        order = np.take_along_axis(near, np.argsort(-np.take_along_axis(matrix, near, 1), 1), 1)
        lists[way] = dict(zip(queries.tolist(), items[order].tolist(), strict=True))
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        return metrics.compute_all_metrics(
            lists["i2t"], lists["t2i"],
            target_metrics=("eccv_map_at_r", "eccv_rprecision", "eccv_r1"),
        )  # fmt: skip


def test_ground_truth_is_the_packages(metrics):
    truth = coco.ground_truth()
    assert truth.caption_ids.tolist() == metrics.coco_ids.tolist()
    assert truth.image_ids[0] == 391895  # the first of Karpathy's test split
    assert len(set(truth.image_ids.tolist())) == 5000
    assert truth.positives("eccv", "i2t") == metrics.eccv_gts["i2t"]
    assert truth.positives("cxc", "t2i") == metrics.cxc_gts["t2i"]


def test_equals_the_package_and_the_reference(metrics, embeddings):
    truth = coco.ground_truth()
    scores = InnerProducts.cosines(*embeddings)
    theirs = official(metrics, scores.images @ scores.texts.T)
    here = coco.gallery(truth.image_ids, truth.caption_ids)
    ours = eccv.eccv_result(scores, here)
    recorded = golden.numbers("evaluation")["eccv"]
    for way in ("i2t", "t2i"):
        for name in ("map_at_r", "rprecision", "r1"):
            assert ours.values()[f"{way}_{name}"] == pytest.approx(
                100 * theirs[f"eccv_{name}"][way], rel=1e-12
            )
            assert ours.values()[f"{way}_{name}"] == pytest.approx(recorded[f"eccv_{name}"][way], rel=1e-12)
    for name, value in eccv.recall_result(scores, here).values().items():
        way, at_k = name.split("_")
        assert value == pytest.approx(recorded[f"cxc_{at_k}"][way], rel=1e-12)
    assert ours.notes == ()


def test_partial_galleries_are_evaluated_on_what_is_there(metrics, embeddings):
    """Every seventh image with its captions, shuffled among strangers: brute force on the positives present."""
    truth = coco.ground_truth()
    rng = np.random.default_rng(0)
    images = rng.permutation(np.arange(0, 5000, 7))
    captions = rng.permutation((5 * images[:, None] + np.arange(5)).ravel())
    names = [f"val2014/COCO_val2014_{truth.image_ids[n]:012}.jpg" for n in images] + [
        "COCO_val2014_000000999999.jpg"
    ]
    image = np.concatenate([embeddings[0][images], np.ones((1, WIDTH))])
    scores = InnerProducts.cosines(image, embeddings[1][captions])
    here = coco.gallery(names, truth.caption_ids[captions])
    figures = eccv.eccv_result(scores, here)

    matrix = scores.images[:-1] @ scores.texts.T
    caption_ids, image_ids = truth.caption_ids[captions].tolist(), truth.image_ids[images].tolist()
    for way, rows, queries, items in (
        ("i2t", matrix, image_ids, caption_ids), ("t2i", matrix.T, caption_ids, image_ids)
    ):  # fmt: skip
        gold, asked, left_out = metrics.eccv_gts[way], [], 0
        for query, row in zip(queries, rows, strict=True):
            if query not in gold:
                continue
            positives = set(gold[query]) & set(items)
            if not positives:
                left_out += 1
                continue
            hits = [items[n] in positives for n in np.argsort(-row)[: len(positives)]]
            asked.append([np.mean([h and np.mean(hits[: r + 1]) for r, h in enumerate(hits)]), hits[0]])
        expected = 100 * np.mean(asked, axis=0)
        assert figures.values()[f"{way}_map_at_r"] == pytest.approx(expected[0])
        assert figures.values()[f"{way}_r1"] == pytest.approx(expected[1])
        assert any(f"{way}: {left_out} queries are left out" in note for note in figures.notes) == (
            left_out > 0
        )
    assert figures.notes[0].startswith("partial gallery: 715 of 5000 images and 3575 of 25000 captions")


def test_strangers_are_refused():
    with pytest.raises(InputError, match="none of the images and captions"):
        coco.gallery(["a.jpg", "b.jpg"], np.array([1, 2]))
    with pytest.raises(InputError, match="no caption_id"):
        coco.gallery(["391895"], None)


@pytest.mark.parametrize(
    ("name", "number"), [("391895", 391895), ("COCO_val2014_000000391895.jpg", 391895), (7, 7), ("cat", -1)]
)
def test_ids_of_images(name, number):
    assert coco.coco_id(name) == number
