"""Where embeddings come from: a student that encodes a dataset, or a file of arrays that somebody computed.

All answer the same four questions, one a kind of suite. The suites say which files a student reads. The keys of an
.npz, each with the dataset's name before it (`coco/image`), or with the name of
a suite of one's own:

    flickr30k, coco   image [M, D], text [N, D]: cross-modal embeddings; or scores [M, N], of any model
                      caption_image int [N]: the image of each caption
                      uni_image, uni_text: for CxC within a modality; image and text serve where they are absent
                      image_ids [M], caption_ids int [N]: COCO's, for ECCV Caption and CxC
    cub, sop, inat    features [n, D], labels [n]
    zeroshot          image [M, D], classes [C, D]; or scores [M, C]; labels int [M], of 0 … C-1
    inshop            query [Q, D], query_labels [Q], gallery [G, D], gallery_labels [G]
    sts               sentences [K] (white space collapsed), features [K, D]
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from cusa_jax import embedding, sharding
from cusa_jax.data.captions import clean_captions
from cusa_jax.data.classes import Classes
from cusa_jax.data.labelled_images import LabelledImages
from cusa_jax.data.sources import ImageFiles, ImageSource, as_shown
from cusa_jax.data.splits import CaptionedImages
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.evaluation.scores import InnerProducts, Matrix, Scores, normalised
from cusa_jax.models.families import preset_name
from cusa_jax.models.student import Embeds, Student, UniModal, Variables
from cusa_jax.progress import progress
from cusa_jax.teachers.encoding import encode_all, text_batches
from cusa_jax.types import Params, Teacher

GIVEN = "as given"


@dataclasses.dataclass(frozen=True)
class Captioned:
    """M images and N captions of one split, scored.

    caption_image: int [N], of 0 … M-1. image_ids: M, or none. caption_ids: int64 [N], or None.
    uni_image, uni_text: uni-modal embeddings of length 1, None where there are none.
    """

    scores: Scores
    caption_image: np.ndarray
    image_ids: list[str]
    caption_ids: np.ndarray | None
    uni_image: np.ndarray | None
    uni_text: np.ndarray | None
    cross_head: str
    uni_head: str


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Features [n, D] of images with class labels [n]."""

    features: np.ndarray
    labels: np.ndarray
    head: str


@dataclasses.dataclass(frozen=True)
class Classified:
    """Scores [M, C] of M images and C classes, and the right class of each image, int [M]."""

    scores: Scores
    labels: np.ndarray
    head: str


class EmbeddingSource(Protocol):
    """What a suite asks for. Each method raises InputError where the source has no such thing.

    needs_data: whether it must be given the datasets. architecture: the preset with its sizes, None without one.
    """

    name: str
    needs_data: bool
    architecture: str | None

    def captioned(self, name: str, split: CaptionedImages | None) -> Captioned: ...

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled: ...

    def classified(self, name: str, classes: Classes | None) -> Classified: ...

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        """Features [n, D] of any sentences, and the head that they come from."""


