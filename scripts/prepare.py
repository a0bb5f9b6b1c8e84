"""Prepares a dataset once, so that training reads pixels and token ids instead of decoding images and captions.

python scripts/prepare.py --config=configs/flickr.py --config.data.path=FOLDER --out=PREPARED

Then train with --config.data.path=PREPARED. Run it again to continue after a stop of any kind, or to verify the
checksums of what is there.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from cusa_jax.command import run
from cusa_jax.config import typed
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import provide
from cusa_jax.errors import InputError
from cusa_jax.experiment import find_sizes, load_splits, student_options
from cusa_jax.models import families

OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)


def main(config: Any, _config_name: str) -> None:
    settings = typed(config)
    if not settings.data.path:
        raise InputError("config.data.path is empty: name the folder to prepare, --config.data.path=FOLDER")
    family, sizes, weights = find_sizes(settings)
    options = student_options(settings, weights.tokenizer if weights else "")
    inputs = families.make(family, sizes, options).inputs
    provide(settings.data.path, dataclasses.asdict(settings.data.world))
    splits = load_splits(settings, inputs)
    prepare(Path(OUT.value), splits, inputs, on_bad_image=config.data.on_bad_image)
    print(f"prepared: train with --config.data.path={OUT.value}")


if __name__ == "__main__":
    run(main)
