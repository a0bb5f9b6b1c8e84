"""What is saved comes back bit for bit; what is damaged is named, and never mistaken for a fresh start."""

import gc
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import checkpoint, checksum, sharding
from cusa_jax.checkpoint import Checkpoints, read_best
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.types import TrainState

# Orbax, failing to read, leaves coroutines behind whose event loop is closed when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(step: int) -> TrainState:
    params = {
        "model": {"kernel": jnp.full((64, 8), step / 3)},
        "scalars": {"tau_contrastive": jnp.float32(0.05)},
    }
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


def described(**config):
    values = default_config()
    values.update_from_flattened_dict(config)
    return {"config": values.to_dict(), "family": "none", "sizes": {}}


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path, described(), keep=3)
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
    assert (progress, batches.step) == ({"best": {"step": 2}}, 2)


def test_a_damaged_one_is_set_aside_and_the_one_before_is_taken(checkpoints, like, tmp_path, caplog):
    save(checkpoints, 1, 2, 3)
    damage(tmp_path / "checkpoints" / "3")
    restored, _ = checkpoints.restore(like, Batches())
    assert_equal(restored, state(2))
    assert (tmp_path / "damaged" / "3").is_dir()
    assert "checkpoints/3 is damaged" in caplog.text
    save(checkpoints, 3)
    assert_equal(checkpoints.restore(like, Batches())[0], state(3))


def test_every_changed_character_of_json_is_noticed(checkpoints, like, tmp_path):
    """Whatever becomes of it, a checkpoint is taken as it was saved, or not at all."""
    save(checkpoints, 1, 12)
    noticed = 0
    for item in ("batches", "progress", "config"):
        path = tmp_path / "checkpoints" / "12" / item / "metadata"
        content = path.read_text()
        digits = [place for place, character in enumerate(content) if character.isalnum()]
        for place in digits[:: max(1, len(digits) // 6)]:
            path.write_text(content[:place] + ("3" if content[place] != "3" else "4") + content[place + 1 :])
            batches = Batches(step=0)
            restored, progress = checkpoints.restore(like, batches)
            assert (int(restored.step), batches.step, progress["best"]["step"]) == (1, 1, 1), content[place:]
            noticed += 1
            shutil.move(tmp_path / "damaged" / "12", tmp_path / "checkpoints" / "12")
            path.write_text(content)
            checkpoints._latest.reload()
    assert noticed > 15


def test_items_of_two_checkpoints_do_not_mix(checkpoints, like, tmp_path):
    save(checkpoints, 1, 2, 3)
    for item in ("batches", "state"):
        source, target = (tmp_path / "checkpoints" / step / item for step in ("2", "3"))
        shutil.copytree(target, tmp_path / "kept")
        shutil.rmtree(target)
        shutil.copytree(source, target)
        restored, _ = checkpoints.restore(like, Batches())
        assert int(restored.step) == 2
        shutil.move(tmp_path / "damaged" / "3", tmp_path / "checkpoints" / "3")
        shutil.rmtree(target)
        shutil.move(tmp_path / "kept", target)
        checkpoints._latest.reload()


def test_one_of_another_run_is_refused(checkpoints, like, tmp_path):
    other = Checkpoints(tmp_path / "other", described(seed=24, **{"data.workers": 2}), keep=3)
    save(other, 2)
    other.save_best(2, state(2), {"r_mean": 1.0})
    other.close()
    save(checkpoints, 1)
    checkpoints.save_best(2, state(2), {"r_mean": 1.0})
    checkpoints.wait()
    for folder in ("checkpoints", "best"):
        shutil.copytree(tmp_path / "other" / folder / "2", tmp_path / folder / "2", dirs_exist_ok=True)
    checkpoints._latest.reload()
    told = r"/2 was saved by a run of another configuration \(seed 24 -> 23\); remove it"
    with pytest.raises(InputError, match="checkpoints" + told):
        checkpoints.restore(like, Batches())
    with pytest.raises(InputError, match="best" + told):
        checkpoints.restore_best(2, like)


def test_one_of_a_run_that_was_carried_out_otherwise_is_continued(checkpoints, like, tmp_path):
    other = Checkpoints(tmp_path, described(**{"data.workers": 2, "checkpoint.keep": 9}), keep=3)
    save(other, 2)
    other.close()
    checkpoints._latest.reload()
    assert checkpoints.restore(like, Batches()) is not None


def test_one_from_before_there_were_digests_is_read_by_its_sums(checkpoints, like, tmp_path):
    save(checkpoints, 1, 2)
    for step in (1, 2):
        path = tmp_path / "checkpoints" / str(step) / "progress" / "metadata"
        progress = json.loads(path.read_text())
        old = {"best": progress["best"], "checksums": checksum.sums_of_old(state(step))}
        path.write_text(json.dumps(old))
    assert_equal(checkpoints.restore(like, Batches())[0], state(2))
    old["checksums"][0] += 1
    path.write_text(json.dumps(old))
    assert_equal(checkpoints.restore(like, Batches())[0], state(1))


def test_one_of_a_later_version_is_not_guessed_at(checkpoints, like, tmp_path, caplog):
    save(checkpoints, 1, 2)
    path = tmp_path / "checkpoints" / "2" / "progress" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert_equal(checkpoints.restore(like, Batches())[0], state(1))
    assert "KeyError(99)" in caplog.text


def test_the_newest_is_named(checkpoints, tmp_path):
    assert checkpoints.newest() is None
    save(checkpoints, 1, 2)
    assert checkpoints.newest() == tmp_path / "checkpoints" / "2"


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
