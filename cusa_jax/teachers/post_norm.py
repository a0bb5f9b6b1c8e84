"""The post-LN transformer layer that BERT, RoBERTa and MPNet are made of (Vaswani et al. 2017; Devlin et al. 2019)."""

from __future__ import annotations

from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.models.layers import ACTIVATIONS

# Names that Hugging Face's config.json has for the activations of models/layers.py.
HIDDEN_ACTS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


class Sizes(Protocol):
    """What a layer needs of a model's sizes."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def hidden_act(self) -> str: ...


class Layer(nn.Module):
    """states [B, L, D] -> [B, L, D]; every token attends to the tokens whose mask [B, L] is 1.

    bias: [1, heads, L, L], added to the attention scores, or None.
    """

    config: Sizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, states: jax.Array, bias: jax.Array | None, mask: jax.Array) -> jax.Array:
        config = self.config
        batch, length, width = states.shape

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name=name)

        query, key, value = (
            dense(width, name)(states).reshape(batch, length, config.num_attention_heads, -1)
            for name in ("query", "key", "value")
        )
        seen = jnp.asarray(mask[:, None, None, :], bool)
        attended = jax.nn.dot_product_attention(query, key, value, bias=bias, mask=seen)
        attended = dense(width, "attention_out")(attended.reshape(batch, length, width))
        states = layer_norm(config, self.dtype, "attention_norm")(states + attended)

        activation = ACTIVATIONS[HIDDEN_ACTS[config.hidden_act]]
        hidden = activation(dense(config.intermediate_size, "mlp_in")(states))
        return layer_norm(config, self.dtype, "mlp_norm")(states + dense(width, "mlp_out")(hidden))


def layer_norm(config: Sizes, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(config.layer_norm_eps, dtype=dtype, use_fast_variance=False, name=name)


def embedding(size: int, features: int, dtype: jnp.dtype, name: str) -> nn.Embed:
    return nn.Embed(size, features, embedding_init=nn.initializers.normal(0.02), dtype=dtype, name=name)


def check_sizes(hidden_size: int, heads: int, hidden_act: str) -> None:
    """Raises InputError for a width that the heads do not share evenly, and for an activation that is not known."""
    if hidden_size % heads:
        raise InputError(f"hidden_size {hidden_size} does not divide into {heads} heads")
    if hidden_act not in HIDDEN_ACTS:
        raise InputError(f"hidden_act {hidden_act!r} is none of {', '.join(HIDDEN_ACTS)}")
