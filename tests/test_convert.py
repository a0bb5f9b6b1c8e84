"""scripts/convert.py as its users run it."""

import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import yaml

from cusa_jax.config import default_config
from cusa_jax.weights import torch_file

ROOT = Path(__file__).parent.parent


def convert(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/convert.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def reference_checkpoint() -> dict:
    """The reference's start of the recorded training runs, as it would save it."""
    model = {f"clip_model.{name}": tensor for name, tensor in golden.clip_tensors().items()}
    del model["clip_model.logit_scale"]
    loss = golden.numbers("losses")["configs"]["yaml/vitb32/flickr/cusa"]["loss_config"]
    config = {
        "save_path": "output", "logger_name": "output/log", "model_name": "output/checkpoints",
        "dataset_name": "cross_coco", "data_path": "flickr", "clip_model": "tinyA.pt", "is_all_gather": False,
        "batch_size_train": 8, "batch_size_test": 8, "batch_size_testall": 8, "loss_config": loss,
        "optimizer": {"opt": "adamW", "lr": 1e-3, "weight_decay": 0.05},
        "schedular": {"sched": "cosine", "epochs": 5, "min_lr": 1e-6, "decay_rate": 1, "warmup_lr": 1e-5,
                      "warmup_epochs": 0, "cooldown_epochs": 0},
    }  # fmt: skip
    taus = {
        "tau": 0.05,
        "cross_tau": 0.25,
        "cross_the_softlabel_tau": 1,
        "uni_tau_image": 0.5,
        "uni_tau_text": 0.75,
    }
    model |= golden.head_tensors(golden.TINY_A.embed_dim)
    model |= {name: np.float32(tau) for name, tau in taus.items()}
    return {"model": model, "config": config, "epoch": 3, "best": 71.25, "best_epoch": 2}


def test_the_reference_s_checkpoint_becomes_a_recipe_that_trains_on(tmp_path):
    torch_file.write(tmp_path / "checkpoint_best.pth", reference_checkpoint())
    done = convert(tmp_path / "checkpoint_best.pth", tmp_path / "recipe.py")
    assert (done.returncode, done.stderr) == (0, "")
    namespace: dict = {}
    exec((tmp_path / "recipe.py").read_text(), namespace)
    config, default = namespace["get_config"]("loss=usa"), default_config()
    assert config.init_from == str(tmp_path / "checkpoint_best.pth")
    assert (config.model.name, config.batch_size, config.optim.lr) == ("auto", 32, 1e-3)
    assert [config.loss.csa.tau[side].init for side in ("image", "text")] == [0.25, 0.25]
    assert [config.loss.usa.tau[side].init for side in ("image", "text")] == [0.5, 0.75]
    assert (config.loss.usa.weight, config.loss.csa.weight) == (default.loss.usa.weight, 0)


def test_errors_are_one_line(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    done = convert(tmp_path / "x.pt", tmp_path / "x.pth")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/x.pt: truncated or damaged")
    assert done.stderr.count("\n") == 1


def test_the_reference_s_yaml_becomes_a_config(tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(reference_checkpoint()["config"]))
    assert convert(tmp_path / "x.yaml", tmp_path / "x.py").returncode == 0
    assert "config.optim.weight_decay = 0.05" in (tmp_path / "x.py").read_text()
