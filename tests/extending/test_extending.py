"""The five files of docs/extending.md, added from outside the package: trained with, continued, evaluated.

One run of real commands uses all of them; its programs are small, for compiling takes the time.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data import world
from cusa_jax.data.layouts import find_captions

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = ("student", "teacher", "term", "source", "suite")
EXTEND = [f"--extend={HERE / name}.py" for name in FILES]


def command(script, *arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, ROOT / "scripts" / f"{script}.py", *EXTEND, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Splits of the embedded world as arrays, the layout of source.py."""
    folder = tmp_path_factory.mktemp("arrays")
    for split, count in (("train", 32), ("val", 8), ("test", 8)):
        drawn = world.generate(split, count)
        np.savez(
            folder / f"{split}.npz", images=drawn.images, captions=drawn.captions, image=drawn.caption_image
        )
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "extended"
    teacher = tmp_path_factory.mktemp("teachers") / "colours"
    teacher.mkdir()
    (teacher / "config.json").write_text(json.dumps({"model_type": "colours", "levels": 3}))
    settings = {
        "model.name": "late", "data.path": data, "data.world.train": 0, "teacher.image": teacher, "batch_size": 32,
        "loss.margin.weight": 1.0, "loss.usa.weight": 0.0, "schedule.epochs": 2, "log.every_steps": 1,
        "eval.batch_size": 40,
    }  # fmt: skip
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    done = command("train", "--config=configs/demo.py", f"--workdir={workdir}", *overrides)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize("name", FILES)
def test_each_is_one_short_file(name):
    assert len((HERE / f"{name}.py").read_text().splitlines()) < 60


def test_the_student_learns_by_the_term_with_the_teacher_on_the_source(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert len(steps) == 10
    assert steps[-1]["loss_margin"] < steps[0]["loss_margin"]
    assert steps[0]["margin"] == pytest.approx(0.2)
    assert steps[-1]["margin"] != steps[0]["margin"]
    assert steps[0]["loss_csa"] > 0
    assert "loss_usa" not in steps[0]
    assert {"r_mean", "i2t_r1"} <= json.loads((trained / "results.json").read_text())["test"].keys()
    assert "Images with captions (CSA)" in (trained / "report.html").read_text()


def test_the_suite_scores_pairs_of_a_student_without_embeddings(trained, data, tmp_path):
    (tmp_path / "neighbours").symlink_to(data)
    done = command(
        "evaluate", f"--checkpoint={trained}", "--suite=neighbours", f"--data={tmp_path}", f"--out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    suite = json.loads((tmp_path / "results.json").read_text())["suites"]["neighbours"]
    assert suite["units"] == 8
    assert suite["head"] == "scores of pairs"
    assert suite["metrics"]["preferred"]["value"] % 12.5 == 0
    assert "own caption first" in (tmp_path / "report.html").read_text()


def test_without_the_file_the_model_is_named(trained, data):
    line = [sys.executable, ROOT / "scripts" / "evaluate.py", f"--checkpoint={trained}", "--suite=flickr30k"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "'late'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("import nothing_of_this_name", "cannot be imported (ModuleNotFoundError: ")],
)
def test_a_file_that_cannot_be_imported_is_named(content, message, tmp_path):
    file = tmp_path / "mine.py"
    if content:
        file.write_text(content)
    line = [sys.executable, ROOT / "scripts" / "convert.py", f"--extend={file}", "a", "b"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --extend={file}: {message}")


def test_the_layout_is_not_there_without_it(data):
    with pytest.raises(ValueError, match=r"no captions of split 'train' \(looked for"):
        find_captions(data, "train")
