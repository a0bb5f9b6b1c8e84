"""MPNet (Song et al., NeurIPS 2020), the encoder of all-mpnet-base-v2, CUSA's text teacher.

BERT with two differences: positions are counted over real tokens and start after the padding id, and every
layer adds the same learned bias of the relative position to its attention scores. `transformers` never had
a Flax version; this one follows its PyTorch MPNetModel (transformers 4.57, modeling_mpnet.py).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.teachers.post_norm import Layer, check_sizes, embedding, layer_norm

TokenId = int
LayerCount = int

# Positions further apart than this share one bucket.
MAX_DISTANCE = 128

IGNORED_KEYS = {
    r"pooler\.dense\.(weight|bias)": "sentence embeddings are the mean over tokens",
    r"embeddings\.position_ids": "a buffer of 0, 1, 2, ...",
    r"lm_head\..*": "the head of masked-language pretraining",
}


@dataclasses.dataclass(frozen=True)
class MPNetConfig:
    """Sizes, under their names in a Hugging Face config.json. Raises InputError where they disagree."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: LayerCount
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    relative_attention_num_buckets: int
    # Must be stated: the default of transformers (1e-12) is not that of the published weights (1e-5).
    layer_norm_eps: float
    pad_token_id: TokenId
    hidden_act: str = "gelu"

    def __post_init__(self):
        check_sizes(self.hidden_size, self.num_attention_heads, "gelu")
        if self.hidden_act != "gelu":
            raise InputError(f"hidden_act {self.hidden_act!r}: MPNet is defined with 'gelu'")

    @property
    def max_tokens(self) -> int:
        """The longest text: the first token has position pad_token_id + 1."""
        return self.max_position_embeddings - self.pad_token_id - 1


class MPNet(nn.Module):
    """input_ids, attention_mask int32 [B, L] -> token states float32 [B, L, hidden_size], not pooled.

    dtype: of the computation; parameters are float32.
    """

    config: MPNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        config = self.config
        width, heads, buckets = (
            config.hidden_size,
            config.num_attention_heads,
            config.relative_attention_num_buckets,
        )

        # Padding takes the position of the padding id; real tokens count on from there.
        positions = jnp.cumsum(attention_mask, axis=1) * attention_mask + config.pad_token_id
        states = embedding(config.vocab_size, width, self.dtype, "words")(input_ids)
        states += embedding(config.max_position_embeddings, width, self.dtype, "positions")(positions)
        states = layer_norm(config, self.dtype, "embeddings_norm")(states)

        offsets = relative_position_buckets(input_ids.shape[1], buckets)
        bias = embedding(buckets, heads, self.dtype, "relative_bias")(offsets)
        # [1, heads, L, L], shared by all layers.
        bias = bias.transpose(2, 0, 1)[None]
        for number in range(config.num_hidden_layers):
            states = Layer(config, self.dtype, name=f"layer_{number}")(states, bias, attention_mask)
        return states.astype(jnp.float32)


def relative_position_buckets(length: int, buckets: int) -> np.ndarray:
    """int32 [length, length]: the bucket of (query row, key column), as in T5's bidirectional attention.

    The first half of the buckets is for keys at or before the query, the second for keys after it. Within a
    half, the nearer buckets hold one distance each; the farther half grow geometrically to MAX_DISTANCE.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # float32, because distances at the edge of a bucket are rounded where the weights were trained.
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(
        np.log(MAX_DISTANCE / exact)
    )
    far = np.minimum(exact + (growth * (half - exact)).astype(np.int32), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, far).astype(np.int32)


def key_table(config: MPNetConfig) -> dict[str, str]:
    """Our modules -> the modules of a Hugging Face MPNet checkpoint."""
    table = {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embeddings_norm": "embeddings.LayerNorm",
        "relative_bias": "encoder.relative_attention_bias",
    }
    layer = {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_out": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }
    for number in range(config.num_hidden_layers):
        table |= {
            f"layer_{number}/{ours}": f"encoder.layer.{number}.{theirs}" for ours, theirs in layer.items()
        }
    return table
