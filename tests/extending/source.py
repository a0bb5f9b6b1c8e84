"""A data source of one's own: captions and pictures of a split in one `{split}.npz`, without any image files.

images uint8 [M, H, W, 3], captions text [N], image int [N]: the picture of each caption.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cusa_jax.data.images import preprocess
from cusa_jax.data.layouts import LAYOUTS, CaptionFile, Layout, Row


@dataclasses.dataclass(frozen=True)
class ImageArray:
    images: np.ndarray

    @property
    def names(self) -> list[str]:
        return [f"image {number}" for number in range(len(self.images))]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, image: int, *specs) -> list[np.ndarray]:
        return [preprocess(self.picture(image), spec) for spec in specs]

    def picture(self, image: int) -> Image.Image:
        return Image.fromarray(self.images[image])


def rows(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    if file.path.suffix != ".npz":
        return None
    arrays = np.load(file.path, allow_pickle=False)
    captions = zip(arrays["captions"].tolist(), arrays["image"].tolist(), strict=True)
    return (
        Row(f"caption {number}", str(image), file.path / str(image), caption, None)
        for number, (caption, image) in enumerate(captions)
    )


def opens(file: Path, split: str, table, inputs) -> tuple[ImageArray, None]:
    """Pictures in the order in which the captions name them, which is the table's."""
    images = np.load(file, allow_pickle=False)["images"]
    return ImageArray(images[[int(image) for image in table.image_ids]]), None


LAYOUTS["array"] = Layout(
    "arrays 'images', 'captions' and 'image'", lambda split: (f"{split}.npz",), rows, opens
)
