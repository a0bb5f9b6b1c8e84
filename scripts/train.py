"""Trains an image-text model with CUSA: fine-tunes a CLIP, say.

python scripts/train.py --config=configs/flickr.py [--workdir=runs/x] [--config.loss.csa.weight=0.2 …]

Run it again to continue after a stop of any kind.
"""

from pathlib import Path

from absl import flags

from cusa_jax import distributed, finish
from cusa_jax.command import run
from cusa_jax.config import validate
from cusa_jax.dry_run import describe

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; default runs/CONFIG[-ARGUMENT].")
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "With several processes, HOST:PORT of the first; 'auto' on SLURM, Open MPI and TPU slices.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are, where not detected.")
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0, where not detected."
)


DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be trained, on how much memory, and stop.")


def main(config, config_name: str) -> None:
    distributed.start(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    workdir = Path(WORKDIR.value or f"runs/{config_name}")
    if DRY_RUN.value:
        said = describe(validate(config), workdir)
        if distributed.is_first():
            print(said)
        return
    finish.run(config, workdir)


if __name__ == "__main__":
    run(main)
