"""The training command on a folder of regions: SAF, with its dropout and moving statistics, killed and resumed."""

import signal
from pathlib import Path

import golden
import numpy as np
from training import SETTINGS, assert_same_end, kill_after, run, state_at

from cusa_jax.data import region_writer, vocabulary, world
from cusa_jax.data.splits import SPLITS, read_split
from cusa_jax.teachers.features import write_features

IMAGES = {split: SETTINGS[f"data.world.{split}"] for split in SPLITS}
REGIONS, WIDTH = 3, 8


def write_regions(folder: Path, scenes: Path) -> dict:
    """The embedded world's captions beside random regions. Returns the settings of a training on them.

    Image features are in a file, by id; the text teacher is live.
    """
    world.write(scenes, IMAGES)
    for split in SPLITS:
        rows = golden.hash_uniform(split, (IMAGES[split], REGIONS, WIDTH)).astype(np.float32)
        table = read_split(scenes, split).table
        region_writer.write_split(folder, split, table, lambda numbers, rows=rows: [(numbers, rows[numbers])])
    train = read_split(folder, "train").table
    vocabulary.write(folder / "vocab.json", vocabulary.build(train.captions))
    seen = golden.hash_uniform("features", (IMAGES["train"], 5)).astype(np.float32)
    write_features(folder / "teacher.npz", train.image_ids, seen)
    return {
        "config": "configs/f30k_sgraf.py:model=saf", "data.world.train": 0, "loss.local_batch": 16,
        "model.tokenizer": folder / "vocab.json", "teacher.image": folder / "teacher.npz",
        "teacher.text": Path(world.__file__).parents[2] / "assets" / "world_teachers" / "text",
        "model.sizes": f"regions={REGIONS},img_dim={WIDTH},embed_size=16,word_dim=8,sim_dim=8,uni_dim=8,max_words=24",
    }  # fmt: skip


def test_saf_killed_and_resumed_ends_bit_identical(tmp_path):
    data, undisturbed, killed = (tmp_path / name for name in ("regions", "undisturbed", "killed"))
    settings = write_regions(data, tmp_path / "scenes")
    done = run(undisturbed, data, **settings)
    assert done.returncode == 0, done.stderr
    assert kill_after(14, signal.SIGKILL, killed, data, **settings).returncode == -signal.SIGKILL
    done = run(killed, data, **settings)
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stdout
    assert_same_end(killed, undisturbed)
    assert any("batch_stats" in name and "filtration" in name for name in state_at(killed))
