"""A path on the command line -> the source of embeddings that it names."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cusa_jax import sharding, temperatures
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.errors import InputError
from cusa_jax.evaluation.sources import ArraySource, ModelSource, Source, TextSource
from cusa_jax.experiment import build_model
from cusa_jax.models.dual_encoder import DualEncoder, init_variables
from cusa_jax.teachers.load import load_text_teacher
from cusa_jax.types import Params, TrainState
from cusa_jax.weights.huggingface import read_clip
from cusa_jax.weights.openai import clip_variables
from cusa_jax.workdir import CONFIG, read_json


def open_source(path: str, *, batch_size: int, workers: int) -> Source:
    """The folder of a run (its model that validated best), a CLIP, a sentence encoder's folder, or an .npz.

    Raises InputError where there is none of these.
    """
    if path.endswith(".npz"):
        return ArraySource(path)
    mesh = sharding.make_mesh()
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"{path}: neither the folder of a run, nor of a Hugging Face CLIP or sentence encoder (each has a "
            f"{CONFIG}), nor an .npz of embeddings"
        )
    config = read_json(folder / CONFIG)
    if "loss" in config:
        model, variables = _run_model(folder, ConfigDict(config))
    elif "vision_config" in config:
        model, variables = _clip_model(path)
    else:
        teacher = load_text_teacher(path, caption_keys=(), max_length=512)
        return TextSource(teacher, mesh, batch_size)
    return ModelSource(path, model, sharding.put_params(variables, mesh), mesh, batch_size, workers)


def _run_model(folder: Path, config: ConfigDict) -> tuple[DualEncoder, Params]:
    model, variables = build_model(config)
    steps = [int(path.name) for path in (folder / "best").glob("*") if path.name.isdecimal()]
    if not steps:
        raise InputError(f"{folder / 'best'}: no checkpoint; the run has not validated yet")
    model_state = {name: collection for name, collection in variables.items() if name != "params"}
    taus = temperatures.init(temperatures.temperatures(config.loss))
    like = TrainState(jnp.zeros((), jnp.int32), {"model": variables["params"], "taus": taus}, model_state, ())
    with contextlib.closing(Checkpoints(folder, config.to_dict(), config.checkpoint.keep)) as checkpoints:
        return model, checkpoints.restore_best(max(steps), like)


def _clip_model(path: str) -> tuple[DualEncoder, Params]:
    clip, tensors = read_clip(path)
    model = DualEncoder(clip=clip, cross_heads=False, uni_heads=False)
    template = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
    return model, clip_variables(tensors, clip, template, path)
