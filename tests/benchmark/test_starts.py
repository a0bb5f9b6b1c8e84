"""The table of starts, over a command that says what a training says."""

import math

import pytest

from cusa_jax.benchmark import starts
from cusa_jax.config import default_config
from cusa_jax.errors import InputError

TRAINING = """
import pathlib, sys, time
if "--config.compiled=false" in sys.argv:
    time.sleep(1)
print("step 0/9 | val: r_mean 1.00", flush=True)
print("step 1/9 | epoch 0.1 | loss 1.0 | 3 pairs/s", flush=True)
time.sleep(60)
"""


def test_a_start_ends_with_the_first_step(monkeypatch):
    monkeypatch.setattr(starts, "_RUN", TRAINING)
    monkeypatch.setattr(starts, "build", lambda config: None)
    config = default_config()
    config.data.path, config.teacher.image, config.teacher.text = "data", "images", "texts"
    rows = {row["start"]: row for row in starts.rows(config, repeats=1)}
    assert list(rows) == ["imports", "first", "again", "again, not kept"]
    assert rows["again"]["s"] < 1 < rows["again, not kept"]["s"] < 30
    assert math.isclose(rows["again"]["× not kept"], rows["again"]["s"] / rows["again, not kept"]["s"])


def test_a_training_that_takes_no_step_is_an_error(monkeypatch):
    monkeypatch.setattr(starts, "_RUN", "print('step 0/9 | val: r_mean 1.00')")
    with pytest.raises(InputError, match="did not come to its first step"):
        starts._to_step([])
