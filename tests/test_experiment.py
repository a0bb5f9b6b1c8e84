"""From a configuration to the parts of a run: what is wrong is told before what takes long."""

import pytest

from cusa_jax import experiment
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.models.clip import PRESETS


def config(**changed):
    config = default_config()
    config.update_from_flattened_dict({"batch_size": 512, **changed})
    return config


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch):
    monkeypatch.setattr(experiment, "build_model", lambda config: pytest.fail("built a model first"))


def test_missing_data(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder or file of captions"):
        experiment.build(config(**{"data.path": str(tmp_path / "nowhere")}))


def test_a_missing_split(tmp_path):
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(InputError, match="no captions of split 'val'"):
        experiment.build(config(**{"data.path": str(tmp_path)}))


def test_a_batch_that_the_devices_cannot_share():
    with pytest.raises(InputError, match=r"config\.batch_size=500 does not split over 8 devices"):
        experiment.build(config(batch_size=500))


def test_cudnn_where_it_cannot_be(monkeypatch):
    config = default_config()
    config.model.attention = "cudnn"
    with pytest.raises(
        InputError, match=r"attention='cudnn' runs on NVIDIA GPUs, and this is cpu; set 'xla'"
    ):
        experiment.make_model(config, PRESETS["toy"])
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(InputError, match=r"'cudnn' computes in bfloat16, and config\.model\.dtype='float32'"):
        experiment.make_model(config, PRESETS["toy"])
