"""A live teacher over a whole split gives every sample its own feature."""

import jax.numpy as jnp
import numpy as np

from cusa_jax.data.pipeline import image_batches
from cusa_jax.inputs import Pixels
from cusa_jax.sharding import make_mesh
from cusa_jax.teachers.encoding import encode_all, text_batches
from cusa_jax.types import Teacher

BATCH = 8


def gathered(found, samples):
    numbers, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert sorted(numbers.tolist()) == list(range(samples))
    return features[np.argsort(numbers)]


def test_images(world_train):
    weights = np.random.default_rng(0).normal(size=(8 * 8 * 3, 24)).astype(np.float32)

    def apply(params, pixels):
        return pixels.reshape(len(pixels), -1).astype(jnp.float32) / 255 @ params

    images = world_train.images
    count = len(images)
    inputs = image_batches(images, Pixels(8), batch_size=BATCH)
    found = gathered(
        encode_all(Teacher("linear", apply, "pixels", Pixels(8)), weights, inputs, make_mesh(fsdp=2)), count
    )
    pixels = np.stack([images.read(n, Pixels(8))[0] for n in range(count)])
    (numbers, rest), *_ = image_batches(images, Pixels(8), batch_size=BATCH, first=3)
    np.testing.assert_array_equal(numbers, np.arange(3, 3 + BATCH))
    np.testing.assert_array_equal(rest, pixels[3 : 3 + BATCH])
    np.testing.assert_allclose(found, apply(weights, pixels), rtol=1e-4, atol=1e-4)


def test_texts(world_train):
    """A feature of the letters and the words of a caption, from batches of one length, the longest first."""
    captions = world_train.captions
    lengths = np.array([len(caption.split()) for caption in captions])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)
    letters = np.array([[len(caption)] for caption in captions], np.int32)
    text = {"input_ids": mask * letters, "attention_mask": mask}

    def apply(params, text):
        return jnp.stack([text["input_ids"][:, 0], text["attention_mask"].sum(1)], 1).astype(jnp.float32)

    teacher = Teacher("counting", apply, "text")
    found = gathered(encode_all(teacher, {}, text_batches(text, BATCH), make_mesh(fsdp=2)), len(captions))
    np.testing.assert_array_equal(found, np.concatenate([letters, lengths[:, None]], 1))
    whole = list(text_batches(text, BATCH))
    assert np.all(np.diff([lengths[numbers].max() for numbers, _ in whole]) <= 0)
    order = np.concatenate([numbers for numbers, _ in whole])
    rest = np.concatenate([numbers for numbers, _ in text_batches(text, 5, first=11)])
    np.testing.assert_array_equal(rest, order[11:])
