"""The controls: which runs they make, under which settings, and when they repeat them."""

import numpy as np
import pytest

from cusa_jax.config import default_config
from cusa_jax.controls import runs
from cusa_jax.controls.cells import BASELINE, CELLS, Cell, cell_config, read_cell, read_recipe, read_recipes
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import write_json


@pytest.fixture
def config():
    config = default_config()
    config.teacher.image, config.teacher.text = "image-teacher", "text-teacher"
    return config


def test_ten_cells_that_differ_in_loss_and_teachers_only(config):
    assert len(set(CELLS)) == 10
    for cell in CELLS:
        own = cell_config(config, cell, seed=7)
        on = {term for term in ("contrastive", "csa", "usa") if own.loss[term].weight > 0}
        assert on == {"contrastive"} | {
            term for term in ("csa", "usa") if term in cell.loss.replace("cusa", "csa usa")
        }
        assert own.seed == 7
        if cell == BASELINE:
            assert (own.teacher.image, own.teacher.text) == ("", "")
        else:
            assert own.teacher.control == {"trained": "none"}.get(cell.teachers, cell.teachers)
            assert own.teacher.image == "image-teacher"
            own.teacher.control = "none"
            own.loss, own.seed, own.checkpoint = config.loss, config.seed, config.checkpoint
            assert own.to_dict() == config.to_dict()
    # The given configuration is left as it was.
    assert config.loss.usa.weight == 0.5


def test_a_recipe_changes_what_it_names_and_its_baseline_too(config):
    name, values = read_recipe("sharp: loss.csa.weight=2 teacher.centre=true model.heads=none")
    recipes = {name: values}
    for cell in ("sharp.cusa-shuffled", "sharp.baseline"):
        own = cell_config(config, read_cell(cell, recipes), 3, recipes)
        assert (own.teacher.centre, own.model.heads) == (True, "none")
        assert own.loss.csa.weight == (2.0 if "cusa" in cell else 0.0)
    assert str(read_cell("sharp.cusa-shuffled", recipes)) == "sharp.cusa-shuffled"
    assert cell_config(config, BASELINE, 3, recipes).model.heads == "linear"


def test_the_baseline_of_a_hinge_loss_is_the_hinge_loss(config):
    config.loss.hinge.weight, config.loss.contrastive.weight = 1.0, 0.0
    own = cell_config(config, BASELINE, 0)
    assert [term for term in ("hinge", "contrastive", "csa", "usa") if own.loss[term].weight] == ["hinge"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: read_recipe("sharp: loss.csa.wieght=1"), "no config key 'loss.csa.wieght' (did you mean"),
        (lambda: read_recipe("sharp: loss.csa.weight=high"), "loss.csa.weight=high must be float"),
        (lambda: read_recipe("sharp: teacher.centre=yes"), "teacher.centre=yes must be bool"),
        (lambda: read_recipe("a/b: teacher.centre=true"), "'a/b' is no name"),
        (lambda: read_recipe("a: seed=1"), "seed is set by --seeds"),
        (lambda: read_recipes(["a: batch_size=8", "a: batch_size=4"]), "--recipe=a: is given twice"),
        (lambda: read_recipe("a: teacher.control=uniform"), "teacher.control is set by the cell's name"),
        (lambda: read_recipe("a: checkpoint.keep=3"), "checkpoint.keep is set by this command"),
        (lambda: read_cell("cusa-shufled", {}), "did you mean 'cusa-shuffled'"),
        (lambda: read_cell("sharp.cusa-trained", {}), "there is no --recipe=sharp:"),
    ],
)
def test_what_does_not_exist_is_named(call, said):
    with pytest.raises(InputError) as error:
        call()
    assert said in str(error.value)


def test_finished_runs_are_not_repeated_and_a_stop_stops(config, tmp_path, monkeypatch):
    asked, kept, stop = [], [], {"contrastive": "baseline-1"}

    def train(own, folder):
        asked.append(folder.name)
        if folder.name in stop.values():
            return None
        folder.mkdir(parents=True)
        write_json(folder / "config.json", own.to_dict())
        (folder / "results.json").write_text("{}")
        return {}

    def keep(config, folder, split):
        kept.append((folder.name, split))
        np.savez(folder / f"{split}_embeddings.npz", epochs=config.schedule.epochs)

    monkeypatch.setattr(runs.finish, "run", train)
    monkeypatch.setattr(runs, "_keep_scores", keep)
    cells = (BASELINE, Cell("cusa", "trained"))
    assert not runs.run(config, (0, 1), tmp_path, cells)
    assert asked == ["baseline-0", "cusa-trained-0", "baseline-1"]
    asked.clear()
    stop.clear()
    assert runs.run(config, (0, 1), tmp_path, cells)
    assert asked == ["baseline-1", "cusa-trained-1"]
    # Another split of finished runs takes no training.
    asked.clear()
    kept.clear()
    assert runs.run(config, (0,), tmp_path, cells, split="val")
    assert asked == []
    assert kept == [("baseline-0", "val"), ("cusa-trained-0", "val")]
    # A run of other settings under the same name is not taken for one of these.
    lr, config.optim.lr = config.optim.lr, 3e-4
    with pytest.raises(InputError, match=r"baseline-0 belongs to another configuration \(optim\.lr"):
        runs.run(config, (0,), tmp_path, cells, split="val")
    # More epochs make it go on, which a refusal does not undo.
    config.optim.lr = lr
    config.schedule.epochs += 1
    monkeypatch.setattr(runs.finish, "run", lambda _config, folder: asked.append(folder.name))
    assert not runs.run(config, (0,), tmp_path, cells, split="val")
    assert asked == ["baseline-0"]
    assert (tmp_path / "baseline-0" / "results.json").is_file()
    # It ended, and was killed before its scores were written: those of fewer epochs are not taken for its.
    kept.clear()
    write_json(tmp_path / "baseline-0" / "config.json", cell_config(config, BASELINE, 0).to_dict())
    assert runs.run(config, (0,), tmp_path, (BASELINE,), split="val")
    assert kept == [("baseline-0", "val")]
