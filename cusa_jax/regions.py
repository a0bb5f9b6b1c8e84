"""Regions of one's own photos: every picture through a vision tower, or a detector's files, into SCAN's folders."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import jax
import numpy as np

from cusa_jax.data import region_writer, scan, vocabulary
from cusa_jax.data.layouts.prepared import is_prepared
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.prefetch import OnBadImage, way_out
from cusa_jax.data.region_writer import Batches
from cusa_jax.data.sources import as_shown, selected
from cusa_jax.data.splits import SPLITS, CaptionedImages, read_split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Text
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.keys import Config
from cusa_jax.teachers.live import load_patches

VOCABULARY = "vocab.json"
# A vision tower reads no captions, and no layout that holds pictures asks how they would be tokenised.
_NO_TEXT = Text(length=1, vocab_size=1)


def write(config: Config, source: str, out: Path, *, grid: int = 0, standardised: bool = False) -> None:
    """All splits of `config.data.path` and the vocabulary of their captions; the same call continues after a stop.

    source: a vision tower as a model folder or Hugging Face id, or a folder with an .npz for each image.
    grid: above 0, means over so many by so many windows of the patches. standardised: as `region_writer.standardise`.
    Pictures are read as a training reads them, by `data.as_shown` and `data.on_bad_image`.

    Raises InputError where `out` is in use for anything else, and for whatever is wrong with photos and source.
    """
    data = config.data
    _claim(
        out,
        {
            "photos": data.path,
            "as_shown": data.as_shown,
            "regions": source,
            "grid": grid,
            "standardised": standardised,
        },
    )
    splits = {name: read_split(data.path, name, data.image_root, data.split) for name in SPLITS}
    features = _features(config, source, grid)
    raw = out / "unscaled" if standardised else out
    words: list[str] = []
    for name, split in splits.items():
        few = region_writer.write_split(
            raw,
            name,
            split.table,
            functools.partial(features, split),
            some=data.on_bad_image == "skip",
        )
        written = scan.read_split(raw, scan.SPLITS[name][-1])
        bad = len(split.table.image_ids) - few - len(written.ids)
        print(
            f"{name}: {len(written.ids)} images, {few} of fewer than five captions and {bad} unreadable left out",
            flush=True,
        )
        if name != "test":
            words += written.captions
    if standardised:
        region_writer.standardise(raw, out)
        shutil.rmtree(raw)
    vocabulary.write(out / VOCABULARY, vocabulary.build(words))


def settings(out: Path) -> str:
    """What a training on the folder has to be told, as flags."""
    held = scan.read_split(out, "train").features
    return (
        f"--config.data.path={out} --config.model.tokenizer={out / VOCABULARY} "
        f"--config.model.sizes=regions={held.regions},img_dim={held.width}"
    )


def _features(config: Config, source: str, grid: int) -> Callable[[CaptionedImages, np.ndarray], Batches]:
    """(a split, numbers of its images) -> their features, batch by batch."""
    if next(Path(source).glob("*.npz"), None) is not None:
        return lambda split, numbers: region_writer.detected(
            Path(source), [split.table.image_paths[n].name for n in numbers]
        )
    if is_prepared(config.data.path):
        raise InputError(
            f"{config.data.path}: is prepared, for another model than {source}; name the folder of the photos"
        )
    tower, params = load_patches(source, dtype=config.teacher.dtype)
    apply = jax.jit(tower.apply)

    def features(split: CaptionedImages, numbers: np.ndarray) -> Batches:
        assert tower.image
        images = as_shown(split.images(Inputs(tower.image, _NO_TEXT)), config.data.as_shown)
        batches = image_batches(
            selected(images, numbers),
            tower.image,
            batch_size=config.eval.batch_size,
            on_bad_image=cast(OnBadImage, config.data.on_bad_image),
        )
        with way_out():
            for here, pixels in batches:
                patches = np.asarray(apply(params, pixels))
                yield here, region_writer.grid_means(patches, grid) if grid else patches

    return features


def _claim(out: Path, asked: dict[str, str | int]) -> None:
    """Raises InputError where `out` holds regions that another command wrote, or anything else."""
    file = out / "regions.json"
    if file.exists():
        # Those of before there was a choice do not say how photos were seen.
        if next(out.rglob("*_ims.npy"), None) and {"as_shown": False, **read_json(file)} != asked:
            raise InputError(
                f"{out}: holds regions of other photos, another model or grid, or another data.as_shown; name another "
                "folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)
