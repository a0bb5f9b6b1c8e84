"""The comparison table says what results.json holds, and the curves become a picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cusa_jax.errors import InputError
from cusa_jax.report import compare
from cusa_jax.report.compare import comparison, learning_curves


def run(folder: Path, name: str, r_mean: float, **test: float) -> Path:
    workdir = folder / name
    workdir.mkdir()
    results = {"best_step": 30, "val_r_mean": 1.0, "test": {"r_mean": r_mean, **test}}
    (workdir / "results.json").write_text(json.dumps(results))
    lines = [
        {"step": n, "split": "train", "loss_contrastive": 1 / n, "tau_contrastive": 0.05} for n in (1, 2, 3)
    ]
    lines.append({"step": 3, "split": "val", "r_mean": r_mean})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def test_runs_stand_side_by_side_with_their_differences(tmp_path):
    runs = [
        run(tmp_path, "contrastive", 50.0, i2t_map_at_r=20.0, txt_r1=31.25),
        run(tmp_path, "cusa", 52.5, i2t_map_at_r=21.0, txt_r1=30.0),
    ]
    assert comparison(runs).splitlines() == [
        "test, %    contrastive   cusa  cusa − contrastive",
        "i2t mAP@R        20.00  21.00               +1.00",
        "i2t R@1          31.25  30.00               -1.25",
        "r_mean           50.00  52.50               +2.50",
        "best step           30     30                    ",
    ]


def test_an_unfinished_run_has_no_results(tmp_path):
    finished = run(tmp_path, "contrastive", 50.0)
    (tmp_path / "cusa").mkdir()
    with pytest.raises(InputError, match=r"cusa/results\.json: no such file; the run is not finished"):
        comparison([finished, tmp_path / "cusa"])


def test_curves_become_a_picture(tmp_path):
    picture = tmp_path / "curves.png"
    learning_curves([run(tmp_path, "a", 50.0), run(tmp_path, "b", 60.0)], picture)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # a line for each run


def test_a_scalar_that_no_run_trained_is_no_panel():
    """Its values differ from run to run, and in none of them."""
    logs = [
        [{"loss_csa": 1.0, "tau_csa": start, "tau_usa": start * n} for n in (1, 2)] for start in (0.1, 0.2)
    ]
    assert [key for split, key, _ in compare._panels(logs) if split == "train"] == ["loss_csa", "tau_usa"]
