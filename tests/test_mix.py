"""scripts/mix.py: the rows of the curve are what the mixtures score, and the best one is named."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cusa_jax import sharding
from cusa_jax.config import default_config, typed
from cusa_jax.data import world
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import read_split
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights.formats import write_weights
from cusa_jax.weights.hub import Weights, template
from cusa_jax.weights.mixed import mixed

ROOT = Path(__file__).parent.parent
SIZES = ClipConfig(
    embed_dim=16, image_size=32, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1,
    context_length=12,
)  # fmt: skip


def weights(seed):
    rng = np.random.default_rng(seed)
    shapes = template("clip", SIZES, (), "here")
    return Weights("clip", SIZES, jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype("f4"), shapes))


def run(*arguments):
    command = [sys.executable, "scripts/mix.py", "--config=configs/own.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    both = weights(0), weights(1)
    for name, model in zip("ab", both, strict=True):
        write_weights(folder / f"{name}.safetensors", model)
    return folder, both


def test_the_rows_are_what_the_mixtures_score(models, tmp_path):
    folder, both = models
    data = world.write(tmp_path / "world", {"train": 8, "val": 24, "test": 8})
    settings = [f"--config.data.path={data}", "--config.data.as_shown=false"]
    done = run(
        *settings, f"--before={folder / 'a.safetensors'}", f"--after={folder / 'b.safetensors'}", "--mix=1,0,0.5",
        f"--out={tmp_path / 'curve'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in (tmp_path / "curve" / "mix.txt").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "0.5", "1"]
    config = default_config()
    config.data.path = str(data)
    student, mesh = both[0].student(), sharding.make_mesh()
    evaluate, split = Evaluator(student, mesh, config), read_split(typed(config), "val", student.inputs)
    for share, *found in rows:
        variables = sharding.put_params(mixed(*both, float(share)).variables, mesh)
        expected = evaluate(variables, split)
        assert found == [f"{expected[key]:.2f}" for key in ("i2t_r_mean", "t2i_r_mean", "r_mean")]
    best = max(rows, key=lambda row: float(row[3]))[0]
    assert done.stdout.splitlines()[-1].endswith(f"OUT --mix={best}")
    assert (tmp_path / "curve" / "mix.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--mix=0,1.5", "--config.data.path=somewhere"], "--mix: '1.5' is no share from 0 to 1"),
        ([], "config.data.path is empty"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(models, tmp_path, arguments, complaint):
    folder, _ = models
    done = run(f"--before={folder / 'a.safetensors'}", f"--after={folder / 'b.safetensors'}",
               f"--out={tmp_path / 'curve'}", *arguments)  # fmt: skip
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert complaint in done.stderr
    assert not (tmp_path / "curve").exists()
