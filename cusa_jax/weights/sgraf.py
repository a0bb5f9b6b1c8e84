"""The names that the authors of SGRAF give their tensors (github.com/Paranioar/SGRAF), and the file they are kept in.

`model_best.pth.tar` is {'epoch', 'model': [img_enc, txt_enc, sim_enc], 'best_rsum', 'opt': Namespace, 'Eiters'}, three
state dicts. A tensor's whole name here is its module's and its own: 'txt_enc.embed.weight'.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.families import make_sizes
from cusa_jax.models.sgraf_sizes import SgrafSizes
from cusa_jax.types import Params
from cusa_jax.weights import torch_file
from cusa_jax.weights.format import Format, Source
from cusa_jax.weights.hub import Weights, template
from cusa_jax.weights.torch_layout import from_torch, to_torch

ENCODERS = ("img_enc", "txt_enc", "sim_enc")  # in the order in which the file has them
IGNORED = {
    r".*\.num_batches_tracked": "counts the batches of a running mean, which momentum 0.1 does not use"
}
OPTIONS = ("module_name", "img_dim", "embed_size", "sim_dim", "word_dim", "vocab_size", "sgr_step", "num_layers",
           "bi_gru", "no_imgnorm", "no_txtnorm")  # fmt: skip
# What else their code looks for: how it would be trained on.
TRAINING = {"grad_clip": 2.0, "margin": 0.2, "max_violation": True, "learning_rate": 0.0002, "batch_size": 128,
            "workers": 10}  # fmt: skip
_EMBEDDING = "txt_enc.embed.weight"
_REGION_NORM = "sim_enc.v_global_w.embedding_local.1.weight"


def key_table(sizes: SgrafSizes) -> dict[str, str]:
    """Our modules -> the authors', of parameters and of running statistics alike."""
    table = {
        "image/regions/fc": "img_enc.fc",
        "text/words/embedding": "txt_enc.embed.weight",
        **{f"similarity/{ours}": f"sim_enc.{name}" for ours, name in _similarity(sizes).items()},
        "image/attention/local_norm": "sim_enc.v_global_w.embedding_local.1",
        "image/attention/mean_norm": "sim_enc.v_global_w.embedding_global.1",
    }
    for side, name in (("image", "v_global_w"), ("text", "t_global_w")):
        for ours, theirs in (
            ("local", "embedding_local"),
            ("mean", "embedding_global"),
            ("weight", "embedding_common"),
        ):
            table[f"{side}/attention/{ours}"] = f"sim_enc.{name}.{theirs}.0"
    for layer in range(sizes.num_layers):
        for suffix in ("", "_reverse") if sizes.bi_gru else ("",):
            for part, letters in (("input", "ih"), ("hidden", "hh")):
                ours = f"text/words/gru/layer_{layer}{suffix}/{part}"
                for leaf, name in (("kernel", "weight"), ("bias", "bias")):
                    table[f"{ours}/{leaf}"] = f"txt_enc.cap_rnn.{name}_{letters}_l{layer}{suffix}"
    return table


def _similarity(sizes: SgrafSizes) -> dict[str, str]:
    table = {"local": "sim_tranloc_w", "whole": "sim_tranglo_w", "score": "sim_eval_w"}
    if sizes.module_name == "SAF":
        return table | {"filtration/weight": "SAF_module.attn_sim_w", "filtration/norm": "SAF_module.bn"}
    parts = {"query": "graph_query_w", "key": "graph_key_w", "out": "sim_graph_w"}
    return table | {
        f"step_{n}/{ours}": f"SGR_module.{n}.{name}"
        for n in range(sizes.sgr_step)
        for ours, name in parts.items()
    }


def _recognises(source: Source) -> bool:
    value = source.pickled
    return isinstance(value, Mapping) and isinstance(value.get("model"), list) and "opt" in value


