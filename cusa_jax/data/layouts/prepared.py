"""A prepared folder as it is read: captions like any other folder, pixels and token ids computed beforehand.

prepared.json          what it was prepared for: pixels, text, checksums of the captions
{split}.json           the captions, in the reference's layout; image paths are those of the original files
{split}_relevance.npy  exact relevance, where the source has it
{split}_tokens.npy     uint16 [N, L] token ids of the cleaned captions; int32 of vocabularies over 65,536
captioned_images/      pixels, captions and tokens, one record per image (`records.py`)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cusa_jax.data.layouts import flat
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row
from cusa_jax.data.sources import ImageFiles, ImageSource
from cusa_jax.data.tokenize import VOCAB_SIZE, tokenizer_identity
from cusa_jax.errors import InputError, UnreadableImage, needs
from cusa_jax.inputs import ImageInputs, Inputs, Pixels
from cusa_jax.jsonfile import read_any_json, read_captions_json

if TYPE_CHECKING:
    from cusa_jax.data.caption_table import CaptionTable

MANIFEST = "prepared.json"
FORMAT = 2  # 1 knew nothing but CLIP's pixels and tokens
_OPENING = threading.Lock()  # two threads importing tensorflow-datasets at once can wait for each other


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """Images in records as `pixels`; in any other form from their files."""

    folder: Path
    split: str
    pixels: Pixels
    files: ImageFiles

    @property
    def as_shown(self) -> bool:
        return self.files.as_shown

    @property
    def names(self) -> Sequence[str]:
        return self.files.names

    def __len__(self) -> int:
        return len(self.files)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        others = [spec for spec in specs if spec.on_host != self.pixels]
        decoded = iter(self.files.read(image, *others) if others else ())
        return [self._stored(image) if spec.on_host == self.pixels else next(decoded) for spec in specs]

    def picture(self, image: int) -> Image.Image:
        try:
            return self.files.picture(image)
        except InputError:  # the originals need not be here any more
            return Image.fromarray(self._stored(image))

    def _stored(self, image: int) -> np.ndarray:
        try:
            with _OPENING:
                read = _records(self.folder, self.split)
            record = read(image)
        except InputError:
            raise
        except Exception as error:  # ArrayRecord checks each chunk it reads
            raise InputError(
                f"{self.folder}: the record of image {image} of split '{self.split}' is damaged ({error}); "
                "run scripts/prepare.py on it again, which names the file"
            ) from error
        if record["error"]:
            raise UnreadableImage(record["error"].decode())
        return record["pixels"]


def is_prepared(path: str | Path) -> bool:
    return (Path(path) / MANIFEST).is_file()


def description(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What of a model's inputs decides the pixels and the ids that are stored: {'image': …, 'text': …}."""
    if not isinstance(inputs.image, Pixels):
        raise InputError("a prepared folder holds pixels, and the model takes features of regions")
    image, text = inputs.image, inputs.text
    return {
        "image": {"size": image.size, "resize": image.resize, "resampling": image.resampling},
        "text": {
            "tokenizer": tokenizer_identity(text),
            "length": text.length,
            "vocab_size": text.vocab_size,
            "pad_id": text.pad_id,
        },
    }


def differing(
    ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]
) -> tuple[str, Any, Any] | None:
    """The first field in which two descriptions differ: (its name, ours, theirs)."""
    for side, fields in ours.items():
        for name, value in fields.items():
            if theirs[side].get(name) != value:
                return f"{side} {name}".replace("_", " "), value, theirs[side].get(name)
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """'image', 'text', 'captions' and 'as_shown' of prepared.json. Raises InputError for what is no such file."""
    file = folder / MANIFEST
    manifest = read_any_json(file)
    try:
        if manifest["format"] == 1:
            image = {"size": manifest["image_size"], "resize": "crop", "resampling": "bicubic"}
            text = {
                "tokenizer": "clip",
                "length": manifest["context_length"],
                "vocab_size": VOCAB_SIZE,
                "pad_id": 0,
            }
            manifest |= {"image": image, "text": text}
        elif manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, and this version reads 1 and {FORMAT}")
        Pixels(**manifest["image"])
        parts: dict[str, Any] = {key: dict(manifest[key].items()) for key in ("image", "text", "captions")}
        # Folders of before there was a choice do not say it.
        parts["as_shown"] = manifest.get("as_shown", False) is True
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not a readable record of a prepared folder ({error!r})") from error
    return parts


def token_dtype(vocab_size: int) -> np.dtype:
    """Of stored ids: the smallest that holds them all."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    if file.path.name != MANIFEST:
        return None
    folder = file.path.parent
    known = read_manifest(folder)["captions"]
    if split not in known:
        raise InputError(f"{folder}: was prepared without a split '{split}'; it has {', '.join(known)}")
    captions = folder / f"{split}.json"
    return flat.rows(captions, read_captions_json(captions), root)


def _open(
    file: Path, split: str, table: CaptionTable, inputs: Inputs
) -> tuple[ImageSource, np.ndarray | None]:
    folder = file.parent.resolve()
    manifest = read_manifest(folder)
    if (field := differing(description(inputs), manifest)) is not None:
        name, ours, theirs = field
        raise InputError(
            f"{folder}: was prepared with {name} {theirs}, but the model has {ours}; prepare another folder for it, "
            "or train on the original images"
        )
    if sha256((folder / f"{split}.json").read_text(encoding="utf8")) != manifest["captions"][split]:
        raise InputError(f"{folder}/{split}.json: changed since it was prepared; prepare another folder")
    tokens = _read_tokens(folder / f"{split}_tokens.npy", len(table.captions), inputs.text.vocab_size)
    files = ImageFiles(table.image_paths, manifest["as_shown"])
    return PreparedImages(folder, split, Pixels(**manifest["image"]), files), tokens


def _read_tokens(file: Path, captions: int, vocab_size: int) -> np.ndarray:
    try:
        tokens = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not a readable array ({error}); run scripts/prepare.py again") from error
    if tokens.dtype != token_dtype(vocab_size) or tokens.ndim != 2 or len(tokens) != captions:
        raise InputError(
            f"{file}: {tokens.dtype}{list(tokens.shape)}, but there are {captions} captions, of "
            f"{token_dtype(vocab_size)} ids; run scripts/prepare.py again"
        )
    return tokens.astype(np.int32)


@functools.lru_cache(maxsize=8)
def _records(folder: Path, split: str) -> Callable[[int], dict[str, Any]]:
    """Opened once in each process, and only in those that read: tensorflow-datasets takes a second to import."""
    with needs("prepared"):
        from cusa_jax.data import records

    return records.open_records(folder, split)


LAYOUT = Layout(
    holds="a prepared folder's prepared.json",
    names=lambda split: (MANIFEST,),
    read=_read,
    opens=_open,
)
