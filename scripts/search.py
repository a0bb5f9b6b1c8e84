"""Searches a folder of photos by text or by photo.

python scripts/search.py index PHOTOS --checkpoint=WORKDIR --out=INDEX     (again: only what is new or changed)
python scripts/search.py query INDEX "two dogs on grass" [--k=10] [--html=found.html]
python scripts/search.py query INDEX --image=cat.jpg

Texts are compared by the cross-modal heads, photos by the uni-modal head. --checkpoint is the folder of a training,
or a CLIP of any format that scripts/convert.py reads; a query takes the one that the index was made with.
"""

import io
import sys
from pathlib import Path
from typing import cast

import numpy as np
from absl import app, flags, logging

from cusa_jax import sharding
from cusa_jax.command import errors_in_one_line, script
from cusa_jax.data.captions import clean_captions
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError, one_line
from cusa_jax.hugging_face import find_model
from cusa_jax.inputs import Pixels
from cusa_jax.report.page import write_search
from cusa_jax.search import index
from cusa_jax.search.photos import UNREADABLE
from cusa_jax.top_k import top_k
from cusa_jax.weights.formats import load_model

CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Folder of a training, or a CLIP of any format.")
OUT = flags.DEFINE_string("out", "", "File of the index, made or brought up to date.")
IMAGE = flags.DEFINE_string("image", "", "Photo to search by.")
K = flags.DEFINE_integer("k", 10, "How many photos to find.", lower_bound=1)
HTML = flags.DEFINE_string("html", "", "Also write what was found as a page, to this file.")
BATCH = flags.DEFINE_integer("batch_size", 256, "Photos encoded at a time.", lower_bound=1)

_REMEDY = " (of endings that are not read, convert the photos to JPEG)"


def main(argv: list[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    logging.set_verbosity(logging.WARNING)
    with errors_in_one_line():
        match argv[1:]:
            case ["index", photos]:
                build_index(Path(photos).resolve())
            case ["query", file]:
                query(Path(file), "")
            case ["query", file, text]:
                query(Path(file), text)
            case _:
                raise app.UsageError('index PHOTOS --checkpoint=… --out=INDEX, or query INDEX "a text"')


def build_index(photos: Path) -> None:
    if not CHECKPOINT.value or not OUT.value:
        raise InputError("index needs --checkpoint=WORKDIR, the model, and --out=INDEX, the file to write")
    encoder, variables, fingerprint = load(CHECKPOINT.value, BATCH.value)
    origin = index.Origin(str(photos), str(find_model(CHECKPOINT.value).resolve()), fingerprint)
    try:
        done = index.update(Path(OUT.value), origin, encoder, variables)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    for error in done.unreadable:
        print(f"skipped: {one_line(error)}", file=sys.stderr)
    print(
        f"{OUT.value}: {done.encoded} photos encoded, {done.unchanged} unchanged, {done.removed} removed, "
        f"{len(done.unreadable)} unreadable"
    )
    if done.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.left_out.items()))
        print(f"left out: {kinds}{_REMEDY if set(done.left_out) & UNREADABLE else ''}", file=sys.stderr)


def query(file: Path, text: str) -> None:
    if bool(text) == bool(IMAGE.value):
        raise InputError('query needs a text or a photo: query INDEX "two dogs on grass", or --image=FILE')
    origin, photos, embeddings = index.read(file, "uni" if IMAGE.value else "cross")
    checkpoint = CHECKPOINT.value or origin.checkpoint
    encoder, variables, fingerprint = load(checkpoint, 1)
    index.check_model(file, origin, fingerprint, checkpoint)
    if IMAGE.value:
        asked = ImageFiles([Path(IMAGE.value)], as_shown=True)
        _, embedding = encoder.images(variables, np.stack(asked.read(0, encoder.student.inputs.image)))
    else:
        spec = encoder.student.inputs.text
        tokens, cut = tokenizer(spec)(clean_captions([text]))
        if cut:
            print(f"the text was cut to {spec.length} tokens", file=sys.stderr)
        embedding, _ = encoder.texts(variables, tokens)
    scores, numbers = top_k(embedding, embeddings, K.value)
    hits = [(float(score), photos[number]) for score, number in zip(scores[0], numbers[0], strict=True)]
    for score, photo in hits:
        print(f"{score:.4f}  {one_line(photo)}")
    if HTML.value:
        write_search(Path(HTML.value), text, IMAGE.value, hits)
        print(f"page: {HTML.value}")


def load(checkpoint: str, batch_size: int):
    """(encoder, variables on the mesh, fingerprint) of a checkpoint.

    Raises InputError for one that cannot search: without embeddings, or of other inputs than photos and CLIP's tokens.
    """
    student, variables = load_model(checkpoint)
    encoder = Encoder(student, sharding.make_mesh(), batch_size)
    try:
        encoder.check_embeds()
        tokenizer(student.inputs.text)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    if not isinstance(student.inputs.image, Pixels):
        raise InputError(f"{checkpoint}: the model takes features of regions, and a photo is made of pixels")
    return encoder, sharding.put_params(variables, encoder.mesh), index.fingerprint(student, variables)


if __name__ == "__main__":
    script(main)
