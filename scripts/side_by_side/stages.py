"""The stages of the comparison, from a caption and a photograph to the recall."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cusa_jax.data.captions import clean_caption
from cusa_jax.data.images import load_image, normalise
from cusa_jax.data.tokenize import ClipTokenizer
from cusa_jax.evaluation.metrics import current
from cusa_jax.inputs import Pixels
from side_by_side.original import TERMS, Original
from side_by_side.ours import Ours
from side_by_side.table import TOLERANCES, Row, relative

ODD_CAPTIONS = [
    "CAFÉ - naïve; (dog's) 2/3!",
    "two  spaces\tand a tab",
    "&lt;b&gt; &amp;amp; #5",
    "日本語 🐕‍🦺 😀",
    "a_b <person>",
    "it's you'll I'VE",
    "<|endoftext|> in the middle",
    "x" * 70,
    "1234567890 " * 9,
]
GROUPS = {
    "image tower": r"clip_model\.visual\.",
    "text tower": r"clip_model\.(?!visual\.)",
    "cross-modal heads": r"(ln_)?cross_\w+_projection",
    "uni-modal heads": r"(ln_)?uni_\w+_projection",
    "temperatures": r"(\w+_)?tau(_\w+)?$",
}


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """pixels: float32 [B, H, W, 3], normalised; tokens int32 [B, L]; soft: {'image', 'text'} float32 [B, D]."""

    pixels: np.ndarray
    tokens: np.ndarray
    image_index: np.ndarray
    soft: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Data:
    """Captions and photographs of the checkout's dataset_example."""

    folder: Path
    rows: list[dict[str, str]]

    @classmethod
    def read(cls, checkout: Path, split: str) -> "Data":
        folder = checkout / "dataset_example"
        return cls(folder, json.loads((folder / f"new_{split}.json").read_text(encoding="utf8")))

    def batch(self, number: int, rows: int, image_size: int, context_length: int) -> TrainBatch:
        """Pairs of caption and photograph, of which some share a photograph; teachers' features are random."""
        rng = np.random.default_rng(number)
        chosen = [self.rows[n] for n in rng.choice(min(len(self.rows), 5 * rows), rows, replace=False)]
        names = sorted({row["image_id"] for row in chosen})
        index = np.asarray([names.index(row["image_id"]) for row in chosen], np.int32)
        pixels = np.stack([load_image(self.folder / row["image_path"], Pixels(image_size)) for row in chosen])
        tokens, _ = ClipTokenizer()([clean_caption(row["caption"]) for row in chosen], context_length)
        soft = {
            "image": rng.normal(0.3, 1, (len(names), 64))[index].astype(np.float32),
            "text": rng.normal(0.3, 1, (rows, 48)).astype(np.float32),
        }
        return TrainBatch(np.asarray(normalise(pixels)), tokens, index, soft)


def compare(
    original: Original, ours: Ours, checkout: Path, *, rows: int, steps: int, images: int
) -> Iterator[Row]:
    """All rows of the table, in the order of the data's way."""
    tolerance = TOLERANCES[ours.dtype.name]
    train, test = Data.read(checkout, "train"), Data.read(checkout, "test")
    sizes = ours.student.sizes
    batches = [train.batch(n, rows, sizes.image_size, sizes.context_length) for n in range(steps)]
    yield from data_rows(original, train, sizes.image_size, images)
    yield from forward_rows(original, ours, batches[0], tolerance)
    yield from gradient_rows(original, ours, batches[0], tolerance)
    yield from evaluation_row(original, ours, test, images)
    yield Row("learning rates", relative(ours.learning_rates, original.learning_rates()), 1e-12,
              f"{len(ours.learning_rates)} epochs")  # fmt: skip
    yield from training_rows(original, ours, batches, tolerance)


def data_rows(original: Original, data: Data, size: int, images: int) -> Iterator[Row]:
    clip, clean = original.modules["clip.clip"], original.modules["dataset.utils"].pre_caption
    captions = [row["caption"] for row in data.rows] + ODD_CAPTIONS
    cleaned = [clean_caption(caption) for caption in captions]
    theirs = clip.tokenize([clean(caption) for caption in captions], truncate=True).numpy()
    yield Row("tokens", relative(ClipTokenizer()(cleaned)[0], theirs), 0.0, f"{len(captions)} captions")
    paths = sorted({data.folder / row["image_path"] for row in data.rows})[:images]
    transform = clip._transform(size)
    theirs = np.stack([transform(Image.open(path)).numpy() for path in paths]).transpose(0, 2, 3, 1)
    ours = np.stack([load_image(path, Pixels(size)) for path in paths])
    # Normalised, in float32: the smallest difference between two bytes is 6e-3.
    yield Row("pixels", relative(normalise(ours), theirs), 1e-6, f"{len(paths)} photographs")


