"""The pre-LN transformer that the towers of CLIP and SigLIP are made of (reference clip/model.py:154-202).

Parameters are float32; `dtype` is the compute dtype. Layer norms and the attention softmax work in float32 or
wider whatever `dtype` says.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # OpenAI's weights were trained with the first, most open_clip weights with the second.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    # The approximation by a tanh, SigLIP's.
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def torch_linear_bias(inputs: int) -> nn.initializers.Initializer:
    """torch.nn.Linear's default bias for a layer of so many inputs: U(-1/sqrt(inputs), 1/sqrt(inputs))."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return init


class LayerNorm(nn.LayerNorm):
    """torch's layer norm: eps 1e-5, and the two-pass variance (the fast one cancels for near-constant rows)."""

    epsilon: float = 1e-5
    use_fast_variance: bool = False


class PatchEmbedding(nn.Module):
    """Pixels [B, H, W, 3] -> [B, patches, width], row by row: a convolution with stride = kernel.

    Rows and columns of pixels that no whole patch covers are left out. Written as one matmul, whose gradient is far
    cheaper on CPU than the convolution's.
    """

    patch_size: int
    width: int
    dtype: jnp.dtype
    bias: bool = False

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        p, grid = self.patch_size, pixels.shape[1] // self.patch_size
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (p, p, 3, self.width)).astype(self.dtype)
        covered = pixels[:, : grid * p, : grid * p].astype(self.dtype)
        patches = covered.reshape(-1, grid, p, grid, p, 3).swapaxes(2, 3)
        x = patches.reshape(-1, grid * grid, p * p * 3) @ kernel.reshape(p * p * 3, self.width)
        if self.bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return x


class Attention(nn.Module):
    """Multi-head self-attention over x [B, L, W] with one fused projection to queries, keys and values."""

    heads: int
    causal: bool
    out_std: float
    dtype: jnp.dtype
    attention: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        in_init = nn.initializers.normal(width**-0.5)
        qkv = nn.Dense(3 * width, kernel_init=in_init, dtype=self.dtype, name="in_proj")(x)
        query, key, value = jnp.split(qkv.reshape(batch, length, 3 * self.heads, -1), 3, axis=2)
        mixed = ATTENTION[self.attention](query, key, value, self.causal)
        out_init = nn.initializers.normal(self.out_std)
        return nn.Dense(width, kernel_init=out_init, dtype=self.dtype, name="out_proj")(
            mixed.reshape(batch, length, width)
        )


def attend(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """softmax(q kᵀ / √w) v over [B, L, heads, w]. jax.nn's has its softmax in float32 even for float64 inputs."""
    logits_dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bqhw,bkhw->bhqk", query, key, preferred_element_type=logits_dtype)
    logits = logits * query.shape[-1] ** -0.5
    if causal:
        logits = jnp.where(jnp.tri(query.shape[1], dtype=bool), logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhw->bqhw", weights, value)


def attend_fused(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    causal: bool,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> jax.Array:
    """`attend` in one kernel of cuDNN, which never writes its L×L weights; bfloat16 on NVIDIA GPUs only.

    jax.nn takes only even lengths in training: an odd one, as that of ViT-L/14, gets one more token that nobody sees.
    """
    batch, length = query.shape[:2]
    seen = None
    if length % 2:
        query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        seen = jnp.full(batch, length, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        query_seq_lengths=seen,
        key_value_seq_lengths=seen,
        implementation=implementation,
    )
    return mixed[:, :length]


ATTENTION: dict[str, Callable[..., jax.Array]] = {"xla": attend, "cudnn": attend_fused}


@jax.custom_vjp
def gradient_in_memory(x: jax.Array) -> jax.Array:
    """x, whose gradient is written to memory before it is used.

    A residual stream's gradient is a sum over all later layers. XLA for CPUs fuses it into each of its uses and adds
    the whole sum again there, so that a backward pass would cost the square of the depth. Elsewhere the gradient lies
    in memory anyway, as an operand of matrix products: compiled for a TPU or an H200, the step moves about 1 % more.
    """
    return x


gradient_in_memory.defvjp(lambda x: (x, None), lambda _, gradient: (jax.lax.optimization_barrier(gradient),))


def feed_forward(
    x: jax.Array, mlp_width: int, activation: str, out_std: float, dtype: jnp.dtype
) -> jax.Array:
    """An MLP over x [..., W], of the layers `fc` and `proj` of the module that calls it. mlp_width: 0 for 4 W."""
    width = x.shape[-1]
    fc_init = nn.initializers.normal((2 * width) ** -0.5)
    hidden = nn.Dense(mlp_width or 4 * width, kernel_init=fc_init, dtype=dtype, name="fc")(x)
    hidden = ACTIVATIONS[activation](hidden)
    proj_init = nn.initializers.normal(out_std)
    return nn.Dense(width, kernel_init=proj_init, dtype=dtype, name="proj")(hidden)


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x)."""

    heads: int
    causal: bool
    activation: str
    out_std: float
    dtype: jnp.dtype
    attention: str
    mlp_width: int = 0
    epsilon: float = LayerNorm.epsilon

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = gradient_in_memory(x)
        normed = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln_1")(x)
        attention = Attention(self.heads, self.causal, self.out_std, self.dtype, self.attention, name="attn")
        x = x + attention(normed)
        x = gradient_in_memory(x)
        normed = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln_2")(x)
        return x + feed_forward(normed, self.mlp_width, self.activation, self.out_std, self.dtype)


class Transformer(nn.Module):
    """`layers` blocks over x [B, L, W]; `remat` recomputes each block's activations in the backward pass.

    mlp_width: of the hidden layer of the MLPs; 0 for 4 W. epsilon: of the layer norms.
    Fresh weights follow CLIP's text tower (reference clip/model.py:300-313), in every other tower too.
    """

    layers: int
    heads: int
    causal: bool
    activation: str
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"
    mlp_width: int = 0
    epsilon: float = LayerNorm.epsilon

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = nn.remat(Block) if self.remat else Block
        out_std = (x.shape[-1] * 2 * self.layers) ** -0.5
        sizes = self.heads, self.causal, self.activation, out_std, self.dtype, self.attention
        for n in range(self.layers):
            x = block(*sizes, self.mlp_width, self.epsilon, name=f"block_{n}")(x)
        return x
