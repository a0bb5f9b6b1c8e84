"""The reference's checkpoints, `checkpoint_best.pth` and `checkpoint_XX.pth` (reference retrieval.py:161-180).

{'model': state dict, 'config': its YAML, 'epoch', 'best', 'best_epoch'}; no optimiser.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa_jax import scalars
from cusa_jax.config import ConfigDict
from cusa_jax.errors import InputError
from cusa_jax.inputs import CLIP_MEAN, CLIP_STD
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.families import preset_name
from cusa_jax.weights import openai, reference, torch_file
from cusa_jax.weights.format import Format, Source
from cusa_jax.weights.hub import Weights

ACTIVATION = "quick_gelu"  # the only one it has (clip/model.py:166)
PREFIX = "clip_model."


def _recognises(source: Source) -> bool:
    value = source.pickled
    return isinstance(value, Mapping) and isinstance(value.get("config"), Mapping) and "model" in value


def _read(source: Source) -> Weights:
    """Weights, temperatures and recipe. Raises InputError listing what does not fit."""
    value, where = source.pickled, source.path
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
    sizes = openai.clip_sizes(tensors, ACTIVATION, where)
    return openai.from_tensors(sizes, tensors, where, taus, config)


def _write(path: Path, weights: Weights) -> None:
    """A checkpoint that torch.load(weights_only=True) and the reference's strict load_state_dict take.

    To the reference it is one before the first epoch: `--resume` trains on from these weights. Of sizes that OpenAI
    did not release, its YAML's `clip_model` is the .pt of the same name, to be written, too.
    Raises InputError for what the reference cannot be: without heads or recipe, with GELU or pixels of its own, or
    with other heads than the recipe's losses have.
    """
    if weights.config is None:
        raise InputError(
            f"{path}: a checkpoint of the reference has heads and a recipe, and these weights have none"
        )
    if _plainest(weights.sizes) != weights.sizes:
        raise InputError(
            f"{path}: the reference has {ACTIVATION}, one head per 64 channels and CLIP's pixels; these weights do not"
        )
    reference.refuse_other_terms(weights.config)
    config = reference.with_own_temperatures(weights.config)
    config.model.name, config.init_from = preset_name(weights.sizes) or "auto", str(path.with_suffix(".pt"))
    loss = config.loss
    wanted = (("cross",) if loss.contrastive.weight or loss.csa.weight else ()) + (
        ("uni",) if loss.usa.weight else ()
    )
    if weights.heads and weights.head_kind != "linear":
        raise InputError(
            f"{path}: the reference has linear heads, these weights {weights.head_kind} ones; a .safetensors keeps them"
        )
    if wanted != weights.heads:
        raise InputError(
            f"{path}: the recipe's losses have the heads {wanted}, these weights {weights.heads}"
        )
    model = openai.to_tensors(weights, weights.variables, PREFIX)
    specs = scalars.specifications(loss)
    for name in _temperatures(config):
        borrowed = weights.scalars.get(name.replace("usa", "csa"), np.float32(specs[name].init))
        model[reference.TEMPERATURE_NAMES[name]] = np.asarray(weights.scalars.get(name, borrowed), np.float32)
    torch_file.write(
        path, {"model": model, "config": reference.yaml_of(config), "epoch": -1, "best": 0, "best_epoch": 0}
    )


FORMAT = Format("the reference's checkpoint", "clip", _recognises, _read, ".pth", _write)


def recipe(weights: Weights, where: Path) -> ConfigDict:
    """The configuration that trains on from weights: theirs, from where they are, with their temperatures."""
    if weights.config is None:
        raise InputError(
            f"{where}: has no recipe; start from a file of configs/ and --config.init_from={where}"
        )
    config = copy.deepcopy(weights.config)
    config.init_from, config.model.name = str(where), preset_name(weights.sizes) or "auto"
    for name, value in weights.scalars.items():
        # Others, such as a bias, come along with `init_from`, as these do.
        if name in reference.TEMPERATURE_NAMES:
            _set_temperature(config, name, float(value))
    return config


def _set_temperature(config: ConfigDict, name: str, value: float) -> None:
    _, term, *rest = name.split("_")
    section = config.loss[term]["teacher_tau" if "teacher" in rest else "tau"]
    if term == "contrastive":
        section.init = value
        return
    for side in ("image", "text"):
        if side in rest or not {"image", "text"} & set(rest):
            section[side].init = value


def _temperatures(config: ConfigDict) -> list[str]:
    """Our names of the temperatures that the reference makes: those of terms that are on."""
    names = scalars.specifications(config.loss).keys() & reference.TEMPERATURE_NAMES.keys()
    return [
        name
        for name in reference.TEMPERATURE_NAMES
        if name in names and config.loss[name.split("_")[1]].weight > 0
    ]


def _plainest(sizes: ClipConfig) -> ClipConfig:
    """The same sizes in the only way that the reference has."""
    return dataclasses.replace(
        sizes, activation=ACTIVATION, vision_heads=0, text_heads=0, mean=CLIP_MEAN, std=CLIP_STD
    )