def forward_rows(
    original: Original, ours: Ours, batch: TrainBatch, tolerance: dict[str, float]
) -> Iterator[Row]:
    our_blocks, our_features = ours.encode(batch.pixels, batch.tokens)
    their_blocks, their_features = original.encode(batch.pixels, batch.tokens)
    for name, theirs in their_blocks.items():
        block = _our_block(name)
        yield Row(block.replace("/", " ").replace("transformer ", "").replace("_", " "),
                  relative(our_blocks[block], theirs), tolerance["activation"])  # fmt: skip
    for name, theirs in their_features.items():
        yield Row(f"{name} features", relative(our_features[name], theirs), tolerance["activation"])
    theirs = {name: original.tensor(x) for name, x in their_features.items()}
    image_text, _ = original.model.get_similarity(theirs["cross_image"], theirs["cross_text"])
    matrices = (
        image_text,
        *original.model.get_similarity(theirs["uni_image"], theirs["uni_text"], cross_modal=False),
    )
    for name, mine, matrix in zip(("image-text", "image-image", "text-text"), ours.similarities(our_features), matrices,
                                  strict=True):  # fmt: skip
        yield Row(f"{name} similarities", relative(mine, matrix), tolerance["activation"])
    cos_sim = original.modules["unire.model"].util.cos_sim
    for side, mine in zip(("image", "text"), ours.soft_labels(batch.soft), strict=True):
        soft = original.tensor(batch.soft[side])
        yield Row(f"{side} soft labels", relative(mine, cos_sim(soft, soft)), tolerance["activation"])


def gradient_rows(
    original: Original, ours: Ours, batch: TrainBatch, tolerance: dict[str, float]
) -> Iterator[Row]:
    their_terms, their_gradients = original.gradients(batch)
    our_terms, our_gradients = ours.gradients(batch)
    for name, mine, theirs in zip(TERMS, our_terms, their_terms, strict=True):
        if theirs:
            yield Row(f"{name} loss", relative(mine, theirs), tolerance["loss"], "one batch, training mode")
    for group, names in _grouped(their_gradients):
        yield Row(f"gradient: {group}", _worst(our_gradients, their_gradients, names), tolerance["gradient"],
                  f"{len(names)} tensors")  # fmt: skip


def training_rows(
    original: Original, ours: Ours, batches: list[TrainBatch], tolerance: dict[str, float]
) -> Iterator[Row]:
    original.model.load_state_dict(original.start)
    their_terms, their_taus = original.train(batches, steps_per_epoch=2)
    our_terms, our_taus, state = ours.train(batches)
    steps_taken = f"{len(batches)} steps"
    for column, name in enumerate(TERMS):
        if their_terms[:, column].any():
            yield Row(f"training: {name} loss", relative(our_terms[:, column], their_terms[:, column]),
                      tolerance["step"], steps_taken)  # fmt: skip
    start = {name: tensor.numpy() for name, tensor in original.start.items()}
    for name in their_taus[0]:
        mine, theirs = (
            np.asarray([taus[name] for taus in side]) - start[name] for side in (our_taus, their_taus)
        )
        yield Row(f"training: moves of {name}", relative(mine, theirs), tolerance["update"], steps_taken)
    final = {name: tensor.numpy() for name, tensor in original.model.state_dict().items()}
    theirs = {
        name: _tested(name, final[name] - start[name].astype(final[name].dtype), ours) for name in final
    }
    named = ours.named(state.variables)
    moved = {
        name: _tested(name, tensor - start[name].astype(tensor.dtype), ours) for name, tensor in named.items()
    }
    for group, names in _grouped({name: theirs[name] for name in moved}):
        yield Row(
            f"training: updates of {group}", _worst(moved, theirs, names), tolerance["update"], steps_taken
        )


def evaluation_row(original: Original, ours: Ours, data: Data, images: int) -> Iterator[Row]:
    """The nine recalls on the first photographs of the test split, rounded to two decimals, as the reference does."""
    chosen = set(sorted({row["image_id"] for row in data.rows})[:images])
    rows = [{**row, "image_path": str((data.folder / row["image_path"]).resolve())}
            for row in data.rows if row["image_id"] in chosen]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "new_test.json").write_text(json.dumps(rows))
        theirs = current(original.evaluate(Path(folder)))
        mine = ours.evaluate(Path(folder))
    error = max(abs(round(mine[name], 2) - value) for name, value in theirs.items())
    yield Row("recalls", error, 0.0, f"{images} photographs, {len(rows)} captions")


def _our_block(name: str) -> str:
    """'visual.transformer.resblocks.0' -> 'image/transformer/block_0', 'visual.layer1.0' -> 'image/layer1_0'."""
    tower, _, rest = f"text.{name}".replace("text.visual", "image").partition(".")
    return f"{tower}/" + re.sub(r"\.(\d+)$", r"_\1", rest.replace("resblocks.", "block_")).replace(".", "/")


def _grouped(tensors: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for group, pattern in GROUPS.items():
        names = [name for name in tensors if re.match(pattern, name)]
        statistics = [name for name in names if "running" in name]
        if names := [name for name in names if name not in statistics]:
            yield group, names
        if statistics:
            yield "running statistics", statistics


def _worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], names: list[str]) -> float:
    """The worst tensor's |ours - theirs| / |theirs|, in norms; one that is nearly 0 counts by a thousandth of all."""
    floor = 1e-3 * np.sqrt(sum(np.linalg.norm(theirs[name]) ** 2 for name in names))
    return max(
        float(np.linalg.norm(ours[name] - theirs[name]) / max(np.linalg.norm(theirs[name]), floor, 1e-300))
        for name in names
    )


def _tested(name: str, update: np.ndarray, ours: Ours) -> np.ndarray:
    """An update, in float32 without the keys' biases: their gradient is 0, and AdamW walks them along rounding."""
    if ours.dtype == np.float32 and name.endswith("in_proj_bias"):
        return np.delete(update, slice(len(update) // 3, 2 * len(update) // 3))
    if ours.dtype == np.float32 and name.endswith("k_proj.bias"):
        return np.zeros_like(update)
    return update