def _read(source: Source) -> Weights:
    """SGR or SAF, as its options say. Which words its ids are is not in the file."""
    where = source.path
    tensors = tensors_of(source.pickled, where)
    sizes = sizes_of(source.pickled["opt"], tensors, where)
    shapes = template("sgraf", sizes, (), where)
    return Weights("sgraf", sizes, from_tensors(tensors, sizes, shapes, where))


def _write(path: Path, weights: Weights) -> None:
    """A checkpoint that the authors' code evaluates, without the uni-modal heads; to it, one before the first epoch.

    Its options are the model's; of the vocabulary and the data it is to be told by the options that name them.
    """
    tensors = to_tensors(jax.device_get(weights.variables), weights.sizes)
    model = [
        {name.removeprefix(f"{encoder}."): x for name, x in tensors.items() if name.startswith(f"{encoder}.")}
        for encoder in ENCODERS
    ]
    options = {name: getattr(weights.sizes, name) for name in OPTIONS} | TRAINING
    torch_file.write(
        path,
        {"epoch": 0, "model": model, "best_rsum": 0.0, "opt": torch_file.Namespace(options), "Eiters": 0},
    )


FORMAT = Format("a checkpoint of SGRAF", "sgraf", _recognises, _read, ".tar", _write)


def to_tensors(variables: Params, sizes: SgrafSizes) -> dict[str, np.ndarray]:
    """The authors' tensors of {'params': …, 'batch_stats': …}, by their whole names, uni-modal heads left out.

    Counters of batches are there, as a strict `load_state_dict` wants them, and are zero.
    """
    tensors = to_torch(_own(variables), _variables_table(sizes))
    counters = [
        name.replace("running_mean", "num_batches_tracked") for name in tensors if "running_mean" in name
    ]
    return tensors | {name: np.zeros((), np.int64) for name in counters}


def from_tensors(
    tensors: Mapping[str, np.ndarray], sizes: SgrafSizes, shapes: Params, where: str | Path
) -> Params:
    """{'params': …, 'batch_stats': …} in float32, without uni-modal heads.

    shapes: the variables of a student of these sizes, as anything with shapes.
    Raises InputError that counts the keys that do not fit, and lists some.
    """
    return from_torch(
        tensors, _own(shapes), _variables_table(sizes), ignored=IGNORED, where=where, model="SGR or SAF"
    )


def tensors_of(checkpoint: Any, where: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by their whole names. Raises InputError for another layout."""
    model = checkpoint["model"]
    if len(model) != len(ENCODERS) or not all(isinstance(state, Mapping) for state in model):
        raise InputError(f"{where}: not a checkpoint of SGRAF: 'model' is no list of three state dicts")
    return torch_file.flatten(dict(zip(ENCODERS, model, strict=True)))


def sizes_of(options: Any, tensors: Mapping[str, np.ndarray], where: str | Path) -> SgrafSizes:
    """The sizes that a checkpoint's options say, and its tensors where those do not.

    Raises InputError where 'opt' is no Namespace, or says what no model has.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"{where}: not a checkpoint of SGRAF: 'opt' is no Namespace")
    said = {name: options[name] for name in OPTIONS if name in options}
    try:
        # Options are saved as they were parsed, before the vocabulary is read; regions are always 36 to the authors.
        said["vocab_size"], said["regions"] = len(tensors[_EMBEDDING]), len(tensors[_REGION_NORM])
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: not the weights of SGR or SAF: there is no {error.args[0]}") from None
    return make_sizes("sgraf", said, where)


def _own(variables: Params) -> Params:
    return {
        collection: {name: module for name, module in tree.items() if not name.startswith("uni_")}
        for collection, tree in variables.items()
    }


def _variables_table(sizes: SgrafSizes) -> dict[str, str]:
    return {
        f"{kind}/{ours}": name
        for kind in ("params", "batch_stats")
        for ours, name in key_table(sizes).items()
    }
