"""Searches a folder of photos by text or by photo.

python scripts/search.py index PHOTOS --checkpoint=WORKDIR --out=INDEX     (again: only what is new or changed)
python scripts/search.py serve INDEX [--port=8765]                         (a page on this machine)
python scripts/search.py query INDEX "two dogs on grass" ["a red car" …] [--k=10] [--html=found.html]
python scripts/search.py query INDEX --texts=FILE                          (a text a line; - reads standard input)
python scripts/search.py query INDEX --image=cat.jpg

Texts are compared by the cross-modal heads, photos by the uni-modal head. --checkpoint is the folder of a training,
or a CLIP of any format that scripts/convert.py reads; a query takes the one that the index was made with
(docs/search.md).
"""

# What a command does not need, it does not import: the start is most of a query's time.
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import app, flags, logging

from cusa_jax.command import script
from cusa_jax.errors import InputError, one_line
from cusa_jax.hugging_face import find_model

if TYPE_CHECKING:
    from cusa_jax.search.finder import Finder, Hit

CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Folder of a training, or a CLIP of any format.")
OUT = flags.DEFINE_string("out", "", "File of the index, made or brought up to date.")
FORGET = flags.DEFINE_bool("forget", False, "Take out photos of folders of which none is left, too.")
IMAGE = flags.DEFINE_string("image", "", "Photo to search by.")
TEXTS = flags.DEFINE_string("texts", "", "File of texts to search by, one a line; - is standard input.")
TOGETHER = flags.DEFINE_bool("together", False, "Show near-duplicates as one photo.")
ALIKE = flags.DEFINE_float("alike", 0.97, "Cosine similarity of near-duplicates.", -1.0, 1.0)
PHOTOS = flags.DEFINE_string("photos", "", "Folder of the photos, where it was moved since.")
K = flags.DEFINE_integer("k", 10, "How many photos to find.", lower_bound=1)
HTML = flags.DEFINE_string("html", "", "Also write what was found as a page, to this file.")
BATCH = flags.DEFINE_integer("batch_size", 256, "Photos encoded at a time.", lower_bound=1)
DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16", "run"],
    "In which an index is computed; 'run' is what the model was trained in. Queries take the index's.",
)
PORT = flags.DEFINE_integer(
    "port", 8765, "Of the page; 0 takes a free one.", lower_bound=0, upper_bound=65535
)

_REMEDY = (
    " (pip install 'cusa_jax[heic]' reads .heic; convert photos of other endings that are not read to JPEG)"
)
_USAGE = 'index PHOTOS --checkpoint=… --out=INDEX, serve INDEX, or query INDEX "a text" …'


def main(argv: list[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    logging.set_verbosity(logging.WARNING)
    match argv[1:]:
        case ["index", photos]:
            build_index(Path(photos).resolve())
        case ["serve", file]:
            serve(Path(file))
        case ["query", file, *texts]:
            query(Path(file), texts)
        case _:
            raise app.UsageError(_USAGE)


def build_index(photos: Path) -> None:
    from cusa_jax.compiled import keep_compiled
    from cusa_jax.search import index, ingest, model
    from cusa_jax.search.photos import UNREADABLE

    if not CHECKPOINT.value or not OUT.value:
        raise InputError("index needs --checkpoint=WORKDIR, the model, and --out=INDEX, the file to write")
    keep_compiled(model.compiled_beside(Path(OUT.value)))
    encoder, variables, fingerprint = model.load(CHECKPOINT.value, BATCH.value, DTYPE.value)
    origin = index.Origin(str(photos), str(find_model(CHECKPOINT.value).resolve()), fingerprint)
    try:
        done = ingest.update(Path(OUT.value), origin, encoder, variables, FORGET.value)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    for error in done.unreadable:
        print(f"skipped: {one_line(error)}", file=sys.stderr)
    print(
        f"{OUT.value}: {done.encoded} photos encoded, {done.unchanged} unchanged, {done.removed} removed, "
        f"{len(done.unreadable)} unreadable"
    )
    if done.kept:
        print(
            f"kept: {done.kept} photos of folders in which none of them is left: is a drive not there? --forget takes "
            "them out",
            file=sys.stderr,
        )
    if done.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.left_out.items()))
        print(f"left out: {kinds}{_REMEDY if set(done.left_out) & UNREADABLE else ''}", file=sys.stderr)


def serve(file: Path) -> None:
    """Until it is interrupted."""
    from cusa_jax.search import listen

    listen.serve(_finder(file), PORT.value)


def query(file: Path, texts: list[str]) -> None:
    if bool(texts) + bool(IMAGE.value) + bool(TEXTS.value) != 1 or not all(text.strip() for text in texts):
        raise InputError(
            'query needs texts or a photo: query INDEX "two dogs on grass", --texts=FILE or --image=FILE'
        )
    if HTML.value and (TEXTS.value or len(texts) > 1):
        raise InputError("--html shows what one text or photo finds; leave it out, or ask one at a time")
    from cusa_jax.data.images import open_image

    # What is asked is looked at before the model is loaded.
    picture = open_image(IMAGE.value, as_shown=True) if IMAGE.value else None
    asked = _lines() if TEXTS.value else texts
    finder = _finder(file)
    if picture:
        _show(finder, "", finder.by_picture(finder.embed_picture(picture), _wanted()))
    for text in asked:
        if TEXTS.value or len(texts) > 1:
            print(f"# {one_line(text)}")
        embedding, cut = finder.embed_text(text)
        if cut:
            print(
                "only the beginning of the text was used: it is longer than the model reads", file=sys.stderr
            )
        _show(finder, text, finder.by_text(embedding, _wanted()))


def _finder(file: Path) -> "Finder":
    from cusa_jax.search.model import open_index

    return open_index(file, CHECKPOINT.value, PHOTOS.value, ALIKE.value)


def _lines() -> Iterable[str]:
    """The texts of --texts; those of standard input as they come, so that a program can ask through a pipe."""
    if TEXTS.value == "-":
        lines: Iterable[str] = sys.stdin
    else:
        try:
            lines = Path(TEXTS.value).read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise InputError(f"{TEXTS.value}: cannot be read ({error.strerror})") from error
    return (line.strip() for line in lines if line.strip())


def _wanted() -> int:
    """More than are shown where some will be shown as one."""
    return 10 * K.value if TOGETHER.value else K.value


def _show(finder: "Finder", text: str, hits: "list[Hit]") -> None:
    if TOGETHER.value:
        hits = finder.together(hits)[: K.value]
    for hit in hits:
        alike = f"  (and {len(hit.alike)} alike)" if hit.alike else ""
        print(f"{hit.score:.4f}  {one_line(finder.photos[hit.number])}{alike}", flush=True)
    if HTML.value:
        from cusa_jax.report.page import write_search

        found = [(hit.score, Path(finder.photos[hit.number])) for hit in hits]
        write_search(Path(HTML.value), text, IMAGE.value, found)
        print(f"page: {HTML.value}")


if __name__ == "__main__":
    script(main)
