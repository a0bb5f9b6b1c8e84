"""Regions of one's own photos: every picture through a vision tower, or a detector's files, into SCAN's folders."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cusa_jax.data import region_writer, scan, vocabulary
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.region_writer import Batches
from cusa_jax.data.sources import ImageFiles, SelectedImages
from cusa_jax.data.splits import SPLITS, CaptionedImages, read_split
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.keys import Config
from cusa_jax.teachers.live import load_patches

VOCABULARY = "vocab.json"


def write(config: Config, source: str, out: Path, *, grid: int = 0, standardised: bool = False) -> None:
    """All splits of `config.data.path` and the vocabulary of their captions; the same call continues after a stop.

    source: a vision tower as a model folder or Hugging Face id, or a folder with an .npz for each image.
    grid: above 0, means over so many by so many windows of the patches. standardised: as `region_writer.standardise`.

    Raises InputError where `out` is in use for anything else, and for whatever is wrong with photos and source.
    """
    _claim(out, {"photos": config.data.path, "regions": source, "grid": grid, "standardised": standardised})
    data = config.data
    splits = {name: read_split(data.path, name, data.image_root, data.split) for name in SPLITS}
    features = _features(config, source, grid)
    raw = out / "unscaled" if standardised else out
    words: list[str] = []
    for name, split in splits.items():
        left_out = region_writer.write_split(raw, name, split.table, functools.partial(features, split))
        written = len(split.table.image_ids) - left_out
        print(f"{name}: {written} images, {left_out} of fewer than five captions left out", flush=True)
        if name != "test":
            words += region_writer.chosen(split.table)[1]
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
    tower, params = load_patches(source, dtype=config.teacher.dtype)
    apply = jax.jit(tower.apply)

    def features(split: CaptionedImages, numbers: np.ndarray) -> Batches:
        images = SelectedImages(ImageFiles(split.table.image_paths), numbers)
        assert tower.image
        for here, pixels in image_batches(images, tower.image, batch_size=config.eval.batch_size):
            patches = np.asarray(apply(params, pixels))
            yield here, region_writer.grid_means(patches, grid) if grid else patches

    return features


def _claim(out: Path, asked: dict[str, str | int]) -> None:
    """Raises InputError where `out` holds regions that another command wrote, or anything else."""
    file = out / "regions.json"
    if file.exists():
        if next(out.rglob("*_ims.npy"), None) and read_json(file) != asked:
            raise InputError(
                f"{out}: holds regions of other photos, another model or grid; name another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)