class StudentSource:
    """A student with its variables, on the mesh.

    Uni-modal tasks use the uni-modal heads; a student without them, trained on the contrastive loss or CSA, uses
    its cross-modal heads, and one without heads its towers' features (reference evaluation_img.py:196-199). A
    student without embeddings has scores alone.

    shown: one's own pictures are seen as viewers show them; those of the paper's suites are seen as its code does.
    """

    needs_data = True

    def __init__(
        self,
        name: str,
        student: Student,
        variables: Variables,
        mesh: Mesh,
        batch_size: int,
        workers: int,
        shown: bool = False,
    ):
        self._shown = shown
        self.name, self._encoder = name, Encoder(student, mesh, batch_size)
        self._student, self._variables, self._workers = self._encoder.student, variables, workers
        self.architecture = preset_name(self._student.sizes)
        heads = self._student.heads if isinstance(self._student, Embeds) else ()
        self._cross_head = "cross-modal head" if "cross" in heads else "CLIP features"
        self._uni_head = "uni-modal head" if "uni" in heads else self._cross_head
        if isinstance(self._student, UniModal):
            self._uni_head = "global representation"
        self._uni = int("uni" in heads)

    def check_embeds(self) -> None:
        """As `Encoder.check_embeds`."""
        self._encoder.check_embeds()

    def captioned(self, name: str, split: CaptionedImages | None) -> Captioned:
        assert split is not None
        table = split.table
        images = self._images(name, self._seen(split.images(self._student.inputs), split.own))
        cleaned = self._student.inputs.text.cleaned
        texts = self._texts(name, clean_captions(table.captions) if cleaned else table.captions)
        embeds = self._encoder.embeds
        known = embeds or isinstance(self._student, UniModal)
        return Captioned(
            scores=embedding.scores(self._encoder, self._variables, images, texts),
            caption_image=table.caption_image,
            image_ids=table.image_names,
            caption_ids=table.caption_ids,
            uni_image=self._uni_of(images) if known else None,
            uni_text=self._uni_of(texts) if known else None,
            cross_head=self._cross_head if embeds else "scores of pairs",
            uni_head=self._uni_head,
        )

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        assert images is not None
        features = self._uni_of(self._images(f"{name} {part}".strip(), ImageFiles(images.paths)))
        return Labelled(features, images.labels, self._uni_head)

    def classified(self, name: str, classes: Classes | None) -> Classified:
        assert classes is not None
        prompts = [prompt for of_class in classes.prompts for prompt in of_class]
        if self._student.inputs.text.cleaned:
            prompts = clean_captions(prompts)
        texts = self._texts(name, prompts)
        images = self._images(name, self._seen(ImageFiles(classes.images.paths), classes.own))
        shape = (len(classes.names), len(classes.templates), -1)
        if not self._encoder.embeds:
            pairs = embedding.scores(self._encoder, self._variables, images, texts)
            of_prompts = pairs.rows("i2t", np.arange(len(classes.images.paths)))
            scores: Scores = Matrix(of_prompts.T.reshape(shape).mean(1).T)
            return Classified(scores, classes.images.labels, "scores of pairs")
        means = normalised(np.asarray(texts[0]).reshape(shape).mean(1), f"{self.name}: classes")
        return Classified(InnerProducts(images[0], means), classes.images.labels, self._cross_head)

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        return self._uni_of(self._texts("sts", texts)), self._uni_head

    def _uni_of(self, encoded: Any) -> np.ndarray:
        """Uni-modal embeddings of length 1 in what was encoded. Raises InputError for a student without any."""
        if isinstance(self._student, UniModal):
            return normalised(self._student.uni(encoded), f"{self.name}: uni-modal embeddings")
        self._encoder.check_embeds()
        return np.asarray(encoded[self._uni])

    def _seen(self, images: ImageSource, own: bool) -> ImageSource:
        """Raises InputError where pixels are stored that are seen in the other way."""
        shown = own and self._shown
        to_own = f"set --as_shown={str(not shown).lower()}"
        return as_shown(images, shown, to_own if own else "name it as your own, --suite=NAME=PATH")

    def _images(self, label: str, images: ImageSource) -> Any:
        try:
            return embedding.encode_images(
                self._encoder, self._variables, images, workers=self._workers, label=label
            )[1]
        except InputError as error:
            raise InputError(
                f"{error}; the protocol counts every image: bring it back, or take it out of the dataset's files"
            ) from error

    def _texts(self, label: str, texts: list[str]) -> Any:
        tokens, _ = tokenizer(self._student.inputs.text)(texts)
        return embedding.encode_texts(self._encoder, self._variables, tokens, label=label)


