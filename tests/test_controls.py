"""The control table: which runs it makes, when it repeats them, and that its intervals are what they say."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from cusa_jax import controls
from cusa_jax.config import default_config
from cusa_jax.controls import BASELINE, CELLS, Cell
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.retrieval import ScoredSplit, metrics
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.evaluation.statistics import mean


@pytest.fixture
def config():
    config = default_config()
    config.teacher.image, config.teacher.text = "image-teacher", "text-teacher"
    return config


def test_ten_cells_that_differ_in_loss_and_teachers_only(config):
    assert len(set(CELLS)) == 10
    for cell in CELLS:
        own = controls.cell_config(config, cell, seed=7)
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
    assert config.loss.usa.weight == 0.5  # the given configuration is left as it was


def one_figure(values):
    return Result("image", (len(values),), {"r_mean": mean(values)})


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Training that takes no time: the runs asked for, and figures that follow from cell and seed."""
    asked = []

    def train(config, folder):
        asked.append(folder.name)
        return None if folder.name == stop.get("at") else {}

    def embed(_config, folder):
        folder.mkdir(parents=True)
        (folder / controls.EMBEDDINGS).write_text(folder.name)

    def measured(name, _split):
        shift = 2.0 * ("cusa" in name) + int(name[-1])
        return one_figure(np.array([10.0, 20.0, 60.0]) + shift)

    stop = {}
    monkeypatch.setattr(controls.finish, "run", train)
    monkeypatch.setattr(controls, "_embed", embed)
    monkeypatch.setattr(controls, "_scored", lambda folder: (folder / controls.EMBEDDINGS).read_text())
    monkeypatch.setattr(controls, "result", measured)
    monkeypatch.setattr(controls, "load_model", lambda folder: (SimpleNamespace(inputs=None), None))
    monkeypatch.setattr(controls, "read_split", lambda config, name, inputs: None)
    return asked, stop


def test_finished_runs_are_not_repeated_and_a_stop_stops(config, tmp_path, trained):
    asked, stop = trained
    cells = (BASELINE, Cell("cusa", "trained"))
    stop["at"] = "contrastive-1"
    assert controls.run(config, (0, 1), tmp_path, cells) is None
    assert asked == ["contrastive-0", "cusa-trained-0", "contrastive-1"]
    asked.clear()
    stop.clear()
    found = controls.run(config, (0, 1), tmp_path, cells)
    assert asked == ["contrastive-1", "cusa-trained-1"]
    assert [run.values() for run in found[cells[1]]] == [{"r_mean": 32.0}, {"r_mean": 33.0}]
    told = controls.table(found)
    assert re.search(r"^contrastive +30\.50 ± 0\.71$", told, re.M)
    assert re.search(
        r"^cusa-trained − contrastive +\+2\.00 +\+2\.00 … \+2\.00 +\+2\.00 … \+2\.00$", told, re.M
    )
    assert "shuffled" not in told


def test_intervals_are_paired_by_seed_and_by_image():
    rng = np.random.default_rng(3)
    images, seeds = rng.normal(50, 20, 400), rng.normal(0, 5, (3, 1))  # both shared by the two cells
    first = images + seeds + rng.normal(0, 1, (3, 400))
    second = images + seeds + np.array([[1.0], [1.5], [2.0]]) + rng.normal(0, 1, (3, 400))
    found = controls.difference(*([one_figure(run) for run in cell] for cell in (first, second)), "r_mean")
    by_seed = (second - first).mean(1)
    expected = stats.ttest_rel(second.mean(1), first.mean(1)).confidence_interval(0.95)
    assert found.mean == pytest.approx(by_seed.mean())
    assert found.by_seed == pytest.approx(tuple(expected))
    normal = stats.norm.interval(0.95, by_seed.mean(), stats.sem((second - first).mean(0)))
    assert found.by_image == pytest.approx(normal, abs=0.02)


def test_its_figures_are_the_official_ones():
    rng = np.random.default_rng(4)
    caption_image = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 5], np.int32)  # not equally many each
    relevance = np.eye(6, dtype=bool)[caption_image] | (rng.random((10, 6)) < 0.3)
    table = CaptionTable([str(n) for n in range(6)], [], ["c"] * 10, caption_image, None)
    split = Split(table, ["c"] * 10, np.zeros((10, 4), np.int32), relevance, ImageFiles([]))
    scores = InnerProducts(rng.normal(size=(6, 3)), rng.normal(size=(10, 3)))
    scored = ScoredSplit(np.arange(6, dtype=np.int32), np.arange(10), scores)
    found, official = controls.result(scored, split).values(), metrics(scored, split)
    assert found.keys() == {"r_mean", "map_at_r"}
    for name, value in found.items():
        assert value == pytest.approx(official[name])
