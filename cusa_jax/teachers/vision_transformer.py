"""Vision transformers as image teachers: ViT (Dosovitskiy et al., ICLR 2021), DINOv2 (Oquab et al. 2024) and CLIP's.

All are pre-LN with a class token, whose state after the last LayerNorm is the image's feature. They differ in the
names of their tensors and in what a config.json says; DINOv2 also scales what a layer adds, and interpolates its
positions to the size of the pictures. Follows transformers' Flax and PyTorch classes.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.models.layers import ACTIVATIONS, LayerNorm, PatchEmbedding, attend
from cusa_jax.teachers.post_norm import HIDDEN_ACTS, check_sizes

LayerCount = int

IGNORED_KEYS = {
    r"pooler\..*": "the feature is the class token's state, not what a head makes of it",
    r"embeddings\.(position_ids|mask_token)": "a buffer, and the token of masked pretraining",
    r"(classifier|text_model|visual_projection|text_projection)\..*|logit_scale": "the rest of a larger model",
}
_LAYER = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "attention_out": "attention.output.dense",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes, under their names in a Hugging Face config.json. Raises InputError where they disagree."""

    # What the tensors are called: ours -> theirs, and those of a layer below `layers`.
    names: ClassVar[dict[str, str]]
    layers: ClassVar[str]
    layer_names: ClassVar[dict[str, str]]
    # Of the class token's and the positions' tensors, before what they hold.
    class_axes: ClassVar[int] = 2
    position_axes: ClassVar[int] = 1
    any_image_size: ClassVar[bool] = False
    normed_first: ClassVar[bool] = False
    scaled_layers: ClassVar[bool] = False

    hidden_size: int
    num_hidden_layers: LayerCount
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        check_sizes(self.hidden_size, self.num_attention_heads, self.hidden_act)
        if self.patch_size > self.image_size:
            raise InputError(f"no patch of {self.patch_size} pixels fits images of {self.image_size}")

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def mlp_width(self) -> int:
        raise NotImplementedError

    @property
    def gated(self) -> bool:
        """Whether the MLPs are SwiGLU's."""
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(VisionConfig):
    names: ClassVar = {
        "class_token": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "patches": "embeddings.patch_embeddings.projection",
        "last_norm": "layernorm",
    }
    layers = "encoder.layer"
    layer_names: ClassVar = _LAYER | {
        "norm_1": "layernorm_before",
        "norm_2": "layernorm_after",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
    }

    intermediate_size: int

    @property
    def mlp_width(self) -> int:
        return self.intermediate_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dinov2Config(VisionConfig):
    names = ViTConfig.names
    layers = ViTConfig.layers
    any_image_size = True
    scaled_layers = True

    mlp_ratio: float = 4.0
    use_swiglu_ffn: bool = False

    @property
    def layer_names(self) -> dict[str, str]:  # type: ignore[override]
        mlp = ("mlp.weights_in", "mlp.weights_out") if self.use_swiglu_ffn else ("mlp.fc1", "mlp.fc2")
        return _LAYER | {
            "norm_1": "norm1",
            "norm_2": "norm2",
            "scale_1": "layer_scale1.lambda1",
            "scale_2": "layer_scale2.lambda1",
            "mlp_in": mlp[0],
            "mlp_out": mlp[1],
        }

    @property
    def gated(self) -> bool:
        return self.use_swiglu_ffn

    @property
    def mlp_width(self) -> int:
        width = int(self.hidden_size * self.mlp_ratio)
        # Two thirds, because a gated MLP has three matrices; a multiple of 8.
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig(VisionConfig):
    """Defaults are those of transformers, which does not write them where they stand in a larger model's config."""

    names: ClassVar = {
        "class_token": "embeddings.class_embedding",
        "positions": "embeddings.position_embedding.weight",
        "patches": "embeddings.patch_embedding",
        "first_norm": "pre_layrnorm",
        "last_norm": "post_layernorm",
    }
    layers = "encoder.layers"
    layer_names: ClassVar = {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj",
        "norm_1": "layer_norm1",
        "norm_2": "layer_norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    class_axes = 0
    position_axes = 0
    normed_first = True

    hidden_size: int = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    @property
    def mlp_width(self) -> int:
        return self.intermediate_size


class VisionTransformer(nn.Module):
    """Normalised pixels [B, image_size, image_size, 3] -> the class token's feature float32 [B, D], normed last.

    patches: returns the states of the patches instead, [B, patches, D] row by row, as the last layer leaves them
    (CLIP) or normed (the others), as transformers' `last_hidden_state` has them.
    dtype: of the computation; parameters are float32.
    """

    config: VisionConfig
    dtype: jnp.dtype = jnp.float32
    patches: bool = False

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c, width = self.config, self.config.hidden_size
        init = nn.initializers.normal(0.02)
        # CLIP normalises first, so that its patches need no bias.
        x = PatchEmbedding(c.patch_size, width, self.dtype, bias=not c.normed_first, name="patches")(pixels)
        class_token = self.param("class_token", init, (1,) * c.class_axes + (width,))
        positions = self.param("positions", init, (1,) * c.position_axes + (c.grid**2 + 1, width))
        first = jnp.broadcast_to(class_token.reshape(width), (len(x), 1, width))
        x = (jnp.concatenate([first, x], axis=1) + positions.reshape(-1, width)).astype(self.dtype)
        if c.normed_first:
            x = self._norm("first_norm")(x)
        for number in range(c.num_hidden_layers):
            x = Layer(c, self.dtype, name=f"layer_{number}")(x)
        if not self.patches:
            x = self._norm("last_norm")(x[:, 0])
        elif c.normed_first:
            x = x[:, 1:]
        else:
            x = self._norm("last_norm")(x)[:, 1:]
        return x.astype(jnp.float32)

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype, name=name)


class Layer(nn.Module):
    """x [B, L, D] + attention(LN x), then + MLP(LN x); each scaled by a learned vector in DINOv2."""

    config: VisionConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        batch, length, width = x.shape

        def dense(features: int, name: str, bias: bool = True) -> nn.Dense:
            return nn.Dense(features, use_bias=bias, dtype=self.dtype, name=name)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(epsilon=c.layer_norm_eps, dtype=self.dtype, name=name)

        def scaled(name: str, added: jax.Array) -> jax.Array:
            if not c.scaled_layers:
                return added
            return added * self.param(name, nn.initializers.ones, (width,)).astype(self.dtype)

        normed = norm("norm_1")(x)
        query, key, value = (
            dense(width, name, c.qkv_bias)(normed).reshape(batch, length, c.num_attention_heads, -1)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, causal=False).reshape(batch, length, width)
        x = x + scaled("scale_1", dense(width, "attention_out")(attended))

        hidden = dense(c.mlp_width * (2 if c.gated else 1), "mlp_in")(norm("norm_2")(x))
        if c.gated:
            gate, hidden = jnp.split(hidden, 2, axis=-1)
            hidden = jax.nn.silu(gate) * hidden
        else:
            hidden = ACTIVATIONS[HIDDEN_ACTS[c.hidden_act]](hidden)
        return x + scaled("scale_2", dense(width, "mlp_out")(hidden))


def key_table(config: VisionConfig) -> dict[str, str]:
    """Our modules and lone parameters -> those of the model's Hugging Face checkpoint."""
    table = dict(config.names)
    for number in range(config.num_hidden_layers):
        table |= {
            f"layer_{number}/{ours}": f"{config.layers}.{number}.{theirs}"
            for ours, theirs in config.layer_names.items()
        }
    return table
