"""The reference's checkpoints, `checkpoint_best.pth` and `checkpoint_XX.pth` (reference retrieval.py:161-180).

{'model': state dict, 'config': its YAML, 'epoch', 'best', 'best_epoch'}; no optimiser.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.config import ConfigDict
from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig, preset_name
from cusa_jax.scalars import specifications
from cusa_jax.weights import reference, student, torch_file
from cusa_jax.weights.openai import clip_config

ACTIVATION = "quick_gelu"  # the only one it has (clip/model.py:166)
PREFIX = "clip_model."


def is_checkpoint(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("config"), Mapping) and "model" in value


def read(value: Mapping[str, Any], where: Path) -> student.Weights:
    """Weights, temperatures and recipe of an unpickled checkpoint. Raises InputError listing what does not fit."""
    config = reference.config_of(value["config"], where)
    tensors = {
        name.removeprefix(PREFIX): tensor for name, tensor in torch_file.flatten(value["model"]).items()
    }
    wanted = {reference.TEMPERATURE_NAMES[name]: name for name in _temperatures(config)}
    if missing := [theirs for theirs in wanted if theirs not in tensors]:
        raise InputError(f"{where}: temperatures that its config asks for are missing: {', '.join(missing)}")
    taus = {ours: np.asarray(tensors.pop(theirs), np.float32) for theirs, ours in wanted.items()}
    if wrong := [name for name, tau in taus.items() if tau.shape != ()]:
        raise InputError(f"{where}: temperatures that are no single numbers: {', '.join(wrong)}")
    clip = clip_config(tensors, ACTIVATION, where)
    return student.collect(clip, tensors, where, taus, config)


def write(path: Path, weights: student.Weights) -> None:
    """A checkpoint that torch.load(weights_only=True) and the reference's strict load_state_dict take.

    To the reference it is one before the first epoch: `--resume` trains on from these weights. Of sizes that OpenAI
    did not release, its YAML's `clip_model` is the .pt of the same name, to be written, too.
    Raises InputError for what the reference cannot be: without heads or recipe, with GELU, or with other heads
    than the recipe's losses have.
    """
    if weights.config is None:
        raise InputError(
            f"{path}: a checkpoint of the reference has heads and a recipe, and these weights have none"
        )
    if _plainest(weights.clip) != weights.clip:
        raise InputError(
            f"{path}: the reference has {ACTIVATION} and one head per 64 channels; these weights do not"
        )
    config = reference.with_own_temperatures(weights.config)
    config.model.name, config.init_from = preset_name(weights.clip) or "auto", str(path.with_suffix(".pt"))
    loss = config.loss
    wanted = (("cross",) if loss.contrastive.weight or loss.csa.weight else ()) + (
        ("uni",) if loss.usa.weight else ()
    )
    if wanted != weights.heads:
        raise InputError(
            f"{path}: the recipe's losses have the heads {wanted}, these weights {weights.heads}"
        )
    heads = {f"{name}." for kind in wanted for name in student.HEADS[kind].values()}
    model = {
        (name if name.startswith(tuple(heads)) else PREFIX + name): tensor
        for name, tensor in student.with_counters(weights.tensors).items()
        if name != "logit_scale"
    }
    specs = specifications(loss)
    for name in _temperatures(config):
        borrowed = weights.taus.get(name.replace("usa", "csa"), np.float32(specs[name].init))
        model[reference.TEMPERATURE_NAMES[name]] = np.asarray(weights.taus.get(name, borrowed), np.float32)
    torch_file.write(
        path, {"model": model, "config": reference.yaml_of(config), "epoch": -1, "best": 0, "best_epoch": 0}
    )


def recipe(weights: student.Weights, where: Path) -> ConfigDict:
    """The configuration that trains on from weights: theirs, from where they are, with their temperatures."""
    if weights.config is None:
        raise InputError(
            f"{where}: has no recipe; start from a file of configs/ and --config.init_from={where}"
        )
    config = copy.deepcopy(weights.config)
    config.init_from, config.model.name = str(where), preset_name(weights.clip) or "auto"
    for name, tau in weights.taus.items():
        _, term, *rest = name.split("_")
        section = config.loss[term]["teacher_tau" if "teacher" in rest else "tau"]
        for side in ("image", "text"):
            if term == "contrastive":
                section.init = float(tau)
            elif side in rest or not {"image", "text"} & set(rest):
                section[side].init = float(tau)
    return config


def _temperatures(config: ConfigDict) -> list[str]:
    """Our names of the temperatures that the reference makes: those of terms that are on."""
    return [name for name in specifications(config.loss) if config.loss[name.split("_")[1]].weight > 0]


def _plainest(clip: ClipConfig) -> ClipConfig:
    """The same sizes in the only way that the reference has."""
    return dataclasses.replace(clip, activation=ACTIVATION, vision_heads=0, text_heads=0)
