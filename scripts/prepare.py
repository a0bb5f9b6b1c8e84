"""Prepares a dataset once, so that training reads pixels and token ids instead of decoding images and captions.

python scripts/prepare.py --config=configs/flickr.py --config.data.path=FOLDER --out=PREPARED

Then train with --config.data.path=PREPARED. Run it again to continue after a stop of any kind, or to verify the
checksums of what is there.

python scripts/prepare.py --config=configs/f30k_sgraf.py --config.data.path=PHOTOS --regions=VIT --out=REGIONS

writes SCAN's folder for the models over regions: the patches of a vision tower's folder (ViT, DINOv2, CLIP, ResNet), or
the regions of a detector, from a folder with an .npz for each image; the vocabulary of its captions, vocab.json; and
the means of each image's regions, which can be the image teacher: train_pooled.npz. Run it again to continue.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cusa_jax.command import run
from cusa_jax.config import typed
from cusa_jax.data import region_writer, scan, vocabulary
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.prepared import prepare
from cusa_jax.data.sources import ImageFiles, SelectedImages
from cusa_jax.data.splits import SPLITS, CaptionedImages, provide, read_split
from cusa_jax.errors import InputError
from cusa_jax.experiment import find_sizes, load_splits, student_options
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.keys import Config
from cusa_jax.models import families
from cusa_jax.teachers.live import load_patches

REGIONS = flags.DEFINE_string("regions", "", "Model folder, or folder of a detector's .npz files.")
GRID = flags.DEFINE_integer(
    "grid", 0, "Above 0: means over GRID x GRID windows of the patches.", lower_bound=0
)
STANDARDISE = flags.DEFINE_bool("standardise", False, "Give every number of the regions mean 0, deviation 1.")
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)

_VOCABULARY = "vocab.json"


def main(config: Any, _config_name: str) -> None:
    settings = typed(config)
    if not settings.data.path:
        raise InputError("config.data.path is empty: name the folder to prepare, --config.data.path=FOLDER")
    if REGIONS.value:
        _write_regions(settings, Path(REGIONS.value), Path(OUT.value))
        return
    family, sizes, weights = find_sizes(settings)
    options = student_options(settings, weights.tokenizer if weights else "")
    inputs = families.make(family, sizes, options).inputs
    provide(settings.data.path, dataclasses.asdict(settings.data.world), settings.data.split)
    splits = load_splits(settings, inputs)
    prepare(Path(OUT.value), splits, inputs, on_bad_image=config.data.on_bad_image)
    print(f"prepared: train with --config.data.path={OUT.value}")


def _write_regions(settings: Config, source: Path, out: Path) -> None:
    _claim(out, settings.data.path, source)
    written = out / "unscaled" if STANDARDISE.value else out
    data = settings.data
    splits = {name: read_split(data.path, name, data.image_root, data.split) for name in SPLITS}
    if next(source.glob("*.npz"), None) is None:
        teacher, params = load_patches(str(source), dtype=settings.teacher.dtype)
        apply = jax.jit(teacher.apply)
    words: list[str] = []
    for name, split in splits.items():

        def features(numbers: np.ndarray, split: CaptionedImages = split) -> region_writer.Batches:
            if next(source.glob("*.npz"), None) is not None:
                yield from region_writer.detected(source, [split.table.image_paths[n].name for n in numbers])
                return
            images = SelectedImages(ImageFiles(split.table.image_paths), numbers)
            assert teacher.image
            batches = image_batches(images, teacher.image, batch_size=settings.eval.batch_size)
            for here, pixels in batches:
                patches = np.asarray(apply(params, pixels))
                yield here, region_writer.grid_means(patches, GRID.value) if GRID.value else patches

        left_out = region_writer.write_split(written, name, split.table, features)
        print(
            f"{name}: {len(split.table.image_ids) - left_out} images, {left_out} of fewer than five captions left out"
        )
        if name != "test":
            words += region_writer.chosen(split.table)[1]
    if STANDARDISE.value:
        region_writer.standardise(written, out)
        shutil.rmtree(written)
    vocabulary.write(out / _VOCABULARY, vocabulary.build(words))
    held = scan.read_split(out, "train").features
    print(
        f"regions: train with --config.data.path={out} --config.model.tokenizer={out / _VOCABULARY} "
        f"--config.model.sizes=regions={held.regions},img_dim={held.width}"
    )


def _claim(out: Path, photos: str, source: Path) -> None:
    """Raises InputError where `out` holds regions that another command wrote, or anything else."""
    asked = {
        "photos": photos, "regions": str(source), "grid": GRID.value, "standardise": STANDARDISE.value,
    }  # fmt: skip
    file = out / "regions.json"
    if file.exists() and read_json(file) != asked:
        raise InputError(f"{out}: holds regions of other photos, another model or grid; name another folder")
    if not file.exists() and out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)


if __name__ == "__main__":
    run(main)
