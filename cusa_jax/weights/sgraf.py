"""The names that the authors of SGRAF give their tensors (github.com/Paranioar/SGRAF), and the file they are kept in.

`model_best.pth.tar` is {'epoch', 'model': [img_enc, txt_enc, sim_enc], 'best_rsum', 'opt': Namespace, 'Eiters'}, three
state dicts. A tensor's whole name here is its module's and its own: 'txt_enc.embed.weight'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.sgraf_sizes import SgrafSizes
from cusa_jax.types import Params
from cusa_jax.weights.torch_layout import from_torch, to_torch

ENCODERS = ("img_enc", "txt_enc", "sim_enc")  # in the order in which the file has them
IGNORED = {r".*\.num_batches_tracked": "counts the batches of a running mean, which momentum 0.1 does not use"}
OPTIONS = ("module_name", "img_dim", "embed_size", "sim_dim", "word_dim", "vocab_size", "sgr_step", "num_layers",
           "bi_gru", "no_imgnorm", "no_txtnorm")  # fmt: skip
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
        for ours, theirs in (("local", "embedding_local"), ("mean", "embedding_global"), ("weight", "embedding_common")):
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


def to_tensors(variables: Params, sizes: SgrafSizes) -> dict[str, np.ndarray]:
    """The authors' tensors of {'params': …, 'batch_stats': …}, uni-modal heads left out: they have none.

    Counters of batches are there, as a strict `load_state_dict` wants them, and are zero.
    """
    tensors = to_torch(_own(variables), _variables_table(sizes))
    counters = [name.replace("running_mean", "num_batches_tracked") for name in tensors if "running_mean" in name]
    return tensors | {name: np.zeros((), np.int64) for name in counters}


def from_tensors(
    tensors: Mapping[str, np.ndarray], sizes: SgrafSizes, template: Params, where: str | Path
) -> Params:
    """{'params': …, 'batch_stats': …} in float32, without uni-modal heads.

    template: the variables of a student of these sizes, as anything with shapes.
    Raises InputError listing all keys that do not fit.
    """
    return from_torch(tensors, _own(template), _variables_table(sizes), ignored=IGNORED, where=where)


def _own(variables: Params) -> Params:
    return {
        collection: {name: module for name, module in tree.items() if not name.startswith("uni_")}
        for collection, tree in variables.items()
    }


def _variables_table(sizes: SgrafSizes) -> dict[str, str]:
    return {f"{kind}/{ours}": name for kind in ("params", "batch_stats") for ours, name in key_table(sizes).items()}


def sizes_of(checkpoint: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str | Path) -> SgrafSizes:
    """The sizes that a checkpoint's options say, and its tensors where they say none; what neither says is as usual.

    Raises InputError where 'opt' is no mapping (of a Namespace's values), or says what no model has.
    """
    options = checkpoint.get("opt")
    if not isinstance(options, Mapping):
        raise InputError(f"{where}: not a checkpoint of SGRAF: there is no 'opt'")
    try:
        # The authors add the size of the vocabulary to their options only when they have read it.
        said = {"vocab_size": len(tensors["txt_enc.embed.weight"])} | {
            name: options[name] for name in OPTIONS if name in options
        }
        return dataclasses.replace(SgrafSizes(regions=len(tensors[_REGION_NORM])), **said)
    except KeyError as missing:
        raise InputError(f"{where}: not the weights of SGR or SAF: there is no {missing.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: 'opt' makes no model ({error})") from error


def tensors_of(checkpoint: Any, where: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by their whole names. Raises InputError for another layout."""
    model = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, list | tuple) or len(model) != len(ENCODERS):
        raise InputError(f"{where}: not a checkpoint of SGRAF: 'model' is not a list of three state dicts")
    if not all(isinstance(state, Mapping) for state in model):
        raise InputError(f"{where}: not a checkpoint of SGRAF: 'model' holds something else than state dicts")
    return {
        f"{encoder}.{name}": np.asarray(tensor)
        for encoder, state in zip(ENCODERS, model, strict=True)
        for name, tensor in state.items()
    }


def checkpoint_of(variables: Params, sizes: SgrafSizes, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' code loads: {'epoch', 'model', 'best_rsum', 'opt', 'Eiters'}, before a first epoch.

    options: further ones, such as 'data_name', by which their evaluation finds its vocabulary.
    """
    tensors = to_tensors(jax.device_get(variables), sizes)
    model = [
        {name.removeprefix(f"{encoder}."): x for name, x in tensors.items() if name.startswith(f"{encoder}.")}
        for encoder in ENCODERS
    ]
    said = {name: getattr(sizes, name) for name in OPTIONS}
    return {"epoch": 0, "model": model, "best_rsum": 0.0, "opt": {**said, **options}, "Eiters": 0}
