"""The case study against a sort of all scores and the annotations themselves."""

from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.evaluation import coco
from cusa_jax.evaluation.retrieval import ScoredSplit
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.report.study import study


@pytest.fixture(params=[True, False], ids=["relevance known", "relevance unknown"])
def found(request):
    """A split of 9 images with 2 captions each, of which image 4 could not be read."""
    rng = np.random.default_rng(0)
    caption_image = np.repeat(np.arange(9, dtype=np.int32), 2)
    relevance = (rng.random((18, 9)) < 0.3) | np.eye(9, dtype=bool)[caption_image]
    table = CaptionTable([str(n) for n in range(9)], [], [""] * 18, caption_image, None)
    split = Split(
        table, [""] * 18, np.zeros((18, 1), np.int32), relevance if request.param else None, ImageFiles([])
    )
    readable = np.delete(np.arange(9, dtype=np.int32), 4)
    captions = np.flatnonzero(caption_image != 4)
    rows = rng.standard_normal((8 + 16, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ScoredSplit(readable, captions, InnerProducts(rows[:8], rows[8:])), split


def mark(split, caption, image):
    if split.table.caption_image[caption] == image:
        return "annotated"
    if split.relevance is None:
        return "unknown"
    return "unannotated" if split.relevance[caption, image] else "wrong"


def test_answers_stand_in_the_order_of_their_scores_with_their_marks(found):
    scored, split = found
    result = study(scored, split, queries=50)
    scores = scored.scores.images @ scored.scores.texts.T
    assert [query.item for query in result.text_to_image] == scored.captions.tolist()
    assert [query.item for query in result.image_to_text] == scored.images.tolist()
    for n, query in enumerate(result.text_to_image):
        check(query, scores[:, n], scored.images, lambda image, q=query: mark(split, q.item, image))
    for n, query in enumerate(result.image_to_text):
        check(query, scores[n], scored.captions, lambda caption, q=query: mark(split, caption, q.item))
    counted = [
        answer.mark for query in result.text_to_image + result.image_to_text for answer in query.answers
    ]
    assert result.marks == {name: counted.count(name) for name in set(counted)}


def check(query, scores, numbers, mark_of):
    order = np.argsort(-scores, kind="stable")
    assert [answer.item for answer in query.answers] == numbers[order[:5]].tolist()
    np.testing.assert_allclose([answer.score for answer in query.answers], scores[order[:5]], rtol=1e-5)
    assert [answer.mark for answer in query.answers] == [mark_of(answer.item) for answer in query.answers]
    ranked = [mark_of(item) for item in numbers[order].tolist()]
    assert query.rank == ranked.index("annotated") + 1
    assert query.expected.item == numbers[order[query.rank - 1]]


def test_queries_are_spread_evenly(found):
    scored, split = found
    result = study(scored, split, queries=3)
    assert [query.item for query in result.image_to_text] == [0, 3, 8]  # first, middle and last readable one


def ten_images_of_coco():
    """Test images around a caption that is true of all of them: their ids, those of their captions, and whose."""
    seen = coco.ground_truth().positives("eccv", "t2i")
    captions_of = coco.ground_truth().positives("original", "i2t")
    images = max(seen.values(), key=len)[:10]
    ids = [caption for image in images for caption in captions_of[image]]
    caption_image = np.repeat(np.arange(10, dtype=np.int32), [len(captions_of[image]) for image in images])
    return images, ids, caption_image


def scored_split(image_ids, files, caption_ids, caption_image):
    ids = np.array(caption_ids)
    table = CaptionTable(image_ids, [Path(file) for file in files], [""] * len(ids), caption_image, ids)
    split = Split(table, [""] * len(ids), np.zeros((len(ids), 1), np.int32), None, ImageFiles([]))
    rows = np.random.default_rng(0).standard_normal((10 + len(ids), 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = InnerProducts(rows[:10], rows[10:])
    return ScoredSplit(np.arange(10, dtype=np.int32), np.arange(len(ids)), scores), split


@pytest.mark.parametrize("identified", ["by ids", "by files"])
def test_false_negatives_of_coco_are_those_that_eccv_caption_found(identified):
    seen, also = (coco.ground_truth().positives("eccv", way) for way in ("t2i", "i2t"))
    images, ids, caption_image = ten_images_of_coco()
    if identified == "by ids":
        names, files = [str(image) for image in images], [f"{n}.jpg" for n in range(10)]
    else:
        names, files = [f"x{n}" for n in range(10)], [f"COCO_val2014_{image:012d}.jpg" for image in images]
    result = study(*scored_split(names, files, ids, caption_image), queries=len(ids))
    marks = {
        (query.item, answer.item): answer.mark for query in result.text_to_image for answer in query.answers
    }
    marks |= {
        (answer.item, query.item): answer.mark for query in result.image_to_text for answer in query.answers
    }
    for (caption, image), mark in marks.items():
        true = images[image] in seen.get(ids[caption], ()) or ids[caption] in also.get(images[image], ())
        expected = "annotated" if caption_image[caption] == image else "unannotated" if true else "unknown"
        assert mark == expected
    assert result.judge == "ECCV Caption"
    assert {"annotated", "unannotated", "unknown"} == set(result.marks)


def test_captions_of_other_data_are_not_coco_s_whatever_their_ids():
    """Flickr30K's `sentid`, or a user's own numbers; and COCO's images with captions that are not theirs."""
    images, ids, caption_image = ten_images_of_coco()
    flickr = [str(1007129816 + n) for n in range(10)]
    shifted = [str(image) for image in np.roll(images, 1)]
    for names in (flickr, shifted):
        found = scored_split(names, [f"{name}.jpg" for name in names], ids, caption_image)
        result = study(*found)
        assert result.judge == ""
        assert set(result.marks) == {"annotated", "unknown"}
