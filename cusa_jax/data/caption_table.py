"""The captions of a split and the images that they belong to, whatever file they come from."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class CaptionTable:
    """One split: M images, N captions, any number of captions per image.

    image_ids: M ids, in order of first appearance in the file.
    image_paths: M absolute paths; whether there are images is found out when they are read.
    captions: N captions as written.
    caption_image: int32 [N], the number of each caption's image.
    caption_ids: int64 [N], ids of the captions (COCO annotation ids, Karpathy's `sentid`); None unless
        every caption has one.
    """

    image_ids: list[str]
    image_paths: list[Path]
    captions: list[str]
    caption_image: np.ndarray
    caption_ids: np.ndarray | None

    @property
    def image_names(self) -> list[str]:
        """M names that end in the number by which a dataset's publishers know an image, where it has one.

        COCO's file names say it, whatever the ids; else ids that are numbers (Karpathy's `cocoid`); else the paths.
        """
        of_coco = all(path.name.startswith("COCO_") for path in self.image_paths)
        numbered = all(image_id.isdecimal() for image_id in self.image_ids)
        return self.image_ids if numbered and not of_coco else [str(path) for path in self.image_paths]

    def fingerprint(self) -> int:
        """CRC-32 of ids, captions and their order; where the files lie does not matter."""
        content = "\0".join((*self.image_ids, *self.captions)).encode() + self.caption_image.tobytes()
        return zlib.crc32(content)
