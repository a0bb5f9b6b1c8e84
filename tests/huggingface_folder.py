"""Folders in the layout of Hugging Face, with random weights, written from transformers' own Flax models."""

import functools

import numpy as np
import transformers
from flax import traverse_util
from safetensors.numpy import save_file

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {"vocab_size": 20, "max_position_embeddings": 14}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "a", "dog", "runs", "on", "the", "beach", "two", "dogs", "sleep"]


def make_folder(folder, model_class, config, prefix=""):
    """A folder as PyTorch would have saved it, and the Flax model with the same random parameters."""
    model = model_class(config, _do_init=False)
    rng = np.random.default_rng(0)
    params, tensors = {}, {}
    leaves = {"kernel": ".weight", "scale": ".weight", "embedding": ".weight", "bias": ".bias"}
    for path, leaf in traverse_util.flatten_dict(model.params_shape_tree).items():
        value = params[path] = rng.normal(path[-1] == "scale", 0.2, leaf.shape).astype(np.float32)
        if path[-1] == "kernel":
            value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
        name = ".".join(path[:-1]) + leaves[path[-1]] if path[-1] in leaves else ".".join(path)
        tensors[prefix + name] = np.ascontiguousarray(value)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string())
    return functools.partial(model, params=traverse_util.unflatten_dict(params))


def make_bert(folder):
    """The folder of a tiny BERT with a WordPiece vocabulary, and its Flax model."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    return make_folder(folder, transformers.FlaxBertModel, transformers.BertConfig(**SIZES, **WORDS))
