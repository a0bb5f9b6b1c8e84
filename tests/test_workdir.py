"""A run's folder belongs to one configuration, and its files are written whole or not at all."""

import json

import pytest

from cusa_jax import workdir
from cusa_jax.config import default_config
from cusa_jax.errors import InputError


def test_the_same_configuration_may_come_back(tmp_path):
    config = default_config()
    workdir.claim(tmp_path / "run", config)
    config.data.workers, config.checkpoint.keep = 4, 7  # how a run is carried out may change
    workdir.check_owner(tmp_path / "run", config)
    workdir.claim(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(config.to_json())


def test_another_configuration_is_refused_and_leaves_the_folder_alone(tmp_path):
    config = default_config()
    workdir.claim(tmp_path, config)
    before = (tmp_path / "config.json").read_bytes()
    config.optim.lr, config.seed = 0.5, 1
    with pytest.raises(InputError, match=r"another configuration \(optim\.lr 1e-05 -> 0\.5; seed 23 -> 1\)"):
        workdir.check_owner(tmp_path, config)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_key_younger_than_the_run_has_its_default(tmp_path):
    config = default_config()
    older = json.loads(config.to_json())
    del older["optim"]["clip_norm"]
    workdir.write_json(tmp_path / "config.json", older)
    workdir.check_owner(tmp_path, config)
    config.optim.clip_norm = 1.0
    with pytest.raises(InputError, match=r"optim\.clip_norm 0\.0 -> 1\.0"):
        workdir.check_owner(tmp_path, config)


@pytest.mark.parametrize("content", ["", "{", "\x00"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: not a readable JSON file"):
        workdir.check_owner(tmp_path, default_config())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run: "):
        workdir.claim(tmp_path / "run", default_config())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    workdir.write_json(path, {"r_mean": 1.0})
    with pytest.raises(TypeError):
        workdir.write_json(path, {"r_mean": object()})
    assert workdir.read_json(path) == {"r_mean": 1.0}
