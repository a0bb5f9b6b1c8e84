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
from pathlib import Path
from typing import Any

from absl import flags

from cusa_jax import regions
from cusa_jax.command import run
from cusa_jax.config import typed
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import provide
from cusa_jax.errors import InputError
from cusa_jax.experiment import find_sizes, load_splits, student_options
from cusa_jax.models import families

REGIONS = flags.DEFINE_string("regions", "", "Model folder, or folder of a detector's .npz files.")
GRID = flags.DEFINE_integer(
    "grid", 0, "Above 0: means over GRID x GRID windows of the patches.", lower_bound=0
)
STANDARDISE = flags.DEFINE_bool("standardise", False, "Give every number of the regions mean 0, deviation 1.")
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)


def main(config: Any, _config_name: str) -> None:
    settings = typed(config)
    if not settings.data.path:
        raise InputError("config.data.path is empty: name the folder to prepare, --config.data.path=FOLDER")
    if REGIONS.value:
        out = Path(OUT.value)
        regions.write(settings, REGIONS.value, out, grid=GRID.value, standardised=STANDARDISE.value)
        print(f"regions: train with {regions.settings(out)}")
        return
    family, sizes, weights = find_sizes(settings)
    options = student_options(settings, weights.tokenizer if weights else "")
    inputs = families.make(family, sizes, options).inputs
    provide(settings.data.path, dataclasses.asdict(settings.data.world), settings.data.split)
    splits = load_splits(settings, inputs)
    prepare(Path(OUT.value), splits, inputs, on_bad_image=config.data.on_bad_image)
    print(f"prepared: train with --config.data.path={OUT.value}")


if __name__ == "__main__":
    run(main)
