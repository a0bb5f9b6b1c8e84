"""BERT (Devlin et al., NAACL 2019) and RoBERTa (Liu et al. 2019), of which XLM-RoBERTa is a larger vocabulary.

They differ in where a text's positions begin. Follows transformers' Flax and PyTorch classes, with one token type and
attention in both directions, as text encoders use them.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.teachers.post_norm import Layer, check_sizes, embedding, layer_norm

TokenId = int
LayerCount = int

IGNORED_KEYS = {
    r"pooler\.dense\.(weight|bias)": "sentence embeddings are the mean over tokens, or the first token's state",
    r"embeddings\.(position_ids|token_type_ids)": "buffers",
    r"(cls|lm_head|classifier)\..*": "heads of pretraining and of classification",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes, under their names in a Hugging Face config.json. Raises InputError where they disagree."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: LayerCount
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    # BERT's first folders do not say it.
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 2
    pad_token_id: TokenId = 0
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"

    def __post_init__(self) -> None:
        check_sizes(self.hidden_size, self.num_attention_heads, self.hidden_act)
        if self.pad_token_id >= self.vocab_size:
            raise InputError(f"pad_token_id = {self.pad_token_id} is not one of the {self.vocab_size} tokens")
        if self.position_embedding_type != "absolute":
            raise InputError(
                f"position_embedding_type {self.position_embedding_type!r}: only 'absolute' is computed"
            )

    @property
    def before_first(self) -> int:
        """The position before that of the first token."""
        return -1

    @property
    def max_tokens(self) -> int:
        """The longest text."""
        return self.max_position_embeddings - self.before_first - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """As BERT's; positions begin after the padding's."""

    # Must be stated: the default of transformers (1e-12) is not that of the published weights (1e-5).
    layer_norm_eps: float = dataclasses.field()

    @property
    def before_first(self) -> int:
        return self.pad_token_id


class Bert(nn.Module):
    """input_ids, attention_mask int32 [B, L] -> token states float32 [B, L, hidden_size], not pooled.

    dtype: of the computation; parameters are float32.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        config, width = self.config, self.config.hidden_size
        counted = jnp.cumsum(attention_mask, axis=1) * attention_mask
        # Where padding stands has no meaning, as nobody sees it.
        positions = jnp.maximum(counted + config.before_first, 0)
        states = embedding(config.vocab_size, width, self.dtype, "words")(input_ids)
        states += embedding(config.max_position_embeddings, width, self.dtype, "positions")(positions)
        first_type = jnp.zeros((1, 1), jnp.int32)
        states += embedding(config.type_vocab_size, width, self.dtype, "token_types")(first_type)
        states = layer_norm(config, self.dtype, "embeddings_norm")(states)
        for number in range(config.num_hidden_layers):
            states = Layer(config, self.dtype, name=f"layer_{number}")(states, None, attention_mask)
        return states.astype(jnp.float32)


def key_table(config: BertConfig) -> dict[str, str]:
    """Our modules -> the modules of a Hugging Face BERT or RoBERTa checkpoint."""
    table = {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "embeddings_norm": "embeddings.LayerNorm",
    }
    layer = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }
    for number in range(config.num_hidden_layers):
        table |= {
            f"layer_{number}/{ours}": f"encoder.layer.{number}.{theirs}" for ours, theirs in layer.items()
        }
    return table
