"""The embedding loop with students of its own kind: captions cut to their bucket, and scores of both sides together."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cusa_jax import embedding, sharding
from cusa_jax.data.captions import read_captions
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import CaptionedImages
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.evaluation.scores import Blocks, InnerProducts, Matrix
from cusa_jax.evaluation.sources import StudentSource
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

SIZE, LENGTH = 4, 32
INPUTS = Inputs(Pixels(SIZE), Text(LENGTH, VOCAB_SIZE, pad_id=7))


@dataclasses.dataclass(frozen=True)
class Dual:
    """Embeds an image by its mean colour and a text by its ids; padding counts nothing."""

    inputs: Inputs = INPUTS
    family: str = "dual"
    sizes: Any = None
    heads: tuple[str, ...] = ("cross",)
    widths: tuple[list, ...] = dataclasses.field(default=([],), hash=False, compare=False)

    def embed(self, variables, side, rows):
        if side == "image":
            features = rows.astype(jnp.float32).mean((1, 2))
        else:
            self.widths[0].append(rows.shape[1])
            ids = jnp.where(rows == self.inputs.text.pad_id, 0, rows).astype(jnp.float32)
            features = jnp.stack([ids.sum(1), (ids**2).sum(1), jnp.ones(len(ids))], 1)
        return features * variables, features + 1

    def embeddings(self, encoded):
        raise NotImplementedError("training is not what is tested")


class Cross:
    """Compares each image with each text by looking at both: it has no embeddings."""

    inputs = INPUTS
    family, sizes = "cross", None

    def encode_side(self, variables, side, rows):
        if side == "image":
            return {"colour": rows.astype(jnp.float32).mean((1, 2))}
        return {"ids": rows, "mask": rows != self.inputs.text.pad_id}

    def score(self, variables, images, texts):
        words = jnp.where(texts["mask"], texts["ids"], 0).sum(1)
        return jnp.cos(images["colour"].sum(1)[:, None] * variables + words)


@pytest.fixture
def table(tmp_path):
    rows = []
    for n in range(5):
        colour = tuple(np.random.default_rng(n).integers(0, 256, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{n}.png")
        rows += [
            {"image_path": f"{n}.png", "caption": f"picture {n} {'very ' * m}nice", "image_id": str(n)}
            for m in (1, 9)
        ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    return read_captions(tmp_path, "test")


def tokens(lengths, width=LENGTH, pad=7):
    ids = np.full((len(lengths), width), pad, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = np.arange(length) % 5 + 10
    return ids


def test_captions_are_cut_to_their_bucket_and_come_back_in_order():
    mesh = sharding.make_mesh()
    # Two batches: the long ones, and the short ones.
    lengths = np.random.default_rng(0).permutation([20, 4] * mesh.size)
    student = Dual(widths=([],))
    encoder = Encoder(student, mesh, batch_size=mesh.size)
    cross, uni = embedding.encode_texts(encoder, jnp.float32(2), tokens(lengths))
    assert student.widths[0] == [24, 16]
    whole = Dual(
        inputs=dataclasses.replace(student.inputs, text=Text(LENGTH, VOCAB_SIZE, pad_id=7, may_cut=False))
    )
    expected = embedding.encode_texts(Encoder(whole, mesh, 8), jnp.float32(2), tokens(lengths))
    assert set(whole.widths[0]) == {LENGTH}
    np.testing.assert_allclose(cross, expected[0], rtol=1e-6)
    np.testing.assert_allclose(uni, expected[1], rtol=1e-6)


def test_images_come_in_batches_without_the_unreadable(table):
    table.image_paths[2].write_bytes(b"no image")
    images = ImageFiles(table.image_paths)
    encoder = Encoder(Dual(), sharding.make_mesh(), batch_size=2)
    numbers, (cross, uni) = embedding.encode_images(encoder, jnp.float32(1), images, on_bad_image="skip")
    assert numbers.tolist() == [0, 1, 3, 4]
    colours = [np.asarray(Image.open(table.image_paths[n])).mean((0, 1)) for n in numbers]
    for n, colour in enumerate(colours):
        np.testing.assert_allclose(cross[n], colour / np.linalg.norm(colour), rtol=1e-5)
        np.testing.assert_allclose(uni[n], (colour + 1) / np.linalg.norm(colour + 1), rtol=1e-5)
    with pytest.raises(InputError, match=r"2\.png: not a readable image"):
        embedding.encode_images(encoder, jnp.float32(1), images)


def test_a_student_without_embeddings_is_scored_in_blocks(monkeypatch):
    student, rng = Cross(), np.random.default_rng(0)
    encoder = Encoder(student, sharding.make_mesh(), batch_size=16)
    pixels = rng.integers(0, 9, (9, SIZE, SIZE, 3), np.uint8)
    ids = tokens([20, 3, 30, 2, 5, 6, 7])
    images = encoder.side(jnp.float32(0.3), "image", pixels)
    texts = embedding.encode_texts(encoder, jnp.float32(0.3), ids)
    words = np.where(ids == 7, 0, ids).sum(1)
    expected = np.cos(0.3 * pixels.mean((1, 2)).sum(1)[:, None] + words)
    kept = embedding.scores(encoder, jnp.float32(0.3), images, texts)
    assert isinstance(kept, Matrix)
    np.testing.assert_allclose(kept.values, expected, atol=1e-4)
    monkeypatch.setattr(embedding, "_KEPT", 0)
    monkeypatch.setattr(embedding, "_TILE", 4)
    blocks = embedding.scores(encoder, jnp.float32(0.3), images, texts)
    assert isinstance(blocks, Blocks)
    np.testing.assert_allclose(blocks.matrix().values, expected, atol=1e-4)
    np.testing.assert_allclose(blocks.rows("t2i", np.array([5, 0])), expected.T[[5, 0]], atol=1e-4)


def test_what_such_a_student_cannot_do_is_said_in_a_line(table):
    source = StudentSource("run", Cross(), jnp.float32(1), sharding.make_mesh(), 16, 0)
    captioned = source.captioned("coco", CaptionedImages(table, lambda inputs: ImageFiles(table.image_paths)))
    assert captioned.scores.shape == (5, 10)
    assert captioned.uni_image is None
    assert captioned.cross_head == "scores of pairs"
    for ask in (
        lambda: source.sentences(["a"]),
        lambda: source.labelled("cub", SimpleNamespace(paths=table.image_paths, labels=np.zeros(5))),
        lambda: Encoder(Cross(), sharding.make_mesh(), 16).images(None, np.zeros((1, 4, 4, 3))),
    ):
        with pytest.raises(
            InputError, match="family 'cross' has no embeddings: it sees an image and a text together"
        ):
            ask()


def test_a_student_of_regions_is_given_no_pictures(table):
    student = Dual(inputs=Inputs(Regions(36, 8), Text(LENGTH, 100)))
    encoder, images = Encoder(student, sharding.make_mesh(), 4), ImageFiles(table.image_paths)
    with pytest.raises(InputError, match=r"0\.png: is a picture, and the model takes features of regions"):
        embedding.encode_images(encoder, jnp.float32(1), images)


def test_one_with_embeddings_is_scored_by_their_inner_products(table):
    source = StudentSource("run", Dual(), jnp.float32(1), sharding.make_mesh(), 4, 0)
    captioned = source.captioned(
        "flickr30k", CaptionedImages(table, lambda inputs: ImageFiles(table.image_paths))
    )
    assert isinstance(captioned.scores, InnerProducts)
    # Of its heads it has cross-modal ones alone, which serve within a modality too.
    assert captioned.uni_image is captioned.scores.images
