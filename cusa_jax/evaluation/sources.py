"""Where embeddings come from: a model that encodes a dataset, or a file of arrays that somebody computed.

Both answer the same three questions, one a kind of suite. `suites.py` says which files a model reads. The keys of
an .npz, each with the dataset's name before it (`coco/image`):

    flickr30k, coco   image [M, D], text [N, D]: cross-modal embeddings; or scores [M, N], of any model
                      caption_image int [N]: the image of each caption
                      uni_image, uni_text: for CxC within a modality; image and text serve where they are absent
                      image_ids [M], caption_ids int [N]: COCO's, for ECCV Caption and CxC
    cub, sop, inat    features [n, D], labels [n]
    inshop            query [Q, D], query_labels [Q], gallery [G, D], gallery_labels [G]
    sts               sentences [K] (white space collapsed), features [K, D]
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from cusa_jax import sharding
from cusa_jax.data.captions import CaptionTable, clean_captions
from cusa_jax.data.labelled_images import LabelledImages
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.tokenize import ClipTokenizer, by_length, text_lengths
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.evaluation.recall import Scores, normalised
from cusa_jax.inputs import Pixels
from cusa_jax.models.clip import preset_name
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.teachers.encoding import encode_all, text_batches
from cusa_jax.types import Params, Teacher

CROSS = "cross-modal head"
GIVEN = "as given"


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Images and captions of one split, embedded. uni_image, uni_text: of length 1, None where there are none."""

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


class Source(Protocol):
    """What a suite asks for. Each raises InputError where it has no such thing; `needs_data` says whether it reads
    datasets itself, `architecture` the preset (`models.clip.PRESETS`) with its sizes, None without one."""

    name: str
    needs_data: bool
    architecture: str | None

    def captioned(self, name: str, table: CaptionTable | None) -> Captioned: ...

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled: ...

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        """Features [n, D] of any sentences, and the head that they come from."""


