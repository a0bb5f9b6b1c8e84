"""What is saved comes back bit for bit; what is damaged is named, and never mistaken for a fresh start."""

import gc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import checkpoint, sharding
from cusa_jax.checkpoint import Checkpoints, read_best
from cusa_jax.errors import InputError
from cusa_jax.types import TrainState

# Orbax, failing to read, leaves coroutines behind whose event loop is closed when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(step: int) -> TrainState:
    params = {"model": {"kernel": jnp.full((64, 8), step / 3)}, "taus": {"contrastive": jnp.float32(0.05)}}
    return TrainState(jnp.int32(step), params, {}, {"mu": jnp.full((64, 8), -step, jnp.bfloat16)})


class Batches(types.SimpleNamespace):
    """The part of a grain iterator that checkpoints need."""

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


@pytest.fixture
def like() -> TrainState:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return sharding.abstract_params(jax.eval_shape(lambda: state(0)), mesh)


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path, {"seed": 1}, keep=3)
    yield made
    made.close()
    gc.collect()


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(state(step), Batches(step=step), {"best": {"step": step}})
    checkpoints.wait()


def damage(folder):
    for file in folder.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-5])


def assert_equal(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_the_newest_comes_back(checkpoints, like):
    assert checkpoints.restore(like, Batches()) is None
    save(checkpoints, 1, 2)
    batches = Batches(step=0)
    restored, progress = checkpoints.restore(like, batches)
    assert_equal(restored, state(2))
    assert (progress["best"], batches.step) == ({"step": 2}, 2)


def test_a_damaged_one_is_set_aside_and_the_one_before_is_taken(checkpoints, like, tmp_path, caplog):
    save(checkpoints, 1, 2, 3)
    damage(tmp_path / "checkpoints" / "3")
    restored, _ = checkpoints.restore(like, Batches())
    assert_equal(restored, state(2))
    assert (tmp_path / "damaged" / "3").is_dir()
    assert "checkpoints/3 is damaged" in caplog.text
    save(checkpoints, 3)
    assert_equal(checkpoints.restore(like, Batches())[0], state(3))


def test_where_all_are_damaged_nothing_is_moved_and_nothing_starts_over(checkpoints, like, tmp_path):
    save(checkpoints, 1, 2)
    for step in ("1", "2"):
        damage(tmp_path / "checkpoints" / step)
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints can be read \(step 2: .*nothing was moved"
    ):
        checkpoints.restore(like, Batches())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_the_best_is_the_last_one_called_best(checkpoints, like):
    """A run that went further, and came back to an older checkpoint, may find its best earlier."""
    for step in (10, 20, 20, 10):
        checkpoints.save_best(step, state(step), {"r_mean": 1.0})
    assert_equal(checkpoints.restore_best(10, like), {"params": state(10).params["model"]})


def test_a_damaged_best_is_named(checkpoints, like, tmp_path):
    checkpoints.save_best(10, state(10), {"r_mean": 1.0})
    checkpoints.wait()
    damage(tmp_path / "best" / "10")
    with pytest.raises(InputError, match="best/10: the best model is damaged"):
        checkpoints.restore_best(10, like)


@pytest.mark.parametrize("read", [lambda checkpoints, like, _: checkpoints.restore_best(10, like),
                                  lambda _checkpoints, _like, workdir: read_best(workdir)])  # fmt: skip
def test_a_best_of_other_bits_is_told_by_its_checksums(checkpoints, like, tmp_path, monkeypatch, read):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "checksums", lambda tree: [0])
        checkpoints.save_best(10, state(10), {"r_mean": 1.0})
        checkpoints.wait()
    with pytest.raises(InputError, match=r"best/10: .* damaged .its arrays do not match their checksums"):
        read(checkpoints, like, tmp_path)
