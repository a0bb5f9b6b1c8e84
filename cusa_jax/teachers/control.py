"""Features of a batch from its teachers, and the controls: teachers that know nothing.

A gain that a control reproduces is label smoothing, not the teacher's knowledge.
'shuffled' is a fixed permutation of the samples the teachers see: the data pipeline feeds it, nothing differs here.
'uniform' gives every sample its own random direction, so that all others look equally (un)like it.
"""

import functools

import jax

from cusa_jax.types import Batch, Params, Teacher, Teachers

UNIFORM_DIM = 512


def teacher_features(teachers: Teachers, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(image features [B, D], text features [B, D']), float32. params: {'image': …, 'text': …}."""
    pixels = batch.image if batch.teacher_image is None else batch.teacher_image
    image = _apply(teachers.image, params["image"], pixels, None, batch.teacher_index_image)
    text = _apply(teachers.text, params["text"], None, batch.teacher_text, batch.teacher_index_text)
    return image, text


def uniform_teachers() -> Teachers:
    """The 'uniform' control: features are functions of the sample's number alone."""

    def teacher(side: int) -> Teacher:
        return Teacher("uniform", {}, functools.partial(_random_directions, side), "index")

    return Teachers(image=teacher(0), text=teacher(1))


def _apply(teacher: Teacher, params: Params, pixels, text, index) -> jax.Array:
    return teacher.apply(params, {"pixels": pixels, "text": text, "index": index}[teacher.inputs])


def _random_directions(side: int, _: Params, index: jax.Array) -> jax.Array:
    """float32 [B, UNIFORM_DIM], nearly orthogonal between samples."""
    root = jax.random.key(side)
    return jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(root, n), (UNIFORM_DIM,)))(index)