class ModelSource:
    """A dual encoder. Uni-modal tasks use the uni-modal heads; a model without them, trained on the contrastive
    loss or CSA, uses its cross-modal heads, and one without heads CLIP's features (reference
    evaluation_img.py:196-199)."""

    needs_data = True

    def __init__(
        self, name: str, model: DualEncoder, params: Params, mesh: Mesh, batch_size: int, workers: int
    ):
        self.name, self.architecture = name, preset_name(model.clip)
        self._encoder, self._params, self._workers = Encoder(model, mesh, batch_size), params, workers
        self._cross_head = CROSS if model.cross_heads else "CLIP features"
        self._uni_head = "uni-modal head" if model.uni_heads else self._cross_head
        self._uni = int(model.uni_heads)

    def captioned(self, name: str, table: CaptionTable | None) -> Captioned:
        assert table is not None
        images = self._images(name, table.image_paths)
        texts = self._texts(clean_captions(table.captions), name)
        return Captioned(
            scores=Scores.of_embeddings(images[0], texts[0]),
            caption_image=table.caption_image,
            image_ids=table.image_names,
            caption_ids=table.caption_ids,
            uni_image=images[self._uni],
            uni_text=texts[self._uni],
            cross_head=self._cross_head,
            uni_head=self._uni_head,
        )

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        assert images is not None
        features = self._images(f"{name} {part}".strip(), images.paths)[self._uni]
        return Labelled(features, images.labels, self._uni_head)

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        return self._texts(texts, "sts")[self._uni], self._uni_head

    def _images(self, label: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        size = self._encoder.batch_size
        pixels_spec = Pixels(self._encoder.image_size)
        batches = image_batches(ImageFiles(paths), pixels_spec, batch_size=size, workers=self._workers)
        parts = []
        with tqdm(total=len(paths), desc=f"{label}: images", unit="image", leave=False, delay=1) as progress:
            try:
                for numbers, pixels in batches:
                    cross, uni = self._encoder.images(self._params, pixels)
                    parts.append((cross[: len(numbers)], uni[: len(numbers)]))
                    progress.update(len(numbers))
            except InputError as error:
                raise InputError(
                    f"{error}; the protocol counts every image: bring it back, or take it out of the dataset's files"
                ) from error
        cross, uni = (np.concatenate(side) for side in zip(*parts, strict=True))
        return cross, uni

    def _texts(self, texts: list[str], label: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, _ = ClipTokenizer()(texts, self._encoder.context_length)
        size = self._encoder.batch_size
        batches = by_length(text_lengths(tokens), size)
        order, parts = [], []
        for rows, width in tqdm(
            batches, f"{label}: texts", -(-len(texts) // size), unit="batch", leave=False, delay=1
        ):
            order.append(rows)
            parts.append(self._encoder.texts(self._params, tokens[rows, :width]))
        back = np.argsort(np.concatenate(order))
        cross, uni = (np.concatenate(side)[back] for side in zip(*parts, strict=True))
        return cross, uni


class TextSource:
    """A sentence encoder by itself, such as a text teacher: it can only do STS."""

    needs_data = True
    architecture: str | None = None

    def __init__(self, teacher: Teacher, params: Params, mesh: Mesh, batch_size: int):
        self.name, self._mesh = teacher.name, mesh
        self._teacher, self._params = teacher, sharding.put_params(params, mesh)
        self._batch_size = sharding.round_up(batch_size, mesh.size)

    def captioned(self, name: str, table: CaptionTable | None) -> Captioned:
        raise InputError(f"{self.name} encodes sentences only: it sees no images")

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        raise InputError(f"{self.name} encodes sentences only: it sees no images")

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        assert self._teacher.tokenize is not None
        batches = text_batches(self._teacher.tokenize(texts), self._batch_size)
        found = encode_all(self._teacher, self._params, batches, self._mesh)
        shown = tqdm(
            found, "sts: texts", -(-len(texts) // self._batch_size), unit="batch", leave=False, delay=1
        )
        numbers, features = (np.concatenate(parts) for parts in zip(*shown, strict=True))
        return features[np.argsort(numbers)], "sentence features"


class ArraySource:
    """An .npz of embeddings; the keys are in the module's docstring."""

    needs_data = False
    architecture: str | None = None

    def __init__(self, path: str | Path):
        self.name = str(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays: dict[str, np.ndarray] = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a readable .npz of plain arrays ({error})") from error

    def captioned(self, name: str, table: CaptionTable | None) -> Captioned:
        get = self._getter(name)
        if (scores := get("scores")) is not None:
            found = Scores.of_matrix(scores)
        else:
            found = Scores.of_embeddings(self._need(name, "image"), self._need(name, "text"))
        image_ids = get("image_ids")
        uni_image, uni_text = (
            get(f"uni_{side}") if get(f"uni_{side}") is not None else get(side) for side in ("image", "text")
        )
        return Captioned(
            scores=found,
            caption_image=self._need(name, "caption_image"),
            image_ids=[] if image_ids is None else [str(value) for value in image_ids.tolist()],
            caption_ids=get("caption_ids"),
            uni_image=None if uni_image is None else normalised(uni_image, f"{name}/uni_image"),
            uni_text=None if uni_text is None else normalised(uni_text, f"{name}/uni_text"),
            cross_head=GIVEN,
            uni_head=GIVEN,
        )

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        keys = (part, f"{part}_labels") if part else ("features", "labels")
        return Labelled(self._need(name, keys[0]), self._need(name, keys[1]), GIVEN)

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        row = {str(text): n for n, text in enumerate(self._need("sts", "sentences").tolist())}
        if missing := [text for text in texts if text not in row]:
            raise InputError(
                f"{self.name}: sts/sentences lacks {len(missing)} sentences, such as {missing[0]!r}"
            )
        return self._need("sts", "features")[[row[text] for text in texts]], GIVEN

    def _getter(self, name: str) -> Any:
        return lambda key: self._arrays.get(f"{name}/{key}")

    def _need(self, name: str, key: str) -> np.ndarray:
        value = self._arrays.get(f"{name}/{key}")
        if value is None:
            raise InputError(f"{self.name} has no {name}/{key}")
        return value
