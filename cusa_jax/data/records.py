"""Preprocessed images and their token ids as a tensorflow-datasets dataset of ArrayRecord files.

One record per image, in the order of the caption file. `tfds.builder_from_directory` opens the result, here or in
any other program; TensorFlow is not needed. Importing this takes a second, so it is imported where it is used.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from cusa_jax.data.prefetch import OnBadImage, decode_all, threads_per_worker
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.progress import progress

if TYPE_CHECKING:
    from cusa_jax.data.splits import Split

SHARD_BYTES = 256 * 2**20  # of pixels; what a kill can cost
_NAME, _VERSION = "captioned_images", "1.0.0"
_CHECKSUMS = "checksums.json"
# Photographs compress by a fifth and would then cost four times the reading time; one record is one chunk.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def write(
    folder: Path, splits: Mapping[str, Split], pixels: Pixels, *, on_bad_image: OnBadImage = "error"
) -> None:
    """Writes the dataset to `folder`; after a kill, goes on behind the last finished file.

    splits: their tokens are equally wide.

    Finished files are read back and compared with the checksum of what was to be written; where the dataset is
    there already, this is all that happens. on_bad_image: 'skip' stores the message in place of the pixels.

    Raises InputError for an unreadable image, and for a finished dataset that is damaged.
    """
    target = folder / _NAME / _VERSION
    if (target / _CHECKSUMS).is_file():
        _verify(target)
        return
    shutil.rmtree(folder / _NAME, ignore_errors=True)  # what a killed run left are links to the staged files
    staging = _Staging(folder / "staging")
    total = sum(len(split.images) for split in splits.values())
    with progress(total=total, what="preparing", unit="image") as bar:
        builder = _Builder(folder, splits, pixels, on_bad_image, staging, bar)
        empty = str(staging.folder / "nothing")  # is downloaded, but tensorflow-datasets wants the folders
        builder.download_and_prepare(
            download_dir=empty, download_config=tfds.download.DownloadConfig(extract_dir=empty)
        )
    write_json(target / _CHECKSUMS, staging.checksums)
    shutil.rmtree(staging.folder)


def open_records(folder: Path, split: str) -> Callable[[int], dict[str, Any]]:
    """Reads 'pixels' and 'error' of an image by its number; the rest of a record is not parsed."""
    target = folder / _NAME / _VERSION
    if not target.is_dir():
        raise InputError(f"{folder}: not prepared to the end; run scripts/prepare.py again, it continues")
    builder = tfds.builder_from_directory(target)
    source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    wanted = tfds.features.FeaturesDict({name: builder.info.features[name] for name in ("pixels", "error")})
    return lambda image: wanted.deserialize_example_np(source[image])


class _Info(tfds.core.DatasetInfo):
    """The description of a dataset that nobody has published."""

    def initialize_from_bucket(self) -> None:
        """Looks nothing up; the original leaves a folder in the temporary directory each time."""


class _Builder(tfds.core.ShardBasedBuilder):
    """The dataset of tensorflow-datasets."""

    name = _NAME
    VERSION = tfds.core.Version(_VERSION)

    def __init__(
        self,
        folder: Path,
        splits: Mapping[str, Split],
        pixels: Pixels,
        on_bad_image: OnBadImage,
        staging: _Staging,
        progress: tqdm,
    ):
        self._splits, self._pixels, self._on_bad_image = splits, pixels, on_bad_image
        self._staging, self._progress = staging, progress
        super().__init__(data_dir=folder, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        (length,) = {split.tokens.shape[1] for split in self._splits.values()}
        return _Info(
            builder=self,
            features=features.FeaturesDict(
                {
                    "image_id": features.Text(),
                    "pixels": features.Tensor(shape=self._pixels.shape, dtype=np.uint8, encoding="bytes"),
                    "captions": features.Sequence(features.Text()),
                    "tokens": features.Tensor(shape=(None, length), dtype=np.int32),
                    "error": features.Text(),  # "" or why the image cannot be read
                }
            ),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        return {name: list(self._shards(name)) for name in self._splits}

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return self._staging

    def _shards(self, name: str) -> Iterator[Callable[[], Iterator[tuple[int, Any]]]]:
        images = len(self._splits[name].images)
        per_shard = max(1, SHARD_BYTES // math.prod(self._pixels.shape))
        starts = range(0, images, per_shard)
        for number, start in enumerate(starts):
            numbers = range(start, min(start + per_shard, images))
            file = f"{_NAME}-{name}.array_record-{number:05d}-of-{len(starts):05d}"
            yield functools.partial(self._examples, name, file, numbers)

    def _examples(self, name: str, file: str, numbers: range) -> Iterator[tuple[int, Any]]:
        split = self._splits[name]
        if self._staging.has(file):
            self._progress.initial += len(numbers)  # not part of the rate
            self._progress.update(len(numbers))
            yield from ((number, None) for number in numbers)  # tensorflow-datasets only counts them
            return

        def load(number: int) -> np.ndarray:
            (pixels,) = split.images.read(number, self._pixels)
            self._progress.update()
            return pixels

        captions_of = _by_image(split.table.caption_image, len(split.images))
        nothing = np.zeros(self._pixels.shape, np.uint8)
        for number, result in decode_all(load, numbers, self._on_bad_image, threads_per_worker(0)).items():
            failed = isinstance(result, InputError)
            captions = captions_of[number]
            example = {
                "image_id": split.table.image_ids[number],
                "pixels": nothing if failed else result,
                "captions": [split.captions[caption] for caption in captions],
                "tokens": split.tokens[captions],
                "error": str(result) if failed else "",
            }
            yield number, example


class _Staging(tfds.core.ExampleWriter):
    """Files that are finished while the dataset is not: tensorflow-datasets itself starts over after a kill."""

    def __init__(self, folder: Path):
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)
        self.folder = folder
        self.checksums: dict[str, str] = {}

    def has(self, file: str) -> bool:
        """Whether the file is finished and sound; a damaged one is written anew."""
        if file not in self.checksums and (known := self.folder / f"{file}.sha256").is_file():
            checksum = known.read_text()
            if _checksum(self.folder / file) == checksum:
                self.checksums[file] = checksum
        return file in self.checksums

    def write(self, path: os.PathLike, examples: Iterator[tuple[int, bytes]]) -> None:
        file = Path(path).name
        staged = self.folder / file
        if not self.has(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            intended = hashlib.sha256()
            writer = ArrayRecordWriter(str(staged), _WRITER_OPTIONS)
            for _, record in examples:
                writer.write(record)
                intended.update(record)
            writer.close()
            if _checksum(staged) != intended.hexdigest():
                raise InputError(
                    f"{staged}: does not read back as it was written; is the disk full, or failing?"
                )
            self.checksums[file] = intended.hexdigest()
            (self.folder / f"{file}.sha256").write_text(self.checksums[file])
        os.link(staged, path)


def _by_image(caption_image: np.ndarray, images: int) -> list[np.ndarray]:
    """Numbers of the captions of each image, in their order."""
    order = np.argsort(caption_image, kind="stable")
    return np.split(order, np.cumsum(np.bincount(caption_image, minlength=images))[:-1])


def _checksum(file: Path) -> str | None:
    """SHA-256 over the records as a reader gets them; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        source = ArrayRecordDataSource(str(file))
        for number in range(len(source)):
            digest.update(source[number])
    except Exception:  # whatever a missing or damaged file makes the library raise
        return None
    return digest.hexdigest()


def _verify(target: Path) -> None:
    way_out = f"delete {target.parent} and prepare again"
    checksums = read_json(target / _CHECKSUMS, way_out)
    damaged = [file for file, checksum in checksums.items() if _checksum(target / file) != checksum]
    if damaged:
        raise InputError(
            f"{target}: {damaged[0]} is damaged ({len(damaged)} of {len(checksums)} files); {way_out}"
        )
