"""A run's folder belongs to one configuration, and its files are written whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from cusa_jax import finish, workdir
from cusa_jax.config import default_config
from cusa_jax.errors import InputError


def claim(folder, config):
    with workdir.claimed(folder, config.to_dict()):
        pass


def test_the_same_configuration_may_come_back(tmp_path):
    config = default_config()
    claim(tmp_path / "run", config)
    config.data.workers, config.checkpoint.keep = 4, 7  # how a run is carried out may change
    workdir.check_owner(tmp_path / "run", config.to_dict())
    claim(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(config.to_json())


def test_another_configuration_is_refused_and_leaves_the_folder_alone(tmp_path):
    config = default_config()
    claim(tmp_path, config)
    before = (tmp_path / "config.json").read_bytes()
    config.optim.lr, config.seed = 0.5, 1
    with pytest.raises(InputError, match=r"another configuration \(optim\.lr 1e-05 -> 0\.5; seed 23 -> 1\)"):
        workdir.check_owner(tmp_path, config.to_dict())
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_configuration_that_came_after_the_first_look_is_not_overwritten(tmp_path):
    ours, theirs = default_config(), default_config()
    theirs.seed = 1
    workdir.check_owner(tmp_path, ours.to_dict())
    claim(tmp_path, theirs)
    with pytest.raises(InputError, match=r"another configuration \(seed 1 -> 23\)"):
        claim(tmp_path, ours)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_a_run_may_be_asked_for_more_epochs_and_not_for_fewer(tmp_path):
    config = default_config()
    config.schedule.epochs = 3
    claim(tmp_path, config)
    (tmp_path / "results.json").write_text("{}")
    claim(tmp_path, config)
    assert (tmp_path / "results.json").exists()
    config.schedule.epochs = 5
    workdir.check_owner(tmp_path, config.to_dict())
    # What is refused before the folder is claimed leaves it as it was.
    assert (tmp_path / "results.json").exists()
    claim(tmp_path, config)
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "results_of_3_epochs.json").read_text() == "{}"
    config.schedule.epochs = 4
    with pytest.raises(InputError, match=r"another configuration \(schedule\.epochs 5 -> 4\)"):
        workdir.check_owner(tmp_path, config.to_dict())


def test_a_key_younger_than_the_run_has_its_default(tmp_path):
    config = default_config()
    older = json.loads(config.to_json())
    del older["optim"]["clip_norm"]
    workdir.write_json(tmp_path / "config.json", older)
    workdir.check_owner(tmp_path, config.to_dict())
    config.optim.clip_norm = 1.0
    with pytest.raises(InputError, match=r"optim\.clip_norm 0\.0 -> 1\.0"):
        workdir.check_owner(tmp_path, config.to_dict())


@pytest.mark.parametrize("content", ["", "{", "\x00"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: not a readable JSON file"):
        workdir.check_owner(tmp_path, default_config().to_dict())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run: cannot be locked"):
        claim(tmp_path / "run", default_config())


@pytest.mark.parametrize("content", ["[]", '{"seed": {}}', '{"seed": "x"}', '{"sede": 1}', '{"loss": 3}'])
def test_what_is_no_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: "):
        workdir.check_owner(tmp_path, default_config().to_dict())


def test_a_second_training_is_refused_early_and_late(tmp_path):
    config = default_config()
    hold = (
        "import sys; from pathlib import Path; from cusa_jax import workdir; "
        "from cusa_jax.config import default_config\n"
        "with workdir.claimed(Path(sys.argv[1]), default_config().to_dict()): print('in', flush=True); input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout.readline() == "in\n"
        told = f"{tmp_path} is in use by process {first.pid} on "
        with pytest.raises(InputError, match=told):
            workdir.check_owner(tmp_path, config.to_dict())
        with pytest.raises(InputError, match=told):
            claim(tmp_path, config)
        first.communicate("go\n")
    claim(tmp_path, config)


@contextlib.contextmanager
def training(folder):
    with workdir.claimed(folder, default_config().to_dict()):
        yield


def test_a_full_disk_is_one_line(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
    for error in (
        full,
        ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device\nat: kvstore"),
    ):
        told = r"cannot be written to \(No space left on device\); what was saved last is kept, and the same command"
        with pytest.raises(InputError, match=told) as refusal, training(tmp_path):
            raise error
        assert "\n" not in str(refusal.value)


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    def remove_and_write():
        with training(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run" / "metrics.jsonl").open("a")

    with pytest.raises(InputError, match="run: the folder was removed"):
        remove_and_write()


def test_bugs_while_training_keep_their_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), training(tmp_path):
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), training(tmp_path):
        (tmp_path / "none").open()


def test_a_refused_request_for_more_epochs_leaves_the_run_finished(tmp_path):
    config = default_config()
    config.data.path = config.teacher.image = config.teacher.text = str(tmp_path / "nothing")
    claim(tmp_path / "run", config)
    (tmp_path / "run" / "results.json").write_text("{}")
    config.schedule.epochs += 1
    with pytest.raises(InputError, match="nothing"):
        finish.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "results.json").is_file()
