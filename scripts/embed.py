"""Embeds images and texts with any model.

python scripts/embed.py --checkpoint=MODEL --data=FOLDER [--split=test] [--name=flickr30k] --out=x.npz
python scripts/embed.py --checkpoint=MODEL --images=PHOTOS --texts=LINES.txt --out=x.npz

With --data, a folder of captions as training takes it, the file is what `scripts/evaluate.py --embeddings=x.npz` reads,
keys NAME/image, NAME/text, NAME/caption_image and the uni-modal ones. With --images and --texts it has image and
text, float32 [N, E] of length 1, and image_files and text_lines, which say of what. MODEL is the folder of a training,
weights of any format that scripts/convert.py reads, or a Hugging Face id.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
from absl import flags, logging

from cusa_jax import embedding, sharding
from cusa_jax.command import script
from cusa_jax.data.splits import SPLITS, load_split
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.files import written_whole
from cusa_jax.pretrained import load
from cusa_jax.search.photos import find_photos
from cusa_jax.weights.formats import load_model

CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Folder of a training, a model of any format, a Hub id.")
DATA = flags.DEFINE_string("data", "", "Folder of captions, as config.data.path of a training.")
SPLIT = flags.DEFINE_enum("split", "test", list(SPLITS), "Which captions of --data.")
NAME = flags.DEFINE_string(
    "name", "flickr30k", "What evaluate.py calls them: flickr30k, coco, or a suite of your own."
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
    arrays = captions() if DATA.value else loose()
    with written_whole(out) as fresh, fresh.open("wb") as file:
        np.savez(file, **cast(dict[str, Any], arrays))
    print(f"wrote {out}: " + ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()))


def captions() -> dict[str, np.ndarray]:
    """What evaluate.py reads of one split. Raises InputError for an unreadable image: each has its place."""
    student, variables = load_model(CHECKPOINT.value)
    encoder = Encoder(student, sharding.make_mesh(), BATCH_SIZE.value)
    encoder.check_embeds()
    split = load_split(DATA.value, SPLIT.value, student.inputs, image_root=IMAGE_ROOT.value)
    variables = sharding.put_params(variables, encoder.mesh)
    _, (image, uni_image) = embedding.encode_images(encoder, variables, split.images, label="embed")
    text, uni_text = embedding.encode_texts(encoder, variables, split.tokens, label="embed")
    arrays = {"image": image, "text": text, "uni_image": uni_image, "uni_text": uni_text}
    arrays |= {"caption_image": np.asarray(split.table.caption_image, np.int64)}
    arrays |= {"image_ids": np.asarray([str(one) for one in split.table.image_ids])}
    return {f"{NAME.value}/{key}": value for key, value in arrays.items()}


def loose() -> dict[str, np.ndarray]:
    """Embeddings of a folder of photos and of the lines of a file, with what they are of."""
    model = load(CHECKPOINT.value, batch_size=BATCH_SIZE.value)
    arrays: dict[str, np.ndarray] = {}
    if IMAGES.value:
        folder = Path(IMAGES.value)
        names = [name.decode("utf8", "backslashreplace") for name in sorted(find_photos(folder).states)]
        if not names:
            raise InputError(f"{folder}: no photos in it that can be read")
        arrays |= {
            "image": model.encode_image([folder / name for name in names]),
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
