"""The curve between a model and its fine-tuning: recall on validation of every mixture of their weights (WiSE-FT).

python scripts/mix.py --config=configs/own.py --config.data.path=FOLDER --before=CLIP --after=RUN --out=CURVE

Writes CURVE/mix.txt and CURVE/mix.png, and says how to write the best mixture. Two rows of the table are the models.
"""

import re
from pathlib import Path

from absl import flags
from matplotlib import pyplot as plt

from cusa_jax import sharding
from cusa_jax.command import define_list, run
from cusa_jax.config import typed
from cusa_jax.errors import InputError
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import read_split
from cusa_jax.files import written_whole
from cusa_jax.weights.formats import read_weights
from cusa_jax.weights.mixed import mixed

BEFORE = flags.DEFINE_string("before", None, "The model before its fine-tuning.", required=True)
AFTER = flags.DEFINE_string("after", None, "The same model afterwards, a run's folder say.", required=True)
MIX = define_list("mix", ["0", "0.25", "0.5", "0.75", "1"], "Shares of the second, from 0 to 1.")
OUT = flags.DEFINE_string("out", None, "Folder to write the table and the curve to.", required=True)

# Of the table and the curve.
_FIGURES = {"i2t_r_mean": "image to text", "t2i_r_mean": "text to image", "r_mean": "mean recall"}


def main(config, _config_name: str) -> None:
    shares = _shares()
    if not config.data.path:
        raise InputError("config.data.path is empty: name the photos with captions to validate on")
    first, second = (read_weights(source) for source in (BEFORE.value, AFTER.value))
    student = mixed(first, second, shares[0]).student()
    split = read_split(typed(config), "val", student.inputs)
    mesh = sharding.make_mesh()
    evaluator = Evaluator(student, mesh, config)
    measured = {}
    for share in shares:
        variables = mixed(first, second, share).variables
        measured[share] = evaluator(sharding.put_params(variables, mesh), split)
        print(f"mix {share:g}: r_mean {measured[share]['r_mean']:.2f}", flush=True)
    _write(Path(OUT.value), measured)


def _shares() -> list[float]:
    if wrong := [share for share in MIX.value if not re.fullmatch(r"0|1|0?\.\d+|[01]\.0*", share)]:
        raise InputError(f"--mix: '{wrong[0]}' is no share from 0 to 1")
    return sorted(set(map(float, MIX.value)))


def _write(folder: Path, measured: dict[float, dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [f"{share:g}", *(f"{metrics[key]:.2f}" for key in _FIGURES)] for share, metrics in measured.items()
    ]
    best = max(measured, key=lambda share: measured[share]["r_mean"])
    lines = ["".join(f"{cell:>15}" for cell in row) for row in (["val, %: mix", *_FIGURES.values()], *rows)]
    with written_whole(folder / "mix.txt") as fresh:
        fresh.write_text("\n".join(lines) + "\n", "utf-8")
    _draw(folder / "mix.png", measured, best)
    print("\n".join(lines))
    print(f"curve: {folder / 'mix.png'}")
    print(f"best: python scripts/convert.py {BEFORE.value} {AFTER.value} OUT --mix={best:g}")


def _draw(picture: Path, measured: dict[float, dict[str, float]], best: float) -> None:
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for key, label in _FIGURES.items():
        axis.plot(list(measured), [metrics[key] for metrics in measured.values()], "o-", label=label)
    axis.axvline(best, color="gray", linewidth=0.8, linestyle=":")
    axis.set_xlabel("share of the fine-tuned model's weights")
    axis.set_ylabel("recall on validation, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run(main)
