"""What flows between the parts: batches, embeddings, similarities, teachers, the training state.

Shapes: B rows of a (global) batch, each one caption with its image; H = W image size; L token length;
E embedding width; D teacher feature width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from flax import struct

from cusa_jax.inputs import Pixels

Params = Any  # a pytree of arrays
Array = Any  # numpy on the host, jax.Array on device


@struct.dataclass
class Batch:
    """One training batch. Host work on pixels stays uint8; normalisation happens on device.

    image: what the student's `Inputs` ask for: uint8 [B, H, W, 3], resized, or float32 [B, R, D] of regions.
    tokens: int32 [B, L], ids of the student's vocabulary, filled up with its padding.
    image_index: int32 [B], number of the image in its split; equal numbers are joint positives.
    caption_index: int32 [B], number of the caption in its split.
    teacher_index_image, teacher_index_text: int32 [B], the image and the caption that the teachers see in
        place of them: the same, unless the teachers are shuffled.
    teacher_image: uint8 [B, H', W', 3] where the image teacher needs other pixels than `image`, else None.
    teacher_text: {'input_ids', 'attention_mask'}: int32 [B, L'] for a live text teacher, else None.
    replaced: bool [B], rows that stand in for one whose image was unreadable; None unless `on_bad_image='skip'`.
    """

    image: Array
    tokens: Array
    image_index: Array
    caption_index: Array
    teacher_index_image: Array
    teacher_index_text: Array
    teacher_image: Array | None = None
    teacher_text: dict[str, Array] | None = None
    replaced: Array | None = None


@struct.dataclass
class Embeddings:
    """What the student says of a batch, all [B, E], not normalised.

    A pair of heads that the losses do not use is absent; its fields then hold the raw CLIP features
    (reference unire/model.py:148-166).
    """

    cross_image: jax.Array
    cross_text: jax.Array
    uni_image: jax.Array
    uni_text: jax.Array


@struct.dataclass
class Similarities:
    """Cosine similarities of one batch, [..., B, B], float32 or wider: the interface between models and losses.

    A dual encoder fills them from embeddings (`similarity.py`); a cross-attention model can write
    `image_text` directly.

    image_text: S[i, t] between image i and caption t.
    image_image, text_text: between the images, and between the captions; the diagonal is kept. None of a model that
        has no uni-modal similarities, which terms that read them refuse.
    """

    image_text: jax.Array
    image_image: jax.Array | None = None
    text_text: jax.Array | None = None


@struct.dataclass
class SoftLabels:
    """How alike the frozen teachers find the samples: cosine similarities [..., B, B], not yet softmaxed."""

    image: jax.Array
    text: jax.Array


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen uni-modal encoder: a pure function, called inside the jitted train step.

    Its parameters are apart, as in Flax: who loads a teacher returns (teacher, params), params being a pytree of
    arrays (float32; of stored features their table as it is stored).

    name: for messages and logs.
    apply: (params, inputs) -> features [B, D] in float32; pure, traceable.
    inputs: what `apply` takes beside params:
        'pixels'  uint8 [B, image.size, image.size, 3];
        'text'    {'input_ids', 'attention_mask'} int32 [B, L];
        'index'   int32 [B], image (or caption) numbers: the features were computed beforehand.
    image: for 'pixels', what is to be delivered; `apply` itself subtracts the mean and divides by the std.
    tokenize: for 'text', captions -> {'input_ids', 'attention_mask'} int32 [N, L], padded to the longest.
    """

    name: str
    apply: Callable[[Params, Any], jax.Array]
    inputs: Literal["pixels", "text", "index"]
    image: Pixels | None = None
    tokenize: Callable[[list[str]], dict[str, np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True)
class Teachers:
    """The image teacher and the text teacher of a run."""

    image: Teacher
    text: Teacher


@struct.dataclass
class TrainState:
    """All that training changes.

    params: what gradients change, {'model': linen params, 'taus': {name: float32 []}}.
    model_state: the model's other linen collections, {'batch_stats': …} of a ResNet and {} of a ViT.
    """

    step: jax.Array
    params: Params
    model_state: Params
    opt_state: Any

    @property
    def variables(self) -> Params:
        """What the model's `apply` takes: {'params': …, and its other collections}."""
        return {"params": self.params["model"], **self.model_state}
