"""Fine-tunes a CLIP dual encoder with CUSA.

python scripts/train.py --config=configs/flickr.py [--workdir=runs/x] [--config.loss.csa.weight=0.2 …]

Run it again to continue after a stop of any kind.
"""

from pathlib import Path

from absl import flags

from cusa_jax import distributed, finish
from cusa_jax.command import run

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


def main(config, config_name: str) -> None:
    distributed.start(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    finish.run(config, Path(WORKDIR.value or f"runs/{config_name}"))


if __name__ == "__main__":
    run(main)
