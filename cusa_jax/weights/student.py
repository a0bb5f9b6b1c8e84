"""What every format is read to and written from: a dual encoder's weights under the reference's names."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from cusa_jax.config import ConfigDict
from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.dual_encoder import DualEncoder, init_variables
from cusa_jax.types import Params
from cusa_jax.weights import openai
from cusa_jax.weights.torch_layout import check, from_torch, to_torch

# Our modules -> the reference's (unire/model.py:40-51).
HEADS = {
    kind: {
        f"{kind}_{side}/{ours}": theirs
        for side in ("image", "text")
        for ours, theirs in (("ln", f"ln_{kind}_{side}_projection"), ("linear", f"{kind}_{side}_projection"))
    }
    for kind in ("cross", "uni")
}
DEEPEST = 200  # layers; a hostile file may claim a billion


@dataclasses.dataclass(frozen=True)
class Weights:
    """A CLIP, with or without CUSA's heads and temperatures.

    tensors: float32; OpenAI's names for the towers, the reference's for the heads, torch layouts.
    heads: the pairs that there are, of 'cross' and 'uni'.
    taus: {our name: float32 []}; the recipe's start values where the file has none.
    config: the recipe that they were trained with, where the file has it.
    """

    clip: ClipConfig
    tensors: Mapping[str, np.ndarray]
    heads: tuple[str, ...] = ()
    taus: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    config: ConfigDict | None = None


def collect(
    clip: ClipConfig,
    tensors: Mapping[str, np.ndarray],
    where: str | Path,
    taus: Mapping[str, np.ndarray] | None = None,
    config: ConfigDict | None = None,
) -> Weights:
    """Weights of named tensors of any float dtype.

    Raises InputError that lists at once every missing, unexpected and unfit key.
    """
    heads = tuple(
        kind for kind, table in HEADS.items() if any(f"{name}.weight" in tensors for name in table.values())
    )
    check(tensors, _template(clip, heads), _table(clip, heads), ignored=openai.IGNORED, where=where)
    floats = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items() if _kept(name)}
    return Weights(clip, floats, heads, taus or {}, config)


def variables(weights: Weights, heads: Sequence[str], where: str | Path) -> Params:
    """The towers' variables, and those of the heads wanted that there are, as a DualEncoder names them."""
    heads = tuple(kind for kind in weights.heads if kind in heads)
    unwanted = {rf"(ln_)?{kind}_.*": "heads that the losses do not use" for kind in set(HEADS) - set(heads)}
    table, template = _table(weights.clip, heads), _template(weights.clip, heads)
    return from_torch(weights.tensors, template, table, ignored=openai.IGNORED | unwanted, where=where)


def from_variables(
    clip: ClipConfig, variables: Params, taus: Mapping[str, np.ndarray], config: ConfigDict | None
) -> Weights:
    """The opposite of `variables`; nothing is copied."""
    heads = tuple(kind for kind in HEADS if f"{kind}_image" in variables["params"])
    return Weights(clip, to_torch(variables, _table(clip, heads)), heads, taus, config)


def towers(weights: Weights) -> dict[str, np.ndarray]:
    """The CLIP without the heads, with a `logit_scale`, which its users expect.

    It is the file's own, or else the trained contrastive temperature's, or else the value CLIP starts with.
    """
    heads = {
        f"{name}.{leaf}" for table in HEADS.values() for name in table.values() for leaf in ("weight", "bias")
    }
    scale = -np.log(weights.taus.get("tau_contrastive", np.float32(0.07)))
    tensors = {name: tensor for name, tensor in weights.tensors.items() if name not in heads}
    return {"logit_scale": np.asarray(scale, np.float32)} | tensors


def with_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With BatchNorm's `num_batches_tracked`, which PyTorch's strict loading asks for and CLIP's ResNets do not use."""
    means = [name for name in tensors if name.endswith(".running_mean")]
    return dict(tensors) | {
        f"{name.removesuffix('running_mean')}num_batches_tracked": np.asarray(0, np.int64) for name in means
    }


def _kept(name: str) -> bool:
    return name == "logit_scale" or not openai.is_ignored(name)


def _table(clip: ClipConfig, heads: tuple[str, ...]) -> dict[str, str]:
    ours_to_theirs = (item for kind in heads for item in HEADS[kind].items())
    return openai.variables_table(clip) | {f"params/{ours}": theirs for ours, theirs in ours_to_theirs}


@functools.lru_cache(maxsize=4)
def _template(clip: ClipConfig, heads: tuple[str, ...]) -> Params:
    layers = (clip.vision_layers, *clip.resnet_blocks, clip.text_layers)
    if max(layers) > DEEPEST:
        raise InputError(f"{layers} layers: no CLIP has so many")
    try:
        model = DualEncoder(clip, "cross" in heads, "uni" in heads)
        return jax.eval_shape(functools.partial(init_variables, model), jax.random.key(0))
    except (TypeError, ZeroDivisionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"sizes that make no CLIP: {clip} ({reason})") from error
