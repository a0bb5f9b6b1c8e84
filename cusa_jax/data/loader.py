"""One training batch: step in, arrays out. What the loader processes run."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from cusa_jax.data.augment import NONE, Augmentation
from cusa_jax.data.order import batch_rows
from cusa_jax.data.prefetch import OnBadImage, decode_all, way_out
from cusa_jax.data.sources import ImageSource
from cusa_jax.data.tokenize import text_length_bucket, text_lengths
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels
from cusa_jax.types import Batch


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BatchLoader:
    """Step -> this process's rows, and what was unreadable. Sent to the loader processes.

    teacher_partner, teacher_caption: int32, the image and the caption the teachers see in the place of each.
    teacher_image: None where the image teacher needs no pixels of its own.
    """

    images: ImageSource
    caption_image: np.ndarray
    tokens: np.ndarray
    teacher_text: dict[str, np.ndarray] | None
    teacher_partner: np.ndarray
    teacher_caption: np.ndarray
    inputs: Inputs
    teacher_image: Pixels | None
    batch_size: int
    seed: int
    local_rows: slice
    on_bad_image: OnBadImage
    cut_text: bool
    threads: int
    augmentation: Augmentation = NONE

    def __call__(self, step: int) -> tuple[Batch, list[str]]:
        planned = batch_rows(step, rows=len(self.tokens), batch_size=self.batch_size, seed=self.seed)
        width, teacher_width = self._widths(planned)
        mine = planned[self.local_rows]
        specs = [self.inputs.image, *([self.teacher_image] if self.teacher_image else [])]
        arrays = [np.empty((len(mine), *spec.shape), spec.dtype) for spec in specs]
        source = self.augmentation.of(self.images, self.seed, step)
        with way_out():
            kept, errors = self._read(source, arrays, mine, width, teacher_width)
        images, teacher_rows = self.caption_image[kept], self.teacher_caption[kept]
        batch = Batch(
            image=arrays[0],
            tokens=self.tokens[kept, :width],
            image_index=images,
            caption_index=kept,
            teacher_index_image=self.teacher_partner[images],
            teacher_index_text=teacher_rows,
            teacher_image=arrays[1] if self.teacher_image else None,
            teacher_text={key: ids[teacher_rows, :teacher_width] for key, ids in self.teacher_text.items()}
            if self.teacher_text
            else None,
            replaced=kept != mine if self.on_bad_image == "skip" else None,
        )
        return batch, errors

    def _widths(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens that all texts of a global batch are cut to, student's and teacher's: the same on every process.

        One width for both where both may be cut, so that there are as many shapes as buckets, not as pairs of them.
        """
        student = text_lengths(self.tokens[rows], self.inputs.text.pad_id)
        teacher = text_lengths(self._teacher_mask(rows)) if self.teacher_text else student[:0]
        whole = self.tokens.shape[1]
        if not self.cut_text:
            return whole, self.teacher_text["attention_mask"].shape[1] if self.teacher_text else whole
        if self.inputs.text.may_cut:
            width = text_length_bucket(np.concatenate([student, teacher]))
            return width, width
        return whole, text_length_bucket(teacher) if self.teacher_text else whole

    def _teacher_mask(self, captions: np.ndarray | int) -> np.ndarray:
        """Attention mask int32 [..., L'] of what the text teacher sees in the place of `captions`."""
        assert self.teacher_text
        return self.teacher_text["attention_mask"][self.teacher_caption[captions]]

    def _read(
        self,
        source: ImageSource,
        arrays: list[np.ndarray],
        planned: np.ndarray,
        width: int,
        teacher_width: int,
    ) -> tuple[np.ndarray, list[str]]:
        """Fills `arrays`, decoding each image once. Returns the caption rows int32 [B] that are in them, and errors.

        In the place of a row whose image is unreadable comes the next one, cyclically, that is usable.
        """
        rows, errors = planned.astype(np.int32), dict[int, InputError]()
        missing = np.ones(len(rows), bool)
        while missing.any():
            images = self.caption_image[rows]
            decode = functools.partial(self._decode, source, arrays, images)
            wanted = np.unique(images[missing]).tolist()
            results = decode_all(decode, wanted, self.on_bad_image, self.threads)
            errors |= {image: error for image, error in results.items() if error}
            missing = np.isin(images, list(errors))
            replacements = [
                self._next_usable(row, width, teacher_width, errors) for row in rows[missing].tolist()
            ]
            rows[missing] = replacements
        return rows, [str(error) for error in errors.values()]

    def _next_usable(self, row: int, width: int, teacher_width: int, errors: dict[int, InputError]) -> int:
        """The first row from `row` on whose image is not known to be unreadable and whose texts fit the widths."""
        for candidate in itertools.chain(range(row, len(self.tokens)), range(row)):
            if self.caption_image[candidate] in errors:
                continue
            if (self.tokens[candidate, width:] != self.inputs.text.pad_id).any():
                continue
            if self.teacher_text and self._teacher_mask(candidate)[teacher_width:].any():
                continue
            return candidate
        first = next(iter(errors.values()))
        raise InputError(f"no caption left whose image can be read; the first error: {first}")

    def _decode(self, source: ImageSource, arrays: list[np.ndarray], images: np.ndarray, image: int) -> None:
        """Writes an image to every place of it in `images`, at once: what is still in the cache copies fast."""
        for batch, decoded in zip(arrays, self._arrays(source, image), strict=True):
            batch[images == image] = decoded

    def _arrays(self, source: ImageSource, image: int) -> list[np.ndarray]:
        """What the student sees and, where it needs pixels of its own, the image teacher."""
        if self.teacher_image is None:
            return source.read(image, self.inputs.image)
        if (partner := int(self.teacher_partner[image])) == image:
            return source.read(image, self.inputs.image, self.teacher_image)
        return [
            *source.read(image, self.inputs.image),
            *source.read(partner, self.teacher_image),
        ]
