"""The features that a training step compares: both teachers applied to one batch."""

import jax

from cusa_jax.teachers.scale import in_range
from cusa_jax.types import Batch, Params, Teacher, Teachers


def teacher_features(teachers: Teachers, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns (image features [B, D], text features [B, D']), float32, of any direction but of a moderate scale.

    params: {'image': …, 'text': …}, the parameters of the two teachers.
    """
    pixels = batch.image if batch.teacher_image is None else batch.teacher_image
    image = _apply(teachers.image, params["image"], pixels, None, batch.teacher_index_image)
    text = _apply(teachers.text, params["text"], None, batch.teacher_text, batch.teacher_index_text)
    return in_range(image), in_range(text)


def _apply(teacher: Teacher, params: Params, pixels, text, index) -> jax.Array:
    return teacher.apply(params, {"pixels": pixels, "text": text, "index": index}[teacher.inputs])
