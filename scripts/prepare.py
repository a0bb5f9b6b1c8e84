"""Prepares a dataset once, so that training reads pixels and token ids instead of decoding images and captions.

python scripts/prepare.py --config=configs/flickr.py --config.data.path=FOLDER --out=PREPARED

Then train with --config.data.path=PREPARED. Run it again to continue after a stop of any kind, or to verify the
checksums of what is there.
"""

from pathlib import Path

from absl import flags

from cusa_jax.command import run
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import provide
from cusa_jax.errors import InputError
from cusa_jax.experiment import clip_inputs, load_splits
from cusa_jax.models.clip import PRESETS
from cusa_jax.weights.formats import read_weights

OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)


def main(config, _config_name: str) -> None:
    if not config.data.path:
        raise InputError("config.data.path is empty: name the folder to prepare, --config.data.path=FOLDER")
    if config.model.name not in PRESETS and not config.init_from:
        raise InputError(f"config.model.name must say for which model: {', '.join(PRESETS)}")
    provide(config.data.path, config.data.world)
    clip = PRESETS.get(config.model.name) or read_weights(config.init_from, config.model.activation).clip
    splits = load_splits(config, clip)
    prepare(Path(OUT.value), splits, clip_inputs(clip), on_bad_image=config.data.on_bad_image)
    print(f"prepared: train with --config.data.path={OUT.value}")


if __name__ == "__main__":
    run(main)
