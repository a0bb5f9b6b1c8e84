"""CLIP's ResNet tower: a stem of three convolutions, anti-aliased bottlenecks, attention pooling.

"Modified" against the usual ResNet in three ways (CLIP paper, section 2.4; reference clip/model.py:10-151): strides
are average pools before a convolution of stride 1, the stem is three 3 x 3 convolutions, and the last pooling is
attention whose query is the mean of the image. Arrays are [B, H, W, C].

Batch norms keep running statistics in the linen collection 'batch_stats': used in evaluation, updated in training.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.clip_sizes import ClipConfig, check_pixels
from cusa_jax.models.layers import attend, torch_linear_bias

EXPANSION = 4  # output channels of a bottleneck over its inner channels
_torch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class BatchNorm(nn.Module):
    """torch.nn.BatchNorm1d or 2d over x [B, …, C]: eps 1e-5, momentum 0.1.

    In training x is normalised by its own mean and biased variance, over all B rows of the global batch, and the
    running statistics move a tenth of the way to the mean and the *unbiased* variance (linen's own BatchNorm keeps
    the biased one). Statistics are float32 or wider, whatever the compute dtype.
    """

    train: bool
    dtype: jnp.dtype
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1:]
        scale_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param("scale", scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.train:
            over = tuple(range(x.ndim - 1))
            mean, var = x.mean(axis=over), x.var(axis=over)
            count = x.size // x.shape[-1]
            running_mean.value = 0.9 * running_mean.value + 0.1 * mean
            running_var.value = 0.9 * running_var.value + 0.1 * var * count / (count - 1)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias).astype(self.dtype)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions around a shortcut: [B, H, W, C] -> [B, H/stride, W/stride, 4 width]."""

    width: int
    stride: int
    train: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = nn.relu(self._norm("bn1")(self._conv(self.width, 1, "conv1")(x)))
        out = nn.relu(self._norm("bn2")(self._conv(self.width, 3, "conv2")(out)))
        out = self._pool(out)
        # Fresh blocks start as their shortcut (reference clip/model.py:308-311).
        out = self._norm("bn3", zero_scale=True)(self._conv(EXPANSION * self.width, 1, "conv3")(out))
        if self.stride > 1 or x.shape[-1] != EXPANSION * self.width:
            x = self._conv(EXPANSION * self.width, 1, "downsample_conv")(self._pool(x))
            x = self._norm("downsample_bn")(x)
        return nn.relu(x + out)

    def _conv(self, channels: int, size: int, name: str) -> nn.Conv:
        return conv(channels, size, self.dtype, name)

    def _norm(self, name: str, zero_scale: bool = False) -> BatchNorm:
        return BatchNorm(self.train, self.dtype, zero_scale, name=name)

    def _pool(self, x: jax.Array) -> jax.Array:
        window = (self.stride, self.stride)
        return nn.avg_pool(x, window, window) if self.stride > 1 else x


class AttentionPool(nn.Module):
    """Features [B, h, w, C] -> [B, E]: the mean attends to itself and to every place."""

    heads: int
    out_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, channels = x.shape[0], x.shape[-1]
        init = nn.initializers.normal(channels**-0.5)
        x = x.reshape(batch, -1, channels)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + self.param("position_embedding", init, x.shape[1:]).astype(x.dtype)

        def project(x: jax.Array, features: int, name: str) -> jax.Array:
            dense = nn.Dense(
                features, kernel_init=init, bias_init=torch_linear_bias(channels), dtype=self.dtype, name=name
            )
            return dense(x)

        query, key, value = (
            project(tokens, channels, name).reshape(batch, tokens.shape[1], self.heads, -1)
            for tokens, name in ((x[:, :1], "q_proj"), (x, "k_proj"), (x, "v_proj"))
        )
        mixed = attend(query, key, value, causal=False)
        return project(mixed.reshape(batch, channels), self.out_features, "c_proj")


class ModifiedResNet(nn.Module):
    """Normalised pixels [B, H, W, 3] -> features [B, E]. `train` updates 'batch_stats', which must be mutable."""

    config: ClipConfig
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: jax.Array, train: bool = False) -> jax.Array:
        c = self.config
        check_pixels(pixels, c.image_size)
        x = pixels.astype(self.dtype)
        for n, (channels, stride) in enumerate(
            ((c.vision_width // 2, 2), (c.vision_width // 2, 1), (c.vision_width, 1)), start=1
        ):
            x = conv(channels, 3, self.dtype, f"conv{n}", stride)(x)
            x = nn.relu(BatchNorm(train, self.dtype, name=f"bn{n}")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        for stage, blocks in enumerate(c.resnet_blocks):
            for n in range(blocks):
                stride = 2 if stage > 0 and n == 0 else 1
                width = c.vision_width * 2**stage
                x = block(width, stride, train, self.dtype, name=f"layer{stage + 1}_{n}")(x)
        return AttentionPool(c.vision_heads, c.embed_dim, self.dtype, name="attnpool")(x)


def conv(channels: int, size: int, dtype: jnp.dtype, name: str, stride: int = 1) -> nn.Conv:
    """torch's Conv2d without bias: padding keeps the size (halves it at stride 2), default initialisation."""
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=_torch_conv_init,
        dtype=dtype,
        name=name,
    )
