"""Fine-tunes a CLIP dual encoder with CUSA.

python scripts/train.py --config=configs/flickr.py [--workdir=runs/x] [--config.loss.csa.weight=0.2 …]

Run it again to continue after a stop of any kind.
"""

from pathlib import Path

from absl import flags

from cusa_jax.command import run
from cusa_jax.train import train

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; default runs/CONFIG[-ARGUMENT].")


def main(config, config_name: str) -> None:
    train(config, Path(WORKDIR.value or f"runs/{config_name}"))


if __name__ == "__main__":
    run(main)
