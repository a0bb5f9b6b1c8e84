"""Embeds images and texts with any model.

python scripts/embed.py --checkpoint=MODEL --data=FOLDER [--split=test] [--name=mine] --out=x.npz
python scripts/embed.py --checkpoint=MODEL --images=PHOTOS --texts=LINES.txt --out=x.npz

With --data, a folder of captions as training takes it, the file is what `scripts/evaluate.py --embeddings=x.npz` reads,
keys NAME/image, NAME/text, NAME/caption_image, the uni-modal ones and the ids of images and captions: the figures are
those of the model itself. With --images and --texts it has image and text, float32 [N, E] of length 1, and image_files
and text_lines, which say of what. MODEL is the folder of a training, weights of any format that scripts/convert.py
reads, or a Hugging Face id.
"""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from absl import flags, logging

from cusa_jax import sharding
from cusa_jax.command import script
from cusa_jax.data.splits import SPLITS
from cusa_jax.errors import InputError
from cusa_jax.evaluation.own import own_dataset
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.evaluation.sources import StudentSource
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.files import written_whole
from cusa_jax.pretrained import Pretrained
from cusa_jax.search.photos import find_photos
from cusa_jax.weights.formats import read_weights
from cusa_jax.weights.hub import Weights

CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Folder of a training, a model of any format, a Hub id.")
DATA = flags.DEFINE_string("data", "", "Folder of captions, as config.data.path of a training.")
SPLIT = flags.DEFINE_enum("split", "test", list(SPLITS), "Which captions of --data.")
NAME = flags.DEFINE_string(
    "name", "mine", "What evaluate.py calls them: flickr30k, coco, flickr8k, or a suite of your own."
)
AS_SHOWN = flags.DEFINE_bool(
    "as_shown",
    None,
    "See pictures as viewers show them: upright, on white. By default as the model's training did, and as shown where "
    "that is not known; those of --name=flickr30k, coco, flickr8k are always read as the paper's code does.",
)
IMAGE_ROOT = flags.DEFINE_string(
    "image_root", "", "Folder of the images of --data, as config.data.image_root."
)
IMAGES = flags.DEFINE_string("images", "", "Folder of photos.")
TEXTS = flags.DEFINE_string("texts", "", "A text a line, UTF-8.")
OUT = flags.DEFINE_string("out", "", "The .npz to write.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images or texts encoded at a time.", lower_bound=1)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if argv[1:]:
        raise InputError(f"unexpected argument '{argv[1]}': options start with --")
    if not CHECKPOINT.value or not OUT.value.endswith(".npz"):
        raise InputError("name the model, --checkpoint=MODEL, and the file to write, --out=FILE.npz")
    if bool(DATA.value) == bool(IMAGES.value or TEXTS.value):
        raise InputError("name what to embed: --data=FOLDER of captions, or --images=PHOTOS and --texts=FILE")
    out = Path(OUT.value)
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder to write to")
    weights = read_weights(CHECKPOINT.value)
    arrays = captions(weights) if DATA.value else loose(weights)
    with written_whole(out) as fresh, fresh.open("wb") as file:
        np.savez(file, **cast(dict[str, Any], arrays))
    print(f"wrote {out}: " + ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()))


def captions(weights: Weights) -> dict[str, np.ndarray]:
    """What evaluate.py reads of one split, as it would embed it itself.

    Raises InputError for an unreadable image: each has its place.
    """
    known = {data.name: data for suite in SUITES.values() for data in suite.data}
    data = known.get(NAME.value) or own_dataset(NAME.value)
    if AS_SHOWN.value and not data.own:
        raise InputError(
            f"--name={NAME.value}: its pictures are read as the paper's code does; choose a name of your own for "
            "--as_shown"
        )
    student, mesh = weights.student(), sharding.make_mesh()
    source = StudentSource(
        *(CHECKPOINT.value, student, sharding.put_params(weights.variables, mesh), mesh, BATCH_SIZE.value, 0),
        weights.shown(AS_SHOWN.value),
    )
    source.check_embeds()
    captioned = source.captioned(NAME.value, data.captions(DATA.value, SPLIT.value, IMAGE_ROOT.value))
    scores = cast(InnerProducts, captioned.scores)
    arrays = {
        "image": scores.images,
        "text": scores.texts,
        "uni_image": captioned.uni_image,
        "uni_text": captioned.uni_text,
        "caption_image": np.asarray(captioned.caption_image, np.int64),
        "image_ids": np.asarray(captioned.image_ids),
        "caption_ids": captioned.caption_ids,
    }
    return {f"{NAME.value}/{key}": value for key, value in arrays.items() if value is not None}


def loose(weights: Weights) -> dict[str, np.ndarray]:
    """Embeddings of a folder of photos and of the lines of a file, with what they are of."""
    model = Pretrained(CHECKPOINT.value, weights, batch_size=BATCH_SIZE.value)
    arrays: dict[str, np.ndarray] = {}
    if IMAGES.value:
        folder = Path(IMAGES.value)
        # A name that is not UTF-8 must lead back to its file: os.fsencode does.
        names = [os.fsdecode(name) for name in sorted(find_photos(folder).states)]
        if not names:
            raise InputError(f"{folder}: no photos in it that can be read")
        shown = weights.shown(AS_SHOWN.value)
        arrays |= {
            "image": model.encode_image([folder / name for name in names], as_shown=shown),
            "image_files": np.asarray(names),
        }
    if TEXTS.value:
        lines = _lines(Path(TEXTS.value))
        arrays |= {"text": model.encode_text(lines), "text_lines": np.asarray(lines)}
    return arrays


def _lines(file: Path) -> list[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable file of texts ({error})") from error
    if not lines:
        raise InputError(f"{file}: no texts in it")
    return lines


if __name__ == "__main__":
    script(main)