class SentenceSource:
    """A sentence encoder by itself, such as a text teacher: it can only do STS."""

    needs_data = True
    architecture: str | None = None

    def __init__(self, teacher: Teacher, params: Params, mesh: Mesh, batch_size: int):
        self.name, self._mesh, self._teacher = teacher.name, mesh, teacher
        self._params = sharding.put_params(params, mesh)
        self._batch_size = sharding.round_up(batch_size, mesh.size)

    def captioned(self, name: str, split: CaptionedImages | None) -> Captioned:
        raise InputError(f"{self.name} encodes sentences only: it sees no images")

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        raise InputError(f"{self.name} encodes sentences only: it sees no images")

    def classified(self, name: str, classes: Classes | None) -> Classified:
        raise InputError(f"{self.name} encodes sentences only: it sees no images")

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        assert self._teacher.tokenize is not None
        batches = text_batches(self._teacher.tokenize(texts), self._batch_size)
        encoded = progress(
            encode_all(self._teacher, self._params, batches, self._mesh),
            what="sts: texts",
            total=-(-len(texts) // self._batch_size),
            unit="batch",
        )
        numbers, features = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
        return features[np.argsort(numbers)], "sentence features"


class ArraySource:
    """An .npz of embeddings; the keys are in the module's docstring."""

    needs_data = False
    architecture: str | None = None

    def __init__(self, path: str | Path):
        self.name = str(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                self._arrays: dict[str, np.ndarray] = dict(file)
        # A damaged archive or header can make zipfile, zlib and numpy raise almost anything.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a readable .npz of plain arrays ({reason})") from error

    def captioned(self, name: str, split: CaptionedImages | None) -> Captioned:
        scores = self._scores(name, "text")
        images, captions = scores.shape
        caption_image = self._whole_numbers(name, "caption_image", captions)
        if caption_image.min(initial=0) < 0 or caption_image.max(initial=0) >= images:
            raise InputError(f"{self.name}: {name}/caption_image names an image beyond the {images}")
        has_ids = f"{name}/caption_ids" in self._arrays
        return Captioned(
            scores=scores,
            caption_image=caption_image,
            image_ids=self._image_ids(name, images),
            caption_ids=self._whole_numbers(name, "caption_ids", captions) if has_ids else None,
            uni_image=self._uni(name, "image", images),
            uni_text=self._uni(name, "text", captions),
            cross_head=GIVEN,
            uni_head=GIVEN,
        )

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        keys = (part, f"{part}_labels") if part else ("features", "labels")
        return Labelled(self._need(name, keys[0]), self._need(name, keys[1]), GIVEN)

    def classified(self, name: str, classes: Classes | None) -> Classified:
        scores = self._scores(name, "classes")
        return Classified(scores, self._whole_numbers(name, "labels", scores.shape[0]), GIVEN)

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        sentences, features = self._need("sts", "sentences"), self._need("sts", "features")
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise InputError(
                f"{self.name}: sts/features {features.dtype} {features.shape} should be numbers [sentences, width]"
            )
        self._check_rows("sts", "sentences", sentences, len(features))
        row = {str(text): n for n, text in enumerate(sentences.tolist())}
        if missing := [text for text in texts if text not in row]:
            raise InputError(
                f"{self.name}: sts/sentences lacks {len(missing)} sentences, such as {missing[0]!r}"
            )
        return features[[row[text] for text in texts]], GIVEN

    def _scores(self, name: str, side: str) -> Scores:
        if f"{name}/scores" in self._arrays:
            return Matrix(self._arrays[f"{name}/scores"])
        return InnerProducts.cosines(self._need(name, "image"), self._need(name, side))

    def _uni(self, name: str, side: str, count: int) -> np.ndarray | None:
        key = f"uni_{side}" if f"{name}/uni_{side}" in self._arrays else side
        if f"{name}/{key}" not in self._arrays:
            return None
        features = normalised(self._need(name, key), f"{name}/{key}")
        if len(features) != count:
            raise InputError(
                f"{self.name}: {name}/{key} has {len(features)} rows, but there are {count} {side}s"
            )
        return features

    def _image_ids(self, name: str, images: int) -> list[str]:
        if f"{name}/image_ids" not in self._arrays:
            return []
        ids = self._need(name, "image_ids")
        self._check_rows(name, "image_ids", ids, images)
        return [str(value) for value in ids.tolist()]

    def _whole_numbers(self, name: str, key: str, count: int) -> np.ndarray:
        numbers = self._need(name, key)
        self._check_rows(name, key, numbers, count)
        if numbers.dtype.kind not in "iu":
            raise InputError(f"{self.name}: {name}/{key} is {numbers.dtype}, but should be whole numbers")
        return numbers.astype(np.int64)

    def _check_rows(self, name: str, key: str, values: np.ndarray, count: int) -> None:
        if values.shape != (count,):
            raise InputError(f"{self.name}: {name}/{key} is {list(values.shape)}, but should be [{count}]")

    def _need(self, name: str, key: str) -> np.ndarray:
        value = self._arrays.get(f"{name}/{key}")
        if value is None:
            raise InputError(f"{self.name} has no {name}/{key}")
        return value
